//! One who publishes table after table, and of each only what is new in it.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream;
use domains::{Certificate, Settings, Table};
use domains_kv::{Buckets, Progress, PublishError, Published, Publisher, Sealer, Shrinking};
use futures::StreamExt;
use tests::keys::Keys;
use tests::nats::Cluster;
use tests::process::domain_yaml;

const SECRET: &str = "a key that nobody reads";

/// Domains with their mailboxes.
fn table(domains: &[(&str, &[&str])]) -> Result<Arc<Table>> {
    let mut files = Vec::new();
    for (domain, mailboxes) in domains {
        files.push((*domain, domain_yaml(domain, mailboxes)?));
    }
    let files = files.iter().map(|(name, text)| (*name, text.as_str()));
    let table = files.map(|file| Table::from_yaml([file], &Settings::default()));
    let parts = table.collect::<Result<Vec<_>, _>>();
    let parts = parts.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    Ok(Arc::new(Table::of_tenants(&parts, None)))
}

struct World {
    _servers: Cluster,
    config: Buckets,
    keys: Keys,
    _dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Result<Self> {
        let servers = Cluster::start(1).await?;
        let config = servers.buckets();
        let dir = tempfile::tempdir()?;
        let keys = Keys::make(&dir.path().join("keys")).await?;
        Ok(Self { _servers: servers, config, keys, _dir: dir })
    }

    /// What is in force is this: by the marker's digest it is whole, too.
    async fn has(&self, wanted: &Table) -> Result<()> {
        let (marker, found) = domains_kv::read(&self.config).await?;
        let names = |table: &Table| {
            let mut rows: Vec<String> = table.rows().map(|row| format!("{row:?}")).collect();
            rows.sort();
            rows
        };
        ensure!(names(&found) == names(wanted), "{:?}", names(&found));
        ensure!(marker.rows == wanted.row_count(), "{marker:?}");
        Ok(())
    }

    /// All octets of the bucket.
    async fn stored(&self) -> Result<String> {
        let client = self.config.options().await.map_err(|error| anyhow::anyhow!(error))?;
        let client = client.connect(self.config.urls.clone()).await?;
        let store = jetstream::new(client).get_key_value("domains").await?;
        let mut keys = store.keys().await?;
        let mut text = String::new();
        while let Some(key) = keys.next().await {
            let value = store.get(key?).await?.context("a key without a value")?;
            text += &String::from_utf8_lossy(&value);
        }
        Ok(text)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_new_is_written() -> Result<()> {
    let world = World::start().await?;
    let mut publisher = Publisher::new(world.config.clone(), world.keys.sealer()?);
    ensure!(!publisher.is_in_force().await?, "nothing was published");
    let first = table(&[("a.test", &["x", "y"]), ("b.test", &["z"])])?;
    let Published { marker, written, .. } = publisher.publish(&first, Shrinking::Refused).await?;
    ensure!(written == first.row_count(), "{written} rows");
    world.has(&first).await?;
    ensure!(publisher.is_in_force().await?, "it is not in force");

    // The same once more is no generation.
    let again = table(&[("a.test", &["x", "y"]), ("b.test", &["z"])])?;
    let published = publisher.publish(&again, Shrinking::Refused).await?;
    ensure!(published == Published { marker, written: 0, dropped: 0 }, "{published:?}");

    let second = table(&[("a.test", &["x", "w"]), ("b.test", &["z"])])?;
    let published = publisher.publish(&second, Shrinking::Refused).await?;
    ensure!((published.written, published.dropped) == (1, 1), "{published:?}");
    world.has(&second).await?;

    // Most may not go unless it is meant.
    let none = Arc::new(Table::default());
    let refused = publisher.publish(&none, Shrinking::Refused).await;
    ensure!(matches!(refused, Err(PublishError::Shrinks { old: 2, new: 0 })), "{refused:?}");
    world.has(&second).await?;
    let third = table(&[("b.test", &["z"])])?;
    publisher.publish(&third, Shrinking::Refused).await?;
    world.has(&third).await?;
    publisher.publish(&none, Shrinking::Confirmed).await?;
    world.has(&none).await?;
    publisher.publish(&first, Shrinking::Refused).await?;
    world.has(&first).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_overtaken_begins_anew() -> Result<()> {
    let world = World::start().await?;
    let mut publisher = Publisher::new(world.config.clone(), world.keys.sealer()?);
    let first = table(&[("a.test", &["x"])])?;
    publisher.publish(&first, Shrinking::Refused).await?;
    let others = table(&[("b.test", &["z"])])?;
    let (sealer, progress) = (world.keys.sealer()?, Progress::default());
    let shrinking = Shrinking::Refused;
    domains_kv::publish(&world.config, &sealer, &others, shrinking, &progress).await?;
    ensure!(!publisher.is_in_force().await?, "another's is in force");
    let second = table(&[("a.test", &["x", "y"])])?;
    let overtaken = publisher.publish(&second, Shrinking::Refused).await;
    ensure!(matches!(overtaken, Err(PublishError::Overtaken)), "{overtaken:?}");
    world.has(&others).await?;
    publisher.publish(&second, Shrinking::Refused).await?;
    world.has(&second).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_certificate_is_sealed() -> Result<()> {
    let world = World::start().await?;
    let public = ["passwords.pub", "tls.pub"].map(|name| world.keys.file(name));
    let sealer = Sealer::load(&public, Some(&world.keys.file("compare.key")))?;
    let mut publisher = Publisher::new(world.config.clone(), sealer);
    let mut certified = Arc::unwrap_or_clone(table(&[("a.test", &["x"])])?);
    let certificate =
        |chain: &str| Arc::new(Certificate { chain: chain.to_owned(), key: SECRET.to_owned() });
    certified.set_certificate(&"a.test".parse()?, certificate("the first chain"));
    publisher.publish(&Arc::new(certified.clone()), Shrinking::Refused).await?;
    certified.set_certificate(&"a.test".parse()?, certificate("another chain"));
    let published = publisher.publish(&Arc::new(certified), Shrinking::Refused).await?;
    ensure!(published.written == 1, "{published:?}");
    let stored = world.stored().await?;
    ensure!(stored.contains("another chain") && stored.contains("\"tls\""), "{stored}");
    ensure!(!stored.contains(SECRET), "the key is readable");
    Ok(())
}
