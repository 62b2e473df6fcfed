//! DATA: its end, its dots, its limits; smuggling.

use smtp::ListenerKind::Relay;

use super::harness::{Case, run};

const CASES: &[Case] = &[
    Case {
        name: "transparency",
        rule: "RFC 5321 §4.5.2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: DATA
            S: 250
            S: 250
            S: 354
            C: ..
            C: ..a
            C: .b
            C: .
            M: .\\r\\n.a\\r\\nb\\r\\n
            S: 250 2.0.0",
    },
    Case {
        name: "smuggling-lf-dot-lf",
        rule: "RFC 5321 §4.1.1.4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: DATA
            S: 250
            S: 250
            S: 354
            C= x\\n.\\nMAIL FROM:<admin@example.org>\\r\\nRCPT TO:<b@example.org>\\r\\nDATA\\r\\n
            - reset
            - Content(BareLf)
            C: y
            C: .
            S: 550 5.6.11
            - close",
    },
    Case {
        name: "smuggling-lf-dot-crlf",
        rule: "RFC 5321 §4.1.1.4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: DATA
            S: 250
            S: 250
            S: 354
            C= x\\n.\\r\\nMAIL FROM:<admin@example.org>\\r\\n
            - reset
            - Content(BareLf)
            C: .
            S: 550 5.6.11
            - close",
    },
    Case {
        name: "smuggling-crlf-dot-lf",
        rule: "RFC 5321 §4.1.1.4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: DATA
            S: 250
            S: 250
            S: 354
            C= x\\r\\n.\\nMAIL FROM:<admin@example.org>\\r\\n
            - reset
            - Content(BareLf)
            C: .
            S: 550 5.6.11
            - close",
    },
    Case {
        name: "smuggling-cr-dot-cr",
        rule: "RFC 5321 §2.3.8",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: DATA
            S: 250
            S: 250
            S: 354
            C= x\\r.\\rMAIL FROM:<admin@example.org>\\r\\n
            - reset
            - Content(BareCr)
            C: .
            S: 550 5.6.11
            - close",
    },
    Case {
        name: "smuggling-crlf-dot-cr-crlf",
        rule: "RFC 5321 §2.3.8",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: DATA
            S: 250
            S: 250
            S: 354
            C= x\\r\\n.\\r\\r\\nMAIL FROM:<admin@example.org>\\r\\n
            - reset
            - Content(BareCr)
            C: .
            C: MAIL FROM:<admin@example.org>
            S: 550 5.6.11
            - close",
    },
    Case {
        name: "long-text-line",
        rule: "RFC 5321 §4.5.3.1.6",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: DATA
            S: 250
            S: 250
            S: 354
            C: \\*101x
            - reset
            - Content(LineTooLong)
            C: .
            S: 554 5.6.0
            C: NOOP
            S: 250 2.0.0",
    },
    Case {
        name: "larger-than-declared-limit",
        rule: "RFC 1870 §6.3",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: DATA
            S: 250
            S: 250
            S: 354
            C: \\*098x
            C: \\*098x
            C: \\*098x
            C: \\*098x
            C: \\*098x
            C: \\*098x
            C: \\*098x
            C: \\*098x
            C: \\*098x
            C: \\*098x
            C: 1
            - reset
            - MessageTooLarge
            C: .
            C: NOOP
            S: 552 5.3.4
            S: 250 2.0.0",
    },
    Case {
        name: "refused-at-the-end",
        rule: "RFC 5321 §4.2.5",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: DATA
            S: 250
            S: 250
            S: 354
            C: full
            C: .
            S: 452 4.3.1
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0",
    },
    Case {
        name: "8bit-content",
        rule: "RFC 6152 §3",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com> BODY=8BITMIME
            C: RCPT TO:<b@example.org>
            C: DATA
            S: 250
            S: 250
            S: 354
            C: gr\u{fc}n
            C: .
            M: gr\u{fc}n\\r\\n
            S: 250 2.0.0",
    },
];

#[test]
fn dialogues() {
    run(Relay, CASES);
}
