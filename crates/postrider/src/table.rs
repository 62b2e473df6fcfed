//! The domain table of this process: made of files, or loaded from NATS KV.

use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use domains::{Absence, AtHome, Logins, Table};
use domains_kv::{Class, Loader};
use runtime::readiness::Readiness;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, DomainsFrom};
use crate::reloads::Reloads;
use crate::resources::{self, Loaded};
use crate::serve::Role;

/// The table in force, and where it comes from.
#[derive(Clone)]
pub(crate) struct Domains {
    pub(crate) table: Arc<ArcSwapOption<Table>>,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Files,
    Kv(Arc<Loader>),
}

/// Puts new tables in place.
pub(crate) enum Renewal {
    Files { table: Arc<ArcSwapOption<Table>>, loaded: Loaded },
    Kv(Arc<Loader>),
}

impl Domains {
    /// Compiles the files, or prepares to load a table: until there is one, nothing is ready.
    pub(crate) async fn open(
        config: &Config,
        roles: &[Role],
        readiness: &Readiness,
    ) -> anyhow::Result<(Self, Renewal)> {
        match config.domains_from() {
            DomainsFrom::Files => {
                let loaded = Loaded::new(config)?;
                let compiled = Arc::clone(&loaded.compiled.table);
                let table = Arc::new(ArcSwapOption::from(Some(compiled)));
                let renewal = Renewal::Files { table: Arc::clone(&table), loaded };
                Ok((Self { table, source: Source::Files }, renewal))
            }
            DomainsFrom::Kv => {
                readiness.not_ready("table", "no complete domain table was seen yet");
                let table = Arc::new(ArcSwapOption::empty());
                let bucket = config.domains_kv(inbox(roles))?;
                let (opener, needs) = (config.secrets.opener()?, needs(config, roles));
                let loader = Box::pin(Loader::new(&bucket, table.clone(), opener, needs)).await;
                let loader = Arc::new(loader.context("domains")?);
                let renewal = Renewal::Kv(Arc::clone(&loader));
                Ok((Self { table, source: Source::Kv(loader) }, renewal))
            }
        }
    }

    /// A table that was compiled here and does not change.
    #[cfg(test)]
    pub(crate) fn of(table: Option<Table>) -> Self {
        Self { table: Arc::new(ArcSwapOption::from_pointee(table)), source: Source::Files }
    }

    /// Who tells whether what the table lacks does not exist.
    pub(crate) fn absence(&self) -> Arc<dyn Absence> {
        match &self.source {
            Source::Files => Arc::new(AtHome),
            Source::Kv(loader) => Arc::clone(loader) as Arc<dyn Absence>,
        }
    }

    /// Who finds those who log in.
    pub(crate) fn logins(&self) -> Arc<dyn Logins> {
        match &self.source {
            Source::Files => Arc::new(AtHome),
            Source::Kv(loader) => Arc::clone(loader) as Arc<dyn Logins>,
        }
    }

    /// Waits until there is a table.
    pub(crate) async fn loaded(&self) {
        match &self.source {
            Source::Files => {}
            Source::Kv(loader) => loader.loaded().await,
        }
    }
}

impl Renewal {
    /// Until `stop`.
    pub(crate) async fn run(
        self,
        config: Config,
        reloads: Reloads,
        readiness: Readiness,
        stop: CancellationToken,
    ) {
        match self {
            Self::Files { table, loaded } => {
                resources::keep_fresh(config, table, loaded, reloads, stop).await;
            }
            Self::Kv(loader) => {
                let tell = loader.missing_keys(|missing| {
                    readiness.ready("table");
                    match missing {
                        Some(missing) => readiness.not_ready("secrets", missing.to_string()),
                        None => readiness.ready("secrets"),
                    }
                });
                tokio::join!(loader.run(stop.clone()), stop.run_until_cancelled(tell));
            }
        }
    }
}

/// The secrets without which the process cannot do all that it is to do.
pub(crate) fn needs(config: &Config, roles: &[Role]) -> Vec<Class> {
    let mut listeners = config.ingress.listeners.iter();
    let has_logins = listeners.any(|listener| listener.kind != ingress::Kind::Relay);
    let is_submission = roles.contains(&Role::Ingress) && has_logins;
    let is_dovecot = roles.contains(&Role::Mda) && config.dovecot.socket.is_some();
    (is_submission || is_dovecot).then_some(Class::Passwords).into_iter().collect()
}

/// The prefix of the subjects where a process with these roles is answered.
pub(crate) fn inbox(roles: &[Role]) -> String {
    use queue_jetstream::permissions::Role as User;
    match roles {
        [Role::Ingress] => User::Ingress.inbox(),
        [Role::Worker] => User::Worker.inbox(),
        [Role::Mda] => User::Mda.inbox(),
        [] => User::Admin.inbox(),
        _ => "_INBOX".to_owned(),
    }
}
