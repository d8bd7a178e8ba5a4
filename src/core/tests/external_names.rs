//! ExternalNames of hosts in scope.

use serde_json::{Value, json};

use crate::tests::*;

const REVIEWS: &str = "books/reviews.books.svc.cluster.local";

fn external(host: &str) -> Value {
    json!({"spec": {"type": "ExternalName", "externalName": host, "clusterIP": null}})
}

/// `shop/legacy` stands for `reviews`, `shop/older` for `legacy`; the shop's workload has called `reviews`.
fn shop_with_external_names() -> World {
    let mut world = shop();
    world.service_with(
        "shop",
        "legacy",
        &["http:8080"],
        &external("reviews.books.svc.cluster.local"),
    );
    world.service_with(
        "shop",
        "older",
        &["http:8080"],
        &external("legacy.shop.svc.cluster.local"),
    );
    learn(&mut world, &reviews());
    world.settle();
    world
}

#[test]
fn external_names_come_and_go_with_the_host_from_its_namespace() {
    let mut world = shop_with_external_names();
    let all = [
        "books/legacy.shop.svc.cluster.local",
        "books/older.shop.svc.cluster.local",
        REVIEWS,
    ];
    assert_eq!(scope(&world), all);
    world.no_service(&ServiceKey::new("shop", "legacy"));
    world.settle();
    assert_eq!(scope(&world), [REVIEWS]);
    world.service_with(
        "shop",
        "legacy",
        &[],
        &external("reviews.books.svc.cluster.local"),
    );
    world.settle();
    assert_eq!(scope(&world), all);
    world.service_with("shop", "legacy", &[], &external("www.example.com"));
    world.settle();
    assert_eq!(scope(&world), [REVIEWS]);
}

/// Else the route leads to a cluster of the ExternalName, which there is none of.
#[test]
fn an_external_name_to_which_rules_lead_is_imported_from_its_own_namespace_too() {
    let mut world = shop_with_external_names();
    world.service("books", "v2", &["http:8080"]);
    let v2 = external("v2.books.svc.cluster.local");
    world.service_with("lab", "next", &["http:8080"], &v2);
    let to_next = json!([{"route": [{"destination": {"host": "next.lab.svc.cluster.local"}}]}]);
    world.object(
        "VirtualService",
        "books",
        "reviews",
        json!({"hosts": ["reviews"], "http": to_next}),
    );
    world.settle();
    for import in [
        "books/next.lab.svc.cluster.local",
        "books/v2.books.svc.cluster.local",
        "lab/next.lab.svc.cluster.local",
    ] {
        assert!(scope(&world).contains(&import.to_owned()), "{import}");
    }
    // Also where it stands for the very host of the rules.
    let route = json!({"destination": {"host": "legacy.shop.svc.cluster.local"}});
    let rules = json!({"hosts": ["reviews"], "http": [{"route": [route]}]});
    world.object("VirtualService", "books", "reviews", rules);
    world.settle();
    assert_eq!(
        scope(&world),
        [
            "books/legacy.shop.svc.cluster.local",
            "books/older.shop.svc.cluster.local",
            REVIEWS,
            "shop/legacy.shop.svc.cluster.local",
            "shop/older.shop.svc.cluster.local",
        ]
    );
}

#[test]
fn what_an_external_name_stands_for_comes_with_rules_that_lead_to_it() {
    let mut world = shop();
    world.service("books", "v2", &["http:8080"]);
    world.service_with(
        "books",
        "next",
        &["http:8080"],
        &external("v2.books.svc.cluster.local"),
    );
    let rules = json!({"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "next"}}]}]});
    world.object("VirtualService", "books", "reviews", rules);
    learn(&mut world, &reviews());
    world.settle();
    let with = [
        "books/next.books.svc.cluster.local",
        REVIEWS,
        "books/v2.books.svc.cluster.local",
    ];
    assert_eq!(scope(&world), with);
    world.service_with(
        "books",
        "next",
        &["http:8080"],
        &external("v3.books.svc.cluster.local"),
    );
    world.settle();
    assert!(!scope(&world).contains(&with[2].to_owned()));
}

#[test]
fn an_external_name_that_is_allowed_brings_what_it_stands_for() {
    let mut world = shop_with_external_names();
    world.service_with(
        "shop",
        "cart-alias",
        &["http:8080"],
        &external("db.data.svc.cluster.local"),
    );
    world.service("data", "db", &["http:8080"]);
    world.edit("shop", "web", allow(&["cart-alias"]));
    world.settle();
    assert!(scope(&world).contains(&"data/db.data.svc.cluster.local".to_owned()));
    assert!(scope(&world).contains(&"data/cart-alias.shop.svc.cluster.local".to_owned()));
}

#[test]
fn external_names_in_a_circle_stand_for_nothing() {
    let mut world = shop();
    world.service_with(
        "shop",
        "one",
        &["http:8080"],
        &external("two.shop.svc.cluster.local"),
    );
    world.service_with(
        "shop",
        "two",
        &["http:8080"],
        &external("one.shop.svc.cluster.local"),
    );
    world.edit("shop", "web", allow(&["one"]));
    world.settle();
    assert_eq!(
        scope(&world),
        [
            "shop/one.shop.svc.cluster.local",
            "shop/two.shop.svc.cluster.local"
        ]
    );
}

#[test]
fn explain_says_which_host_an_external_name_stands_for() {
    let world = shop_with_external_names();
    let web = FenceKey::new("shop", "web");
    let because = world
        .engine
        .explain(&web, "older.shop", world.now)
        .unwrap()
        .because;
    assert_eq!(because.len(), 1);
    assert!(
        because[0]
            .detail
            .contains("calls to it are calls to reviews.books.svc.cluster.local"),
        "{because:?}"
    );
}

#[test]
fn rules_for_connections_bring_what_an_external_name_stands_for_too() {
    let mut world = shop();
    world.service("data", "db", &["tcp:5432"]);
    world.service("data", "db-2", &["tcp:5432"]);
    world.service_with("data", "next", &[], &external("db-2.data.svc.cluster.local"));
    let rules = json!({"hosts": ["db"], "tcp": [{"route": [{"destination": {"host": "next"}}]}]});
    world.object("VirtualService", "data", "db", rules);
    world.edit("shop", "web", json!({"learning": {"nonHttp": "Learn"}}));
    learn(&mut world, &ServiceKey::new("data", "db"));
    world.settle();
    let brought = "data/db-2.data.svc.cluster.local".to_owned();
    assert!(scope(&world).contains(&brought), "{:?}", scope(&world));
}
