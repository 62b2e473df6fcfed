//! Watches of the API server, told to the one who acts.

use std::fmt::Debug;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event, Result};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::store::{Scope, Seen, scopes};

/// What is told and not taken yet: beyond it the API server waits.
const AHEAD: usize = 1024;

/// Begins to watch the resources of these namespaces, or of all, until `stop`.
pub(crate) fn begin(
    client: &Client,
    namespaces: &[String],
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Receiver<Seen> {
    let (sender, receiver) = channel(AHEAD);
    let watches = Watches { sender, tasks, stop };
    for scope in scopes(namespaces) {
        let at = scope.clone();
        watches.begin(of(client, &scope), move |event| Seen::Domain(at.clone(), event));
        watches.begin(of(client, &scope), move |event| Seen::Mailbox(scope.clone(), event));
    }
    if namespaces.is_empty() {
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
        watches.begin(api, Seen::Namespace);
    }
    receiver
}

/// Where what is seen is told.
struct Watches<'a> {
    sender: Sender<Seen>,
    tasks: &'a TaskTracker,
    stop: &'a CancellationToken,
}

impl Watches<'_> {
    fn begin<K>(&self, api: Api<K>, seen: impl Fn(Event<K>) -> Seen + Send + 'static)
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let stream = watcher(api, Config::default());
        // Without what nobody here reads, and with pauses between tries that fail.
        let stream = stream.modify(|it| it.managed_fields_mut().clear()).default_backoff();
        let told = told(stream.boxed(), self.sender.clone(), seen);
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(told));
    }
}

fn of<K>(client: &Client, scope: &Scope) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Until nobody listens any more.
async fn told<K>(
    mut stream: BoxStream<'static, Result<Event<K>>>,
    sender: Sender<Seen>,
    seen: impl Fn(Event<K>) -> Seen,
) {
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                if sender.send(seen(event)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(event = "watch_interrupted", %error, "it begins again"),
        }
    }
}
