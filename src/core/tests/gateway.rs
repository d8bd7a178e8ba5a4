//! A fallback gateway that is not there, or goes.
use serde_json::json;

use crate::engine::Change;
use crate::render::Kind;
use crate::tests::*;

#[test]
fn without_a_ready_gateway_no_workload_is_scoped_and_the_condition_says_so() {
    let mut world = World::new();
    world.apply(Change::GatewayReady(false));
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    world.settle();
    assert_eq!(world.scope("shop", "web"), None);
    assert_eq!(world.condition("shop", "web", "Ready"), "False GatewayNotReady");
    world.apply(Change::GatewayReady(true));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}

#[test]
fn a_gateway_that_goes_keeps_every_host_where_it_is_and_still_lets_hosts_in() {
    let mut world = shop();
    world.edit("shop", "web", allow(&["reviews.books"]));
    world.settle();
    world.apply(Change::GatewayReady(false));
    world.edit("shop", "web", allow(&["ratings.books"]));
    world.settle();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        [
            "books/ratings.books.svc.cluster.local",
            "books/reviews.books.svc.cluster.local"
        ]
    );
    world.apply(Change::GatewayReady(true));
    world.settle();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/ratings.books.svc.cluster.local"]
    );
}

#[test]
fn a_gateway_that_goes_is_said_once_by_every_enforced_fence_until_it_is_back() {
    let mut world = shop();
    world.service("shop", "cart", &["http:8080"]);
    world.settle();
    world.said.clear();
    let objects = world.objects.clone();
    world.apply(Change::GatewayReady(false));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "False GatewayNotReady");
    assert_eq!(world.condition("shop", "web", "Enforced"), "True GatewayNotReady");
    assert_eq!(
        world.status("shop", "web").conditions[0].message,
        "the fallback gateway has no ready endpoint: calls to hosts out of scope fail until it is back; \
         see Deployment servicefence-fallback"
    );
    learn(&mut world, &reviews());
    world.settle();
    assert_eq!(
        said(&world),
        ["shop/cart GatewayNotReady", "shop/web GatewayNotReady"]
    );
    assert!(world.said.iter().all(|(_, said)| said.reason.is_warning()));

    world.said.clear();
    world.apply(Change::GatewayReady(true));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    assert_eq!(said(&world), ["shop/cart Scoped", "shop/web Scoped"]);
    let cart = (Kind::Sidecar, "shop".into(), "servicefence-cart".into());
    assert_eq!(world.objects[&cart], objects[&cart]);
}

#[test]
fn a_fence_that_is_off_has_nothing_to_say_about_the_gateway() {
    let mut world = shop();
    world.edit("shop", "web", json!({"mode": "Off"}));
    world.settle();
    world.apply(Change::GatewayReady(false));
    assert_eq!(world.settle(), [] as [&str; 0]);
    assert_eq!(world.condition("shop", "web", "Ready"), "True Off");
}

fn said(world: &World) -> Vec<String> {
    let said = world.said.iter();
    said.map(|(fence, said)| format!("{fence} {}", said.reason))
        .collect()
}
