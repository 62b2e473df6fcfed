//! What cannot be read is kept, listed as quarantined and holds up nobody; an operator drops it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream;
use bytes::Bytes;
use futures::TryStreamExt;
use mail_types::{Host, Mailbox, QueueId, Recipient};
use queue::{
    ActResult, Action, ContentError, Disposition, Filter, Head, HopKind, Job, NewJob, NextHop,
    Phase, Queue, SettleError, Wait,
};
use queue_jetstream::{Config, JetQueue};
use tests::jet;
use tests::mail::{self, lease, settlement};
use tests::nats::Server;
use tests::wait;

const LIMIT: Duration = Duration::from_secs(30);
const GARBAGE: Bytes = Bytes::from_static(b"neither a message nor a record");
const KINDS: [HopKind; 2] = [HopKind::Smtp, HopKind::Mailbox];

async fn open(server: &Server) -> Result<JetQueue> {
    let config = jet::config(vec![server.url()], vec![server.monitor_url()]);
    Ok(jet::open(config, &KINDS).await?)
}

async fn context(server: &Server) -> Result<jetstream::Context> {
    Ok(jetstream::new(async_nats::connect(server.url()).await?))
}

fn quarantined() -> Filter {
    Filter { phase: Some(Phase::Quarantined), ..Filter::default() }
}

/// Waits until so many jobs are quarantined, and shows them.
async fn shown(queue: &JetQueue, count: usize) -> Result<Vec<Job>> {
    let what = format!("{count} jobs quarantined");
    let all: Vec<_> = wait::until(&what, LIMIT, async || {
        let all: Vec<_> = queue.list(quarantined()).try_collect().await.ok()?;
        (all.len() == count).then_some(all)
    })
    .await?;
    let mut jobs = Vec::new();
    for one in all {
        jobs.extend(queue.show(one.id.message).await?);
    }
    Ok(jobs)
}

/// Whether a message goes its way, whatever else lies there.
async fn delivers(queue: &JetQueue) -> Result<()> {
    mail::send(queue, "good.example", Bytes::from_static(b"body")).await?;
    let mut good = lease(queue).await?;
    ensure!(good.job().next_hop.key() == "good.example", "{:?} is leased", good.job().next_hop);
    Ok(good.settle(&settlement(Disposition::Done)).await.map(drop)?)
}

async fn act(queue: &JetQueue, action: Action) -> Result<Vec<ActResult>> {
    let acted: Vec<_> = queue.act(quarantined(), action).try_collect().await?;
    Ok(acted.into_iter().map(|acted| acted.result).collect())
}

/// Subjects of a record for each job that is deferred.
async fn records(context: &jetstream::Context) -> Result<Vec<String>> {
    let names: Vec<String> = context.stream_names().try_collect().await?;
    let mut found = Vec::new();
    for name in names.iter().filter(|name| name.starts_with("jobs-")) {
        let stream = context.get_stream(name).await?;
        let subjects = stream.info_with_subjects(">").await?;
        let subjects: Vec<(String, usize)> = subjects.try_collect().await?;
        found.extend(subjects.into_iter().map(|(subject, _)| subject));
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_be_read_is_listed_and_dropped_on_request() -> Result<()> {
    let server = Server::start().await?;
    let queue = open(&server).await?;
    let context = context(&server).await?;
    for (number, lane) in ["s0", "split"].into_iter().enumerate() {
        let id = QueueId::new(runtime::clock::now(), number as u128);
        let subject = format!("in.{lane}.one.bad_example.{id}");
        context.publish(subject, GARBAGE).await?.await?;
    }
    let jobs = shown(&queue, 2).await?;
    for job in &jobs {
        let next_hop = job.next_hop.to_string();
        ensure!(next_hop == "smtp:bad.example", "{next_hop}");
        ensure!(job.envelope.tenant.as_str() == "one", "{:?}", job.envelope.tenant);
        job.quarantine_reason.as_ref().context("no reason is given")?;
    }
    ensure!(queue.stats().await?.quarantined == 2, "{:?}", queue.stats().await?);
    delivers(&queue).await?;

    ensure!(act(&queue, Action::Release).await? == [ActResult::NotApplicable; 2], "released");
    ensure!(act(&queue, Action::CancelWithDsn).await? == [ActResult::NotApplicable; 2], "a DSN");
    shown(&queue, 2).await?;
    ensure!(act(&queue, Action::CancelSilently).await? == [ActResult::Done; 2], "not cancelled");
    shown(&queue, 0).await?;
    queue.close().await;
    let queue = open(&server).await?;
    delivers(&queue).await?;
    shown(&queue, 0).await?;
    queue.close().await;
    Ok(())
}

/// A section of a stored record: length, checksum, octets.
fn section(octets: &[u8]) -> Vec<u8> {
    let length = u32::try_from(octets.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &crc32c::crc32c(octets).to_be_bytes(), octets].concat()
}

/// In the middle of an upgrade a newer ingress may have accepted it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_program_accepted_waits_for_one() -> Result<()> {
    let server = Server::start().await?;
    let queue = open(&server).await?;
    let context = context(&server).await?;
    let newer = [&[1][..], &section(b"{\"v\":99}"), &section(b"{}"), &section(b"")].concat();
    for (number, lane) in ["s0", "split"].into_iter().enumerate() {
        let id = QueueId::new(runtime::clock::now(), number as u128);
        let subject = format!("in.{lane}.one.bad_example.{id}");
        context.publish(subject, newer.clone().into()).await?.await?;
        let stream = context.get_stream(format!("intake-{lane}")).await?;
        wait::until("it to be taken and not understood", LIMIT, async || {
            let consumer = stream.consumer_info(lane).await.ok()?;
            (consumer.num_ack_pending == 1).then_some(())
        })
        .await?;
    }
    delivers(&queue).await?;
    shown(&queue, 0).await?;
    for lane in ["s0", "split"] {
        let mut stream = context.get_stream(format!("intake-{lane}")).await?;
        ensure!(stream.info().await?.state.messages == 1, "{lane}: it is gone");
    }
    queue.close().await;
    Ok(())
}

/// What is in the streams of this prefix is no more, as if another had ended it.
async fn purge(context: &jetstream::Context, prefix: &str) -> Result<()> {
    let names: Vec<String> = context.stream_names().try_collect().await?;
    for name in names.iter().filter(|name| name.starts_with(prefix)) {
        context.get_stream(name).await?.purge().await?;
    }
    Ok(())
}

/// Flips a bit of the only message in the intakes: of its last inline octet, or, if there is none,
/// of the checksum.
async fn damage(context: &jetstream::Context) -> Result<()> {
    let names: Vec<String> = context.stream_names().try_collect().await?;
    for name in names.iter().filter(|name| name.starts_with("intake-")) {
        let mut stream = context.get_stream(name).await?;
        let state = stream.info().await?.state.clone();
        if state.messages == 0 {
            continue;
        }
        let message = stream.get_raw_message(state.first_sequence).await?;
        stream.purge().await?;
        let mut record = message.payload.to_vec();
        *record.last_mut().context("an empty record")? ^= 1;
        context.publish(message.subject, record.into()).await?.await?;
    }
    Ok(())
}

/// Who asks for the content of a message is not shown the beginning of what is known to be damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_octet_is_shown_of_content_that_cannot_be_whole() -> Result<()> {
    let server = Server::start().await?;
    let context = context(&server).await?;
    // Of the last nothing is inline, and its first chunk is as it was.
    for (number, size) in [0, 4, 1_000_000].into_iter().enumerate() {
        let config = jet::config(vec![server.url()], vec![server.monitor_url()]);
        let sender = jet::open(config, &[]).await?;
        let mut draft = mail::draft(&sender, vec![b'x'; size].into()).await?;
        let recipient = Recipient::new(Mailbox::parse("u@bad.example")?);
        let job = NewJob::new(NextHop::smtp(&Host::parse("bad.example")?), vec![recipient]);
        draft.commit(Head::default(), vec![job]).await?;
        sender.close().await;
        damage(&context).await?;

        let queue = open(&server).await?;
        queue.caught_up().await?;
        match queue.content(draft.id()).await {
            Err(ContentError::Damaged(_)) => {}
            Ok(content) => bail!("{number}: content of {:?} octets", content.map(|c| c.size)),
            Err(error) => bail!("{number}: {error}"),
        }
        let filter = Filter::default();
        let acted: Vec<_> = queue.act(filter, Action::CancelSilently).try_collect().await?;
        ensure!(acted.len() == 1, "{number}: {acted:?}");
        queue.close().await;
    }
    Ok(())
}

/// Two workers have a message in hand for a while when a server that stood between them and it was
/// lost. Who finds its content gone must look whether the message is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_missed_only_while_its_message_is_there() -> Result<()> {
    let server = Server::start().await?;
    let queue = open(&server).await?;
    let context = context(&server).await?;
    for has_ended in [true, false] {
        mail::send(&queue, "slow.example", Bytes::from(vec![b'x'; 1 << 20])).await?;
        let mut held = lease(&queue).await?;
        purge(&context, "body-").await?;
        if has_ended {
            purge(&context, "intake-").await?;
        }
        let content = held.content().await?.chunks.try_collect::<Vec<Bytes>>().await;
        let settled =
            held.settle(&settlement(Disposition::Quarantine { reason: "gone".into() })).await;
        match (has_ended, content, settled) {
            (true, Err(ContentError::Unavailable(_)), Err(SettleError::LeaseLost)) => {}
            (false, Err(ContentError::Damaged(_)), Ok(())) => {}
            (_, content, settled) => bail!("{has_ended}: {:?}, {settled:?}", content.map(|_| ())),
        }
        drop(held);
        shown(&queue, usize::from(!has_ended)).await?;
        ensure!(queue.stats().await?.ready == 0, "{:?}", queue.stats().await?);
    }
    queue.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_is_listed_after_a_restart_too() -> Result<()> {
    let server = Server::start().await?;
    let queue = open(&server).await?;
    let context = context(&server).await?;
    mail::send(&queue, "bad.example", Bytes::from_static(b"body")).await?;
    let until = runtime::clock::now() + Duration::from_secs(3600);
    let defer = Disposition::Defer { until, wake_by: until, waiting_for: Wait::Time };
    lease(&queue).await?.settle(&settlement(defer)).await?;
    let subjects = records(&context).await?;
    ensure!(subjects.len() == 1, "{subjects:?}");
    context.publish(subjects[0].clone(), GARBAGE).await?.await?;
    shown(&queue, 1).await?;
    delivers(&queue).await?;
    queue.close().await;

    let queue = open(&server).await?;
    let jobs = shown(&queue, 1).await?;
    ensure!(jobs[0].next_hop.key() == "bad.example", "{:?}", jobs[0]);
    delivers(&queue).await?;
    ensure!(act(&queue, Action::CancelSilently).await? == [ActResult::Done], "not cancelled");
    shown(&queue, 0).await?;
    queue.close().await;
    Ok(())
}

/// A server that has heard of an end may lose it: here the message lies in its intake a second
/// time. As long as it does, its content is there for whoever gets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_stays_until_its_message_is_gone() -> Result<()> {
    let server = Server::start().await?;
    let config = Config {
        ack_wait_seconds: 5,
        ..jet::config(vec![server.url()], vec![server.monitor_url()])
    };
    let queue = jet::open(config, &KINDS).await?;
    let context = context(&server).await?;
    mail::send(&queue, "good.example", vec![b'x'; 2 << 20].into()).await?;
    let mut held = lease(&queue).await?;
    let names: Vec<String> = context.stream_names().try_collect().await?;
    let of = |start: &'static str| names.iter().filter(move |name| name.starts_with(start));
    let count = async |start: &'static str| {
        let mut messages = 0;
        for name in of(start) {
            messages += context.get_stream(name).await?.info().await?.state.messages;
        }
        anyhow::Ok(messages)
    };
    for name in of("intake-") {
        let stream = context.get_stream(name).await?;
        if let Ok(message) = stream.get_raw_message(1).await {
            context.publish(message.subject, message.payload).await?.await?;
        }
    }
    ensure!(count("intake-").await? == 2, "the message is not there twice");
    let chunks = count("body-").await?;
    ensure!(chunks > 1, "{chunks} chunks");
    held.settle(&settlement(Disposition::Done)).await?;
    wait::until("the message to be gone", LIMIT, async || {
        let (body, intake) = (count("body-").await.ok()?, count("intake-").await.ok()?);
        assert!(intake == 0 || body == chunks, "{intake} messages with {body} of {chunks} chunks");
        (intake == 0).then_some(())
    })
    .await?;
    wait::until("its content to be gone", LIMIT, async || {
        (count("body-").await.ok()? == 0).then_some(())
    })
    .await?;
    ensure!(queue.stats().await?.messages == 0, "it is known still");
    queue.close().await;
    Ok(())
}
