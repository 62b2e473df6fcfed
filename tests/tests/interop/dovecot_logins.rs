//! Dovecot lets in whom the domain table lets in, by IMAP and POP3: by each of somebody's
//! passwords, from when it is there until it is gone, with no restart.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::client::Client;
use tests::dovecot::{Dovecot, MAIL_USER, give};
use tests::keys::Keys;
use tests::nats::{Cluster, Settings};
use tests::process::{PASSWORD, PASSWORD_HASH, Postrider};
use tests::{health, maildir, scenario, wait};

const LIMIT: Duration = Duration::from_secs(60);
const ALICE: &str = "alice@local.test";
const SHA512_PASSWORD: &str = "battery staple";
const SHA512_HASH: &str = "{SHA512-CRYPT}$6$rounds=1000$postrider3$tEAbDEQOJmjAL6hWOwNxc4iyvLX8OCJ\
                           uZHK8U03XNoP46F8ZsR1CRZPdxIZlxLVFGKTdAylu35GVqpcU/iTdN.";
const BCRYPT_PASSWORD: &str = "paper clip";
const BCRYPT_HASH: &str = "$2y$05$abcdefghijklmnopqrstuuOUf.w1LA..BoiymLLveiyGfgGX16n/q";

/// Prints how a login by each protocol ends.
const LOG_IN: &str = "\
def told(log_in):
    try:
        log_in()
        return 'in'
    except (imaplib.IMAP4.error, poplib.error_proto) as error:
        return str(error)
print(told(imap), 'and', told(pop3))
";
const IN: [&str; 2] = ["in", "in"];
const REFUSED: [&str; 2] = ["[AUTHENTICATIONFAILED]", "-ERR [AUTH]"];
const UNAVAILABLE: [&str; 2] = ["[UNAVAILABLE]", "-ERR [SYS/TEMP]"];

/// One process, or one of each role; and the Dovecot that asks.
struct Site {
    /// Where the resources are.
    writer: Postrider,
    /// Whoever takes mail in, when that is not the writer.
    ingress: Option<Postrider>,
    mda: Option<Postrider>,
    _servers: Option<Cluster>,
    dovecot: Dovecot,
}

/// Many guesses are needed, all from one address.
fn config(dir: &Path) -> Result<String> {
    let config = scenario::config_for_port(9, &dir.join("data"));
    let patient = "ingress:\n  auth: {failuresPerClientMax: 1000, failureDelaySeconds: 0}\n";
    ensure!(config.contains("ingress:\n"), "there is no ingress in {config}");
    Ok(config.replace("ingress:\n", patient))
}

fn asked(dir: &Path) -> Result<String> {
    Ok(format!("dovecot: {{socket: {:?}}}\n", Dovecot::socket(dir)?))
}

async fn start_as_mail_user(process: &mut Postrider) -> Result<()> {
    give(process.dir())?;
    process.set_user(MAIL_USER)?;
    process.start().await
}

impl Site {
    async fn of_one_process(dir: &Path) -> Result<Self> {
        chown(dir, Some(MAIL_USER), Some(MAIL_USER))?;
        let own = dir.join("postrider");
        let mut writer = Postrider::new(&own, &(config(&own)? + &asked(dir)?))?;
        write(&writer, &[])?;
        start_as_mail_user(&mut writer).await?;
        let dovecot = Dovecot::serving_ours(dir).await?;
        Ok(Self { writer, ingress: None, mda: None, _servers: None, dovecot })
    }

    async fn of_roles(dir: &Path) -> Result<Self> {
        chown(dir, Some(MAIL_USER), Some(MAIL_USER))?;
        let servers = Cluster::start_in(&dir.join("nats"), 1, &Settings::default()).await?;
        let keys = Keys::make(&dir.join("keys")).await?;
        give(&dir.join("keys"))?;
        let jetstream = format!(
            "jetstream:\n  urls: {:?}\n  monitorUrls: {:?}\n  replicas: 1\n  timeoutSeconds: 5\n  \
             intakeBytes: 1073741824\n  reserveBytes: 268435456\n",
            servers.urls(),
            servers.monitor_urls(),
        );
        let process = |role: &str, more: &str| {
            let own = dir.join(role);
            Postrider::of_role(role, &own, &(config(&own)? + &jetstream + more))
        };
        let writer = process("serve", &keys.of_writer())?;
        let opens = Keys::of_role(&[keys.file("passwords.key")]);
        let mut ingress = process("ingress", &format!("domainsFrom: kv\n{opens}"))?;
        let mut mda = process("mda", &format!("domainsFrom: kv\n{opens}{}", asked(dir)?))?;
        write(&writer, &[])?;
        writer.cli(&["domain", "apply"]).await?;
        ingress.start().await?;
        start_as_mail_user(&mut mda).await?;
        let dovecot = Dovecot::serving_ours(dir).await?;
        let (ingress, mda) = (Some(ingress), Some(mda));
        Ok(Self { writer, ingress, mda, _servers: Some(servers), dovecot })
    }

    fn relay(&self) -> SocketAddr {
        self.ingress.as_ref().unwrap_or(&self.writer).address("relay")
    }

    fn mda(&mut self) -> &mut Postrider {
        self.mda.as_mut().unwrap_or(&mut self.writer)
    }

    /// Gives Alice these passwords, by their hashes.
    async fn give_alice(&self, hashes: &[&str]) -> Result<()> {
        write(&self.writer, hashes)?;
        if self.mda.is_some() {
            self.writer.cli(&["domain", "apply"]).await?;
        }
        Ok(())
    }

    async fn told(&self, user: &str, password: &str) -> Result<String> {
        self.dovecot.python(user, password, LOG_IN).await
    }

    async fn is_told(&self, user: &str, password: &str, wanted: [&str; 2]) -> Result<()> {
        let told = self.told(user, password).await?;
        let log = self.dovecot.log();
        ensure!(says(&told, wanted), "{user} with {password:?}: {told}\n{log}");
        Ok(())
    }

    async fn until_told(&self, user: &str, password: &str, wanted: [&str; 2]) -> Result<()> {
        let what = format!("{wanted:?} for {user} with {password:?}");
        let mut last = None;
        let told = wait::until(&what, LIMIT, async || {
            last = self.told(user, password).await.ok();
            says(last.as_deref()?, wanted).then_some(())
        });
        told.await.with_context(|| format!("last told: {last:?}\n{}", self.dovecot.log()))
    }

    /// Brings a message to Alice.
    async fn send(&self) -> Result<()> {
        let mut client = Client::connect(self.relay()).await?;
        client.command("EHLO client.test", 250).await?;
        let content = b"From: <a@elsewhere.test>\r\nSubject: hello\r\n\r\nbody\r\n";
        let reply = client.transaction("a@elsewhere.test", &[ALICE], content).await?;
        ensure!(reply.code == 250, "{}", reply.text);
        Ok(())
    }
}

fn says(told: &str, wanted: [&str; 2]) -> bool {
    let parts = told.trim().split_once(" and ");
    parts.is_some_and(|(imap, pop3)| imap.contains(wanted[0]) && pop3.contains(wanted[1]))
}

/// Writes the domain with Alice; `carol` is suspended and `robot` only sends.
fn write(writer: &Postrider, hashes: &[&str]) -> Result<()> {
    let list = |hashes: &[&str]| {
        let of = |(n, hash): (usize, &&str)| format!("  - {{name: p{n}, hash: \"{hash}\"}}\n");
        let lines: String = hashes.iter().enumerate().map(of).collect();
        if lines.is_empty() { lines } else { format!("  passwords:\n{lines}") }
    };
    let head = "apiVersion: postrider.dev/v1alpha1\nkind:";
    let mailbox = |name: &str, hashes: &[&str], more: &str| {
        format!(
            "---\n{head} Mailbox\nmetadata: {{name: {name}}}\nspec:\n  \
             address: {name}@local.test\n{}{more}",
            list(hashes)
        )
    };
    let yaml = format!(
        "{head} MailDomain\nmetadata: {{name: d}}\nspec:\n  domain: local.test\n  inbound:\n    \
         aliases: [{{match: postmaster, to: [\"{ALICE}\"]}}]\n{}{}{}",
        mailbox("alice", hashes, "  aliases: [al@local.test]\n"),
        mailbox("carol", &[PASSWORD_HASH], "  suspended: true\n"),
        mailbox("robot", &[PASSWORD_HASH], "  sendOnly: true\n"),
    );
    // In one step: files that are half written are for another test.
    let (new, path) = (writer.dir().join("new"), writer.dir().join("domains/d.yaml"));
    fs::write(&new, yaml)?;
    Ok(fs::rename(new, path)?)
}

async fn passwords_let_in_while_they_are_there(site: &mut Site) -> Result<()> {
    site.until_told(ALICE, PASSWORD, REFUSED).await?;
    site.give_alice(&[PASSWORD_HASH, SHA512_HASH]).await?;
    site.until_told(ALICE, PASSWORD, IN).await?;
    for (user, password, wanted) in [
        (ALICE, SHA512_PASSWORD, IN),
        ("ALICE@local.test", PASSWORD, IN),
        (ALICE, BCRYPT_PASSWORD, REFUSED),
        (ALICE, "correct horsE", REFUSED),
        ("al@local.test", PASSWORD, REFUSED),
        ("carol@local.test", PASSWORD, REFUSED),
        ("robot@local.test", PASSWORD, REFUSED),
        ("nobody@local.test", PASSWORD, REFUSED),
        ("alice", PASSWORD, REFUSED),
        (ALICE, " \" \\ %u \t", REFUSED),
    ] {
        site.is_told(user, password, wanted).await?;
    }
    // One is added and one revoked.
    site.give_alice(&[PASSWORD_HASH, BCRYPT_HASH]).await?;
    site.until_told(ALICE, BCRYPT_PASSWORD, IN).await?;
    site.is_told(ALICE, SHA512_PASSWORD, REFUSED).await?;
    site.is_told(ALICE, PASSWORD, IN).await
}

/// Operators see it as they see those by submission.
async fn a_login_is_a_use_of_its_password(site: &Site) -> Result<()> {
    let asked = site.ingress.as_ref().unwrap_or(&site.writer);
    wait::until("the last use", 2 * LIMIT, async || {
        let said = asked.cli(&["domain", "passwords", ALICE, "--output", "json"]).await.ok()?;
        let used: serde_json::Value = serde_json::from_str(said.lines().next()?).ok()?;
        let is_ours = used["name"] == "p0" && used["listener"] == "dovecot";
        (is_ours && used["lastUse"].is_i64()).then_some(())
    })
    .await
}

async fn the_mailbox_is_the_one_that_was_written(site: &Site) -> Result<()> {
    site.send().await?;
    let count = "print(imap().select('INBOX')[1][0].decode(), len(pop3().list()[1]))";
    wait::until("the message in its mailbox", LIMIT, async || {
        let counted = site.dovecot.python(ALICE, PASSWORD, count).await.ok()?;
        (counted == "1 1\n").then_some(())
    })
    .await?;
    let known = site.dovecot.user("alice+lists@local.test").await?;
    let home = known.trim().split('\t').find_map(|field| field.strip_prefix("home="));
    let home = home.with_context(|| known.clone())?;
    ensure!(maildir::messages(Path::new(home))?.len() == 1, "no message in {home}");
    let suspended = site.dovecot.user("carol@local.test").await?;
    ensure!(suspended.starts_with("USER\t"), "{suspended}");
    for name in ["robot@local.test", "nobody@local.test"] {
        let unknown = site.dovecot.user(name).await?;
        ensure!(unknown.starts_with("NOTFOUND\t"), "{name}: {unknown}");
    }
    Ok(())
}

async fn who_cannot_be_asked_calls_no_password_wrong(site: &mut Site) -> Result<()> {
    site.mda().stop(Duration::from_secs(30)).await?;
    site.is_told(ALICE, PASSWORD, UNAVAILABLE).await?;
    site.mda().start().await?;
    site.until_told(ALICE, PASSWORD, IN).await
}

#[tokio::test]
async fn dovecot_follows_the_table_of_one_process() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::of_one_process(dir.path()).await?;
    passwords_let_in_while_they_are_there(&mut site).await?;
    a_login_is_a_use_of_its_password(&site).await?;
    the_mailbox_is_the_one_that_was_written(&site).await?;
    who_cannot_be_asked_calls_no_password_wrong(&mut site).await?;
    ensure!(!site.dovecot.log().contains(PASSWORD), "a password is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dovecot_follows_the_table_that_the_mda_has() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::of_roles(dir.path()).await?;
    passwords_let_in_while_they_are_there(&mut site).await?;
    a_login_is_a_use_of_its_password(&site).await?;
    the_mailbox_is_the_one_that_was_written(&site).await?;
    who_cannot_be_asked_calls_no_password_wrong(&mut site).await?;
    // Without the key it cannot open hashes, says which one it lacks, and refuses nobody for it.
    let mda = site.mda();
    mda.stop(Duration::from_secs(30)).await?;
    let path = mda.dir().join("postrider.yaml");
    let text = fs::read_to_string(&path)?;
    let without = text.lines().filter(|line| !line.starts_with("secrets:")).collect::<Vec<_>>();
    fs::write(&path, without.join("\n"))?;
    mda.start().await?;
    let http = mda.address("http");
    wait::until("what is missing", LIMIT, async || {
        health::readyz(http).await.ok()?.contains("of class passwords is missing").then_some(())
    })
    .await?;
    site.is_told(ALICE, PASSWORD, UNAVAILABLE).await
}
