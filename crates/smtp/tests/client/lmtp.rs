//! With LMTP servers (RFC 2033).

use mail_types::{BodyType, Host, ReversePath};
use proptest::prelude::*;
use smtp::client::{ClientConfig, ClientSession, Event, Mail, Protocol, SessionError, Step};

use super::answers::{finished, recipients, sent, show};

const HELLO: &str = "220 mda LMTP\r\n250-mda\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 8BITMIME\r\n";
const PLAIN_HELLO: &str = "220 mda\r\n250 mda\r\n";

fn session() -> ClientSession {
    let mut config = ClientConfig::new(Host::parse("us.example").unwrap());
    config.protocol = Protocol::Lmtp;
    ClientSession::new(config)
}

fn ready(hello: &str) -> ClientSession {
    let mut session = session();
    session.receive(hello.as_bytes());
    assert_eq!(session.poll(), Some(Ok(Event::Ready)));
    assert_eq!(sent(&mut session), "LHLO us.example\r\n");
    session
}

fn begin(session: &mut ClientSession, n: usize) -> String {
    let mail = Mail {
        reverse_path: &ReversePath::Null,
        size: 10,
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
    };
    session.begin(&mail, &recipients(n));
    sent(session)
}

/// A session for three recipients, of whom the second was refused, after the final dot.
fn dotted() -> ClientSession {
    let mut session = ready(HELLO);
    begin(&mut session, 3);
    session.receive(b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n250 ok\r\n354 go\r\n");
    assert_eq!(session.poll(), Some(Ok(Event::SendContent)));
    session.content(b".x\r\n");
    session.finish_content();
    assert_eq!(sent(&mut session), "..x\r\n.\r\n");
    session
}

#[test]
fn lhlo_and_never_ehlo_or_helo_rfc2033_4_1() {
    for (server, refused_at) in [
        ("554 go away\r\n", Step::Greeting),
        ("220 mda\r\n421 busy\r\n", Step::Lhlo),
        ("220 mda\r\n450 hm\r\n", Step::Lhlo),
        ("220 mda\r\n500 what?\r\n", Step::Lhlo),
    ] {
        let mut session = session();
        session.receive(server.as_bytes());
        let Some(Err(error)) = session.poll() else { panic!("{server:?}") };
        assert_eq!(error.step(), refused_at, "{server:?}");
        let said = sent(&mut session);
        assert!(!said.contains("HELO") && !said.contains("EHLO"), "{said}");
    }
    let offered = *ready(HELLO).capabilities();
    assert!(offered.pipelining && offered.eight_bit_mime && !offered.takes_whole());
}

#[test]
fn one_reply_for_each_accepted_recipient_rfc2033_4_2() {
    // (replies to the final dot, results)
    let cases: &[(&str, [&str; 3])] = &[
        ("250 a\r\n250 b\r\n", ["+250", "RCPT TO 550", "+250"]),
        ("250 a\r\n452 4.2.2 full\r\n", ["+250", "RCPT TO 550", "end of DATA 452"]),
        ("552 5.2.2 over\r\n250 b\r\n", ["end of DATA 552", "RCPT TO 550", "+250"]),
        ("450 a\r\n550 b\r\n", ["end of DATA 450", "RCPT TO 550", "end of DATA 550"]),
        ("250-a\r\n250 a\r\n550-b\r\n550 b\r\n", ["+250", "RCPT TO 550", "end of DATA 550"]),
    ];
    for (replies, want) in cases {
        let mut session = dotted();
        session.receive(replies.as_bytes());
        assert_eq!(finished(&mut session), *want, "{replies:?}");
        assert!(session.is_idle(), "{replies:?}");
        let next = begin(&mut session, 1);
        assert!(next.starts_with("MAIL FROM:<>\r\n"), "no RSET after a whole transaction: {next}");
    }
}

#[test]
fn each_reply_has_its_own_time_and_is_taken_alone() {
    let mut session = dotted();
    let replies = session.replies();
    session.receive(b"250 a\r\n");
    assert_eq!((session.poll(), session.step()), (None, Step::FinalDot));
    assert_eq!(session.replies(), replies + 1);
    session.receive(b"250 b\r\n");
    assert_eq!(finished(&mut session), ["+250", "RCPT TO 550", "+250"]);
}

#[test]
fn who_was_answered_before_the_end_keeps_the_answer() {
    // (replies to the final dot, results)
    let cases: &[(&str, [&str; 3])] = &[
        ("", ["?", "RCPT TO 550", "?"]),
        ("250-a\r\n", ["?", "RCPT TO 550", "?"]),
        ("250 a\r\n", ["+250", "RCPT TO 550", "?"]),
        ("552 5.2.2 a\r\n", ["end of DATA 552", "RCPT TO 550", "?"]),
        ("250 a\r\n421 bye\r\n", ["+250", "RCPT TO 550", "?"]),
        ("421 bye\r\n250 b\r\n", ["?", "RCPT TO 550", "?"]),
        ("250 a\r\n354 go\r\n", ["+250", "RCPT TO 550", "?"]),
        ("250 a\r\nrubbish\r\n", ["+250", "RCPT TO 550", "?"]),
    ];
    for (replies, want) in cases {
        let mut session = dotted();
        session.receive(replies.as_bytes());
        session.disconnected();
        let Some(Err(error)) = session.poll() else { panic!("{replies:?}") };
        assert_eq!(error.step(), Step::FinalDot, "{replies:?}");
        assert_eq!(show(&session.take_results()), *want, "{replies:?}");
        assert!(!session.is_idle());
    }
}

#[test]
fn more_replies_than_recipients_do_not_undo_a_result() {
    let mut session = dotted();
    session.receive(b"250 a\r\n250 b\r\n550 c\r\n");
    assert_eq!(finished(&mut session), ["+250", "RCPT TO 550", "+250"]);
    assert!(!session.is_idle(), "the connection is not used again");
}

#[test]
fn the_end_before_the_content() {
    // (what the server offers, its replies, results, whether the connection may be used again)
    let cases: &[(&str, &str, [&str; 2], bool)] = &[
        (PLAIN_HELLO, "451 no\r\n", ["MAIL FROM 451", "MAIL FROM 451"], true),
        (PLAIN_HELLO, "250\r\n550\r\n452 4.2.2\r\n", ["RCPT TO 550", "RCPT TO 452"], true),
        (HELLO, "250\r\n550\r\n550\r\n503\r\n", ["RCPT TO 550", "RCPT TO 550"], true),
        (HELLO, "250\r\n550\r\n250\r\n451\r\n", ["RCPT TO 550", "DATA 451"], true),
        // Nobody was accepted: nothing would answer the dot.
        (HELLO, "250\r\n550\r\n550\r\n354\r\n", ["RCPT TO 550", "RCPT TO 550"], false),
    ];
    for (hello, replies, want, again) in cases {
        let mut session = ready(hello);
        begin(&mut session, 2);
        session.receive(replies.as_bytes());
        assert_eq!(finished(&mut session), *want, "{replies:?}");
        assert_eq!(session.is_idle(), *again, "{replies:?}");
        assert!(!sent(&mut session).contains(".\r\n"), "{replies:?}");
    }
}

/// Nobody knows whom a refusal is about that comes before the final dot.
#[test]
fn a_refusal_of_half_a_message_refuses_nobody() {
    let mut session = ready(HELLO);
    begin(&mut session, 2);
    session.receive(b"250\r\n250\r\n250\r\n354\r\n");
    session.poll();
    session.content(b"some");
    session.receive(b"552 5.3.4 too big\r\n");
    let Some(Err(error)) = session.poll() else { panic!("no error") };
    assert!(matches!(error, SessionError::Protocol { step: Step::Content, .. }), "{error}");
    assert_eq!(show(&session.take_results()), ["?", "?"]);
}

proptest! {
    #[test]
    fn replies_go_to_recipients_in_order(
        accepted in proptest::collection::vec(any::<bool>(), 1..6),
        answers in proptest::collection::vec(
            prop_oneof![Just(250u16), Just(452), Just(552)], 0..6),
        cut in any::<usize>(),
    ) {
        let mut session = ready(HELLO);
        begin(&mut session, accepted.len());
        let rcpt = accepted.iter().map(|ok| if *ok { "250 ok\r\n" } else { "550 no\r\n" });
        let rcpt: String = rcpt.collect();
        session.receive(format!("250 ok\r\n{rcpt}354 go\r\n").as_bytes());
        let expected = accepted.iter().filter(|ok| **ok).count();
        prop_assume!(expected > 0);
        session.poll();
        session.finish_content();
        let replies: String =
            answers.iter().map(|code| format!("{code}-more\r\n{code} end\r\n")).collect();
        let (first, rest) = replies.split_at(cut % (replies.len() + 1));
        session.receive(first.as_bytes());
        session.receive(rest.as_bytes());
        let results = match session.poll() {
            Some(Ok(Event::Finished(results))) => results,
            None => {
                session.disconnected();
                session.take_results()
            }
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        let mut answers = answers.iter();
        let want: Vec<String> = accepted.iter().map(|ok| match (ok, ok.then(|| answers.next())) {
            (false, _) => "RCPT TO 550".to_owned(),
            (true, Some(Some(250))) => "+250".to_owned(),
            (true, Some(Some(code))) => format!("end of DATA {code}"),
            (true, _) => "?".to_owned(),
        }).collect();
        prop_assert_eq!(show(&results), want);
    }
}
