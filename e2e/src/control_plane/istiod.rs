//! Istio: its CRDs, its configuration, its validating webhook, and istiod itself.

use std::fs;

use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::future::try_join_all;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};

use super::Setup;
use super::revision::{self, Instance};
use crate::addresses::ISTIO_NAMESPACE;
use crate::objects::{self, Objects};
use crate::process::Process;
use crate::service_vips;
use crate::wait::{self, Hopeless, until};

const WEBHOOK: &str = "istio-validator-istio-system";

/// Creates Istio's CRDs and waits until the API server serves them.
pub(super) async fn install_crds(setup: &Setup<'_>, client: &Client) -> Result<()> {
    let text = fs::read_to_string(setup.tools.istio_crds())?;
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definitions = objects::documents(&text)?
        .into_iter()
        .map(serde_json::from_value)
        .collect::<Result<Vec<CustomResourceDefinition>, _>>()?;
    let how = PostParams::default();
    try_join_all(definitions.iter().map(|definition| api.create(&how, definition))).await?;
    until("Istio's CRDs are served", wait::LONG, || async {
        let waiting = api
            .list(&ListParams::default())
            .await?
            .into_iter()
            .find(|definition| !established(definition));
        waiting.map_or(Ok(()), |definition| {
            Err(anyhow!("not yet {}", definition.spec.names.kind))
        })
    })
    .await
}

fn established(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| {
        all.iter()
            .any(|it| it.type_ == "Established" && it.status == "True")
    })
}

/// What istiod finds when it starts: its namespace, its Service, MeshConfig and the mTLS mode.
pub(super) async fn prepare(setup: &Setup<'_>, objects: &Objects) -> Result<()> {
    objects.namespace(ISTIO_NAMESPACE).await?;
    let metadata = json!({"name": "istiod", "namespace": ISTIO_NAMESPACE, "labels": {"app": "istiod", "istio": "pilot"}});
    revision::apply_service(objects, &metadata, 0, setup.options.families).await?;
    objects.apply(&config_map(&mesh_config(setup)?)?).await?;
    objects.apply(&setup.options.mtls.object()).await?;
    objects.apply(&webhook()).await?;
    Ok(())
}

/// MeshConfig: what the programs at hand need, the two options, then the caller's fragments over it.
fn mesh_config(setup: &Setup<'_>) -> Result<Value> {
    let mut config = json!({
        "rootNamespace": ISTIO_NAMESPACE,
        "trustDomain": "cluster.local",
        "enableAutoMtls": true,
        "enableTracing": false,
        "ingressControllerMode": "OFF",
        "outboundTrafficPolicy": {"mode": setup.options.outbound_traffic_policy.as_str()},
        "defaultConfig": {"tracing": {}},
    });
    for fragment in &setup.options.mesh_config {
        for document in objects::documents(fragment).context("in a fragment of MeshConfig")? {
            objects::merge(&mut config, document);
        }
    }
    Ok(config)
}

/// Merges a YAML fragment over the MeshConfig that is there.
pub(crate) async fn change_mesh_config(objects: &Objects, fragment: &str) -> Result<()> {
    let text = objects.config_map_value(ISTIO_NAMESPACE, "istio", "mesh").await?;
    let mut config: Value = serde_json::from_str(&text)?;
    for document in objects::documents(fragment).context("in a fragment of MeshConfig")? {
        objects::merge(&mut config, document);
    }
    objects.apply(&config_map(&config)?).await.map(drop)
}

fn config_map(mesh_config: &Value) -> Result<Value> {
    Ok(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": ISTIO_NAMESPACE},
        "data": {"mesh": serde_json::to_string_pretty(mesh_config)?, "meshNetworks": "networks: {}"},
    }))
}

/// As Istio's chart makes it. istiod adds the CA and turns `Ignore` into `Fail` once its endpoint answers.
fn webhook() -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": WEBHOOK, "labels": {"app": "istiod", "istio": "istiod", "istio.io/rev": "default"}},
        "webhooks": [{
            "name": "rev.validation.istio.io",
            "clientConfig": {"service": {"name": "istiod", "namespace": ISTIO_NAMESPACE, "path": "/validate"}},
            "rules": [{
                "operations": ["CREATE", "UPDATE"],
                "apiGroups": ["security.istio.io", "networking.istio.io", "telemetry.istio.io", "extensions.istio.io"],
                "apiVersions": ["*"], "resources": ["*"],
            }],
            "failurePolicy": "Ignore", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        }],
    })
}

/// Starts the first istiod.
pub(super) fn start(setup: &Setup<'_>) -> Result<Process> {
    let env = &setup.options.istiod_env;
    revision::start(
        setup.tools,
        &setup.folder,
        &setup.node,
        &Instance {
            revision: "default",
            webhook: WEBHOOK,
            shift: 0,
            families: setup.options.families,
            env,
        },
    )
}

/// istiod is ready when it says so, has published its root certificate, and refuses a bad object through its
/// webhook.
pub(super) async fn wait_ready(setup: &Setup<'_>, client: &Client, processes: &[Process]) -> Result<()> {
    let objects = Objects::new(client.clone());
    service_vips::apply_once(client, &setup.folder).await?;
    until("istiod is ready", wait::LONG, || async {
        for process in processes {
            process.still_runs().map_err(Hopeless)?;
        }
        revision::is_ready(&setup.node, 0)
    })
    .await?;
    objects
        .config_map_value(ISTIO_NAMESPACE, "istio-ca-root-cert", "root-cert.pem")
        .await?;
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    until("istiod's webhook validates", wait::LONG, || async {
        let found = api.get(WEBHOOK).await?;
        let policies: Vec<_> = found
            .webhooks
            .unwrap_or_default()
            .into_iter()
            .map(|it| it.failure_policy)
            .collect();
        let fails = policies.iter().all(|policy| policy.as_deref() == Some("Fail"));
        if fails {
            Ok(())
        } else {
            bail!("its failure policy is {policies:?}")
        }
    })
    .await
}
