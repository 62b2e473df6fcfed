//! The dialogue table of what depends on who is hosted and who has logged in: what a client says,
//! what it hears, and the rule that decides. That of the protocol alone is in `crates/smtp/tests`.
//!
//! In a script `C:` is a line from the client, `S:` the beginning of the last line of a reply.

use std::sync::Arc;

use domains::AtHome;
use ingress::Kind;

use super::client::Client;
use super::gateway::ByName;
use super::server::Server;

/// Who talks.
#[derive(Clone, Copy)]
enum Who {
    /// Another server, at port 25.
    Stranger,
    /// At submission under TLS, before AUTH.
    Nobody,
    /// At submission, logged in.
    Alice,
}
use Who::{Alice, Nobody, Stranger};

struct Case {
    name: &'static str,
    rule: &'static str,
    who: Who,
    /// Mailboxes that are full.
    full: &'static [&'static str],
    script: &'static str,
}

const CASES: [Case; 17] = [
    Case {
        name: "mailboxes-and-aliases",
        rule: "RFC 5321 §3.3",
        who: Stranger,
        full: &[],
        script: "
        C: MAIL FROM:<a@far.example>
        S: 250 2.1.0
        C: RCPT TO:<Alice@Example.ORG>
        S: 250 2.1.5
        C: RCPT TO:<alice+lists@example.org>
        S: 250 2.1.5
        C: RCPT TO:<alice.smith@example.org>
        S: 250 2.1.5
        C: RCPT TO:<team@example.org>
        S: 250 2.1.5
        C: RCPT TO:<team+lists@example.org>
        S: 250 2.1.5
        C: RCPT TO:<nobody@example.org>
        S: 550 5.1.1",
    },
    Case {
        name: "no-open-relay",
        rule: "RFC 5321 §7.2",
        who: Stranger,
        full: &[],
        script: "
        C: MAIL FROM:<alice@example.org>
        S: 250 2.1.0
        C: RCPT TO:<victim@elsewhere.example>
        S: 550 5.7.1
        C: RCPT TO:<victim%elsewhere.example@example.org>
        S: 550 5.1.1
        C: RCPT TO:<alice@sub.example.org>
        S: 550 5.7.1",
    },
    Case {
        name: "full-mailbox",
        rule: "RFC 3463 §3.3",
        who: Stranger,
        full: &["alice@example.org", "bob@example.org"],
        script: "
        C: MAIL FROM:<a@far.example>
        S: 250
        C: RCPT TO:<alice@example.org>
        S: 452 4.2.2
        C: RCPT TO:<bob+lists@example.org>
        S: 552 5.2.2
        C: RCPT TO:<bill@example.org>
        S: 250",
    },
    Case {
        name: "full-mailboxes-of-a-group",
        rule: "RFC 3463 §3.3",
        who: Stranger,
        full: &["bob@example.org"],
        script: "
        C: MAIL FROM:<a@far.example>
        S: 250
        C: RCPT TO:<both@example.org>
        S: 250
        C: RCPT TO:<bob@example.org>
        S: 552 5.2.2",
    },
    Case {
        name: "full-mailbox-of-a-colleague",
        rule: "RFC 3463 §3.3",
        who: Alice,
        full: &["bob@example.org"],
        script: "
        C: MAIL FROM:<alice@example.org>
        S: 250
        C: RCPT TO:<bob@example.org>
        S: 552 5.2.2
        C: RCPT TO:<friend@elsewhere.example>
        S: 250",
    },
    Case {
        name: "forged-bounce-address",
        rule: "docs/configuration.md, Forwarding",
        who: Stranger,
        full: &[],
        script: "
        C: MAIL FROM:<>
        S: 250
        C: RCPT TO:<SRS0=abcd=xy=far.example=a@example.org>
        S: 550 5.1.1",
    },
    Case {
        name: "gateway-with-a-list",
        rule: "RFC 5321 §3.6.2",
        who: Stranger,
        full: &[],
        script: "
        C: MAIL FROM:<a@far.example>
        S: 250
        C: RCPT TO:<carol@listed.example>
        S: 250 2.1.5
        C: RCPT TO:<nobody@listed.example>
        S: 550 5.1.1",
    },
    Case {
        name: "gateway-that-is-asked",
        rule: "RFC 5321 §3.6.2",
        who: Stranger,
        full: &[],
        script: "
        C: MAIL FROM:<a@far.example>
        S: 250
        C: RCPT TO:<present@asked.example>
        S: 250 2.1.5
        C: RCPT TO:<absent@asked.example>
        S: 550 5.1.1
        C: RCPT TO:<later@asked.example>
        S: 450 4.1.1
        C: RCPT TO:<lost@asked.example>
        S: 450 4.4.1",
    },
    Case {
        name: "gateway-for-small-mail",
        rule: "RFC 1870 §6.1",
        who: Stranger,
        full: &[],
        script: "
        C: MAIL FROM:<a@far.example> SIZE=70001
        S: 250
        C: RCPT TO:<small@asked.example>
        S: 250
        C: DATA
        S: 552 5.3.4",
    },
    Case {
        name: "domain-alias",
        rule: "RFC 5321 §3.9.1",
        who: Stranger,
        full: &[],
        script: "
        C: MAIL FROM:<a@far.example>
        S: 250
        C: RCPT TO:<present@also.example>
        S: 250 2.1.5
        C: RCPT TO:<absent@also.example>
        S: 550 5.1.1",
    },
    Case {
        name: "send-only-mailbox",
        rule: "RFC 5321 §3.3",
        who: Stranger,
        full: &[],
        script: "
        C: MAIL FROM:<a@far.example>
        S: 250
        C: RCPT TO:<robot@asked.example>
        S: 550 5.1.1",
    },
    Case {
        name: "wrong-password",
        rule: "RFC 4954 §6",
        who: Nobody,
        full: &[],
        script: "
        C: AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHdyb25n
        S: 535 5.7.8
        C: AUTH PLAIN AG5vYm9keUBleGFtcGxlLm9yZwB3cm9uZw==
        S: 535 5.7.8
        C: MAIL FROM:<alice@example.org>
        S: 530 5.7.0",
    },
    Case {
        name: "identities",
        rule: "RFC 6409 §6.1",
        who: Alice,
        full: &[],
        script: "
        C: MAIL FROM:<bob@example.org>
        S: 553 5.7.1
        C: MAIL FROM:<a@elsewhere.example>
        S: 553 5.7.1
        C: MAIL FROM:<alice.smith@example.org>
        S: 250",
    },
    Case {
        name: "from-of-another",
        rule: "RFC 6409 §6.1",
        who: Alice,
        full: &[],
        script: "
        C: MAIL FROM:<alice@example.org>
        S: 250
        C: RCPT TO:<friend@elsewhere.example>
        S: 250
        C: DATA
        S: 354
        C: From: bob@example.org
        C:
        C: .
        S: 550 5.7.1",
    },
    Case {
        name: "null-reverse-path-of-a-user",
        rule: "RFC 8098 §2.1",
        who: Alice,
        full: &[],
        script: "
        C: MAIL FROM:<>
        S: 250
        C: RCPT TO:<friend@elsewhere.example>
        S: 250
        C: DATA
        S: 354
        C: From: bob@example.org
        C:
        C: .
        S: 550 5.7.1
        C: MAIL FROM:<>
        S: 250
        C: RCPT TO:<friend@elsewhere.example>
        S: 250
        C: DATA
        S: 354
        C: From: alice@example.org
        C:
        C: .
        S: 250 2.0.0",
    },
    Case {
        name: "sending-limit",
        rule: "docs/configuration.md, Sending limits",
        who: Alice,
        full: &[],
        script: "
        C: MAIL FROM:<alice@example.org>
        S: 250
        C: RCPT TO:<one@elsewhere.example>
        S: 250
        C: RCPT TO:<two@elsewhere.example>
        S: 250
        C: RCPT TO:<three@elsewhere.example>
        S: 450 4.7.1 You send to 2 recipients an hour at most; try again in",
    },
    Case {
        name: "no-relay-by-a-gateways-user",
        rule: "RFC 5321 §7.2",
        who: Stranger,
        full: &[],
        script: "
        C: MAIL FROM:<present@asked.example>
        S: 250
        C: RCPT TO:<victim@elsewhere.example>
        S: 550 5.7.1
        C: RCPT TO:<a@mail.asked.example>
        S: 550 5.7.1",
    },
];

#[tokio::test]
async fn the_table_holds() {
    let asked = Arc::new(ByName::default());
    for case in &CASES {
        let server = Server::start_asking(Arc::new(AtHome), asked.clone(), |config| {
            config.sending_limits.mailbox_recipients_per_hour = Some(2);
        });
        case.full.iter().for_each(|address| server.fill(address));
        let mut client = match case.who {
            Stranger => server.greeted().await,
            Nobody => {
                let address = server.address(Kind::Submissions);
                let mut client = Client::connect_tls(address, "mx.example.org").await;
                client.expect("220").await;
                client.says("EHLO client.example", "250").await;
                client
            }
            Alice => server.logged_in().await,
        };
        run(&mut client, case).await;
    }
}

async fn run(client: &mut Client, case: &Case) {
    let lines = case.script.lines().map(str::trim).filter(|line| !line.is_empty());
    for line in lines {
        match line.split_at(2) {
            ("C:", said) => {
                let said = said.strip_prefix(' ').unwrap_or_default();
                client.send(format!("{said}\r\n").as_bytes()).await;
            }
            (_, wanted) => {
                let (reply, wanted) = (client.reply().await, wanted.trim_start());
                let Case { name, rule, .. } = case;
                assert!(reply.starts_with(wanted), "{name} ({rule}): {reply}, not {wanted}");
            }
        }
    }
}
