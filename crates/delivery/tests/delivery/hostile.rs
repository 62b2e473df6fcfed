//! Peers that refuse, close, say nothing, too much, too early or rubbish, at each step.

use crate::peer::{Act, Peer, Script, say, say_and_close};
use crate::world::{CONTENT, World, job};

/// What the peer does, and what becomes of `good@` and `bad@`.
struct Case {
    name: &'static str,
    change: fn(&mut Script),
    good: &'static str,
    bad: &'static str,
    disposition: &'static str,
}

const REFUSED: &str = "bounced 550 5.1.1";

async fn run(case: &Case) {
    let mut script = Script::default();
    (case.change)(&mut script);
    // What is done at DATA is not done to those who send all at once.
    if script.takes_data() {
        run_with(case, script.clone().chunking()).await;
    }
    run_with(case, script).await;
}

async fn run_with(case: &Case, script: Script) {
    let peer = Peer::start(script).await;
    let world = World::to(&peer);
    let job = job(&["good@there.example", "bad@there.example"]);
    let (summary, settlement) = world.deliver(job, CONTENT).await;
    assert_eq!(summary.recipients, [case.good, case.bad], "{}: {}", case.name, summary.reply);
    assert_eq!(summary.disposition, case.disposition, "{}", case.name);
    for progress in &settlement.progress {
        let text = progress.report.reply.to_string();
        assert!(text.len() <= 1200, "{}: {} octets", case.name, text.len());
        assert!(!text.contains(char::is_control), "{}: {text:?}", case.name);
    }
    let bounced = settlement.progress.iter().any(|p| p.status == queue::RecipientStatus::Bounced);
    assert_eq!(summary.dsns, usize::from(bounced), "{}", case.name);
}

async fn run_all(cases: &[Case]) {
    futures::future::join_all(cases.iter().map(run)).await;
}

macro_rules! case {
    ($name:literal, $script:ident => $change:expr, $good:expr, $bad:expr, $disposition:expr) => {
        Case {
            name: $name,
            change: |$script| $change,
            good: $good,
            bad: $bad,
            disposition: $disposition,
        }
    };
}

#[tokio::test]
async fn accepted_and_refused() {
    run_all(&[
        case!("all well", _s => (), "delivered 250 2.0.0", REFUSED, "done"),
        case!("greylisted", s => s.rcpt = say("450 4.7.1 later\n"),
            "pending 450 4.7.1", REFUSED, "defer"),
        case!("sender refused", s => s.mail = say("550 5.7.1 no\n"),
            "bounced 550 5.7.1", "bounced 550 5.7.1", "done"),
        case!("sender deferred", s => s.mail = say("451 4.7.1 no\n"),
            "pending 451 4.7.1", "pending 451 4.7.1", "defer"),
        case!("auth wanted", s => s.mail = say("530 5.7.0 authenticate\n"),
            "pending 451 4.7.0", "pending 451 4.7.0", "defer"),
        case!("DATA refused", s => s.data = say("554 5.5.1 no\n"),
            "bounced 554 5.5.1", REFUSED, "done"),
        case!("content refused", s => s.dot = say("554 5.7.1 spam\n"),
            "bounced 554 5.7.1", REFUSED, "done"),
        case!("content deferred", s => s.dot = say("452 4.3.1 full\n"),
            "pending 452 4.3.1", REFUSED, "defer"),
        case!("no enhanced status", s => s.dot = say("554 no\n"),
            "bounced 554 5.0.0", REFUSED, "done"),
    ])
    .await;
}

#[tokio::test]
async fn disconnects_at_each_step() {
    run_all(&[
        case!("greeting", s => s.greeting = Act::Close,
            "pending 451 4.4.2", "pending 451 4.4.2", "defer for hop"),
        case!("EHLO", s => s.ehlo = Act::Close,
            "pending 451 4.4.2", "pending 451 4.4.2", "defer for hop"),
        case!("MAIL", s => s.mail = Act::Close,
            "pending 451 4.4.2", "pending 451 4.4.2", "defer"),
        case!("RCPT", s => s.rcpt = Act::Close,
            "pending 451 4.4.2", "pending 451 4.4.2", "defer"),
        case!("second RCPT", s => s.rcpt_bad = Act::Close,
            "pending 451 4.4.2", "pending 451 4.4.2", "defer"),
        case!("DATA", s => s.data = Act::Close, "pending 451 4.4.2", REFUSED, "defer"),
        case!("content", s => s.early = Some(Act::Close), "pending 451 4.4.2", REFUSED, "defer"),
        case!("final dot", s => s.dot = Act::Close, "pending 451 4.4.2", REFUSED, "defer"),
    ])
    .await;
}

#[tokio::test]
async fn closing_at_each_step() {
    run_all(&[
        case!("greeting", s => s.greeting = say_and_close("421 4.3.2 busy\n"),
            "pending 421 4.3.2", "pending 421 4.3.2", "defer for hop"),
        case!("greeting 554", s => s.greeting = say_and_close("554 go away\n"),
            "pending 451 4.0.0", "pending 451 4.0.0", "defer for hop"),
        case!("EHLO", s => s.ehlo = say_and_close("421 busy\n"),
            "pending 421 4.0.0", "pending 421 4.0.0", "defer for hop"),
        case!("MAIL", s => s.mail = say_and_close("421 4.7.0 too many\n"),
            "pending 421 4.7.0", "pending 421 4.7.0", "defer"),
        case!("RCPT", s => s.rcpt = say_and_close("421 4.7.0 too many\n"),
            "pending 421 4.7.0", "pending 421 4.7.0", "defer"),
        case!("DATA", s => s.data = say_and_close("421 4.7.0 x\n"),
            "pending 421 4.7.0", REFUSED, "defer"),
        case!("content", s => s.early = Some(say_and_close("421 4.7.0 x\n")),
            "pending 421 4.7.0", REFUSED, "defer"),
        case!("final dot", s => s.dot = say_and_close("421 4.7.0 x\n"),
            "pending 421 4.7.0", REFUSED, "defer"),
    ])
    .await;
}

#[tokio::test]
async fn silence_at_each_step() {
    run_all(&[
        case!("greeting", s => s.greeting = Act::Silent,
            "pending 451 4.4.2", "pending 451 4.4.2", "defer for hop"),
        case!("EHLO", s => s.ehlo = Act::Silent,
            "pending 451 4.4.2", "pending 451 4.4.2", "defer for hop"),
        case!("MAIL", s => s.mail = Act::Silent,
            "pending 451 4.4.2", "pending 451 4.4.2", "defer"),
        case!("DATA", s => s.data = Act::Silent, "pending 451 4.4.2", REFUSED, "defer"),
        case!("final dot", s => s.dot = Act::Silent, "pending 451 4.4.2", REFUSED, "defer"),
    ])
    .await;
}

#[tokio::test]
async fn rubbish_too_much_and_too_early() {
    run_all(&[
        case!("not SMTP", s => s.greeting = say("HTTP/1.1 400 Bad Request\n"),
            "pending 451 4.5.0", "pending 451 4.5.0", "defer for hop"),
        case!("endless line", s => s.greeting = Act::Say(vec![b'2'; 100_000]),
            "pending 451 4.5.0", "pending 451 4.5.0", "defer for hop"),
        case!("long line", s => s.mail = Act::Say([b"550 ", &[b'x'; 5000][..], b"\r\n"].concat()),
            "bounced 550 5.0.0", "bounced 550 5.0.0", "done"),
        case!("10,000 lines", s => s.mail = Act::Say(b"250-x\r\n".repeat(10_000)),
            "pending 451 4.5.0", "pending 451 4.5.0", "defer"),
        case!("controls", s => s.dot = Act::Say(b"554 5.7.1 \x1b[2J\0\x07\xff\x9b\r\r\n".to_vec()),
            "bounced 554 5.7.1", REFUSED, "done"),
        case!("codes differ", s => s.dot = say("250-ok\n554 no\n"),
            "pending 451 4.5.0", REFUSED, "defer"),
        case!("250 to DATA", s => s.data = say("250 ok\n"),
            "pending 451 4.5.0", REFUSED, "defer"),
        case!("354 to MAIL", s => s.mail = say("354 ok\n"),
            "pending 451 4.5.0", "pending 451 4.5.0", "defer"),
        case!("accepted before its end", s => s.early = Some(say("250 2.0.0 got it\n")),
            "pending 451 4.5.0", REFUSED, "defer"),
        case!("refused before its end", s => s.early = Some(say("552 5.3.4 too big\n")),
            "bounced 552 5.3.4", REFUSED, "done"),
        case!("one reply too many", s => s.dot = say("250 2.0.0 ok\n250 2.0.0 ok\n"),
            "delivered 250 2.0.0", REFUSED, "done"),
        case!("greeting and EHLO reply at once", s => {
            s.greeting = say("220 peer\n250 peer\n");
            s.ehlo = Act::Say(Vec::new());
        }, "delivered 250 2.0.0", REFUSED, "done"),
    ])
    .await;
}

/// With PIPELINING, DATA is out before it is known that nobody is left.
#[tokio::test]
async fn all_refused_and_354_all_the_same() {
    let script = Script { rcpt: say("550 5.1.1 no\n"), ..Script::default() };
    let peer = Peer::start(script).await;
    let world = World::to(&peer);
    let (summary, _) = world.deliver(job(&["good@there.example"]), CONTENT).await;
    assert_eq!(summary.recipients, [REFUSED]);
    assert_eq!(peer.messages()[0].content, b"", "no content for nobody");
}

#[tokio::test]
async fn a_large_message_refused_early_is_not_sent_to_its_end() {
    let script = Script {
        ehlo: say("250 peer\n"),
        early: Some(say_and_close("552 5.3.4 too big\n")),
        ..Script::default()
    };
    let peer = Peer::start(script).await;
    let world = World::to(&peer);
    let content = [b"x: y\r\n\r\n".to_vec(), b"0123456789\r\n".repeat(3_000_000)].concat();
    let (summary, _) = world.deliver(job(&["good@there.example"]), &content).await;
    assert_eq!(summary.recipients, ["bounced 552 5.3.4"]);
}
