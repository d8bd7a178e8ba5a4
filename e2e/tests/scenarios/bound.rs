//! Routes of Gateway API that are bound to Services: what they say holds on the first call as on every later
//! one.

use anyhow::{Result, anyhow, ensure};
use serde_json::json;
use servicefence_e2e::install::{SOON, SYSTEM};
use servicefence_e2e::tools::gateway_api_crds;
use servicefence_e2e::wait::{Hopeless, LONG, until};
use servicefence_e2e::{Call, Protocol, Reply, Via};

use crate::routing::books;
use crate::scene::Scene;

crate::scenarios![a6_routes_of_gateway_api_hold_on_first_calls_and_later];

/// A route of the Service's own namespace, for all callers, and one of a caller's namespace, for the callers
/// there.
const ROUTES: &str = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, \
                      metadata: {name: producer, namespace: $P-bound-books}, spec: {\
                      parentRefs: [{group: '', kind: Service, name: producer, port: 8080}], rules: [\
                      {matches: [{path: {type: PathPrefix, value: /old}}], \
                      filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}], \
                      backendRefs: [{name: d, port: 8080}]}, {backendRefs: [{name: c, port: 8080}]}]}}\n---\n\
                      {apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, \
                      metadata: {name: consumer, namespace: $P-bound}, spec: {\
                      parentRefs: [{group: '', kind: Service, name: consumer, namespace: $P-bound-books}], rules: [\
                      {backendRefs: [{name: d, namespace: $P-bound-books, port: 8080}]}]}}";

/// Gateway API is installed while everything runs, as users may.
async fn a6_routes_of_gateway_api_hold_on_first_calls_and_later(scene: Scene) -> Result<()> {
    let other = async { scene.add([scene.app("bound-other/web").http(8080)]).await };
    tokio::try_join!(books(&scene, "bound", &["producer", "consumer"]), other)?;
    scene.mesh.apply_yaml(&gateway_api_crds()?).await?;
    until("routes are taken", LONG, async || scene.yaml(ROUTES).await).await?;
    let consumer = Call::get(&format!("http://{}:8080/", scene.host("bound-books/consumer")));
    until("istiod follows routes", LONG, async || {
        let (reply, taken) = scene.call("bound/web", &consumer).await?;
        ensure!(reply.is_from(&scene.pod("bound-books/d")), "{reply}, by {taken}");
        Ok(())
    })
    .await?;
    let (caller, books) = (scene.ns("bound"), scene.ns("bound-books"));
    let carried = format!("fallback-{books}");
    until("the gateway follows routes", LONG, async || {
        let rules = scene
            .kubectl(&["-n", SYSTEM, "get", "virtualservice", &carried, "-o", "yaml"])
            .await?;
        for name in [format!("{books}.producer.0"), format!("{caller}.consumer.0")] {
            ensure!(rules.contains(&name), "it has no {name}:\n{rules}");
        }
        Ok(())
    })
    .await?;
    tokio::try_join!(
        scene.enforce("bound", &["web"]),
        scene.enforce("bound-other", &["web"])
    )?;

    let producer = |path: &str| {
        Call::get(&format!(
            "http://{}:8080{path}",
            scene.host("bound-books/producer")
        ))
    };
    for (from, to, call, path) in [
        ("bound/web", "bound-books/d", producer("/old/page"), "/new/page"),
        ("bound/web", "bound-books/d", consumer.clone(), "/"),
        // A prefix ends where a part of the path does.
        ("bound-other/web", "bound-books/c", producer("/older"), "/older"),
        ("bound-other/web", "bound-books/c", consumer, "/"),
    ] {
        let holds = |reply: &Reply| reply.is_from(&scene.pod(to)) && reply.json()["path"] == path;
        let reply = scene.first_call(from, to, &call).await?;
        ensure!(holds(&reply), "the first call from {from} got {reply}");
        until(format!("a direct call from {from}"), SOON, async || {
            let (reply, taken) = scene.call(from, &call).await?;
            if !holds(&reply) {
                return Err(Hopeless(anyhow!("{reply}, by {taken}")).into());
            }
            ensure!(
                !taken.fallback() && reply.via == Some(Via::Direct),
                "{reply}, by {taken}"
            );
            Ok(())
        })
        .await?;
    }
    let wanted = format!("{caller}/{}", scene.host("bound-books/consumer"));
    let scopes = (
        scene.scope("bound/web").await?,
        scene.scope("bound-other/web").await?,
    );
    ensure!(scopes.0.contains(&wanted), "{wanted} is not in {:?}", scopes.0);
    ensure!(!scopes.1.contains(&wanted), "{wanted} is in {:?}", scopes.1);
    a_rule_that_is_refused_stops_no_route(&scene).await
}

/// A header that this cluster wants in no VirtualService.
const REFUSED: &str = "x-refused";

/// The API server refuses a rule, as Istio's webhook may one that was not foreseen: the routes of its
/// namespace follow the Services all the same, and the author of the rule is told.
async fn a_rule_that_is_refused_stops_no_route(scene: &Scene) -> Result<()> {
    let carried = format!("fallback-{}", scene.ns("bound-books"));
    refuse(scene, &carried).await?;
    scene
        .yaml(&format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: refused, namespace: $P-bound-books}}, \
             spec: {{parentRefs: [{{group: '', kind: Service, name: producer, port: 8080}}], rules: [\
             {{matches: [{{headers: [{{name: {REFUSED}, value: x}}]}}], backendRefs: [{{name: c, port: 8080}}]}}]}}}}"
        ))
        .await?;
    scene
        .service("bound-books/late", "c", Protocol::Http, 8080)
        .await?;
    let late = Call::get(&format!("http://{}:8080/", scene.host("bound-books/late")));
    until("a route to the new Service at the gateway", SOON, async || {
        let host = scene.host("bound-books/late");
        for pod in scene.mesh.gateway_pods() {
            let dump = scene.mesh.proxy(&pod.full_name())?.config_dump().await?;
            let route = format!("\"cluster\":\"outbound|8080||{host}\"");
            ensure!(dump.to_string().contains(&route), "{} has none", pod.name);
        }
        Ok(())
    })
    .await?;
    scene.first_call("bound/web", "bound-books/c", &late).await?;
    until("its author to be told", SOON, async || {
        let books = scene.ns("bound-books");
        let shown = scene
            .kubectl(&[
                "-n",
                &books,
                "get",
                "events",
                "--field-selector",
                "reason=RuleNotCarried",
            ])
            .await?;
        ensure!(shown.contains("httproute/refused"), "{shown}");
        ensure!(
            shown.contains("Istio refuses the routes to its namespace"),
            "{shown}"
        );
        Ok(())
    })
    .await
}

/// Has the API server refuse that header in one VirtualService.
async fn refuse(scene: &Scene, name: &str) -> Result<()> {
    let policy = scene.ns("refuse");
    let refuses = format!(
        "!object.spec.http.exists(rule, has(rule.match) && rule.match.exists(one, has(one.headers) && '{REFUSED}' in one.headers))"
    );
    let rules = "{apiGroups: [networking.istio.io], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [virtualservices]}";
    scene
        .yaml(&format!(
            "{{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {{name: {policy}}}, spec: {{\
             matchConstraints: {{resourceRules: [{rules}]}}, \
             matchConditions: [{{name: this, expression: \"object.metadata.name == '{name}'\"}}], \
             validations: [{{expression: \"{refuses}\"}}]}}}}\n---\n\
             {{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {{name: {policy}}}, \
             spec: {{policyName: {policy}, validationActions: [Deny]}}}}"
        ))
        .await?;
    let refused = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": name, "namespace": "default"},
        "spec": {"hosts": ["refused.example.com"], "http": [
            {"match": [{"headers": {REFUSED: {"exact": "x"}}}], "directResponse": {"status": 404}}]},
    });
    until("the policy in force", LONG, async || {
        let taken = scene.mesh.apply(&refused).await.is_ok();
        if taken {
            scene
                .kubectl(&["-n", "default", "delete", "virtualservice", name])
                .await?;
        }
        ensure!(!taken, "it was taken");
        Ok(())
    })
    .await
}
