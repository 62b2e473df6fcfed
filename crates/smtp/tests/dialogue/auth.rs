//! AUTH. `AGFsaWNlAHNlY3JldA==` is PLAIN of alice with the right password, `AGFsaWNlAHdyb25n`
//! with a wrong one.

use std::sync::Arc;

use smtp::ListenerKind::{Relay, Submission, Submissions};
use smtp::{Scram, ServerConfig, ServerSession, Transport};

use super::harness::{Case, config, run};

const CASES: &[Case] = &[
    Case {
        name: "auth-plain-initial",
        rule: "RFC 4954 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
            S: 235 2.7.0
            C: MAIL FROM:<a@example.com> AUTH=<>
            S: 250 2.1.0",
    },
    Case {
        name: "auth-plain-challenge",
        rule: "RFC 4954 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: auth plain
            S: 334
            C: AGFsaWNlAHNlY3JldA==
            S: 235 2.7.0",
    },
    Case {
        name: "auth-login",
        rule: "RFC 4954 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH LOGIN
            S: 334 VXNlcm5hbWU6
            C: YWxpY2U=
            S: 334 UGFzc3dvcmQ6
            C: c2VjcmV0
            S: 235 2.7.0",
    },
    Case {
        name: "auth-login-initial",
        rule: "RFC 4954 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH LOGIN YWxpY2U=
            S: 334 UGFzc3dvcmQ6
            C: c2VjcmV0
            S: 235 2.7.0",
    },
    Case {
        name: "auth-twice",
        rule: "RFC 4954 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
            S: 235 2.7.0
            C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
            S: 503 5.5.1",
    },
    Case {
        name: "auth-in-transaction",
        rule: "RFC 4954 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
            S: 235 2.7.0
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0
            C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
            S: 503 5.5.1
            C: RCPT TO:<b@example.org>
            S: 250 2.1.5",
    },
    Case {
        name: "auth-wrong-then-right",
        rule: "RFC 4954 §6",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH PLAIN AGFsaWNlAHdyb25n
            S: 535 5.7.8
            C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
            S: 235 2.7.0",
    },
    Case {
        name: "auth-failures-limit",
        rule: "RFC 4954 §9",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH PLAIN AGFsaWNlAHdyb25n
            S: 535 5.7.8
            C: AUTH PLAIN AGFsaWNlAHdyb25n
            S: 535 5.7.8
            C: AUTH PLAIN AGFsaWNlAHdyb25n
            S: 421 4.7.0
            - TooManyAuthFailures
            - close",
    },
    Case {
        name: "auth-cancelled",
        rule: "RFC 4954 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH LOGIN
            S: 334
            C: *
            S: 501 5.7.0
            C: NOOP
            S: 250 2.0.0",
    },
    Case {
        name: "auth-bad-base64",
        rule: "RFC 4954 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH PLAIN !!!
            S: 501 5.5.2
            C: AUTH PLAIN =
            S: 501 5.5.2
            C: AUTH LOGIN
            S: 334
            C: /w==
            S: 501 5.5.2",
    },
    Case {
        name: "auth-for-another",
        rule: "RFC 4616 §2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH PLAIN Ym9iAGFsaWNlAHNlY3JldA==
            S: 501 5.5.2",
    },
    Case {
        name: "auth-scram",
        rule: "RFC 7677 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH SCRAM-SHA-256 Zmlyc3Q=
            S: 334 Y2hhbGxlbmdl
            C: ZmluYWw=
            S: 334 dmVyaWZpZWQ=
            C:
            S: 235 2.7.0
            C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
            S: 503 5.5.1
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0",
    },
    Case {
        name: "auth-scram-challenge",
        rule: "RFC 4954 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH scram-sha-256
            S: 334
            C: Zmlyc3Q=
            S: 334 Y2hhbGxlbmdl
            C: *
            S: 501 5.7.0
            C: AUTH SCRAM-SHA-256 Zmlyc3Q=
            S: 334 Y2hhbGxlbmdl
            C: d3Jvbmc=
            S: 535 5.7.8
            C: MAIL FROM:<a@example.com>
            S: 530 5.7.0",
    },
    Case {
        name: "auth-mechanism",
        rule: "RFC 4954 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH GSSAPI
            S: 504 5.5.4
            C: AUTH
            S: 501 5.5.4",
    },
    Case {
        name: "auth-needs-ehlo",
        rule: "RFC 4954 §3",
        script: "
            S: 220
            C: HELO client.example
            S: 250
            C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
            S: 503 5.5.1",
    },
    Case {
        name: "auth-long-line",
        rule: "RFC 4954 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH PLAIN \\*800A
            S: 501 5.5.2
            C: AUTH LOGIN
            S: 334
            C: \\*999A\\*100A
            S: 500 5.5.6
            - Line(TooLong)",
    },
    Case {
        name: "auth-ends-a-group",
        rule: "RFC 4954 §4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
            C: MAIL FROM:<a@example.com>
            S: 554 5.5.0
            - UnauthorizedPipelining
            - close",
    },
];

#[test]
fn dialogues() {
    run(Submissions, CASES);
}

#[test]
fn what_is_offered() {
    for (scram, want) in [
        (Scram::Offered, "250-AUTH PLAIN LOGIN SCRAM-SHA-256\r\n"),
        (Scram::Unavailable, "250-AUTH PLAIN LOGIN\r\n"),
    ] {
        let config = ServerConfig { scram, ..config(Submissions) };
        let mut session = ServerSession::new(Arc::new(config), Transport::Tls);
        session.next(b"");
        session.next(b"EHLO client.example\r\n");
        let said = String::from_utf8(session.output().clone()).unwrap();
        assert!(said.contains(want), "{said}");
        session.output().clear();
        session.next(b"AUTH SCRAM-SHA-256\r\n");
        let said = String::from_utf8(session.output().clone()).unwrap();
        let is_offered = scram == Scram::Offered;
        assert!(said.starts_with(if is_offered { "334 " } else { "504 5.5.4 " }), "{said}");
    }
}

#[test]
fn not_offered() {
    run(
        Relay,
        &[Case {
            name: "auth-on-relay",
            rule: "RFC 4954 §4",
            script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
            S: 503 5.5.1",
        }],
    );
    run(
        Submission,
        &[Case {
            name: "auth-in-clear",
            rule: "RFC 4954 §4",
            script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
            S: 538 5.7.11",
        }],
    );
}
