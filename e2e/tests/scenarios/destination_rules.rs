//! DestinationRules that only callers of a namespace follow.

use anyhow::{Result, ensure};
use servicefence_e2e::{Call, ServiceSpec};

use crate::scene::Scene;

crate::scenarios![
    rule_by_a_rule_of_the_callers_a_service_of_tls_is_reached_at_once,
    rule_to_a_subset_that_only_callers_know_is_followed_at_once,
    over_a_rule_for_all_hosts_keeps_the_fences_of_its_namespace_from_being_enforced,
];

async fn rule_by_a_rule_of_the_callers_a_service_of_tls_is_reached_at_once(scene: Scene) -> Result<()> {
    let (web, vault) = ("tls/web", "tls-infra/vault");
    scene.add([scene.app(web).http(8080)]).await?;
    // It speaks TLS itself, and the rule says so. To Istio its port is HTTP.
    scene.mesh.add_pod(scene.app(vault).plain().tls(8443)).await?;
    let service = ServiceSpec::new(&scene.pod(vault)).named_port("http-api", 8443, 8443);
    scene.mesh.add_service(&service).await?;
    scene
        .yaml(&format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: vault, namespace: $P-tls}}, \
             spec: {{host: {}, trafficPolicy: {{tls: {{mode: SIMPLE, sni: vault, insecureSkipVerify: true}}}}}}}}",
            scene.host(vault)
        ))
        .await?;
    let call = Call::get(&format!("http://{}:8443/", scene.host(vault)));
    scene.until_answered(web, vault, &call).await?;
    scene.enforce("tls", &["web"]).await?;
    let (first, taken) = scene.call(web, &call).await?;
    ensure!(first.is_from(&scene.pod(vault)), "{first}, by {taken}");
    Ok(())
}

async fn over_a_rule_for_all_hosts_keeps_the_fences_of_its_namespace_from_being_enforced(
    scene: Scene,
) -> Result<()> {
    let (web, reviews) = ("all/web", "all-books/reviews");
    scene
        .add([web, reviews].map(|name| scene.app(name).http(8080)))
        .await?;
    let rule = |policy: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: all, namespace: $P-all}}, \
             spec: {{host: '*.local', trafficPolicy: {{{policy}}}}}}}"
        )
    };
    scene
        .yaml(&rule("outlierDetection: {consecutive5xxErrors: 5}"))
        .await?;
    scene.held_back("all", "web", "ForeignDestinationRule").await?;
    scene.yaml(&rule("tls: {mode: ISTIO_MUTUAL}")).await?;
    scene.enforce("all", &["web"]).await?;
    let call = Call::get(&format!("http://{}:8080/", scene.host(reviews)));
    scene.first_call(web, reviews, &call).await?;
    Ok(())
}

async fn rule_to_a_subset_that_only_callers_know_is_followed_at_once(scene: Scene) -> Result<()> {
    let (web, reviews, ratings) = ("subset/web", "subset-books/reviews", "subset-books/ratings");
    scene
        .add([web, reviews, ratings].map(|name| scene.app(name).http(8080)))
        .await?;
    scene
        .yaml(&format!(
            "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: $P-subset-books}}
spec:
  hosts: [reviews]
  http: [{{route: [{{destination: {{host: ratings, subset: its}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: ratings, namespace: $P-subset}}
spec:
  host: {}
  subsets: [{{name: its, labels: {{app: ratings}}}}]
",
            scene.host(ratings)
        ))
        .await?;
    let call = Call::get(&format!("http://{}:8080/", scene.host(reviews)));
    scene.until_answered(web, ratings, &call).await?;
    scene.enforce("subset", &["web"]).await?;
    let (first, taken) = scene.call(web, &call).await?;
    ensure!(first.is_from(&scene.pod(ratings)), "{first}, by {taken}");
    Ok(())
}
