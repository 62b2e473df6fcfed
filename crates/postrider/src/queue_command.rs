//! `postrider queue …`: asks the running process.

use std::io::{self, ErrorKind, IsTerminal};
use std::path::Path;

use admin::client::{Client, ClientError};
use admin::{ActRequest, JobView, Query};
use anyhow::ensure;
use mail_types::QueueId;
use queue::{ActResult, Action, Filter, Forward, JobSummary, Phase};

use crate::cli::{ActArgs, FilterArgs, Output, QueueCommand, Target};
use crate::config::Config;
use crate::output;
use crate::progress::Progress;

pub(crate) async fn run(command: QueueCommand) -> anyhow::Result<()> {
    match command {
        QueueCommand::List { filter, target } => list(filter, &target).await,
        QueueCommand::Show { id, target } => show(id, &target).await,
        QueueCommand::Message { id, config } => message(id, &config).await,
        QueueCommand::Stats { target } => stats(&target).await,
        QueueCommand::Hold(args) => act(args, Action::Hold).await,
        QueueCommand::Release(args) => act(args, Action::Release).await,
        QueueCommand::Retry(args) => act(args, Action::RetryNow).await,
        QueueCommand::Cancel { act: args, silently: true } => {
            act(args, Action::CancelSilently).await
        }
        QueueCommand::Cancel { act: args, silently: false } => {
            act(args, Action::CancelWithDsn).await
        }
    }
}

fn client(config: &Path) -> anyhow::Result<Client> {
    Ok(Client::new(&Config::load(config)?.admin_socket()))
}

pub(crate) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Ready => "ready",
        Phase::Active => "active",
        Phase::Deferred => "deferred",
        Phase::Held => "held",
        Phase::Quarantined => "quarantined",
    }
}

async fn list(filter: FilterArgs, target: &Target) -> anyhow::Result<()> {
    let query = Query::from(Filter::from(filter));
    if target.output == Output::Json {
        let print = |job| output::json(&job).unwrap_or_else(|error| output::error(&error));
        return Ok(client(&target.config)?.list(&query, print).await?);
    }
    let mut count = 0usize;
    let print = |job: JobSummary| {
        if count == 0 {
            output::line(HEAD);
        }
        count += 1;
        output::line(&row(&job));
    };
    client(&target.config)?.list(&query, print).await?;
    if count == 0 {
        output::hint("no such mail in the queue");
    }
    Ok(())
}

const HEAD: &str = concat!(
    "JOB                             PHASE        SIZE  TRIES  ARRIVED              ",
    "FROM → TO"
);

/// One job, on two lines when there is a reply to tell. A stream has no widths to fit: the columns
/// before the addresses are as wide as they ever get.
fn row(job: &JobSummary) -> String {
    let more = (job.recipients_pending as usize).saturating_sub(job.recipients.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let arrived = job.arrival.to_rfc3339();
    let mut text = format!(
        "{:<31} {:<11} {:>6}  {:>5}  {:<21} <{}> → {}{more}",
        job.id.to_string(),
        phase_name(job.phase),
        size(job.size),
        job.attempts,
        &arrived[..19],
        job.sender,
        job.recipients.join(", "),
    );
    if let Some(reply) = &job.last_reply {
        let next = job.next_attempt.map(|at| format!(" (next: {at})")).unwrap_or_default();
        text += &format!("\n    {reply}{next}");
    }
    text
}

/// Octets in at most four digits.
pub(crate) fn size(octets: u64) -> String {
    match octets {
        0..10_000 => format!("{octets}B"),
        10_000..10_240_000 => format!("{}K", octets >> 10),
        _ => format!("{}M", octets >> 20),
    }
}

async fn show(id: QueueId, target: &Target) -> anyhow::Result<()> {
    let jobs = client(&target.config)?.show(id).await?;
    ensure!(
        !jobs.is_empty(),
        "{id} is not in the queue; `postrider trace {id}` may know what became of it"
    );
    for job in &jobs {
        match target.output {
            Output::Json => output::json(job)?,
            Output::Table => show_job(job),
        }
    }
    Ok(())
}

async fn message(id: QueueId, config: &Path) -> anyhow::Result<()> {
    let shown = client(config)?.content(id, &mut io::stdout().lock()).await;
    match shown {
        // Of `head`, say.
        Err(ClientError::Written(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        shown => Ok(shown.map(drop)?),
    }
}

fn show_job(job: &JobView) {
    let envelope = &job.envelope;
    let title = format!("{} to {}: {}", job.id, job.next_hop, phase_name(job.phase));
    output::line(&title);
    output::line(&format!("  from       {}", envelope.reverse_path));
    if let Some(forward) = &job.forward {
        let Forward { reverse_path, delivered_to } = forward;
        output::line(&format!("  forwarded  by <{delivered_to}> as from {reverse_path}"));
    }
    output::line(&format!("  arrived    {}   expires {}", envelope.arrival, envelope.expires));
    output::line(&format!("  tenant     {}   size {}", envelope.tenant, size(job.size)));
    if let Some(trace) = envelope.trace_id() {
        output::line(&format!("  trace      {trace}"));
    }
    if let Some(at) = job.next_attempt {
        output::line(&format!("  next try   {at}"));
    }
    if let Some(reason) = &job.quarantine_reason {
        output::line(&format!("  reason     {reason}"));
    }
    show_recipients(job);
    show_attempts(job);
}

pub(crate) fn show_recipients(job: &JobView) {
    for recipient in &job.recipients {
        let status = format!("{:?}", recipient.status).to_lowercase();
        output::line(&format!("  to         <{}> {status}", recipient.recipient.address));
        if let Some(last) = &recipient.last {
            let remote = last.remote.as_deref().unwrap_or("we");
            output::line(&format!("             {remote} said: {}", last.reply));
        }
    }
}

/// The last of them: a job keeps eight.
pub(crate) fn show_attempts(job: &JobView) {
    for attempt in &job.history {
        output::line(&format!(
            "  attempt {}  {}  {} ms  {}  {}",
            attempt.number,
            attempt.at,
            attempt.took_ms,
            attempt.relay.as_deref().unwrap_or("no host reached"),
            attempt.reply
        ));
    }
}

async fn stats(target: &Target) -> anyhow::Result<()> {
    let stats = client(&target.config)?.stats().await?;
    if target.output == Output::Json {
        return output::json(&stats);
    }
    let rows = [
        ("messages", stats.messages.to_string()),
        ("content", size(stats.content_bytes)),
        ("ready", stats.ready.to_string()),
        ("active", stats.active.to_string()),
        ("deferred", stats.deferred.to_string()),
        ("held", stats.held.to_string()),
        ("quarantined", stats.quarantined.to_string()),
        ("store", format!("{} of {}", size(stats.store_bytes), size(stats.store_limit_bytes))),
    ];
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    output::table(&["WHAT", "VALUE"], &rows);
    Ok(())
}

async fn act(args: ActArgs, action: Action) -> anyhow::Result<()> {
    let filter = Query::from(Filter::from(args.filter));
    ensure!(
        filter != Query::default() || args.all,
        "no filter: name an --id, or another filter, or say --all for the whole queue"
    );
    let request = ActRequest { action, filter, all: args.all };
    let (mut done, mut requested, mut unchanged) = (0usize, 0usize, 0usize);
    let mut progress = Progress::begin();
    // Lines of JSON on a terminal are progress enough.
    let is_shown = args.target.output == Output::Table || !io::stdout().is_terminal();
    let count = |acted: queue::Acted| {
        match acted.result {
            ActResult::Done => done += 1,
            ActResult::Requested => requested += 1,
            ActResult::NotApplicable => unchanged += 1,
        }
        if args.target.output == Output::Json {
            output::json(&acted).unwrap_or_else(|error| output::error(&error));
        }
        if is_shown {
            progress.step();
        }
    };
    let acted = client(&args.target.config)?.act(&request, count).await;
    progress.end();
    let is_known = acted.is_ok() || done + requested + unchanged > 0;
    if args.target.output == Output::Table && is_known {
        output::line(&format!("{done} done, {requested} will be as soon as a worker sees them"));
        if unchanged > 0 {
            output::line(&format!("{unchanged} unchanged: it does not apply in their phase"));
        }
    }
    Ok(acted?)
}
