//! The way of a message: from the queue, from the history, with its DSNs.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use mail_types::{Envelope, Host, Mailbox, Origin, Recipient, ReversePath};
use queue::{
    Disposition, FollowUp, FollowUpKind, Head, HopKind, NewJob, NextHop, Progress, Queue,
    RecipientStatus, Settlement,
};
use serde_json::Value;

use crate::served::{Served, deferral, envelope};

async fn trace(served: &Served, id: impl std::fmt::Display) -> Value {
    let answer = served.get(&format!("/v1/messages/{id}/trace")).await;
    serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"))
}

fn dsn(kind: FollowUpKind) -> FollowUp {
    let origin = Envelope {
        reverse_path: ReversePath::Null,
        identity: None,
        origin: Origin::Internal,
        ..envelope()
    };
    let sender = Mailbox::parse("a@example.org").unwrap();
    let next_hop = NextHop::smtp(&Host::Domain(sender.domain().unwrap().clone()));
    FollowUp {
        kind,
        envelope: origin,
        head: Head::default(),
        body: Bytes::from_static(b"report\r\n"),
        jobs: vec![NewJob::new(next_hop, vec![Recipient::new(sender)])],
    }
}

/// The end of a job that was deferred once, or of its DSN.
fn end(status: RecipientStatus, text: &str, follow_ups: Vec<FollowUp>) -> Settlement {
    let again = deferral(text);
    let attempt = again.attempt.map(|attempt| queue::Attempt { number: 2, ..attempt });
    let progress = again.progress.into_iter().map(|progress| Progress { status, ..progress });
    Settlement {
        attempt,
        progress: progress.collect(),
        disposition: Disposition::Done,
        follow_ups,
        delay_reported: false,
    }
}

async fn settle_next(served: &Served, settlement: &Settlement) {
    let mut leases = served.watched.lease(HopKind::Smtp, 1, 1).await.unwrap();
    leases[0].settle(settlement).await.unwrap();
}

#[tokio::test]
async fn a_message_that_is_done_is_told_with_its_dsn() {
    let served = Served::start().await;
    let id = served.deferred("x@example.net", "come back later").await;
    let waiting = trace(&served, id).await;
    let job = &waiting["message"]["jobs"][0];
    assert_eq!((&job["ended"], &job["job"]["phase"]), (&Value::Null, &"deferred".into()));
    let smtp = &job["job"]["envelope"]["origin"]["smtp"];
    assert_eq!(
        (&smtp["helo"], &smtp["listener"]),
        (&"client.example.org".into(), &"submissions".into())
    );

    let filter = queue::Filter { message: Some(id), ..queue::Filter::default() };
    let acted = served.queue.act(filter, queue::Action::RetryNow);
    futures::StreamExt::collect::<Vec<_>>(acted).await;
    let dsns = vec![dsn(FollowUpKind::FailedDsn)];
    settle_next(&served, &end(RecipientStatus::Bounced, "no such user", dsns)).await;
    let bounced = trace(&served, id).await;
    let job = &bounced["message"]["jobs"][0];
    assert!(job["ended"]["at"].is_i64() && job["ended"]["dropped"] == false, "{bounced:#}");
    assert_eq!(job["job"]["attempts"], 2, "{bounced:#}");
    let replies: Vec<&Value> =
        job["job"]["history"].as_array().unwrap().iter().map(|a| &a["reply"]["text"]).collect();
    assert_eq!(replies, ["come back later", "no such user"]);
    assert_eq!(job["job"]["recipients"][0]["status"], "bounced");
    let dsn = &bounced["dsns"][0];
    assert_eq!((&dsn["cause"]["kind"], &dsn["cause"]["job"]), (&"failedDsn".into(), &job["id"]));
    assert_eq!(dsn["jobs"][0]["job"]["phase"], "ready", "{dsn:#}");

    settle_next(&served, &end(RecipientStatus::Delivered, "taken", vec![])).await;
    let done = trace(&served, id).await;
    let dsn = &done["dsns"][0];
    assert_eq!(dsn["jobs"][0]["job"]["recipients"][0]["last"]["reply"]["text"], "taken");
    // The DSN by itself says what it is of.
    let of_dsn = trace(&served, dsn["id"].as_str().unwrap()).await;
    assert_eq!(of_dsn["message"]["cause"], dsn["cause"]);
    assert_eq!(served.get("/v1/jobs").await.body, "", "the queue has forgotten both");

    let counted = served.get("/v1/outcomes").await;
    let counted: Value = serde_json::from_str(&counted.body).unwrap();
    let rows = counted["rows"].as_array().unwrap();
    let told: Vec<String> =
        rows.iter().map(|r| format!("{} {}", r["outcome"], r["recipients"])).collect();
    assert_eq!(told, ["\"delivered\" 1", "\"deferred\" 1", "\"bounced\" 1"], "{counted:#}");
}

#[tokio::test]
async fn the_history_is_read_once_for_a_message_and_its_dsns() {
    let served = Served::start().await;
    let id = served.deferred("x@example.net", "come back later").await;
    let filter = queue::Filter { message: Some(id), ..queue::Filter::default() };
    let acted = served.queue.act(filter, queue::Action::RetryNow);
    futures::StreamExt::collect::<Vec<_>>(acted).await;
    let dsns = vec![dsn(FollowUpKind::FailedDsn), dsn(FollowUpKind::SuccessDsn)];
    settle_next(&served, &end(RecipientStatus::Bounced, "no such user", dsns)).await;
    // One is delivered, one is in the queue.
    settle_next(&served, &end(RecipientStatus::Delivered, "taken", vec![])).await;
    let told = trace(&served, id).await;
    let ended: Vec<bool> =
        (0..2).map(|n| told["dsns"][n]["jobs"][0]["ended"].is_object()).collect();
    assert!(ended.contains(&true) && ended.contains(&false), "{told:#}");
    assert_eq!(served.past.reads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_others_did_not_tell_is_told_to_be_missing() {
    let served = Served::start().await;
    let id = served.deferred("x@example.net", "come back later").await;
    assert_eq!(trace(&served, id).await["unheard"], 0);
    served.past.unheard.store(2, Ordering::SeqCst);
    assert_eq!(trace(&served, id).await["unheard"], 2);
    let counted = served.get("/v1/outcomes").await;
    let counted: Value = serde_json::from_str(&counted.body).unwrap();
    assert_eq!(counted["unheard"], 2);
}

#[tokio::test]
async fn what_was_dropped_is_told_to_be() {
    let served = Served::start().await;
    let id = served.deferred("x@example.net", "come back later").await;
    let request = format!(r#"{{"action": "cancelSilently", "filter": {{"message": "{id}"}}}}"#);
    served.post("/v1/actions", &request).await;
    let dropped = trace(&served, id).await;
    let job = &dropped["message"]["jobs"][0];
    assert_eq!((&job["ended"]["dropped"], &job["job"]), (&true.into(), &Value::Null));
    let unknown = trace(&served, "01JD5ZQ9W3T8M1V5K7N2B4C6XR").await;
    assert_eq!(unknown["message"]["jobs"], Value::Array(vec![]));
}
