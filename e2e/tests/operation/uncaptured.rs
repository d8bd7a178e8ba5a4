//! A pod without interception of its traffic: its application calls the proxy itself, which never sees the
//! address of a Service.

use anyhow::{Result, ensure};
use servicefence_e2e::{Call, Mesh, PodSpec};

crate::steps![a_pod_without_interception_is_left_alone];

async fn a_pod_without_interception_is_left_alone(mesh: Mesh) -> Result<()> {
    let pod = PodSpec::new("loose/app").annotation("sidecar.istio.io/interceptionMode", "NONE");
    mesh.add_pod(pod).await?;
    mesh.apply_yaml(
        "
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: app, namespace: loose}
spec: {mode: Enforce, workload: {selector: {app: app}}}
",
    )
    .await?;
    mesh.wait_condition("loose", "app", "Conflicted", "True").await?;
    let fence = mesh
        .kubectl(&["-n", "loose", "get", "sf", "app", "-o", "yaml"])
        .await?;
    ensure!(fence.contains("reason: PodsUncaptured"), "{fence}");
    // With a scope it would be 503: what is not in it goes to the address that was dialled, which is this
    // one.
    let call = Call::get("http://127.0.0.1:8080/").host("reviews.books:8080");
    let reply = mesh.call("loose/app", &call).await;
    ensure!(reply.is_from("books/reviews"), "{reply}");
    mesh.remove_pod("loose/app").await?;
    mesh.kubectl(&["delete", "namespace", "loose"]).await?;
    Ok(())
}
