//! What answers `postrider dovecot-login`: the process that has the table and the Maildirs.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use admin::socket;
use anyhow::Context;
use domains::{Claimant, Table};
use ingress::{Authenticator, ClientKey, Hashes, Uses, Verdict};
use mail_types::Mailbox;
use mda::Maildirs;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use smtp::Credentials;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Answer, Place, REQUEST_OCTETS_MAX, Request, TIME_MAX};
use crate::table::Domains;

/// More than may wait for a password to be checked: who is too many is told so.
const CONNECTIONS_MAX: usize = 256;
/// As which last uses name us.
const LISTENER: &str = "dovecot";
/// Whose failures they are when Dovecot does not know the client.
const NO_CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What is counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    logins: Family<ResultLabel, Counter>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("dovecot_logins", "Logins by Dovecot", metrics.logins.clone());
        metrics
    }
}

/// Where it is noted which passwords let somebody in.
pub(crate) enum Noting {
    /// With the ingress of this process, which writes what was noted.
    WithIngress(Arc<Uses>),
    Alone(Arc<Uses>),
}

impl Noting {
    fn uses(&self) -> &Arc<Uses> {
        match self {
            Self::WithIngress(uses) | Self::Alone(uses) => uses,
        }
    }

    /// Writes what nobody else does, until `stop`.
    async fn keep(&self, stop: CancellationToken) {
        if let Self::Alone(uses) = self {
            Arc::clone(uses).keep(stop).await;
        }
    }
}

/// Who knows the answers.
pub(crate) struct Directory {
    pub(crate) domains: Domains,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) noting: Noting,
    pub(crate) maildirs: Maildirs,
    pub(crate) metrics: Metrics,
}

/// The socket, bound and not yet serving.
pub(crate) struct Service {
    listener: UnixListener,
    path: PathBuf,
    directory: Arc<Directory>,
}

impl Service {
    /// Binds the socket for our user and group.
    pub(crate) async fn bind(path: &Path, directory: Directory) -> anyhow::Result<Self> {
        anyhow::ensure!(
            !rustix::process::geteuid().is_root(),
            "dovecot.socket: Dovecot serves no mailboxes of root; run Postrider as another user"
        );
        let listener = socket::bind(path, 0o660).await;
        let listener = listener
            .with_context(|| format!("dovecot.socket: cannot listen on {}", path.display()))?;
        Ok(Self { listener, path: path.to_owned(), directory: Arc::new(directory) })
    }

    /// Answers until `stop`, then removes the socket. Who has no answer then is told by the end of
    /// the connection that there is none.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        let directory = Arc::clone(&self.directory);
        tokio::join!(self.answer(stop.clone()), directory.noting.keep(stop));
    }

    async fn answer(self, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut open = JoinSet::new();
        loop {
            // May be dropped: who was not accepted waits in the kernel.
            let accept = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            let Some((permit, accepted)) = stop.run_until_cancelled(accept).await else { break };
            while open.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => {
                    let directory = Arc::clone(&self.directory);
                    open.spawn(async move {
                        let talked = tokio::time::timeout(TIME_MAX, talk(stream, &directory)).await;
                        let told = talked.map_err(anyhow::Error::from).flatten();
                        if let Err(error) = told {
                            tracing::warn!(event = "dovecot_unanswered", %error);
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(event = "dovecot_accept_failed", %error);
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn talk(mut stream: UnixStream, directory: &Directory) -> anyhow::Result<()> {
    let mut text = Vec::new();
    (&mut stream).take(REQUEST_OCTETS_MAX).read_to_end(&mut text).await?;
    // Not the cause: it may quote what was sent.
    let request = serde_json::from_slice(&text).ok().context("what was asked is no question")?;
    let answer = directory.answer(request).await;
    stream.write_all(&serde_json::to_vec(&answer)?).await?;
    Ok(stream.shutdown().await?)
}

impl Directory {
    async fn answer(&self, request: Request) -> Answer {
        let Some(table) = self.domains.table.load_full() else { return Answer::Unavailable };
        match request.password {
            None => self.look_up(&table, &request.login).await,
            Some(password) => {
                let credentials = Credentials::new(request.login, password);
                self.log_in(&table, credentials, request.client).await
            }
        }
    }

    /// Where a mailbox is, also one that nobody may log in to.
    async fn look_up(&self, table: &Arc<Table>, login: &str) -> Answer {
        match own_mailbox(table, login) {
            Some(own) => self.place(table, &own),
            None if self.domains.absence().is_proven(table).await => Answer::Refused,
            None => Answer::Unavailable,
        }
    }

    async fn log_in(
        &self,
        table: &Arc<Table>,
        credentials: Credentials,
        client: Option<IpAddr>,
    ) -> Answer {
        let login = &credentials.login;
        let claimant = match self.domains.logins().find(table, login).await {
            Ok(claimant) => claimant,
            Err(error) => {
                tracing::warn!(event = "dovecot_login_unavailable", ?login, %error);
                self.count("unavailable");
                return Answer::Unavailable;
            }
        };
        let own = match &claimant {
            Claimant::Somebody(identity) => own_mailbox(table, identity.login()),
            Claimant::Nobody(_) => None,
        };
        // Who only sends has no mailbox: as much work as for nobody, and the same answer.
        let hashes = match Hashes::of(&claimant) {
            Hashes::Own(hashes) if own.is_none() => Hashes::StandIn(hashes),
            hashes @ (Hashes::Own(_) | Hashes::StandIn(_)) => hashes,
        };
        let key = ClientKey::of(client.unwrap_or(NO_CLIENT));
        let (result, answer) = match self.authenticator.check(key, &credentials, hashes).await {
            Verdict::Accepted(hash) => match (&claimant, &own) {
                (Claimant::Somebody(identity), Some(own)) => {
                    self.noting.uses().note(identity, &hash, LISTENER);
                    ("accepted", self.place(table, own))
                }
                (Claimant::Somebody(_) | Claimant::Nobody(_), _) => ("rejected", Answer::Refused),
            },
            Verdict::Rejected => ("rejected", Answer::Refused),
            Verdict::Blocked => ("blocked", Answer::Unavailable),
            Verdict::Busy => ("busy", Answer::Unavailable),
        };
        self.count(result);
        if result != "accepted" {
            let client = client.map(|client| client.to_string());
            tracing::info!(event = "dovecot_login_refused", client, ?login, result);
        }
        answer
    }

    fn place(&self, table: &Table, own: &Mailbox) -> Answer {
        let Some(storage) = table.storage(own) else { return Answer::Refused };
        let home = self.maildirs.of(&storage);
        Answer::Mailbox(Place {
            address: own.to_string(),
            home,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        })
    }

    fn count(&self, result: &'static str) {
        self.metrics.logins.get_or_create(&ResultLabel { result }).inc();
    }
}

/// The mailbox that a login or a recipient names, by its own address, if it receives mail.
fn own_mailbox(table: &Table, login: &str) -> Option<Mailbox> {
    table.mailbox(&Mailbox::parse(login).ok()?)
}

#[cfg(test)]
mod tests;
