//! With SMTP servers.

use mail_types::{BodyType, Host, ReversePath};
use proptest::prelude::*;
use smtp::client::{
    ClientConfig, ClientSession, Credentials, Event, Mail, Password, SessionError, Step,
};

use super::answers::{finished, recipients, sent, show};

const HELLO: &str = "220 mx\r\n250-mx\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 STARTTLS\r\n";
const PLAIN_HELLO: &str = "220 mx\r\n250 mx\r\n";

fn session() -> ClientSession {
    ClientSession::new(ClientConfig::new(Host::parse("us.example").unwrap()))
}

fn ready(server: &str) -> ClientSession {
    let mut session = session();
    session.receive(server.as_bytes());
    assert_eq!(session.poll(), Some(Ok(Event::Ready)));
    assert_eq!(sent(&mut session), "EHLO us.example\r\n");
    session
}

fn failed(session: &mut ClientSession, server: &str) -> SessionError {
    session.receive(server.as_bytes());
    assert!(!session.is_idle());
    match session.poll() {
        Some(Err(error)) => error,
        other => panic!("not failed: {other:?}"),
    }
}

fn begin(session: &mut ClientSession, n: usize) -> String {
    session.begin(&mail(&sender()), &recipients(n));
    sent(session)
}

fn sender() -> ReversePath {
    ReversePath::parse("s@here.example").unwrap()
}

fn mail(reverse_path: &ReversePath) -> Mail<'_> {
    let (size, body, smtputf8) = (10, BodyType::SevenBit, false);
    Mail { reverse_path, size, body, smtputf8, ret: None, envid: None }
}

#[test]
fn pipelined_in_one_write_rfc2920_3_1() {
    let mut session = ready(HELLO);
    assert_eq!(
        begin(&mut session, 2),
        "MAIL FROM:<s@here.example> SIZE=10\r\nRCPT TO:<r0@there.example>\r\n\
         RCPT TO:<r1@there.example>\r\nDATA\r\n"
    );
    session.receive(b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n354 go\r\n");
    assert_eq!(session.poll(), Some(Ok(Event::SendContent)));
    session.content(b".x\r\n");
    assert_eq!(session.finish_content(), 0);
    assert_eq!(sent(&mut session), "..x\r\n.\r\n");
    session.receive(b"250 2.0.0 queued\r\n");
    assert_eq!(finished(&mut session), ["+250", "RCPT TO 550"]);
    assert!(session.is_idle());
    assert!(begin(&mut session, 1).starts_with("MAIL"), "no RSET after a whole transaction");
}

#[test]
fn a_recipient_is_asked_about_without_a_message() {
    // (replies to MAIL and RCPT, what was found out, whether RSET must follow)
    let cases: &[(&[&str], &str, bool)] = &[
        (&["250 ok\r\n", "250 ok\r\n"], "+250", true),
        (&["250 ok\r\n", "550 5.1.1 no\r\n"], "RCPT TO 550", true),
        (&["250 ok\r\n", "450 4.2.0 later\r\n"], "RCPT TO 450", true),
        (&["550 5.7.1 not from you\r\n"], "MAIL FROM 550", false),
    ];
    for (replies, want, reset) in cases {
        let mut session = ready(HELLO);
        session.ask(&recipients(1)[0]);
        let mut said = Vec::new();
        for reply in *replies {
            said.push(sent(&mut session));
            session.receive(reply.as_bytes());
        }
        assert_eq!(said[0], "MAIL FROM:<>\r\n", "no SIZE: nobody knows it");
        assert!(said[1..].iter().all(|line| line == "RCPT TO:<r0@there.example>\r\n"), "{said:?}");
        assert_eq!(finished(&mut session), [*want]);
        assert_eq!(sent(&mut session), "", "neither DATA nor content");
        assert!(session.is_idle());
        assert_eq!(begin(&mut session, 1).starts_with("RSET"), *reset, "{replies:?}");
    }
}

const CHUNKING_HELLO: &str = "220 mx\r\n250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n";

fn begin_whole(session: &mut ClientSession, n: usize, content: &[u8]) -> String {
    session.begin_whole(&mail(&sender()), &recipients(n), content);
    sent(session)
}

#[test]
fn all_in_one_write_rfc3030_4_2() {
    let mut session = ready(CHUNKING_HELLO);
    assert!(session.capabilities().takes_whole());
    assert_eq!(
        begin_whole(&mut session, 2, b".x\r\n"),
        "MAIL FROM:<s@here.example>\r\nRCPT TO:<r0@there.example>\r\n\
         RCPT TO:<r1@there.example>\r\nBDAT 4 LAST\r\n.x\r\n"
    );
    session.receive(b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n");
    assert_eq!(session.poll(), Some(Ok(Event::ContentSent)));
    assert_eq!((session.poll(), session.step()), (None, Step::Bdat));
    session.receive(b"250 2.0.0 queued\r\n");
    assert_eq!(finished(&mut session), ["+250", "RCPT TO 550"]);
    assert!(begin(&mut session, 1).starts_with("MAIL"), "no RSET after a whole transaction");
}

#[test]
fn all_in_one_write_and_not_taken() {
    let nobody: &[&str] = &["RCPT TO 550", "RCPT TO 450"];
    // (replies, results, whether RSET must follow)
    let cases: &[(&str, &[&str], bool)] = &[
        ("250\r\n250\r\n250\r\n554\r\n", &["BDAT 554", "BDAT 554"], true),
        ("250\r\n250\r\n450\r\n452\r\n", &["BDAT 452", "RCPT TO 450"], true),
        ("250\r\n550\r\n450\r\n554\r\n", nobody, true),
        // Who takes a message for nobody has delivered it to nobody.
        ("250\r\n550\r\n450\r\n250\r\n", nobody, false),
        ("550\r\n503\r\n503\r\n503\r\n", &["MAIL FROM 550", "MAIL FROM 550"], true),
    ];
    for (replies, want, reset) in cases {
        let mut session = ready(CHUNKING_HELLO);
        begin_whole(&mut session, 2, b"x\r\n");
        session.receive(replies.as_bytes());
        assert_eq!(finished(&mut session), *want, "{replies:?}");
        assert_eq!(begin(&mut session, 1).starts_with("RSET"), *reset, "{replies:?}");
    }
}

/// Until it has been answered, what has been sent may have been taken.
#[test]
fn all_in_one_write_and_cut_off() {
    for (replies, wait) in [("", Step::Mail), ("250\r\n", Step::Rcpt)] {
        let mut session = ready(CHUNKING_HELLO);
        begin_whole(&mut session, 1, b"x\r\n");
        session.receive(replies.as_bytes());
        assert_eq!(session.step(), wait, "for the time it has");
        session.disconnected();
        assert_eq!(session.poll(), Some(Err(SessionError::Disconnected(Step::Bdat))));
    }
    for (replies, step) in [
        ("421 bye\r\n", Step::Mail),
        ("250\r\n421 bye\r\n", Step::Bdat),
        ("250\r\n250\r\n421 bye\r\n", Step::Bdat),
        ("rubbish\r\n", Step::Bdat),
        ("354 go\r\n", Step::Bdat),
    ] {
        let mut session = ready(CHUNKING_HELLO);
        begin_whole(&mut session, 1, b"x\r\n");
        assert_eq!(failed(&mut session, replies).step(), step, "{replies:?}");
        assert_eq!(show(&session.take_results()), ["?"], "{replies:?}");
    }
}

#[test]
fn one_by_one_without_pipelining() {
    let mut session = ready(PLAIN_HELLO);
    assert_eq!(begin(&mut session, 2), "MAIL FROM:<s@here.example>\r\n");
    for (reply, command) in [
        ("250 ok\r\n", "RCPT TO:<r0@there.example>\r\n"),
        ("450 later\r\n", "RCPT TO:<r1@there.example>\r\n"),
        ("250 ok\r\n", "DATA\r\n"),
    ] {
        session.receive(reply.as_bytes());
        assert_eq!(sent(&mut session), command);
    }
    session.receive(b"354\r\n");
    assert_eq!(session.poll(), Some(Ok(Event::SendContent)));
    session.finish_content();
    session.receive(b"452 full\r\n");
    assert_eq!(finished(&mut session), ["RCPT TO 450", "end of DATA 452"]);
}

/// (what the server offers, its replies, what the client answers, the results)
type Case = (&'static str, &'static str, &'static str, &'static [&'static str]);

#[test]
fn transactions_that_end_early() {
    let cases: &[Case] = &[
        (PLAIN_HELLO, "451 no\r\n", "", &["MAIL FROM 451", "MAIL FROM 451"]),
        (PLAIN_HELLO, "250\r\n550 a\r\n551 b\r\n", "", &["RCPT TO 550", "RCPT TO 551"]),
        (PLAIN_HELLO, "250\r\n550\r\n250\r\n554 d\r\n", "", &["RCPT TO 550", "DATA 554"]),
        (HELLO, "550 a\r\n503\r\n503\r\n503\r\n", "", &["MAIL FROM 550", "MAIL FROM 550"]),
        (HELLO, "250\r\n550\r\n550\r\n554\r\n", "", &["RCPT TO 550", "RCPT TO 550"]),
        // RFC 2920 §3.1: 354 although every recipient was refused.
        (HELLO, "250\r\n550\r\n450\r\n354\r\n554\r\n", ".\r\n", &["RCPT TO 550", "RCPT TO 450"]),
        (HELLO, "250\r\n550\r\n450\r\n354\r\n250\r\n", ".\r\n", &["RCPT TO 550", "RCPT TO 450"]),
        (
            HELLO,
            "550\r\n250\r\n250\r\n354\r\n250\r\n",
            ".\r\n",
            &["MAIL FROM 550", "MAIL FROM 550"],
        ),
    ];
    for (hello, replies, answer, want) in cases {
        let mut session = ready(hello);
        begin(&mut session, 2);
        session.receive(replies.as_bytes());
        let all = sent(&mut session);
        assert!(all.ends_with(answer) && !all.contains("x\r\n.\r\n"), "{replies:?}: {all:?}");
        assert_eq!(finished(&mut session), *want, "{replies:?}");
        assert!(session.is_idle(), "{replies:?}");
    }
}

#[test]
fn reset_before_the_next_transaction_when_one_was_left_open() {
    for hello in [HELLO, PLAIN_HELLO] {
        let mut session = ready(hello);
        begin(&mut session, 1);
        let refusals = if hello == HELLO { "250\r\n550\r\n503\r\n" } else { "250\r\n550\r\n" };
        session.receive(refusals.as_bytes());
        finished(&mut session);
        sent(&mut session);
        let commands = begin(&mut session, 1);
        assert!(commands.starts_with("RSET\r\n"), "{commands}");
        assert_eq!(commands.contains("DATA"), hello == HELLO);
        session.receive(b"250\r\n");
        assert_eq!(session.step(), Step::Mail);
    }
}

#[test]
fn replies_out_of_place_end_the_session() {
    for (hello, replies, step) in [
        (HELLO, "250\r\n250\r\n250\r\n250\r\n", Step::Data),
        (HELLO, "354\r\n", Step::Mail),
        (HELLO, "250\r\n354\r\n", Step::Rcpt),
        (HELLO, "250\r\n250\r\n250\r\n354\r\n250 early\r\n", Step::Content),
        (PLAIN_HELLO, "250\r\nrubbish\r\n", Step::Rcpt),
    ] {
        let mut session = ready(hello);
        begin(&mut session, 2);
        let error = failed(&mut session, replies);
        assert!(matches!(error, SessionError::Protocol { .. }), "{replies:?}: {error}");
        assert_eq!(error.step(), step, "{replies:?}");
        assert_eq!(show(&session.take_results()), ["?", "?"], "{replies:?}");
        assert!(!session.is_idle());
    }
    let mut session = ready(HELLO);
    assert_eq!(failed(&mut session, "250 what?\r\n").step(), Step::Idle, "a reply to nothing");
}

#[test]
fn more_replies_than_asked_for_do_not_undo_a_result() {
    let mut session = ready(HELLO);
    begin(&mut session, 1);
    session.receive(b"250\r\n250\r\n354\r\n");
    session.poll();
    session.finish_content();
    session.receive(b"250 ok\r\n250 again\r\n");
    assert_eq!(finished(&mut session), ["+250"]);
    assert!(!session.is_idle(), "the connection is not used again");
}

#[test]
fn early_refusal_counts_and_ends_the_connection() {
    let mut session = ready(HELLO);
    begin(&mut session, 2);
    session.receive(b"250\r\n550\r\n250\r\n354\r\n");
    session.poll();
    session.content(b"some");
    session.receive(b"552 5.3.4 too big\r\n");
    assert_eq!(finished(&mut session), ["RCPT TO 550", "content 552"]);
    assert!(!session.is_idle());
}

#[test]
fn closing_at_any_step_keeps_what_was_said() {
    for (replies, step, want) in [
        ("421 bye\r\n", Step::Mail, &["?", "?"]),
        ("250\r\n550\r\n421 bye\r\n", Step::Rcpt, &["RCPT TO 550", "?"]),
        ("250\r\n550\r\n250\r\n421 bye\r\n", Step::Data, &["RCPT TO 550", "?"]),
        ("250\r\n550\r\n250\r\n354\r\n421 bye\r\n", Step::Content, &["RCPT TO 550", "?"]),
    ] {
        let mut session = ready(HELLO);
        begin(&mut session, 2);
        let error = failed(&mut session, replies);
        assert!(matches!(&error, SessionError::Closing { step: at, .. } if *at == step));
        assert_eq!(show(&session.take_results()), want, "{replies:?}");
    }
}

#[test]
fn lost_after_the_dot_is_unanswered() {
    let mut session = ready(HELLO);
    begin(&mut session, 1);
    session.receive(b"250\r\n250\r\n354\r\n");
    session.poll();
    session.finish_content();
    session.disconnected();
    session.timed_out();
    assert_eq!(session.poll(), Some(Err(SessionError::Disconnected(Step::FinalDot))));
    assert_eq!(show(&session.take_results()), ["?"]);
}

#[test]
fn helo_when_ehlo_is_not_known_rfc5321_3_2() {
    let mut session = session();
    session.receive(b"220 mx\r\n500 what?\r\n");
    assert_eq!(sent(&mut session), "EHLO us.example\r\nHELO us.example\r\n");
    failed(&mut session, "250 mx\nPIPELINING\r\n");
    for (server, refused_at) in [
        ("554 go away\r\n", Step::Greeting),
        ("421 busy\r\n", Step::Greeting),
        ("220 mx\r\n421 busy\r\n", Step::Hello),
        ("220 mx\r\n450 hm\r\n", Step::Hello),
        ("220 mx\r\n550 hm\r\n550 hm\r\n", Step::Hello),
    ] {
        let error = failed(&mut self::session(), server);
        assert_eq!(error.step(), refused_at, "{server:?}");
    }
}

#[test]
fn long_refusals_of_ehlo_are_cut() {
    let mut session = session();
    let refusal = format!("450-{0}\r\n450-{0}\r\n450 {0}\r\n", "x".repeat(1000));
    let error = failed(&mut session, &format!("220 mx\r\n{refusal}"));
    let SessionError::Refused { reply, .. } = error else { panic!("{error:?}") };
    assert!(reply.text.len() <= 1024);
}

#[test]
fn what_comes_before_the_handshake_is_forgotten_rfc3207_4_2() {
    let mut session = ready(HELLO);
    session.start_tls();
    assert_eq!(sent(&mut session), "STARTTLS\r\n");
    session.receive(b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n250 x");
    assert_eq!(session.poll(), Some(Ok(Event::StartTls)));
    session.receive(b"250 evil\r\n");
    session.tls_started();
    assert_eq!(sent(&mut session), "EHLO us.example\r\n");
    assert_eq!(session.poll(), None);
    session.receive(b"250-mx\r\n250 DSN\r\n");
    assert_eq!(session.poll(), Some(Ok(Event::Ready)));
    let offered = session.capabilities();
    assert!(offered.dsn && !offered.auth_plain && !offered.starttls && !offered.pipelining);
}

#[test]
fn starttls_refused_goes_on_in_clear() {
    let mut session = ready(HELLO);
    session.start_tls();
    session.receive(b"454 4.7.0 not now\r\n");
    assert!(matches!(session.poll(), Some(Ok(Event::StartTlsRefused(_)))));
    assert!(session.is_idle());
}

#[test]
fn authentication_rfc4954() {
    let credentials = Credentials { login: "u".into(), password: Password::new("p") };
    assert!(!format!("{credentials:?}").contains("\"p\""));

    let mut plain = ready("220 mx\r\n250-mx\r\n250 AUTH LOGIN PLAIN\r\n");
    assert!(plain.authenticate(&credentials));
    assert_eq!(sent(&mut plain), "AUTH PLAIN AHUAcA==\r\n");
    plain.receive(b"235 ok\r\n");
    assert_eq!(plain.poll(), Some(Ok(Event::Authenticated)));

    let mut login = ready("220 mx\r\n250-mx\r\n250 AUTH LOGIN\r\n");
    assert!(login.authenticate(&credentials));
    login.receive(b"334 VXNlcm5hbWU6\r\n");
    login.receive(b"334 UGFzc3dvcmQ6\r\n");
    assert_eq!(sent(&mut login), "AUTH LOGIN\r\ndQ==\r\ncA==\r\n");
    login.receive(b"535 5.7.8 no\r\n");
    assert!(matches!(login.poll(), Some(Ok(Event::AuthRefused(_)))));

    let mut endless = ready("220 mx\r\n250-mx\r\n250 AUTH PLAIN\r\n");
    assert!(endless.authenticate(&credentials));
    failed(&mut endless, "334 more\r\n");
    assert!(!ready(PLAIN_HELLO).authenticate(&credentials));
}

proptest! {
    #[test]
    fn any_split_of_a_transaction_gives_the_same(
        replies in proptest::collection::vec(prop_oneof![
            3 => Just("250 ok\r\n"), 2 => Just("550 5.1.1 no\r\n"), 1 => Just("450 x\r\n"),
            2 => Just("354 go\r\n"), 1 => Just("421 bye\r\n"), 1 => Just("rubbish\r\n"),
        ], 0..8).prop_map(|replies| replies.concat()),
        cuts in proptest::collection::vec(any::<usize>(), 0..4),
    ) {
        let run = |cuts: &[usize]| {
            let mut session = ready(HELLO);
            begin(&mut session, 2);
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut % (replies.len() + 1)).collect();
            ends.push(replies.len());
            ends.sort_unstable();
            let mut start = 0;
            for end in ends {
                session.receive(&replies.as_bytes()[start..end]);
                start = end;
            }
            let events = (session.poll(), session.poll());
            (events, session.step(), sent(&mut session), session.take_results())
        };
        prop_assert_eq!(run(&cuts), run(&[]));
    }
}
