//! What a fence would break or open, said before.

use serde_json::{Value, json};

use crate::engine::Change;
use crate::observe::Watched;
use crate::settings::Settings;
use crate::simulate::world::{SYSTEM, settings};
use crate::tests::*;

const NAME: &str = "kubernetes.io/metadata.name";

fn to(namespaces: &[&str]) -> Value {
    let peers = namespaces.iter();
    let peers = peers.map(|name| json!({"namespaceSelector": {"matchLabels": {NAME: name}}}));
    json!([{"to": peers.collect::<Vec<_>>()}])
}

fn policy(world: &mut World, name: &str, pods: &Value, egress: &Value) {
    let spec = json!({"podSelector": pods, "policyTypes": ["Egress"], "egress": egress});
    world.object("NetworkPolicy", "shop", name, spec);
    world.settle();
}

/// A shop in this mode, its pods kept from everything but `books`.
fn walled_shop(mode: &str) -> World {
    let mut world = World::new();
    world.namespace_with(SYSTEM, None, &[(NAME, SYSTEM)]);
    world.namespace("shop", Some(mode));
    world.service("shop", "web", &["http:8080"]);
    world.pod("shop", "web-1", &[("app", "web")]);
    policy(&mut world, "wall", &json!({}), &to(&["books"]));
    world
}

#[test]
fn nothing_is_enforced_where_pods_may_not_call_the_gateway() {
    let mut world = walled_shop("enforce");
    assert_eq!(world.condition("shop", "web", "Ready"), "False EgressBlocked");
    assert!(
        message(&world).contains("NetworkPolicy shop/wall"),
        "{}",
        message(&world)
    );
    // Another policy for the same pods adds to what they may call.
    policy(
        &mut world,
        "more",
        &json!({"matchLabels": {"app": "web"}}),
        &to(&[SYSTEM]),
    );
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    world.gone(Watched::NetworkPolicies, "shop", "more");
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "False EgressBlocked");
    assert_eq!(
        world.condition("shop", "web", "Enforced"),
        "True EgressBlocked",
        "what is enforced stays"
    );
    policy(
        &mut world,
        "wall",
        &json!({"matchLabels": {"app": "cart"}}),
        &to(&["books"]),
    );
    assert_eq!(
        world.condition("shop", "web", "Ready"),
        "True Scoped",
        "it is for others"
    );
}

#[test]
fn it_is_said_while_a_fence_observes() {
    let mut world = walled_shop("observe");
    mesh_config(&mut world, "extensionProviders: [{name: servicefence}]");
    assert_eq!(world.condition("shop", "web", "Ready"), "True EgressBlocked");
    world.gone(Watched::NetworkPolicies, "shop", "wall");
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Observing");
}

#[test]
fn a_wall_that_would_be_opened_is_said_before_and_after() {
    let mut world = shop();
    let wall = |hosts: &[&str]| json!({"egress": [{"hosts": hosts}]});
    let all = [format!("{SYSTEM}/*"), "./*".to_owned()];
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    world.object("Sidecar", "istio-system", "default", wall(&all));
    world.settle();
    assert_eq!(
        world.condition("shop", "web", "Ready"),
        "True Scoped",
        "nothing is refused"
    );
    mesh_config(&mut world, "outboundTrafficPolicy: {mode: REGISTRY_ONLY}");
    assert_eq!(world.condition("shop", "web", "Ready"), "True WallOpened");
    assert!(
        message(&world).contains("Sidecar istio-system/default"),
        "{}",
        message(&world)
    );
    world.object("Sidecar", "istio-system", "default", wall(&["*/*"]));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}

/// A CronJob has none between two runs.
#[test]
fn what_a_fence_would_break_is_said_while_it_has_no_pods() {
    let mut world = walled_shop("enforce");
    world.gone(Watched::Pods, "shop", "web-1");
    policy(
        &mut world,
        "wall",
        &json!({"matchLabels": {"app": "web"}}),
        &to(&["books"]),
    );
    assert_eq!(world.condition("shop", "web", "Ready"), "False EgressBlocked");
    // The next pod may have further labels.
    let others = json!({"matchExpressions": [{"key": "egress", "operator": "DoesNotExist"}]});
    policy(&mut world, "wall", &others, &to(&["books"]));
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    let mut world = World::new();
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    let let_in = |principal: &str| json!({"rules": [{"from": [{"source": {"principals": [principal]}}]}]});
    world.object(
        "AuthorizationPolicy",
        "istio-system",
        "all",
        let_in("*/ns/shop/sa/web"),
    );
    world.settle();
    assert_eq!(
        world.condition("shop", "web", "Ready"),
        "False GatewayNotAuthorized"
    );
    world.object(
        "AuthorizationPolicy",
        "istio-system",
        "all",
        let_in("*/ns/till/sa/web"),
    );
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}

/// One with an empty selector is for the pods of its own namespace.
#[test]
fn a_sidecar_of_the_root_namespace_with_an_empty_selector_is_not_the_meshs_default() {
    let mut world = shop();
    let mut wall = json!({
        "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
        "egress": [{"hosts": ["./*", format!("{SYSTEM}/*")]}],
    });
    world.object("Sidecar", "istio-system", "default", wall.clone());
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True WallOpened");
    wall["workloadSelector"] = json!({});
    world.object("Sidecar", "istio-system", "default", wall);
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}

/// The EnvoyFilter of a namespace is for all of its pods.
#[test]
fn a_wall_of_other_pods_of_the_namespace_is_said_too() {
    let mut world = shop();
    let system = format!("{SYSTEM}/*");
    let mut wall = json!({
        "workloadSelector": {"labels": {"app": "vault"}},
        "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
        "egress": [{"hosts": ["./*", system]}],
    });
    world.object("Sidecar", "shop", "vault", wall.clone());
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True WallOpened");
    assert!(
        message(&world).contains("Sidecar shop/vault"),
        "{}",
        message(&world)
    );
    wall["outboundTrafficPolicy"] = json!({"mode": "ALLOW_ANY"});
    world.object("Sidecar", "shop", "vault", wall);
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}

/// A shop in this mode, in a mesh with other clusters.
fn shop_of_several_clusters(mode: &str, settings: Settings) -> World {
    let mut world = World::with(settings);
    world.apply(Change::RemoteClusters(true));
    world.namespace("shop", Some(mode));
    world.service("shop", "web", &["http:8080"]);
    world.service("books", "reviews", &["http:8080"]);
    world.settle();
    world
}

#[test]
fn nothing_is_enforced_in_a_mesh_of_several_clusters_and_what_is_enforced_stays() {
    let mut world = shop_of_several_clusters("enforce", settings());
    assert_eq!(world.condition("shop", "web", "Enforced"), "False RemoteClusters");
    assert!(
        message(&world).contains("set istio.multiCluster of the chart"),
        "{}",
        message(&world)
    );
    world.apply(Change::RemoteClusters(false));
    learn(&mut world, &reviews());
    world.settle();
    let with_reviews = scope(&world);
    assert_eq!(world.condition("shop", "web", "Enforced"), "True Scoped");
    world.apply(Change::RemoteClusters(true));
    world.edit("shop", "web", json!({"deny": ["reviews.books"]}));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Enforced"), "True RemoteClusters");
    assert_eq!(scope(&world), with_reviews, "no host leaves");
}

#[test]
fn a_mesh_of_several_clusters_is_fenced_where_the_chart_says_so() {
    let accepts = Settings {
        fences_multi_cluster: true,
        ..settings()
    };
    let world = shop_of_several_clusters("enforce", accepts);
    assert_eq!(world.condition("shop", "web", "Enforced"), "True Scoped");
}

#[test]
fn what_keeps_a_fence_from_being_enforced_is_said_while_it_observes() {
    let mut world = shop_of_several_clusters("observe", settings());
    assert_eq!(world.condition("shop", "web", "Ready"), "False NothingObserved");
    assert!(
        message(&world).starts_with("istiod serves other clusters too"),
        "{}",
        message(&world)
    );
    mesh_config(&mut world, "extensionProviders: [{name: servicefence}]");
    assert_eq!(world.condition("shop", "web", "Ready"), "True RemoteClusters");
    world.apply(Change::RemoteClusters(false));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Observing");
    world.mesh_config(
        "istio",
        Some("{extensionProviders: [{name: servicefence}], rootNamespace: mesh}"),
    );
    world.settle();
    assert_eq!(
        world.condition("shop", "web", "Ready"),
        "True RootNamespaceMismatch"
    );
}

#[test]
fn a_policy_of_the_whole_mesh_that_tells_the_gateway_from_the_workload_is_said() {
    let mut world = shop();
    let gateway = "cluster.local/ns/servicefence-system/sa/servicefence-fallback";
    let not_authorized = "True GatewayNotAuthorized";
    for (action, source, expected) in [
        ("ALLOW", json!({"namespaces": ["shop"]}), not_authorized),
        ("ALLOW", json!({"namespaces": ["shop", SYSTEM]}), "True Scoped"),
        (
            "ALLOW",
            json!({"principals": ["cluster.local/ns/shop/*", gateway]}),
            "True Scoped",
        ),
        ("ALLOW", json!({"namespaces": ["monitoring"]}), "True Scoped"),
        ("ALLOW", json!({"principals": ["*"]}), "True Scoped"),
        (
            "DENY",
            json!({"notNamespaces": ["shop", "books"]}),
            not_authorized,
        ),
        ("DENY", json!({"notPrincipals": ["*"]}), "True Scoped"),
        ("DENY", json!({"namespaces": [SYSTEM]}), not_authorized),
    ] {
        let spec = json!({"action": action, "rules": [{"from": [{"source": source}]}]});
        world.object("AuthorizationPolicy", "istio-system", "all", spec);
        world.settle();
        assert_eq!(
            world.condition("shop", "web", "Enforced"),
            expected,
            "{action} {source}"
        );
    }
    assert!(
        message(&world).contains("AuthorizationPolicy istio-system/all"),
        "{}",
        message(&world)
    );
    // One that is for certain pods puts these into scopes.
    let spec = json!({
        "selector": {"matchLabels": {"app": "ratings"}}, "rules": [{"from": [{"source": {"namespaces": ["shop"]}}]}],
    });
    world.object("AuthorizationPolicy", "istio-system", "all", spec);
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}

#[test]
fn nothing_is_enforced_first_under_such_a_policy() {
    let mut world = World::new();
    let spec = json!({"rules": [{"from": [{"source": {"namespaces": ["shop"]}}]}]});
    world.object("AuthorizationPolicy", "istio-system", "all", spec);
    stock(&mut world);
    assert_eq!(
        world.condition("shop", "web", "Ready"),
        "False GatewayNotAuthorized"
    );
    world.gone(Watched::AuthorizationPolicies, "istio-system", "all");
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}
