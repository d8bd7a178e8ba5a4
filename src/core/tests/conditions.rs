//! The conditions `Learning` and `Conflicted`.

use servicefence_crd::Source;

use crate::engine::Change;
use crate::learn::{Observation, Period};
use crate::tests::telemetry::PROVIDER;
use crate::tests::*;

fn learning(world: &World) -> String {
    let conditions = world.status("shop", "web").conditions;
    let is = conditions.iter().find(|is| is.type_ == "Learning").unwrap();
    format!("{} {}: {}", is.status, is.reason, is.message)
}

#[test]
fn a_fence_says_what_it_learns_from() {
    let mut world = shop();
    assert_eq!(
        learning(&world),
        "True Learning: what Service web calls is learned from access logs, policies"
    );
    assert_eq!(world.condition("shop", "web", "Conflicted"), "False NoConflict");
    world.edit("shop", "web", json!({"learning": {"sources": ["Policy"]}}));
    world.settle();
    assert!(
        learning(&world).ends_with("from policies"),
        "{}",
        learning(&world)
    );
    world.edit("shop", "web", json!({"learning": {"sources": ["Prometheus"]}}));
    world.settle();
    assert!(
        learning(&world).starts_with("False NoSource: "),
        "{}",
        learning(&world)
    );
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}

#[test]
fn a_fence_that_sees_nothing_says_why() {
    let mut world = shop();
    world.apply(Change::GatewayReady(false));
    world.settle();
    assert!(
        learning(&world).starts_with("False GatewayNotReady: "),
        "{}",
        learning(&world)
    );
    world.apply(Change::GatewayReady(true));
    world.namespace("shop", Some("observe"));
    world.settle();
    assert!(
        learning(&world).starts_with("False NothingObserved: "),
        "{}",
        learning(&world)
    );
    mesh_config(&mut world, PROVIDER);
    assert!(
        learning(&world).starts_with("True Learning: "),
        "{}",
        learning(&world)
    );
    world.edit("shop", "web", json!({"mode": "Off"}));
    world.settle();
    assert!(
        learning(&world).starts_with("False Off: "),
        "{}",
        learning(&world)
    );
}

#[test]
fn a_full_list_is_said() {
    let mut world = shop();
    for number in 0..crate::workloads::MOST_LEARNED {
        let seen = Observation {
            fence: web(),
            host: ServiceKey::new("books", format!("s-{number}")).scope_host(),
            source: Source::AccessLog,
        };
        world.store(&seen, Period::at(world.now));
    }
    world.settle();
    assert!(
        learning(&world).starts_with("False ListFull: "),
        "{}",
        learning(&world)
    );
    let said = world.engine.explain(&web(), "reviews.books", world.now).unwrap();
    assert!(
        said.answer
            .contains("the fence has learned as many hosts as it can"),
        "{}",
        said.answer
    );
}

#[test]
fn a_conflict_is_a_condition_of_its_own() {
    let mut world = shop();
    let spec = json!({"workloadSelector": {"labels": {"app": "web"}}, "egress": [{"hosts": ["./*"]}]});
    world.object("Sidecar", "shop", "mine", spec);
    world.settle();
    assert_eq!(
        world.condition("shop", "web", "Conflicted"),
        "True ForeignSidecar"
    );
    assert!(
        learning(&world).starts_with("False ForeignSidecar: "),
        "{}",
        learning(&world)
    );
}
