//! An AuthorizationPolicy of the whole mesh that names a workload and not the fallback gateway: destinations
//! would refuse its first calls, and its fence says so.

use anyhow::{Result, ensure};
use servicefence_e2e::{Call, Mesh, PodSpec};

crate::steps![a_policy_of_the_whole_mesh_that_does_not_name_the_gateway_is_said];

const WEB: &str = "admitted/web";
const REVIEWS: &str = "admitting/reviews";

async fn a_policy_of_the_whole_mesh_that_does_not_name_the_gateway_is_said(mesh: Mesh) -> Result<()> {
    mesh.add_app(PodSpec::new(WEB).http(8080)).await?;
    mesh.add_app(PodSpec::new(REVIEWS).http(8080)).await?;
    let admit = |namespace: &str| {
        format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: callers, namespace: {namespace}}}, \
             spec: {{rules: [{{from: [{{source: {{namespaces: [admitted]}}}}]}}]}}}}"
        )
    };
    mesh.apply_yaml(&admit("istio-system")).await?;
    mesh.kubectl(&["label", "namespace", "admitted", "servicefence.io/mode=enforce"])
        .await?;
    let reason = mesh
        .wait_condition("admitted", "web", "Enforced", "False")
        .await?;
    ensure!(reason == "GatewayNotAuthorized", "{reason}");
    let call = Call::get("http://reviews.admitting:8080/");
    let unscoped = mesh.call(WEB, &call).await;
    ensure!(unscoped.is_from(REVIEWS), "{unscoped}");

    mesh.apply_yaml(&admit("admitting")).await?;
    mesh.kubectl(&["-n", "istio-system", "delete", "authorizationpolicy", "callers"])
        .await?;
    mesh.wait_enforced("admitted", "web").await?;
    let first = mesh.call(WEB, &call).await;
    ensure!(first.is_from(REVIEWS), "{first}");
    for pod in [WEB, REVIEWS] {
        mesh.remove_pod(pod).await?;
    }
    mesh.kubectl(&["delete", "namespace", "admitted", "admitting"])
        .await?;
    mesh.wait_at_rest("shop").await
}
