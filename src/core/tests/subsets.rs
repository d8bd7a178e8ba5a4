//! Rules to subsets that only the callers' own namespace can define.

use serde_json::{Value, json};

use crate::observe::Watched;
use crate::render::Kind;
use crate::simulate::world::SYSTEM;
use crate::tests::*;

const BOTH: [&str; 2] = [
    "books/reviews.books.svc.cluster.local",
    "shop/reviews.books.svc.cluster.local",
];

/// A rule for reviews of namespace `books`, to a subset of `destination`.
fn rule(destination: &str) -> Value {
    json!({
        "hosts": ["reviews.books.svc.cluster.local"],
        "http": [{"route": [{"destination": {"host": destination, "subset": "v1"}}]}],
    })
}

/// The same with something else in its spec.
fn rule_with(field: &str, value: Value) -> Value {
    let mut rule = rule("ratings.books.svc.cluster.local");
    rule[field] = value;
    rule
}

#[test]
fn the_rule_of_a_callers_namespace_to_a_subset_elsewhere_is_never_left_to_the_gateway() {
    let mut world = shop();
    world.namespace("till", Some("enforce"));
    world.service("till", "pos", &["http:8080"]);
    world.settle();
    world.object(
        "VirtualService",
        "shop",
        "reviews",
        rule("ratings.books.svc.cluster.local"),
    );
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), BOTH);
    assert_eq!(world.scope("till", "pos"), Some(vec![]));
    // Callers of other namespaces meet the rule at the gateway as they would meet it directly.
    let routes = &world.objects[&(Kind::VirtualService, SYSTEM.into(), "fallback-books".into())];
    let subsets: Vec<_> = routes["spec"]["http"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|rule| rule["route"][0]["destination"]["subset"] == "v1")
        .map(|rule| &rule["match"][0]["headers"])
        .collect();
    assert_eq!(
        subsets,
        [&json!({"x-servicefence-original-dst": {"exact": "10.96.0.2:8080"}})]
    );

    world.gone(Watched::VirtualServices, "shop", "reviews");
    world.settle();
    assert_eq!(world.scope("shop", "web"), Some(vec![]));
}

#[test]
fn a_new_fence_has_it_from_its_first_sidecar_on() {
    let mut world = shop();
    let rule = json!({
        "hosts": ["reviews.books.svc.cluster.local"],
        "http": [{"mirrors": [{"destination": {"host": "ratings.books.svc.cluster.local", "subset": "v1"}}]}],
    });
    world.object("VirtualService", "shop", "reviews", rule);
    world.service("shop", "cart", &["http:8080"]);
    world.settle();
    assert_eq!(world.scope("shop", "cart").unwrap(), BOTH);
}

#[test]
fn other_rules_of_such_a_host_come_along_and_so_do_ports_that_it_brings() {
    let mut world = shop();
    world.service("books", "db", &["tcp:8080"]);
    let reviews = reviews();
    world.no_service(&reviews);
    world.edit("shop", "web", json!({"learning": {"nonHttp": "Learn"}}));
    world.object(
        "VirtualService",
        "shop",
        "reviews",
        rule("ratings.books.svc.cluster.local"),
    );
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), BOTH);
    world.service("books", "reviews", &["http:8080"]);
    world.settle();
    let with_db = ["books/db.books.svc.cluster.local", BOTH[0], BOTH[1]];
    assert_eq!(world.scope("shop", "web").unwrap(), with_db);
    world.object(
        "VirtualService",
        "edge",
        "more",
        json!({"hosts": ["reviews.books.svc.cluster.local"], "http": []}),
    );
    world.settle();
    let with_more = [
        with_db[0],
        BOTH[0],
        "edge/reviews.books.svc.cluster.local",
        BOTH[1],
    ];
    assert_eq!(world.scope("shop", "web").unwrap(), with_more);
}

#[test]
fn rules_that_the_gateway_follows_as_well_widen_nothing() {
    let mut world = shop();
    // Istio follows a wildcard's rules for the names of Services alone, where one has port 80.
    world.service("books", "front", &["http:80"]);
    for (namespace, name, spec) in [
        ("shop", "own", rule("web")),
        ("books", "theirs", rule("ratings.books.svc.cluster.local")),
        ("other", "third", rule("ratings.books.svc.cluster.local")),
        ("shop", "edge", rule_with("gateways", json!(["edge"]))),
        ("shop", "hidden", rule_with("exportTo", json!(["other"]))),
        (
            "shop",
            "all",
            rule_with("hosts", json!(["*.books.svc.cluster.local"])),
        ),
        (
            "shop",
            "plain",
            rule_with(
                "http",
                json!([{"route": [{"destination": {"host": "ratings.books.svc.cluster.local"}}]}]),
            ),
        ),
    ] {
        world.object("VirtualService", namespace, name, spec);
        world.settle();
        assert_eq!(world.scope("shop", "web"), Some(vec![]), "{namespace}/{name}");
    }
}
