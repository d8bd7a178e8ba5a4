//! A second ConfigMap with MeshConfig, as managed meshes have one for their users: nothing is enforced before
//! it is there, and what it says counts.

use anyhow::{Result, ensure};
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Mesh, PodSpec};

/// Its name, as istiod's `SHARED_MESH_CONFIG` has it.
pub(crate) const MAP: &str = "istio-shared";

/// The chart's value that names it.
pub(crate) const VALUE: &str = "istio.sharedMeshConfigMap=istio-shared";

const AUTHZ: &str = "infra/authz.infra.svc.cluster.local";

/// It comes, with an external authorization that `shop/web` asks.
pub(crate) async fn comes(mesh: &Mesh) -> Result<()> {
    let reason = mesh.wait_condition("shop", "web", "Enforced", "False").await?;
    ensure!(reason == "MeshConfigNotFound", "without {MAP}: {reason}");
    mesh.add_app(PodSpec::new("infra/authz").http(8080)).await?;
    mesh.apply_yaml(
        "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio-shared, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - name: authz
      envoyExtAuthzHttp: {service: authz.infra.svc.cluster.local, port: 8080}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  action: CUSTOM
  provider: {name: authz}
  rules: [{to: [{operation: {paths: [/asked]}}]}]
",
    )
    .await?;
    mesh.wait_condition("shop", "web", "Enforced", "True").await?;
    mesh.wait_at_rest("shop").await?;
    let scope = mesh.scope("shop", "web").await?;
    ensure!(scope == [AUTHZ], "nothing was called yet: {scope:?}");
    // istiod asks what the provider names, and without its cluster Envoy refuses all.
    until("an answer that was authorized", SOON, async || {
        let reply = mesh.get("free/web", "http://web.shop:8080/asked").await;
        ensure!(reply.is_from("shop/web"), "{reply}");
        Ok(())
    })
    .await
}
