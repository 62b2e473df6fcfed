//! Secrets in the domain table: sealed for those who need them, and readable nowhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey};
use serde_json::Value;
use tests::client::Client;
use tests::keys::Keys;
use tests::nats::{Cluster, Settings};
use tests::process::{PASSWORD, PASSWORD_HASH, Postrider};
use tests::{health, scenario, scram, wait};

const LIMIT: Duration = Duration::from_secs(30);
/// Of the hash that each mailbox has: salt and sum.
const HASH_PARTS: [&str; 3] =
    ["cG9zdHJpZGVydGVzdCE", "dtVUC3i4NMEgQwr0y6TKgIs3oFWNg7H", "argon2id"];

struct World {
    dir: PathBuf,
    servers: Cluster,
    keys: Keys,
}

impl World {
    async fn start(dir: &Path) -> Result<Self> {
        let servers = Cluster::start_in(&dir.join("nats"), 1, &Settings::default()).await?;
        let keys = Keys::make(&dir.join("keys")).await?;
        Ok(Self { dir: dir.to_owned(), servers, keys })
    }

    fn process(&self, role: &str, name: &str, more: &str) -> Result<Postrider> {
        let dir = self.dir.join(name);
        let config = scenario::config_for_port(9, &dir.join("data"));
        let jetstream = format!(
            "jetstream:\n  urls: {:?}\n  monitorUrls: {:?}\n  replicas: 1\n  timeoutSeconds: 5\n  \
             intakeBytes: 1073741824\n  reserveBytes: 268435456\n",
            self.servers.urls(),
            self.servers.monitor_urls(),
        );
        Postrider::of_role(role, &dir, &(config + &jetstream + more))
    }

    fn writer(&self, name: &str, secrets: &str) -> Result<Postrider> {
        let writer = self.process("serve", name, secrets)?;
        writer.write_domain("local.test", &["alice", "bob"])?;
        Ok(writer)
    }

    fn ingress(&self, name: &str, files: &[PathBuf]) -> Result<Postrider> {
        let more = format!("domainsFrom: kv\n{}", Keys::of_role(files));
        self.process("ingress", name, &more)
    }

    /// For port 25 alone.
    fn mx(&self, files: &[PathBuf]) -> Result<Postrider> {
        let process = self.ingress("mx", files)?;
        let path = process.dir().join("postrider.yaml");
        let config = fs::read_to_string(&path)?;
        let relay = config.replace("  - {kind: submission, addresses: [\"127.0.0.1:0\"]}\n", "");
        ensure!(relay != config, "no submission listener to leave out");
        fs::write(path, relay)?;
        Ok(process)
    }

    /// Every row of the bucket that has secrets, by its key.
    async fn sealed(&self) -> Result<Vec<(String, Value)>> {
        let context = jetstream::new(async_nats::connect(self.servers.urls()).await?);
        let bucket = context.get_key_value("domains").await?;
        let mut found = Vec::new();
        for name in ["alice", "bob"] {
            let key = format!("e.local_test.{name}");
            let value = bucket.get(key.as_str()).await?.context("no such row")?;
            let row: Value = serde_json::from_slice(&value)?;
            found.push((key, row["now"]["sealed"]["passwords"].clone()));
        }
        Ok(found)
    }
}

async fn apply(writer: &Postrider) -> Result<Value> {
    let said = writer.cli(&["domain", "apply", "--output", "json"]).await?;
    Ok(serde_json::from_str(&said)?)
}

async fn until_ready(process: &Postrider) -> Result<()> {
    wait::until("readiness", LIMIT, async || {
        health::is_ready(process.address("http")).await.ok()?.then_some(())
    })
    .await
}

async fn log_in(process: &Postrider, password: &str) -> Result<Client> {
    Client::submission(process.address("submission"), "alice@local.test", password).await
}

/// Why a login is refused.
async fn refusal(process: &Postrider, password: &str) -> Result<String> {
    let refused = log_in(process, password).await.err().context("let in")?;
    Ok(format!("{refused:#}"))
}

async fn rcpt(process: &Postrider) -> Result<u16> {
    let mut client = Client::connect(process.address("relay")).await?;
    client.command("EHLO client.test", 250).await?;
    client.command("MAIL FROM:<a@elsewhere.test>", 250).await?;
    client.send(b"RCPT TO:<alice@local.test>\r\n").await?;
    Ok(client.reply().await?.code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_are_for_those_who_check_passwords() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let world = World::start(dir.path()).await?;
    let refused = apply(&world.writer("careless", "")?).await.err().context("not refused")?;
    let refused = refused.to_string();
    ensure!(refused.contains("`postrider domain keys DIR`"), "{refused}");
    let applied = apply(&world.writer("writer", &world.keys.of_writer())?).await?;
    ensure!(applied["written"] == 4, "{applied}");

    let mut submission = world.ingress("submission", &[world.keys.file("passwords.key")])?;
    submission.start().await?;
    until_ready(&submission).await?;
    log_in(&submission, PASSWORD).await?;
    let wrong = refusal(&submission, "wrong").await?;
    ensure!(wrong.contains("535"), "{wrong}");

    let mut mx = world.mx(&[world.keys.file("tls.key")])?;
    mx.start().await?;
    until_ready(&mx).await?;
    ensure!(rcpt(&mx).await? == 250, "a mailbox is known without its hash");

    // One that is to check passwords and cannot says which key it lacks.
    let mut lacking = world.ingress("lacking", &[world.keys.file("tls.key")])?;
    lacking.start().await?;
    let id = world.sealed().await?[0].1["key"].as_str().context("no key id")?.to_owned();
    wait::until("what is missing", LIMIT, async || {
        let answer = health::readyz(lacking.address("http")).await.ok()?;
        (answer.starts_with("HTTP/1.1 503") && answer.contains(&id)).then_some(())
    })
    .await?;
    let unknown = refusal(&lacking, PASSWORD).await?;
    ensure!(unknown.contains("454"), "{unknown}");
    ensure!(rcpt(&lacking).await? == 250, "mail is received all the same");
    Ok(())
}

/// Keys of SCRAM are sealed like hashes; who has them may check, and show that it knows them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scram_with_keys_of_the_table() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let world = World::start(dir.path()).await?;
    let writer = world.writer("writer", &world.keys.of_writer())?;
    let path = writer.dir().join("domains/local.test.yaml");
    let yaml = fs::read_to_string(&path)?;
    fs::write(&path, yaml.replacen(PASSWORD_HASH, scram::HASH, 1))?;
    apply(&writer).await?;
    let mut worker = world.process("worker", "worker", "domainsFrom: kv\n")?;
    let mut submission = world.ingress("submission", &[world.keys.file("passwords.key")])?;
    tokio::try_join!(worker.start(), submission.start())?;
    until_ready(&submission).await?;
    let address = submission.address("submission");
    scram::send(address, "alice@local.test", scram::PASSWORD).await?;
    log_in(&submission, scram::PASSWORD).await?;
    let wrong = [("alice@local.test", PASSWORD), ("bob@local.test", PASSWORD)];
    for (login, password) in wrong {
        // Of bob's there are no keys: a wrong password, as far as anybody is told.
        let refused = scram::send(address, login, password).await.err().context("let in")?;
        ensure!(refused.to_string().contains("535"), "{refused}");
    }
    let told = wait::until("the password's use", LIMIT, async || {
        let args = ["domain", "passwords", "alice@local.test", "--output", "json"];
        let said = submission.cli(&args).await.ok()?;
        let password: Value = serde_json::from_str(said.lines().next()?).ok()?;
        password["lastUse"].is_i64().then_some(password)
    })
    .await?;
    ensure!(told["scheme"] == "SCRAM-SHA-256", "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_readable_in_the_store() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut world = World::start(dir.path()).await?;
    apply(&world.writer("writer", &world.keys.of_writer())?).await?;
    for (record, sealed) in world.sealed().await? {
        let open = |class: &str, record: &str| open(&world.keys, class, record, &sealed);
        let opened = open("passwords", &record)?.context("does not open")?;
        ensure!(HASH_PARTS.iter().all(|part| opened.contains(part)), "{opened}");
        for class in ["tls", "dkim"] {
            ensure!(open(class, &record)?.is_none(), "the key of class {class} opens a hash");
        }
        ensure!(open("passwords", "e.local_test.carol")?.is_none(), "opens in another record");
    }
    world.servers.kill(0)?;
    let (mut files, mut found) = (0, 0);
    let mut directories = vec![world.dir.join("nats")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let content = fs::read(&path)?;
            let has = |text: &[u8]| content.windows(text.len()).any(|window| window == text);
            found += usize::from(has(b"alice@local.test"));
            for part in HASH_PARTS.iter().chain([&PASSWORD]) {
                let encoded = STANDARD_NO_PAD.encode(part);
                ensure!(!has(part.as_bytes()), "{part} is in {}", path.display());
                ensure!(!has(encoded.as_bytes()), "{part} is in {} in base64", path.display());
            }
            files += 1;
        }
    }
    println!("{files} files of the server searched, {found} with what is no secret");
    ensure!(found > 0, "the rows are in no file that was searched");
    Ok(())
}

/// Opens with another implementation's view of the format than the product's: only HPKE is shared.
fn open(keys: &Keys, class: &str, record: &str, sealed: &Value) -> Result<Option<String>> {
    let file = fs::read_to_string(keys.file(&format!("{class}.key")))?;
    let key = file.split_whitespace().last().context("an empty file")?;
    let key = HpkePrivateKey::from(STANDARD.decode(key)?);
    let text = STANDARD_NO_PAD.decode(sealed["text"].as_str().context("no text")?)?;
    let (encapsulated, text) = text.split_at(32);
    let encapsulated = EncapsulatedSecret(encapsulated.to_vec());
    let bound = format!("passwords\0{record}");
    let info = b"postrider domain table";
    let opened = SUITE.open(&encapsulated, info, bound.as_bytes(), text, &key);
    opened.ok().map(|opened| Ok(String::from_utf8(opened)?)).transpose()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_replaced_and_nothing_is_written_without_need() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let world = World::start(dir.path()).await?;
    let writer = world.writer("writer", &world.keys.of_writer())?;
    apply(&writer).await?;
    let before = world.sealed().await?;
    let again = apply(&writer).await?;
    ensure!(again["written"] == 0 && again["generation"] == 1, "{again}");
    ensure!(world.sealed().await? == before, "sealed anew");

    let newer = Keys::make(&dir.path().join("newer")).await?;
    let both = [world.keys.file("passwords.key"), newer.file("passwords.key")];
    let mut ingress = world.ingress("both", &both)?;
    ingress.start().await?;
    until_ready(&ingress).await?;
    let mut session = log_in(&ingress, PASSWORD).await?;
    let rotating = world.writer("rotating", &newer.of_writer())?;
    let rotated = apply(&rotating).await?;
    ensure!(rotated["written"] == 2 && rotated["generation"] == 2, "{rotated}");
    wait::until("the new generation", LIMIT, async || {
        let log = ingress.log().ok()?;
        log.iter().any(|line| line["generation"] == 2).then_some(())
    })
    .await?;
    log_in(&ingress, PASSWORD).await?;
    session.command("MAIL FROM:<alice@local.test>", 250).await?;
    let mut old = world.ingress("old", &both[..1])?;
    old.start().await?;
    let unknown = wait::until("a reply to a login", LIMIT, async || {
        let refused = refusal(&old, PASSWORD).await.ok()?;
        health::readyz(old.address("http")).await.ok()?.contains("secrets").then_some(refused)
    })
    .await?;
    ensure!(unknown.contains("454"), "{unknown}");

    // A password that is replaced ends the sessions that it let in.
    let path = rotating.dir().join("domains/local.test.yaml");
    let yaml = fs::read_to_string(&path)?;
    let changed = yaml.replace("sICDLoUAHdk", "sICDLoUAHdg");
    ensure!(changed != yaml, "the hash is another");
    fs::write(path, changed)?;
    session.command("RSET", 250).await?;
    apply(&rotating).await?;
    wait::until("the end of the login", LIMIT, async || {
        let refused = refusal(&ingress, PASSWORD).await.ok()?;
        refused.contains("535").then_some(())
    })
    .await?;
    session.send(b"MAIL FROM:<alice@local.test>\r\n").await?;
    let reply = session.reply().await?;
    ensure!(reply.code == 421, "{}", reply.text);
    Ok(())
}
