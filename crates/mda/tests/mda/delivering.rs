//! Into Maildirs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domains::StorageId;
use mail_types::{Host, Notify};
use mda::{Config, Mda, Metrics, Setup};
use outcome::Route;
use prometheus_client::registry::Registry;
use queue::simulated::{Fault, Step};
use queue::{Action, Filter, Phase, Queue};
use retry::Policy;

use crate::world::{BODY, HEADER, World, dsn_to_sender, mailbox, notify, table, to};

/// The directory of a mailbox at `example.org`, below the root.
fn directory(name: &str) -> String {
    let id = StorageId::of(&mailbox(&format!("{name}@example.org"))).unwrap();
    id.directory().to_str().unwrap().to_owned()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn stores_a_copy_for_each_recipient() {
    let world = World::new();
    let process = world.start();
    let recipients = vec![to("alice+list@example.org"), to("bob@example.org")];
    let id = world.accept(recipients).await;
    world.until_done(id).await;
    let seconds = id.arrival().unix_ms() / 1000;
    let want = |recipient: &str| {
        format!("Return-Path: <sender@example.net>\r\nDelivered-To: {recipient}\r\n{HEADER}{BODY}")
    };
    let (alice, bob) = (want("alice+list@example.org"), want("bob@example.org"));
    let (alice_size, bob_size) = (alice.len(), bob.len());
    let (of_alice, of_bob) = (directory("alice"), directory("bob"));
    let files = BTreeMap::from([
        (format!("{of_alice}/new/{seconds}.{id}_0_0.postrider,S={alice_size}"), alice),
        (format!("{of_bob}/new/{seconds}.{id}_0_1.postrider,S={bob_size}"), bob),
    ]);
    assert_eq!(world.files(), files);
    process.stop().await;
}

#[tokio::test]
async fn streams_what_is_large() {
    let world = World::new();
    let process = world.start();
    let line = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\r\n";
    let id = world.accept_with(vec![to("alice@example.org")], line.repeat(80_000).into()).await;
    world.until_done(id).await;
    let files = world.files();
    let (_, content) = files.first_key_value().unwrap();
    assert!(content.ends_with(&line.repeat(80_000)) && content.starts_with("Return-Path: <s"));
    process.stop().await;
}

#[tokio::test]
async fn hostile_local_parts_stay_below_the_root() {
    let world = World::new();
    let hostile = [
        "\"../../../../evil\"@example.org",
        "\".\"@example.org",
        "\"..\"@example.org",
        "\"a/b\"@example.org",
        "/etc@example.org",
        "\"new\"@example.org",
        "\u{444}\u{444}@example.org",
        "-rf@example.org",
        "%2e%2e@example.org",
    ];
    let mut mailboxes = hostile.to_vec();
    mailboxes.extend(["alice@example.org", "bob@example.org"]);
    world.domains.store(Some(table(&mailboxes)));
    let process = world.start();
    let id = world.accept(hostile.iter().map(|address| to(address)).collect()).await;
    world.until_done(id).await;
    process.stop().await;
    assert_eq!(names(world.dir.path()), ["mail"]);
    let mut directories = BTreeSet::new();
    for path in world.files().into_keys() {
        let parts: Vec<&str> = path.split('/').collect();
        let [shard, id, "new", file] = parts[..] else { panic!("{path}") };
        assert!(id.len() == 64 && id.starts_with(shard) && shard.len() == 2, "{path}");
        assert!(id.bytes().all(|b| b.is_ascii_hexdigit()), "{path}");
        let of_job = file.strip_suffix(&file[file.rfind(",S=").unwrap()..]).unwrap();
        assert!(of_job.ends_with(".postrider") && !of_job.contains('@'), "{path}");
        directories.insert(id.to_owned());
    }
    assert_eq!(directories.len(), hostile.len());
    assert!(names(&world.root()).iter().all(|shard| shard.len() == 2));
}

/// Mail follows the id, whatever the address.
#[tokio::test]
async fn a_renamed_mailbox_keeps_its_mail() {
    let world = World::new();
    let id = StorageId::of(&mailbox("alice@example.org")).unwrap();
    let renamed = format!("al@example.org'\n  storageId: '{id}");
    // And another has her address.
    let other = format!("{}{}", "0".repeat(32), &id.to_string()[32..]);
    let anew = format!("alice@example.org'\n  storageId: '{other}");
    world.domains.store(Some(table(&[&renamed, &anew, "bob@example.org"])));
    let process = world.start();
    let id = world.accept(vec![to("al@example.org"), to("alice@example.org")]).await;
    world.until_done(id).await;
    assert_eq!(names(&world.maildir("alice").join("new")).len(), 1);
    assert_eq!(names(&world.root().join("00").join(other).join("new")).len(), 1);
    process.stop().await;
}

#[tokio::test]
async fn a_repeated_job_stores_once() {
    stores_once(World::new()).await;
}

/// By its arrival the message came after the second process had started.
#[tokio::test]
async fn a_repeated_job_of_an_ingress_whose_clock_is_ahead_stores_once() {
    stores_once(World { ahead: Duration::from_secs(60), ..World::new() }).await;
}

async fn stores_once(world: World) {
    let process = world.start();
    // The outcome is lost, and with the crash the lease and the process.
    for _ in 0..4 {
        world.queue.fail_next(Step::Settle, Fault::Unavailable);
    }
    let id = world.accept(vec![to("alice@example.org")]).await;
    world.until(id, |_| !world.files().is_empty()).await.unwrap();
    process.shutdown.cancel();
    world.queue.crash();
    // Alice has read it meanwhile.
    let alice = world.maildir("alice");
    let stored = names(&alice.join("new")).pop().unwrap();
    fs::rename(alice.join("new").join(&stored), alice.join("cur").join(stored + ":2,S")).unwrap();
    let process = world.start();
    world.until_done(id).await;
    assert_eq!(world.files().len(), 1, "{:?}", world.files().keys());
    assert!(names(&alice.join("new")).is_empty());
    process.stop().await;
}

#[tokio::test]
async fn a_broken_disk_defers_and_mends() {
    let world = World::new();
    fs::create_dir_all(world.maildir("alice").parent().unwrap()).unwrap();
    fs::write(world.maildir("alice"), "not a directory").unwrap();
    let process = world.start();
    let id = world.accept(vec![to("alice@example.org"), to("bob@example.org")]).await;
    let job = world.until(id, |job| job.phase == Phase::Deferred).await.unwrap();
    let reply = job.recipients[0].last.as_ref().unwrap().reply.to_string();
    assert_eq!(reply, "451 4.3.0 the mailbox store does not work at the moment");
    assert_eq!(job.pending().count(), 1, "bob has his");
    fs::remove_file(world.maildir("alice")).unwrap();
    world.until_done(id).await;
    assert_eq!(world.files().len(), 2);
    process.stop().await;
}

#[tokio::test]
async fn only_a_proven_absence_bounces() {
    let world = World::new();
    let process = world.start();
    let id = world.accept(vec![to("carol@example.org")]).await;
    world.until_done(id).await;
    let dsn = dsn_to_sender(&world).await;
    assert!(dsn.contains("5.1.1") && dsn.contains("carol@example.org"), "{dsn}");
    // Leads elsewhere; an alias of a mailbox; no such domain; no table.
    let id = world.accept(vec![to("gone@example.org"), to("moved@example.org")]).await;
    let job = world.until(id, |job| job.phase == Phase::Deferred).await.unwrap();
    assert_eq!(job.pending().map(|(index, _)| index).collect::<Vec<_>>(), [0]);
    assert_eq!(names(&world.maildir("bob").join("new")).len(), 1);
    world.domains.store(None);
    let id = world.accept(vec![to("carol@example.org")]).await;
    let job = world.until(id, |job| job.phase == Phase::Deferred).await.unwrap();
    let reply = job.recipients[0].last.as_ref().unwrap().reply.to_string();
    assert_eq!(reply, "451 4.3.0 the domain table is not loaded");
    process.stop().await;
}

#[tokio::test]
async fn success_is_reported_when_asked_for() {
    let world = World::new();
    let process = world.start();
    let success = Notify::On { success: true, failure: true, delay: false };
    let recipients = vec![notify("alice@example.org", success), to("bob@example.org")];
    let id = world.accept(recipients).await;
    world.until_done(id).await;
    let dsn = dsn_to_sender(&world).await;
    assert!(dsn.contains("Action: delivered"), "{dsn}");
    assert!(dsn.contains("alice@example.org") && !dsn.contains("bob@example.org"), "{dsn}");
    process.stop().await;
}

#[tokio::test]
async fn damaged_content_is_kept_for_an_operator() {
    let world = World::new();
    let id = world.accept(vec![to("alice@example.org")]).await;
    assert!(world.queue.damage(id));
    let process = world.start();
    let job = world.until(id, |job| job.phase == Phase::Quarantined).await.unwrap();
    assert!(job.quarantine_reason.is_some());
    assert!(world.files().is_empty());
    process.stop().await;
}

#[tokio::test]
async fn a_lapsed_lease_publishes_nothing() {
    let world = World::new();
    world.queue.fail_next(Step::Extend, Fault::Unavailable);
    let process = world.start();
    let id = world.accept(vec![to("alice@example.org")]).await;
    world.until_done(id).await;
    assert_eq!(world.files().len(), 1);
    process.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_bounces() {
    use futures::StreamExt;
    let world = World::new();
    let id = world.accept(vec![to("alice@example.org")]).await;
    let filter = Filter { message: Some(id), ..Filter::default() };
    let acted: Vec<_> = world.queue.act(filter, Action::CancelWithDsn).collect().await;
    assert_eq!(acted.len(), 1);
    let process = world.start();
    world.until_done(id).await;
    assert!(dsn_to_sender(&world).await.contains("Action: failed"));
    assert!(world.files().is_empty());
    process.stop().await;
}

#[tokio::test]
async fn many_at_once() {
    let world = World::new();
    let process = world.start();
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(world.accept(vec![to("alice@example.org"), to("bob@example.org")]).await);
    }
    for id in ids {
        world.until_done(id).await;
    }
    assert_eq!(world.files().len(), 400);
    assert!(names(&world.maildir("alice").join("tmp")).is_empty());
    process.stop().await;
}

#[test]
fn an_unusable_directory_is_named() {
    let world = World::new();
    fs::write(world.root(), "a file").unwrap();
    let config = Config::default();
    let setup = Setup {
        queue: Arc::new(world.queue.clone()),
        domains: world.domains.clone(),
        absence: world.absence.clone(),
        full: world.full.clone(),
        name: Host::parse("mx.example.org").unwrap(),
        route: Route::new(|_| Vec::new()),
        lease: Duration::from_secs(900),
        retry: Policy::default(),
        timeouts: Default::default(),
        data_dir: world.dir.path().to_owned(),
        metrics: Metrics::register(&mut Registry::default()),
    };
    let Err(error) = Mda::new(config, setup) else { panic!("no error") };
    assert!(error.to_string().starts_with("directory: mail cannot be written to /"), "{error}");
}
