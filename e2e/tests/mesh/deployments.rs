//! Deployments, Jobs and helm.

use std::time::Duration;

use serde_json::json;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Call, Images, Mesh, MeshOptions, PodRecord, PodSpec, Reply, Signal, Via, tools};

use super::{TakeDown, program, up, words};

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
        // The old pods' preStop gives istiod time: no caller may see the change as a failure.
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
    let _down = TakeDown(id.clone());
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
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pod_runs_and_another_says_why_it_cannot() {
    if !tools::can_run() {
        return;
    }
    let mesh = up().await;
    let images = Images::new().with("example.com/mesh-app", program());
    let pod = |name: &str, image: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                "name": "app", "image": image, "command": ["/mesh"],
                "args": ["app", "--pod", "default/$(NAME)", "--http", "8080"],
                "env": [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "readinessProbe": {"httpGet": {"path": "/", "port": 8080}},
                "livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1, "failureThreshold": 2},
            }]},
        })
    };
    let accounts = "wait serviceaccount/default --for=create --timeout=30s";
    mesh.kubectl(&words(accounts)).await.unwrap();
    mesh.apply(&pod("good", "example.com/mesh-app:2")).await.unwrap();
    mesh.run_pod("default/good", images.clone()).await.unwrap();
    mesh.kubectl(&words("wait pod/good --for=condition=ready --timeout=30s"))
        .await
        .unwrap();
    let page = mesh.pod_page("default/good", 8080, "/").await.unwrap();
    assert!(
        page.text().contains("\"server\":\"default/good\""),
        "{}",
        page.text()
    );
    // First a crash, which its end tells, then a hang, which its liveness probe tells.
    for (signal, restarts) in [(Signal::SIGKILL, 1), (Signal::SIGSTOP, 2)] {
        mesh.signal("default/good", "mesh app", signal).unwrap();
        let count = format!("--for=jsonpath={{.status.containerStatuses[0].restartCount}}={restarts}");
        mesh.kubectl(&words(&format!("wait pod/good {count} --timeout=30s")))
            .await
            .unwrap();
        mesh.kubectl(&words("wait pod/good --for=condition=ready --timeout=30s"))
            .await
            .unwrap();
    }

    mesh.apply(&pod("bad", "example.com/unknown")).await.unwrap();
    mesh.run_pod("default/bad", images).await.unwrap();
    until("the reason is in the status", Duration::from_secs(30), || async {
        let status = mesh
            .kubectl(&words("get pod bad -o jsonpath={.status.containerStatuses}"))
            .await?;
        anyhow::ensure!(
            status.contains("no program stands for image example.com/unknown"),
            "{status}"
        );
        Ok(())
    })
    .await
    .unwrap();
}
