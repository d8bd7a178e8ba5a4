//! AuthorizationPolicies that name callers.

use serde_json::{Value, json};

use crate::observe::Watched;
use crate::tests::*;

const REVIEWS: &str = "books/reviews.books.svc.cluster.local";
const RATINGS: &str = "books/ratings.books.svc.cluster.local";

/// A policy of a namespace, for pods with these labels, that lets a source in.
#[allow(clippy::needless_pass_by_value, reason = "tests write json!(…) in place")]
fn policy(world: &mut World, namespace: &str, selector: Value, source: Value) {
    let spec = json!({"selector": {"matchLabels": selector}, "rules": [{"from": [{"source": source}]}]});
    world.object("AuthorizationPolicy", namespace, "callers", spec);
    world.settle();
}

fn web_account() -> Value {
    json!({"principals": ["cluster.local/ns/shop/sa/web"]})
}

/// A shop with a pod that has an account of its own.
fn shop_with_account() -> World {
    let mut world = shop();
    world.pod_of("shop", "web-1", &[("app", "web")], "web");
    world.settle();
    world
}

#[test]
fn who_is_let_in_by_name_reaches_the_destination_directly_from_the_first_call_on() {
    let mut world = shop_with_account();
    policy(&mut world, "books", json!({"app": "reviews"}), web_account());
    assert_eq!(world.scope("shop", "web").unwrap(), [REVIEWS]);
    let said = world.engine.explain(&web(), "reviews.books", world.now).unwrap();
    assert_eq!(said.because[0].source, "Policy");
    assert_eq!(
        said.because[0].detail,
        "AuthorizationPolicy books/callers names this caller, and may decide otherwise about the fallback gateway"
    );
    world.gone(Watched::AuthorizationPolicies, "books", "callers");
    world.settle();
    assert!(world.scope("shop", "web").unwrap().is_empty());
}

/// By the gateway the first call to it would be one of the gateway to the Service with the policy.
#[test]
fn what_rules_lead_to_a_service_with_a_policy_is_in_scope_with_it() {
    let mut world = shop_with_account();
    policy(&mut world, "books", json!({"app": "ratings"}), web_account());
    assert_eq!(world.scope("shop", "web").unwrap(), [RATINGS]);
    let route = json!({"destination": {"host": "ratings"}});
    let rules = json!({"hosts": ["reviews"], "http": [{"route": [route]}]});
    world.object("VirtualService", "books", "reviews", rules);
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), [RATINGS, REVIEWS]);
    let said = world.engine.explain(&web(), "reviews.books", world.now).unwrap();
    assert!(
        said.answer.contains("would call otherwise than this caller"),
        "{}",
        said.answer
    );
    world.gone(Watched::AuthorizationPolicies, "books", "callers");
    world.settle();
    assert!(world.scope("shop", "web").unwrap().is_empty());
}

#[test]
fn a_policy_without_selector_is_about_every_service_of_its_namespace() {
    let mut world = shop_with_account();
    policy(&mut world, "books", json!({}), json!({"namespaces": ["shop"]}));
    assert_eq!(world.scope("shop", "web").unwrap(), [RATINGS, REVIEWS]);
    world.service("books", "details", &["http:8080"]);
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap().len(), 3);
}

#[test]
fn a_policy_of_the_root_namespace_counts_for_certain_pods_only() {
    let mut world = shop_with_account();
    policy(&mut world, "istio-system", json!({}), web_account());
    assert!(world.scope("shop", "web").unwrap().is_empty());
    policy(
        &mut world,
        "istio-system",
        json!({"app": "ratings"}),
        web_account(),
    );
    assert_eq!(world.scope("shop", "web").unwrap(), [RATINGS]);
}

#[test]
fn another_account_of_the_namespace_is_another_caller() {
    let mut world = shop_with_account();
    world.service("shop", "cart", &["http:8080"]);
    world.pod_of("shop", "cart-1", &[("app", "cart")], "cart");
    policy(&mut world, "books", json!({"app": "reviews"}), web_account());
    assert_eq!(world.scope("shop", "web").unwrap(), [REVIEWS]);
    assert!(world.scope("shop", "cart").unwrap().is_empty());
    // An account that comes with a new pod, and goes with the last.
    world.pod_of("shop", "cart-2", &[("app", "cart")], "web");
    world.settle();
    assert_eq!(world.scope("shop", "cart").unwrap(), [REVIEWS]);
    world.gone(Watched::Pods, "shop", "cart-2");
    world.settle();
    assert!(world.scope("shop", "cart").unwrap().is_empty());
    // While there is none, the next may have any.
    world.gone(Watched::Pods, "shop", "cart-1");
    world.settle();
    assert_eq!(world.scope("shop", "cart").unwrap(), [REVIEWS]);
    world.pod_of("shop", "cart-1", &[("app", "cart")], "cart");
    world.settle();
    assert!(world.scope("shop", "cart").unwrap().is_empty());
}

#[test]
fn a_rollout_of_pods_that_are_alike_touches_nothing() {
    let mut world = shop_with_account();
    let now = world.now;
    let pod = |facts| crate::engine::Change::Pod(crate::name::PodKey::new("shop", "web-2"), facts);
    let facts = crate::facts::PodFacts {
        labels: [("app".to_owned(), "web".to_owned())].into_iter().collect(),
        account: "web".into(),
        workload: "web".into(),
        proxy: crate::facts::ProxyKind::Sidecar,
        ..Default::default()
    };
    let dirty = world.engine.apply(pod(Some(facts)), now);
    assert!(dirty.targets.is_empty(), "{dirty:?}");
    let dirty = world.engine.apply(pod(None), now);
    assert!(dirty.targets.is_empty(), "{dirty:?}");
}

/// What one source says must all hold, and `*` is everybody with an identity.
#[test]
fn a_name_counts_beside_a_list_of_everybody() {
    let mut world = shop_with_account();
    let source = json!({"principals": ["*"], "namespaces": ["shop"]});
    policy(&mut world, "books", json!({"app": "reviews"}), source.clone());
    assert_eq!(world.scope("shop", "web").unwrap(), [REVIEWS]);
    world.gone(Watched::AuthorizationPolicies, "books", "callers");
    policy(&mut world, "istio-system", json!({}), source);
    assert_eq!(
        world.condition("shop", "web", "Enforced"),
        "True GatewayNotAuthorized"
    );
}

/// Its endpoints may be pods all the same, of its namespace or of another one.
#[test]
fn a_service_without_a_selector_may_have_pods_with_a_policy() {
    let mut world = shop_with_account();
    let without = json!({"spec": {"selector": null}});
    for namespace in ["bank", "books"] {
        world.service_with(namespace, "manual", &["http:8080"], &without);
    }
    policy(&mut world, "books", json!({"app": "reviews"}), web_account());
    let manual = |namespace: &str| format!("{namespace}/manual.{namespace}.svc.cluster.local");
    let all = [manual("bank"), manual("books"), REVIEWS.to_owned()];
    assert_eq!(world.scope("shop", "web").unwrap(), all);
    let other = world.service("bank", "manual", &["http:8080"]);
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), all[1..], "{other:?}");
    world.service_with("bank", "manual", &["http:8080"], &without);
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), all);
}

#[test]
fn what_is_denied_is_not_admitted_by_a_policy() {
    let mut world = shop_with_account();
    world.edit("shop", "web", json!({"deny": ["reviews.books"]}));
    policy(&mut world, "books", json!({"app": "reviews"}), web_account());
    assert!(world.scope("shop", "web").unwrap().is_empty());
}

#[test]
fn who_is_refused_by_name_is_refused_from_the_first_call_on() {
    let mut world = shop_with_account();
    for (action, source) in [
        ("DENY", json!({"namespaces": ["shop"]})),
        ("DENY", json!({"notNamespaces": ["shop"]})),
        (
            "ALLOW",
            json!({"notPrincipals": ["cluster.local/ns/shop/sa/web"]}),
        ),
    ] {
        let spec = json!({
            "selector": {"matchLabels": {"app": "reviews"}}, "action": action, "rules": [{"from": [{"source": source}]}],
        });
        world.object("AuthorizationPolicy", "books", "callers", spec);
        world.settle();
        assert_eq!(
            world.scope("shop", "web").unwrap(),
            [REVIEWS],
            "{action} {source}"
        );
        world.gone(Watched::AuthorizationPolicies, "books", "callers");
        world.settle();
        assert!(world.scope("shop", "web").unwrap().is_empty());
    }
}
