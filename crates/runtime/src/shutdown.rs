//! When to stop.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How a second signal ends the process: as if the signal had killed it.
const EXIT_IMPATIENT: i32 = 130;

/// A token that SIGTERM or SIGINT cancels; a second signal ends the process at once.
///
/// Ending at once loses nothing: what was accepted is on disk.
pub fn on_signals(tasks: &TaskTracker) -> io::Result<CancellationToken> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let next = async move || {
        // Cancel-safe: a signal that is not taken here is taken by the next call.
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    tasks.spawn(async move {
        let mut next = next;
        next().await;
        tracing::info!(event = "stopping", "signal received");
        stopping.cancel();
        next().await;
        tracing::warn!(event = "stopped_at_once", "second signal received");
        std::process::exit(EXIT_IMPATIENT);
    });
    Ok(stop)
}
