//! MeshConfig in several ConfigMaps, and in one that is not there.

use crate::facts::{MeshConfigFacts, MeshConfigLayer, OutboundMode};
use crate::settings::Settings;
use crate::simulate::world::settings;
use crate::tests::*;

fn facts(layers: &[&str]) -> MeshConfigFacts {
    let layers: Vec<_> = layers
        .iter()
        .map(|text| MeshConfigLayer::parse(text).unwrap())
        .collect();
    MeshConfigFacts::of(&layers)
}

#[test]
fn layers_are_merged_as_istiod_does() {
    let shared = "
accessLogFile: /dev/stdout
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
defaultProviders: {accessLogging: [shared]}
defaultServiceExportTo: ['.']
discoverySelectors: [{matchLabels: {mesh: 'yes'}}]
extensionProviders:
- {name: authz, envoyExtAuthzGrpc: {service: authz.old.svc.cluster.local, port: 9000}}
- {name: zipkin, zipkin: {service: zipkin.trace.svc.cluster.local, port: 9411}}
";
    let over = "
accessLogFile: ''
defaultProviders: {metrics: [prometheus]}
defaultServiceExportTo: null
extensionProviders:
- {name: authz, envoyExtAuthzGrpc: {service: authz.new.svc.cluster.local, port: 9000}}
";
    let merged = facts(&[shared, over]);
    let hosts: Vec<_> = merged
        .provider_hosts
        .iter()
        .map(|provider| &*provider.host)
        .collect();
    assert_eq!(
        hosts,
        ["authz.new.svc.cluster.local", "zipkin.trace.svc.cluster.local"]
    );
    assert_eq!(merged.access_log_file, "", "a value that is empty is a value");
    assert_eq!(
        merged.default_providers,
        ["shared"],
        "it says nothing of access logs"
    );
    assert_eq!(merged.outbound, OutboundMode::RegistryOnly);
    assert!(!merged.default_exports.services.visibility("shop").to("books"));
    assert_eq!(merged.discovery_selectors.len(), 1);
    let list = facts(&[
        shared,
        "discoverySelectors: []\noutboundTrafficPolicy: {mode: ALLOW_ANY}",
    ]);
    assert_eq!(list.discovery_selectors, [], "lists are replaced");
    assert_eq!(list.outbound, OutboundMode::AllowAny);
}

fn two_maps() -> World {
    let mesh_config_maps = ["istio-shared", "istio"].map(Into::into).to_vec();
    let mut world = World::with(Settings {
        mesh_config_maps,
        ..settings()
    });
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    world.service("books", "reviews", &["http:8080"]);
    world.settle();
    world
}

const NOT_FOUND: &str = "False MeshConfigNotFound";

#[test]
fn nothing_new_is_enforced_before_all_of_it_is_there() {
    let mut world = two_maps();
    assert_eq!(world.condition("shop", "web", "Enforced"), NOT_FOUND);
    assert_eq!(world.condition("shop", "web", "Ready"), NOT_FOUND);
    assert!(
        message(&world).contains("no ConfigMap istio-system/istio-shared"),
        "{}",
        message(&world)
    );
    world.mesh_config("istio-shared", Some("{}"));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Enforced"), "True Scoped");
}

#[test]
fn another_root_namespace_keeps_fences_from_being_enforced() {
    let mut world = shop();
    world.mesh_config("istio", Some("rootNamespace: mesh"));
    world.namespace("late", Some("enforce"));
    world.service("late", "web", &["http:8080"]);
    world.settle();
    let said = world.condition("late", "web", "Enforced");
    assert_eq!(said, "False RootNamespaceMismatch");
    assert_eq!(
        world.condition("shop", "web", "Enforced"),
        "True RootNamespaceMismatch"
    );
    assert!(
        message(&world).contains("set istio.rootNamespace of the chart to mesh"),
        "{}",
        message(&world)
    );
    world.mesh_config("istio", Some("rootNamespace: istio-system"));
    world.settle();
    assert_eq!(world.condition("late", "web", "Enforced"), "True Scoped");
}

#[test]
fn what_is_enforced_stays_while_it_is_gone_and_no_host_leaves() {
    let mut world = two_maps();
    world.mesh_config("istio-shared", Some("{}"));
    learn(&mut world, &reviews());
    world.settle();
    let with_reviews = scope(&world);
    world.mesh_config("istio", None);
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), NOT_FOUND);
    assert_eq!(
        world.condition("shop", "web", "Enforced"),
        "True MeshConfigNotFound"
    );
    world.edit("shop", "web", serde_json::json!({"deny": ["reviews.books"]}));
    world.settle();
    assert_eq!(scope(&world), with_reviews);
    world.namespace("late", Some("enforce"));
    world.service("late", "web", &["http:8080"]);
    world.settle();
    assert_eq!(world.condition("late", "web", "Enforced"), NOT_FOUND);
    world.mesh_config("istio", Some("{}"));
    world.settle();
    assert_eq!(world.condition("late", "web", "Enforced"), "True Scoped");
    assert_ne!(scope(&world), with_reviews);
}

#[test]
fn what_providers_call_is_in_every_scope_at_whatever_depth_it_stands() {
    let mut world = shop();
    let sampler = "{httpService: {service: infra/sampler.infra.svc.cluster.local}}";
    let text = format!(
        "extensionProviders:\n\
         - {{name: ask, envoyExtAuthzHttp: {{service: authz.example.com, port: 80}}}}\n\
         - {{name: spans, opentelemetry: {{service: otel.infra.svc.cluster.local, port: 4317, dynatraceSampler: {sampler}}}}}\n"
    );
    let entry = serde_json::json!({
        "hosts": ["authz.example.com"], "resolution": "DNS",
        "ports": [{"name": "http", "number": 80, "protocol": "HTTP"}],
    });
    world.object("ServiceEntry", "infra", "authz", entry);
    mesh_config(&mut world, &text);
    assert_eq!(
        scope(&world),
        [
            "infra/authz.example.com",
            "infra/otel.infra.svc.cluster.local",
            "infra/sampler.infra.svc.cluster.local"
        ]
    );
    let said = world
        .engine
        .explain(&web(), "authz.example.com", world.now)
        .unwrap();
    assert!(
        said.because
            .iter()
            .any(|because| because.detail.contains("extension provider")),
        "{said:?}"
    );
}

#[test]
fn nothing_is_enforced_where_istio_resolves_what_it_does_not_know() {
    let mut world = shop();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    mesh_config(&mut world, "outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}");
    assert_eq!(world.condition("shop", "web", "Ready"), "False DynamicDns");
    world.namespace("late", Some("enforce"));
    world.service("late", "web", &["http:8080"]);
    world.settle();
    assert_eq!(world.condition("late", "web", "Enforced"), "False DynamicDns");
    mesh_config(&mut world, "{}");
    assert_eq!(world.condition("late", "web", "Enforced"), "True Scoped");
}
