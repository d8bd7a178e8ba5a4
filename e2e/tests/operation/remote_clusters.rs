//! A mesh of several clusters: nothing of it is fenced that is not fenced yet, and what is stays.

use anyhow::{Result, ensure};
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Mesh, PodSpec};

use crate::shutdown;

/// As `istioctl create-remote-secret` makes it, of a cluster that does not answer: istiod counts it.
const SECRET: &str = "
apiVersion: v1
kind: Secret
metadata:
  name: istio-remote-secret-west
  namespace: istio-system
  labels: {istio/multiCluster: 'true'}
stringData:
  west: |
    apiVersion: v1
    kind: Config
    clusters: [{name: west, cluster: {server: 'https://127.0.0.1:1'}}]
    users: [{name: west, user: {token: none}}]
    contexts: [{name: west, context: {cluster: west, user: west}}]
    current-context: west
";

/// Afterwards istiod goes on knowing the other cluster: where its Secret goes before istiod has given up on
/// it, istiod never counts it out again.
pub(crate) async fn nothing_new_is_fenced_in_a_mesh_of_several_clusters(mesh: &Mesh) -> Result<()> {
    mesh.add_app(PodSpec::new("several/web").http(8080)).await?;
    mesh.apply_yaml(SECRET).await?;
    reason(mesh, "shop", "True", "RemoteClusters").await?;
    mesh.kubectl(&["label", "namespace", "several", "servicefence.io/mode=enforce"])
        .await?;
    reason(mesh, "several", "False", "RemoteClusters").await?;
    shutdown::upgrade(mesh, &["istio.multiCluster=true"]).await?;
    reason(mesh, "several", "True", "Scoped").await?;
    reason(mesh, "shop", "True", "Scoped").await
}

/// Waits for the condition `Enforced` of a fence to be so.
async fn reason(mesh: &Mesh, namespace: &str, status: &str, reason: &str) -> Result<()> {
    until(format!("{reason} on {namespace}/web"), SOON, async || {
        let is = mesh.wait_condition(namespace, "web", "Enforced", status).await?;
        ensure!(is == reason, "it says {is}");
        Ok(())
    })
    .await
}
