//! etcd, kube-apiserver and kube-controller-manager.

use std::fs;

use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use kube::Client;
use ring::rand::SecureRandom as _;
use serde_json::json;

use super::Setup;
use crate::addresses::{Families, NODE_NAME};
use crate::certificates;
use crate::hex::hex;
use crate::objects::Objects;
use crate::process::{Process, Program};
use crate::wait::{self, Hopeless, until};

/// Starts etcd and kube-apiserver, which finds etcd by itself, and writes the kubeconfig.
pub(super) fn start_api_server(setup: &Setup<'_>, address: &str) -> Result<Vec<Process>> {
    let (folder, logs) = (&setup.folder, setup.logs());
    let keys = folder.join("keys");
    let families = setup.options.families;
    let names = [
        address,
        families.node_ip(),
        "127.0.0.1",
        families.api_ip(),
        "localhost",
        "kubernetes.default.svc",
    ];
    certificates::write(&keys, &names.map(str::to_owned))?;
    let token = random_token()?;
    fs::write(
        keys.join("tokens.csv"),
        format!("{token},mesh,mesh,\"system:masters\"\n"),
    )?;
    let authority = fs::read(keys.join("ca.crt"))?;
    fs::write(
        setup.kubeconfig(),
        kubeconfig(&format!("https://{address}:6443"), &authority, &token)?,
    )?;

    let etcd = Program::new("etcd", setup.tools.program("etcd"), folder).args([
        "--data-dir=etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        // Of its usual 2 GB, a scale run's many versions of 50,000 objects leave too little.
        "--quota-backend-bytes=8589934592",
        "--log-level=warn",
    ]);
    let api_server = Program::new("kube-apiserver", setup.tools.program("kube-apiserver"), folder).args([
        "--etcd-servers=http://127.0.0.1:2379",
        "--secure-port=6443",
        &format!("--bind-address={}", families.any()),
        &format!("--advertise-address={}", families.node_ip()),
        "--cert-dir=keys",
        "--tls-cert-file=keys/apiserver.crt",
        "--tls-private-key-file=keys/apiserver.key",
        "--client-ca-file=keys/ca.crt",
        "--requestheader-client-ca-file=keys/ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--token-auth-file=keys/tokens.csv",
        "--authorization-mode=RBAC",
        "--service-account-key-file=keys/sa.pub",
        "--service-account-signing-key-file=keys/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        &format!("--service-cluster-ip-range={}", families.service_ranges()),
        "--allow-privileged=true",
    ]);
    Ok(vec![
        etcd.start(&setup.node, &logs)?,
        api_server.start(&setup.node, &logs)?,
    ])
}

/// Waits for `/readyz`; gives up at once when a program has ended.
pub(super) async fn wait_ready(client: &Client, processes: &[Process]) -> Result<()> {
    until("kube-apiserver is ready", wait::LONG, || async {
        for process in processes {
            process.still_runs().map_err(Hopeless)?;
        }
        let answer = client
            .request_text(http::Request::get("/readyz").body(Vec::new())?)
            .await?;
        (answer == "ok")
            .then_some(())
            .ok_or_else(|| anyhow!("it answers {answer}"))
    })
    .await
}

/// Starts kube-controller-manager without the two controllers that would miss the kubelet.
pub(super) fn start_controller_manager(setup: &Setup<'_>) -> Result<Process> {
    let path = setup.tools.program("kube-controller-manager");
    Program::new("kube-controller-manager", path, &setup.folder)
        .args([
            "--kubeconfig=kubeconfig",
            "--authentication-kubeconfig=kubeconfig",
            "--authorization-kubeconfig=kubeconfig",
            "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller",
            "--service-account-private-key-file=keys/sa.key",
            "--root-ca-file=keys/ca.crt",
            "--cert-dir=keys/kube-controller-manager",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--node-cidr-mask-size=24",
        ])
        .start(&setup.node, &setup.logs())
}

/// The one Node that all pods are bound to; without it the garbage collection of pods would delete them.
pub(super) async fn make_node(objects: &Objects, families: Families) -> Result<()> {
    let name = json!({"name": NODE_NAME, "labels": {"kubernetes.io/hostname": NODE_NAME}});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": name});
    objects.apply(&node).await?;
    objects
        .apply_status(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE_NAME}, "status": {
            "addresses": [{"type": "InternalIP", "address": families.node_ip()}],
            "capacity": {"cpu": "64", "memory": "64Gi", "pods": "10000"},
            "allocatable": {"cpu": "64", "memory": "64Gi", "pods": "10000"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Mesh", "message": "pods are namespaces",
                "lastHeartbeatTime": jiff::Timestamp::now(), "lastTransitionTime": jiff::Timestamp::now()}],
        }}))
        .await?;
    Ok(())
}

/// A kubeconfig for one server and one token.
pub(crate) fn kubeconfig(server: &str, authority: &[u8], token: &str) -> Result<String> {
    let authority = base64::engine::general_purpose::STANDARD.encode(authority);
    serde_json::to_string_pretty(&json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "mesh",
        "clusters": [{"name": "mesh", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "mesh", "user": {"token": token}}],
        "contexts": [{"name": "mesh", "context": {"cluster": "mesh", "user": "mesh"}}],
    }))
    .context("cannot write a kubeconfig")
}

fn random_token() -> Result<String> {
    let mut bytes = [0_u8; 24];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow!("no random numbers"))?;
    Ok(hex(&bytes))
}
