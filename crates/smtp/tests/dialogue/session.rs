//! Greeting, HELO, EHLO, QUIT, lines and pipelining.

use smtp::ListenerKind::Relay;

use super::harness::{Case, run};

const CASES: &[Case] = &[
    Case {
        name: "greeting",
        rule: "RFC 5321 §3.1",
        script: "
            S: 220 mx.example.org ESMTP
            C: QUIT
            S: 221 2.0.0
            - close",
    },
    Case {
        name: "input-before-greeting",
        rule: "RFC 5321 §3.1",
        script: "
            C: EHLO client.example
            S: 554 5.5.0
            - UnauthorizedPipelining
            - close",
    },
    Case {
        name: "helo",
        rule: "RFC 5321 §4.1.1.1",
        script: "
            S: 220
            C: HELO client.example
            S: 250 mx.example.org
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0",
    },
    Case {
        name: "ehlo-verbs-in-any-case",
        rule: "RFC 5321 §2.4",
        script: "
            S: 220
            C: eHlO client.example
            S: 250 CHUNKING
            C: mail from:<a@example.com> size=10
            S: 250 2.1.0
            C: rCpT tO:<b@example.org>
            S: 250 2.1.5",
    },
    Case {
        name: "ehlo-literal",
        rule: "RFC 5321 §4.1.4",
        script: "
            S: 220
            C: EHLO [IPv6:2001:db8::1]
            S: 250 CHUNKING",
    },
    Case {
        name: "ehlo-argument",
        rule: "RFC 5321 §4.1.1.1",
        script: "
            S: 220
            C: EHLO
            S: 501 5.5.4
            C: EHLO two words
            S: 501 5.5.4
            C: HELO <b>x</b>
            S: 501 5.5.4
            C: MAIL FROM:<>
            S: 503 5.5.1",
    },
    Case {
        name: "ehlo-name-not-verified",
        rule: "RFC 5321 §4.1.4",
        script: "
            S: 220
            C: EHLO my_pc
            S: 250 CHUNKING",
    },
    Case {
        name: "ehlo-again-resets",
        rule: "RFC 5321 §4.1.4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0
            C: EHLO client.example
            S: 250 CHUNKING
            - reset
            C: RCPT TO:<b@example.org>
            S: 503 5.5.1",
    },
    Case {
        name: "commands-before-ehlo",
        rule: "RFC 5321 §4.1.4",
        script: "
            S: 220
            C: NOOP
            S: 250 2.0.0
            C: HELP
            S: 214 2.0.0
            C: VRFY a
            S: 252 2.0.0
            C: RSET
            S: 250 2.0.0
            C: MAIL FROM:<a@example.com>
            S: 503 5.5.1
            C: QUIT
            S: 221 2.0.0
            - close",
    },
    Case {
        name: "unknown-command",
        rule: "RFC 5321 §4.2.4",
        script: "
            S: 220
            C: FROB x
            S: 500 5.5.1
            C: EXPN list
            S: 502 5.5.1
            C: TURN
            S: 500 5.5.1
            C:
            S: 500 5.5.1",
    },
    Case {
        name: "arguments-where-none-belong",
        rule: "RFC 5321 §4.1.1",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: RSET now
            S: 501 5.5.4
            C: DATA now
            S: 501 5.5.4
            C: QUIT now
            S: 501 5.5.4
            C: VRFY
            S: 501 5.5.4
            C: NOOP whatever
            S: 250 2.0.0",
    },
    Case {
        name: "trailing-space",
        rule: "RFC 5321 §4.1.1",
        script: "
            S: 220
            C: EHLO client.example \\x20
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com> \\x20
            S: 250 2.1.0
            C: RSET \\x20
            S: 250 2.0.0
            - reset",
    },
    Case {
        name: "long-line-refused-whole",
        rule: "RFC 5321 §4.5.3.1.4",
        script: "
            S: 220
            C: NOOP \\*507x
            S: 250 2.0.0
            C: NOOP \\*508x
            S: 500 5.5.2
            - Line(TooLong)
            C: NOOP \\*999x RCPT TO:<b@example.org>
            S: 500 5.5.2
            - Line(TooLong)",
    },
    Case {
        name: "bare-cr-in-command",
        rule: "RFC 5321 §2.3.8",
        script: "
            S: 220
            C: NOOP\\rMAIL FROM:<a@example.com>
            S: 501 5.5.2
            - Line(BareCr)
            C: NOOP
            S: 250 2.0.0",
    },
    Case {
        name: "bare-lf-in-command",
        rule: "RFC 5321 §2.3.8",
        script: "
            S: 220
            C: NOOP\\nMAIL FROM:<a@example.com>
            S: 501 5.5.2
            - Line(BareLf)
            - close",
    },
    Case {
        name: "nul-in-command",
        rule: "RFC 5321 §4.1.2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a\\0@example.com>
            S: 501 5.5.2
            - Line(Nul)",
    },
    Case {
        name: "command-not-utf8",
        rule: "RFC 6531 §3.4",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<\\xff@example.com> SMTPUTF8
            S: 501 5.5.2",
    },
    Case {
        name: "errors-limit",
        rule: "RFC 5321 §3.8",
        script: "
            S: 220
            C: A
            S: 500
            C: B
            S: 500
            C: C
            S: 500
            C: D
            S: 500
            C: E
            S: 500
            C: F
            S: 421 4.7.0
            - TooManyErrors
            - close",
    },
    Case {
        name: "http-is-sent-away",
        rule: "RFC 5321 §3.8",
        script: "
            S: 220
            C: POST / HTTP/1.1
            C: EHLO client.example
            S: 421 4.7.0
            - close",
    },
    Case {
        name: "quit-ends-everything",
        rule: "RFC 5321 §4.1.1.10",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: QUIT
            C: DATA
            S: 250 2.1.0
            S: 250 2.1.5
            S: 221 2.0.0
            - close",
    },
    Case {
        name: "pipelining-a-group",
        rule: "RFC 2920 §3.1",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: RSET
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: RCPT TO:<nobody@example.org>
            C: DATA
            S: 250 2.0.0
            S: 250 2.1.0
            S: 250 2.1.5
            S: 550 5.1.1
            S: 354
            C: hello
            C: .
            C: QUIT
            M: hello\\r\\n
            S: 250 2.0.0 Ok: queued as 1
            S: 221 2.0.0
            - close",
    },
    Case {
        name: "pipelining-after-ehlo",
        rule: "RFC 2920 §3.1",
        script: "
            S: 220
            C: EHLO client.example
            C: MAIL FROM:<a@example.com>
            S: 554 5.5.0
            - UnauthorizedPipelining
            - close",
    },
    Case {
        name: "pipelining-after-data",
        rule: "RFC 2920 §3.1",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            C: DATA
            C: hello
            S: 250 2.1.0
            S: 250 2.1.5
            S: 554 5.5.0
            - UnauthorizedPipelining
            - close",
    },
    Case {
        name: "pipelining-after-noop",
        rule: "RFC 2920 §3.1",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: NOOP
            C: NOOP
            S: 554 5.5.0
            - UnauthorizedPipelining
            - close",
    },
    Case {
        name: "pipelining-after-vrfy",
        rule: "RFC 2920 §3.1",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: VRFY a
            C: VRFY b
            S: 554 5.5.0
            - UnauthorizedPipelining
            - close",
    },
    Case {
        name: "pipelining-without-ehlo",
        rule: "RFC 2920 §3.1",
        script: "
            S: 220
            C: HELO client.example
            S: 250 mx.example.org
            C: MAIL FROM:<a@example.com>
            C: RCPT TO:<b@example.org>
            S: 554 5.5.0
            - UnauthorizedPipelining
            - close",
    },
    Case {
        name: "pipelining-never-outruns-an-answer",
        rule: "RFC 2920 §3.2",
        script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<refused@example.com>
            C: RCPT TO:<b@example.org>
            C: DATA
            S: 550 5.7.1
            S: 503 5.5.1
            S: 503 5.5.1",
    },
];

#[test]
fn dialogues() {
    run(Relay, CASES);
}

#[test]
fn commands_limit() {
    use super::harness::{Dialogue, config};
    let mut config = config(Relay);
    config.limits.commands_max = 2;
    Dialogue::new(config, smtp::server::Transport::Clear).run(&Case {
        name: "commands-limit",
        rule: "RFC 5321 §3.8",
        script: "
            S: 220
            C: NOOP
            S: 250
            C: NOOP
            S: 250
            C: NOOP
            S: 421 4.7.0
            - TooManyCommands
            - close",
    });
}
