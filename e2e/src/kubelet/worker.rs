//! The life of one pod: bound, given a namespace, its containers kept, its status written, and in the end
//! removed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::container::{self, gone};
use super::status::{PodStatus, Report};
use super::{Gone, Stop, environment, proxy};
use crate::addresses::{NODE_NAME, in_url};
use crate::control_plane::kubeconfig;
use crate::kubelet::images::Images;
use crate::mesh::core::Core;
use crate::netns;
use crate::objects::ignore_status;
use crate::pod::{PodKind, PodRecord, add};

/// Whether a pod has ended for good.
pub(super) fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Runs a pod until it goes, then removes everything of it.
pub(super) async fn run(core: Arc<Core>, images: Arc<Images>, pod: Pod, mut stop: Stop) {
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let mut worker = Worker {
        api: Api::namespaced(core.client.clone(), &pod.namespace().unwrap_or_default()),
        kind: PodKind::Plain,
        status: PodStatus::default(),
        pod: Arc::new(pod),
        core,
        images,
    };
    let earlier = worker
        .core
        .pod(&name)
        .ok()
        .filter(|record| record.uid == worker.pod.uid());
    if let Some(record) = earlier {
        // A process that has handed the mesh over has started it; all that is left to do is to end it.
        if let Gone::Deleted(grace) = gone(&mut stop).await {
            netns::terminate(&record.netns(), Duration::from_secs(grace)).await;
        }
    } else if let Err(error) = worker.live(&name, &mut stop).await {
        eprintln!("mesh {}: pod {name}: {error:#}", worker.core.id);
    }
    gone(&mut stop).await;
    if let Err(error) = worker.remove(&name).await {
        eprintln!("mesh {}: removing pod {name}: {error:#}", worker.core.id);
    }
}

struct Worker {
    core: Arc<Core>,
    images: Arc<Images>,
    api: Api<Pod>,
    pod: Arc<Pod>,
    kind: PodKind,
    status: PodStatus,
}

impl Worker {
    async fn live(&mut self, name: &str, stop: &mut Stop) -> Result<()> {
        if stop.borrow().is_some() {
            return Ok(());
        }
        self.bind().await?;
        self.kind = proxy::kind(&self.pod, self.namespace_injects().await?);
        let labels_and_annotations = self.inject().await?;
        let account = self
            .spec()?
            .service_account_name
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let annotations = &labels_and_annotations.1;
        let mut record = add::make_home(&self.core, name, &account, self.kind, annotations)?;
        record.uid = self.pod.uid();
        record.save()?;
        self.status.ips = self.core.pod_ips(&record.ip);
        self.give_kubeconfig(&record).await?;
        self.run_containers(&record, labels_and_annotations, stop).await
    }

    fn spec(&self) -> Result<&k8s_openapi::api::core::v1::PodSpec> {
        self.pod.spec.as_ref().context("a pod without spec")
    }

    async fn bind(&self) -> Result<()> {
        if self.spec()?.node_name.is_some() {
            return Ok(());
        }
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": self.pod.name_any()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE_NAME}});
        let _: Value = self
            .api
            .create_subresource("binding", &self.pod.name_any(), &PostParams::default(), &binding)
            .await?;
        Ok(())
    }

    async fn namespace_injects(&self) -> Result<bool> {
        let api: Api<Namespace> = Api::all(self.core.client.clone());
        let namespace = api.get(&self.pod.namespace().unwrap_or_default()).await?;
        Ok(namespace
            .labels()
            .get("istio-injection")
            .is_some_and(|value| value == "enabled"))
    }

    /// Writes what injection would have written, and gives all labels and annotations.
    async fn inject(&self) -> Result<(BTreeMap<String, String>, BTreeMap<String, String>)> {
        let (mut labels, mut annotations) = (self.pod.labels().clone(), self.pod.annotations().clone());
        if self.kind != PodKind::Plain {
            add::inject(
                &mut labels,
                &mut annotations,
                self.kind,
                &proxy::workload(&self.pod),
            );
            let change = json!({"metadata": {"labels": labels, "annotations": annotations}});
            self.api
                .patch(
                    &self.pod.name_any(),
                    &PatchParams::default(),
                    &Patch::Merge(change),
                )
                .await?;
        }
        Ok((labels, annotations))
    }

    /// The token of the service account, as a kubeconfig: processes here have no `/var/run/secrets`.
    async fn give_kubeconfig(&self, record: &PodRecord) -> Result<()> {
        if self.spec()?.automount_service_account_token == Some(false) {
            return Ok(());
        }
        let token = self
            .core
            .objects
            .token(&record.namespace, &record.service_account, None)
            .await?;
        let authority = std::fs::read(self.core.folder.join("keys/ca.crt"))?;
        let api = in_url(self.core.families.api_ip());
        std::fs::write(
            record.folder.join("kubeconfig"),
            kubeconfig(&format!("https://{api}:443"), &authority, &token)?,
        )?;
        Ok(())
    }

    async fn run_containers(
        &mut self,
        record: &PodRecord,
        (labels, annotations): (BTreeMap<String, String>, BTreeMap<String, String>),
        stop: &mut Stop,
    ) -> Result<()> {
        let (reports, mut inbox) = mpsc::unbounded_channel();
        let (halt, halted) = watch::channel(None);
        let spec = self.spec()?.clone();
        for init in spec.init_containers.unwrap_or_default() {
            let name = init.name.clone();
            let keeper = self.keeper(record, init, "OnFailure", &reports, stop.clone());
            ensure!(keeper.keep().await == 0, "init container {name} did not succeed");
        }
        self.status.initialized = true;

        let is_router = self.kind == PodKind::Router;
        let (proxies, apps): (Vec<Container>, Vec<Container>) = spec
            .containers
            .into_iter()
            .partition(|container| is_router && container.name == proxy::CONTAINER);
        let app_names: Vec<String> = apps.iter().map(|container| container.name.clone()).collect();
        let mut all_names = app_names.clone();
        let mut keepers = JoinSet::new();
        if self.kind != PodKind::Plain {
            all_names.push(proxy::CONTAINER.to_owned());
            let env = match proxies.first() {
                Some(container) => environment::of(&self.core.client, &self.pod, record, container).await?,
                None => Vec::new(),
            };
            let keeper = proxy::Keeper {
                core: Arc::clone(&self.core),
                record: record.clone(),
                kind: self.kind,
                workload: proxy::workload(&self.pod),
                labels,
                annotations,
                env,
                reports: reports.clone(),
                stop: halted.clone(),
            };
            keepers.spawn(keeper.keep());
        }
        let restart = spec.restart_policy.unwrap_or_else(|| "Always".to_owned());
        for app in apps {
            keepers.spawn(
                self.keeper(record, app, &restart, &reports, halted.clone())
                    .keep(),
            );
        }
        drop(reports);
        self.supervise(&app_names, &all_names, &mut inbox, &halt, stop)
            .await?;
        while keepers.join_next().await.is_some() {}
        while let Ok(report) = inbox.try_recv() {
            self.status.take(report);
        }
        self.write_status(&all_names).await
    }

    fn keeper(
        &self,
        record: &PodRecord,
        container: Container,
        restart: &str,
        reports: &mpsc::UnboundedSender<Report>,
        stop: Stop,
    ) -> container::Keeper {
        container::Keeper {
            core: Arc::clone(&self.core),
            images: Arc::clone(&self.images),
            record: record.clone(),
            pod: Arc::clone(&self.pod),
            container,
            restart: restart.to_owned(),
            reports: reports.clone(),
            stop,
        }
    }

    /// Writes each report into the status, until the pod goes or all its containers have ended for good.
    async fn supervise(
        &mut self,
        apps: &[String],
        all: &[String],
        inbox: &mut mpsc::UnboundedReceiver<Report>,
        halt: &watch::Sender<Option<Gone>>,
        stop: &mut Stop,
    ) -> Result<()> {
        let restarts = self.spec()?.restart_policy.as_deref().unwrap_or("Always") == "Always";
        loop {
            let report = tokio::select! {
                report = inbox.recv() => report,
                why = gone(stop) => {
                    self.status.going = true;
                    // Not ready at once: no call is sent here any more while the containers end.
                    self.write_status(all).await?;
                    halt.send_replace(Some(why));
                    return Ok(());
                }
            };
            let Some(report) = report else { return Ok(()) };
            self.status.take(report);
            while let Ok(report) = inbox.try_recv() {
                self.status.take(report);
            }
            if !restarts && let Some(codes) = self.status.exit_codes(apps) {
                let failed = codes.iter().any(|code| *code != 0);
                if !failed || self.spec()?.restart_policy.as_deref() == Some("Never") {
                    self.status.end = Some(if failed { "Failed" } else { "Succeeded" });
                    halt.send_replace(Some(Gone::Vanished));
                    self.write_status(all).await?;
                    return Ok(());
                }
            }
            self.write_status(all).await?;
        }
    }

    async fn write_status(&mut self, containers: &[String]) -> Result<()> {
        let status = Patch::Merge(self.status.json(containers));
        let written = self
            .api
            .patch_status(&self.pod.name_any(), &PatchParams::default(), &status)
            .await;
        ignore_status(written.map(drop), 404)?;
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        if let Ok(record) = self.core.pod(name) {
            add::tear_down(&self.core, &record, Duration::ZERO).await?;
        }
        let this_one = Preconditions {
            uid: self.pod.uid(),
            resource_version: None,
        };
        let now = DeleteParams {
            preconditions: Some(this_one),
            ..DeleteParams::default().grace_period(0)
        };
        let deleted = self.api.delete(&self.pod.name_any(), &now).await.map(drop);
        // Gone already, or another pod has taken the name.
        ignore_status(deleted, 404).or_else(|error| ignore_status(Err(error), 409))?;
        Ok(())
    }
}
