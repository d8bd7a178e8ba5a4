//! A namespace that istiod stops looking into, by `discoverySelectors` of MeshConfig, and looks into again:
//! its Services are no Services of the mesh meanwhile, to fenced callers as to others.

use anyhow::{Result, ensure};
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Call, Mesh, PodSpec};

crate::steps![a_namespace_that_istiod_does_not_look_into_is_outside_the_mesh];

const SELECTORS: &str = "discoverySelectors: [{matchExpressions: [{key: dark, operator: DoesNotExist}]}]";

const FENCE: &str = "
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: lamp, namespace: night}
";

/// Not fenced, to compare with.
const JUDGE: &str = "look-free/web";
const FENCED: &str = "look/web";
const CLUSTER: &str = "|lamp.night.svc";

async fn a_namespace_that_istiod_does_not_look_into_is_outside_the_mesh(mesh: Mesh) -> Result<()> {
    for caller in [JUDGE, FENCED] {
        mesh.add_app(PodSpec::new(caller).http(8080)).await?;
    }
    // Without a proxy, which would get no configuration meanwhile.
    mesh.add_app(PodSpec::new("night/lamp").plain().http(8080))
        .await?;
    mesh.enforce("look", &["web"]).await?;
    mesh.set_mesh_config(SELECTORS).await?;

    mesh.kubectl(&["label", "namespace", "night", "dark=yes"]).await?;
    mesh.wait_cluster(JUDGE, CLUSTER, false).await?;
    mesh.apply_yaml(FENCE).await?;
    until("a fence that says why", SOON, async || {
        let fence = mesh.fence("night", "lamp").await?.to_string();
        ensure!(fence.contains("NamespaceNotDiscovered"), "{fence}");
        Ok(())
    })
    .await?;
    let call = Call::get("http://lamp.night:8080/");
    for caller in [JUDGE, FENCED] {
        let (reply, taken) = mesh.proxy(caller)?.watch(mesh.call(caller, &call)).await?;
        ensure!(reply.is_from("night/lamp"), "{caller}: {reply}, by {taken}");
        ensure!(!taken.uses(CLUSTER), "{caller} knows it: by {taken}");
    }

    mesh.kubectl(&["label", "namespace", "night", "dark-"]).await?;
    mesh.wait_cluster(JUDGE, CLUSTER, true).await?;
    until(
        "a first call by the gateway's Service, learned",
        SOON,
        async || {
            let reply = mesh.call(FENCED, &call).await;
            ensure!(reply.is_from("night/lamp"), "{reply}");
            let learned = mesh.fence("look", "web").await?["status"]["learned"].to_string();
            ensure!(learned.contains("lamp.night.svc.cluster.local"), "{learned}");
            Ok(())
        },
    )
    .await?;
    mesh.wait_learned("look", "web", "lamp.night.svc.cluster.local")
        .await?;
    mesh.set_mesh_config("discoverySelectors: []").await
}
