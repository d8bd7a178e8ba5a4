//! What a fence would break or open, said before.

use serde_json::{Value, json};

use crate::observe::Watched;
use crate::simulate::world::SYSTEM;
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
