//! Services that the fallback gateway would reach otherwise than a sidecar does.

use serde_json::json;

use crate::tests::*;

const RATINGS: &str = "books/ratings.books.svc.cluster.local";
const REVIEWS: &str = "books/reviews.books.svc.cluster.local";
const LABEL: &str = "istio.io/ingress-use-waypoint";

#[test]
fn a_service_of_each_node_is_in_every_scope() {
    let mut world = shop();
    let local = json!({"spec": {"internalTrafficPolicy": "Local"}});
    world.service_with("books", "ratings", &["http:8080"], &local);
    world.settle();
    assert_eq!(scope(&world), [RATINGS]);
    let said = world.engine.explain(&web(), "ratings.books", world.now).unwrap();
    assert!(
        said.answer.contains("internalTrafficPolicy is Local"),
        "{}",
        said.answer
    );
    world.service("books", "ratings", &["http:8080"]);
    world.settle();
    assert_eq!(scope(&world), [""; 0]);
}

#[test]
fn what_gateways_call_by_a_waypoint_is_in_every_scope() {
    let mut world = shop();
    let labels = |value: &str| json!({"metadata": {"labels": {LABEL: value}}});
    world.service_with("books", "ratings", &["http:8080"], &labels("true"));
    world.settle();
    assert_eq!(scope(&world), [RATINGS]);
    world.namespace_with("books", None, &[(LABEL, "True")]);
    world.settle();
    assert_eq!(
        scope(&world),
        [RATINGS, REVIEWS],
        "the label of the namespace is for all"
    );
    world.service_with("books", "ratings", &["http:8080"], &labels("false"));
    world.service("books", "late", &["http:8080"]);
    world.settle();
    assert_eq!(
        scope(&world),
        ["books/late.books.svc.cluster.local", REVIEWS],
        "a label of its own comes first"
    );
    world.namespace("books", None);
    world.settle();
    assert_eq!(scope(&world), [""; 0]);
}

/// Gateways speak HTTP/1.1 to a port without a declared protocol, where sidecars keep the caller's version.
#[test]
fn what_rules_lead_to_a_port_without_a_declared_protocol_is_in_scope() {
    let mut world = shop();
    let to_ratings = json!({
        "hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "ratings"}}]}],
    });
    world.object("VirtualService", "books", "reviews", to_ratings);
    world.settle();
    assert_eq!(scope(&world), [""; 0]);
    world.service("books", "ratings", &["any:8080"]);
    world.edit("shop", "web", json!({"learning": {"nonHttp": "Learn"}}));
    world.settle();
    assert!(scope(&world).contains(&REVIEWS.to_owned()), "{:?}", scope(&world));
    world.service("books", "ratings", &["http:8080"]);
    world.settle();
    assert_eq!(scope(&world), [""; 0]);
}
