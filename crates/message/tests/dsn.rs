//! DSNs: what we write is read back, and what others wrote is read.

#![allow(clippy::unwrap_used)] // helpers of tests, outside of a #[test] function

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use mail_types::{
    BodyType, EnhancedStatus, EnvId, Host, Mailbox, OriginalRecipient, QueueId, Reply, ReplyCode,
    Timestamp,
};
use message::dsn::{self, Action, RecipientReport, Report, Returned};
use message::header;
use proptest::prelude::*;

const AT: Timestamp = Timestamp::from_unix_ms(1_795_388_895_042);

fn recipient(address: &str, action: Action, text: &str) -> RecipientReport {
    let status = EnhancedStatus::new(5, 1, 1);
    RecipientReport {
        final_recipient: Mailbox::parse(address).unwrap(),
        original: OriginalRecipient::new("rfc822", "first@example.org").ok(),
        action,
        status,
        remote: Some("mx.example.net[192.0.2.1]:25".into()),
        reply: Some(Reply::new(ReplyCode::new(550), status, text)),
        last_attempt: Some(AT),
        will_retry_until: Some(AT),
    }
}

fn compose(recipients: &[RecipientReport], returned: Returned<'_>) -> (dsn::Composed, Vec<u8>) {
    let composed = dsn::compose(&Report {
        reporting_mta: &Host::parse("mx.example.org").unwrap(),
        to: &Mailbox::parse("alice@example.org").unwrap(),
        envid: Some(&EnvId::new("QQ314159").unwrap()),
        arrival: AT,
        received_from: Some("client.example"),
        message: QueueId::new(AT, 7),
        recipients,
        returned,
        date: AT,
        random: 42,
    });
    let content = [composed.header.clone(), composed.body.clone()].concat();
    (composed, content)
}

#[test]
fn a_failure_reads_as_rfc_3464_has_it() {
    let failed = recipient("bob@example.net", Action::Failed, "no such\nuser here");
    let (composed, content) = compose(&[failed], Returned::Headers(b"Subject: x\r\n\r\n"));
    let text = String::from_utf8(content.clone()).unwrap();
    for line in [
        "Subject: Undelivered mail returned to sender\r\n",
        "Auto-Submitted: auto-replied\r\n",
        "Content-Type: multipart/report; report-type=delivery-status;\r\n",
        "\r\nReporting-MTA: dns; mx.example.org\r\nOriginal-Envelope-Id: QQ314159\r\n\
         Received-From-MTA: dns; client.example\r\n\
         Arrival-Date: Sun, 22 Nov 2026 23:08:15 +0000\r\n\r\n\
         Original-Recipient: rfc822; first@example.org\r\n\
         Final-Recipient: rfc822; bob@example.net\r\nAction: failed\r\nStatus: 5.1.1\r\n\
         Remote-MTA: dns; mx.example.net\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 no such user here\r\n\
         Last-Attempt-Date: Sun, 22 Nov 2026 23:08:15 +0000\r\nFinal-Log-ID: ",
        "Content-Type: text/rfc822-headers\r\n\r\nSubject: x\r\n\r\n\r\n--=_",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert!(!text.contains("Will-Retry-Until"));
    assert_eq!((composed.body_type, composed.smtputf8), (BodyType::SevenBit, false));
    let parsed = dsn::parse(&content).unwrap();
    assert_eq!(parsed.envid.as_deref(), Some("QQ314159"));
    assert_eq!(parsed.recipients[0].final_recipient.as_deref(), Some("bob@example.net"));
}

#[test]
fn a_delay_says_until_when() {
    let delayed = recipient("bob@example.net", Action::Delayed, "busy");
    let (_, content) = compose(&[delayed], Returned::Headers(b"\r\n"));
    let text = String::from_utf8(content).unwrap();
    assert!(text.contains("Will-Retry-Until: Sun, 22 Nov 2026 23:08:15 +0000\r\n"));
    assert!(text.contains("Subject: Delayed mail (still being tried)\r\n"));
}

#[test]
fn other_scripts_are_written_in_seven_bits() {
    let mut failed = recipient("jö@example.net", Action::Failed, "kein Empfänger\u{7}");
    failed.original = OriginalRecipient::new("utf-8", "jö+x@example.org").ok();
    let (composed, content) = compose(&[failed], Returned::Headers(b"\r\n"));
    let text = String::from_utf8(content.clone()).unwrap();
    assert!(text.is_ascii());
    for line in [
        "Original-Recipient: utf-8; j\\x{F6}\\x{2B}x@example.org\r\n",
        "Final-Recipient: utf-8; j\\x{F6}@example.net\r\n",
        "Diagnostic-Code: smtp; 550 5.1.1 kein Empf?nger?\r\n",
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert_eq!(composed.body_type, BodyType::SevenBit);
    let parsed = dsn::parse(&content).unwrap();
    assert_eq!(parsed.recipients[0].final_recipient.as_deref(), Some("jö@example.net"));
    let (_, encoded) = text.split_once("base64\r\n\r\n").unwrap();
    let (encoded, _) = encoded.split_once("\r\n\r\n").unwrap();
    let told = BASE64_STANDARD.decode(encoded.replace("\r\n", "")).unwrap();
    let told = String::from_utf8(told).unwrap();
    assert!(told.contains("    <jö@example.net>\r\n"), "{told}");
    assert!(told.contains("said: 550 5.1.1 kein Empfänger?\r\n"), "{told}");
}

#[test]
fn an_address_too_long_for_a_line_is_left_out() {
    let mut failed = recipient("bob@example.net", Action::Failed, "no");
    failed.original = OriginalRecipient::new("utf-8", "ö".repeat(200)).ok();
    assert!(failed.original.is_some());
    let (_, content) = compose(&[failed], Returned::Headers(b""));
    assert!(!String::from_utf8(content).unwrap().contains("Original-Recipient"));
}

#[test]
fn a_message_that_is_not_ascii_is_returned_as_it_is() {
    let original = "Subject: ä\r\n\r\nö\r\n".as_bytes();
    let failed = [recipient("bob@example.net", Action::Failed, "no")];
    let (composed, content) = compose(&failed, Returned::Full(original));
    assert_eq!(composed.body_type, BodyType::EightBitMime);
    assert!(memchr::memmem::find(&content, original).is_some());
    let text = String::from_utf8(content).unwrap();
    assert!(text.contains("Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit\r\n"));
    let (_, content) = compose(&failed, Returned::Full(b"Subject: a\r\n\r\n\xf6\r\n"));
    assert!(memchr::memmem::find(&content, b"Content-Type: message/rfc822\r\n").is_some());
}

#[test]
fn the_boundary_is_not_in_the_message() {
    let original = format!("Subject: x\r\n\r\n--=_{:032x}\r\nContent-Type: x\r\n", 42);
    let failed = [recipient("bob@example.net", Action::Failed, "no")];
    let (composed, _) = compose(&failed, Returned::Full(original.as_bytes()));
    assert!(String::from_utf8(composed.header).unwrap().contains(&format!("=_{:032x}", 43)));
}

fn suite(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/suites").join(name);
    assert!(dir.is_dir(), "the test data {name} must lie in ../shared/suites beside the checkout");
    dir
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { todo.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Some were kept as mbox: the envelope line is not part of the message.
fn without_mbox_line(file: &[u8]) -> &[u8] {
    let line = file.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
    if file.starts_with(b"From ") { &file[line..] } else { file }
}

#[test]
fn bounces_of_many_systems_are_read() {
    let mut reports = 0;
    for path in files(&suite("bounces-flufl")) {
        let file = fs::read(&path).unwrap();
        let content = without_mbox_line(&file);
        let parsed = dsn::parse(content);
        // Reports that somebody forwarded inside a message of his own are no reports to us.
        let report_type = header::fields(content).find(|field| field.is("Content-Type"));
        let report_type = report_type.map(|field| field.unfolded().to_ascii_lowercase());
        let is_report = report_type.is_some_and(|value| value.starts_with(b"multipart/report"))
            && memchr::memmem::find(content, b"message/disposition-notification").is_none()
            && memchr::memmem::find(content, b"Final-Recipient:").is_some();
        if is_report {
            reports += 1;
            assert!(parsed.is_some(), "{path:?} was not read");
        }
        for recipient in parsed.iter().flat_map(|parsed| &parsed.recipients) {
            let address = recipient.final_recipient.as_ref().or(recipient.original.as_ref());
            assert!(address.is_some(), "{path:?}: {recipient:?}");
        }
    }
    assert!(reports >= 10, "only {reports} reports in the suite");
}

/// What `flufl.bounce` finds in the reports that Mailman's authors collected.
const REPORTS: [(&str, &str, &str); 13] = [
    ("dsn_01.txt", "failed", "userx@example.com"),
    ("dsn_02.txt", "failed", "zzzzz@example.uk"),
    // Not a word of RFC 3464, and left as it is.
    ("dsn_03.txt", "failure", "userx@example.be"),
    ("dsn_04.txt", "failed", "userx@example.ch"),
    ("dsn_05.txt", "delayed", "userx@example.cz"),
    ("dsn_06.txt", "delayed", "userx@example.com"),
    ("dsn_07.txt", "delayed", "userx@example.nz"),
    ("dsn_08.txt", "delayed", "userx@example.de"),
    ("dsn_09.txt", "failed", "userx@example.com"),
    ("dsn_10.txt", "failed", "anne.person@dom.ain"),
    ("dsn_11.txt", "failed", "joem@example.com"),
    ("dsn_12.txt", "failed", "userx@example.jp"),
    ("dsn_14.txt", "failed", "userx@example.com.dk"),
];

#[test]
fn reports_of_rfc_3464_name_their_recipients() {
    let dir = suite("bounces-flufl");
    for (name, action, address) in REPORTS {
        let parsed = dsn::parse(without_mbox_line(&fs::read(dir.join(name)).unwrap()));
        let recipients = parsed.map_or_else(Vec::new, |parsed| parsed.recipients);
        assert!(!recipients.is_empty(), "{name} was not read");
        // One of them names its only recipient eleven times.
        for recipient in &recipients {
            let read = recipient.original.as_ref().or(recipient.final_recipient.as_ref());
            let read = (recipient.action.as_deref(), read.map(String::as_str));
            assert_eq!(read, (Some(action), Some(address)), "{name}");
        }
    }
    // A gateway wrapped these in multipart/mixed, or took them apart.
    for number in [13, 15, 16, 17, 18] {
        let name = format!("dsn_{number}.txt");
        let file = fs::read(dir.join(&name)).unwrap();
        assert_eq!(dsn::parse(without_mbox_line(&file)), None, "{name}");
    }
}

#[test]
fn torture_messages_keep_every_octet() {
    let mut read = 0;
    for path in files(&suite("mime")) {
        let content = fs::read(&path).unwrap();
        assert_eq!(header::without(&content, "no-such-name"), content, "{path:?}");
        let _ = (dsn::parse(&content), message::from::mailboxes(&content));
        read += 1;
    }
    assert!(read > 50, "only {read} messages in the suite");
}

proptest! {
    #[test]
    fn what_is_composed_is_parsed_back(
        actions in prop::collection::vec(0usize..4, 1..5),
        text in "\\PC{0,200}",
        original in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        const ACTIONS: [Action; 4] =
            [Action::Failed, Action::Delayed, Action::Delivered, Action::Relayed];
        let recipients: Vec<RecipientReport> = actions
            .iter()
            .enumerate()
            .map(|(n, action)| recipient(&format!("r{n}@example.net"), ACTIONS[*action], &text))
            .collect();
        let (composed, content) = compose(&recipients, Returned::Full(&original));
        for line in content.split_inclusive(|b| *b == b'\n') {
            let line = line.strip_suffix(b"\r\n").unwrap();
            prop_assert!(line.len() <= 998 && !line.iter().any(|b| b"\r\n\0".contains(b)));
        }
        prop_assert_eq!(content.is_ascii(), composed.body_type == BodyType::SevenBit);
        let parsed = dsn::parse(&content).unwrap();
        prop_assert_eq!(parsed.recipients.len(), recipients.len());
        for (n, (read, written)) in parsed.recipients.iter().zip(&recipients).enumerate() {
            prop_assert_eq!(read.final_recipient.clone(), Some(format!("r{n}@example.net")));
            prop_assert_eq!(read.action.as_deref(), Some(written.action.as_str()));
        }
    }

    #[test]
    fn any_octets_are_read_or_refused(content in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = dsn::parse(&content);
    }
}
