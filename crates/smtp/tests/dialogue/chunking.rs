//! BDAT.

use smtp::ListenerKind::Relay;

use super::harness::{Case, run};

const CASES: &[Case] = &[
    Case {
        name: "bdat",
        rule: "RFC 3030 §2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: BDAT 6
            C= .\\r\\n.\\r\\n
            S: 250 2.1.0
            S: 250 2.1.5
            S: 250 2.0.0 6 octets received
            C: BDAT 3 last
            C= a\\r\\n
            M: .\\r\\n.\\r\\na\\r\\n
            S: 250 2.0.0 Ok: queued as 1",
    },
    Case {
        name: "bdat-last-empty",
        rule: "RFC 3030 §2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: BDAT 3
            C= a\\r\\n
            S: 250 2.1.0
            S: 250 2.1.5
            S: 250 2.0.0 3
            C: BDAT 0 LAST
            C: QUIT
            M: a\\r\\n
            S: 250 2.0.0
            S: 221 2.0.0
            - close",
    },
    Case {
        name: "bdat-pair-split-over-chunks",
        rule: "RFC 3030 §2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: BDAT 2
            C= a\\r
            C: BDAT 2 LAST
            C= \\nb
            S: 250
            S: 250
            S: 250 2.0.0 2
            M: a\\r\\nb
            S: 250 2.0.0",
    },
    Case {
        name: "bdat-bare-lf",
        rule: "RFC 5321 §2.3.8",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: BDAT 10 LAST
            C= a\\n.\\nb\\r\\n\\r\\n
            S: 250
            S: 250
            - reset
            - Content(BareLf)
            C= x
            S: 550 5.6.11
            - close",
    },
    Case {
        name: "bdat-refused-chunk-is-consumed",
        rule: "RFC 3030 §2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: BDAT 16 LAST
            C= MAIL FROM:<a@b>X
            S: 503 5.5.1
            C: NOOP
            S: 250 2.0.0",
    },
    Case {
        name: "bdat-without-recipients",
        rule: "RFC 3030 §2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<nobody@example.org>
            C: BDAT 3 LAST
            C= a\\r\\n
            S: 250
            S: 550
            S: 554 5.5.1
            C: RSET
            S: 250 2.0.0
            - reset",
    },
    Case {
        name: "bdat-and-data-do-not-mix",
        rule: "RFC 3030 §3",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: BDAT 3
            C= a\\r\\n
            C: DATA
            S: 250
            S: 250
            S: 250 2.0.0 3
            S: 503 5.5.1
            C: RCPT TO:<c@example.org>
            S: 503 5.5.1
            C: RSET
            S: 250 2.0.0
            - reset",
    },
    Case {
        name: "bdat-syntax-closes",
        rule: "RFC 3030 §2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: BDAT -1 LAST
            C: NOOP
            S: 501 5.5.4
            - close",
    },
    Case {
        name: "bdat-huge",
        rule: "RFC 1870 §6.3",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: BDAT 18446744073709551615 LAST
            S: 552 5.3.4
            - MessageTooLarge
            - close",
    },
    Case {
        name: "bdat-over-the-size-limit",
        rule: "RFC 1870 §6.3",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: BDAT 998
            S: 250
            S: 250
            C= \\*998a
            - reset
            - Content(LineTooLong)
            S: 554 5.6.0
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: BDAT 1001
            S: 250
            S: 250
            - reset
            - MessageTooLarge
            C= \\*999a\\r\\n
            S: 552 5.3.4",
    },
    Case {
        name: "bdat-pipelined",
        rule: "RFC 3030 §4.2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: BDAT 3
            C= a\\r\\n
            C: BDAT 3 LAST
            C= b\\r\\n
            S: 250
            S: 250
            S: 250
            M: a\\r\\nb\\r\\n
            S: 250 2.0.0",
    },
];

#[test]
fn dialogues() {
    run(Relay, CASES);
}
