//! The mesh's default Sidecar has an `egressProxy`: calls to unknown hosts go there, from fenced callers too.

use anyhow::{Result, ensure};
use servicefence_e2e::install::{SOON, SYSTEM};
use servicefence_e2e::wait::until;
use servicefence_e2e::{Call, Mesh, PodSpec, Protocol, Server};

crate::steps![what_the_mesh_does_not_know_goes_to_the_egress_proxy];

const OUTSIDE: &str = "unknown.example.com";

async fn what_the_mesh_does_not_know_goes_to_the_egress_proxy(mesh: Mesh) -> Result<()> {
    mesh.add_app(PodSpec::new("outward/web").http(8080)).await?;
    mesh.add_app(PodSpec::new("unfenced/free").http(8080)).await?;
    mesh.add_app(PodSpec::new("edge/out").http(8080)).await?;
    let outside = Server {
        protocol: Protocol::Http,
        port: 8080,
    };
    mesh.add_external(OUTSIDE, &[outside]).await?;
    mesh.enforce("outward", &["web"]).await?;
    mesh.apply_yaml(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: istio-system}
spec:
  egress: [{hosts: ['*/*']}]
  outboundTrafficPolicy:
    mode: ALLOW_ANY
    egressProxy: {host: out.edge.svc.cluster.local, port: {number: 8080}}
",
    )
    .await?;
    make_routes_anew(&mesh, "istio.io/egress=on").await?;
    let call = Call::get(&format!("http://{OUTSIDE}:8080/"));
    for caller in ["unfenced/free", "outward/web"] {
        until(format!("{caller} goes by the egress proxy"), SOON, async || {
            let reply = mesh.call(caller, &call).await;
            ensure!(reply.is_from("edge/out"), "{reply}");
            Ok(())
        })
        .await?;
    }
    mesh.wait_at_rest("outward").await?;
    let why = mesh.explain("outward/web", "out.edge.svc.cluster.local").await?;
    ensure!(why.to_string().contains("egressProxy"), "{why}");

    mesh.kubectl(&["-n", "istio-system", "delete", "sidecar", "default"])
        .await?;
    make_routes_anew(&mesh, "istio.io/egress-").await?;
    until("calls leave the mesh by themselves again", SOON, async || {
        let reply = mesh.call("outward/web", &call).await;
        ensure!(reply.is_from(&format!("external/{OUTSIDE}")), "{reply}");
        Ok(())
    })
    .await?;
    for pod in ["outward/web", "unfenced/free", "edge/out"] {
        mesh.remove_pod(pod).await?;
    }
    mesh.kubectl(&["delete", "namespace", "outward", "unfenced", "edge"])
        .await?;
    mesh.wait_at_rest("shop").await
}

/// istiod keeps the routes that it has made, for unscoped proxies too. It makes them anew when a Service in
/// them changes, and not when a Sidecar does. So this changes a label of the Services.
async fn make_routes_anew(mesh: &Mesh, label: &str) -> Result<()> {
    for (namespace, name) in [("edge", "out"), (SYSTEM, "servicefence-fallback")] {
        mesh.kubectl(&["-n", namespace, "label", "service", name, label])
            .await?;
    }
    Ok(())
}
