//! Domains of ours that have a server of their own: handed over to it, and asked about.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use delivery::{Config, Inquirer, SourceConfig};
use domains::{Absence, Answer, CallAhead, Settings, Table};
use mail_types::{Domain, Host, Mailbox};

use crate::peer::{Act, Peer, Script, say, say_and_close};
use crate::tls::{HOST, identity, offering};
use crate::world::{CONTENT, World, job, summary};

const CLEAR: &str = "    tls: {mode: opportunistic}\n";

/// `there.example` with these hosts, and more said of its server.
fn table(hosts: &[String], more: &str) -> Arc<Table> {
    let text = format!(
        "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\n\
         metadata: {{name: there, namespace: t}}\nspec:\n  domain: there.example\n  \
         target: relay\n  relay:\n    hosts: {hosts:?}\n    recipients: {{callAhead: true}}\n\
         {more}"
    );
    compile(&text)
}

fn compile(text: &str) -> Arc<Table> {
    Arc::new(Table::from_yaml([("t", text)], &Settings::default()).unwrap())
}

/// `there.example` with mailboxes here.
fn with_mailboxes() -> Arc<Table> {
    compile(
        "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {name: there}\nspec:\n  \
         domain: there.example\n  \
         inbound: {aliases: [{match: postmaster, to: [x@other.example]}]}\n",
    )
}

fn in_clear(peers: &[&Peer]) -> Arc<Table> {
    let hosts: Vec<String> = peers.iter().map(|peer| peer.address.to_string()).collect();
    table(&hosts, CLEAR)
}

/// A certificate for the name, as a field of the table.
fn authority(pem: &str) -> String {
    let lines: String = pem.lines().map(|line| format!("        {line}\n")).collect();
    format!("    tls:\n      ca: |\n{lines}")
}

const AUTH: &str = "    auth: {user: u, passwordFile: at-there}\n";

#[tokio::test]
async fn mail_goes_to_the_domains_own_server_under_tls_and_logged_in() {
    let identity = identity();
    let ehlo_tls = say("250-peer\n250 AUTH PLAIN\n");
    let script = Script { ehlo_tls, ..offering() };
    let peer = Peer::start_tls(script, identity.acceptor.clone()).await;
    let others = Peer::start(Script::default()).await;
    let passwords = tempfile::tempdir().unwrap();
    fs::create_dir(passwords.path().join("t")).unwrap();
    fs::write(passwords.path().join("t/at-there"), "p\n").unwrap();
    let mut world = World::to(&others);
    world.config.gateway_passwords_dir = Some(passwords.path().to_owned());
    world.dns.set_addresses(HOST, Ok(vec![peer.address.ip()]));
    let pem = fs::read_to_string(identity.pem.path()).unwrap();
    let hosts = [format!("{HOST}:{}", peer.address.port())];
    world.domains.store(Some(table(&hosts, &(authority(&pem) + AUTH))));
    let (summary, _) = world.deliver(job(&["good@there.example"]), CONTENT).await;
    assert_eq!(summary.recipients, ["delivered 250 2.0.0"], "{}", summary.reply);
    assert!(peer.messages()[0].tls);
    assert!(peer.commands().iter().any(|line| line == "AUTH PLAIN AHUAcA=="));
    assert_eq!(others.connections(), 0, "the route is for other domains");
}

/// What is wrong on our side, or the server's, waits; what it refuses is bounced as ever.
#[tokio::test]
async fn what_is_in_the_way_of_a_hand_over() {
    let pem = identity();
    let pem = fs::read_to_string(pem.pem.path()).unwrap();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let required = "    tls: {mode: required}\n".to_owned();
    let cases = [
        ("127.0.0.1", CLEAR.to_owned(), "bad", "bounced 550 5.1.1"),
        ("127.0.0.1", String::new(), "good", "pending 451 4.7.5"),
        ("127.0.0.1", authority(&pem), "good", "pending 451 4.7.5"),
        ("127.0.0.1", authority(broken), "good", "pending 451 4.7.5"),
        ("127.0.0.1", required + AUTH, "good", "pending 451 4.3.5"),
        ("nowhere.example", CLEAR.to_owned(), "good", "pending 451 4.4.4"),
        ("127.0.0.77", CLEAR.to_owned(), "good", "pending 451 4.4.1"),
    ];
    for (host, more, name, want) in cases {
        let acceptor = identity().acceptor;
        let peer = Peer::start_tls(offering(), acceptor).await;
        let world = World::with_routes(vec![]);
        let hosts = [format!("{host}:{}", peer.address.port())];
        world.domains.store(Some(table(&hosts, &more)));
        let recipient = format!("{name}@there.example");
        let (summary, _) = world.deliver(job(&[&recipient]), CONTENT).await;
        assert_eq!(summary.recipients, [want], "{host} {more}: {}", summary.reply);
        assert!(!summary.reply.contains("at-there"), "a file of ours: {}", summary.reply);
    }
}

#[tokio::test]
async fn the_next_host_takes_what_the_first_cannot() {
    let first = Peer::start(Script { greeting: say_and_close("421 no\n"), ..Script::default() });
    let (first, second) = (first.await, Peer::start(Script::default()).await);
    let world = World::with_routes(vec![]);
    world.domains.store(Some(in_clear(&[&first, &second])));
    let (summary, _) = world.deliver(job(&["good@there.example"]), CONTENT).await;
    assert_eq!(summary.recipients, ["delivered 250 2.0.0"]);
    assert_eq!((first.connections(), second.messages().len()), (1, 1));
}

#[tokio::test]
async fn waiting_mail_goes_where_the_table_says_now() {
    let (old, new) = (Peer::start(Script::default()).await, Peer::start(Script::default()).await);
    let mut world = World::with_routes(vec![]);
    world.config.idle_connection_seconds = 60;
    world.domains.store(Some(in_clear(&[&old])));
    world.add(job(&["good@there.example"]), CONTENT);
    world.start();
    world.settled(1).await;
    // The connection to the old one is still open.
    world.domains.store(Some(in_clear(&[&new])));
    world.add(job(&["good@there.example"]), CONTENT);
    world.settled(2).await;
    assert_eq!((old.messages().len(), new.messages().len()), (1, 1));
    world.domains.store(Some(with_mailboxes()));
    world.add(job(&["good@there.example"]), CONTENT);
    let (job, settlement) = world.settled(3).await.remove(2);
    let summary = summary(&job, &settlement);
    assert_eq!(summary.recipients, ["pending 451 4.3.5"], "{}", summary.reply);
    world.stop().await;
}

/// The domain was a stranger's when the mail was accepted.
#[tokio::test]
async fn a_connection_to_its_exchanger_is_not_used_for_a_domain_that_has_mailboxes_by_now() {
    let peer = Peer::start(Script::default()).await;
    let mut world = World::with_routes(vec![]);
    world.config.idle_connection_seconds = 60;
    world.config.port = peer.address.port();
    world.config.allow_private_addresses = true;
    world.dns.set_mx("there.example", Err(resolve::LookupError::NoRecords));
    world.dns.set_addresses("there.example", Ok(vec![peer.address.ip()]));
    world.add(job(&["good@there.example"]), CONTENT);
    world.start();
    world.settled(1).await;
    world.domains.store(Some(with_mailboxes()));
    world.add(job(&["good@there.example"]), CONTENT);
    let (job, settlement) = world.settled(2).await.remove(1);
    let summary = summary(&job, &settlement);
    assert_eq!(summary.recipients, ["pending 451 4.3.5"], "{}", summary.reply);
    world.stop().await;
    assert_eq!(peer.messages().len(), 1);
}

struct Unproven;

#[async_trait]
impl Absence for Unproven {
    async fn is_proven(&self, _: &Arc<Table>) -> bool {
        false
    }
}

/// A domain that DNS says nothing of may have got a server of its own a moment ago.
#[tokio::test]
async fn without_a_proof_nothing_bounces_for_want_of_a_host() {
    let mut world = World::with_routes(vec![]);
    world.absence = Arc::new(Unproven);
    let (summary, _) = world.deliver(job(&["good@there.example"]), CONTENT).await;
    assert_eq!(summary.recipients, ["pending 451 4.3.0"], "{}", summary.reply);
    assert_eq!(world.hops(), Vec::<String>::new());
}

async fn ask(server: SocketAddr, address: &str) -> Answer {
    let mut config = Config::default();
    config.timeouts.greeting_seconds = 1;
    config.timeouts.rcpt_seconds = 1;
    let resolver = Arc::new(resolve::Fake::default());
    let inquirer = Inquirer::new(config, resolver, Host::parse("us.example").unwrap()).unwrap();
    let table = table(&[server.to_string()], CLEAR);
    let gateway = table.gateway(&Domain::parse("there.example").unwrap()).unwrap();
    inquirer.ask(gateway, &Mailbox::parse(address).unwrap()).await
}

#[tokio::test]
async fn its_server_is_asked_about_recipients() {
    type Case = (&'static str, fn(&mut Script), &'static str, &'static str);
    let cases: [Case; 14] = [
        ("taken", |_| (), "good", "taken 1000000"),
        ("no limit", |s| s.ehlo = say("250 peer\n"), "good", "taken"),
        ("absent", |_| (), "bad", "absent"),
        ("absent in few words", |s| s.rcpt_bad = say("550 no\n"), "bad", "absent"),
        (
            "the domain is not known",
            |s| (s.rcpt, s.rcpt_bad) = (say("550 no relay\n"), say("550 no relay\n")),
            "bad",
            "unclear",
        ),
        ("a policy", |s| s.rcpt_bad = say("554 5.7.1 relay access denied\n"), "bad", "unclear"),
        ("later", |s| s.rcpt_bad = say("450 4.2.0 greylisted\n"), "bad", "unclear"),
        ("MAIL is refused", |s| s.mail = say("550 5.1.1 no bounces here\n"), "bad", "unclear"),
        ("421 to RCPT", |s| s.rcpt = say_and_close("421 4.3.2 no\n"), "good", "unclear"),
        ("gone at RCPT", |s| s.rcpt = Act::Close, "good", "unclear"),
        ("silent at RCPT", |s| s.rcpt = Act::Silent, "good", "unclear"),
        ("silent", |s| s.greeting = Act::Silent, "good", "unreachable"),
        ("refuses everybody", |s| s.greeting = say("554 5.1.1 no\n"), "good", "unreachable"),
        ("no SMTPUTF8", |_| (), "gr\u{fc}n", "unclear"),
    ];
    for (name, change, recipient, want) in cases {
        let mut script = Script::default();
        change(&mut script);
        let peer = Peer::start(script).await;
        let answer = ask(peer.address, &format!("{recipient}@there.example")).await;
        let said = match &answer {
            Answer::Taken { size_max: Some(octets) } => format!("taken {octets}"),
            Answer::Taken { size_max: None } => "taken".to_owned(),
            Answer::Absent => "absent".to_owned(),
            Answer::Unclear(_) => "unclear".to_owned(),
            Answer::Unreachable(_) => "unreachable".to_owned(),
        };
        assert_eq!(said, want, "{name}: {answer:?}");
        let commands = peer.commands();
        assert!(!commands.iter().any(|line| line == "DATA"), "{name}: {commands:?}");
        let senders = commands.iter().filter(|line| line.starts_with("MAIL"));
        assert!(senders.into_iter().all(|line| line == "MAIL FROM:<>"), "{name}: {commands:?}");
    }
    let nobody = "127.0.0.77:9".parse().unwrap();
    assert!(matches!(ask(nobody, "good@there.example").await, Answer::Unreachable(_)));
}

#[tokio::test]
async fn questions_are_put_by_the_configuration_in_force() {
    let identity = identity();
    let peer = Peer::start_tls(offering(), identity.acceptor.clone()).await;
    let resolver = Arc::new(resolve::Fake::default());
    resolver.set_addresses(HOST, Ok(vec![peer.address.ip()]));
    let us = Host::parse("us.example").unwrap();
    let inquirer = Inquirer::new(Config::default(), resolver.clone(), us.clone()).unwrap();
    let table = table(&[format!("{HOST}:{}", peer.address.port())], "");
    let gateway = table.gateway(&Domain::parse("there.example").unwrap()).unwrap();
    let good = Mailbox::parse("good@there.example").unwrap();
    let answer = inquirer.ask(gateway, &good).await;
    assert!(matches!(answer, Answer::Unreachable(_)), "not trusted: {answer:?}");
    let trusting =
        Config { tls_ca_file: Some(identity.pem.path().to_owned()), ..Config::default() };
    let change = inquirer.live().prepare(trusting.clone()).unwrap();
    let answer = inquirer.ask(gateway, &good).await;
    assert!(matches!(answer, Answer::Unreachable(_)), "not in force yet: {answer:?}");
    change.apply();
    let answer = inquirer.ask(gateway, &good).await;
    assert!(matches!(answer, Answer::Taken { .. }), "{answer:?}");

    // An address of another machine.
    let sources =
        vec![SourceConfig { address: "192.0.2.1".parse().unwrap(), name: "out.example".into() }];
    let elsewhere = Config { sources, ..trusting };
    let refused = inquirer.live().prepare(elsewhere.clone()).err().unwrap().to_string();
    assert!(refused.starts_with("sources[0].address: "), "{refused}");
    assert!(Inquirer::new(elsewhere, resolver, us).is_err());
}
