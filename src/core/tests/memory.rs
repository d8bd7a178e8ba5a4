//! What was learned and what somebody wrote outlives labels, and what is gone is forgotten after a while.

use jiff::SignedDuration;
use serde_json::json;
use servicefence_crd::Mode;

use crate::observe::Watched;
use crate::render::Kind;
use crate::settings::Settings;
use crate::simulate::world::{mode_label, settings};
use crate::tests::*;

const DAY: SignedDuration = SignedDuration::from_hours(24);
const REVIEWS: &str = "reviews.books.svc.cluster.local";

/// The shop, after `web` has learned `reviews`.
fn taught() -> World {
    taught_with(settings())
}

fn taught_with(settings: Settings) -> World {
    let mut world = World::with(settings);
    stock(&mut world);
    learn(&mut world, &reviews());
    world.settle();
    assert_eq!(scope(&world), [format!("books/{REVIEWS}")]);
    world
}

fn learned(world: &World) -> Vec<String> {
    let learned = world.status("shop", "web").learned;
    learned.into_iter().map(|learned| learned.host).collect()
}

fn mode(world: &World) -> Mode {
    world.status("shop", "web").mode.unwrap()
}

fn pass(world: &mut World, time: SignedDuration) {
    world.pass(time);
    world.resync();
    world.settle();
}

#[test]
fn a_label_that_is_taken_away_and_set_again_loses_nothing() {
    let mut world = taught();
    for (label, back) in [(None, "enforce"), (Some("off"), "enforce"), (None, "observe")] {
        world.namespace("shop", label);
        world.settle();
        assert_eq!(world.scope("shop", "web"), None);
        assert!(!world.has(Kind::EnvoyFilter, "shop", "servicefence"));
        assert_eq!(world.condition("shop", "web", "Ready"), "True Retained");
        assert_eq!(world.condition("shop", "web", "Learning"), "False Retained");
        assert_eq!(
            (mode(&world), learned(&world)),
            (Mode::Off, vec![REVIEWS.to_owned()])
        );
        let until = world.status("shop", "web").retained_since.unwrap() + DAY * 30;
        let said = format!(
            "no label asks for this fence of Service web any more, so it does nothing; what it has learned is used again \
             when a label does, and kept until {until}"
        );
        assert_eq!(message(&world), said);
        // A typo on the way back is said, and asks for nothing.
        world.namespace("shop", Some("Enforce"));
        world.settle();
        assert_eq!(world.condition("shop", "web", "Ready"), "True UnknownLabel");
        assert_eq!(mode(&world), Mode::Off);
        world = restarted(&world);
        pass(&mut world, DAY * 20);
        world.namespace("shop", Some(back));
        world.settle();
        assert_eq!(world.status("shop", "web").retained_since, None);
        assert_eq!(learned(&world), [REVIEWS]);
        if back == "enforce" {
            assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
            assert_eq!(scope(&world), [format!("books/{REVIEWS}")]);
        }
    }
}

#[test]
fn a_service_that_is_deleted_and_made_again_finds_what_it_has_learned() {
    let mut world = taught();
    world.no_service(&ServiceKey::new("shop", "web"));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Retained");
    assert_eq!(world.scope("shop", "web"), None);
    let mut world = restarted(&world);
    pass(&mut world, DAY * 29);
    world.service("shop", "web", &["http:8080"]);
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    assert_eq!(scope(&world), [format!("books/{REVIEWS}")]);
}

#[test]
fn a_namespace_that_may_not_be_fenced_for_a_while_loses_nothing() {
    let mut world = taught_with(Settings {
        namespace_selector: serde_json::from_value(
            json!({"matchExpressions": [{"key": "closed", "operator": "DoesNotExist"}]}),
        )
        .unwrap(),
        ..settings()
    });
    world.namespace_with("shop", Some("enforce"), &[("closed", "yes")]);
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "False NamespaceExcluded");
    assert_eq!(
        (mode(&world), learned(&world)),
        (Mode::Off, vec![REVIEWS.to_owned()])
    );
    world.namespace("shop", Some("enforce"));
    world.settle();
    assert_eq!(scope(&world), [format!("books/{REVIEWS}")]);
}

#[test]
fn what_no_label_asks_for_goes_after_its_time_and_not_before() {
    let mut world = taught();
    world.namespace("shop", None);
    world.settle();
    pass(&mut world, DAY * 15);
    // A restart does not begin the time anew.
    let mut world = restarted(&world);
    pass(&mut world, DAY * 14);
    assert_eq!(fences(&world), ["shop/web"]);
    pass(&mut world, DAY);
    assert_eq!(fences(&world), [] as [&str; 0]);
    assert_eq!(writes(&world, 0), ["delete ServiceFence shop/web"]);
}

#[test]
fn a_retention_of_zero_is_for_ever() {
    let mut world = taught_with(Settings {
        retention: SignedDuration::ZERO,
        ..settings()
    });
    world.namespace("shop", None);
    world.no_service(&reviews());
    world.settle();
    assert!(message(&world).ends_with("kept for ever"), "{}", message(&world));
    pass(&mut world, DAY * 3000);
    assert_eq!(learned(&world), [REVIEWS]);
}

#[test]
fn a_fence_with_nothing_to_remember_goes_at_once() {
    let mut world = shop();
    world.namespace("shop", None);
    world.settle();
    assert_eq!(fences(&world), [] as [&str; 0]);
}

#[test]
fn a_generated_fence_that_somebody_wrote_to_is_theirs() {
    let mut world = shop();
    world.edit("shop", "web", allow(&["ratings.books"]));
    world.settle();
    for label in [None, Some("off")] {
        world.namespace("shop", label);
        world.settle();
        assert_eq!(world.condition("shop", "web", "Ready"), "True Off");
        assert_eq!(world.scope("shop", "web"), None);
        pass(&mut world, DAY * 1000);
        assert_eq!(world.status("shop", "web").retained_since, None);
        assert_eq!(world.fence("shop", "web").unwrap().spec.allow.len(), 1);
        world.namespace("shop", Some("enforce"));
        world.settle();
        assert_eq!(scope(&world), ["books/ratings.books.svc.cluster.local"]);
    }
    // Its author is told when the Service goes.
    world.no_service(&ServiceKey::new("shop", "web"));
    pass(&mut world, DAY * 1000);
    assert_eq!(world.condition("shop", "web", "Ready"), "False ServiceNotFound");
    // Who takes back what was written gives the fence back.
    world.edit("shop", "web", json!({}));
    world.settle();
    assert_eq!(fences(&world), [] as [&str; 0]);
}

#[test]
fn a_brake_with_a_typo_stays_one_and_so_does_its_absence() {
    let alias = |mode: &str| {
        let mut alias = mode_label(mode);
        alias["spec"] = json!({"selector": {"app": "web"}});
        alias
    };
    let mut world = taught();
    world.service_with("shop", "alpha", &["http:9090"], &alias("Off"));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Enforced"), "True UnknownLabel");
    let of = "the label servicefence.io/mode=Off of Service alpha means nothing";
    assert!(message(&world).starts_with(of), "{}", message(&world));
    for (label, is) in [
        ("off", "False Retained"),
        ("OFF", "False UnknownLabel"),
        ("enforce", "True Scoped"),
    ] {
        world.service_with("shop", "alpha", &["http:9090"], &alias(label));
        world.settle();
        assert_eq!(world.condition("shop", "web", "Enforced"), is);
        assert_eq!(
            fences(&world),
            ["shop/web"],
            "{label}: the fence that was there stays"
        );
    }
}

#[test]
fn of_two_fences_for_the_same_pods_the_one_that_was_last_in_force_comes_back() {
    let mut world = taught();
    world.service("shop", "alpha", &["http:9090"]);
    world.settle();
    world.learned(
        &FenceKey::new("shop", "alpha"),
        &ServiceKey::new("books", "ratings"),
    );
    world.settle();
    world.no_service(&ServiceKey::new("shop", "alpha"));
    pass(&mut world, DAY);
    // It comes back as another name for the pods of `web`.
    let of_web = json!({"spec": {"selector": {"app": "web"}}});
    world.service_with("shop", "alpha", &["http:9090"], &of_web);
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    assert_eq!(world.condition("shop", "alpha", "Ready"), "True Retained");
    world.namespace("shop", None);
    world.settle();
    let mut world = restarted(&world);
    world.namespace("shop", Some("enforce"));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    assert_eq!(world.condition("shop", "alpha", "Ready"), "True Retained");
}

#[test]
fn a_learned_host_that_the_mesh_no_longer_has_leaves_after_a_while_without_any_metrics() {
    let mut world = taught();
    let ratings = ServiceKey::new("books", "ratings");
    learn(&mut world, &ratings);
    pass(&mut world, DAY * 300);
    assert_eq!(world.status("shop", "web").missing, []);
    world.no_service(&reviews());
    world.settle();
    let gone = world.status("shop", "web").missing;
    assert_eq!(gone[0].host, REVIEWS);
    let said = world.engine.explain(&web(), REVIEWS, world.now).unwrap();
    assert_eq!(said.because[0].until, Some(gone[0].since + DAY * 30));
    let mut world = restarted(&world);
    pass(&mut world, DAY * 29);
    assert_eq!(scope(&world).len(), 2);
    pass(&mut world, DAY);
    let forgot = format!("forget shop/web {REVIEWS}");
    assert_eq!(
        writes(&world, 0),
        [&forgot, "apply Sidecar shop/servicefence-web"]
    );
    assert_eq!(scope(&world), ["books/ratings.books.svc.cluster.local"]);
    assert_eq!(world.status("shop", "web").missing, []);
    assert_eq!(world.status("shop", "web").forgot.unwrap().hosts, [REVIEWS]);
    // It is a first call again.
    world.service("books", "reviews", &["http:8080"]);
    learn(&mut world, &reviews());
    world.settle();
    assert_eq!(scope(&world).len(), 2);
}

#[test]
fn a_learned_host_that_comes_back_in_time_stays() {
    let mut world = taught();
    for _ in 0..3 {
        world.no_service(&reviews());
        world.settle();
        assert_eq!(world.status("shop", "web").missing.len(), 1);
        pass(&mut world, DAY * 20);
        world.service("books", "reviews", &["http:8080"]);
        world.settle();
        assert_eq!(world.status("shop", "web").missing, []);
    }
    pass(&mut world, DAY * 300);
    assert_eq!(learned(&world), [REVIEWS]);
}

#[test]
fn a_host_of_a_namespace_that_istiod_does_not_look_into_comes_back_with_it() {
    let mut world = taught();
    mesh_config(
        &mut world,
        "discoverySelectors: [{matchExpressions: [{key: dark, operator: DoesNotExist}]}]",
    );
    world.namespace_with("books", None, &[("dark", "yes")]);
    pass(&mut world, DAY * 300);
    assert_eq!(learned(&world), [REVIEWS]);
    world.no_service(&reviews());
    pass(&mut world, DAY);
    pass(&mut world, DAY * 30);
    assert_eq!(learned(&world), [] as [&str; 0], "it is gone there too");
}

#[test]
fn the_host_of_a_service_entry_leaves_like_that_of_a_service() {
    let mut world = shop();
    let spec =
        json!({"hosts": ["api.example.com"], "ports": [{"name": "https", "number": 443, "protocol": "TLS"}]});
    world.object("ServiceEntry", "shop", "api", spec);
    let seen = crate::Observation {
        fence: web(),
        host: crate::name::ScopeHost::new("shop", "api.example.com"),
        source: servicefence_crd::Source::Prometheus,
    };
    world.store(&seen, crate::Period::at(world.now));
    pass(&mut world, DAY * 60);
    assert_eq!(learned(&world), ["api.example.com"]);
    world.gone(Watched::ServiceEntries, "shop", "api");
    world.settle();
    pass(&mut world, DAY * 30);
    assert_eq!(learned(&world), [] as [&str; 0]);
}

/// They cannot be called, so it does not matter how many leave at once; but a status holds no more.
#[test]
fn many_hosts_that_are_gone_leave_together() {
    let mut world = shop();
    let services: Vec<_> = (0..250)
        .map(|number| ServiceKey::new("books", format!("s-{number}")))
        .collect();
    for service in &services {
        learn(&mut world, service);
    }
    world.settle();
    assert_eq!(world.status("shop", "web").missing.len(), 250);
    pass(&mut world, DAY * 30);
    assert_eq!(learned(&world), [] as [&str; 0]);
    assert_eq!(world.status("shop", "web").forgot.unwrap().hosts.len(), 50);
}

#[test]
fn a_fence_that_is_off_forgets_what_is_gone_too() {
    let mut world = shop();
    world.edit("shop", "web", json!({"deny": ["scratch.shop"]}));
    learn(&mut world, &reviews());
    world.namespace("shop", None);
    world.no_service(&reviews());
    world.settle();
    pass(&mut world, DAY * 30);
    assert_eq!(world.condition("shop", "web", "Ready"), "True Off");
    assert_eq!(learned(&world), [] as [&str; 0]);
}
