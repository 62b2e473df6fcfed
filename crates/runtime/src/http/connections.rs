//! Serving a router on a listener with a bound on everything: nobody who connects to a port of ours
//! may hold the process up, by his number, his silence or his slowness.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// More wait in the kernel.
const CONNECTIONS_MAX: usize = 64;
/// From the beginning of the wait for a request to its last header field.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// For answers in progress when we stop.
const GRACE: Duration = Duration::from_secs(2);

/// Serves until `stop`, then lets answers in progress end within a short grace. A connection takes
/// requests for `lasting`, and the last of them may take as long again.
pub async fn serve(
    mut listener: TcpListener,
    router: Router,
    lasting: Duration,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut clients = JoinSet::new();
    loop {
        // Cancel-safe: what was not accepted stays in the kernel.
        let (permit, stream) = tokio::select! {
            accepted = next(&mut listener, &permits) => accepted,
            () = stop.cancelled() => break,
        };
        while clients.try_join_next().is_some() {}
        let talk = talk(stream, router.clone(), lasting, stop.clone());
        clients.spawn(async move {
            let _permit = permit;
            talk.await;
        });
    }
    let all = async { while clients.join_next().await.is_some() {} };
    let _ = timeout(GRACE, all).await;
}

async fn next(
    listener: &mut TcpListener,
    permits: &Arc<Semaphore>,
) -> (Option<OwnedSemaphorePermit>, TcpStream) {
    // Nobody closes the semaphore, so there always is a permit.
    let permit = Arc::clone(permits).acquire_owned().await.ok();
    // Retries by itself when the process is out of file descriptors.
    let (stream, _) = Listener::accept(listener).await;
    (permit, stream)
}

async fn talk(stream: TcpStream, router: Router, lasting: Duration, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // Cancel-safe: the connection is pinned outside and goes on below. How it ends is the client's
    // affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        () = tokio::time::sleep(lasting) => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(lasting, connection).await;
}
