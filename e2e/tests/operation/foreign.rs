//! Labels, fences and Sidecars that are not as they should be, or not ours: the owner is told, nothing is
//! overwritten.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Mesh, Writes};

use crate::shop::{self, warning};

crate::steps![
    an_unknown_mode_is_said_on_the_object,
    a_fence_without_its_service_waits_for_it,
    a_foreign_sidecar_of_our_name_is_never_overwritten,
    a_users_sidecar_comes_first_until_it_is_deleted,
];

async fn an_unknown_mode_is_said_on_the_object(mesh: Mesh) -> Result<()> {
    let meaningless = |what: &str| {
        format!(
            "the label servicefence.io/mode=Enforced of {what} means nothing and changes nothing: use enforce, observe \
             or off"
        )
    };
    mesh.apply_yaml(
        "
apiVersion: v1
kind: Namespace
metadata: {name: typo, labels: {servicefence.io/mode: Enforced}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: typo, labels: {servicefence.io/mode: Enforced}}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
",
    )
    .await?;
    // Events on what has no namespace are kept in `default`.
    let said = warning(&mesh, "default", "UnknownLabel", ("Namespace", "typo")).await?;
    ensure!(said == meaningless("Namespace typo"), "{said}");
    let said = warning(&mesh, "typo", "UnknownLabel", ("Service", "web")).await?;
    ensure!(said == meaningless("Service web"), "{said}");
    // Where their authors look; `kubectl describe namespace` shows no Events of anyone.
    let shown = mesh
        .kubectl(&["-n", "typo", "describe", "service", "web"])
        .await?;
    ensure!(shown.contains(&said), "{shown}");
    let shown = mesh.kubectl(&["events", "--for", "namespace/typo"]).await?;
    ensure!(shown.contains("UnknownLabel"), "{shown}");
    let fences = mesh.kubectl(&["-n", "typo", "get", "sf", "-o", "name"]).await?;
    ensure!(fences.is_empty(), "nothing was in force, but there are {fences}");
    mesh.kubectl(&["delete", "namespace", "typo"]).await?;
    Ok(())
}

async fn a_fence_without_its_service_waits_for_it(mesh: Mesh) -> Result<()> {
    mesh.apply_yaml(
        "
apiVersion: v1
kind: Namespace
metadata: {name: foreign}
---
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: early, namespace: foreign}
spec: {mode: Enforce, workload: {service: later}}
",
    )
    .await?;
    let reason = mesh.wait_condition("foreign", "early", "Ready", "False").await?;
    ensure!(reason == "ServiceNotFound", "{reason}");
    let said = warning(&mesh, "foreign", "ServiceNotFound", ("ServiceFence", "early")).await?;
    ensure!(
        said.contains("there is no Service later in this namespace"),
        "{said}"
    );
    mesh.apply_yaml(
        "
apiVersion: v1
kind: Service
metadata: {name: later, namespace: foreign}
spec: {selector: {app: later}, ports: [{name: http, port: 80}]}
",
    )
    .await?;
    mesh.wait_condition("foreign", "early", "Enforced", "True")
        .await?;
    mesh.kubectl(&["-n", "foreign", "delete", "sf", "early"]).await?;
    until("its Sidecar to go with it", SOON, async || {
        let left = shop::get(&mesh, "foreign", "sidecar", "servicefence-early").await?;
        ensure!(left.is_none(), "it is there");
        Ok(())
    })
    .await
}

/// A fence `web` of a namespace `foreign`, and its Service.
const FENCE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: foreign}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: foreign}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: web, namespace: foreign}
spec: {mode: Enforce}
";

fn users_sidecar(name: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: {name}, namespace: foreign}}
spec:
  workloadSelector: {{labels: {{app: web}}}}
  egress: [{{hosts: ['books/*', 'istio-system/*']}}]
"
    )
}

async fn a_foreign_sidecar_of_our_name_is_never_overwritten(mesh: Mesh) -> Result<()> {
    let namespace = FENCE.split("---").next().unwrap_or_default();
    mesh.apply_yaml(namespace).await?;
    mesh.apply_yaml(&users_sidecar("servicefence-web")).await?;
    let before = shop::object(&mesh, "foreign", "sidecar", "servicefence-web").await?;
    mesh.apply_yaml(FENCE).await?;
    let reason = mesh.wait_condition("foreign", "web", "Ready", "False").await?;
    ensure!(reason == "NameTaken", "{reason}");
    let said = warning(&mesh, "foreign", "NameTaken", ("ServiceFence", "web")).await?;
    ensure!(
        said.contains("foreign/servicefence-web exists and is not managed by ServiceFence"),
        "{said}"
    );
    let writes = Writes::at_rest(&mesh).await?;
    ensure!(
        Writes::at_rest(&mesh).await? == writes,
        "it is tried again and again"
    );
    let after = shop::object(&mesh, "foreign", "sidecar", "servicefence-web").await?;
    ensure!(before == after, "it was {before} and is {after}");

    mesh.kubectl(&["-n", "foreign", "delete", "sidecar", "servicefence-web"])
        .await?;
    mesh.wait_condition("foreign", "web", "Enforced", "True").await?;
    mesh.wait_at_rest("foreign").await
}

async fn a_users_sidecar_comes_first_until_it_is_deleted(mesh: Mesh) -> Result<()> {
    mesh.apply_yaml(FENCE).await?;
    mesh.wait_condition("foreign", "web", "Enforced", "True").await?;
    mesh.wait_at_rest("foreign").await?;
    let ours = shop::object(&mesh, "foreign", "sidecar", "servicefence-web").await?;
    mesh.apply_yaml(&users_sidecar("mine")).await?;
    until("ours to make way", SOON, async || {
        let left = shop::get(&mesh, "foreign", "sidecar", "servicefence-web").await?;
        ensure!(left.is_none(), "it is there");
        Ok(())
    })
    .await?;
    until("the reason", SOON, async || {
        let fence = mesh.fence("foreign", "web").await?;
        let all = fence["status"]["conditions"]
            .as_array()
            .context("no conditions")?;
        for kind in ["Ready", "Enforced"] {
            let is = all.iter().find(|is| is["type"] == kind).context("not there")?;
            ensure!(
                is["status"] == "False" && is["reason"] == "ForeignSidecar",
                "{is}"
            );
        }
        ensure!(
            fence["status"]["scope"] == Value::Null,
            "{}",
            fence["status"]["scope"]
        );
        Ok(())
    })
    .await?;
    let said = warning(&mesh, "foreign", "ForeignSidecar", ("ServiceFence", "web")).await?;
    ensure!(
        said.contains("Sidecar foreign/mine applies to the same pods"),
        "{said}"
    );

    mesh.kubectl(&["-n", "foreign", "delete", "sidecar", "mine"])
        .await?;
    mesh.wait_condition("foreign", "web", "Enforced", "True").await?;
    mesh.wait_at_rest("foreign").await?;
    let back = shop::object(&mesh, "foreign", "sidecar", "servicefence-web").await?;
    ensure!(
        back["spec"] == ours["spec"],
        "it was {} and is {}",
        ours["spec"],
        back["spec"]
    );
    mesh.kubectl(&["-n", "foreign", "delete", "sf", "web"]).await?;
    until("nothing to be left", SOON, async || {
        let left = mesh
            .kubectl(&[
                "-n",
                "foreign",
                "get",
                "sf,sidecars,envoyfilters,virtualservices",
                "-o",
                "name",
            ])
            .await?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    })
    .await
}
