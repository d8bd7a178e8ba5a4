//! Services from which proxies fetch the keys of tokens.

use serde_json::{Value, json};

use crate::observe::Watched;
use crate::tests::*;

const KEYS: &str = "auth/keys.auth.svc.cluster.local";
const URI: &str = "http://keys.auth.svc.cluster.local:8080/jwks.json";

/// A shop with two workloads, in a mesh with a server of keys.
fn shop_with_cart() -> World {
    let mut world = shop();
    world.namespace("auth", None);
    world.service("auth", "keys", &["http:8080"]);
    world.service("shop", "cart", &["http:8080"]);
    world.pod("shop", "cart-1", &[("app", "cart"), ("tier", "back")]);
    world.settle();
    world
}

/// RequestAuthentication `tokens` of a namespace, for pods with these labels.
fn authenticated(world: &mut World, namespace: &str, selector: &Value, uri: &str) {
    let spec = json!({
        "selector": {"matchLabels": selector},
        "jwtRules": [{"issuer": "someone@example.com"}, {"issuer": "other@example.com", "jwksUri": uri}],
    });
    world.object("RequestAuthentication", namespace, "tokens", spec);
    world.settle();
}

fn scopes(world: &World) -> [Vec<String>; 2] {
    ["web", "cart"].map(|name| world.scope("shop", name).unwrap())
}

#[test]
fn the_server_of_keys_is_in_the_scopes_of_those_who_check_tokens() {
    let mut world = shop_with_cart();
    authenticated(&mut world, "shop", &json!({"app": "web"}), URI);
    assert_eq!(scopes(&world), [vec![KEYS], vec![]]);
    let said = world.engine.explain(&web(), "keys.auth", world.now).unwrap();
    assert_eq!(said.because[0].source, "Baseline");
    assert_eq!(
        said.because[0].detail,
        "the keys of RequestAuthentication shop/tokens are there, and proxies may fetch them"
    );
    authenticated(&mut world, "shop", &json!({}), URI);
    assert_eq!(scopes(&world), [[KEYS], [KEYS]]);
    world.gone(Watched::RequestAuthentications, "shop", "tokens");
    world.settle();
    assert_eq!(scopes(&world), [[""; 0], [""; 0]]);
}

#[test]
fn one_of_the_root_namespace_is_for_all_and_one_of_another_namespace_for_none() {
    let mut world = shop_with_cart();
    authenticated(&mut world, "istio-system", &json!({"tier": "back"}), URI);
    assert_eq!(scopes(&world), [vec![], vec![KEYS]]);
    authenticated(&mut world, "istio-system", &json!({}), URI);
    assert_eq!(scopes(&world), [[KEYS], [KEYS]]);
    world.gone(Watched::RequestAuthentications, "istio-system", "tokens");
    authenticated(&mut world, "books", &json!({}), URI);
    assert_eq!(scopes(&world), [[""; 0], [""; 0]]);
}

#[test]
fn pods_decide_whom_one_with_a_selector_is_for() {
    let mut world = shop_with_cart();
    authenticated(&mut world, "shop", &json!({"tier": "front"}), URI);
    assert_eq!(scopes(&world), [[""; 0], [""; 0]]);
    world.pod("shop", "web-2", &[("app", "web"), ("tier", "front")]);
    world.settle();
    assert_eq!(scopes(&world), [vec![KEYS], vec![]]);
    // What has no pod yet may get such a one.
    world.service("shop", "new", &["http:8080"]);
    world.settle();
    assert_eq!(world.scope("shop", "new").unwrap(), [KEYS]);
    world.pod("shop", "new-1", &[("app", "new")]);
    world.settle();
    assert_eq!(world.scope("shop", "new").unwrap(), [""; 0]);
}

#[test]
fn only_services_named_in_full_are_looked_up() {
    let mut world = shop_with_cart();
    for uri in [
        "http://keys.auth:8080/jwks.json",
        "https://accounts.example.com/jwks.json",
        "keys.auth.svc.cluster.local",
        "ftp://keys.auth.svc.cluster.local/jwks.json",
        "http://",
        "",
    ] {
        authenticated(&mut world, "shop", &json!({}), uri);
        assert_eq!(scopes(&world), [[""; 0], [""; 0]], "{uri}");
    }
    authenticated(
        &mut world,
        "shop",
        &json!({}),
        "https://keys.auth.svc.cluster.local/jwks.json",
    );
    assert_eq!(scopes(&world), [[KEYS], [KEYS]]);
    let at_a_gateway =
        json!({"targetRefs": [{"kind": "Gateway", "name": "x"}], "jwtRules": [{"jwksUri": URI}]});
    world.object("RequestAuthentication", "shop", "tokens", at_a_gateway);
    world.settle();
    assert_eq!(scopes(&world), [[""; 0], [""; 0]]);
}

#[test]
fn a_request_authentication_touches_only_the_fences_that_it_is_for() {
    let mut world = shop_with_cart();
    world.namespace("till", Some("enforce"));
    world.service("till", "pos", &["http:8080"]);
    world.settle();
    let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "jwtRules": [{"jwksUri": URI}]});
    world.object("RequestAuthentication", "shop", "tokens", spec);
    let there = world.history.last().unwrap().clone();
    let gone = Watched::RequestAuthentications.gone("shop", "tokens", "");
    for change in [gone, there] {
        let now = world.now;
        let dirty = world.engine.apply(change, now);
        assert_eq!(dirty.targets, [crate::plan::target::Target::Fence(web())].into());
    }
}
