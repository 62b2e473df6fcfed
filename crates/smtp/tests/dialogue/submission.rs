//! What submission asks for before it takes mail.

use smtp::ListenerKind::{Submission, Submissions};

use super::harness::{Case, run};

#[test]
fn starttls_then_auth_then_mail() {
    run(
        Submission,
        &[Case {
            name: "submission",
            rule: "RFC 6409 §4.3",
            script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            S: 530 5.7.0 Send STARTTLS
            C: STARTTLS
            S: 220 2.0.0
            TLS
            C: EHLO client.example
            S: 250 CHUNKING
            C: MAIL FROM:<a@example.com>
            S: 530 5.7.0 Authentication
            C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
            S: 235 2.7.0
            C: MAIL FROM:<a@example.com>
            S: 250 2.1.0",
        }],
    );
}

#[test]
fn auth_from_the_first_octet_under_tls() {
    run(
        Submissions,
        &[Case {
            name: "submissions",
            rule: "RFC 8314 §3.3",
            script: "
            S: 220
            C: EHLO client.example
            S: 250 CHUNKING
            C: STARTTLS
            S: 503 5.5.1
            C: MAIL FROM:<a@example.com>
            S: 530 5.7.0
            C: RCPT TO:<a@example.com>
            S: 503 5.5.1",
        }],
    );
}
