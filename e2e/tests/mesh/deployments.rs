//! Deployments, Jobs and helm.

use std::time::Duration;

use servicefence_e2e::wait::until;
use servicefence_e2e::{Call, Images, Mesh, MeshOptions, PodRecord, PodSpec, Reply, Via, state, tools};

use super::{program, up, words};

#[tokio::test(flavor = "multi_thread")]
async fn deployments_run_and_helm_waits_for_them() {
    if !tools::can_run() {
        return;
    }
    let mesh = up().await;
    mesh.kubelet(
        Some("sample"),
        Images::new().with("example.com/mesh-app", program()),
    );
    let chart = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/chart -n sample --wait --timeout 2m"
    );
    mesh.helm(&words(&format!("install sample {chart} --create-namespace")))
        .await
        .unwrap();
    mesh.add_pod(PodSpec::new("shop/web")).await.unwrap();
    mesh.wait_service("sample/sample", 2).await.unwrap();

    let call = Call::get("http://sample.sample/");
    let reply = mesh.call("shop/web", &call).await;
    assert!(reply.is_ok() && reply.via == Some(Via::Direct), "{reply}");
    assert!(
        reply
            .served_by
            .as_deref()
            .unwrap()
            .starts_with("sample/hello-sample-"),
        "{reply}"
    );
    // The gateway is a proxy of its own: what it forwards carries its own identity.
    let edge = Call::get("http://edge.sample/");
    let reply = mesh.eventually("shop/web", &edge, Reply::is_ok).await.unwrap();
    let gateway = "spiffe://cluster.local/ns/sample/sa/default";
    assert_eq!(reply.via, Some(Via::Through(gateway.to_owned())));
    let wait = "-n sample wait job/once --for=condition=complete --timeout=30s";
    mesh.kubectl(&words(wait)).await.unwrap();

    mesh.helm(&words(&format!("upgrade sample {chart} --set greeting=bye")))
        .await
        .unwrap();
    let is_new = |reply: &Reply| {
        // The old pods' preStop gives istiod time: nobody may see the change as a failure.
        assert!(reply.is_ok(), "{reply}");
        reply
            .served_by
            .as_deref()
            .is_some_and(|pod| pod.starts_with("sample/bye-"))
    };
    mesh.eventually("shop/web", &call, is_new).await.unwrap();

    mesh.helm(&words("uninstall sample -n sample --wait"))
        .await
        .unwrap();
    until(
        "the pods of the release are gone",
        Duration::from_mins(1),
        || async {
            let left: Vec<String> = mesh.pods().iter().map(PodRecord::full_name).collect();
            anyhow::ensure!(left == ["shop/web"], "there are {left:?}");
            Ok(())
        },
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_is_handed_over_goes_on() {
    if !tools::can_run() {
        return;
    }
    let options = MeshOptions {
        detached: true,
        ..MeshOptions::default()
    };
    let mesh = Mesh::up(options).await.unwrap();
    let id = mesh.id().to_owned();
    mesh.kubelet(
        Some("sample"),
        Images::new().with("example.com/mesh-app", program()),
    );
    let chart = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/chart -n sample --wait --timeout 2m"
    );
    mesh.helm(&words(&format!("install sample {chart} --create-namespace")))
        .await
        .unwrap();
    mesh.add_pod(PodSpec::new("shop/web")).await.unwrap();
    drop(mesh);

    // What ran goes on, a pod that is deleted really ends, and its successor runs.
    let mesh = Mesh::attach(&id).await.unwrap();
    let call = Call::get("http://sample.sample/");
    assert!(mesh.call("shop/web", &call).await.is_ok());
    let is_old = |pod: &PodRecord| pod.name.starts_with("sample-");
    let old: Vec<PodRecord> = mesh.pods().into_iter().filter(is_old).collect();
    mesh.kubectl(&words("-n sample delete pods -l app=sample --wait"))
        .await
        .unwrap();
    for pod in &old {
        assert!(!pod.netns().exists(), "{} still has its network", pod.full_name());
    }
    mesh.wait_service("sample/sample", 2).await.unwrap();
    mesh.eventually("shop/web", &call, Reply::is_ok).await.unwrap();
    drop(mesh);
    state::destroy(&id).unwrap();
}
