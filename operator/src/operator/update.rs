//! Telling the API server what became of resources.

use std::collections::BTreeSet;
use std::fmt::Debug;

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::Recorder;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Operator, is_going, key_of};
use crate::report;
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
        unpublished: Option<&str>,
    ) -> anyhow::Result<()> {
        let now = Time(Timestamp::now());
        let (mut domains, mut mailboxes, mut guards) = (Vec::new(), Vec::new(), Vec::new());
        for namespace in namespaces {
            for domain in self.declared.domains.of(namespace) {
                guards.extend(guard(domain).filter(|_| !is_going(domain)));
                let key = key_of(domain);
                let Some(finding) = self.finding(namespace, &key, unpublished) else { continue };
                let before = domain.status.clone().unwrap_or_default();
                let (generation, spec) = (domain.metadata.generation, declared::kept(&domain.spec));
                if unpublished.is_some() && is_in_force_already(&before, spec.as_ref()) {
                    continue;
                }
                let status = finding.status(&before, generation, spec, &now);
                domains.extend((status != before).then(|| News::of(domain, before, status)));
            }
            for mailbox in self.declared.mailboxes.of(namespace) {
                let key = key_of(mailbox);
                let Some(mut finding) = self.finding(namespace, &key, unpublished) else {
                    continue;
                };
                finding.missing = self.secrets.missing(namespace, mailbox);
                let before = mailbox.status.clone().unwrap_or_default();
                let (generation, spec) =
                    (mailbox.metadata.generation, declared::kept(&mailbox.spec));
                if unpublished.is_some() && is_in_force_already(&before, spec.as_ref()) {
                    continue;
                }
                let status = finding.status(&before, generation, spec, &now);
                mailboxes.extend((status != before).then(|| News::of(mailbox, before, status)));
            }
        }
        if unpublished.is_none() {
            // None of them is in the table, whatever their namespaces.
            let going = self.declared.domains.all().filter(|it| is_going(*it));
            guards.extend(going.filter_map(guard));
        }
        // First, for each is of the version that was seen.
        let guarded = put_guards(&self.client, guards).await;
        let (client, recorder) = (&self.client, &self.recorder);
        let told = tell(client, recorder, domains).await;
        self.metrics.patches.inc_by(told.patched);
        told.newer.into_iter().for_each(|newer| self.declared.domains.update(newer));
        let (client, recorder) = (&self.client, &self.recorder);
        let also = tell(client, recorder, mailboxes).await;
        self.metrics.patches.inc_by(also.patched);
        also.newer.into_iter().for_each(|newer| self.declared.mailboxes.update(newer));
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

impl<K: Clone> News<K> {
    fn of(resource: &K, before: Status, status: Status) -> Self {
        Self { resource: resource.clone(), before, status }
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
