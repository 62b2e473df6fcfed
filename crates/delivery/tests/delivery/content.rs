//! What goes over the wire: dots, line ends, sizes, 8-bit and international mail.

use mail_types::{BodyType, EnvId, Mailbox, Notify, OriginalRecipient, Ret, ReversePath};
use queue::Forward;

use delivery::RouteConfig;

use crate::peer::{Peer, Script, say};
use crate::world::{CONTENT, World, change, job, route_to};

#[tokio::test]
async fn nothing_is_smuggled_out() {
    let evil = b"Subject: x\r\n\r\na\n.\nb\r.\rc\n.\r\n\
        MAIL FROM:<evil@x>\r\n.\nd\r\n..\r\n.e";
    let peer = Peer::start(Script::default()).await;
    let world = World::to(&peer);
    world.deliver(job(&["a@there.example"]), evil).await;
    let messages = peer.messages();
    assert_eq!(messages.len(), 1);
    let content = String::from_utf8(messages[0].content.clone()).unwrap();
    assert_eq!(
        content,
        "Subject: x\r\n\r\na\r\n..\r\nb\r\n..\r\nc\r\n..\r\nMAIL FROM:<evil@x>\r\n..\r\n\
         d\r\n...\r\n..e\r\n"
    );
    let mails = peer.commands().iter().filter(|line| line.starts_with("MAIL")).count();
    assert_eq!(mails, 1);
    assert!(world.metric("delivery_line_breaks_mended_total") > 0.0);
}

#[tokio::test]
async fn all_at_once_a_dot_is_a_dot_rfc3030() {
    let evil = b"Subject: x\r\n\r\na\n.\nb\r.\r\n.\r\nMAIL FROM:<evil@x>\r\n.e";
    let peer = Peer::start(Script::default().chunking()).await;
    let world = World::to(&peer);
    let (summary, _) = world.deliver(job(&["a@there.example", "bad@there.example"]), evil).await;
    assert_eq!(summary.recipients, ["delivered 250 2.0.0", "bounced 550 5.1.1"]);
    let content = String::from_utf8(peer.messages()[0].content.clone()).unwrap();
    assert_eq!(content, "Subject: x\r\n\r\na\r\n.\r\nb\r\n.\r\n.\r\nMAIL FROM:<evil@x>\r\n.e\r\n");
    let bdat = format!("BDAT {} LAST", content.len());
    let verbs: Vec<String> = peer.commands().iter().map(|line| line[..4].to_owned()).collect();
    assert_eq!(verbs[..5], ["EHLO", "MAIL", "RCPT", "RCPT", "BDAT"]);
    assert!(peer.commands().contains(&bdat), "{:?}", peer.commands());
    assert!(world.metric("delivery_line_breaks_mended_total") > 0.0);
}

/// What stands before a host may pass on an offer that it cannot keep.
#[tokio::test]
async fn who_does_not_know_bdat_after_all_gets_data_the_next_time() {
    for reply in ["500 5.5.1 what?\n", "502 5.5.1 no\n", "503 5.5.1 no\n"] {
        let peer = Peer::start(Script { dot: say(reply), ..Script::default() }.chunking()).await;
        let world = World::to(&peer);
        let first = job(&["a@there.example"]);
        let (summary, _) = world.deliver(first, CONTENT).await;
        assert_eq!(summary.recipients, ["pending 451 4.5.1"], "{reply}");
        peer.set_script(Script::default().chunking());
        let mut second = job(&["a@there.example"]);
        second.attempts = 1;
        let (summary, _) = World::to(&peer).deliver(second, CONTENT).await;
        assert_eq!(summary.recipients, ["delivered 250 2.0.0"]);
        assert!(peer.commands().contains(&"DATA".to_owned()), "{:?}", peer.commands());
    }
}

#[tokio::test]
async fn data_for_what_is_long_and_for_hosts_that_only_say_chunking() {
    let long = [b"x: y\r\n\r\n".to_vec(), b"23456789\r\n".repeat(6554)].concat();
    for (chunking, content, verb) in
        [(true, &long[..], "DATA"), (false, CONTENT, "DATA"), (true, CONTENT, "BDAT")]
    {
        let peer = Peer::start(Script::default().chunking()).await;
        let world = World::with_routes(vec![RouteConfig { chunking, ..route_to(&peer) }]);
        let (summary, _) = world.deliver(job(&["a@there.example"]), content).await;
        assert_eq!(summary.recipients, ["delivered 250 2.0.0"]);
        assert_eq!(peer.messages()[0].content, content, "{verb}");
        assert_eq!(&peer.commands()[3][..4], verb);
    }
}

#[tokio::test]
async fn a_large_message_arrives_whole() {
    let content = [b"x: y\r\n\r\n".to_vec(), b".23456789\r\n".repeat(1_000_000)].concat();
    let script = Script { ehlo: say("250 peer\n"), ..Script::default() };
    let peer = Peer::start(script).await;
    let world = World::to(&peer);
    let (summary, _) = world.deliver(job(&["a@there.example"]), &content).await;
    assert_eq!(summary.recipients, ["delivered 250 2.0.0"]);
    let received = &peer.messages()[0].content;
    assert_eq!(received.len(), content.len() + 1_000_000);
    assert!(received.ends_with(b"\r\n..23456789\r\n"));
}

#[tokio::test]
async fn too_large_for_the_host_is_not_offered_rfc1870_6_1() {
    let script = Script { ehlo: say("250-peer\n250 SIZE 40\n"), ..Script::default() };
    let peer = Peer::start(script).await;
    let (summary, _) = World::to(&peer).deliver(job(&["a@there.example"]), CONTENT).await;
    assert_eq!(summary.recipients, ["bounced 552 5.3.4"]);
    assert!(!peer.commands().iter().any(|line| line.starts_with("MAIL")));
}

#[tokio::test]
async fn eight_bit_is_sent_as_it_is() {
    let script = Script { ehlo: say("250 peer\n"), ..Script::default() };
    let peer = Peer::start(script).await;
    let world = World::to(&peer);
    let mut job = job(&["a@there.example"]);
    change(&mut job, |envelope| envelope.body = BodyType::EightBitMime);
    world.deliver(job, b"Subject: x\r\n\r\n\xc3\xa4\r\n").await;
    assert_eq!(peer.messages()[0].content, b"Subject: x\r\n\r\n\xc3\xa4\r\n");
    assert_eq!(peer.messages()[0].mail, "MAIL FROM:<s@here.example>");
    assert!(world.metric("delivery_eight_bit_unannounced_total") > 0.0);
}

#[tokio::test]
async fn international_mail_rfc6531_3_2() {
    type Case = (&'static str, &'static str, &'static [u8], Result<&'static str, ()>);
    let cases: [Case; 5] = [
        (
            "250-peer\n250 SMTPUTF8\n",
            "\u{fc}@there.example",
            b"x: y\r\n\r\n",
            Ok("MAIL FROM:<s@here.example> SMTPUTF8"),
        ),
        ("250 peer\n", "\u{fc}@there.example", b"x: y\r\n\r\n", Err(())),
        ("250 peer\n", "a@there.example", b"x: \xc3\xbc\r\n\r\n", Err(())),
        (
            "250 peer\n",
            "a@there.example",
            b"x: y\r\n\r\n\xc3\xbc\r\n",
            Ok("MAIL FROM:<s@here.example>"),
        ),
        ("250 peer\n", "a@there.example", b"\r\n\xc3\xbc\r\n", Ok("MAIL FROM:<s@here.example>")),
    ];
    for (ehlo, recipient, content, want) in cases {
        let peer = Peer::start(Script { ehlo: say(ehlo), ..Script::default() }).await;
        let mut job = job(&[recipient]);
        change(&mut job, |envelope| envelope.smtputf8 = true);
        let (summary, _) = World::to(&peer).deliver(job, content).await;
        match want {
            Ok(mail) => assert_eq!(peer.messages()[0].mail, mail),
            Err(()) => assert_eq!(summary.recipients, ["bounced 550 5.6.7"]),
        }
    }
}

#[tokio::test]
async fn dsn_parameters_are_passed_on_rfc3461_5_2_1() {
    let script = Script { ehlo: say("250-peer\n250 DSN\n"), ..Script::default() };
    let peer = Peer::start(script).await;
    let mut job = job(&["a@there.example"]);
    change(&mut job, |envelope| {
        envelope.envid = EnvId::new("id=1").ok();
        envelope.ret = Some(Ret::Hdrs);
    });
    let recipient = &mut job.recipients[0].recipient;
    recipient.notify = Some(Notify::On { success: true, failure: true, delay: false });
    recipient.orcpt = OriginalRecipient::new("rfc822", "o+x@here.example").ok();
    let (summary, _) = World::to(&peer).deliver(job, CONTENT).await;
    let message = peer.messages().remove(0);
    assert_eq!(message.mail, "MAIL FROM:<s@here.example> RET=HDRS ENVID=id+3D1");
    assert_eq!(
        message.rcpts,
        ["RCPT TO:<a@there.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o+2Bx@here.example"]
    );
    assert_eq!(summary.dsns, 0, "the next hop will say it");
}

/// Beyond ASCII the alias is named to those who know of it; others get what they can take.
#[tokio::test]
async fn an_alias_beyond_ascii_is_named_under_smtputf8() {
    let field = "Delivered-To: grüppe@alias.example\r\n".as_bytes();
    for (ehlo, front) in [("250-peer\n250 SMTPUTF8\n", field), ("250 peer\n", b"")] {
        let peer = Peer::start(Script { ehlo: say(ehlo), ..Script::default() }).await;
        let world = World::to(&peer);
        let mut forwarded = job(&["a@there.example"]);
        change(&mut forwarded, |envelope| envelope.smtputf8 = true);
        forwarded.forward = Some(Forward {
            reverse_path: ReversePath::parse("s@far.example").unwrap(),
            delivered_to: Mailbox::parse("grüppe@alias.example").unwrap(),
        });
        let (summary, _) = world.deliver(forwarded, CONTENT).await;
        assert_eq!(summary.recipients, ["delivered 250 2.0.0"]);
        assert_eq!(peer.messages()[0].content, [front, CONTENT].concat());
    }
}

/// Under the alias' domain, and with the alias in front: by it a loop is seen (RFC 9228).
#[tokio::test]
async fn what_an_alias_leads_elsewhere_says_so() {
    for script in [Script::default(), Script::default().chunking()] {
        let peer = Peer::start(script).await;
        let world = World::to(&peer);
        let mut forwarded = job(&["a@there.example"]);
        forwarded.forward = Some(Forward {
            reverse_path: ReversePath::parse("SRS0=x=y=far.example=s@alias.example").unwrap(),
            delivered_to: Mailbox::parse("team@alias.example").unwrap(),
        });
        let (summary, _) = world.deliver(forwarded, CONTENT).await;
        assert_eq!(summary.recipients, ["delivered 250 2.0.0"]);
        let content = peer.messages()[0].content.clone();
        let field = b"Delivered-To: team@alias.example\r\n";
        assert_eq!(content, [&field[..], CONTENT].concat());
        let mail = peer.commands().into_iter().find(|line| line.starts_with("MAIL")).unwrap();
        let path = "MAIL FROM:<SRS0=x=y=far.example=s@alias.example> ";
        assert!(mail.starts_with(path), "{mail}");
        if let Some((_, size)) = mail.split_once("SIZE=") {
            let size: usize = size.split(' ').next().unwrap().trim().parse().unwrap();
            assert_eq!(size, field.len() + CONTENT.len());
        }
    }
}
