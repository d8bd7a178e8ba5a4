//! When the EnvoyFilter of all namespaces changes: with the ranges of addresses, and never else.

use serde_json::json;

use crate::engine::Change;
use crate::render::Kind;
use crate::settings::Settings;
use crate::simulate::world::settings;
use crate::tests::headless::{headless, populate, shop, slice};
use crate::tests::*;

pub(super) fn envoy_filter(world: &World) -> String {
    world.objects[&(Kind::EnvoyFilter, "shop".into(), "servicefence".into())].to_string()
}

#[test]
fn only_a_pod_where_none_was_before_changes_the_envoy_filter() {
    let mut world = shop();
    slice(
        &mut world,
        "books/reviews",
        "reviews-1",
        &["10.1.15.9", "10.1.0.8"],
    );
    assert_eq!(world.settle(), [""; 0]);
    slice(&mut world, "books/reviews", "reviews-1", &["10.2.48.9"]);
    slice(&mut world, "books/reviews", "reviews-2", &["fd00:10:1::9"]);
    assert_eq!(world.settle(), ["apply EnvoyFilter shop/servicefence"]);
    for range in [r"10\\.1\\.(0|1|2|", r"10\\.2\\.(48|49|", r"\\[(fd00:10:1:"] {
        assert!(envoy_filter(&world).contains(range), "{range}");
    }
    // Nothing is remembered of it, so that a controller that starts anew wants the same.
    slice(&mut world, "books/reviews", "reviews-1", &[]);
    assert_eq!(world.settle(), ["apply EnvoyFilter shop/servicefence"]);
    assert!(!envoy_filter(&world).contains(r"10\\.2\\."));
}

#[test]
fn what_somebody_says_of_the_addresses_of_pods_counts_instead() {
    let mut world = World::with(Settings {
        pod_cidrs: ["10.128.0.0/16".parse().unwrap()].into(),
        ..settings()
    });
    super::stock(&mut world);
    populate(&mut world);
    assert!(envoy_filter(&world).contains(r"10\\.128\\."));
    assert!(!envoy_filter(&world).contains(r"10\\.1\\."));
}

#[test]
fn pods_are_not_led_to_a_gateway_that_refuses_what_it_has_no_rule_for() {
    let mut world = World::with(Settings {
        gateway_passes_on: false,
        ..settings()
    });
    super::stock(&mut world);
    populate(&mut world);
    assert!(!envoy_filter(&world).contains("servicefence-pods"));
}

#[test]
fn nothing_is_enforced_before_the_addresses_of_services_are_known() {
    let mut world = shop();
    world.apply(Change::ServiceCidrs([].into()));
    world.namespace("later", Some("enforce"));
    world.service("later", "web", &["http:8080"]);
    world.settle();
    assert_eq!(world.scope("later", "web"), None);
    assert_eq!(
        world.condition("later", "web", "Enforced"),
        "False FallbackNotReady"
    );
    let (_, said) = world.said.last().expect("its owner is told");
    assert!(
        said.reason.is_warning() && said.message.contains("serviceCIDRs"),
        "{said:?}"
    );
}

/// Each of them once had a place in the EnvoyFilter.
#[test]
fn namespaces_and_services_that_come_and_go_write_to_no_envoy_filter() {
    let mut world = shop();
    for n in 0..50 {
        let namespace = format!("ci-{n}");
        world.namespace(&namespace, None);
        let app = world.service(&namespace, "app", &["http:8080"]);
        headless(&mut world, &namespace, "peers", &["http:8080"], &json!({}));
        slice(&mut world, &format!("{namespace}/app"), "app-1", &["10.1.9.9"]);
        world.settle();
        world.no_service(&app);
        world.settle();
    }
    let filters: Vec<_> = world
        .writes
        .iter()
        .filter(|write| write.contains("EnvoyFilter"))
        .collect();
    assert!(filters.is_empty(), "{filters:?}");
}
