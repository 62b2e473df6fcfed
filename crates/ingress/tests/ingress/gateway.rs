//! Domains that have a server of their own: mail is taken for those whom it takes mail for.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use domains::{Absence, Answer, AtHome, CallAhead, Gateway, Table};
use mail_types::Mailbox;
use queue::NextHop;
use tokio::sync::Notify;

use super::server::Server;

const MESSAGE: &str = "From: a@far.example\r\nSubject: x\r\n\r\nbody\r\n";

/// Says by the name of a recipient what its server says.
#[derive(Default)]
pub(super) struct ByName {
    asked: Mutex<Vec<String>>,
    /// Waited for before an answer, if there is one.
    go: Option<Arc<Notify>>,
}

impl ByName {
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl CallAhead for ByName {
    async fn ask(&self, gateway: &Arc<Gateway>, address: &Mailbox) -> Answer {
        let server = String::from(gateway.servers[0].clone());
        self.asked.lock().unwrap().push(format!("{address} at {server}"));
        if let Some(go) = &self.go {
            go.notified().await;
        }
        match address.local_part().as_str() {
            "absent" => Answer::Absent,
            "later" => Answer::Unclear("450 4.2.0 later".to_owned()),
            "lost" => Answer::Unreachable("connection refused".to_owned()),
            "small" => Answer::Taken { size_max: Some(70_000) },
            _ => Answer::Taken { size_max: None },
        }
    }
}

fn start(absence: Arc<dyn Absence>) -> (Server, Arc<ByName>) {
    let asked = Arc::new(ByName::default());
    (Server::start_asking(absence, asked.clone(), |_| {}), asked)
}

/// Where the last message goes: the next hop and the recipients of each job.
fn jobs(server: &Server) -> Vec<(NextHop, Vec<String>)> {
    let stored = server.queue.messages().pop().unwrap();
    let recipients = |job: &queue::NewJob| {
        assert_eq!(job.forward, None);
        job.recipients.iter().map(|it| it.address.to_string()).collect()
    };
    stored.jobs.iter().map(|job| (job.next_hop.clone(), recipients(job))).collect()
}

fn to_server_of(domain: &str) -> NextHop {
    NextHop::smtp(&mail_types::Host::parse(domain).unwrap())
}

#[tokio::test]
async fn recipients_from_a_list() {
    let (server, asked) = start(Arc::new(AtHome));
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@far.example>", "250").await;
    for (recipient, want) in [
        ("carol@listed.example", "250 2.1.5"),
        ("CAROL@Listed.example", "250 2.1.5"),
        ("postmaster@listed.example", "250 2.1.5"),
        ("erin@listed.example", "250 2.1.5"),
        ("both@listed.example", "250 2.1.5"),
        // What its server makes of a sub-address is not known.
        ("carol+x@listed.example", "550 5.1.1"),
        ("nobody@listed.example", "550 5.1.1"),
        ("carol@sub.listed.example", "550 5.7.1"),
        ("carol%far.example@listed.example", "550 5.1.1"),
    ] {
        client.says(&format!("RCPT TO:<{recipient}>"), want).await;
    }
    assert_eq!(asked.asked(), Vec::<String>::new());
    client.says("RSET", "250").await;
    let reply = client.send_message("a@far.example", "Carol@listed.example", MESSAGE).await;
    assert!(reply.starts_with("250"), "{reply}");
    let want = (to_server_of("listed.example"), vec!["Carol@listed.example".to_owned()]);
    assert_eq!(jobs(&server), [want]);
    let stored = server.only_message();
    assert_eq!(stored.envelope.tenant.as_str(), "tenant-b");
    assert_eq!(stored.envelope.reverse_path.to_string(), "<a@far.example>");
}

#[tokio::test]
async fn recipients_whom_the_server_is_asked_about() {
    let (server, asked) = start(Arc::new(AtHome));
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@far.example>", "250").await;
    for (recipient, want) in [
        ("alice@asked.example", "250 2.1.5"),
        ("alice+x@asked.example", "250 2.1.5"),
        ("absent@asked.example", "550 5.1.1"),
        ("later@asked.example", "450 4.1.1"),
        // An alias of ours is known; whom it leads to is for whoever wrote it to know.
        ("sales@asked.example", "250 2.1.5"),
        ("robot@asked.example", "550 5.1.1"),
        // The names are those of the other domain.
        ("bob@also.example", "250 2.1.5"),
        ("lost@asked.example", "450 4.4.1"),
        ("alice@asked.example", "250 2.1.5"),
        ("new@asked.example", "450 4.4.1"),
    ] {
        client.says(&format!("RCPT TO:<{recipient}>"), want).await;
    }
    let asked_about = ["alice", "alice+x", "absent", "later", "bob", "lost"];
    let want = asked_about.map(|name| format!("{name}@asked.example at mail.asked.example:25"));
    assert_eq!(asked.asked(), want);
    for (result, by, count) in [
        ("taken", "server", 3.0),
        ("taken", "memory", 1.0),
        ("absent", "server", 1.0),
        ("unclear", "server", 1.0),
        ("unreachable", "server", 2.0),
    ] {
        let name = format!("ingress_call_aheads_total{{result=\"{result}\",by=\"{by}\"}}");
        assert_eq!(server.metric(&name), count, "{name}");
    }
    client.says("RSET", "250").await;
    let reply = client.send_message("a@far.example", "bob@also.example", MESSAGE).await;
    assert!(reply.starts_with("250"), "{reply}");
    let want = (to_server_of("asked.example"), vec!["bob@asked.example".to_owned()]);
    assert_eq!(jobs(&server), [want]);
}

#[tokio::test]
async fn nobody_relays_by_a_gateway_domain() {
    let (server, asked) = start(Arc::new(AtHome));
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<alice@asked.example>", "250").await;
    client.says("RCPT TO:<victim@elsewhere.example>", "550 5.7.1").await;
    client.says("RCPT TO:<a@mail.asked.example>", "550 5.7.1").await;
    assert_eq!(asked.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_larger_than_the_server_takes_is_refused() {
    let (server, _) = start(Arc::new(AtHome));
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@far.example> SIZE=70001", "250").await;
    client.says("RCPT TO:<small@asked.example>", "250").await;
    client.says("DATA", "552 5.3.4").await;
    client.says("RSET", "250").await;
    let content = format!("{MESSAGE}{}", "0123456789\r\n".repeat(6_000));
    let reply = client.send_message("a@far.example", "small@asked.example", &content).await;
    assert!(reply.starts_with("552 5.3.4"), "{reply}");
    let reply = client.send_message("a@far.example", "large@asked.example", &content).await;
    assert!(reply.starts_with("250"), "{reply}");
}

struct Unproven;

#[async_trait]
impl Absence for Unproven {
    async fn is_proven(&self, _: &Arc<Table>) -> bool {
        false
    }
}

/// The domain may have another server by now.
#[tokio::test]
async fn without_a_proof_of_the_table_the_server_proves_nothing() {
    let (server, _) = start(Arc::new(Unproven));
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<a@far.example>", "250").await;
    client.says("RCPT TO:<absent@asked.example>", "451 4.3.0").await;
    client.says("RCPT TO:<nobody@listed.example>", "451 4.3.0").await;
    client.says("RCPT TO:<later@asked.example>", "450 4.1.1").await;
    client.says("RCPT TO:<alice@asked.example>", "250").await;
}

#[tokio::test]
async fn many_clients_and_one_question() {
    let go = Arc::new(Notify::new());
    let asked = Arc::new(ByName { go: Some(go.clone()), ..ByName::default() });
    let server = Server::start_asking(Arc::new(AtHome), asked.clone(), |_| {});
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = server.greeted().await;
        client.says("MAIL FROM:<a@far.example>", "250").await;
        client.send(b"RCPT TO:<alice@asked.example>\r\n").await;
        clients.push(client);
    }
    go.notify_one();
    for client in &mut clients {
        client.expect("250 2.1.5").await;
    }
    assert_eq!(asked.asked().len(), 1);
}

/// Its users send by their own server, which is the one that their SPF record names.
#[tokio::test]
async fn who_writes_from_there_is_forwarded_like_a_stranger_and_hears_of_a_bounce() {
    let (server, asked) = start(Arc::new(AtHome));
    let mut client = server.greeted().await;
    let reply = client.send_message("w@asked.example", "away@example.org", MESSAGE).await;
    assert!(reply.starts_with("250"), "{reply}");
    let stored = server.queue.messages().pop().unwrap();
    let sent_as = stored.jobs[0].forward.clone().unwrap().reverse_path;
    let sent_as = sent_as.mailbox().unwrap().to_string();
    assert!(sent_as.ends_with("=asked.example=w@example.org"), "{sent_as}");
    let reply = client.send_message("", &sent_as, MESSAGE).await;
    assert!(reply.starts_with("250"), "{reply}");
    let want = (to_server_of("asked.example"), vec!["w@asked.example".to_owned()]);
    assert_eq!(jobs(&server), [want]);
    assert_eq!(asked.asked(), Vec::<String>::new());
}
