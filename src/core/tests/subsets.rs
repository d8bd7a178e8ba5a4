//! Rules to subsets that callers know and the gateway does not: the DestinationRule is for callers alone.

use serde_json::{Value, json};

use crate::observe::Watched;
use crate::tests::routes::rules;
use crate::tests::*;

const RATINGS: &str = "books/ratings.books.svc.cluster.local";
const REVIEWS: &str = "books/reviews.books.svc.cluster.local";
const OWN_RULE: &str = "shop/reviews.books.svc.cluster.local";

/// A rule for reviews of namespace `books`, to a subset of `destination`.
fn rule(destination: &str) -> Value {
    json!({
        "hosts": ["reviews.books.svc.cluster.local"],
        "http": [{"route": [{"destination": {"host": destination, "subset": "v1"}}]}],
    })
}

/// A DestinationRule with that subset.
fn subset_of(host: &str) -> Value {
    json!({"host": host, "subsets": [{"name": "v1", "labels": {"version": "v1"}}]})
}

#[test]
fn a_rule_to_a_subset_that_only_callers_know_is_never_left_to_the_gateway() {
    let mut world = shop();
    world.namespace("till", Some("enforce"));
    world.service("till", "pos", &["http:8080"]);
    let ratings = "ratings.books.svc.cluster.local";
    world.object("VirtualService", "shop", "reviews", rule(ratings));
    world.settle();
    assert_eq!(scope(&world), [""; 0], "no proxy knows the subset");
    world.object("DestinationRule", "shop", "ratings", subset_of(ratings));
    world.settle();
    assert_eq!(scope(&world), [RATINGS, REVIEWS, OWN_RULE]);
    assert_eq!(world.scope("till", "pos"), Some(vec![]));
    let said = world.engine.explain(&web(), "ratings.books", world.now).unwrap();
    assert!(
        said.answer.contains(
            "callers of this namespace follow shop/ratings where the fallback gateway follows none"
        ),
        "{}",
        said.answer
    );
    // Callers of other namespaces meet the rule at the gateway as they would meet it directly.
    let rules = rules(&world, "books");
    let subsets: Vec<_> = rules
        .iter()
        .filter(|rule| rule["route"][0]["destination"]["subset"] == "v1")
        .map(|rule| &rule["match"][0]["headers"])
        .collect();
    assert_eq!(
        subsets,
        [&json!({"x-servicefence-original-dst": {"exact": "10.96.0.2:8080"}})]
    );

    world.gone(Watched::DestinationRules, "shop", "ratings");
    world.settle();
    assert_eq!(scope(&world), [""; 0]);
}

/// Whoever wrote the rule: callers follow it with what their own namespace says of the destination.
#[test]
fn it_counts_for_rules_of_every_namespace_and_mirrors_and_delegates() {
    let mut world = shop();
    world.object(
        "DestinationRule",
        "shop",
        "ratings",
        subset_of("ratings.books.svc.cluster.local"),
    );
    world.settle();
    assert_eq!(scope(&world), [RATINGS]);
    let mirror = json!({"host": "ratings.books.svc.cluster.local", "subset": "v1"});
    let delegate = json!([{"delegate": {"name": "own", "namespace": "v2"}}]);
    let own = json!({"http": rule("ratings.books.svc.cluster.local")["http"]});
    world.object("VirtualService", "v2", "own", own);
    for (namespace, http) in [
        ("books", rule("ratings.books.svc.cluster.local")["http"].clone()),
        ("other", json!([{"mirrors": [{"destination": mirror}]}])),
        ("other", delegate),
    ] {
        let rules = json!({"hosts": ["reviews.books.svc.cluster.local"], "http": http});
        world.object("VirtualService", namespace, "reviews", rules);
        world.settle();
        assert!(scope(&world).contains(&REVIEWS.to_owned()), "{namespace}: {http}");
        world.gone(Watched::VirtualServices, namespace, "reviews");
        world.settle();
        assert_eq!(scope(&world), [RATINGS]);
    }
}

/// A first Sidecar has them, also where MeshConfig keeps DestinationRules in their namespace.
#[test]
fn where_destination_rules_stay_in_their_namespace_their_subsets_are_called_directly() {
    let mut world = shop();
    world.object("DestinationRule", "shop", "web", subset_of("web"));
    world.settle();
    assert_eq!(scope(&world), [""; 0], "the gateway knows the subset");
    mesh_config(&mut world, "defaultDestinationRuleExportTo: ['.']");
    assert_eq!(scope(&world), ["shop/web.shop.svc.cluster.local"]);
    world.service("shop", "cart", &["http:8080"]);
    world.settle();
    assert_eq!(
        world.scope("shop", "cart").unwrap(),
        ["shop/web.shop.svc.cluster.local"]
    );
}

#[test]
fn subsets_that_the_gateway_knows_as_well_widen_nothing() {
    let mut world = shop();
    let ratings = "ratings.books.svc.cluster.local";
    world.object("VirtualService", "shop", "reviews", rule(ratings));
    for (namespace, subsets) in [
        ("books", subset_of("ratings")),
        ("books", subset_of("*.books.svc.cluster.local")),
        ("istio-system", subset_of(ratings)),
        // Istio does not look there for a call from shop to books.
        ("other", subset_of(ratings)),
    ] {
        world.object("DestinationRule", namespace, "ratings", subsets.clone());
        world.settle();
        assert_eq!(scope(&world), [""; 0], "{namespace}: {subsets}");
        world.gone(Watched::DestinationRules, namespace, "ratings");
    }
}

/// The gateway would follow the rule, and have no way to such a host, or another.
#[test]
fn a_rule_to_a_host_of_an_entry_that_the_gateway_would_reach_otherwise_is_not_left_to_it() {
    let mut world = shop();
    world.edit("shop", "web", json!({"learning": {"serviceEntries": "Keep"}}));
    let host = "api.example.com";
    let entry = |export_to: &[&str]| {
        json!({
            "hosts": [host], "exportTo": export_to, "resolution": "DNS",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        })
    };
    let to_host = json!({
        "hosts": ["reviews.books.svc.cluster.local"],
        "http": [{"route": [{"destination": {"host": host}}]}],
    });
    world.object("VirtualService", "shop", "reviews", to_host);
    let by_tls = json!({"host": host, "trafficPolicy": {"tls": {"mode": "SIMPLE"}}});
    let is_direct = |world: &World| scope(world).contains(&REVIEWS.to_owned());
    world.object("ServiceEntry", "books", "api", entry(&["*"]));
    world.settle();
    assert!(!is_direct(&world));
    world.object("DestinationRule", "books", "api", by_tls.clone());
    world.settle();
    assert!(!is_direct(&world), "the gateway follows it too");
    world.object("DestinationRule", "shop", "api", by_tls);
    world.settle();
    assert!(is_direct(&world));
    // Whatever it says, it takes the place of the other one.
    let plain = json!({"host": host, "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}});
    world.object("DestinationRule", "shop", "api", plain);
    world.settle();
    assert!(is_direct(&world));
    world.gone(Watched::DestinationRules, "shop", "api");
    world.settle();
    assert!(!is_direct(&world));
    world.object("ServiceEntry", "shop", "api", entry(&["*"]));
    world.settle();
    assert!(is_direct(&world), "callers take that of their own namespace");
    world.gone(Watched::ServiceEntries, "shop", "api");
    world.settle();
    assert!(!is_direct(&world));
    world.object("ServiceEntry", "books", "api", entry(&["shop"]));
    world.settle();
    assert!(is_direct(&world), "the gateway does not know the host");
    world.gone(Watched::VirtualServices, "shop", "reviews");
    world.settle();
    assert!(!is_direct(&world));
}

/// Sidecars go on to the address that was dialled, and gateways choose one of its pods.
#[test]
fn a_rule_to_a_headless_service_is_not_left_to_the_gateway() {
    let mut world = shop();
    world.edit("shop", "web", json!({"learning": {"headless": "Learn"}}));
    world.service_with(
        "books",
        "peers",
        &["http:8080"],
        &json!({"spec": {"clusterIP": "None"}}),
    );
    let route = json!({"destination": {"host": "peers.books.svc.cluster.local"}});
    world.object(
        "VirtualService",
        "books",
        "reviews",
        json!({"hosts": ["reviews"], "http": [{"route": [route]}]}),
    );
    world.settle();
    assert!(scope(&world).contains(&REVIEWS.to_owned()), "{:?}", scope(&world));
}
