//! What a fence would break, said before it is enforced.

use anyhow::Result;
use servicefence_e2e::Call;

use crate::scene::Scene;

crate::scenarios![c13_pods_that_may_not_call_the_gateway_are_not_scoped];

async fn c13_pods_that_may_not_call_the_gateway_are_not_scoped(scene: Scene) -> Result<()> {
    let (web, reviews) = ("kept/web", "kept-books/reviews");
    scene
        .add([web, reviews].map(|name| scene.app(name).http(8080)))
        .await?;
    let policy = |name: &str, namespace: &str| {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, namespace: $P-kept}}, \
             spec: {{podSelector: {{}}, policyTypes: [Egress], egress: [{{to: [{{namespaceSelector: {{matchLabels: \
             {{kubernetes.io/metadata.name: {namespace}}}}}}}]}}]}}}}"
        )
    };
    scene.yaml(&policy("books", "$P-kept-books")).await?;
    scene.held_back("kept", "web", "EgressBlocked").await?;
    scene.yaml(&policy("gateway", "servicefence-system")).await?;
    scene.enforce("kept", &["web"]).await?;
    let call = Call::get(&format!("http://{}:8080/", scene.host(reviews)));
    scene.first_call(web, reviews, &call).await?;
    Ok(())
}
