//! Several addresses of our own, each with its name.

use std::collections::BTreeMap;

use delivery::SourceConfig;
use mail_types::{ReversePath, TenantId};

use crate::peer::{Peer, Script};
use crate::world::{CONTENT, World, change, job};

fn source(address: &str, name: &str) -> SourceConfig {
    SourceConfig { address: address.parse().unwrap(), name: name.into() }
}

fn of_family_4() -> Vec<SourceConfig> {
    vec![source("127.0.0.2", "two.example"), source("127.0.0.3", "three.example")]
}

/// The addresses and names from which each sender's mail came, in order.
async fn sent(world: &World, peer: &Peer, senders: &[&str]) -> BTreeMap<String, Vec<String>> {
    for sender in senders {
        let mut job = job(&["a@there.example"]);
        change(&mut job, |envelope| {
            envelope.reverse_path = ReversePath::parse(sender).unwrap();
            envelope.tenant = TenantId::new("d.example");
        });
        world.add(job, CONTENT);
    }
    world.start();
    world.settled(senders.len()).await;
    world.stop().await;
    let mut from: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in peer.messages() {
        let sender = message.mail.split(['<', '>']).nth(1).unwrap().to_owned();
        let came = format!("{} {}", message.client.unwrap(), message.ehlo);
        from.entry(sender).or_default().push(came);
    }
    from
}

#[tokio::test]
async fn a_senders_mail_comes_from_one_of_them() {
    let peer = Peer::start(Script::default()).await;
    let mut world = World::to(&peer);
    world.config.connections_max = 1;
    world.config.sources = of_family_4();
    let senders: Vec<String> = (0..8).map(|n| format!("s@d{n}.example")).collect();
    // Each twice, one after the other and around: connections must not be mixed up.
    let twice: Vec<&str> = senders.iter().chain(&senders).map(String::as_str).collect();
    let from = sent(&world, &peer, &twice).await;
    let mut names: Vec<&String> = Vec::new();
    for (sender, came) in &from {
        assert_eq!(came.len(), 2, "{sender}");
        assert_eq!(came[0], came[1], "{sender}");
        names.push(&came[0]);
    }
    names.sort();
    names.dedup();
    assert_eq!(names, ["127.0.0.2 EHLO two.example", "127.0.0.3 EHLO three.example"]);
    assert!(peer.connections() <= 4, "{} connections for 16 messages", peer.connections());
}

#[tokio::test]
async fn a_bounce_comes_from_that_of_its_tenant() {
    let peer = Peer::start(Script::default()).await;
    let mut world = World::to(&peer);
    world.config.sources = of_family_4();
    let from = sent(&world, &peer, &["", "s@d.example", "other@d.example"]).await;
    assert_eq!(from[""], from["s@d.example"]);
    assert_eq!(from[""], from["other@d.example"]);
}

#[tokio::test]
async fn without_one_of_the_family_the_system_chooses() {
    let peer = Peer::start_at("[::1]:0", Script::default(), None).await;
    let mut world = World::to(&peer);
    world.config.sources = of_family_4();
    let from = sent(&world, &peer, &["s@d.example"]).await;
    assert_eq!(from["s@d.example"], ["::1 EHLO us.example"]);
    let peer = Peer::start_at("[::1]:0", Script::default(), None).await;
    let mut world = World::to(&peer);
    world.config.sources = [of_family_4(), vec![source("::1", "six.example")]].concat();
    let from = sent(&world, &peer, &["s@d.example"]).await;
    assert_eq!(from["s@d.example"], ["::1 EHLO six.example"]);
}
