//! Telling the API server what became of resources.

use std::collections::BTreeSet;
use std::fmt::Debug;

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::object::{HasSpec, HasStatus};
use kube::runtime::events::Recorder;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Operator, is_going, key_of};
use crate::report::{self, Finding};
use crate::resources::{MailDomain, Mailbox, Status, declared};

/// Of the fields that the operator sets.
const MANAGER: &str = "postrider-operator";
/// With it a MailDomain goes only when the operator has seen it go.
const FINALIZER: &str = "postrider.dev/cleanup";
/// Patches at once.
const PATCHES: usize = 16;

impl Operator {
    /// Of the resources of these namespaces. What fails is tried again with its namespace.
    pub(super) async fn update_status(
        &mut self,
        namespaces: &BTreeSet<String>,
        unpublished: Option<&'static str>,
    ) -> anyhow::Result<()> {
        let now = Time(Timestamp::now());
        let (mut domains, mut mailboxes, mut guards) = (Vec::new(), Vec::new(), Vec::new());
        for namespace in namespaces {
            for domain in self.store.domains.of(namespace) {
                guards.extend(guard(domain).filter(|_| !is_going(domain)));
                let finding = self.finding(namespace, &key_of(domain), unpublished);
                domains.extend(finding.and_then(|finding| News::of(domain, &finding, &now)));
            }
            for mailbox in self.store.mailboxes.of(namespace) {
                let missing = self.secrets.missing(namespace, mailbox);
                let finding = self.finding(namespace, &key_of(mailbox), unpublished);
                let finding = finding.map(|finding| Finding { missing, ..finding });
                mailboxes.extend(finding.and_then(|finding| News::of(mailbox, &finding, &now)));
            }
        }
        if unpublished.is_none() {
            // None of them is in the table, whatever their namespaces.
            let going = self.store.domains.all().filter(|it| is_going(*it));
            guards.extend(going.filter_map(guard));
        }
        // First, for each is of the version that was seen.
        let guarded = put_guards(&self.client, guards).await;
        let (client, recorder) = (&self.client, &self.recorder);
        let told = tell(client, recorder, domains).await;
        self.metrics.patches.inc_by(told.patched);
        told.newer.into_iter().for_each(|newer| self.store.domains.update(newer));
        let (client, recorder) = (&self.client, &self.recorder);
        let also = tell(client, recorder, mailboxes).await;
        self.metrics.patches.inc_by(also.patched);
        also.newer.into_iter().for_each(|newer| self.store.mailboxes.update(newer));
        told.failed.map_or(Ok(()), Err)?;
        also.failed.map_or(Ok(()), Err)?;
        guarded
    }
}

/// Whether a table that is not published changes nothing for it.
fn is_in_force_already(status: &Status, spec: Option<&Value>) -> bool {
    let is_ready = status.condition("Ready").is_some_and(|ready| ready.status == "True");
    is_ready && status.in_force.as_ref() == spec
}

/// A status that says something new.
struct News<K> {
    resource: K,
    before: Status,
    status: Status,
}

impl<K: Reported> News<K> {
    fn of(resource: &K, finding: &Finding, now: &Time) -> Option<Self> {
        let before = resource.status().cloned().unwrap_or_default();
        let (generation, spec) = (resource.meta().generation, declared::kept(resource.spec()));
        if finding.unpublished.is_some() && is_in_force_already(&before, spec.as_ref()) {
            return None;
        }
        let status = finding.status(&before, generation, spec, now);
        (status != before).then(|| Self { resource: resource.clone(), before, status })
    }
}

struct Told<K> {
    newer: Vec<K>,
    patched: u64,
    failed: Option<anyhow::Error>,
}

/// A resource that has our status.
trait Reported:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + HasSpec<Spec: Serialize>
    + HasStatus<Status = Status>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
{
}

impl Reported for MailDomain {}
impl Reported for Mailbox {}

async fn tell<K: Reported>(client: &Client, recorder: &Recorder, news: Vec<News<K>>) -> Told<K> {
    let patches = news.into_iter().map(|news| patch(client, recorder, news));
    let mut patches = std::pin::pin!(futures::stream::iter(patches).buffer_unordered(PATCHES));
    let mut told = Told { newer: Vec::new(), patched: 0, failed: None };
    while let Some(patched) = patches.next().await {
        told.patched += 1;
        match patched {
            Ok(newer) => told.newer.extend(newer),
            Err(error) => told.failed = Some(error),
        }
    }
    told
}

/// Gives the resource as it is then; none when it is gone.
async fn patch<K: Reported>(
    client: &Client,
    recorder: &Recorder,
    news: News<K>,
) -> anyhow::Result<Option<K>> {
    let News { resource, before, status } = news;
    let namespace = resource.namespace().unwrap_or_default();
    let name = resource.name_any();
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        // Not of another of the same name, which was made since.
        "metadata": {"name": name, "uid": resource.uid()},
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    let newer = match api.patch_status(&name, &params, &Patch::Apply(patch)).await {
        Ok(newer) => newer,
        Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => return Ok(None),
        Err(error) => {
            let of = format!("the status of {} {namespace}/{name}", K::kind(&()));
            return Err(error).context(of);
        }
    };
    if let Some(event) = report::event(&before, &status)
        && let Err(error) = recorder.publish(&event, &resource.object_ref(&())).await
    {
        tracing::warn!(event = "event_lost", %error, namespace, name);
    }
    Ok(Some(newer))
}

/// A finalizer to be put or taken away.
struct Guard {
    namespace: String,
    name: String,
    finalizers: Vec<String>,
    /// What is changed is this version and no other.
    version: Option<String>,
}

/// Every MailDomain has one; one that is going is let go.
fn guard(domain: &MailDomain) -> Option<Guard> {
    let mut finalizers = domain.finalizers().to_vec();
    let has = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    match (is_going(domain), has) {
        (false, false) => finalizers.push(FINALIZER.to_owned()),
        (true, true) => finalizers.retain(|finalizer| finalizer != FINALIZER),
        (false, true) | (true, false) => return None,
    }
    Some(Guard {
        namespace: domain.namespace().unwrap_or_default(),
        name: domain.name_any(),
        finalizers,
        version: domain.resource_version(),
    })
}

/// Each by itself; gives the first error.
async fn put_guards(client: &Client, guards: Vec<Guard>) -> anyhow::Result<()> {
    let puts = guards.into_iter().map(|guard| put_guard(client, guard));
    let mut puts = std::pin::pin!(futures::stream::iter(puts).buffer_unordered(PATCHES));
    let mut first = Ok(());
    while let Some(put) = puts.next().await {
        first = first.and(put);
    }
    first
}

async fn put_guard(client: &Client, guard: Guard) -> anyhow::Result<()> {
    let Guard { namespace, name, finalizers, version } = guard;
    let api: Api<MailDomain> = Api::namespaced(client.clone(), &namespace);
    let metadata: Value = json!({"finalizers": finalizers, "resourceVersion": version});
    let patch = Patch::Merge(json!({"metadata": metadata}));
    match api.patch(&name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(error)) if error.code == 404 => Ok(()),
        Err(error) => Err(error).context(format!("finalizer of MailDomain {namespace}/{name}")),
    }
}
