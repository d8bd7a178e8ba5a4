//! The stand-in for the kubelet and the scheduler: runs the pods that Deployments and Jobs create.
//!
//! In: Pod objects that a controller made, and which program stands for which image. Out: each gets a network
//! namespace, its containers' command lines as processes, a proxy if it asks for injection, and a status that
//! comes from real probes. A deletion ends it with SIGTERM and grace. So `helm install --wait` means what it
//! says.

mod container;
mod environment;
pub mod images;
mod probe;
mod proxy;
mod status;
mod volumes;
mod worker;

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use nix::sys::signal::{Signal, kill};
use tokio::sync::watch;

use crate::kubelet::images::{Images, Kubelet};
use crate::mesh::Mesh;
use crate::mesh::core::Core;
use crate::netns;

/// Tells a pod's worker that the pod goes.
type Stop = watch::Receiver<Option<Gone>>;

/// Why a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    /// It was deleted with this many seconds of grace.
    Deleted(u64),
    /// Its object is no longer there.
    Vanished,
}

impl Mesh {
    /// Runs the pods that controllers create in a namespace (or in all), until the mesh ends.
    pub fn kubelet(&self, namespace: Option<&str>, images: Images) {
        self.remember(Kubelet {
            namespace: namespace.map(str::to_owned),
            images: images.clone(),
        });
        let core = Arc::clone(self.core());
        let api = match namespace {
            Some(namespace) => Api::namespaced(core.client.clone(), namespace),
            None => Api::all(core.client.clone()),
        };
        self.spawn(keep(core, api, Arc::new(images)));
    }

    /// Sends a signal to the processes of a pod with `part` in their command line: a crash, a hang, a reload.
    pub fn signal(&self, pod: &str, part: &str, signal: Signal) -> Result<usize> {
        let record = self.core().pod(pod)?;
        let pids = netns::processes(&record.netns(), part);
        ensure!(
            !pids.is_empty(),
            "no process of pod {pod} has `{part}` in its command line"
        );
        for pid in &pids {
            kill(*pid, signal).with_context(|| format!("cannot signal {pid}"))?;
        }
        Ok(pids.len())
    }

    /// Runs one pod that exists and does not run yet, until it is deleted.
    pub async fn run_pod(&self, name: &str, images: Images) -> Result<()> {
        let (namespace, short) = name.split_once('/').context("a pod is named namespace/name")?;
        let core = Arc::clone(self.core());
        let api: Api<Pod> = Api::namespaced(core.client.clone(), namespace);
        api.get(short).await?;
        let only = watcher::Config::default().fields(&format!("metadata.name={short}"));
        self.spawn(follow(core, api, only, Arc::new(images), |_| true));
        Ok(())
    }
}

async fn keep(core: Arc<Core>, api: Api<Pod>, images: Arc<Images>) {
    follow(core, api, watcher::Config::default(), images, is_of_controller).await;
}

/// The harness's own pods have no owner; their creator runs them.
fn is_of_controller(pod: &Pod) -> bool {
    pod.metadata
        .owner_references
        .as_ref()
        .is_some_and(|owners| !owners.is_empty())
}

/// Starts a worker for each pod that comes and tells it when the pod goes.
async fn follow(
    core: Arc<Core>,
    api: Api<Pod>,
    config: watcher::Config,
    images: Arc<Images>,
    mine: impl Fn(&Pod) -> bool,
) {
    let mut workers: HashMap<String, watch::Sender<Option<Gone>>> = HashMap::new();
    let mut listed = HashSet::new();
    let mut tasks = tokio::task::JoinSet::new();
    let mut events = pin!(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        // Only finished tasks are taken out here; what they had to say is in their pods' status.
        while tasks.try_join_next().is_some() {}
        workers.retain(|_, stop| stop.receiver_count() > 0);
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) if mine(&pod) => {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                let going = pod
                    .metadata
                    .deletion_timestamp
                    .is_some()
                    .then(|| Gone::Deleted(grace(&pod)));
                listed.insert(uid.clone());
                if let Some(stop) = workers.get(&uid) {
                    if let Some(gone) = going {
                        tell(stop, gone);
                    }
                } else if !worker::is_over(&pod) {
                    let (stop, stopped) = watch::channel(going);
                    workers.insert(uid, stop);
                    tasks.spawn(worker::run(Arc::clone(&core), Arc::clone(&images), pod, stopped));
                }
            }
            // A new list: what is not on it has gone unseen.
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitDone) => {
                for (_, stop) in workers.iter().filter(|(uid, _)| !listed.contains(*uid)) {
                    tell(stop, Gone::Vanished);
                }
            }
            Ok(Event::Delete(pod)) => {
                if let Some(stop) = pod.metadata.uid.as_ref().and_then(|uid| workers.get(uid)) {
                    tell(stop, Gone::Vanished);
                }
            }
            Ok(_) => {}
            Err(error) => eprintln!("mesh {}: watching pods: {error}", core.id),
        }
    }
}

/// Tells a worker once; what it was told first stands.
fn tell(stop: &watch::Sender<Option<Gone>>, gone: Gone) {
    stop.send_if_modified(|now| now.is_none() && now.replace(gone).is_none());
}

fn grace(pod: &Pod) -> u64 {
    let asked = pod.metadata.deletion_grace_period_seconds;
    asked
        .and_then(|seconds| seconds.try_into().ok())
        .unwrap_or_else(|| usual_grace(pod))
}

/// The grace that a pod's spec gives its containers.
fn usual_grace(pod: &Pod) -> u64 {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.termination_grace_period_seconds)
        .and_then(|seconds| seconds.try_into().ok())
        .unwrap_or(30)
}
