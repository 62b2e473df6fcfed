//! What addresses lead to: groups, the catch-all, alias domains, folders, others elsewhere by SRS,
//! and back. In one process, and in roles.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::client::{Client, Reply};
use tests::home::{Home, Kind};
use tests::ledger::content;
use tests::process::domain_yaml;
use tests::sink::{Received, Sink};
use tests::{maildir, scenario, wait};

const LIMIT: Duration = Duration::from_secs(60);
const WRITER: &str = "writer@partner.test";
const FRIEND: &str = "friend@far.test";
const ALICE: &str = "alice@local.test";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_in_one_process() -> Result<()> {
    addresses(Kind::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_in_roles() -> Result<()> {
    addresses(Kind::Roles).await
}

async fn addresses(kind: Kind) -> Result<()> {
    let (dir, sink) = (tempfile::tempdir()?, Sink::start().await?);
    let key = dir.path().join("srs.key");
    fs::write(&key, "k".repeat(32))?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let srs = format!("srs: {{keyFiles: [{key:?}]}}\n");
    let config = |data: &Path| scenario::config(&sink, data) + &srs;
    let domain = ("local.test", &["alice", "bob"][..]);
    let mut home = Home::start(kind, &dir.path().join("home"), config, domain).await?;
    home.change("local.test.yaml", &yaml()?).await?;
    let place = Place { relay: home.ingress().address("relay"), home: &home, sink: &sink };

    let forwarded = place.a_group_has_each_member_once().await?;
    place.the_way_back_of(&forwarded).await?;
    place.what_has_been_forwarded_before().await?;
    place.a_loop_is_cut(&forwarded).await?;
    place.other_names().await?;
    place.a_sub_address_goes_to_its_folder().await?;
    home.stop(LIMIT).await
}

fn yaml() -> Result<String> {
    let aliases = format!(
        "catchAll: bob@local.test\n    aliases:\n    \
         - {{match: team, to: [{ALICE}, bob@local.test, {FRIEND}, {ALICE}]}}\n    \
         - {{match: away, to: [{FRIEND}]}}\n"
    );
    let plain = domain_yaml("local.test", &["alice", "bob", "robot"])?;
    let plain =
        plain.replace("address: robot@local.test", "address: robot@local.test\n  sendOnly: true");
    Ok(plain.replace("aliases:\n", &aliases)
        + "---\napiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {name: also}\n\
           spec:\n  domain: also.test\n  aliasOf: local.test\n")
}

/// Where all of it happens.
struct Place<'a> {
    home: &'a Home,
    sink: &'a Sink,
    relay: SocketAddr,
}

impl Place<'_> {
    async fn send(&self, from: &str, to: &str, message: &[u8]) -> Result<Reply> {
        let mut client = Client::connect(self.relay).await?;
        client.command("EHLO mta.partner.test", 250).await?;
        client.transaction(from, &[to], message).await
    }

    async fn accepted(&self, from: &str, to: &str, message: &[u8]) -> Result<()> {
        let reply = self.send(from, to, message).await?;
        ensure!(reply.code == 250, "{from} to {to}: {}", reply.text);
        Ok(())
    }

    /// Waits for the next message elsewhere to this recipient.
    async fn left_for(&self, recipient: &str) -> Result<Received> {
        let is_it = |it: &Received| it.recipients == [recipient];
        let left = async || self.sink.take().into_iter().find(is_it);
        wait::until(recipient, LIMIT, left).await
    }

    /// The directory of a mailbox, as an operator finds it.
    async fn mailbox(&self, name: &str) -> Result<PathBuf> {
        let address = format!("{name}@local.test");
        let args = ["domain", "mailbox", &address, "--output", "json"];
        let told: Value = serde_json::from_str(&self.home.mda().cli(&args).await?)?;
        Ok(told["directory"].as_str().with_context(|| told.to_string())?.into())
    }

    /// Waits until a mailbox has so many copies of a message.
    async fn stored(&self, name: &str, subject: &str, copies: usize) -> Result<Vec<PathBuf>> {
        let (directory, line) = (self.mailbox(name).await?, format!("Subject: {subject}"));
        let has = |path: &PathBuf| {
            fs::read_to_string(path).is_ok_and(|text| text.lines().any(|it| it == line))
        };
        let what = format!("{subject} for {name}");
        let found = wait::until(&what, LIMIT, async || {
            let paths = maildir::messages(&directory).ok()?;
            let found: Vec<PathBuf> = paths.into_iter().filter(|path| has(path)).collect();
            (found.len() >= copies).then_some(found)
        })
        .await?;
        ensure!(found.len() == copies, "{what}: {found:?}");
        Ok(found)
    }

    /// Gives the reverse-path by which it left.
    async fn a_group_has_each_member_once(&self) -> Result<String> {
        let message = content("T1", WRITER, "a body\r\n..with dots \u{20ac}");
        self.accepted(WRITER, "team@local.test", &message).await?;
        let left = self.left_for(FRIEND).await?;
        let text = String::from_utf8_lossy(&left.content).into_owned();
        ensure!(left.content.ends_with(&message), "changed: {text}");
        ensure!(text.contains("Delivered-To: team@local.test\r\n"), "{text}");
        let path = left.reverse_path;
        ensure!(
            path.contains("SRS0=") && path.contains("=partner.test=writer@local.test"),
            "{path}"
        );
        // Alice is named twice.
        self.stored("alice", "T1", 1).await?;
        self.stored("bob", "T1", 1).await?;
        Ok(path.trim_matches(['<', '>']).to_owned())
    }

    async fn the_way_back_of(&self, forwarded: &str) -> Result<()> {
        self.accepted("", forwarded, &content("T2", "postmaster@far.test", "failed")).await?;
        let back = self.left_for(WRITER).await?;
        ensure!(back.reverse_path.trim_matches(['<', '>']).is_empty(), "{}", back.reverse_path);
        let elsewhere = forwarded.replace("partner.test", "victim.test");
        // Forged: nobody's address here, so the catch-all has it.
        self.accepted("", &elsewhere, &content("T3", "postmaster@far.test", "forged")).await?;
        self.stored("bob", "T3", 1).await.map(drop)
    }

    /// Its bounce goes to whoever forwarded it before, and he sends it on.
    async fn what_has_been_forwarded_before(&self) -> Result<()> {
        let before = "SRS0=abcd=TT=origin.test=u@forwarder.test";
        self.accepted(before, "away@local.test", &content("T4", "u@origin.test", "x")).await?;
        let path = self.left_for(FRIEND).await?.reverse_path;
        let path = path.trim_matches(['<', '>']);
        ensure!(path.starts_with("SRS1=") && path.ends_with("@local.test"), "{path}");
        self.accepted("", path, &content("T5", "postmaster@far.test", "failed")).await?;
        self.left_for(before).await.map(drop)
    }

    async fn a_loop_is_cut(&self, forwarded: &str) -> Result<()> {
        let again = [b"Delivered-To: away@local.test\r\n", &*content("T6", WRITER, "x")].concat();
        let reply = self.send(forwarded, "away@local.test", &again).await?;
        ensure!(reply.text.starts_with("554 5.4.6"), "{}", reply.text);
        Ok(())
    }

    async fn other_names(&self) -> Result<()> {
        self.accepted(WRITER, "no-such-name@local.test", &content("T7", WRITER, "x")).await?;
        self.stored("bob", "T7", 1).await?;
        self.accepted(WRITER, "alice@also.test", &content("T8", WRITER, "x")).await?;
        self.stored("alice", "T8", 1).await?;
        let reply = self.send(WRITER, "robot@local.test", &content("T9", WRITER, "x")).await?;
        ensure!(reply.code == 550, "a mailbox that only sends: {}", reply.text);
        Ok(())
    }

    async fn a_sub_address_goes_to_its_folder(&self) -> Result<()> {
        let alice = self.mailbox("alice").await?;
        for name in ["new", "cur", "tmp"] {
            fs::create_dir_all(alice.join(".lists").join(name))?;
        }
        let message = content("TA", WRITER, "x");
        self.accepted(WRITER, "alice+lists@local.test", &message).await?;
        let path = self.stored("alice", "TA", 1).await?.remove(0);
        ensure!(path.parent() == Some(&alice.join(".lists/new")), "{path:?}");
        // Its size is in its name: readers need not open it.
        let (name, size) = (path.display().to_string(), fs::metadata(&path)?.len());
        ensure!(name.contains(&format!(",S={size}")), "{name} has {size} octets");
        // A folder that its owner has not made is not made for him.
        self.accepted(WRITER, "alice+other@local.test", &content("TB", WRITER, "x")).await?;
        let path = self.stored("alice", "TB", 1).await?.remove(0);
        ensure!(path.parent() == Some(&alice.join("new")), "{path:?}");
        Ok(())
    }
}
