//! The DNS resolver against a name server that we script.

#![allow(clippy::unwrap_used)] // of helpers of tests, which clippy does not count as tests

// The same file serves the interop tests; it needs nothing but tokio.
#[path = "../../../tests/src/dns.rs"]
pub mod server;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mail_types::Domain;
use resolve::{Config, Dns, HostName, LookupError, MxRecord, Resolver};
use server::{A, AAAA, Answer, CNAME, MX, NameServer, PTR, REFUSED, Record, SERVFAIL, Zone};

const V4: &str = "192.0.2.1";
const V6: &str = "2001:db8::1";

fn v4() -> Record {
    Record::A(V4.parse().unwrap())
}

fn v6() -> Record {
    Record::Aaaa(V6.parse().unwrap())
}

fn zone(answers: &[(&str, u16, Answer)]) -> Zone {
    let entry =
        |(name, kind, answer): &(&str, u16, Answer)| (((*name).to_owned(), *kind), answer.clone());
    answers.iter().map(entry).collect()
}

async fn serve(answers: &[(&str, u16, Answer)]) -> (NameServer, Dns) {
    let server = NameServer::start(zone(answers)).await.unwrap();
    let config = Config {
        name_servers: vec![server.address()],
        timeout_seconds: 1.try_into().unwrap(),
        attempts: 1.try_into().unwrap(),
        ..Config::default()
    };
    let dns = Dns::new(&config).unwrap();
    (server, dns)
}

async fn mx(dns: &Dns, domain: &str) -> Result<Vec<MxRecord>, LookupError> {
    let mut found = dns.mx(&Domain::parse(domain).unwrap()).await?;
    found.sort_by_key(|record| record.preference);
    Ok(found)
}

async fn addresses(dns: &Dns, host: &str) -> Result<Vec<IpAddr>, LookupError> {
    dns.addresses(&HostName::parse(host).unwrap()).await
}

fn exchange(preference: u16, host: &str) -> MxRecord {
    MxRecord { preference, exchange: HostName::parse(host).ok() }
}

fn is_temporary<T>(answer: &Result<T, LookupError>) -> bool {
    matches!(answer, Err(LookupError::Temporary(_)))
}

#[tokio::test]
async fn mail_exchangers() {
    let two = vec![Record::mx(20, "B.example"), Record::mx(10, "in_1.a.example")];
    let (_server, dns) = serve(&[
        ("two.example", MX, Answer::Records(two.clone())),
        ("long.example", MX, Answer::OverTcp(two)),
        ("null.example", MX, Answer::Records(vec![Record::mx(0, ".")])),
        ("alias.example", CNAME, Answer::Records(vec![Record::Cname("two.example".into())])),
        ("number.example", MX, Answer::Records(vec![Record::mx(5, "192.0.2.1")])),
        ("no-mx.example", A, Answer::Records(vec![v4()])),
    ])
    .await;
    let want = Ok(vec![exchange(10, "in_1.a.example"), exchange(20, "b.example")]);
    for domain in ["two.example", "long.example", "alias.example", "TWO.Example"] {
        assert_eq!(mx(&dns, domain).await, want, "{domain}");
    }
    let null = Ok(vec![MxRecord { preference: 0, exchange: None }]);
    assert_eq!(mx(&dns, "null.example").await, null);
    assert_eq!(mx(&dns, "no-mx.example").await, Err(LookupError::NoRecords));
    assert_eq!(mx(&dns, "nowhere.example").await, Err(LookupError::NoDomain));
    // Somebody meant mail to go somewhere: that is neither absence nor a host.
    assert!(is_temporary(&mx(&dns, "number.example").await));
}

#[tokio::test]
async fn failure_is_not_absence() {
    let failures = [
        ("servfail.example", Answer::Code(SERVFAIL)),
        ("refused.example", Answer::Code(REFUSED)),
        ("silent.example", Answer::Silence),
        ("garbage.example", Answer::Garbage),
    ];
    let each = failures.into_iter().map(async |(domain, answer)| {
        let (_server, dns) = serve(&[(domain, MX, answer.clone()), (domain, A, answer)]).await;
        let started = Instant::now();
        let answered = mx(&dns, domain).await;
        assert!(is_temporary(&answered), "{domain}: {answered:?}");
        // One family fails, the other is proven absent.
        let answered = addresses(&dns, domain).await;
        assert!(is_temporary(&answered), "{domain}: {answered:?}");
        assert!(started.elapsed() < Duration::from_secs(10), "{domain}: {:?}", started.elapsed());
    });
    futures::future::join_all(each).await;
}

#[tokio::test]
async fn no_name_server_is_no_absence_either() {
    let (server, dns) = serve(&[]).await;
    drop(server);
    assert!(is_temporary(&mx(&dns, "a.example").await));
    assert!(is_temporary(&addresses(&dns, "a.example").await));
}

#[tokio::test]
async fn host_addresses() {
    let (_server, dns) = serve(&[
        ("both.example", A, Answer::Records(vec![v4()])),
        ("both.example", AAAA, Answer::Records(vec![v6()])),
        ("four.example", A, Answer::Records(vec![v4()])),
        ("six.example", AAAA, Answer::Records(vec![v6()])),
        ("half.example", A, Answer::Records(vec![v4()])),
        ("half.example", AAAA, Answer::Code(SERVFAIL)),
        ("alias.example", CNAME, Answer::Records(vec![Record::Cname("both.example".into())])),
        ("dangling.example", CNAME, Answer::Records(vec![Record::Cname("gone.example".into())])),
        ("mail.example", MX, Answer::Records(vec![Record::mx(0, "both.example")])),
        ("a_b.example", A, Answer::Records(vec![v4()])),
    ])
    .await;
    let (four, six): (IpAddr, IpAddr) = (V4.parse().unwrap(), V6.parse().unwrap());
    for (host, want) in [
        ("both.example", vec![six, four]),
        ("alias.example", vec![six, four]),
        ("four.example", vec![four]),
        ("six.example", vec![six]),
        // What was found is enough to deliver to.
        ("half.example", vec![four]),
        ("a_b.example", vec![four]),
    ] {
        assert_eq!(addresses(&dns, host).await, Ok(want), "{host}");
    }
    assert_eq!(addresses(&dns, "mail.example").await, Err(LookupError::NoRecords));
    assert_eq!(addresses(&dns, "gone.example").await, Err(LookupError::NoDomain));
    let dangling = addresses(&dns, "dangling.example").await;
    assert!(
        matches!(dangling, Err(LookupError::NoDomain | LookupError::NoRecords)),
        "{dangling:?}"
    );
}

#[tokio::test]
async fn answers_are_kept_failures_are_not() {
    let (server, dns) = serve(&[
        ("a.example", MX, Answer::Records(vec![Record::mx(1, "b.example")])),
        ("c.example", MX, Answer::Code(SERVFAIL)),
    ])
    .await;
    for _ in 0..3 {
        mx(&dns, "a.example").await.unwrap();
        assert_eq!(mx(&dns, "none.example").await, Err(LookupError::NoDomain));
        assert!(is_temporary(&mx(&dns, "c.example").await));
    }
    let asked = server.asked();
    let times = |name: &str| asked.iter().filter(|(asked, _)| asked == name).count();
    assert_eq!((times("a.example"), times("none.example")), (1, 1), "{asked:?}");
    assert!(times("c.example") >= 3, "{asked:?}");
}

#[tokio::test]
async fn only_the_name_itself_is_asked() {
    let (server, dns) = serve(&[]).await;
    assert_eq!(mx(&dns, "localdomain").await, Err(LookupError::NoDomain));
    assert_eq!(addresses(&dns, "mail").await, Err(LookupError::NoDomain));
    let asked = server.asked();
    assert!(asked.iter().all(|(name, _)| name == "localdomain" || name == "mail"), "{asked:?}");
}

#[tokio::test]
async fn addresses_lead_back_to_names() {
    let two = vec![Record::Ptr("MX.a.example".into()), Record::Ptr("a.example".into())];
    let (_server, dns) = serve(&[
        ("1.2.0.192.in-addr.arpa", PTR, Answer::Records(two)),
        ("2.2.0.192.in-addr.arpa", A, Answer::Records(vec![v4()])),
        ("3.2.0.192.in-addr.arpa", PTR, Answer::Code(SERVFAIL)),
    ])
    .await;
    let names = async |address: &str| dns.names(address.parse().unwrap()).await;
    let expected = ["mx.a.example", "a.example"].map(|name| HostName::parse(name).unwrap());
    assert_eq!(names(V4).await, Ok(expected.to_vec()));
    assert_eq!(names("192.0.2.2").await, Err(LookupError::NoRecords));
    assert!(is_temporary(&names("192.0.2.3").await));
    assert_eq!(names(V6).await, Err(LookupError::NoDomain));
}
