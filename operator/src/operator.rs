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
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher::Event;
use kube::{Client, Resource, ResourceExt};
use mail_types::Domain;
use runtime::readiness::Readiness;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::certificate;
use crate::claims::{Claim, Denied, denied};
use crate::config::Config;
use crate::leader::Lease;
use crate::metrics::Metrics;
use crate::report::{CertificateFault, CertificateState, Finding, Outcome};
use crate::resources::{MailDomain, MailDomainSpec, Mailbox, MailboxSpec, Status, declared};
use crate::secrets::{self, Extent, Secrets};
use crate::store::{Seen, Store};
use crate::tenant::{self, Candidate, Verdict};

mod update;

/// What a tenant is told when the table is not published.
const UNPUBLISHED: &str = "the domain table cannot be published; what was in force stays so";
/// Every so many turns it is looked whether the table in force is ours.
const TURNS_OF_BUCKET: u32 = 10;
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

fn key_of<K: Resource<DynamicType = ()>>(resource: &K) -> tenant::Key {
    format!("{}/{}", K::kind(&()), resource.name_any())
}

fn created(resource: &impl ResourceExt) -> String {
    resource.creation_timestamp().map(|at| at.0.to_string()).unwrap_or_default()
}

/// What is known of a namespace.
struct Part {
    table: Table,
    outcomes: BTreeMap<tenant::Key, Outcome>,
    /// What is said of the certificates of domains that name one.
    certificates: BTreeMap<tenant::Key, CertificateState>,
}

pub(crate) struct Operator {
    config: Config,
    client: Client,
    recorder: Recorder,
    store: Store,
    secrets: Secrets,
    parts: BTreeMap<String, Part>,
    denied: HashMap<(String, String), Denied>,
    publisher: Publisher,
    /// Whose table is not what is declared, or whose statuses do not say so.
    dirty: BTreeSet<String>,
    /// Resources whose Secrets are read again, with their namespaces.
    fresh: BTreeSet<(String, tenant::Key)>,
    /// Domains that were in force and whose MailDomains were seen to be deleted.
    released: BTreeSet<Domain>,
    /// Whether a table was published since it leads.
    is_published: bool,
    turn: u32,
    lease: Lease,
    metrics: Metrics,
}

impl Operator {
    pub(crate) fn new(
        config: Config,
        client: Client,
        lease: Lease,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let public = ["passwords.pub", "tls.pub", "dkim.pub"].map(|name| config.file(name));
        let compare = config.file("compare.key");
        let sealer = domains_kv::Sealer::load(&public, Some(&compare)).context("keys")?;
        Ok(Self {
            recorder: Recorder::new(client.clone(), Reporter::from("postrider-operator")),
            store: Store::new(&config.watch_namespaces),
            secrets: Secrets::new(client.clone()),
            parts: BTreeMap::new(),
            denied: HashMap::new(),
            publisher: Publisher::new(config.buckets(), sealer),
            dirty: BTreeSet::new(),
            fresh: BTreeSet::new(),
            released: BTreeSet::new(),
            is_published: false,
            turn: 0,
            lease,
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
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut pause, mut due) = (RETRY, None);
        loop {
            let soon = || Instant::now() + GATHER;
            // Cancel-safe: what is not taken comes again.
            tokio::select! {
                next = seen.recv() => {
                    let Some(next) = next else { return };
                    self.take(next);
                    if self.store.is_whole() {
                        readiness.ready("resources");
                    }
                    due = Some(due.map_or_else(soon, |due: Instant| due.min(soon())));
                }
                changed = leads.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.lead(*leads.borrow_and_update());
                    due = Some(Instant::now());
                }
                _ = turns.tick(), if *leads.borrow() => {
                    self.look_again().await;
                    if self.is_due() {
                        due.get_or_insert_with(Instant::now);
                    }
                }
                () = at(due) => {
                    due = None;
                    if !*leads.borrow() || !self.store.is_whole() || !self.is_due() {
                        continue;
                    }
                    // Cancel-safe: what is dirty stays so until it is done, and a publisher that
                    // was interrupted begins anew.
                    let done = tokio::select! {
                        done = Box::pin(self.reconcile()) => done,
                        _ = leads.changed() => {
                            leads.mark_changed();
                            continue;
                        }
                        () = stop.cancelled() => return,
                    };
                    match done {
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

    /// Whether there is something to do: a table without domains is one that roles wait for, too.
    fn is_due(&self) -> bool {
        !self.dirty.is_empty() || !self.is_published
    }

    fn take(&mut self, seen: Seen) {
        let applied = match &seen {
            Seen::Mailbox(_, Event::Apply(it)) => {
                it.namespace().map(|namespace| (namespace, key_of(it)))
            }
            Seen::Domain(_, Event::Apply(it)) => {
                it.namespace().map(|namespace| (namespace, key_of(it)))
            }
            Seen::Domain(_, Event::Delete(gone)) => {
                let hosted = Domain::parse(&gone.spec.domain).ok();
                self.released.extend(hosted.filter(|domain| self.is_hosted(gone, domain)));
                self.forget_fresh(gone);
                None
            }
            Seen::Mailbox(_, Event::Delete(gone)) => {
                self.forget_fresh(gone);
                None
            }
            Seen::Mailbox(..) | Seen::Domain(..) | Seen::Namespace(_) => None,
        };
        let mut changed = self.store.take(seen);
        self.fresh.extend(applied.filter(|_| !changed.is_empty()));
        self.dirty.append(&mut changed);
    }

    /// One that is gone needs no Secrets.
    fn forget_fresh<K: Resource<DynamicType = ()>>(&mut self, gone: &K) {
        let namespace = gone.namespace().unwrap_or_default();
        self.fresh.remove(&(namespace, key_of(gone)));
    }

    /// Whether the domain was in force by this resource.
    fn is_hosted(&self, resource: &MailDomain, domain: &Domain) -> bool {
        let part = resource.namespace().and_then(|namespace| self.parts.get(&namespace));
        part.is_some_and(|part| part.table.is_hosted(domain))
    }

    /// Begins to lead, with everything to be done; or leads no more.
    fn lead(&mut self, leads: bool) {
        self.metrics.leads.set(i64::from(leads));
        tracing::info!(event = "leadership", leads);
        self.parts.clear();
        self.released.clear();
        self.publisher.forget();
        self.is_published = false;
        // What another leader read since then is newer than what is known here.
        self.secrets = Secrets::new(self.client.clone());
        let domains = self.store.domains.all().filter_map(ResourceExt::namespace);
        let mailboxes = self.store.mailboxes.all().filter_map(ResourceExt::namespace);
        self.dirty = domains.chain(mailboxes).collect();
    }

    /// Looks for what no watch tells of: Secrets, and a bucket that another has changed.
    async fn look_again(&mut self) {
        let count = self.secrets.len().div_ceil(TURNS_OF_ALL).min(TURN_MAX);
        let (mut changed, failed) = self.secrets.take_turns(count).await;
        self.dirty.append(&mut changed);
        if let Some(error) = failed {
            tracing::warn!(event = "secrets_unread", %error, "read again later");
        }
        self.turn += 1;
        if self.is_published && self.turn.is_multiple_of(TURNS_OF_BUCKET) {
            match self.publisher.is_in_force().await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(event = "table_replaced", "it is published again");
                    self.publisher.forget();
                    self.dirty.extend(self.parts.keys().cloned());
                }
                Err(error) => tracing::debug!(%error, "the bucket's marker is not known"),
            }
        }
    }

    async fn reconcile(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let dirty = self.dirty.clone();
        let unread = self.dereference(&dirty).await;
        let judged = self.validate(&dirty, &unread);
        // Until all is done.
        self.dirty.extend(judged.iter().cloned());
        // Only what was never judged is missing in the table; the others stay as they were.
        if let Some(namespace) = unread.iter().find(|it| !self.parts.contains_key(*it))
            && !self.is_published
        {
            anyhow::bail!("Secrets of namespace {namespace} cannot be read");
        }
        let table = self.build();
        let applied = self.apply(&table).await;
        // Why is in the log: it tells of others.
        let unpublished = applied.is_err().then_some(UNPUBLISHED);
        let told = self.update_status(&judged, unpublished).await;
        self.metrics.count(&table, self.parts.values().map(|part| &part.outcomes));
        applied?;
        told?;
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

    /// Those that were never read, and those of resources that changed.
    async fn read_secrets(&mut self, namespace: &str) -> kube::Result<()> {
        let (mut changed, mut all) = (Vec::new(), Vec::new());
        let is_fresh = |key: tenant::Key| self.fresh.contains(&(namespace.to_owned(), key));
        for mailbox in self.store.mailboxes.of(namespace) {
            let fields = if is_fresh(key_of(mailbox)) { &mut changed } else { &mut all };
            fields.extend(secrets::of_mailbox(mailbox));
        }
        for domain in self.store.domains.of(namespace) {
            let fields = if is_fresh(key_of(domain)) { &mut changed } else { &mut all };
            fields.extend(secrets::of_domain(domain));
        }
        self.secrets.read(namespace, changed.into_iter(), Extent::All).await?;
        self.secrets.read(namespace, all.into_iter(), Extent::Unknown).await
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
        // Of what cannot be judged anew, what is another's now or nobody's goes all the same.
        for namespace in unread {
            let own = self.own_domains(namespace);
            if let Some(part) = self.parts.get_mut(namespace) {
                part.table.retain(|domain| own.contains(domain));
            }
        }
        let mut judged = BTreeSet::new();
        for namespace in namespaces.union(&touched).filter(|it| !unread.contains(*it)) {
            let mut part = self.judge(namespace);
            self.certify(namespace, &mut part);
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
        let domains = self.store.domains.all().filter(|it| !is_going(*it));
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
            let labels = self.store.labels_of(&claim.namespace);
            rules.allow(&claim.namespace, &labels, &claim.domain)
        })
    }

    /// The domains that a namespace may have now.
    fn own_domains(&self, namespace: &str) -> BTreeSet<Domain> {
        let domains = self.store.domains.of(namespace).filter(|it| !is_going(*it));
        let may =
            |it: &&MailDomain| !self.denied.contains_key(&(namespace.to_owned(), it.name_any()));
        domains.filter(may).filter_map(|it| Domain::parse(&it.spec.domain).ok()).collect()
    }

    fn judge(&self, namespace: &str) -> Part {
        let mut outcomes = BTreeMap::new();
        let mut candidates = Vec::new();
        for domain in self.store.domains.of(namespace).filter(|it| !is_going(*it)) {
            let Some(candidate) = candidate_of_domain(domain) else { continue };
            match self.denied.get(&(namespace.to_owned(), domain.name_any())) {
                Some(denied) => {
                    outcomes.insert(candidate.key, Outcome::Denied(denied.clone()));
                }
                None => candidates.push(candidate),
            }
        }
        let mailboxes = self.store.mailboxes.of(namespace).filter(|it| !is_going(*it));
        candidates.extend(mailboxes.filter_map(|it| self.candidate_of_mailbox(namespace, it)));
        let tenant::Admission { table, verdicts } = tenant::admit(candidates);
        let judged = verdicts.into_iter().map(|(key, verdict)| (key, Outcome::Judged(verdict)));
        outcomes.extend(judged);
        Part { table, outcomes, certificates: BTreeMap::new() }
    }

    /// Gives domains the certificates that they name. A mistake in a Secret takes none away: what
    /// was shown before is.
    fn certify(&self, namespace: &str, part: &mut Part) {
        let before = self.parts.get(namespace).map(|part| &part.table);
        for resource in self.store.domains.of(namespace) {
            let (Some(tls), key) = (&resource.spec.tls, key_of(resource)) else { continue };
            let Ok(domain) = Domain::parse(&resource.spec.domain) else { continue };
            if !part.outcomes.get(&key).is_some_and(is_in_force) {
                continue;
            }
            let known = before.and_then(|table| table.certificate(&domain)).cloned();
            let found = self.secrets.certificate(namespace, &tls.secret_ref.name);
            let (shown, state) = match found {
                Err(missing) => (known, Err(CertificateFault::Missing(missing))),
                Ok(found) => match certificate::check(&found, &domain, Timestamp::now()) {
                    Err(fault) if !fault.is_shown() => (known, Err(CertificateFault::Fault(fault))),
                    checked => {
                        let same = known.filter(|known| **known == found);
                        let shown = same.unwrap_or_else(|| Arc::new(found));
                        (Some(shown), checked.map_err(CertificateFault::Fault))
                    }
                },
            };
            if let Some(shown) = shown {
                part.table.set_certificate(&domain, shown);
            }
            part.certificates.insert(key, state);
        }
    }

    fn candidate_of_mailbox(&self, namespace: &str, mailbox: &Mailbox) -> Option<Candidate> {
        let hash = |at: &_| self.secrets.hash(namespace, at).ok();
        let before = in_force::<MailboxSpec>(mailbox.status.as_ref());
        let before = before.filter(|spec| spec.address == mailbox.spec.address);
        Some(Candidate {
            key: key_of(mailbox),
            created: created(mailbox),
            now: declared::mailbox(&mailbox.metadata, &mailbox.spec, hash)?,
            before: before.and_then(|spec| declared::mailbox(&mailbox.metadata, &spec, hash)),
        })
    }

    fn build(&self) -> Arc<Table> {
        let parts = self.parts.values().map(|part| &part.table);
        let own = self.parts.get(&self.config.namespace).and_then(|part| part.table.postmaster());
        let postmaster = self.config.postmaster.as_ref().or(own);
        Arc::new(Table::of_tenants(parts, postmaster))
    }

    async fn apply(&mut self, table: &Arc<Table>) -> anyhow::Result<()> {
        // Those that were accepted: after a start it is not known what was in force.
        let was_accepted = |it: &&MailDomain| {
            is_going(*it) && in_force::<MailDomainSpec>(it.status.as_ref()).is_some()
        };
        let going = self.store.domains.all().filter(was_accepted);
        self.released.extend(going.filter_map(|it| Domain::parse(&it.spec.domain).ok()));
        self.lease.confirm().await?;
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
        self.is_published = true;
        let generation = published.marker.generation;
        self.metrics.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        if published.written + published.dropped > 0 {
            let (written, dropped) = (published.written, published.dropped);
            tracing::info!(event = "table_published", generation, written, dropped);
        }
        Ok(())
    }

    /// What is known of a resource; nothing of one that is being deleted.
    fn finding(
        &self,
        namespace: &str,
        key: &str,
        unpublished: Option<&'static str>,
    ) -> Option<Finding> {
        let part = self.parts.get(namespace)?;
        Some(Finding {
            outcome: part.outcomes.get(key)?.clone(),
            certificate: part.certificates.get(key).cloned(),
            missing: Vec::new(),
            unpublished,
        })
    }
}

/// What was accepted last.
pub(crate) fn in_force<T: DeserializeOwned>(status: Option<&Status>) -> Option<T> {
    serde_json::from_value(status?.in_force.clone()?).ok()
}

fn candidate_of_domain(domain: &MailDomain) -> Option<Candidate> {
    let before = in_force::<MailDomainSpec>(domain.status.as_ref());
    // Whoever may write the status has no other domain by it.
    let before = before.filter(|spec| spec.domain == domain.spec.domain);
    Some(Candidate {
        key: key_of(domain),
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
