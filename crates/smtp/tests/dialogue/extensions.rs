//! SIZE, 8BITMIME, SMTPUTF8, ENHANCEDSTATUSCODES, DSN, STARTTLS.

use smtp::ListenerKind::{Relay, Submission};

use super::harness::{Case, Dialogue, config, run};

const CASES: &[Case] = &[
    Case {
        name: "size-declared",
        rule: "RFC 1870 §6.1",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com> SIZE=1001
            S: 552 5.3.4
            - MessageTooLarge
            C: MAIL FROM:<a@example.com> SIZE=99999999999999999999
            S: 552 5.3.4
            - MessageTooLarge
            C: MAIL FROM:<a@example.com> SIZE=x
            S: 501 5.5.4
            C: MAIL FROM:<a@example.com> SIZE
            S: 501 5.5.4
            C: MAIL FROM:<a@example.com> SIZE=1000
            S: 250 2.1.0",
    },
    Case {
        name: "body",
        rule: "RFC 6152 §2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com> BODY=BINARYMIME
            S: 501 5.5.4
            C: MAIL FROM:<a@example.com> BODY=7bit
            S: 250 2.1.0",
    },
    Case {
        name: "smtputf8",
        rule: "RFC 6531 §3.4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<\u{fc}@example.com> SMTPUTF8
            S: 250 2.1.0
            C: RCPT TO:<b@b\u{fc}cher.example>
            S: 250 2.1.5",
    },
    Case {
        name: "smtputf8-missing",
        rule: "RFC 6531 §3.5",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<\u{fc}@example.com>
            S: 553 5.6.7
            C: MAIL FROM:<a@example.com> SMTPUTF8=1
            S: 501 5.5.4
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0
            C: RCPT TO:<\u{fc}@example.org>
            S: 553 5.6.7",
    },
    Case {
        name: "dsn-parameters",
        rule: "RFC 3461 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com> RET=HDRS ENVID=QQ+2B314
            S: 250 2.1.0
            C: RCPT TO:<b@example.org> NOTIFY=SUCCESS,delay ORCPT=rfc822;Bob+2Bx@example.org
            S: 250 2.1.5
            C: RCPT TO:<c@example.org> NOTIFY=NEVER ORCPT=utf-8;\\x5cx{FC}@example.org
            S: 250 2.1.5",
    },
    Case {
        name: "dsn-parameters-bad",
        rule: "RFC 3461 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com> RET=ALL
            S: 501 5.5.4
            C: MAIL FROM:<a@example.com> ENVID=a+2
            S: 501 5.5.4
            C: MAIL FROM:<a@example.com>
            S: 250
            C: RCPT TO:<b@example.org> NOTIFY=NEVER,SUCCESS
            S: 501 5.5.4
            C: RCPT TO:<b@example.org> ORCPT=rfc822;a+0D+0Ab
            S: 501 5.5.4
            C: RCPT TO:<b@example.org> ORCPT=b@example.org
            S: 501 5.5.4",
    },
    Case {
        name: "starttls",
        rule: "RFC 3207 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: STARTTLS
            S: 220 2.0.0
            TLS
            C: MAIL FROM:<a@example.com>
            S: 503 5.5.1
            C: EHLO client.example
            S: 250 CHUNKING
            C: STARTTLS
            S: 503 5.5.1
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0",
    },
    Case {
        name: "starttls-injection",
        rule: "RFC 3207 §4.2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<evil@example.com>
            S: 250 2.1.0
            C: STARTTLS
            C: RCPT TO:<b@example.org>
            C: DATA
            C= RSE
            S: 220 2.0.0
            TLS
            C: RCPT TO:<b@example.org>
            S: 503 5.5.1
            C: NOOP
            S: 250 2.0.0",
    },
    Case {
        name: "starttls-argument",
        rule: "RFC 3207 §4",
        script: "
            S: 220
            C: STARTTLS
            S: 503 5.5.1
            C: EHLO client.example
            S: 250 CHUNKING
            C: STARTTLS now
            S: 501 5.5.4",
    },
];

#[test]
fn dialogues() {
    run(Relay, CASES);
}

/// RFC 5321 §4.1.1.1, RFC 3207 §4.2, RFC 4954 §3: the whole list, per listener and transport.
#[test]
fn ehlo_lists_what_is_offered() {
    use smtp::server::Transport::{Clear, Tls};
    let common = "PIPELINING SIZE 1000 8BITMIME SMTPUTF8 ENHANCEDSTATUSCODES DSN HELP";
    for (kind, transport, more) in [
        (Relay, Clear, " STARTTLS CHUNKING"),
        (Relay, Tls, " CHUNKING"),
        (Submission, Clear, " STARTTLS CHUNKING"),
        (Submission, Tls, " AUTH PLAIN LOGIN SCRAM-SHA-256 CHUNKING"),
    ] {
        let mut session = smtp::ServerSession::new(std::sync::Arc::new(config(kind)), transport);
        session.next(b"");
        session.output().clear();
        session.next(b"EHLO client.example\r\n");
        let reply = String::from_utf8(std::mem::take(session.output())).unwrap();
        let lines: Vec<&str> = reply.split_terminator("\r\n").skip(1).map(|l| &l[4..]).collect();
        assert_eq!(lines.join(" "), format!("{common}{more}"), "{kind:?} {transport:?}");
    }
}

#[test]
fn starttls_without_a_certificate() {
    let mut config = config(Relay);
    config.starttls = smtp::StartTls::Unavailable;
    Dialogue::new(config, smtp::server::Transport::Clear).run(&Case {
        name: "starttls-unavailable",
        rule: "RFC 3207 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: STARTTLS
            S: 502 5.5.1",
    });
}

/// RFC 3848, RFC 6531 §4.3: what Received says of how mail came.
#[test]
fn protocols() {
    use smtp::server::Transport::{Clear, Tls};
    for (kind, transport, hello, mail, want) in [
        (Relay, Clear, "HELO c.example", "MAIL FROM:<>", "SMTP"),
        (Relay, Clear, "EHLO c.example", "MAIL FROM:<>", "ESMTP"),
        (Relay, Tls, "EHLO c.example", "MAIL FROM:<>", "ESMTPS"),
        (Relay, Clear, "EHLO c.example", "MAIL FROM:<> SMTPUTF8", "UTF8SMTP"),
        (Relay, Tls, "EHLO c.example", "MAIL FROM:<> SMTPUTF8", "UTF8SMTPS"),
        (Submission, Tls, "EHLO c.example", "MAIL FROM:<>", "ESMTPSA"),
        (Submission, Tls, "EHLO c.example", "MAIL FROM:<> SMTPUTF8", "UTF8SMTPSA"),
    ] {
        let config = std::sync::Arc::new(config(kind));
        let mut session = smtp::ServerSession::new(config, transport);
        session.next(b"");
        session.next(format!("{hello}\r\n").as_bytes());
        if kind == Submission {
            session.next(b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n");
            session.answer(smtp::Answer::Accept);
        }
        let (_, event) = session.next(format!("{mail}\r\n").as_bytes());
        let smtp::Event::Mail(mail) = event else { panic!("{event:?}") };
        assert_eq!(session.protocol(&mail).to_string(), want);
    }
}
