//! MAIL, RCPT, RSET and the order of commands.

use smtp::ListenerKind::Relay;

use super::harness::{Case, run};

const CASES: &[Case] = &[
    Case {
        name: "message",
        rule: "RFC 5321 §3.3",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0
            C: RCPT TO:<b@example.org>
            S: 250 2.1.5
            C: DATA
            S: 354
            C: Subject: x
            C:
            C: body
            C: .
            M: Subject: x\\r\\n\\r\\nbody\\r\\n
            S: 250 2.0.0 Ok: queued as 1
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0",
    },
    Case {
        name: "null-sender",
        rule: "RFC 5321 §4.5.5",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<>
            S: 250 2.1.0",
    },
    Case {
        name: "postmaster",
        rule: "RFC 5321 §4.5.1",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<>
            S: 250 2.1.0
            C: RCPT TO:<PostMaster>
            S: 250 2.1.5
            C: RCPT TO:<postmaster@example.org>
            S: 250 2.1.5",
    },
    Case {
        name: "nested-mail",
        rule: "RFC 5321 §4.1.4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0
            C: MAIL FROM:<b@example.com>
            S: 503 5.5.1
            C: RCPT TO:<b@example.org>
            S: 250 2.1.5",
    },
    Case {
        name: "out-of-order",
        rule: "RFC 5321 §4.1.4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: RCPT TO:<b@example.org>
            S: 503 5.5.1
            C: DATA
            S: 503 5.5.1
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0
            C: DATA
            S: 503 5.5.1
            C: RCPT TO:<b@example.org>
            S: 250 2.1.5",
    },
    Case {
        name: "no-valid-recipients",
        rule: "RFC 5321 §3.3",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<nobody@example.org>
            C: DATA
            S: 250 2.1.0
            S: 550 5.1.1
            S: 554 5.5.1",
    },
    Case {
        name: "rset",
        rule: "RFC 5321 §4.1.1.5",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0
            C: RSET
            S: 250 2.0.0
            - reset
            C: RSET
            S: 250 2.0.0
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0",
    },
    Case {
        name: "refusal-keeps-the-transaction",
        rule: "RFC 5321 §3.3",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0
            C: RCPT TO:<later@example.org>
            S: 451 4.3.0
            C: RCPT TO:<b@example.org>
            S: 250 2.1.5
            C: DATA
            S: 354
            C: .
            M:\\x20
            S: 250 2.0.0",
    },
    Case {
        name: "refused-sender",
        rule: "RFC 5321 §3.3",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<refused@example.com>
            S: 550 5.7.1
            C: RCPT TO:<b@example.org>
            S: 503 5.5.1",
    },
    Case {
        name: "421-closes",
        rule: "RFC 5321 §3.8",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<shutdown@example.org>
            C: RCPT TO:<b@example.org>
            S: 250 2.1.0
            S: 421 4.3.2
            - close",
    },
    Case {
        name: "recipients-limit",
        rule: "RFC 5321 §4.5.3.1.10",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: RCPT TO:<c@example.org>
            C: RCPT TO:<d@example.org>
            C: RCPT TO:<e@example.org>
            C: DATA
            S: 250 2.1.0
            S: 250 2.1.5
            S: 250 2.1.5
            S: 250 2.1.5
            S: 452 4.5.3
            - TooManyRecipients
            S: 354
            C: x
            C: .
            M: x\\r\\n
            S: 250 2.0.0",
    },
    Case {
        name: "paths",
        rule: "RFC 5321 §4.1.2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<\\x22quoted > part\\x22@example.com>
            S: 250 2.1.0
            C: RCPT TO:<b@[192.0.2.1]>
            S: 250 2.1.5
            C: RCPT TO:<@relay.example,@other.example:b@example.org>
            S: 250 2.1.5",
    },
    Case {
        name: "path-syntax",
        rule: "RFC 5321 §4.1.1.2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM: <a@example.com>
            S: 501 5.5.4
            C: MAIL FROM:a@example.com
            S: 501 5.5.4
            C: MAIL FROM:<a@example.com
            S: 501 5.5.4
            C: MAIL FROM:<a b@example.com>
            S: 501 5.1.7
            C: MAIL
            S: 501 5.5.4",
    },
    Case {
        name: "path-syntax-forward",
        rule: "RFC 5321 §4.1.1.3",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0
            C: RCPT TO:<>
            S: 501 5.1.3
            C: RCPT TO:<b>
            S: 501 5.1.3
            C: RCPT TO: <b@example.org>
            S: 501 5.5.4
            C: RCPT TO:<b@example..org>
            S: 501 5.1.3",
    },
    Case {
        name: "parameters-need-ehlo",
        rule: "RFC 5321 §4.1.1.11",
        script: "
            S: 220
            C: HELO client.example
            S: 250
            C: MAIL FROM:<a@example.com> SIZE=1
            S: 555 5.5.4
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0
            C: RCPT TO:<b@example.org> NOTIFY=NEVER
            S: 555 5.5.4",
    },
    Case {
        name: "unknown-parameters",
        rule: "RFC 5321 §4.1.1.11",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com> FROB=1
            S: 555 5.5.4
            C: MAIL FROM:<a@example.com> -X
            S: 501 5.5.4
            C: MAIL FROM:<a@example.com> SIZE=1 SIZE=1
            S: 501 5.5.4
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0
            C: RCPT TO:<b@example.org> SIZE=1
            S: 555 5.5.4",
    },
];

#[test]
fn dialogues() {
    run(Relay, CASES);
}
