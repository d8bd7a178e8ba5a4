//! Who is fenced.

use jiff::SignedDuration;
use serde_json::{Value, json};
use servicefence_crd::Mode;

use crate::engine::Change;
use crate::observe::Watched;
use crate::render::Kind;
use crate::simulate::world::{mode_label, settings};
use crate::tests::*;

#[test]
fn services_without_pods_of_their_own_are_never_fenced() {
    let mut world = World::new();
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    world.service("shop", "cart", &["http:8080"]);
    world.service_with(
        "shop",
        "manual",
        &["http:8080"],
        &json!({"spec": {"selector": null}}),
    );
    world.service_with("shop", "alias", &[], &json!({"spec": {"type": "ExternalName"}}));
    world.settle();
    assert_eq!(fences(&world), ["shop/cart", "shop/web"]);
}

#[test]
fn a_service_label_wins_over_the_namespace_and_a_spec_over_both() {
    let mut world = World::new();
    world.namespace("shop", Some("enforce"));
    world.service_with("shop", "web", &["http:8080"], &mode_label("off"));
    world.service("shop", "cart", &["http:8080"]);
    world.settle();
    assert_eq!(fences(&world), ["shop/cart"]);
    world.edit("shop", "cart", json!({"mode": "Off"}));
    world.settle();
    assert_eq!(world.condition("shop", "cart", "Ready"), "True Off");
    assert_eq!(world.condition("shop", "cart", "Enforced"), "False Off");
    assert_eq!(world.scope("shop", "cart"), None);
}

#[test]
fn services_with_one_selector_share_a_fence_and_a_new_one_moves_nothing() {
    let mut world = World::new();
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    world.settle();
    world.service_with(
        "shop",
        "alpha",
        &["http:9090"],
        &json!({"spec": {"selector": {"app": "web"}}}),
    );
    world.settle();
    assert_eq!(fences(&world), ["shop/web"]);
}

/// Another Service of `web`'s pods.
fn alias(mode: &str) -> serde_json::Value {
    let mut alias = mode_label(mode);
    alias["spec"] = json!({"selector": {"app": "web"}});
    alias
}

#[test]
fn off_on_any_service_of_the_same_pods_is_a_brake() {
    let mut world = World::new();
    world.namespace("shop", None);
    world.service_with("shop", "web", &["http:8080"], &mode_label("enforce"));
    world.settle();
    assert_eq!(world.scope("shop", "web"), Some(vec![]));
    for name in ["alpha", "zeta"] {
        world.service_with("shop", name, &["http:9090"], &alias("off"));
        world.settle();
        assert_eq!(fences(&world), [] as [&str; 0]);
        assert!(!world.has(Kind::Sidecar, "shop", "servicefence-web"));
        world.no_service(&ServiceKey::new("shop", name));
        world.settle();
        assert_eq!(world.scope("shop", "web"), Some(vec![]));
    }
}

#[test]
fn enforce_on_any_service_of_the_same_pods_is_enough() {
    for namespace in [None, Some("off")] {
        let mut world = World::new();
        world.namespace("shop", namespace);
        world.service_with(
            "shop",
            "alpha",
            &["http:9090"],
            &json!({"spec": {"selector": {"app": "web"}}}),
        );
        world.service_with("shop", "web", &["http:8080"], &mode_label("enforce"));
        world.settle();
        assert_eq!(fences(&world), ["shop/alpha"]);
        assert_eq!(world.condition("shop", "alpha", "Enforced"), "True Scoped");
    }
}

#[test]
fn a_fence_written_by_hand_heeds_the_brake_unless_its_spec_has_a_mode() {
    let mut world = World::new();
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    world.object(
        "ServiceFence",
        "shop",
        "mine",
        json!({"workload": {"service": "web"}}),
    );
    world.settle();
    assert_eq!(world.condition("shop", "mine", "Enforced"), "True Scoped");
    world.service_with("shop", "alpha", &["http:9090"], &alias("off"));
    world.settle();
    assert_eq!(world.condition("shop", "mine", "Enforced"), "False Off");
    world.edit(
        "shop",
        "mine",
        json!({"workload": {"service": "web"}, "mode": "Enforce"}),
    );
    world.settle();
    assert_eq!(world.condition("shop", "mine", "Enforced"), "True Scoped");
    assert_eq!(fences(&world), ["shop/mine"]);
}

#[test]
fn labels_never_touch_a_fence_that_was_written_by_hand() {
    let mut world = World::new();
    world.namespace("shop", None);
    world.service("shop", "web", &["http:8080"]);
    world.service("shop", "cart", &["http:8080"]);
    world.object(
        "ServiceFence",
        "shop",
        "mine",
        json!({"workload": {"service": "web"}}),
    );
    world.settle();
    assert_eq!(world.condition("shop", "mine", "Ready"), "True Off");
    world.namespace("shop", Some("enforce"));
    world.settle();
    assert_eq!(fences(&world), ["shop/cart", "shop/mine"]);
    assert_eq!(world.condition("shop", "mine", "Enforced"), "True Scoped");
    world.namespace("shop", None);
    world.settle();
    assert_eq!(fences(&world), ["shop/mine"]);
    assert!(!world.has(Kind::Sidecar, "shop", "servicefence-mine"));
}

#[test]
fn one_labelled_service_is_one_fence_and_a_written_one_stays_as_it_is() {
    let mut world = World::new();
    world.namespace("shop", Some("off"));
    for service in ["web", "cart", "till"] {
        world.service("shop", service, &["http:8080"]);
    }
    let spec = json!({"mode": "Enforce", "allow": [{"host": "cart"}]});
    world.object("ServiceFence", "shop", "till", spec);
    world.settle();
    let written = world.fence("shop", "till");
    let scope = world.scope("shop", "till");
    let from = world.writes.len();
    world.service_with("shop", "web", &["http:8080"], &mode_label("enforce"));
    world.settle();
    assert_eq!(fences(&world), ["shop/till", "shop/web"]);
    world.namespace("shop", None);
    world.service("shop", "web", &["http:8080"]);
    world.settle();
    assert_eq!(fences(&world), ["shop/till"]);
    assert!(!world.has(Kind::Sidecar, "shop", "servicefence-web"));
    assert_eq!(world.fence("shop", "till"), written);
    assert_eq!(world.scope("shop", "till"), scope);
    let of_till = world.writes[from..].iter().filter(|write| write.contains("till"));
    assert_eq!(of_till.count(), 0, "{:?}", &world.writes[from..]);
}

#[test]
fn the_charts_default_mode_is_for_what_has_no_label() {
    let mut world = World::with(crate::settings::Settings {
        default_mode: Mode::Enforce,
        ..settings()
    });
    world.namespace("shop", None);
    world.service("shop", "web", &["http:8080"]);
    world.service_with("shop", "cart", &["http:8080"], &mode_label("off"));
    world.namespace("books", Some("off"));
    world.service("books", "reviews", &["http:8080"]);
    world.service_with("books", "ratings", &["http:8080"], &mode_label("observe"));
    world.namespace("kube-system", None);
    world.service("kube-system", "dns", &["http:8080"]);
    world.settle();
    assert_eq!(fences(&world), ["books/ratings", "shop/web"]);
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    assert_eq!(world.scope("books", "ratings"), None);
    world.namespace("shop", Some("off"));
    world.settle();
    assert_eq!(fences(&world), ["books/ratings"]);
}

#[test]
fn nothing_is_fenced_in_excluded_namespaces() {
    let mut world = World::new();
    world.namespace("kube-system", Some("enforce"));
    world.service("kube-system", "dns", &["http:8080"]);
    world.object(
        "ServiceFence",
        "kube-system",
        "mine",
        json!({"mode": "Enforce", "workload": {"service": "dns"}}),
    );
    world.settle();
    assert_eq!(fences(&world), ["kube-system/mine"]);
    assert_eq!(
        world.condition("kube-system", "mine", "Ready"),
        "False NamespaceExcluded"
    );
    assert!(!world.writes.iter().any(|write| write.contains("Sidecar")));
}

#[test]
fn an_unknown_mode_is_said_once_and_asks_for_nothing() {
    let mut world = World::new();
    let facts = |mode: &str| crate::facts::NamespaceFacts {
        mode: crate::facts::LabelValue::parse(Some(mode)),
        fallback: crate::facts::LabelValue::Absent,
        labels: crate::facts::Labels::new(),
        terminating: false,
    };
    let change = |mode: &str| crate::engine::Change::Namespace("shop".into(), Some(facts(mode)));
    let now = world.now;
    let dirty = world.engine.apply(change("enforced"), now);
    assert_eq!(dirty.unknown_labels[0].value, "enforced");
    assert!(
        world
            .engine
            .apply(change("enforced"), now)
            .unknown_labels
            .is_empty()
    );
    world.service("shop", "web", &["http:8080"]);
    world.settle();
    assert_eq!(fences(&world), [] as [&str; 0]);
}

#[test]
fn a_missing_service_is_said_and_nothing_is_touched() {
    let mut world = shop();
    world.object("ServiceFence", "shop", "ghost", json!({"mode": "Enforce"}));
    world.settle();
    assert_eq!(world.condition("shop", "ghost", "Ready"), "False ServiceNotFound");
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}

/// Which pods it is for is not known, and a call to what its author allows must not wait until it is.
#[test]
fn a_sidecar_without_its_service_takes_in_what_is_allowed_and_lets_nothing_go() {
    let mut world = shop();
    world.edit("shop", "web", allow(&["reviews.books"]));
    world.settle();
    world.no_service(&ServiceKey::new("shop", "web"));
    world.edit("shop", "web", allow(&["ratings.books"]));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Enforced"), "True ServiceNotFound");
    let both = [
        "books/ratings.books.svc.cluster.local",
        "books/reviews.books.svc.cluster.local",
    ];
    assert_eq!(world.scope("shop", "web").unwrap(), both);
    assert_eq!(world.warm("shop", "web"), [""; 0]);
}

#[test]
fn the_older_of_two_fences_has_the_pods() {
    let mut world = shop();
    world.service_with(
        "shop",
        "canary",
        &["http:8080"],
        &json!({"spec": {"selector": {"track": "canary"}}}),
    );
    world.settle();
    assert_eq!(world.condition("shop", "canary", "Ready"), "True Scoped");
    world.pod("shop", "web-2", &[("app", "web"), ("track", "canary")]);
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    assert_eq!(
        world.condition("shop", "canary", "Ready"),
        "False OverlappingFence"
    );
    assert_eq!(world.scope("shop", "canary"), None);
}

#[test]
fn a_users_sidecar_for_the_pods_is_respected() {
    let mut world = shop();
    world.object(
        "Sidecar",
        "shop",
        "elsewhere",
        json!({"workloadSelector": {"labels": {"app": "cart"}}}),
    );
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    world.object(
        "Sidecar",
        "shop",
        "default",
        json!({"egress": [{"hosts": ["./*"]}]}),
    );
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "False ForeignSidecar");
    assert_eq!(world.scope("shop", "web"), None);
    world.gone(Watched::Sidecars, "shop", "default");
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}

#[test]
fn a_selector_that_changes_is_followed() {
    let mut world = shop();
    world.service_with(
        "shop",
        "web",
        &["http:8080"],
        &json!({"spec": {"selector": {"app": "web", "tier": "front"}}}),
    );
    world.settle();
    let sidecar = &world.objects[&(Kind::Sidecar, "shop".into(), "servicefence-web".into())];
    assert_eq!(
        sidecar["spec"]["workloadSelector"]["labels"],
        json!({"app": "web", "tier": "front"})
    );
}

/// The pods that the Sidecar takes had the whole mesh, and those that it leaves get it back.
#[test]
fn everything_is_warm_while_a_sidecar_goes_to_other_pods() {
    let mut world = shop();
    world.edit("shop", "web", allow(&["reviews.books"]));
    world.settle();
    let green = json!({"spec": {"selector": {"app": "green"}}});
    let selector = |world: &World| {
        let sidecar = &world.objects[&(Kind::Sidecar, "shop".into(), "servicefence-web".into())];
        sidecar["spec"]["workloadSelector"]["labels"]["app"].clone()
    };
    // Without a gateway no workload is scoped anew.
    world.apply(Change::GatewayReady(false));
    world.service_with("shop", "web", &["http:8080"], &green);
    world.settle();
    assert_eq!(selector(&world), "web");
    world.apply(Change::GatewayReady(true));
    let from = world.writes.len();
    world.step();
    assert_eq!(world.warm("shop", "web"), ["*/*"]);
    assert_eq!(selector(&world), "web");
    world.pass(SignedDuration::from_secs(1));
    world.step();
    assert_eq!(selector(&world), "green");
    assert_eq!(world.warm("shop", "web"), ["*/*"]);
    world.pass(SignedDuration::from_millis(999));
    assert_eq!(world.step(), [] as [&str; 0], "these pods have just got it");
    world.settle();
    let writes = world.writes[from..].iter();
    let writes: Vec<_> = writes.filter(|write| !write.starts_with("status")).collect();
    assert_eq!(
        writes,
        [
            "apply Sidecar shop/servicefence-web",
            "apply Sidecar shop/servicefence-web",
            "apply Sidecar shop/servicefence-web"
        ]
    );
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/reviews.books.svc.cluster.local"]
    );
}

#[test]
fn a_sidecar_of_other_pods_that_does_not_know_the_gateway_holds_the_namespace() {
    let fallback = "servicefence-fallback.servicefence-system.svc.cluster.local";
    for (namespace, selector) in [
        ("shop", json!({"labels": {"app": "other"}})),
        ("istio-system", Value::Null),
    ] {
        let mut world = shop();
        let spec = |hosts: &[&str]| json!({"workloadSelector": selector, "egress": [{"hosts": hosts}]});
        world.object("Sidecar", namespace, "mine", spec(&["./*", "istio-system/*"]));
        world.settle();
        assert_eq!(world.condition("shop", "web", "Enforced"), "False ForeignSidecar");
        assert!(!world.has(Kind::EnvoyFilter, "shop", "servicefence"));
        let said = &world.said.last().unwrap().1.message;
        assert!(
            said.contains(&format!("Add servicefence-system/{fallback} to its egress hosts")),
            "{said}"
        );
        for import in [
            format!("servicefence-system/{fallback}"),
            "*/*".to_owned(),
            "servicefence-system/*".to_owned(),
        ] {
            world.object("Sidecar", namespace, "mine", spec(&["./*", &import]));
            world.settle();
            assert_eq!(
                world.condition("shop", "web", "Enforced"),
                "True Scoped",
                "{import}"
            );
        }
    }
}
