//! From a domain to the hosts that are tried: MX, addresses, literals, private networks.

use std::net::IpAddr;

use delivery::SourceConfig;
use mail_types::Host;
use resolve::{Fake, HostName, LookupError, MxRecord};

use crate::peer::{Act, Peer, Script, say, say_and_close};
use crate::world::{CONTENT, World, job};

fn mx(preference: u16, host: &str) -> MxRecord {
    MxRecord { preference, exchange: HostName::parse(host).ok() }
}

fn at(address: &str) -> Result<Vec<IpAddr>, LookupError> {
    Ok(vec![address.parse().unwrap()])
}

fn servfail<T>() -> Result<T, LookupError> {
    Err(LookupError::Temporary("SERVFAIL".into()))
}

/// A world without routes, in which the port of mail exchangers is the peer's.
fn world(peer: &Peer, dns: impl FnOnce(&Fake)) -> World {
    let mut world = World::with_routes(vec![]);
    world.config.port = peer.address.port();
    world.config.allow_private_addresses = true;
    dns(&world.dns);
    world
}

#[tokio::test]
async fn what_dns_says_rfc5321_5_1() {
    type Case = (&'static str, fn(&Fake), &'static str, &'static str);
    let cases: [Case; 10] = [
        ("no such domain", |_| (), "bounced 550 5.1.2", "done"),
        (
            "SERVFAIL",
            |dns| dns.set_mx("there.example", servfail()),
            "pending 451 4.4.3",
            "defer for hop",
        ),
        (
            "null MX (RFC 7505)",
            |dns| dns.set_mx("there.example", Ok(vec![mx(0, ".")])),
            "bounced 556 5.1.10",
            "done",
        ),
        (
            "we are the best MX",
            |dns| {
                dns.set_mx("there.example", Ok(vec![mx(5, "us.example"), mx(9, "b.example")]));
            },
            "bounced 554 5.4.6",
            "done",
        ),
        (
            "no MX, but an address",
            |dns| {
                dns.set_mx("there.example", Err(LookupError::NoRecords));
                dns.set_addresses("there.example", at("127.0.0.1"));
            },
            "delivered 250 2.0.0",
            "done",
        ),
        (
            "no MX, no address",
            |dns| {
                dns.set_mx("there.example", Err(LookupError::NoRecords));
                dns.set_addresses("there.example", Err(LookupError::NoRecords));
            },
            "bounced 550 5.4.4",
            "done",
        ),
        (
            "MX without address",
            |dns| {
                dns.set_mx("there.example", Ok(vec![mx(5, "a.example"), mx(9, "b.example")]));
            },
            "bounced 550 5.4.4",
            "done",
        ),
        (
            "one MX without address, one unknown",
            |dns| {
                dns.set_mx("there.example", Ok(vec![mx(5, "a.example"), mx(9, "b.example")]));
                dns.set_addresses("a.example", servfail());
            },
            "pending 451 4.4.3",
            "defer for hop",
        ),
        (
            "the second MX has an address",
            |dns| {
                dns.set_mx("there.example", Ok(vec![mx(5, "a.example"), mx(9, "b.example")]));
                dns.set_addresses("a.example", servfail());
                dns.set_addresses("b.example", at("127.0.0.1"));
            },
            "delivered 250 2.0.0",
            "done",
        ),
        (
            "nobody listens",
            |dns| {
                dns.set_mx("there.example", Ok(vec![mx(5, "a.example")]));
                dns.set_addresses("a.example", at("127.0.0.77"));
            },
            "pending 451 4.4.1",
            "defer for hop",
        ),
    ];
    for (name, dns, want, disposition) in cases {
        let peer = Peer::start(Script::default()).await;
        let world = world(&peer, dns);
        let (summary, _) = world.deliver(job(&["a@there.example"]), CONTENT).await;
        assert_eq!(summary.recipients, [want], "{name}: {}", summary.reply);
        assert_eq!(summary.disposition, disposition, "{name}");
        let down = disposition == "defer for hop";
        assert_eq!(world.hops().contains(&"there.example down".into()), down, "{name}");
    }
}

/// No MX that is as good as us, or worse, is tried, under whatever name of ours it is.
#[tokio::test]
async fn all_names_of_ours_are_known() {
    for (own, want) in [
        ("out.example", "bounced 554 5.4.6"),
        ("in.example", "bounced 554 5.4.6"),
        ("other.example", "delivered 250 2.0.0"),
    ] {
        let peer = Peer::start(Script::default()).await;
        let mut world = world(&peer, |dns| {
            dns.set_mx("there.example", Ok(vec![mx(5, own)]));
            dns.set_addresses(own, at("127.0.0.1"));
        });
        world.config.listener_names = vec![Host::parse("In.example").unwrap()];
        world.config.sources =
            vec![SourceConfig { address: at("127.0.0.1").unwrap()[0], name: "out.example".into() }];
        let (summary, _) = world.deliver(job(&["a@there.example"]), CONTENT).await;
        assert_eq!(summary.recipients, [want], "{own}: {}", summary.reply);
    }
}

fn with_mail(script: &Script, mail: Act) -> Script {
    Script { mail, ..script.clone() }
}

/// (what the best host does, whether the next one gets the message)
#[tokio::test]
async fn from_host_to_host() {
    type Case = (&'static str, fn(&mut Script), bool);
    let cases: [Case; 10] = [
        ("bad greeting", |s| s.greeting = say_and_close("554 no\n"), true),
        ("421 greeting", |s| s.greeting = say_and_close("421 no\n"), true),
        ("421 at MAIL", |s| s.mail = say_and_close("421 no\n"), true),
        ("gone at MAIL", |s| s.mail = Act::Close, true),
        // It may have taken the message, which it has: what it did not say is not known.
        ("gone at MAIL, all sent", |s| *s = with_mail(s, Act::Close).chunking(), false),
        (
            "421 at MAIL, all sent",
            |s| *s = with_mail(s, say_and_close("421 no\n")).chunking(),
            true,
        ),
        ("421 at DATA", |s| s.data = say_and_close("421 no\n"), true),
        ("4xx at RCPT", |s| s.rcpt = say("450 no\n"), false),
        ("5xx at RCPT", |s| s.rcpt = say("550 no\n"), false),
        ("421 after the dot", |s| s.dot = say_and_close("421 no\n"), false),
    ];
    for (name, change, passed_on) in cases {
        let mut script = Script::default();
        change(&mut script);
        let first = Peer::start(script).await;
        let second_at = format!("127.0.0.2:{}", first.address.port());
        let second = Peer::start_at(&second_at, Script::default(), None).await;
        let world = world(&first, |dns| {
            dns.set_mx("there.example", Ok(vec![mx(5, "a.example"), mx(9, "b.example")]));
            dns.set_addresses("a.example", at("127.0.0.1"));
            dns.set_addresses("b.example", at("127.0.0.2"));
        });
        world.deliver(job(&["a@there.example"]), CONTENT).await;
        assert_eq!(first.connections(), 1, "{name}");
        assert_eq!(second.messages().len(), usize::from(passed_on), "{name}");
    }
}

/// What one host refused for good is not offered to the next.
#[tokio::test]
async fn only_the_unanswered_go_to_the_next_host() {
    let script = Script { data: say_and_close("421 4.3.2 busy\n"), ..Script::default() };
    let first = Peer::start(script).await;
    let second_at = format!("127.0.0.2:{}", first.address.port());
    let second = Peer::start_at(&second_at, Script::default(), None).await;
    let world = world(&first, |dns| {
        dns.set_mx("there.example", Ok(vec![mx(5, "a.example"), mx(9, "b.example")]));
        dns.set_addresses("a.example", at("127.0.0.1"));
        dns.set_addresses("b.example", at("127.0.0.2"));
    });
    let job = job(&["good@there.example", "bad@there.example"]);
    let (summary, _) = world.deliver(job, CONTENT).await;
    assert_eq!(summary.recipients, ["delivered 250 2.0.0", "bounced 550 5.1.1"]);
    assert_eq!(second.messages()[0].rcpts, ["RCPT TO:<good@there.example>"]);
}

#[tokio::test]
async fn addresses_inside_are_refused_at_connect() {
    let inside = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0"];
    for address in inside {
        let peer = Peer::start(Script::default()).await;
        let mut world = world(&peer, |dns| {
            dns.set_mx("there.example", Ok(vec![mx(5, "a.example")]));
            dns.set_addresses("a.example", at(address));
        });
        world.config.allow_private_addresses = false;
        let (summary, _) = world.deliver(job(&["a@there.example"]), CONTENT).await;
        assert_eq!(summary.recipients, ["bounced 550 5.4.4"], "{address}: {}", summary.reply);
        assert_eq!(peer.connections(), 0, "{address}");
        assert_eq!(world.hops(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn address_literals_rfc5321_4_1_3() {
    for (allowed, recipient, want) in [
        (true, "a@[127.0.0.1]", "delivered 250 2.0.0"),
        (false, "a@[127.0.0.1]", "bounced 550 5.4.4"),
        (false, "a@[IPv6:::1]", "bounced 550 5.4.4"),
        (true, "a@[x400:c=us]", "bounced 550 5.1.2"),
    ] {
        let peer = Peer::start(Script::default()).await;
        let mut world = world(&peer, |_| ());
        world.config.allow_private_addresses = allowed;
        let (summary, _) = world.deliver(job(&[recipient]), CONTENT).await;
        assert_eq!(summary.recipients, [want], "{recipient}");
    }
}
