//! The clients people have at hand: `swaks` and `curl` submit, in every way they know.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::{maildir, scenario, tools, wait};
use tokio::process::Command;

const SENDER: &str = "alice@local.test";

async fn start(dir: &Path) -> Result<(Postrider, Sink)> {
    let sink = Sink::start().await?;
    let config = scenario::config(&sink, &dir.join("data"));
    let mut postrider = Postrider::new(&dir.join("etc"), &config)?;
    postrider.write_domain("local.test", &["alice", "bob"])?;
    postrider.start().await?;
    Ok((postrider, sink))
}

async fn run(command: &mut Command) -> Result<(bool, String)> {
    let output = command.stdin(Stdio::null()).output().await?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

async fn arrives(sink: &Sink, count: usize) -> Result<()> {
    let limit = Duration::from_secs(30);
    wait::until("the message at the sink", limit, async || (sink.count() >= count).then_some(()))
        .await
}

#[tokio::test]
async fn swaks_submits() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (postrider, sink) = start(dir.path()).await?;
    let swaks = |extra: &[&str], kind: &str| -> Result<Command> {
        let mut command = Command::new(tools::path("bin/swaks")?);
        command.args(["--server", &postrider.address(kind).to_string()]);
        command.args(["--from", SENDER, "--h-From", SENDER, "--ehlo", "client.test"]).args(extra);
        Ok(command)
    };
    let login = ["--auth-user", SENDER, "--auth-password", PASSWORD];
    let outside = ["--to", "x@remote.test"];
    for (n, auth) in [["--tls", "--auth", "PLAIN"], ["--tls", "--auth", "LOGIN"]].iter().enumerate()
    {
        let arguments = [&outside[..], &auth[..], &login[..]].concat();
        let (ok, said) = run(&mut swaks(&arguments, "submission")?).await?;
        ensure!(ok, "{said}");
        arrives(&sink, n + 1).await?;
    }
    let wrong = ["--auth-user", SENDER, "--auth-password", "wrong"];
    let arguments = [&outside[..], &["--tls", "--auth", "PLAIN"], &wrong[..]].concat();
    let (ok, said) = run(&mut swaks(&arguments, "submission")?).await?;
    ensure!(!ok && said.contains("535 5.7.8"), "{said}");
    let (ok, said) = run(&mut swaks(&outside, "relay")?).await?;
    ensure!(!ok && said.contains("550 5.7.1"), "the relay port relayed, or said otherwise: {said}");
    ensure!(sink.count() == 2, "{} messages were relayed", sink.count());
    Ok(())
}

#[tokio::test]
async fn curl_submits() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (postrider, sink) = start(dir.path()).await?;
    let message = dir.path().join("message.eml");
    std::fs::write(&message, "From: alice@local.test\nSubject: x\n\n.\nbody\n")?;
    let curl = |kind: &str, extra: &[&str]| {
        let mut command = Command::new("curl");
        let url = format!("smtp://{}/client.test", postrider.address(kind));
        command.args(["-sS", &url, "--crlf", "--upload-file"]).arg(&message).args(extra);
        command
    };
    let user = format!("{SENDER}:{PASSWORD}");
    let login = ["--ssl-reqd", "--insecure", "--user", &user, "--mail-from", SENDER];
    let to = ["--mail-rcpt", "x@remote.test", "--mail-rcpt", "bob@local.test"];
    let (ok, said) = run(curl("submission", &login).args(to)).await?;
    ensure!(ok, "{said}");
    arrives(&sink, 1).await?;
    let content = String::from_utf8(sink.received()[0].content.clone())?;
    ensure!(content.ends_with("\r\nSubject: x\r\n\r\n.\r\nbody\r\n"), "{content}");
    let limit = Duration::from_secs(30);
    wait::until("the message in Bob's mailbox", limit, async || {
        let found = maildir::messages(&dir.path().join("data/mail")).ok()?;
        (found.len() == 1).then_some(())
    })
    .await?;
    let foreign = ["--mail-from", "x@remote.test", "--mail-rcpt", "y@remote.test"];
    let (ok, said) = run(&mut curl("relay", &foreign)).await?;
    ensure!(!ok && said.contains("550"), "{said}");
    Ok(())
}
