//! Fallback Passthrough: no gateway and no EnvoyFilter, and what is said of what can fail.

use jiff::SignedDuration;
use servicefence_crd::{Fallback, Source, names};

use crate::engine::Change;
use crate::learn::{Observation, Period};
use crate::observe::Watched;
use crate::render::Kind;
use crate::tests::telemetry::PROVIDER;
use crate::tests::*;

/// The shop of [`super::shop`], with this label on its Namespace.
fn shop(fallback: &str) -> World {
    let mut world = World::new();
    populate(&mut world, fallback);
    world
}

fn populate(world: &mut World, fallback: &str) {
    mesh_config(world, PROVIDER);
    world.namespace_with("shop", Some("enforce"), &[(names::FALLBACK_LABEL, fallback)]);
    world.namespace("books", None);
    world.service("shop", "web", &["http:8080"]);
    world.service("books", "reviews", &["http:8080"]);
    world.service("books", "ratings", &["http:8080"]);
    world.pod("shop", "web-1", &[("app", "web")]);
    world.settle();
}

fn strict(world: &mut World, namespace: &str, name: &str, more: &serde_json::Value) {
    let mut spec = json!({"mtls": {"mode": "STRICT"}});
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    world.object("PeerAuthentication", namespace, name, spec);
    world.settle();
}

#[test]
fn misses_are_reported_by_the_proxies_before_the_first_sidecar_and_nothing_leads_them_to_a_gateway() {
    let mut world = shop("passthrough");
    world.apply(Change::GatewayReady(false));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    assert!(!world.has(Kind::EnvoyFilter, "shop", "servicefence"));
    let at = |write: &str| world.writes.iter().position(|is| is == write).unwrap();
    assert!(at("apply Telemetry shop/servicefence") < at("apply Sidecar shop/servicefence-web"));
    let sidecar = &world.objects[&(Kind::Sidecar, "shop".into(), "servicefence-web".into())];
    let report = "servicefence-system/reports.servicefence-system.svc.cluster.local";
    assert!(
        sidecar.to_string().contains(report),
        "a report needs a cluster to go to: {sidecar}"
    );
    let key = (Kind::Telemetry, "shop".into(), "servicefence".into());
    let logging = &world.objects[&key]["spec"]["accessLogging"][0];
    assert!(
        logging["filter"]["expression"]
            .as_str()
            .unwrap()
            .contains("PassthroughCluster"),
        "{logging}"
    );
    assert_eq!(world.status("shop", "web").fallback, Some(Fallback::Passthrough));
    assert_eq!(
        message(&world),
        "the proxies of Service web know 0 of 3 hosts, calls to the rest are passed through without mutual TLS"
    );
}

#[test]
fn what_was_called_joins_at_once_and_what_leaves_goes_in_two_steps() {
    let mut world = shop("passthrough");
    learn(&mut world, &reviews());
    let now = world.now;
    world.step();
    assert_eq!(
        (world.scope("shop", "web").unwrap(), world.now),
        (vec!["books/reviews.books.svc.cluster.local".to_owned()], now)
    );
    world.settle();
    world.writes.clear();
    world.namespace_with("shop", Some("off"), &[(names::FALLBACK_LABEL, "passthrough")]);
    world.step();
    assert_eq!(world.warm("shop", "web"), ["*/*"]);
    world.settle();
    assert!(!world.has(Kind::Telemetry, "shop", "servicefence"));
}

#[test]
fn where_mutual_tls_is_required_is_said() {
    let mut world = shop("passthrough");
    strict(&mut world, "books", "default", &json!({}));
    assert!(
        message(&world).ends_with("fail where it is required (namespaces books)"),
        "{}",
        message(&world)
    );
    strict(&mut world, "istio-system", "default", &json!({}));
    assert!(
        message(&world).ends_with("(all namespaces)"),
        "{}",
        message(&world)
    );
    world.object(
        "PeerAuthentication",
        "shop",
        "default",
        json!({"mtls": {"mode": "PERMISSIVE"}}),
    );
    world.settle();
    assert!(
        message(&world).ends_with("(all namespaces but shop)"),
        "{}",
        message(&world)
    );
    world.gone(Watched::PeerAuthentications, "istio-system", "default");
    world.gone(Watched::PeerAuthentications, "books", "default");
    world.settle();
    assert!(
        message(&world).ends_with("without mutual TLS"),
        "{}",
        message(&world)
    );
    strict(
        &mut world,
        "books",
        "some",
        &json!({"selector": {"matchLabels": {"app": "reviews"}}}),
    );
    assert!(
        message(&world).ends_with("(the pods of PeerAuthentication books/some)"),
        "{}",
        message(&world)
    );
}

#[test]
fn nothing_is_enforced_where_misses_would_be_refused_or_unseen() {
    for (config, reason, say) in [
        ("{}", "NothingObserved", "add the extension provider servicefence"),
        (
            "outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
            "RegistryOnly",
            "set the fallback to Gateway",
        ),
    ] {
        let mut world = World::new();
        mesh_config(&mut world, config);
        world.namespace_with("shop", Some("enforce"), &[(names::FALLBACK_LABEL, "passthrough")]);
        world.service("shop", "web", &["http:8080"]);
        world.service("books", "reviews", &["http:8080"]);
        world.pod("shop", "web-1", &[("app", "web")]);
        world.settle();
        assert_eq!(world.scope("shop", "web"), None);
        assert_eq!(world.condition("shop", "web", "Ready"), format!("False {reason}"));
        assert!(message(&world).contains(say), "{}", message(&world));
        mesh_config(&mut world, PROVIDER);
        assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    }
}

#[test]
fn nothing_leaves_while_its_next_call_would_not_be_seen() {
    let mut world = shop("passthrough");
    world.edit("shop", "web", allow(&["reviews.books"]));
    world.settle();
    mesh_config(&mut world, "{}");
    assert_eq!(world.condition("shop", "web", "Ready"), "False NothingObserved");
    assert_eq!(world.condition("shop", "web", "Enforced"), "True NothingObserved");
    world.edit("shop", "web", json!({}));
    world.settle();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/reviews.books.svc.cluster.local"]
    );
    mesh_config(&mut world, PROVIDER);
    assert_eq!(world.scope("shop", "web").unwrap(), [""; 0]);
}

#[test]
fn one_fence_that_takes_the_gateway_decides_for_its_namespace() {
    let mut world = shop("passthrough");
    world.service("shop", "cart", &["http:8080"]);
    world.pod("shop", "cart-1", &[("app", "cart")]);
    world.settle();
    world.edit("shop", "web", json!({"fallback": "Passthrough"}));
    world.edit("shop", "cart", json!({"fallback": "Gateway"}));
    world.settle();
    assert!(world.has(Kind::EnvoyFilter, "shop", "servicefence"));
    assert!(!world.has(Kind::Telemetry, "shop", "servicefence"));
    assert_eq!(world.status("shop", "web").fallback, Some(Fallback::Gateway));
    assert!(
        message(&world).contains("fallback Passthrough has no effect"),
        "{}",
        message(&world)
    );
    // A fence that is off leads no call anywhere.
    world.edit("shop", "cart", json!({"fallback": "Gateway", "mode": "Off"}));
    world.settle();
    assert!(!world.has(Kind::EnvoyFilter, "shop", "servicefence"));
    assert!(world.has(Kind::Telemetry, "shop", "servicefence"));
    assert_eq!(world.status("shop", "web").fallback, Some(Fallback::Passthrough));
}

#[test]
fn the_gateway_goes_on_serving_until_what_is_passed_through_is_seen() {
    let mut world = shop("gateway");
    mesh_config(&mut world, "{}");
    world.namespace_with("shop", Some("enforce"), &[(names::FALLBACK_LABEL, "passthrough")]);
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "False NothingObserved");
    assert!(world.has(Kind::EnvoyFilter, "shop", "servicefence"));
    world.writes.clear();
    mesh_config(&mut world, PROVIDER);
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    let at = |write: &str| world.writes.iter().position(|is| is == write).unwrap();
    assert!(at("apply Telemetry shop/servicefence") < at("delete EnvoyFilter shop/servicefence"));
}

#[test]
fn a_sidecar_goes_to_other_pods_without_a_gateway() {
    let mut world = shop("passthrough");
    world.apply(Change::GatewayReady(false));
    world.settle();
    let blue = json!({"spec": {"selector": {"app": "web", "color": "blue"}}});
    world.service_with("shop", "web", &["http:8080"], &blue);
    world.settle();
    let sidecar = &world.objects[&(Kind::Sidecar, "shop".into(), "servicefence-web".into())];
    assert_eq!(sidecar["spec"]["workloadSelector"]["labels"]["color"], "blue");
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}

#[test]
fn full_logs_stay_while_another_fence_observes_by_them() {
    let mut world = shop("passthrough");
    world.service("shop", "cart", &["http:8080"]);
    world.pod("shop", "cart-1", &[("app", "cart")]);
    world.settle();
    world.edit("shop", "cart", json!({"mode": "Observe"}));
    world.settle();
    let key = (Kind::Telemetry, "shop".into(), "servicefence".into());
    assert!(
        world.objects[&key]["spec"]["accessLogging"][0]
            .get("filter")
            .is_none()
    );
}

#[test]
fn without_a_gateway_no_routes_are_written_and_a_fence_that_asks_for_it_says_so() {
    let mut world = World::with(crate::settings::Settings {
        has_gateway: false,
        default_fallback: Fallback::Passthrough,
        ..crate::simulate::world::settings()
    });
    world.apply(Change::GatewayReady(false));
    populate(&mut world, "gateway");
    assert_eq!(world.condition("shop", "web", "Ready"), "False GatewayNotReady");
    assert!(
        !world.writes.iter().any(|write| write.contains("fallback-")),
        "{:?}",
        world.writes
    );
    world.namespace("shop", Some("enforce"));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    assert!(
        !world.writes.iter().any(|write| write.contains("fallback-")),
        "{:?}",
        world.writes
    );
}

#[test]
fn a_silent_host_is_forgotten_only_where_the_next_call_would_be_taken() {
    let mut world = World::with(crate::settings::Settings {
        reads_history: true,
        ..crate::simulate::world::settings()
    });
    populate(&mut world, "passthrough");
    for service in ["reviews", "ratings"] {
        let seen = Observation {
            fence: web(),
            host: ServiceKey::new("books", service).scope_host(),
            source: Source::Prometheus,
        };
        world.store(&seen, Period::at(world.now));
    }
    let now = world.now;
    super::expiry::know_since(&mut world, now);
    world.settle();
    strict(
        &mut world,
        "books",
        "some",
        &json!({"selector": {"matchLabels": {"app": "reviews"}}}),
    );
    world.apply(Change::GatewayReady(false));
    for _ in 0..60 {
        world.pass(SignedDuration::from_hours(12));
        world.apply(Change::Told([(web(), ["web".into()].into())].into()));
        world.resync();
        world.settle();
    }
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/reviews.books.svc.cluster.local"]
    );
}
