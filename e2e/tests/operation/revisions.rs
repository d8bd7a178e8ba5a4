//! Istio is upgraded by revision, as its documentation says: a second istiod, pods that restart to it one
//! after another, and the end of the first one. A fenced workload calls all the while.

use anyhow::{Result, ensure};
use servicefence_e2e::install::{Build, SOON};
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{
    Call, IstiodSpec, Load, LoadSpec, Mesh, MeshOptions, PodSpec, Protocol, ServiceSpec, Via,
};

use crate::shutdown;

pub(crate) const NAME: &str = "an_upgrade_of_istio_by_revision_fails_no_call";

/// How many calls each stage is watched for.
const CALLS: u64 = 500;

pub(crate) async fn run() -> Result<()> {
    let mesh = Mesh::up(MeshOptions::default()).await?;
    let result = steps(&mesh).await;
    result.inspect_err(|_| eprintln!("{}", mesh.dump()))
}

async fn steps(mesh: &Mesh) -> Result<()> {
    mesh.add_istiod(&IstiodSpec::new("old")).await?;
    let revision = |name: &str| format!("istio.revision={name}");
    // Both istiods read this one.
    let config = "istio.meshConfigMap=istio";
    mesh.install(Build::Debug, &[&revision("old"), config]).await?;
    for service in ["direct", "missed", "late"] {
        let service = ServiceSpec::new(&format!("books/{service}")).selects("books");
        mesh.add_service(&service.port(Protocol::Http, 8080)).await?;
    }
    let books = |name: &str, revision: &str| PodSpec::new(name).app("books").revision(revision).http(8080);
    let web = |name: &str, revision: &str| PodSpec::new(name).app("web").revision(revision).http(8080);
    mesh.add_pod(books("books/one", "old")).await?;
    mesh.add_service(&ServiceSpec::new("shop/web").port(Protocol::Http, 8080))
        .await?;
    mesh.add_pod(web("shop/web-one", "old")).await?;
    mesh.apply_yaml(
        "{apiVersion: servicefence.io/v1alpha1, kind: ServiceFence, metadata: {name: web, namespace: shop}, \
         spec: {allow: [{host: direct.books}], deny: [missed.books]}}",
    )
    .await?;
    mesh.enforce("shop", &["web"]).await?;

    let first = load(mesh, "shop/web-one").await?;
    first.more(CALLS).await?;
    mesh.add_istiod(&IstiodSpec::new("new")).await?;
    shutdown::upgrade(mesh, &[&revision("new")]).await?;
    first.more(CALLS).await?;

    mesh.add_pod(books("books/two", "new")).await?;
    until("calls to the new pod", LONG, async || {
        ensure!(first.so_far().served_by("books/two") > 0, "none");
        Ok(())
    })
    .await?;
    leave(mesh, &first, "books/one").await?;

    mesh.add_pod(web("shop/web-two", "new")).await?;
    let second = load(mesh, "shop/web-two").await?;
    second.more(CALLS).await?;
    let mut reports = vec![("shop/web-one", first.stop().await)];
    mesh.remove_pod("shop/web-one").await?;
    mesh.stop_istiod("old").await?;
    second.more(CALLS).await?;

    // What is learned comes to proxies by the new one.
    let call = Call::get("http://late.books:8080/");
    let first = mesh.call("shop/web-two", &call).await;
    ensure!(
        first.is_from("books/two") && first.via != Some(Via::Direct),
        "{first}"
    );
    until("a direct call", SOON, async || {
        let reply = mesh.call("shop/web-two", &call).await;
        ensure!(reply.is_ok() && reply.via == Some(Via::Direct), "{reply}");
        Ok(())
    })
    .await?;
    reports.push(("shop/web-two", second.stop().await));
    for (pod, report) in reports {
        ensure!(report.failed == 0, "{pod}: {report}");
        ensure!(
            report.count(|via| *via == Via::Direct) > 0 && report.count(|via| *via != Via::Direct) > 0,
            "{pod} did not call both ways: {report}"
        );
    }
    Ok(())
}

/// Calls a host in scope, and one that never comes into it.
async fn load(mesh: &Mesh, from: &str) -> Result<Load> {
    let spec = LoadSpec::new(from)
        .get("http://direct.books:8080/")
        .get("http://missed.books:8080/");
    mesh.start_load(&spec).await
}

/// Takes a pod out as a kubelet does: its endpoint goes first, then the pod.
async fn leave(mesh: &Mesh, load: &Load, pod: &str) -> Result<()> {
    mesh.set_ready(pod, false).await?;
    until(format!("no calls to {pod}"), LONG, async || {
        let before = load.so_far().served_by(pod);
        load.more(CALLS).await?;
        let after = load.so_far().served_by(pod);
        ensure!(after == before, "{} more", after - before);
        Ok(())
    })
    .await?;
    mesh.remove_pod(pod).await
}
