//! What the mesh itself promises: calls of each protocol, real admission, real Deployments, nothing left behind.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use servicefence_e2e::netns::with_prefix;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Call, Images, Mesh, MeshOptions, PodSpec, Via, state, tools};

async fn mesh() -> Mesh {
    Mesh::up(MeshOptions { verbose: true, ..MeshOptions::default() }).await.unwrap()
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_mesh"))
}

#[tokio::test(flavor = "multi_thread")]
async fn deployments_run_and_helm_waits_for_them() {
    if !tools::can_run() {
        return;
    }
    let mesh = mesh().await;
    mesh.kubelet(Some("sample"), Images::new().with("example.com/mesh-app", program()));
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chart");
    let install = ["install", "sample", chart, "-n", "sample", "--create-namespace", "--wait", "--timeout", "2m"];
    mesh.helm(&install).await.unwrap();
    mesh.add_pod(PodSpec::new("shop/web")).await.unwrap();
    mesh.wait_service("sample/sample", 2).await.unwrap();

    let reply = mesh.get("shop/web", "http://sample.sample/").await;
    assert!(reply.is_ok() && reply.via == Some(Via::Direct), "{reply}");
    assert!(reply.served_by.as_deref().unwrap().starts_with("sample/hello-sample-"), "{reply}");
    // The gateway is a proxy of its own: what it forwards carries its own identity.
    mesh.wait_endpoint("sample/edge").await.unwrap();
    let reply = mesh.get("shop/web", "http://edge.sample/").await;
    assert!(reply.is_ok(), "{reply}");
    assert_eq!(reply.via, Some(Via::Through("spiffe://cluster.local/ns/sample/sa/default".to_owned())));

    let job = mesh.kubectl(&["-n", "sample", "wait", "job/once", "--for=condition=complete", "--timeout=30s"]).await;
    assert!(job.is_ok(), "{job:?}");
    let upgrade = ["upgrade", "sample", chart, "-n", "sample", "--set", "greeting=bye", "--wait", "--timeout", "2m"];
    mesh.helm(&upgrade).await.unwrap();
    mesh.wait_service("sample/sample", 2).await.unwrap();
    let reply = mesh.get("shop/web", "http://sample.sample/").await;
    assert!(reply.served_by.as_deref().unwrap_or_default().starts_with("sample/bye-"), "{reply}");

    mesh.helm(&["uninstall", "sample", "-n", "sample", "--wait"]).await.unwrap();
    until("the pods of the release are gone", Duration::from_secs(60), || async {
        let left: Vec<String> = mesh.pods().iter().map(servicefence_e2e::PodRecord::full_name).collect();
        anyhow::ensure!(left == ["shop/web"], "there are {left:?}");
        Ok(())
    })
    .await
    .unwrap();
}
