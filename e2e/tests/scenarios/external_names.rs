//! ExternalNames, called by Host: DNS answers with the address of the Service that they stand for.

use anyhow::Result;
use servicefence_e2e::Call;

use crate::scene::Scene;

crate::scenarios![
    c1_calls_by_an_external_name_are_direct_once_learned,
    c2_rules_may_lead_to_an_external_name,
];

/// An ExternalName for a Service of the scene, in one of its namespaces.
async fn external_name(scene: &Scene, name: &str, stands_for: &str) -> Result<()> {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let host = scene.host(stands_for);
    scene
        .yaml(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: $P-{namespace}}}, \
             spec: {{type: ExternalName, externalName: {host}, ports: [{{name: http, port: 8080}}]}}}}"
        ))
        .await
}

async fn c1_calls_by_an_external_name_are_direct_once_learned(scene: Scene) -> Result<()> {
    let web = scene.app("names/web").http(8080);
    let reviews = scene.app("names-books/reviews").http(8080);
    scene.add([web, reviews]).await?;
    external_name(&scene, "names/legacy", "names-books/reviews").await?;
    scene.enforce("names", &["web"]).await?;
    let url = format!("http://{}:8080/", scene.host("names-books/reviews"));
    let call = Call::get(&url).host("legacy:8080");
    scene
        .first_call("names/web", "names-books/reviews", &call)
        .await?;
    scene
        .until_direct("names/web", "names-books/reviews", &call)
        .await?;
    // One that comes when the host is in scope already.
    external_name(&scene, "names/older", "names/legacy").await?;
    let call = Call::get(&url).host("older:8080");
    scene
        .until_direct("names/web", "names-books/reviews", &call)
        .await?;
    Ok(())
}

async fn c2_rules_may_lead_to_an_external_name(scene: Scene) -> Result<()> {
    let web = scene.app("led/web").http(8080);
    let apps = ["led-books/reviews", "led-books/v2"].map(|name| scene.app(name).http(8080));
    scene.add(apps.into_iter().chain([web])).await?;
    external_name(&scene, "led-books/next", "led-books/v2").await?;
    scene
        .yaml(
            "{apiVersion: networking.istio.io/v1, kind: VirtualService, \
             metadata: {name: reviews, namespace: $P-led-books}, \
             spec: {hosts: [reviews], http: [{route: [{destination: {host: next}}]}]}}",
        )
        .await?;
    scene.enforce("led", &["web"]).await?;
    let call = Call::get(&format!("http://{}:8080/", scene.host("led-books/reviews")));
    scene.first_call("led/web", "led-books/v2", &call).await?;
    scene.until_direct("led/web", "led-books/v2", &call).await?;
    Ok(())
}
