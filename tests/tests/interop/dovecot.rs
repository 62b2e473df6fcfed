//! Our Maildirs, served by Dovecot to Python's IMAP and POP3 clients; and Dovecot's own, which it
//! fills with what we bring by LMTP.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::dovecot::{Dovecot, Login, MAIL_USER, give};
use tests::home::{Home, Kind};
use tests::process::{PASSWORD, PASSWORD_HASH, Postrider};
use tests::sink::Sink;
use tests::{maildir, scenario, wait};

const ALICE: &str = "alice@example.test";

/// Prints for each message of a folder its subject, its size by FETCH and by what is fetched.
const READ: &str = "\
session = imap()
status, count = session.select(FOLDER)
for n in range(1, int(count[0]) + 1):
    _, fetched = session.fetch(str(n), '(RFC822.SIZE RFC822)')
    size = fetched[0][0].split(b'RFC822.SIZE ')[1].split(b' ')[0].decode()
    subject = [line for line in fetched[0][1].split(b'\\r\\n') if line.startswith(b'Subject:')]
    print(subject[0].decode(), int(size) == len(fetched[0][1]))
";

async fn python(dovecot: &Dovecot, script: &str) -> Result<String> {
    dovecot.python(ALICE, PASSWORD, script).await
}

async fn read(dovecot: &Dovecot, folder: &str) -> Result<String> {
    python(dovecot, &READ.replace("FOLDER", &format!("{folder:?}"))).await
}

/// Sends a message and waits until it is in a mailbox.
async fn send(postrider: &Postrider, root: &Path, to: &str, subject: &str) -> Result<()> {
    let before = maildir::messages(root)?.len();
    let mut client = Client::connect(postrider.address("relay")).await?;
    client.command("EHLO client.test", 250).await?;
    let content = format!("From: <a@elsewhere.test>\r\nSubject: {subject}\r\n\r\n.\r\nbody\r\n");
    let reply = client.transaction("a@elsewhere.test", &[to], content.as_bytes()).await?;
    ensure!(reply.code == 250, "{}", reply.text);
    wait::until("the message in its mailbox", Duration::from_secs(20), async || {
        (maildir::messages(root).ok()?.len() > before).then_some(())
    })
    .await
}

#[tokio::test]
async fn dovecot_serves_our_maildirs() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let own = dir.path().join("postrider");
    let config = scenario::config_for_port(9, &own.join("data"));
    let asks = format!("dovecot: {{socket: {:?}}}\n", Dovecot::socket(dir.path())?);
    let mut postrider = Postrider::new(&own, &(config + &asks))?;
    postrider.write_domain("example.test", &["alice"])?;
    chown(dir.path(), Some(MAIL_USER), Some(MAIL_USER))?;
    give(&own)?;
    postrider.set_user(MAIL_USER)?;
    postrider.start().await?;
    let root = own.join("data/mail");
    send(&postrider, &root, ALICE, "first").await?;
    let dovecot = Dovecot::serving_ours(dir.path()).await?;

    assert_eq!(read(&dovecot, "INBOX").await?, "Subject: first True\n");
    // A folder that its owner makes is where sub-addressed mail goes from then on.
    send(&postrider, &root, "alice+lists@example.test", "before").await?;
    python(&dovecot, "imap().create('Lists')").await?;
    send(&postrider, &root, "alice+lists@example.test", "after").await?;
    send(&postrider, &root, "alice+other@example.test", "other").await?;
    assert_eq!(read(&dovecot, "Lists").await?, "Subject: after True\n");
    let inbox = read(&dovecot, "INBOX").await?;
    assert_eq!(inbox, "Subject: first True\nSubject: before True\nSubject: other True\n");

    let listed = "s = pop3(); print(len(s.list()[1]), b'Subject: first' in s.retr(1)[1])";
    assert_eq!(python(&dovecot, listed).await?, "3 True\n");
    postrider.stop(Duration::from_secs(30)).await?;
    Ok(())
}

/// Prints every Return-Path of the first message, and its body.
const MESSAGE: &str = "\
import email
session = imap()
session.select('INBOX')
message = email.message_from_bytes(session.fetch('1', '(RFC822)')[1][0][1])
print(message.get_all('Return-Path'), repr(message.get_payload()))
";

#[tokio::test]
async fn dovecot_takes_lmtp_from_us() -> Result<()> {
    take_lmtp(Kind::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dovecot_takes_lmtp_from_an_mda() -> Result<()> {
    take_lmtp(Kind::Roles).await
}

async fn take_lmtp(kind: Kind) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let boxes = dir.path().join("boxes");
    fs::create_dir(&boxes)?;
    chown(dir.path(), Some(MAIL_USER), Some(MAIL_USER))?;
    chown(&boxes, Some(MAIL_USER), Some(MAIL_USER))?;
    let hash = format!("{{ARGON2ID}}{PASSWORD_HASH}");
    let (alice, full) = (boxes.join("alice"), boxes.join("full"));
    let logins = [
        Login { name: ALICE, hash: &hash, maildir: &alice, quota_bytes: None },
        Login { name: "full@example.test", hash: &hash, maildir: &full, quota_bytes: Some(10) },
    ];
    let dovecot = Dovecot::start(dir.path(), &logins).await?;
    let sink = Sink::start().await?;
    let lmtp = format!("mda:\n  lmtp: {{address: \"{}\"}}\n", dovecot.lmtp());
    let config = |data: &Path| scenario::config(&sink, data) + &lmtp;
    let domain: (_, &[_]) = ("example.test", &["alice", "full", "stranger"]);
    let mut home = Home::start(kind, &dir.path().join("postrider"), config, domain).await?;

    let mut client = Client::connect(home.ingress().address("relay")).await?;
    client.command("EHLO client.test", 250).await?;
    let content = "From: <a@elsewhere.test>\r\nSubject: first\r\n\r\n.\r\nbody\r\n";
    let to = ["full@example.test", ALICE, "stranger@example.test"];
    let reply = client.transaction("a@elsewhere.test", &to, content.as_bytes()).await?;
    ensure!(reply.code == 250, "{}", reply.text);
    let limit = Duration::from_secs(30);
    let told = wait::until("the DSN", limit, async || sink.received().pop()).await;
    let dsn = String::from_utf8(told.with_context(|| dovecot.log())?.content)?;
    for said in ["552 5.2.2 <full@example.test>", "550 5.1.1 <stranger@example.test>"] {
        assert!(dsn.contains(said), "{said}: {dsn}");
    }
    assert!(!dsn.contains(ALICE), "{dsn}");
    assert_eq!(read(&dovecot, "INBOX").await?, "Subject: first True\n");
    let message = "['<a@elsewhere.test>'] '.\\r\\nbody\\r\\n'\n";
    assert_eq!(python(&dovecot, MESSAGE).await?, message);
    assert!(maildir::messages(&full)?.is_empty());
    // Whom the server has no room for is refused from then on before a message is taken.
    let relay = home.ingress().address("relay");
    wait::until("452 for a full mailbox", limit, async || {
        (Client::rcpt(relay, "full@example.test").await.ok()? == 452).then_some(())
    })
    .await?;
    ensure!(Client::rcpt(relay, ALICE).await? == 250, "others have room");
    home.stop(Duration::from_secs(30)).await
}
