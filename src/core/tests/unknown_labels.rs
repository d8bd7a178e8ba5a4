//! Labels with a value that means nothing: what is in force stays, and the fences say so.

use servicefence_crd::Mode;

use crate::simulate::world::mode_label;
use crate::tests::*;

#[test]
fn a_typo_in_the_label_of_a_namespace_changes_nothing_and_the_fence_says_so() {
    let mut world = shop();
    learn(&mut world, &reviews());
    world.settle();
    let from = world.writes.len();
    world.namespace("shop", Some("Enforce"));
    world.settle();
    assert_eq!(writes(&world, from), [] as [&str; 0]);
    let mut world = restarted(&world);
    assert_eq!(world.condition("shop", "web", "Ready"), "True UnknownLabel");
    assert_eq!(world.condition("shop", "web", "Enforced"), "True UnknownLabel");
    let said = "the label servicefence.io/mode=Enforce of Namespace shop means nothing and changes nothing: \
                use enforce, observe or off; the proxies of Service web know 1 of 3 hosts";
    assert!(message(&world).starts_with(said), "{}", message(&world));
    // Nothing was in force for what comes now.
    world.service("shop", "cart", &["http:8080"]);
    world.settle();
    assert_eq!(fences(&world), ["shop/web"]);
    world.namespace("shop", Some("enforce"));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    assert_eq!(fences(&world), ["shop/cart", "shop/web"]);
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/reviews.books.svc.cluster.local"]
    );
}

#[test]
fn a_typo_in_the_label_of_a_service_leaves_it_as_it_was() {
    for (before, typo, is) in [
        (None, "Off", Some(Mode::Enforce)),
        (Some("enforce"), "enforced", Some(Mode::Enforce)),
        (Some("observe"), "watch", Some(Mode::Observe)),
        (Some("off"), "OFF", None),
    ] {
        let mut world = World::new();
        world.namespace("shop", Some("enforce"));
        let label = before.map_or_else(|| json!({}), mode_label);
        world.service_with("shop", "web", &["http:8080"], &label);
        world.settle();
        let (from, objects) = (world.writes.len(), world.objects.len());
        world.service_with("shop", "web", &["http:8080"], &mode_label(typo));
        world.settle();
        let own: Vec<_> = writes(&world, from);
        // A Service that is applied again has another address here.
        assert!(own.iter().all(|write| write.contains("fallback-shop")), "{own:?}");
        assert_eq!(world.objects.len(), objects);
        assert_eq!(world.status("shop", "web").mode, is, "{typo}");
        let again = restarted(&world);
        assert_eq!(again.status("shop", "web").mode, is, "{typo}");
    }
}

#[test]
fn a_typo_in_the_label_of_the_fallback_changes_nothing() {
    let mut world = shop();
    mesh_config(&mut world, super::telemetry::PROVIDER);
    let label = |world: &mut World, value| {
        world.namespace_with("shop", Some("enforce"), &[("servicefence.io/fallback", value)]);
        world.settle();
        world.status("shop", "web").fallback.unwrap().as_str()
    };
    assert_eq!(label(&mut world, "passthrough"), "Passthrough");
    let from = world.writes.len();
    assert_eq!(label(&mut world, "Gateway"), "Passthrough");
    assert_eq!(writes(&world, from), [] as [&str; 0]);
    assert_eq!(world.condition("shop", "web", "Ready"), "True UnknownLabel");
    let said = "the label servicefence.io/fallback=Gateway of Namespace shop means nothing and changes nothing: \
                use gateway or passthrough";
    assert!(message(&world).starts_with(said), "{}", message(&world));
    let mut world = restarted(&world);
    assert_eq!(label(&mut world, "gateway"), "Gateway");
}

/// A Sidecar without a selector: which pods it has.
#[test]
fn a_typo_neither_gives_pods_to_the_default_of_a_namespace_nor_takes_them() {
    let mut world = World::new();
    world.namespace("shop", Some("off"));
    world.service("shop", "cart", &["http:8080"]);
    let rest = json!({"mode": "Enforce", "workload": {"namespaceDefault": true}});
    world.object("ServiceFence", "shop", "rest", rest);
    world.settle();
    for (label, is) in [
        ("Off", "True Scoped"),
        ("off", "False PodsOptedOut"),
        ("Off", "False PodsOptedOut"),
    ] {
        world.service_with("shop", "cart", &["http:8080"], &mode_label(label));
        world.settle();
        assert_eq!(world.condition("shop", "rest", "Enforced"), is, "{label}");
        let again = restarted(&world);
        assert_eq!(again.condition("shop", "rest", "Enforced"), is, "{label}");
    }
}
