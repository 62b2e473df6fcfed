//! The operator's one task: from what is declared to what is in force, and back as status.
//!
//! ```text
//! dereference ─▶ validate ─▶ build ─▶ apply ─▶ update_status
//! Secrets        claims,     one      the      conditions,
//!                tenants     table    bucket   events, finalizers
//! ```
//! A namespace is done again when something of it changes. Nothing is published before everything
//! was seen, nor while a namespace cannot be judged: what cannot be asked for changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domains::Table;
use domains_kv::{PublishError, Publisher, Shrinking};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};
use mail_types::Domain;
use runtime::readiness::Readiness;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::claims::{Claim, Denied, denied};
use crate::config::Config;
use crate::declared::{Declared, Seen};
use crate::metrics::Metrics;
use crate::report::{Finding, Outcome};
use crate::resources::{MailDomain, Mailbox, declared};
use crate::secrets::{Extent, Secrets};
use crate::tenant::{self, Candidate, Verdict};

mod update;

/// Changes that come one after the other are taken together.
const GATHER: Duration = Duration::from_millis(100);
/// Between two tries of what failed: twice as long each time.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How often some Secrets are read again, and in what time all of them are, unless that would be
/// more than so many at a time.
const TURN: Duration = Duration::from_secs(1);
const TURNS_OF_ALL: usize = 60;
const TURN_MAX: usize = 100;

/// Whether a MailDomain is being deleted, or a Mailbox.
fn is_going(resource: &impl ResourceExt) -> bool {
    resource.meta().deletion_timestamp.is_some()
}

fn created(resource: &impl ResourceExt) -> String {
    resource.creation_timestamp().map(|at| at.0.to_string()).unwrap_or_default()
}

/// What is known of a namespace.
struct Part {
    table: Table,
    outcomes: BTreeMap<tenant::Key, Outcome>,
}

pub(crate) struct Operator {
    config: Config,
    client: Client,
    recorder: Recorder,
    declared: Declared,
    secrets: Secrets,
    parts: BTreeMap<String, Part>,
    denied: HashMap<(String, String), Denied>,
    publisher: Publisher,
    /// Whose table is not what is declared, or whose statuses do not say so.
    dirty: BTreeSet<String>,
    /// Mailboxes whose Secrets are read again.
    fresh: BTreeSet<(String, String)>,
    /// Domains whose MailDomains were seen to be deleted.
    released: BTreeSet<Domain>,
    metrics: Metrics,
}

impl Operator {
    pub(crate) fn new(config: Config, client: Client, metrics: Metrics) -> anyhow::Result<Self> {
        let public = ["passwords.pub", "tls.pub", "dkim.pub"].map(|name| config.file(name));
        let compare = config.file("compare.key");
        let sealer = domains_kv::Sealer::load(&public, Some(&compare)).context("keys")?;
        Ok(Self {
            recorder: Recorder::new(client.clone(), Reporter::from("postrider-operator")),
            declared: Declared::new(&config.watch_namespaces),
            secrets: Secrets::new(client.clone()),
            parts: BTreeMap::new(),
            denied: HashMap::new(),
            publisher: Publisher::new(config.buckets(), sealer),
            dirty: BTreeSet::new(),
            fresh: BTreeSet::new(),
            released: BTreeSet::new(),
            config,
            client,
            metrics,
        })
    }

    /// Until `stop`. Acts while it leads; looks on while it does not.
    pub(crate) async fn run(
        mut self,
        mut seen: Receiver<Seen>,
        mut leads: watch::Receiver<bool>,
        readiness: Readiness,
        stop: CancellationToken,
    ) {
        readiness.not_ready("resources", "not all of them were seen yet");
        let mut turns = tokio::time::interval(TURN);
        let (mut pause, mut due) = (RETRY, None);
        loop {
            // Cancel-safe: what is not taken comes again.
            tokio::select! {
                next = seen.recv() => {
                    let Some(next) = next else { return };
                    self.take(next);
                    if self.declared.is_whole() {
                        readiness.ready("resources");
                    }
                    due.get_or_insert_with(|| Instant::now() + GATHER);
                }
                changed = leads.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.lead(*leads.borrow_and_update());
                    due = Some(Instant::now());
                }
                _ = turns.tick(), if *leads.borrow() => {
                    self.read_secrets_again().await;
                    if !self.dirty.is_empty() {
                        due.get_or_insert_with(Instant::now);
                    }
                }
                () = at(due) => {
                    due = None;
                    if !*leads.borrow() || !self.declared.is_whole() || self.dirty.is_empty() {
                        continue;
                    }
                    match Box::pin(self.reconcile()).await {
                        Ok(()) => pause = RETRY,
                        Err(error) => {
                            self.metrics.failures.inc();
                            let error = format!("{error:#}");
                            tracing::warn!(event = "reconcile_failed", error, "tried again");
                            due = Some(Instant::now() + pause);
                            pause = (pause * 2).min(RETRY_MAX);
                        }
                    }
                }
                () = stop.cancelled() => return,
            }
        }
    }

    fn take(&mut self, seen: Seen) {
        let applied = match &seen {
            Seen::Mailbox(_, Event::Apply(mailbox)) => {
                mailbox.namespace().map(|namespace| (namespace, mailbox.name_any()))
            }
            Seen::Domain(_, Event::Delete(gone)) => {
                self.released.extend(Domain::parse(&gone.spec.domain));
                None
            }
            Seen::Mailbox(..) | Seen::Domain(..) | Seen::Namespace(_) => None,
        };
        let mut changed = self.declared.take(seen);
        self.fresh.extend(applied.filter(|_| !changed.is_empty()));
        self.dirty.append(&mut changed);
    }

    /// Begins to lead, with everything to be done; or leads no more.
    fn lead(&mut self, leads: bool) {
        self.metrics.leads.set(i64::from(leads));
        tracing::info!(event = "leadership", leads);
        self.parts.clear();
        self.publisher.forget();
        let domains = self.declared.domains.all().filter_map(ResourceExt::namespace);
        let mailboxes = self.declared.mailboxes.all().filter_map(ResourceExt::namespace);
        self.dirty = domains.chain(mailboxes).collect();
    }

    async fn read_secrets_again(&mut self) {
        let count = self.secrets.len().div_ceil(TURNS_OF_ALL).min(TURN_MAX);
        match self.secrets.take_turns(count).await {
            Ok(mut changed) => self.dirty.append(&mut changed),
            Err(error) => tracing::warn!(event = "secrets_unread", %error, "read again later"),
        }
    }

    async fn reconcile(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let dirty = std::mem::take(&mut self.dirty);
        self.dirty.clone_from(&dirty);
        let unread = self.dereference(&dirty).await;
        let judged = self.validate(&dirty, &unread);
        // Until all is done.
        self.dirty.extend(judged.iter().cloned());
        // Only what was never judged is missing in the table; the others stay as they were.
        if let Some(namespace) = unread.iter().find(|it| !self.parts.contains_key(*it)) {
            anyhow::bail!("Secrets of namespace {namespace} cannot be read");
        }
        let table = self.build();
        let applied = self.apply(&table).await;
        let unpublished = applied.as_ref().err().map(|error| format!("{error:#}"));
        self.update_status(&judged, unpublished.as_deref()).await?;
        self.metrics.count(&table, self.parts.values().map(|part| &part.outcomes));
        applied?;
        self.dirty = unread;
        self.metrics.seconds.observe(began.elapsed().as_secs_f64());
        anyhow::ensure!(self.dirty.is_empty(), "Secrets of some namespaces cannot be read");
        Ok(())
    }

    /// Reads the Secrets; gives the namespaces where that failed.
    async fn dereference(&mut self, namespaces: &BTreeSet<String>) -> BTreeSet<String> {
        let mut unread = BTreeSet::new();
        for namespace in namespaces {
            if let Err(error) = self.read_secrets(namespace).await {
                tracing::warn!(event = "secrets_unread", namespace, %error, "read again later");
                unread.insert(namespace.clone());
            } else {
                self.fresh.retain(|(fresh, _)| fresh != namespace);
            }
        }
        self.metrics.secret_reads.set(i64::try_from(self.secrets.reads).unwrap_or(i64::MAX));
        unread
    }

    /// Those that were never read, and those of mailboxes that changed.
    async fn read_secrets(&mut self, namespace: &str) -> kube::Result<()> {
        let fresh = |it: &&Mailbox| self.fresh.contains(&(namespace.to_owned(), it.name_any()));
        let changed = self.declared.mailboxes.of(namespace).filter(fresh);
        self.secrets.read(namespace, changed, Extent::All).await?;
        let all = self.declared.mailboxes.of(namespace);
        self.secrets.read(namespace, all, Extent::Unknown).await
    }

    /// Judges what was read, and whoever gains or loses a domain by it; gives the namespaces that
    /// were judged.
    fn validate(
        &mut self,
        namespaces: &BTreeSet<String>,
        unread: &BTreeSet<String>,
    ) -> BTreeSet<String> {
        let denied = self.denied();
        let of = |(namespace, _): &(String, String)| namespace.clone();
        let moved = |it: &&(String, String)| denied.get(*it) != self.denied.get(*it);
        let touched: BTreeSet<String> =
            denied.keys().chain(self.denied.keys()).filter(moved).map(of).collect();
        self.denied = denied;
        let mut judged = BTreeSet::new();
        for namespace in namespaces.union(&touched).filter(|it| !unread.contains(*it)) {
            let part = self.judge(namespace);
            if part.outcomes.is_empty() {
                self.secrets.forget(namespace);
                self.parts.remove(namespace);
            } else {
                self.parts.insert(namespace.clone(), part);
            }
            judged.insert(namespace.clone());
        }
        judged
    }

    fn denied(&self) -> HashMap<(String, String), Denied> {
        let domains = self.declared.domains.all().filter(|it| !is_going(*it));
        let claims = domains.filter_map(|it| {
            Some(Claim {
                created: created(it),
                namespace: it.namespace()?,
                name: it.name_any(),
                domain: Domain::parse(&it.spec.domain).ok()?,
            })
        });
        let rules = &self.config.claims;
        denied(claims.collect(), |claim| {
            let labels = self.declared.labels_of(&claim.namespace);
            rules.allow(&claim.namespace, &labels, &claim.domain)
        })
    }

    fn judge(&self, namespace: &str) -> Part {
        let mut outcomes = BTreeMap::new();
        let mut candidates = Vec::new();
        for domain in self.declared.domains.of(namespace).filter(|it| !is_going(*it)) {
            let Some(candidate) = candidate_of_domain(domain) else { continue };
            match self.denied.get(&(namespace.to_owned(), domain.name_any())) {
                Some(denied) => {
                    let key = tenant::key(&candidate.now);
                    outcomes.insert(key, Outcome::Denied(denied.clone()));
                }
                None => candidates.push(candidate),
            }
        }
        let mailboxes = self.declared.mailboxes.of(namespace).filter(|it| !is_going(*it));
        candidates.extend(mailboxes.filter_map(|it| self.candidate_of_mailbox(namespace, it)));
        let tenant::Admission { table, verdicts } = tenant::admit(candidates);
        let judged = verdicts.into_iter().map(|(key, verdict)| (key, Outcome::Judged(verdict)));
        outcomes.extend(judged);
        Part { table, outcomes }
    }

    fn candidate_of_mailbox(&self, namespace: &str, mailbox: &Mailbox) -> Option<Candidate> {
        let hash = |at: &_| self.secrets.hash(namespace, at).ok();
        let before = mailbox.status.as_ref().and_then(|status| status.in_force.clone());
        let before = before.and_then(|spec| serde_json::from_value(spec).ok());
        Some(Candidate {
            created: created(mailbox),
            now: declared::mailbox(&mailbox.metadata, &mailbox.spec, hash)?,
            before: before.and_then(|spec| declared::mailbox(&mailbox.metadata, &spec, hash)),
        })
    }

    fn build(&self) -> Arc<Table> {
        let parts = self.parts.values().map(|part| &part.table);
        Arc::new(Table::of_tenants(parts, self.config.postmaster.as_ref()))
    }

    async fn apply(&mut self, table: &Arc<Table>) -> anyhow::Result<()> {
        let going = self.declared.domains.all().filter(|it| is_going(*it));
        self.released.extend(going.filter_map(|it| Domain::parse(&it.spec.domain).ok()));
        let shrinking = match self.config.confirm_shrink {
            true => Shrinking::Confirmed,
            false => Shrinking::Refused,
        };
        let published = match Box::pin(self.publisher.publish(table, shrinking)).await {
            Err(PublishError::Shrinks { old, new }) if old - new <= self.released.len() => {
                Box::pin(self.publisher.publish(table, Shrinking::Confirmed)).await
            }
            Err(PublishError::Shrinks { old, new }) => anyhow::bail!(
                "{new} domains would remain of {old}, and the others were not deleted one by one: \
                 set confirmShrink if that is what you mean"
            ),
            published => published,
        };
        let published = published.context("the domain table is not written")?;
        self.released.clear();
        let generation = published.marker.generation;
        self.metrics.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        if published.written + published.dropped > 0 {
            let (written, dropped) = (published.written, published.dropped);
            tracing::info!(event = "table_published", generation, written, dropped);
        }
        Ok(())
    }

    /// What is known of a resource; nothing of one that is being deleted.
    fn finding(&self, namespace: &str, key: &str, unpublished: Option<&str>) -> Option<Finding> {
        let outcome = self.parts.get(namespace)?.outcomes.get(key)?.clone();
        Some(Finding { outcome, missing: Vec::new(), unpublished: unpublished.map(str::to_owned) })
    }
}

fn candidate_of_domain(domain: &MailDomain) -> Option<Candidate> {
    let before = domain.status.as_ref().and_then(|status| status.in_force.clone());
    let before = before.and_then(|spec| serde_json::from_value(spec).ok());
    Some(Candidate {
        created: created(domain),
        now: declared::mail_domain(&domain.metadata, &domain.spec)?,
        before: before.and_then(|spec| declared::mail_domain(&domain.metadata, &spec)),
    })
}

/// Whether an outcome is one by which a resource is in force.
pub(crate) fn is_in_force(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Judged(Verdict::Accepted { .. }))
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
