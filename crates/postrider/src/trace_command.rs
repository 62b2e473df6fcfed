//! `postrider trace ID`: the way of a message, also of one that has left the queue.

use admin::client::Client;
use admin::{JobView, TracedJob, TracedMessage};
use anyhow::ensure;
use mail_types::{Envelope, Origin};
use queue::FollowUpKind;

use crate::cli::{Output, TraceArgs};
use crate::config::Config;
use crate::output;
use crate::queue_command::{phase_name, show_attempts, show_recipients, size};

pub(crate) async fn run(args: &TraceArgs) -> anyhow::Result<()> {
    let client = Client::new(&Config::load(&args.target.config)?.admin_socket());
    let trace = client.trace(args.id).await?;
    let missing = unheard(trace.unheard);
    ensure!(
        !trace.is_empty(),
        "{} is neither in the queue nor in the history; the log may have it{missing}",
        args.id
    );
    if args.target.output == Output::Json {
        return output::json(&trace);
    }
    show_message(&trace.message);
    for dsn in &trace.dsns {
        output::line("");
        show_message(dsn);
    }
    if !missing.is_empty() {
        output::hint(&format!("there may be more{missing}"));
    }
    Ok(())
}

fn unheard(processes: u32) -> String {
    match processes {
        0 => String::new(),
        n => format!("; {n} of the processes did not answer, or not so that it can be read"),
    }
}

fn show_message(message: &TracedMessage) {
    output::line(&match &message.cause {
        None => format!("message {}", message.id),
        Some(cause) => format!("DSN {}: {}, for {}", message.id, kind_name(cause.kind), cause.job),
    });
    let of_jobs = message.jobs.iter().find_map(|traced| traced.job.as_ref());
    if let Some(job) = of_jobs {
        show_arrival(&job.envelope, job.size);
    }
    for traced in &message.jobs {
        show_job(traced);
    }
}

fn kind_name(kind: FollowUpKind) -> &'static str {
    match kind {
        FollowUpKind::FailedDsn => "failed",
        FollowUpKind::DelayedDsn => "delayed",
        FollowUpKind::SuccessDsn => "delivered",
    }
}

/// How it came, as `accepted` is logged.
fn show_arrival(envelope: &Envelope, octets: u64) {
    match &envelope.origin {
        Origin::Smtp(origin) => {
            let listener = origin.listener.as_deref().unwrap_or("smtp");
            output::line(&format!("  came       {} to {listener}", origin.client));
            let tls = origin.tls.as_deref().unwrap_or("no TLS");
            output::line(&format!("  session    {}, {tls}, HELO {}", origin.protocol, origin.helo));
            let login = envelope.identity.as_deref().unwrap_or("none");
            output::line(&format!("  login      {login}"));
        }
        Origin::Internal => output::line("  came       we made it"),
    }
    output::line(&format!("  from       {}", envelope.reverse_path));
    output::line(&format!("  accepted   {}   expires {}", envelope.arrival, envelope.expires));
    output::line(&format!("  tenant     {}   size {}", envelope.tenant, size(octets)));
    if let Some(trace) = envelope.trace_id() {
        output::line(&format!("  trace      {trace}"));
    }
}

fn show_job(traced: &TracedJob) {
    let TracedJob { id, ended, job } = traced;
    let Some(job) = job else {
        let at = ended.map(|ending| format!(" {}", ending.at)).unwrap_or_default();
        return output::line(&format!("{id}: dropped by an operator{at}"));
    };
    let JobView { next_hop, phase, attempts, .. } = job;
    output::line(&match ended {
        Some(ending) => format!("{id} to {next_hop}: ended {}, attempts: {attempts}", ending.at),
        None => format!("{id} to {next_hop}: {}, attempts: {attempts}", phase_name(*phase)),
    });
    if let (None, Some(at)) = (ended, job.next_attempt) {
        output::line(&format!("  next try   {at}"));
    }
    show_recipients(job);
    show_attempts(job);
}
