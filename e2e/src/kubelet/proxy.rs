//! The proxy of a pod that asks for injection: a sidecar beside its containers, or a gateway in place of its
//! one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::Value;
use tokio::sync::mpsc;

use super::container::gone;
use super::status::{Report, State};
use super::{Gone, Stop};
use crate::mesh::core::Core;
use crate::pod::proxy_agent::{self, Identity};
use crate::pod::{PodKind, PodRecord};
use crate::process::Process;

/// The name of the proxy's container.
pub(super) const CONTAINER: &str = "istio-proxy";

/// What a pod asks for, as Istio's injection webhook would decide.
pub(super) fn kind(pod: &Pod, namespace_injects: bool) -> PodKind {
    const INJECT: &str = "sidecar.istio.io/inject";
    let asked = pod
        .labels()
        .get(INJECT)
        .or_else(|| pod.annotations().get(INJECT))
        .map(String::as_str);
    let injects = match asked {
        Some(value) => value == "true",
        None => namespace_injects,
    };
    let templates = pod
        .annotations()
        .get("inject.istio.io/templates")
        .map(String::as_str)
        .unwrap_or_default();
    match (
        injects,
        templates.split(',').any(|template| template.trim() == "gateway"),
    ) {
        (false, _) => PodKind::Plain,
        (true, true) => PodKind::Router,
        (true, false) => PodKind::Sidecar,
    }
}

/// The name of a pod's workload: its owner's, without the hash that a ReplicaSet adds.
pub(super) fn workload(pod: &Pod) -> String {
    let owner = pod
        .owner_references()
        .first()
        .map_or_else(|| pod.name_any(), |owner| owner.name.clone());
    let hash = pod
        .labels()
        .get("pod-template-hash")
        .map(|hash| format!("-{hash}"));
    match hash.and_then(|hash| owner.strip_suffix(&hash).map(str::to_owned)) {
        Some(deployment) => deployment,
        None => owner,
    }
}

/// Everything that the proxy needs to run.
pub(super) struct Keeper {
    pub(super) core: Arc<Core>,
    pub(super) record: PodRecord,
    pub(super) kind: PodKind,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) workload: String,
    pub(super) env: Vec<(String, String)>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) stop: Stop,
}

impl Keeper {
    /// Runs the agent until the pod goes; starts it again when it ends.
    pub(super) async fn keep(mut self) -> i32 {
        let mut restarts = 0;
        loop {
            let result = self.run_once(restarts).await;
            match result {
                Ok(Some(code)) => return code,
                Ok(None) => {}
                Err(error) => {
                    let message = format!("{error:#}");
                    self.report(
                        State::Waiting {
                            reason: "RunContainerError",
                            message,
                        },
                        false,
                        restarts,
                    );
                }
            }
            if tokio::time::timeout(Duration::from_secs(1), gone(&mut self.stop))
                .await
                .is_ok()
            {
                return 0;
            }
            restarts += 1;
        }
    }

    /// An exit code when the pod goes, none when the agent ended by itself.
    async fn run_once(&mut self, restarts: u32) -> Result<Option<i32>> {
        let identity = Identity {
            labels: &self.labels,
            annotations: &self.annotations,
            kind: self.kind,
            workload: &self.workload,
            proxy_config: &Value::Null,
            env: &self.env,
        };
        let mut process = proxy_agent::start(&self.core, &self.record, &identity).await?;
        let since = Timestamp::now();
        self.report(State::Running { since }, false, restarts);
        let mut stop = self.stop.clone();
        let stopped = tokio::select! {
            _ = process.wait() => None,
            () = self.follow_readiness(since, restarts) => None,
            gone = gone(&mut stop) => Some(gone),
        };
        let Some(stopped) = stopped else { return Ok(None) };
        self.end(&mut process, stopped).await?;
        self.report(
            State::Terminated {
                code: 0,
                at: Timestamp::now(),
            },
            false,
            restarts,
        );
        Ok(Some(0))
    }

    async fn end(&self, process: &mut Process, why: Gone) -> Result<()> {
        let grace = match why {
            Gone::Deleted(grace) => Duration::from_secs(grace),
            Gone::Vanished => Duration::ZERO,
        };
        // A gateway's agent lets its Envoy finish what runs through it. A sidecar ends at once beside its
        // application, which is the harder case.
        let ended = match self.kind {
            PodKind::Router => process.terminate_first(grace).await,
            _ => process.terminate(grace).await,
        };
        ended.map(drop)
    }

    /// As injection's own probe does it.
    async fn follow_readiness(&self, since: Timestamp, restarts: u32) {
        let (mut was, mut failures) = (false, 0);
        loop {
            let ready = proxy_agent::is_ready(&self.core, &self.record).await.is_ok();
            failures = if ready { 0 } else { failures + 1 };
            if ready != was && (ready || failures >= 4) {
                was = ready;
                self.report(State::Running { since }, ready, restarts);
            }
            tokio::time::sleep(Duration::from_millis(if was { 2000 } else { 100 })).await;
        }
    }

    fn report(&self, state: State, ready: bool, restarts: u32) {
        let (container, image) = (CONTAINER.to_owned(), "istio-proxy".to_owned());
        // The worker has left when the mesh ends; the report has no use then.
        let _ = self.reports.send(Report {
            container,
            image,
            state,
            ready,
            restarts,
        });
    }
}
