//! Very many mailboxes, and how soon it is known whether there is one.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::client::Client;
use crate::process::domain_yaml;

/// In each domain.
pub const MAILBOXES: usize = 100;
/// Replies to RCPT that are measured.
const SAMPLES: usize = 2_000;
/// In one session: fewer than make the server think ill of a client.
const A_SESSION: usize = 5;

/// Writes domain `n` with its mailboxes, each with a password, into `DIR/domains`.
pub fn write_domain(dir: &Path, n: usize, mailboxes: usize) -> Result<()> {
    let domain = format!("d{n}.test");
    let names: Vec<String> = (0..mailboxes).map(|m| format!("user{m}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let yaml = domain_yaml(&domain, &names)?;
    let yaml = yaml.replace("{name: d}", &format!("{{name: d{n}}}"));
    let yaml = yaml.replace("{name: m-", &format!("{{name: d{n}-"));
    fs::write(dir.join(format!("domains/{domain}.yaml")), yaml)?;
    Ok(())
}

fn spread(n: usize, domains: usize) -> (usize, usize) {
    (n * 7919 % domains, n * 104_729 % MAILBOXES)
}

/// One of the mailboxes of so many domains; with `n` from 0, others each time.
pub fn mailbox(n: usize, domains: usize) -> String {
    let (d, m) = spread(n, domains);
    format!("user{m}@d{d}.test")
}

/// What is none of them.
pub fn stranger(n: usize, domains: usize) -> String {
    let (d, m) = spread(n, domains);
    format!("nobody{m}@d{d}.test")
}

/// How long replies to RCPT take: the middle one and that of 99 %.
pub async fn ask(
    address: SocketAddr,
    recipient: impl Fn(usize) -> String,
    code: u16,
) -> Result<[Duration; 2]> {
    let mut times = Vec::with_capacity(SAMPLES);
    while times.len() < SAMPLES {
        let mut client = Client::connect(address).await?;
        client.command("EHLO client.test", 250).await?;
        client.command("MAIL FROM:<a@elsewhere.test>", 250).await?;
        for _ in 0..A_SESSION {
            let recipient = recipient(times.len());
            let begun = Instant::now();
            client.command(&format!("RCPT TO:<{recipient}>"), code).await?;
            times.push(begun.elapsed());
        }
    }
    times.sort();
    Ok([times[SAMPLES / 2], times[SAMPLES * 99 / 100]])
}
