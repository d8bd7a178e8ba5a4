//! Watches: the cluster's objects as changes.
//!
//! Flows in: lists and watch events of the API server. Flows out: [`crate::fence::Change`]s into the
//! engine. Nothing is cached here but names: what decisions need is in the engine. Invariant: after
//! a relist, what vanished meanwhile is gone from the engine too.

mod gateway;
mod optional;
mod pods;

use std::collections::{BTreeSet, HashSet};
use std::pin::pin;
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt as _};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource};
use kube::core::{PartialObjectMeta, Resource};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};

use crate::events::Events;
use crate::fence::Change;
use crate::fence::name::{Cidr, Name};
use crate::fence::observe::{Custom, Lean, Observe, Watched, resource};
use crate::metrics::Metrics;
use crate::readiness::{Pending, Readiness};
use crate::state::{ObjectId, State};
use crate::supervisor::Supervisor;

/// What every watch needs.
#[derive(Clone)]
pub struct Context {
    /// To talk to the API server.
    pub client: kube::Client,
    /// Where changes go.
    pub state: Arc<State>,
    /// Where authors are told about what cannot be read.
    pub events: Events,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Namespace of the controller.
    pub system_namespace: Arc<str>,
    /// Istio's root namespace.
    pub istio_namespace: Arc<str>,
    /// The ConfigMaps with MeshConfig there.
    pub mesh_config_maps: Vec<Name>,
    /// Ranges of Service addresses where the operator gave them.
    pub service_cidrs: BTreeSet<Cidr>,
}

#[cfg(test)]
impl Context {
    /// For an API server with little in it.
    fn of_tests(client: kube::Client) -> Self {
        use crate::fence::{Engine, Settings};

        Self {
            events: Events::new(client.clone(), None),
            client,
            state: Arc::new(State::new(Engine::new(Settings::default()))),
            metrics: Arc::new(Metrics::new().unwrap()),
            system_namespace: "servicefence-system".into(),
            istio_namespace: "istio-system".into(),
            mesh_config_maps: Vec::new(),
            service_cidrs: [].into(),
        }
    }
}

/// A client of an API server that serves only this.
#[cfg(test)]
async fn client_of(all: axum::Router) -> kube::Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, all).await });
    kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap()
}

/// Starts all watches. Readiness waits for each to have seen what exists.
pub fn start(context: &Context, tasks: &mut Supervisor, readiness: &Readiness) {
    let client = || context.client.clone();
    let all = pages;
    let namespaces: Api<Lean<PartialObjectMeta<core::Namespace>>> = Api::all(client());
    spawn(
        Watched::Namespaces,
        watcher::watcher(namespaces, all()),
        context,
        tasks,
        readiness,
    );
    let services: Api<Lean<core::Service>> = Api::all(client());
    spawn(
        Watched::Services,
        watcher::watcher(services, all()),
        context,
        tasks,
        readiness,
    );
    for name in &context.mesh_config_maps {
        let maps: Api<core::ConfigMap> = Api::namespaced(client(), &context.istio_namespace);
        let config = all().fields(&format!("metadata.name={name}"));
        let events = watcher::watcher(maps, config);
        spawn(Watched::MeshConfig, events, context, tasks, readiness);
    }
    let slices: Api<Lean<EndpointSlice>> = Api::all(client());
    spawn(
        Watched::EndpointSlices,
        watcher::watcher(slices, all()),
        context,
        tasks,
        readiness,
    );
    for watched in [
        Watched::ServiceEntries,
        Watched::DestinationRules,
        Watched::ServiceFences,
        Watched::Sidecars,
        Watched::VirtualServices,
        Watched::EnvoyFilters,
        Watched::AuthorizationPolicies,
        Watched::RequestAuthentications,
        Watched::Telemetries,
        Watched::PeerAuthentications,
        Watched::NetworkPolicies,
        Watched::WorkloadEntries,
        Watched::WorkloadGroups,
    ] {
        let api: Api<Custom> = Api::all_with(client(), &resource(watched));
        spawn(watched, watcher::watcher(api, all()), context, tasks, readiness);
    }
    gateway::start(context, tasks, readiness);
    optional::start(context, tasks, readiness);
    pods::start(context, tasks);
}

/// A list is decoded a page at a time, so a page is the memory that a list takes.
fn pages() -> watcher::Config {
    watcher::Config::default().page_size(250)
}

fn spawn<K>(
    watched: Watched,
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    context: &Context,
    tasks: &mut Supervisor,
    readiness: &Readiness,
) where
    K: Observe + Resource + Send + Sync + 'static,
{
    let synced = readiness.wait_for(watched.as_str());
    let mut watch = Watch::new(watched, context.clone(), Some(synced));
    tasks.critical(watched.as_str(), async move { watch.run(events).await });
}

/// One watch.
struct Watch {
    watched: Watched,
    context: Context,
    known: HashSet<Key>,
    listed: HashSet<Key>,
    synced: Option<Pending>,
    /// The namespace of the pods that it lists.
    pods_of: Option<Name>,
}

impl Watch {
    fn new(watched: Watched, context: Context, synced: Option<Pending>) -> Self {
        Self {
            pods_of: None,
            watched,
            context,
            known: HashSet::new(),
            listed: HashSet::new(),
            synced,
        }
    }

    /// Runs until the stream ends, which a watcher's does only when it is dropped.
    async fn run<K>(&mut self, events: impl Stream<Item = watcher::Result<Event<K>>>)
    where
        K: Observe + Resource,
    {
        let mut events = pin!(events.default_backoff());
        loop {
            match events.try_next().await {
                Ok(Some(event)) => self.take(event).await,
                Ok(None) => return,
                Err(error) => {
                    self.context
                        .metrics
                        .watch_errors
                        .with_label_values(&[self.watched.as_str()])
                        .inc();
                    tracing::warn!(watch = self.watched.as_str(), %error, "{}", said(self.watched, &error));
                }
            }
        }
    }

    async fn take<K>(&mut self, event: Event<K>)
    where
        K: Observe + Resource,
    {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                self.listed.insert(key(&object));
                self.observe(&object).await;
            }
            Event::InitDone => {
                let vanished: Vec<_> = self.known.difference(&self.listed).cloned().collect();
                self.known = std::mem::take(&mut self.listed);
                for key in vanished {
                    self.vanished(&key);
                }
                self.synced.take();
                if let Some(namespace) = &self.pods_of {
                    self.context
                        .state
                        .apply(Change::PodsKnown(namespace.clone(), true));
                }
            }
            Event::Apply(object) => {
                self.known.insert(key(&object));
                self.observe(&object).await;
            }
            Event::Delete(object) => {
                let key = key(&object);
                self.known.remove(&key);
                self.vanished(&key);
            }
        }
    }

    async fn observe<K: Observe + Resource>(&mut self, object: &K) {
        let meta = object.meta();
        let id = ObjectId::new(self.watched, meta.namespace.as_deref(), meta.name.as_deref());
        if !self
            .context
            .state
            .is_current(&id, meta.resource_version.as_deref())
        {
            return;
        }
        match object.observe(&self.context.system_namespace) {
            Ok(change) => self.context.state.apply(change),
            Err(error) => {
                self.context
                    .metrics
                    .unreadable_objects
                    .with_label_values(&[self.watched.as_str()])
                    .inc();
                tracing::warn!(watch = self.watched.as_str(), namespace = id.namespace, name = id.name, %error, "unreadable object");
                self.context.events.unreadable(self.watched, meta, &error).await;
            }
        }
    }

    /// What is watched is no longer there, all of it.
    fn forget_all(&mut self) {
        let known = std::mem::take(&mut self.known).into_iter();
        for key in known.chain(std::mem::take(&mut self.listed)) {
            self.vanished(&key);
        }
    }

    fn vanished(&self, (namespace, name): &Key) {
        let namespace = namespace.as_deref().unwrap_or_default();
        self.context
            .state
            .forget(&ObjectId::new(self.watched, Some(namespace), Some(name)));
        self.context
            .state
            .apply(self.watched.gone(namespace, name, &self.context.system_namespace));
    }
}

/// What is wrong with a watch, and what to do.
fn said(watched: Watched, error: &watcher::Error) -> String {
    let ApiResource {
        api_version, kind, ..
    } = resource(watched);
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
            if status.code == 404 && api_version.contains("istio.io") =>
        {
            format!("the API server has no {kind} of {api_version}: install Istio 1.26 or newer")
        }
        _ => "a watch failed and is tried again".to_owned(),
    }
}

type Key = (Option<String>, String);

fn key<K: Resource>(object: &K) -> Key {
    (
        object.meta().namespace.clone(),
        object.meta().name.clone().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_kind_that_istio_lacks_is_said_by_name() {
        let error = |code| {
            let status = Status {
                code,
                ..Status::default()
            };
            watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
        };
        let text = said(Watched::Sidecars, &error(404));
        assert_eq!(
            text,
            "the API server has no Sidecar of networking.istio.io/v1: install Istio 1.26 or newer"
        );
        let other = "a watch failed and is tried again";
        assert_eq!(said(Watched::Sidecars, &error(500)), other);
        assert_eq!(said(Watched::Services, &error(404)), other);
    }
}
