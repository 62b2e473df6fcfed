//! Our DSNs, judged as mailing lists do: by `flufl.bounce`, of which no code is ours.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use mail_types::{
    EnhancedStatus, EnvId, Host, Mailbox, OriginalRecipient, QueueId, Reply, ReplyCode, Timestamp,
};
use message::dsn::{self, Action, RecipientReport, Report, Returned};
use tests::tools;

/// Prints the recipients that fail for now, then those that fail for good, each line sorted.
const JUDGE: &str = "\
import sys
from email import message_from_bytes
from flufl.bounce import all_failures
for found in all_failures(message_from_bytes(sys.stdin.buffer.read())):
    print(*sorted(address.decode() for address in found))
";

const AT: Timestamp = Timestamp::from_unix_ms(1_795_388_895_042);

const MESSAGE: &[u8] = b"From: alice@example.org\r\nTo: bob@example.net\r\nSubject: hello\r\n\
                         \r\nhello\r\n";

/// What `flufl.bounce` found.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    temporary: Vec<String>,
    permanent: Vec<String>,
}

impl Verdict {
    fn of(temporary: &[&str], permanent: &[&str]) -> Self {
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        Self { temporary: owned(temporary), permanent: owned(permanent) }
    }
}

fn judge(content: &[u8]) -> Result<Verdict> {
    let mut python = Command::new(tools::path("python/bin/python3")?)
        .args(["-c", JUDGE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    python.stdin.take().context("no pipe")?.write_all(content)?;
    let output = python.wait_with_output()?;
    ensure!(output.status.success(), "flufl.bounce failed: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let mut lines = text.lines().map(|line| line.split(' ').filter(|word| !word.is_empty()));
    let mut next = || -> Result<Vec<String>> {
        Ok(lines.next().context("a line is missing")?.map(str::to_owned).collect())
    };
    Ok(Verdict { temporary: next()?, permanent: next()? })
}

fn recipient(address: &str, action: Action) -> Result<RecipientReport> {
    let (code, class, text) = match action {
        Action::Failed => (550, 5, "no such user here\nsee https://example.net/550"),
        Action::Delayed => (450, 4, "mailbox busy, try again later"),
        Action::Delivered | Action::Relayed => (250, 2, "ok, queued as 4711"),
    };
    let status = EnhancedStatus::new(class, 1, 1);
    Ok(RecipientReport {
        final_recipient: Mailbox::parse(address)?,
        original: None,
        action,
        status,
        remote: Some("mx.example.net[192.0.2.1]:25".into()),
        reply: Some(Reply::new(ReplyCode::try_from(code)?, status, text)),
        last_attempt: Some(AT),
        will_retry_until: (action == Action::Delayed).then_some(AT),
    })
}

fn compose(recipients: &[RecipientReport], returned: Returned<'_>) -> Result<Vec<u8>> {
    let composed = dsn::compose(&Report {
        reporting_mta: &Host::parse("mx.example.org")?,
        to: &Mailbox::parse("alice@example.org")?,
        envid: Some(&EnvId::new("QQ314159")?),
        arrival: AT,
        received_from: Some("client.example"),
        message: QueueId::new(AT, 7),
        recipients,
        returned,
        date: AT,
        random: 42,
    });
    Ok([composed.header, composed.body].concat())
}

fn judge_all(addresses: &[&str], action: Action, returned: Returned<'_>) -> Result<Verdict> {
    let recipients = addresses.iter().map(|address| recipient(address, action));
    judge(&compose(&recipients.collect::<Result<Vec<_>>>()?, returned)?)
}

#[test]
fn failures_name_every_recipient() -> Result<()> {
    let addresses = ["bob@example.net", "carol+list@example.net", "o'hara@sub.example.net"];
    for returned in [Returned::Full(MESSAGE), Returned::Headers(b"Subject: hello\r\n")] {
        let verdict = judge_all(&addresses, Action::Failed, returned)?;
        assert_eq!(verdict, Verdict::of(&[], &addresses), "{returned:?}");
    }
    Ok(())
}

#[test]
fn messages_in_other_scripts_are_judged_alike() -> Result<()> {
    for content in ["Subject: grün\r\n\r\nhello\r\n", "Subject: x\r\n\r\ngrün\r\n", "no header\n"]
    {
        let returned = Returned::Full(content.as_bytes());
        let verdict = judge_all(&["bob@example.net"], Action::Failed, returned)?;
        assert_eq!(verdict, Verdict::of(&[], &["bob@example.net"]), "{content:?}");
    }
    Ok(())
}

#[test]
fn delays_are_temporary() -> Result<()> {
    let addresses = ["bob@example.net", "carol@example.net"];
    let verdict = judge_all(&addresses, Action::Delayed, Returned::Headers(b"Subject: x\r\n"))?;
    assert_eq!(verdict, Verdict::of(&addresses, &[]));
    Ok(())
}

#[test]
fn successes_are_no_bounces() -> Result<()> {
    for action in [Action::Delivered, Action::Relayed] {
        let returned = Returned::Headers(b"Subject: x\r\n");
        let verdict = judge_all(&["bob@example.net"], action, returned)?;
        assert_eq!(verdict, Verdict::of(&[], &[]), "{action:?}");
    }
    Ok(())
}

#[test]
fn each_recipient_is_judged_by_its_own_action() -> Result<()> {
    let recipients = [
        recipient("gone@example.net", Action::Failed)?,
        recipient("busy@example.net", Action::Delayed)?,
        recipient("fine@example.net", Action::Relayed)?,
    ];
    let verdict = judge(&compose(&recipients, Returned::Full(MESSAGE))?)?;
    assert_eq!(verdict, Verdict::of(&["busy@example.net"], &["gone@example.net"]));
    Ok(())
}

/// A list knows the address that it wrote to, not the one behind an alias.
#[test]
fn the_original_recipient_is_the_one_that_counts() -> Result<()> {
    let mut aliased = recipient("behind@example.net", Action::Failed)?;
    aliased.original = Some(OriginalRecipient::new("rfc822", "bob+list@example.com")?);
    let verdict = judge(&compose(&[aliased], Returned::Full(MESSAGE))?)?;
    assert_eq!(verdict, Verdict::of(&[], &["bob+list@example.com"]));
    Ok(())
}
