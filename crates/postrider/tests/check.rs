//! `postrider check --live` against a name server, an SMTP host and a time server of the test's
//! own: what is in order, and for each thing that is tried, what is not.
#![allow(clippy::unwrap_used)] // helpers of tests, outside of a #[test] function

// The same files serve the tests of the whole.
#[path = "../../../tests/src/dns.rs"]
pub mod dns;
#[path = "../../../tests/src/sink.rs"]
pub mod sink;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dns::{A, Answer, MX, NameServer, PTR, Record, SERVFAIL, Zone};
use rcgen::{CertificateParams, KeyPair};
use runtime::clock::now;
use serde_json::Value;
use sink::{Moment, Sink, Whim};
use tokio::net::UdpSocket;
use tokio::process::Command;
use tokio::task::JoinSet;

/// No try takes longer than seconds, and all are made at once.
const LIMIT: Duration = Duration::from_secs(60);

const DOMAIN: &str = "\
apiVersion: postrider.dev/v1alpha1
kind: MailDomain
metadata: {name: a}
spec:
  domain: a.example
  inbound:
    aliases:
    - {match: postmaster, to: [pat@a.example]}
---
apiVersion: postrider.dev/v1alpha1
kind: Mailbox
metadata: {name: pat}
spec:
  address: pat@a.example
";

/// A directory to check, and the world around it.
struct Place {
    dir: tempfile::TempDir,
    zone: Zone,
    sink: Sink,
}

/// What a check said.
struct Said {
    findings: Vec<Value>,
    code: Option<i32>,
}

impl Place {
    /// All in order but what only the Internet can give: a certificate that somebody vouches for.
    async fn new() -> Self {
        Self::with_sink(Sink::start().await.unwrap())
    }

    fn with_sink(sink: Sink) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("domains")).unwrap();
        fs::write(dir.path().join("domains/a.yaml"), DOMAIN).unwrap();
        let mut place = Self { dir, zone: Zone::new(), sink };
        place.write_certificate(&["mx.a.example"], 90);
        let records = |all: &[Record]| Answer::Records(all.to_vec());
        let address = Record::A("192.0.2.1".parse().unwrap());
        place.set("mx.a.example", A, records(&[address]));
        place.set("1.2.0.192.in-addr.arpa", PTR, records(&[Record::Ptr("mx.a.example".into())]));
        place.set("a.example", MX, records(&[Record::mx(10, "mx.a.example")]));
        place.set("far.example", MX, records(&[Record::mx(10, "mx.far.example")]));
        place.set("mx.far.example", A, records(&[Record::A("127.0.0.1".parse().unwrap())]));
        place
    }

    fn set(&mut self, name: &str, kind: u16, answer: Answer) {
        self.zone.insert((name.to_owned(), kind), answer);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A certificate signed by itself that is valid for so many days more.
    fn write_certificate(&self, names: &[&str], days: i64) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let end = u64::try_from(now().unix_ms() + days * 24 * 3_600_000).unwrap();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(end);
        let key = KeyPair::generate().unwrap();
        fs::write(self.path("chain.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
    }

    /// Checks with the name server answering from the zone.
    async fn check(&self, settings: &str, args: &[&str]) -> Said {
        let server = NameServer::start(self.zone.clone()).await.unwrap();
        self.check_with(&[server.address()], settings, args).await
    }

    async fn check_with(&self, servers: &[SocketAddr], settings: &str, args: &[&str]) -> Said {
        let servers: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
        let (servers, port) = (servers.join(", "), self.sink.address().port());
        let config = format!(
            "hostname: mx.a.example\n\
             resolver: {{ nameServers: [{servers}], attempts: 1 }}\n\
             ingress:\n  listeners: [{{ kind: relay, addresses: [\"127.0.0.1:0\"] }}]\n  \
             tls: {{ certificates: [{{ certificate: chain.pem, key: key.pem }}] }}\n\
             delivery:\n  port: {port}\n  allowPrivateAddresses: true\n{settings}"
        );
        fs::write(self.path("postrider.yaml"), config).unwrap();
        let before = listing(self.dir.path());
        let args = [&["--live", "--output", "json"], args].concat();
        let output = run(self.dir.path(), &args).await;
        assert_eq!(listing(self.dir.path()), before, "the check left something");
        assert_eq!(self.sink.count(), 0, "the check sent mail");
        let stdout = String::from_utf8(output.stdout).unwrap();
        let findings = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Said { findings, code: output.status.code() }
    }
}

async fn run(dir: &Path, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.arg("check").arg(dir).args(args).kill_on_drop(true);
    tokio::time::timeout(LIMIT, command.output()).await.expect("the check hangs").unwrap()
}

fn listing(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(listing(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

impl Said {
    /// Asserts that this was found, in this part, with these words.
    #[track_caller]
    fn has(&self, level: &str, what: &str, words: &str) {
        let is_it = |finding: &Value| {
            let text = format!("{}; {}", finding["detail"], finding["remedy"]);
            finding["level"] == level && finding["what"] == what && text.contains(words)
        };
        assert!(self.findings.iter().any(is_it), "no {level} {what} {words:?} in {self}");
    }

    /// Asserts that a part has nothing worse than this.
    #[track_caller]
    fn all(&self, level: &str, what: &str) {
        let mut of_it = self.findings.iter().filter(|finding| finding["what"] == what).peekable();
        assert!(of_it.peek().is_some(), "nothing of {what} in {self}");
        assert!(of_it.all(|finding| finding["level"] == level), "not all {level} {what} in {self}");
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "exit {:?}", self.code)?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

/// A time server on loopback whose clock is so far ahead.
async fn time_server(ahead: i64) -> (SocketAddr, JoinSet<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut question = [0; 48];
        while let Ok((48, client)) = socket.recv_from(&mut question).await {
            let ms = u64::try_from(now().unix_ms() + ahead * 1000).unwrap();
            let (seconds, fraction) = (ms / 1000 + 2_208_988_800, ((ms % 1000) << 32) / 1000);
            let now = ((seconds << 32) | fraction).to_be_bytes();
            let mut answer = [0; 48];
            (answer[0], answer[1]) = (0x24, 1);
            answer[24..32].copy_from_slice(&question[40..]);
            answer[32..40].copy_from_slice(&now);
            answer[40..].copy_from_slice(&now);
            let _ = socket.send_to(&answer, client).await;
        }
    });
    (address, serving)
}

#[tokio::test]
async fn what_is_in_order_is_said_to_be() {
    let place = Place::new().await;
    fs::create_dir_all(place.path("data/queue")).unwrap();
    let (time, _serving) = time_server(0).await;
    let time = time.to_string();
    let said = place.check("", &["--to", "far.example", "--time-server", &time]).await;
    assert_eq!(said.code, Some(0), "{said}");
    said.has("ok", "configuration", "1 domains, 1 mailboxes, 1 listeners");
    // Nobody vouches for it: that needs an authority.
    said.all("warning", "certificate");
    said.has("warning", "certificate", "signed by itself");
    said.all("ok", "disk");
    said.has("ok", "disk", "queue can be written");
    said.has("ok", "disk", "mail can be made in");
    said.all("ok", "postmaster");
    said.has("ok", "postmaster", "postmaster@a.example leads to pat@a.example");
    said.has("ok", "postmaster", "abuse@a.example");
    said.all("ok", "clock");
    said.has("ok", "clock", &time);
    said.all("ok", "dns");
    said.has("ok", "dns", "mail for 1 domains leads here: a.example");
    said.all("ok", "name");
    said.has("ok", "name", "mx.a.example leads to 192.0.2.1, and that back to it");
    said.all("ok", "outbound");
    said.has("ok", "outbound", "far.example: mx.far.example[127.0.0.1]");
}

#[tokio::test]
async fn lines_for_people() {
    let place = Place::new().await;
    place.check("", &[]).await;
    let quick = run(place.dir.path(), &[]).await;
    let said = String::from_utf8(quick.stdout).unwrap();
    assert_eq!(said, "ok: 1 domains, 1 mailboxes, 1 listeners\n");
    let json =
        String::from_utf8(run(place.dir.path(), &["--output", "json"]).await.stdout).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["level"], "ok");
    // Its name server is gone.
    let live = run(place.dir.path(), &["--live"]).await;
    let said = String::from_utf8(live.stdout).unwrap();
    assert_eq!(live.status.code(), Some(1), "{said}");
    assert!(said.starts_with("ok       configuration  1 domains"), "{said}");
    assert!(said.contains("\nwarning  certificate    "), "{said}");
    assert!(said.contains("\nerror    dns            127.0.0.1:"), "{said}");
    assert!(said.contains("; correct resolver.nameServers"), "{said}");
}

#[tokio::test]
async fn certificates() {
    let place = Place::new().await;
    place.write_certificate(&["mx.a.example"], 13);
    place.check("", &[]).await.has("warning", "certificate", "chain.pem expires on");
    place.write_certificate(&["other.example"], 90);
    place.check("", &[]).await.has("warning", "certificate", "none is for mx.a.example");
    place.write_certificate(&["mx.a.example"], -1);
    let said = place.check("", &[]).await;
    said.has("error", "certificate", "chain.pem expired on");
    assert_eq!(said.code, Some(1), "{said}");
    let other = KeyPair::generate().unwrap().serialize_pem();
    fs::write(place.path("key.pem"), other).unwrap();
    place.check("", &[]).await.has("error", "certificate", "does not go with its key");
    fs::remove_file(place.path("key.pem")).unwrap();
    place.check("", &[]).await.has("error", "certificate", "key.pem");
}

#[tokio::test]
async fn what_no_process_could_start_with_is_refused() {
    let place = Place::new().await;
    // It writes the configuration.
    place.check("", &[]).await;
    let refused = async |args: &[&str], words: &str| {
        let output = run(place.dir.path(), args).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(words), "{words}: {said}");
    };
    assert_eq!(run(place.dir.path(), &[]).await.status.code(), Some(0));
    refused(&["--live", "--role", "mda"], "jetstream is not set").await;
    let yaml = place.path("postrider.yaml");
    let config = fs::read_to_string(&yaml).unwrap();
    let asks = "kind: relay, clientCertificates: { caFile: gone.pem },";
    fs::write(&yaml, config.replace("kind: relay,", asks)).unwrap();
    refused(&[], "ingress.listeners[0].clientCertificates.caFile: ").await;
    let live = run(place.dir.path(), &["--live"]).await;
    assert!(String::from_utf8(live.stdout).unwrap().contains("gone.pem"), "it is not tried");
    fs::write(&yaml, config).unwrap();
    fs::remove_file(place.path("key.pem")).unwrap();
    refused(&[], "ingress.tls.certificates[0]: ").await;
}

#[tokio::test]
async fn own_name() {
    let mut place = Place::new().await;
    let provider = vec![Record::Ptr("host-1.isp.example".into())];
    place.set("1.2.0.192.in-addr.arpa", PTR, Answer::Records(provider));
    place.check("", &[]).await.has("warning", "name", "192.0.2.1, and that to host-1.isp.example");
    place.zone.remove(&("1.2.0.192.in-addr.arpa".into(), PTR));
    let said = place.check("", &[]).await;
    said.has("error", "name", "192.0.2.1, and that back to no name");
    assert_eq!(said.code, Some(1), "{said}");
    let inside = vec![Record::A("10.0.0.1".parse().unwrap())];
    place.set("mx.a.example", A, Answer::Records(inside));
    place.check("", &[]).await.has("warning", "name", "10.0.0.1, which is not an address");
    place.zone.remove(&("mx.a.example".into(), A));
    place.check("", &[]).await.has("error", "name", "mx.a.example leads to no address");
}

#[tokio::test]
async fn the_way_out() {
    let mut place = Place::new().await;
    place.check("", &[]).await.has("warning", "outbound", "--to DOMAIN");
    let said = place.check("", &["--to", "gone.example"]).await;
    said.has("error", "outbound", "domain gone.example does not exist");
    let smarthost =
        |port: u16| format!("  routes: [{{ domain: \"*\", host: \"127.0.0.1\", port: {port} }}]\n");
    let port = place.sink.address().port();
    let said = place.check(&smarthost(port), &[]).await;
    said.all("ok", "outbound");
    said.has("ok", "outbound", &format!("[127.0.0.1]:{port} took a session"));
    // A hosted domain whose mail passes through another server first shows a way out.
    let filter = vec![Record::mx(10, "mx.far.example")];
    place.set("a.example", MX, Answer::Records(filter));
    place.check("", &[]).await.has("ok", "outbound", "a.example: mx.far.example[127.0.0.1]");
}

#[tokio::test]
async fn the_servers_of_gateway_domains() {
    let place = Place::new().await;
    let server = place.sink.address();
    let write = |more: &str| {
        let domain = format!(
            "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {{name: g}}\nspec:\n  \
             domain: g.example\n  target: relay\n  relay:\n    hosts: [\"{server}\"]\n    \
             recipients: {{callAhead: true}}\n    {more}\n"
        );
        fs::write(place.path("domains/g.yaml"), domain).unwrap();
    };
    write("tls: {mode: opportunistic}");
    let said = place.check("", &[]).await;
    said.has("ok", "outbound", &format!("g.example: 127.0.0.1[{}]", server.ip()));
    said.has("ok", "postmaster", "postmaster@g.example leads to postmaster@g.example");
    write("");
    let said = place.check("", &[]).await;
    said.has("error", "outbound", "g.example: TLS is required");
    said.has("error", "outbound", "correct relay.tls");
    write("auth: {user: us, passwordFile: at-g}");
    let refused = run(place.dir.path(), &[]).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(64), "{said}");
    assert!(said.contains("name the directory that has default/at-g"), "{said}");
    let said = place.check("  gatewayPasswordsDir: passwords\n", &[]).await;
    assert_eq!(said.code, Some(64), "{said}");
    fs::create_dir_all(place.path("passwords/default")).unwrap();
    fs::write(place.path("passwords/default/at-g"), "secret\n").unwrap();
    let said = place.check("  gatewayPasswordsDir: passwords\n", &[]).await;
    assert_eq!(said.code, Some(1), "no TLS, so no login: {said}");
}

#[tokio::test]
async fn a_way_out_that_is_closed() {
    let place = Place::new().await;
    // A port that was ours a moment ago, and is nobody's now.
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let route = format!("  routes: [{{ domain: far.example, port: {closed} }}]\n");
    let said = place.check(&route, &["--to", "far.example"]).await;
    said.has("error", "outbound", "port 25");
    assert_eq!(said.code, Some(1), "{said}");
}

#[tokio::test]
async fn a_host_that_does_not_want_us_or_says_nothing() {
    for (whim, words) in [
        (Whim::Say("554 5.7.1 blocked"), "5.7.1 blocked"),
        (Whim::Wait(LIMIT * 10), "no answer in time at"),
        (Whim::Disconnect, "connection lost"),
    ] {
        let whims = Arc::new(move |moment| (moment == Moment::Greeting).then_some(whim));
        let address = "127.0.0.1:0".parse().unwrap();
        let sink = Sink::with_whims(address, Arc::new(|_| None), whims).await.unwrap();
        let place = Place::with_sink(sink);
        let said = place.check("", &["--to", "far.example"]).await;
        said.has("warning", "outbound", words);
        assert_eq!(said.code, Some(0), "{said}");
    }
}

#[tokio::test]
async fn clocks() {
    let place = Place::new().await;
    for (ahead, level) in [(-30, "warning"), (3_600, "error")] {
        let (time, _serving) = time_server(ahead).await;
        let said = place.check("", &["--time-server", &time.to_string()]).await;
        said.has(level, "clock", &time.to_string());
    }
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let time = silent.local_addr().unwrap().to_string();
    let said = place.check("", &["--time-server", &time]).await;
    said.has("warning", "clock", "no answer within 5 s");
}

#[tokio::test]
async fn disks() {
    let place = Place::new().await;
    let said = place.check("queue: { minFreeBytes: 9000000000000000000 }\n", &[]).await;
    said.has("error", "disk", "queue.minFreeBytes");
    assert_eq!(said.code, Some(1), "{said}");
    fs::write(place.path("file"), "").unwrap();
    let said = place.check("dataDir: file\n", &[]).await;
    said.has("error", "disk", "cannot be written");
}

#[tokio::test]
async fn name_servers() {
    let mut place = Place::new().await;
    let server = NameServer::start(place.zone.clone()).await.unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap();
    let said = place.check_with(&[server.address(), silent], "", &[]).await;
    said.has("ok", "dns", &server.address().to_string());
    said.has("warning", "dns", &silent.to_string());
    let started = Instant::now();
    let said = place.check_with(&[silent], "", &["--to", "far.example"]).await;
    said.has("error", "dns", "gives no answer");
    said.has("error", "name", "see what is said of dns");
    said.has("error", "outbound", "see what is said of dns");
    assert_eq!(said.code, Some(1), "{said}");
    assert!(started.elapsed() < Duration::from_secs(30), "took {:?}", started.elapsed());
    place.set("a.example", MX, Answer::Code(SERVFAIL));
    place.check("", &[]).await.has("warning", "dns", "where mail for a.example goes is not known");
}

#[tokio::test]
async fn hosted_domains() {
    let mut place = Place::new().await;
    for (answer, words) in [
        (Answer::Records(vec![Record::mx(10, "mx.far.example")]), "goes to mx.far.example"),
        (Answer::Records(vec![Record::mx(0, ".")]), "null MX"),
        (Answer::Records(vec![Record::mx(0, "gone.example")]), "goes nowhere"),
    ] {
        place.set("a.example", MX, answer);
        let said = place.check("", &[]).await;
        said.has("warning", "dns", words);
    }
    // By another name, and by none: then the domain is its own mail exchanger.
    let ours = Answer::Records(vec![Record::A("192.0.2.1".parse().unwrap())]);
    place.set("in.a.example", A, ours.clone());
    place.set("a.example", MX, Answer::Records(vec![Record::mx(10, "in.a.example")]));
    place.check("", &[]).await.all("ok", "dns");
    place.zone.remove(&("a.example".into(), MX));
    place.set("a.example", A, ours);
    place.check("", &[]).await.all("ok", "dns");
}

#[tokio::test]
async fn postmasters() {
    let place = Place::new().await;
    let elsewhere = DOMAIN.replace("pat@a.example]", "pat@far.example]");
    fs::write(place.path("domains/a.yaml"), elsewhere).unwrap();
    let said = place.check("", &[]).await;
    said.has("warning", "postmaster", "postmaster@a.example leads to pat@far.example only");
    let nobody = DOMAIN.replace("match: postmaster", "match: webmaster");
    fs::write(place.path("domains/a.yaml"), nobody).unwrap();
    let output = run(place.dir.path(), &["--live"]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("postmaster@a.example goes nowhere"), "{said}");
}
