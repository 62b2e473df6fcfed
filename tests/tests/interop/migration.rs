//! What `docs/migration.md` promises: its Postfix and Dovecot, and the Postrider that takes their
//! place, do the same for the same people.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::dovecot::{Dovecot, Login, MAIL_USER};
use tests::exchange::{Peer, write_certificate};
use tests::postfix::Postfix;
use tests::process::{self, PASSWORD, Postrider};
use tests::sink::Sink;
use tests::{tools, wait};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(60);

/// Where the guide's Dovecot takes LMTP, in both halves of it.
const GUIDE_LMTP: &str = "127.0.0.1:24";

/// The code blocks of the guide by the file that the text before each names.
fn guide() -> Result<HashMap<String, String>> {
    let text = include_str!("../../../docs/migration.md");
    let (_, example) = text.split_once("## An example").context("no example")?;
    let mut pieces = example.split("```");
    let mut files = HashMap::new();
    while let (Some(before), Some(block)) = (pieces.next(), pieces.next()) {
        let name = before.rsplit('`').nth(1).context("a block without a name")?;
        let (_, content) = block.split_once('\n').context("an empty block")?;
        files.insert(name.to_owned(), content.to_owned());
    }
    Ok(files)
}

fn file<'a>(guide: &'a HashMap<String, String>, name: &str) -> Result<&'a str> {
    guide.get(name).map(String::as_str).with_context(|| format!("the guide has no {name}"))
}

/// The guide's Dovecot, with its mailboxes below `dir`.
async fn dovecot(guide: &HashMap<String, String>, dir: &Path) -> Result<Dovecot> {
    let boxes = dir.join("boxes");
    fs::create_dir(&boxes)?;
    chown(dir, Some(MAIL_USER), Some(MAIL_USER))?;
    chown(&boxes, Some(MAIL_USER), Some(MAIL_USER))?;
    let users = file(guide, "/etc/dovecot/users")?;
    let users: Vec<_> = users.lines().filter_map(|line| line.split_once(':')).collect();
    let homes: Vec<_> = users.iter().map(|(name, _)| boxes.join(name)).collect();
    let login = |((name, hash), maildir)| Login { name, hash, maildir, quota_bytes: None };
    let logins: Vec<_> = users.iter().copied().zip(homes.iter().map(AsRef::as_ref)).collect();
    Dovecot::start(dir, &logins.into_iter().map(login).collect::<Vec<_>>()).await
}

/// The guide's Postfix, with its maps in a directory of the test's.
async fn postfix(
    guide: &HashMap<String, String>,
    dir: &Path,
    lmtp: SocketAddr,
    sink: &Sink,
) -> Result<Postfix> {
    for map in ["mailboxes", "aliases"] {
        let content = file(guide, &format!("/etc/postfix/{map}"))?;
        fs::write(dir.join(map), content)?;
    }
    let settings = file(guide, "/etc/postfix/main.cf")?
        .replace("/etc/postfix", &dir.display().to_string())
        .replace(&format!("inet:{GUIDE_LMTP}"), &format!("inet:{lmtp}"))
        .replace("relayhost = [smart.example.com]:587\n", "");
    Postfix::start(dir, sink.address(), &settings).await
}

/// The guide's Postrider: read by `check` as it stands, then served on ports of the test's.
async fn postrider(
    guide: &HashMap<String, String>,
    dir: &Path,
    lmtp: SocketAddr,
    sink: &Sink,
) -> Result<Postrider> {
    let config = file(guide, "postrider.yaml")?;
    let mut postrider = Postrider::new(dir, config)?;
    let domains = file(guide, "domains/example.org.yaml")?;
    fs::write(dir.join("domains/example.org.yaml"), domains)?;
    fs::create_dir(dir.join("tls"))?;
    write_certificate(&dir.join("tls"), "mx.example.org")?;
    fs::rename(dir.join("tls/cert.pem"), dir.join("tls/chain.pem"))?;
    fs::write(dir.join("smart.password"), "secret")?;
    let checked = Command::new(process::binary()?).arg("check").arg(dir).output().await?;
    let error = String::from_utf8_lossy(&checked.stderr);
    ensure!(checked.status.success(), "the guide's configuration: {error}");

    let (before, route) = config.split_once("  routes:\n").context("no routes")?;
    let (_, after) = route.split_once('\n').context("no route")?;
    let route = format!(
        "  allowPrivateAddresses: true\n  routes:\n    - {{ domain: \"*\", host: \"127.0.0.1\", \
         port: {} }}\n",
        sink.address().port()
    );
    let config = format!("{before}{route}{after}http: {{ address: \"127.0.0.1:0\" }}\n")
        .replace("0.0.0.0:25", "127.0.0.1:0")
        .replace("0.0.0.0:587", "127.0.0.1:0")
        .replace(GUIDE_LMTP, &lmtp.to_string());
    fs::write(dir.join("postrider.yaml"), config)?;
    postrider.start().await?;
    Ok(postrider)
}

/// Prints the subjects in an inbox.
const SUBJECTS: &str = "\
import imaplib, sys
user, password, port = sys.argv[1:]
session = imaplib.IMAP4('127.0.0.1', int(port))
session.login(user, password)
session.select('INBOX')
for n in session.search(None, 'ALL')[1][0].split():
    print(session.fetch(n, '(BODY[HEADER.FIELDS (SUBJECT)])')[1][0][1].decode().strip())
";

/// What Alice's inbox holds, in order, by IMAP with the password she had.
async fn subjects(dovecot: &Dovecot) -> Result<Vec<String>> {
    let output = Command::new(tools::path("python/bin/python3")?)
        .args(["-c", SUBJECTS, "alice@example.org", PASSWORD, &dovecot.imap().port().to_string()])
        .output()
        .await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut subjects: Vec<_> = str::from_utf8(&output.stdout)?.lines().map(Into::into).collect();
    subjects.sort();
    Ok(subjects)
}

/// Recipients, and whether both take them.
const RECIPIENTS: [(&str, bool); 11] = [
    ("alice@example.org", true),
    ("Alice@Example.ORG", true),
    ("alice+lists@example.org", true),
    ("a.lice@example.org", true),
    ("bob@example.net", true),
    ("team@example.net", true),
    ("postmaster@example.org", true),
    ("shop@example.org", false),
    ("nobody@example.org", false),
    ("alicex@example.org", false),
    ("alice@elsewhere.test", false),
];

#[tokio::test]
async fn the_guide_keeps_its_word() -> Result<()> {
    let (guide, sink, dir) = (guide()?, Sink::start().await?, tempfile::tempdir()?);
    let dovecot = dovecot(&guide, dir.path()).await?;
    let postfix_dir = tempfile::tempdir()?;
    let postfix = postfix(&guide, postfix_dir.path(), dovecot.lmtp(), &sink).await?;
    let own = tempfile::tempdir()?;
    let mut postrider = postrider(&guide, own.path(), dovecot.lmtp(), &sink).await?;
    let (old, new) = (postfix.address(), postrider.address("relay"));

    for (recipient, taken) in RECIPIENTS {
        for (server, address) in [("Postfix", old), ("Postrider", new)] {
            let code = Client::rcpt(address, recipient).await;
            let code = code.with_context(|| format!("{server}; {}", postfix.log()))?;
            ensure!((code == 250) == taken, "{server} said {code} to {recipient}");
        }
    }
    let stranger = "nobody@example.net";
    let codes = (Client::rcpt(old, stranger).await?, Client::rcpt(new, stranger).await?);
    ensure!(codes == (250, 550), "the one that differs: {codes:?}");

    for (address, subject) in [(old, "by Postfix"), (new, "by Postrider")] {
        let mut client = Client::connect(address).await?;
        client.command("EHLO client.test", 250).await?;
        let content = format!("From: <a@elsewhere.test>\r\nSubject: {subject}\r\n\r\nbody\r\n");
        let to = ["a.lice@example.net"];
        let reply = client.transaction("a@elsewhere.test", &to, content.as_bytes()).await?;
        ensure!(reply.code == 250, "{subject}: {}", reply.text);
    }
    let both = wait::until("both messages in Alice's mailbox", LIMIT, async || {
        subjects(&dovecot).await.ok().filter(|subjects| subjects.len() == 2)
    })
    .await
    .with_context(|| format!("{}\n{}", postfix.log(), dovecot.log()))?;
    ensure!(both == ["Subject: by Postfix", "Subject: by Postrider"], "{both:?}");

    for (login, from) in [
        ("alice@example.org", "a.lice@example.org"),
        ("bob@example.org", "bob@example.net"),
        ("shop@example.org", "shop@example.org"),
    ] {
        let mut client =
            Client::submission(postrider.address("submission"), login, PASSWORD).await?;
        let content = format!("From: <{from}>\r\nSubject: sent\r\n\r\nbody\r\n");
        let reply = client.transaction(from, &["x@elsewhere.test"], content.as_bytes()).await?;
        ensure!(reply.code == 250, "{login}: {}", reply.text);
    }
    wait::until("three messages at the relay host", LIMIT, async || {
        (sink.received().len() == 3).then_some(())
    })
    .await?;
    postrider.stop(Duration::from_secs(30)).await?;
    Ok(())
}
