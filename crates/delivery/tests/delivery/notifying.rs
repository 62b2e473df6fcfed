//! Who is told what became of a message.

use std::time::Duration;

use mail_types::{BodyType, EnvId, Notify, Ret, ReversePath};
use message::dsn;
use queue::{FollowUp, Job, Settlement};

use crate::peer::{Peer, Script, say};
use crate::world::{World, change, job};

const CONTENT: &[u8] = b"From: <s@here.example>\r\nSubject: original\r\n\r\nthe body\r\n";

fn notify(success: bool, failure: bool, delay: bool) -> Option<Notify> {
    Some(Notify::On { success, failure, delay })
}

async fn deliver(script: Script, job: Job) -> Settlement {
    let peer = Peer::start(script).await;
    World::to(&peer).deliver(job, CONTENT).await.1
}

fn parsed(follow_up: &FollowUp) -> dsn::Parsed {
    let content = [&follow_up.head.header[..], &follow_up.body[..]].concat();
    dsn::parse(&content).expect("a DSN")
}

fn text(follow_up: &FollowUp) -> String {
    String::from_utf8(follow_up.body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_failure_is_told_with_what_the_host_said() {
    let mut job = job(&["good@there.example", "bad@there.example"]);
    change(&mut job, |envelope| envelope.envid = EnvId::new("E1").ok());
    let settlement = deliver(Script::default(), job).await;
    let [told] = &settlement.follow_ups[..] else { panic!("one DSN") };
    assert_eq!(told.kind, queue::FollowUpKind::FailedDsn);
    assert_eq!(told.envelope.reverse_path, ReversePath::Null);
    assert_eq!(told.jobs[0].recipients[0].address.to_string(), "s@here.example");
    assert_eq!(told.jobs[0].recipients[0].notify, Some(Notify::Never));
    let report = parsed(told);
    assert_eq!(report.envid.as_deref(), Some("E1"));
    assert_eq!(report.recipients.len(), 1, "only the one that failed");
    let recipient = &report.recipients[0];
    assert_eq!(recipient.action.as_deref(), Some("failed"));
    assert_eq!(recipient.status.as_deref(), Some("5.1.1"));
    assert!(recipient.diagnostic.as_ref().unwrap().contains("no such user"));
    assert!(text(told).contains("the body"), "without RET the whole is returned");
}

#[tokio::test]
async fn a_dsn_waits_for_content_that_can_be_read_later() {
    // All are refused before the content is needed.
    let peer = Peer::start(Script { rcpt: say("550 5.1.1 no\n"), ..Script::default() }).await;
    let world = World::to(&peer);
    world.let_reading_fail(3);
    let (_, settlement) = world.deliver(job(&["a@there.example"]), CONTENT).await;
    assert!(text(&settlement.follow_ups[0]).contains("the body"));
}

#[tokio::test]
async fn ret_and_size_decide_what_is_returned() {
    let large = [b"Subject: original\r\n\r\n".to_vec(), b"the body\r\n".repeat(10_000)].concat();
    for (ret, content, whole) in [
        (Some(Ret::Hdrs), CONTENT, false),
        (Some(Ret::Full), CONTENT, true),
        (Some(Ret::Full), &large[..], false),
    ] {
        let peer = Peer::start(Script::default()).await;
        let mut job = job(&["bad@there.example"]);
        change(&mut job, |envelope| envelope.ret = ret);
        let settlement = World::to(&peer).deliver(job, content).await.1;
        let told = text(&settlement.follow_ups[0]);
        assert!(told.contains("Subject: original"));
        assert_eq!(told.contains("the body"), whole);
        assert!(told.len() < 60_000);
    }
}

#[tokio::test]
async fn nobody_is_told_who_is_not_to_be() {
    type Case = (&'static str, fn(&mut Job));
    let silent: [Case; 3] = [
        ("null sender", |job| change(job, |e| e.reverse_path = ReversePath::Null)),
        ("never", |job| job.recipients[0].recipient.notify = Some(Notify::Never)),
        ("success only", |job| job.recipients[0].recipient.notify = notify(true, false, false)),
    ];
    for (name, prepare) in silent {
        let peer = Peer::start(Script::default()).await;
        let world = World::to(&peer);
        let mut job = job(&["bad@there.example"]);
        prepare(&mut job);
        let (summary, settlement) = world.deliver(job, CONTENT).await;
        assert_eq!((summary.disposition, settlement.follow_ups.len()), ("done", 0), "{name}");
        let doubled = world.metric("delivery_double_bounces_total") > 0.0;
        assert_eq!(doubled, name == "null sender");
    }
}

#[tokio::test]
async fn success_is_told_when_asked_and_the_next_hop_will_not() {
    for (ehlo, asked, want) in [
        ("250 peer\n", notify(true, true, false), Some("relayed")),
        ("250-peer\n250 DSN\n", notify(true, true, false), None),
        ("250 peer\n", None, None),
    ] {
        let script = Script { ehlo: say(ehlo), ..Script::default() };
        let mut job = job(&["good@there.example"]);
        job.recipients[0].recipient.notify = asked;
        let settlement = deliver(script, job).await;
        let action = settlement.follow_ups.first().map(|told| {
            assert!(!text(told).contains("the body"), "RET is about failures only");
            parsed(told).recipients[0].action.clone().unwrap()
        });
        assert_eq!(action.as_deref(), want, "{ehlo}");
    }
}

#[tokio::test]
async fn a_delay_is_told_once_after_four_hours() {
    let late = Duration::from_secs(4 * 3600 + 60);
    for (age, reported, notify, told) in [
        (Duration::ZERO, false, None, false),
        (late, false, None, true),
        (late, true, None, false),
        (late, false, notify(true, true, false), false),
    ] {
        let script = Script { rcpt: say("450 4.2.0 later\n"), ..Script::default() };
        let mut job = job(&["good@there.example"]);
        job.delay_reported = reported;
        job.recipients[0].recipient.notify = notify;
        change(&mut job, |envelope| {
            let arrival = envelope.arrival.unix_ms() - age.as_millis() as i64;
            envelope.arrival = mail_types::Timestamp::from_unix_ms(arrival);
        });
        let settlement = deliver(script, job).await;
        assert_eq!(settlement.follow_ups.len(), usize::from(told));
        assert_eq!(settlement.delay_reported, told || reported);
        if told {
            let report = parsed(&settlement.follow_ups[0]);
            assert_eq!(report.recipients[0].action.as_deref(), Some("delayed"));
        }
    }
}

#[tokio::test]
async fn expiry_is_told_as_such() {
    let script = Script { rcpt: say("450 4.2.0 later\n"), ..Script::default() };
    let mut job = job(&["good@there.example"]);
    change(&mut job, |envelope| {
        envelope.expires = envelope.arrival;
        envelope.body = BodyType::EightBitMime;
    });
    let settlement = deliver(script, job).await;
    let report = parsed(&settlement.follow_ups[0]);
    assert_eq!(report.recipients[0].status.as_deref(), Some("5.4.7"));
    assert!(report.recipients[0].diagnostic.as_ref().unwrap().contains("450 4.2.0 later"));
}
