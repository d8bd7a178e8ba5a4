//! Labels that change: those that opt in and out, and those by which a Service selects its pods.

use anyhow::{Result, ensure};
use servicefence_e2e::install::{GATEWAY, SOON};
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{LoadSpec, Mesh, PodSpec, Protocol, ServiceSpec, Via};

use crate::shop;

crate::steps![
    a2_labels_of_services_decide_and_a_written_fence_stays,
    a9_no_call_fails_while_a_service_changes_its_pods,
    no_call_fails_while_another_fence_takes_the_pods,
];

/// The names of a namespace's objects of a kind.
pub(crate) async fn names(mesh: &Mesh, namespace: &str, kind: &str) -> Result<Vec<String>> {
    let names = mesh
        .kubectl(&["-n", namespace, "get", kind, "-o", "name"])
        .await?;
    let names = names.lines().filter_map(|name| name.rsplit('/').next());
    Ok(names.map(str::to_owned).collect())
}

async fn a2_labels_of_services_decide_and_a_written_fence_stays(mesh: Mesh) -> Result<()> {
    for service in ["web", "cart", "till"] {
        let service = ServiceSpec::new(&format!("labels/{service}"));
        mesh.add_service(&service.port(Protocol::Http, 8080)).await?;
    }
    mesh.apply_yaml(
        "
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: till, namespace: labels}
spec: {mode: Enforce, allow: [{host: cart}]}
",
    )
    .await?;
    mesh.wait_condition("labels", "till", "Enforced", "True").await?;
    mesh.wait_at_rest("labels").await?;
    // To the last field, versions and status included.
    let till = async || {
        let fence = shop::object(&mesh, "labels", "sf", "till").await?;
        let sidecar = shop::object(&mesh, "labels", "sidecar", "servicefence-till").await?;
        anyhow::Ok((fence, sidecar))
    };
    let written = till().await?;
    let label = async |object: &[&str], label: &str| {
        let args = [&["-n", "labels", "label", "--overwrite"], object, &[label]].concat();
        mesh.kubectl(&args).await
    };
    label(&["namespace", "labels"], "servicefence.io/mode=off").await?;
    label(&["service", "web"], "servicefence.io/mode=enforce").await?;
    mesh.wait_condition("labels", "web", "Enforced", "True").await?;
    mesh.wait_at_rest("labels").await?;
    let fences = names(&mesh, "labels", "sf").await?;
    ensure!(fences == ["till", "web"], "{fences:?}");
    let is = till().await?;
    ensure!(is == written, "it was {written:?} and is {is:?}");

    label(&["namespace", "labels"], "servicefence.io/mode-").await?;
    label(&["service", "web"], "servicefence.io/mode-").await?;
    until("the generated fence to go", SOON, async || {
        let fences = names(&mesh, "labels", "sf").await?;
        ensure!(fences == ["till"], "{fences:?}");
        Ok(())
    })
    .await?;
    mesh.wait_at_rest("labels").await?;
    let sidecars = names(&mesh, "labels", "sidecars").await?;
    ensure!(sidecars == ["servicefence-till"], "{sidecars:?}");
    let is = till().await?;
    ensure!(is == written, "it was {written:?} and is {is:?}");
    mesh.kubectl(&["delete", "namespace", "labels"]).await?;
    Ok(())
}

/// A fence that was written by hand replaces a generated one. It has learned nothing, and the pods go on to
/// call a host that only the generated one had in scope.
async fn no_call_fails_while_another_fence_takes_the_pods(mesh: Mesh) -> Result<()> {
    let caller = "heir/web";
    mesh.add_app(PodSpec::new(caller).http(8080)).await?;
    mesh.enforce("heir", &["web"]).await?;
    shop::learn_reviews(&mesh, "heir").await?;

    let load = LoadSpec::new(caller).call(shop::call("reviews")).clients(4);
    let load = mesh.start_load(&load).await?;
    load.more(100).await?;
    mesh.apply_yaml(
        "
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: mine, namespace: heir}
spec: {mode: Enforce, workload: {service: web}}
",
    )
    .await?;
    until("the other fence to have the pods", LONG, async || {
        let sidecars = names(&mesh, "heir", "sidecars").await?;
        ensure!(sidecars == ["servicefence-mine"], "{sidecars:?}");
        Ok(())
    })
    .await?;
    mesh.wait_learned("heir", "mine", &shop::host("reviews")).await?;
    mesh.wait_at_rest("heir").await?;
    load.more(100).await?;
    let report = load.stop().await;
    ensure!(report.failed == 0, "{report}");
    mesh.kubectl(&["delete", "namespace", "heir"]).await?;
    Ok(())
}

/// Back and forth, while the pods that it takes and those that it leaves call a Service in scope and one out
/// of it.
async fn a9_no_call_fails_while_a_service_changes_its_pods(mesh: Mesh) -> Result<()> {
    let pods = ["swap/blue", "swap/green"];
    for pod in pods {
        mesh.add_pod(PodSpec::new(pod).http(8080)).await?;
    }
    let select = async |app: &str| {
        let service = ServiceSpec::new("swap/web").selects(app);
        mesh.add_service(&service.port(Protocol::Http, 8080)).await
    };
    select("blue").await?;
    // It learns nothing, so what is out of scope stays there.
    mesh.apply_yaml(
        "
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: web, namespace: swap}
spec: {mode: Enforce, allow: [{host: allowed.books}], learning: {sources: [Policy]}}
",
    )
    .await?;
    mesh.wait_condition("swap", "web", "Enforced", "True").await?;
    mesh.wait_at_rest("swap").await?;
    let mut loads = Vec::new();
    for pod in pods {
        let load = LoadSpec::new(pod).clients(4);
        let load = load.call(shop::call("allowed")).call(shop::call("late"));
        loads.push(mesh.start_load(&load).await?);
    }
    let until_scoped = async |pod: &str, scoped: bool| {
        until(format!("{pod} to be scoped: {scoped}"), SOON, async || {
            let reply = mesh.call(pod, &shop::call("late")).await;
            ensure!(reply.is_from(shop::BOOKS), "{reply}");
            // By what the server's proxy says: the counters of the caller's are those of the load.
            let by_gateway = reply.via == Some(Via::Through(GATEWAY.to_owned()));
            ensure!(by_gateway == scoped, "it came {:?}", reply.via);
            Ok(())
        })
        .await
    };
    for _ in 0..4 {
        for (app, taken, left) in [("green", pods[1], pods[0]), ("blue", pods[0], pods[1])] {
            select(app).await?;
            until_scoped(taken, true).await?;
            until_scoped(left, false).await?;
            for load in &loads {
                load.more(200).await?;
            }
        }
    }
    for load in loads {
        let report = load.stop().await;
        ensure!(report.failed == 0 && report.calls > 0, "{report}");
    }
    for pod in pods {
        mesh.remove_pod(pod).await?;
    }
    mesh.kubectl(&["delete", "namespace", "swap"]).await?;
    Ok(())
}
