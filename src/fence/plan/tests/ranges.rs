//! When the EnvoyFilter of all namespaces changes: with the ranges of addresses, and never else.

use super::headless::{headless, populate, shop, slice};
use super::*;
use crate::fence::Settings;
use crate::fence::render::Kind;
use crate::fence::world::settings;

fn envoy_filter(world: &World) -> String {
    world.objects[&(Kind::EnvoyFilter, "shop".into(), "servicefence".into())].to_string()
}

#[test]
fn only_a_pod_where_none_was_before_changes_the_envoy_filter() {
    let mut world = shop();
    slice(
        &mut world,
        "books/reviews",
        "reviews-1",
        &["10.1.200.9", "10.1.0.8"],
    );
    assert_eq!(world.settle(), [""; 0]);
    slice(&mut world, "books/reviews", "reviews-1", &["10.2.0.9"]);
    slice(&mut world, "books/reviews", "reviews-2", &["fd00:10:1::9"]);
    assert_eq!(world.settle(), ["apply EnvoyFilter shop/servicefence"]);
    for range in [r"10\\.1\\.", r"10\\.2\\.", r"\\[fd00:10:1(:|(:0){1}):"] {
        assert!(envoy_filter(&world).contains(range), "{range}");
    }
    // A range that is empty for a while is no reason to write to every namespace.
    slice(&mut world, "books/reviews", "reviews-1", &[]);
    assert_eq!(world.settle(), [""; 0]);
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
