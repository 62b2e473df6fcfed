//! To a mailbox server by LMTP.

use std::sync::Arc;
use std::time::Duration;

use domains::StorageId;
use mail_types::{BodyType, Notify, ReversePath};
use mda::{Config, LmtpConfig};
use queue::simulated::{Fault, Step};
use queue::{HopKind, Job, Phase, Queue};

use crate::server::{Answer, Server};
use crate::world::{BODY, HEADER, Process, World, dsn_to_sender, mailbox, notify, table, to};

const HALF_A_SECOND: Duration = Duration::from_millis(500);

fn by(lmtp: LmtpConfig) -> Config {
    Config { lmtp: Some(lmtp), ..Config::default() }
}

fn address(address: String) -> LmtpConfig {
    LmtpConfig { address: Some(address), ..LmtpConfig::default() }
}

/// With mailboxes of these names.
fn world(names: &[&str]) -> World {
    let world = World::new();
    let mailboxes: Vec<String> = names.iter().map(|name| format!("{name}@example.org")).collect();
    let mut mailboxes: Vec<&str> = mailboxes.iter().map(String::as_str).collect();
    mailboxes.extend(["alice@example.org", "bob@example.org"]);
    world.domains.store(Some(table(&mailboxes)));
    world
}

async fn start(world: &World, server: &Server) -> Process {
    world.start_with(by(address(server.listen("127.0.0.1:0").await)))
}

fn deferred(job: &Job) -> bool {
    job.phase == Phase::Deferred
}

fn last(job: &Job, recipient: usize) -> String {
    job.recipients[recipient].last.as_ref().unwrap().reply.to_string()
}

fn pending(job: &Job) -> Vec<u32> {
    job.pending().map(|(index, _)| index).collect()
}

/// Whether somebody else than the role has something to do: a DSN waits.
async fn has_mail_to_send(world: &World) -> bool {
    let leased = world.queue.lease(HopKind::Smtp, 1, 1);
    tokio::time::timeout(Duration::from_millis(50), leased).await.is_ok()
}

#[tokio::test]
async fn each_recipient_has_its_own_outcome_rfc2033_4_2() {
    let world = world(&["full", "over", "unknown"]);
    let server = Server::new();
    server.script().rcpt.insert("unknown@example.org", "550 5.1.1 no such user");
    let full = Answer::Say("452 4.2.2 mailbox full");
    server.script().end.insert("full@example.org", full);
    let over = Answer::Say("552-5.2.2 quota\r\n552 5.2.2 exceeded");
    server.script().end.insert("over@example.org", over);
    let process = start(&world, &server).await;
    let names = ["full", "alice+list", "unknown", "over", "bob"];
    let id = world.accept(names.map(|name| to(&format!("{name}@example.org"))).into()).await;
    let job = world.until(id, deferred).await.unwrap();
    assert_eq!(pending(&job), [0]);
    assert_eq!(last(&job, 0), "452 4.2.2 mailbox full");
    let is_full = |name: &str| {
        let id = StorageId::of(&mailbox(&format!("{name}@example.org"))).unwrap();
        world.full.contains(&id)
    };
    assert_eq!(["full", "over", "unknown", "bob"].map(is_full), [true, true, false, false]);
    assert_eq!(world.counted("mda_mailboxes_full"), 2);
    let dsn = dsn_to_sender(&world).await;
    for (told, is_told) in [
        ("unknown@example.org", true),
        ("550 5.1.1 no such user", true),
        ("over@example.org", true),
        ("552 5.2.2", true),
        ("full@example.org", false),
        ("alice", false),
        ("bob", false),
    ] {
        assert_eq!(dsn.contains(told), is_told, "{told}: {dsn}");
    }
    assert_eq!(server.recipients(), ["alice+list@example.org", "bob@example.org"]);
    server.script().end.clear();
    world.until_done(id).await;
    let all = ["alice+list@example.org", "bob@example.org", "full@example.org"];
    assert_eq!(server.recipients(), all);
    assert_eq!(["full", "over"].map(is_full), [false, true]);
    for taken in &server.seen().taken {
        // The server adds Return-Path and Delivered-To, so we do not (RFC 5321 §4.4).
        assert_eq!(taken.content, format!("{HEADER}{BODY}"));
        assert_eq!(taken.mail, "MAIL FROM:<sender@example.net> SIZE=24");
    }
    assert_eq!(server.seen().commands[0], "LHLO mx.example.org");
    assert!(!world.root().exists(), "no Maildirs");
    process.stop().await;
}

#[tokio::test]
async fn who_was_answered_before_the_end_is_not_tried_again() {
    let world = world(&["cut", "carol"]);
    let server = Server::new();
    server.script().end.insert("cut@example.org", Answer::Close);
    let process = start(&world, &server).await;
    let names = ["alice", "cut", "carol"];
    let id = world.accept(names.map(|name| to(&format!("{name}@example.org"))).into()).await;
    let job = world.until(id, deferred).await.unwrap();
    assert_eq!(pending(&job), [1, 2]);
    let reply = last(&job, 1);
    assert!(reply.starts_with("451 4.4.2 ") && reply.contains("may be delivered twice"), "{reply}");
    server.script().end.clear();
    world.until_done(id).await;
    let all = ["alice@example.org", "carol@example.org", "cut@example.org"];
    assert_eq!(server.recipients(), all);
    process.stop().await;
}

#[tokio::test]
async fn a_server_that_says_too_little_is_timed_out() {
    let mut world = world(&[]);
    world.timeouts.final_dot = HALF_A_SECOND;
    let server = Server::new();
    server.script().end.insert("bob@example.org", Answer::Silence);
    let process = start(&world, &server).await;
    let id = world.accept(vec![to("alice@example.org"), to("bob@example.org")]).await;
    let job = world.until(id, deferred).await.unwrap();
    assert_eq!(pending(&job), [1]);
    assert!(last(&job, 1).contains("no answer in time at end of DATA"), "{}", last(&job, 1));
    server.script().end.clear();
    world.until_done(id).await;
    assert_eq!(server.recipients(), ["alice@example.org", "bob@example.org"]);
    process.stop().await;
}

#[tokio::test]
async fn an_unreachable_server_defers_and_is_looked_for() {
    let world = world(&[]);
    let server = Server::new();
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let process = world.start_with(by(address(nowhere.to_string())));
    let id = world.accept(vec![to("alice@example.org")]).await;
    let job = world.until(id, deferred).await.unwrap();
    assert_eq!(last(&job, 0), "451 4.4.1 the mailbox server cannot be reached at the moment");
    assert_eq!(world.counted("mda_hops_unreachable"), 1);
    assert!(!has_mail_to_send(&world).await, "nobody is told");
    server.listen(&nowhere.to_string()).await;
    world.until_done(id).await;
    assert_eq!(server.recipients(), ["alice@example.org"]);
    assert_eq!(world.counted("mda_hops_unreachable"), 0);
    process.stop().await;
}

#[tokio::test]
async fn a_server_that_does_not_greet_as_it_should_defers() {
    let world = world(&[]);
    let server = Server::new();
    server.script().offers = "500 5.5.1 what?\r\n";
    let process = start(&world, &server).await;
    let id = world.accept(vec![to("alice@example.org")]).await;
    let job = world.until(id, deferred).await.unwrap();
    assert_eq!(last(&job, 0), "451 4.4.1 the mailbox server cannot be reached at the moment");
    assert_eq!(server.seen().commands, ["LHLO mx.example.org"], "no EHLO, no HELO");
    process.stop().await;
}

#[tokio::test]
async fn a_refused_bounce_is_a_double_bounce() {
    let mut world = world(&["unknown"]);
    world.reverse_path = ReversePath::Null;
    let server = Server::new();
    server.script().rcpt.insert("unknown@example.org", "550 5.1.1 no such user");
    let process = start(&world, &server).await;
    let id = world.accept(vec![to("unknown@example.org"), to("alice@example.org")]).await;
    world.until_done(id).await;
    assert!(!has_mail_to_send(&world).await);
    assert_eq!(world.counted("mda_double_bounces_total"), 1);
    assert_eq!(server.seen().taken[0].mail, "MAIL FROM:<> SIZE=24");
    process.stop().await;
}

#[tokio::test]
async fn success_is_reported_as_delivery() {
    let world = world(&[]);
    let server = Server::new();
    let process = start(&world, &server).await;
    let success = Notify::On { success: true, failure: true, delay: false };
    world.accept(vec![notify("alice@example.org", success), to("bob@example.org")]).await;
    let dsn = dsn_to_sender(&world).await;
    assert!(dsn.contains("Action: delivered") && !dsn.contains("bob@example.org"), "{dsn}");
    process.stop().await;
}

#[tokio::test]
async fn what_the_server_does_not_take_bounces_unsent() {
    let mut world = world(&["\u{444}\u{444}"]);
    let server = Server::new();
    let process = start(&world, &server).await;
    world.accept_with(vec![to("alice@example.org")], "0123456\r\n".repeat(120).into()).await;
    let dsn = dsn_to_sender(&world).await;
    assert!(dsn.contains("Status: 5.3.4"), "{dsn}");
    world.smtputf8 = true;
    world.accept(vec![to("\u{444}\u{444}@example.org")]).await;
    let dsn = dsn_to_sender(&world).await;
    assert!(dsn.contains("Status: 5.6.7"), "{dsn}");
    assert!(server.recipients().is_empty());
    process.stop().await;
}

#[tokio::test]
async fn what_the_server_offers_is_used() {
    let mut world = world(&["\u{444}\u{444}"]);
    (world.smtputf8, world.body_type) = (true, BodyType::EightBitMime);
    let server = Server::new();
    server.script().offers = "250-server.test\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n";
    let process = start(&world, &server).await;
    let body = ".\r\n..\r\n\u{444}\r\n";
    let id = world.accept_with(vec![to("\u{444}\u{444}@example.org")], body.into()).await;
    world.until_done(id).await;
    let taken = server.seen().taken[0].clone();
    assert_eq!(taken.mail, "MAIL FROM:<sender@example.net> BODY=8BITMIME SMTPUTF8");
    assert_eq!(taken.content, format!("{HEADER}{body}"));
    process.stop().await;
}

#[tokio::test]
async fn an_alias_made_meanwhile_is_followed_to_one_mailbox() {
    let world = world(&[]);
    let server = Server::new();
    let process = start(&world, &server).await;
    let id = world.accept(vec![to("moved@example.org"), to("nobody@example.org")]).await;
    world.until_done(id).await;
    assert_eq!(server.recipients(), ["bob@example.org"]);
    let dsn = dsn_to_sender(&world).await;
    assert!(dsn.contains("5.1.1") && dsn.contains("nobody@example.org"), "{dsn}");
    process.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_lost_before_the_dot_sends_none() {
    let world = world(&[]);
    let server = Server::new();
    let (queue, once) = (world.queue.clone(), std::sync::Once::new());
    let lose = move || once.call_once(|| queue.fail_next(Step::Extend, Fault::Unavailable));
    server.script().at_data = Arc::new(lose);
    let process = start(&world, &server).await;
    let id = world.accept(vec![to("alice@example.org")]).await;
    world.until_done(id).await;
    let datas = server.seen().commands.iter().filter(|command| *command == "DATA").count();
    assert_eq!((datas, server.seen().dots), (2, 1));
    assert_eq!(server.recipients(), ["alice@example.org"]);
    process.stop().await;
}

#[tokio::test]
async fn one_slow_mailbox_holds_up_nobody_and_connections_are_bounded() {
    let world = world(&["slow"]);
    let server = Server::new();
    server.script().end.insert("slow@example.org", Answer::Wait);
    let lmtp = LmtpConfig { connections_max: 2, ..address(server.listen("127.0.0.1:0").await) };
    let process = world.start_with(by(lmtp));
    let slow = world.accept(vec![to("slow@example.org")]).await;
    let mut quick = Vec::new();
    for _ in 0..20 {
        quick.push(world.accept(vec![to("alice@example.org")]).await);
    }
    for id in quick {
        world.until_done(id).await;
    }
    assert!(world.until(slow, |_| true).await.is_some(), "it waits");
    server.script().gate.add_permits(1);
    world.until_done(slow).await;
    assert_eq!(server.recipients().len(), 21);
    assert_eq!(server.seen().most_open, 2);
    assert!(world.counted("mda_connections_reused_total") >= 15);
    process.stop().await;
    server.until(|seen| seen.open == 0).await;
    let goodbyes = server.seen().commands.iter().filter(|command| *command == "QUIT").count();
    assert_eq!(goodbyes, 2);
}

/// It may end an idle connection at any time, such as right before the next message.
#[tokio::test]
async fn a_connection_that_was_ended_meanwhile_costs_nothing() {
    let world = world(&[]);
    let server = Server::new();
    let process = start(&world, &server).await;
    for name in ["alice", "bob", "alice"] {
        let id = world.accept(vec![to(&format!("{name}@example.org"))]).await;
        world.until_done(id).await;
        server.hang_up();
    }
    let all = ["alice@example.org", "alice@example.org", "bob@example.org"];
    assert_eq!(server.recipients(), all);
    process.stop().await;
}

#[tokio::test]
async fn a_socket_serves_as_well() {
    let world = world(&[]);
    let server = Server::new();
    let socket = world.dir.path().join("lmtp");
    server.listen_at(&socket);
    let lmtp = LmtpConfig { socket: Some(socket), ..LmtpConfig::default() };
    let process = world.start_with(by(lmtp));
    let id = world.accept(vec![to("alice@example.org")]).await;
    world.until_done(id).await;
    assert_eq!(server.recipients(), ["alice@example.org"]);
    server.until(|seen| seen.open == 0).await;
    assert_eq!(server.seen().commands.last().unwrap(), "QUIT", "nobody needed it any longer");
    process.stop().await;
}
