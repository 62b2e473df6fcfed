use domains::Settings;
use ingress::config::AuthConfig;
use senders::LastUseStore;

use super::*;
use crate::last_use_file::LastUseFile;

/// Of `correct horse`.
const ARGON2ID: &str = "$argon2id$v=19$m=8,t=1,p=1$cG9zdHJpZGVydGVzdCE$\
                        dtVUC3i4NMEgQwr0y6TKgIs3oFWNg7H/sICDLoUAHdk";
/// Of `paper clip`.
const BCRYPT: &str = "{BLF-CRYPT}$2y$05$abcdefghijklmnopqrstuuOUf.w1LA..BoiymLLveiyGfgGX16n/q";

/// `alice` has two passwords, `bob` is suspended, `app` only sends.
fn table() -> Table {
    let head = "apiVersion: postrider.dev/v1alpha1\nkind:";
    let passwords = format!("[{{name: a, hash: \"{ARGON2ID}\"}}, {{name: b, hash: \"{BCRYPT}\"}}]");
    let mailbox = |name: &str, more: &str| {
        format!(
            "---\n{head} Mailbox\nmetadata: {{name: {name}}}\nspec:\n  \
             address: {name}@d.example\n  passwords: {passwords}\n{more}"
        )
    };
    let text = format!(
        "{head} MailDomain\nmetadata: {{name: d}}\nspec:\n  domain: d.example\n  inbound:\n    \
         aliases: [{{match: postmaster, to: [alice@d.example]}}]\n{}{}{}",
        mailbox("alice", "  aliases: [al@d.example]\n"),
        mailbox("bob", "  suspended: true\n"),
        mailbox("app", "  sendOnly: true\n"),
    );
    Table::from_yaml([("t", text.as_str())], &Settings::default()).unwrap()
}

fn directory(table: Option<Table>) -> Directory {
    noting_in(LastUseFile::open(Path::new("none/last-uses.json")), table)
}

fn noting_in(file: LastUseFile, table: Option<Table>) -> Directory {
    let config = AuthConfig {
        failure_delay_seconds: 0,
        failures_per_client_max: 3,
        ..AuthConfig::default()
    };
    Directory {
        domains: Domains::of(table),
        authenticator: Arc::new(Authenticator::new(&config)),
        noting: Noting::Alone(Arc::new(Uses::new(Arc::new(file)))),
        maildirs: Maildirs::below("/mail".into()),
        metrics: Metrics::default(),
    }
}

async fn log_in(directory: &Directory, login: &str, password: &str, client: u8) -> Answer {
    let (login, password) = (login.to_owned(), Some(password.to_owned()));
    let client = Some(IpAddr::from([192, 0, 2, client]));
    directory.answer(Request { login, password, client }).await
}

async fn look_up(directory: &Directory, login: &str) -> Answer {
    let login = login.to_owned();
    directory.answer(Request { login, password: None, client: None }).await
}

fn is_of(answer: &Answer, directory: &Directory, address: &str) -> bool {
    let Answer::Mailbox(place) = answer else { return false };
    let storage = table().storage(&Mailbox::parse(address).unwrap()).unwrap();
    place.address == address && place.home == directory.maildirs.of(&storage)
}

#[tokio::test]
async fn each_password_of_a_mailbox_lets_in() {
    let directory = directory(Some(table()));
    for login in ["alice@d.example", "ALICE@D.example"] {
        for password in ["correct horse", "paper clip"] {
            let answer = log_in(&directory, login, password, 1).await;
            assert!(is_of(&answer, &directory, "alice@d.example"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn who_has_no_mailbox_or_no_password_is_refused_alike() {
    let directory = directory(Some(table()));
    let refused = [
        ("alice@d.example", "wrong"),
        ("alice@d.example", ""),
        ("bob@d.example", "correct horse"),
        ("app@d.example", "correct horse"),
        ("nobody@d.example", "correct horse"),
        ("al@d.example", "correct horse"),
        ("alice+x@d.example", "correct horse"),
        ("alice", "correct horse"),
        ("", ""),
    ];
    for (client, (login, password)) in (1..).zip(refused) {
        let answer = log_in(&directory, login, password, client).await;
        assert_eq!(answer, Answer::Refused, "{login}");
    }
}

#[tokio::test]
async fn mailboxes_are_found_without_a_password() {
    let directory = directory(Some(table()));
    for login in ["alice@d.example", "Alice+lists@d.example"] {
        let answer = look_up(&directory, login).await;
        assert!(is_of(&answer, &directory, "alice@d.example"), "{answer:?}");
    }
    let suspended = look_up(&directory, "bob@d.example").await;
    assert!(is_of(&suspended, &directory, "bob@d.example"), "{suspended:?}");
    for login in ["app@d.example", "nobody@d.example", "al@d.example", "alice@e.example", "x"] {
        assert_eq!(look_up(&directory, login).await, Answer::Refused, "{login}");
    }
}

#[tokio::test]
async fn what_is_not_known_is_no_wrong_password() {
    let directory = directory(None);
    let answer = log_in(&directory, "alice@d.example", "correct horse", 1).await;
    assert_eq!(answer, Answer::Unavailable);
    assert_eq!(look_up(&directory, "nobody@d.example").await, Answer::Unavailable);
}

#[tokio::test]
async fn who_guesses_is_heard_no_more() {
    let directory = directory(Some(table()));
    for _ in 0..3 {
        let answer = log_in(&directory, "app@d.example", "correct horse", 1).await;
        assert_eq!(answer, Answer::Refused);
    }
    let blocked = log_in(&directory, "alice@d.example", "correct horse", 1).await;
    assert_eq!(blocked, Answer::Unavailable);
    let other = log_in(&directory, "alice@d.example", "correct horse", 2).await;
    assert!(matches!(other, Answer::Mailbox(_)), "{other:?}");
}

#[tokio::test]
async fn a_question_and_its_answer_by_the_socket() {
    let directory = directory(Some(table()));
    let long = format!(r#"{{"login":"{}"}}"#, "x".repeat(REQUEST_OCTETS_MAX as usize));
    for (asked, answered) in [
        (r#"{"login":"x","password":"y","client":"2001:db8::1"}"#, "\"refused\""),
        (r#"{"login":"x"}"#, "\"refused\""),
        (r#"{"login":"x","secret":"y"}"#, ""),
        (r#"{"login":"x""#, ""),
        ("", ""),
        (&*long, ""),
    ] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let ask = async {
            // What is too long is not read to its end.
            let _ = ours.write_all(asked.as_bytes()).await;
            let _ = ours.shutdown().await;
            let mut answer = Vec::new();
            let _ = ours.read_to_end(&mut answer).await;
            answer
        };
        let (talked, answer) = tokio::join!(talk(theirs, &directory), ask);
        assert_eq!(String::from_utf8(answer).unwrap(), answered, "{asked:.40}");
        assert_eq!(talked.is_ok(), !answered.is_empty(), "{talked:?}");
        assert!(!format!("{talked:?}").contains("secret"));
    }
}

/// Somebody who only reads mail uses his password all the same.
#[tokio::test]
async fn who_logs_in_uses_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("last-uses.json");
    let directory = noting_in(LastUseFile::open(&path), Some(table()));
    for (login, password) in [
        ("ALICE@d.example", "paper clip"),
        ("bob@d.example", "paper clip"),
        ("app@d.example", "paper clip"),
    ] {
        log_in(&directory, login, password, 1).await;
    }
    look_up(&directory, "alice@d.example").await;
    let stop = CancellationToken::new();
    stop.cancel();
    directory.noting.keep(stop).await;
    let kept = LastUseFile::open(&path);
    let alice = kept.of("alice@d.example").await.unwrap();
    assert_eq!(alice.of("b").map(|used| &*used.by), Some("dovecot"));
    assert!(alice.of("a").is_none(), "{alice:?}");
    for login in ["bob@d.example", "app@d.example"] {
        assert_eq!(kept.of(login).await.unwrap().latest(), None, "{login}");
    }
}
