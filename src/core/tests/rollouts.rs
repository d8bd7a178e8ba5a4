//! Rollouts that move the selectors of Services from one revision of a workload to the next, as Argo's do.

use serde_json::json;

use crate::tests::*;

const HASH: &str = "rollouts-pod-template-hash";

/// A Service for one revision, with an address that stays.
fn service(world: &mut World, name: &str, hash: &str) {
    let address = if name == "front-stable" {
        "10.96.9.1"
    } else {
        "10.96.9.2"
    };
    let spec = json!({"clusterIP": address, "selector": {"app": "front", HASH: hash}});
    world.service_with("shop", name, &["http:8080"], &json!({"spec": spec}));
}

fn pod(world: &mut World, name: &str, hash: &str) {
    world.pod("shop", name, &[("app", "front"), (HASH, hash)]);
}

/// A rollout: pods of the second revision come, the canary goes there, the stable Service follows, the first
/// pods go. Nothing that proxies follow is written, and there is one fence all the time.
fn roll_out(world: &mut World, fence: &str) {
    let sidecar = format!("servicefence-{fence}");
    let from = world.writes.len();
    pod(world, "front-2", "b");
    service(world, "front-canary", "b");
    world.settle();
    service(world, "front-stable", "b");
    world.settle();
    world.apply(crate::engine::Change::Pod(
        crate::name::PodKey::new("shop", "front-1"),
        None,
    ));
    world.settle();
    assert_eq!(writes(world, from), [""; 0]);
    assert!(world.has(crate::render::Kind::Sidecar, "shop", &sidecar));
    assert_eq!(world.condition("shop", fence, "Ready"), "True Scoped");
    assert_eq!(world.condition("shop", fence, "Conflicted"), "False NoConflict");
    let of_front = fences(world)
        .into_iter()
        .filter(|fence| fence.starts_with("shop/front"));
    assert_eq!(of_front.collect::<Vec<_>>(), [format!("shop/{fence}")]);
}

fn two_services(world: &mut World) {
    pod(world, "front-1", "a");
    for name in ["front-stable", "front-canary"] {
        service(world, name, "a");
    }
    world.settle();
}

#[test]
fn a_rollout_between_two_services_leaves_one_fence_as_it_is() {
    let mut world = shop();
    two_services(&mut world);
    let fence = if world.engine.fences().any(|(key, _)| *key.name == *"front-canary") {
        "front-canary"
    } else {
        "front-stable"
    };
    roll_out(&mut world, fence);
}

#[test]
fn a_service_for_all_revisions_shares_the_fence_of_those_for_one() {
    let mut world = shop();
    world.service("shop", "front", &["http:8080"]);
    world.settle();
    two_services(&mut world);
    roll_out(&mut world, "front");
}

#[test]
fn a_selector_of_nothing_but_a_revision_stays() {
    let mut world = shop();
    let only = json!({"spec": {"selector": {HASH: "a"}}});
    world.service_with("shop", "odd", &["http:8080"], &only);
    world.pod("shop", "odd-1", &[(HASH, "a")]);
    world.settle();
    assert_eq!(world.condition("shop", "odd", "Ready"), "True Scoped");
}
