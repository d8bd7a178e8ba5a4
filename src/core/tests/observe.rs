//! Mode Observe, and what a scope saves.

use jiff::SignedDuration;
use servicefence_crd::Savings;

use crate::engine::Change;
use crate::facts::EndpointsFacts;
use crate::name::ConfigKey;
use crate::plan::Reason;
use crate::render::Kind;
use crate::tests::*;

fn endpoints(world: &mut World, service: &str, slice: usize, ready: u64) {
    let (namespace, name) = service.split_once('/').unwrap();
    let facts = EndpointsFacts {
        service: ServiceKey::new(namespace, name),
        ready,
        ipv6: false,
        addresses: Vec::new(),
    };
    let key = ConfigKey::new(namespace, format!("{name}-{slice}"));
    world.apply(Change::Endpoints(key, (ready > 0).then_some(facts)));
}

/// The shop of [`super::shop`] with 5 endpoints of `reviews` and 10 of `ratings`, in this mode.
fn shop(mode: &str) -> World {
    let mut world = super::shop();
    world.mesh_config("istio", Some("extensionProviders: [{name: servicefence}]"));
    endpoints(&mut world, "books/reviews", 1, 5);
    endpoints(&mut world, "books/ratings", 1, 4);
    endpoints(&mut world, "books/ratings", 2, 6);
    world.namespace("shop", Some("off"));
    world.settle();
    world.writes.clear();
    world.namespace("shop", Some(mode));
    world.settle();
    world
}

fn savings(world: &World) -> Savings {
    world.status("shop", "web").savings.unwrap()
}

#[test]
fn a_fence_that_observes_says_what_its_scope_would_be_and_leaves_the_proxies_alone() {
    let mut world = shop("observe");
    learn(&mut world, &reviews());
    world.settle();
    assert!(!world.has(Kind::Sidecar, "shop", "servicefence-web"));
    assert!(!world.has(Kind::EnvoyFilter, "shop", "servicefence"));
    assert_eq!(world.condition("shop", "web", "Ready"), "True Observing");
    assert_eq!(world.condition("shop", "web", "Enforced"), "False Observing");
    let status = world.status("shop", "web");
    let scope = status.scope.unwrap();
    assert_eq!((scope.hosts, scope.mesh_hosts, scope.sidecar), (1, 3, None));
    let message = &status.conditions[0].message;
    assert!(message.contains("they would know 1 of 3 hosts"), "{message}");
    let said = world.said.last().unwrap();
    assert!(said.1.reason == Reason::Observing && !said.1.reason.is_warning());
}

#[test]
fn what_is_saved_is_the_mesh_without_the_scope() {
    let mut world = shop("observe");
    learn(&mut world, &reviews());
    world.settle();
    let now = savings(&world);
    // ratings, and web itself, which has no endpoint.
    assert_eq!((now.clusters, now.endpoints, now.proxies), (2, 10, 1));
    assert!(
        now.estimated_bytes_per_proxy > 0 && (1..100).contains(&now.percent),
        "{now:?}"
    );
    learn(&mut world, &ServiceKey::new("books", "ratings"));
    world.settle();
    assert_eq!((savings(&world).clusters, savings(&world).endpoints), (1, 0));
}

#[test]
fn what_observing_said_holds_once_it_is_enforced() {
    let mut world = shop("observe");
    learn(&mut world, &reviews());
    world.settle();
    let observed = world.status("shop", "web");
    world.namespace("shop", Some("enforce"));
    world.settle();
    let enforced = world.status("shop", "web");
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/reviews.books.svc.cluster.local"]
    );
    assert_eq!(enforced.scope.unwrap().hosts, observed.scope.unwrap().hosts);
    let (before, after) = (observed.savings.unwrap(), enforced.savings.unwrap());
    assert_eq!(
        (before.clusters, before.endpoints),
        (after.clusters, after.endpoints)
    );

    world.namespace("shop", Some("observe"));
    world.settle();
    assert_eq!(world.scope("shop", "web"), None);
    assert_eq!(world.condition("shop", "web", "Ready"), "True Observing");
    assert!(!world.has(Kind::EnvoyFilter, "shop", "servicefence"));
}

/// Plans the fence anew, as the hourly round does.
fn look_again(world: &mut World) -> bool {
    let plan = world.engine.plan_fence(&web(), world.now).unwrap();
    plan.status.is_some()
}

#[test]
fn savings_follow_the_mesh_once_an_hour_and_only_where_they_differ() {
    let mut world = shop("observe");
    world.pass(SignedDuration::from_mins(59));
    endpoints(&mut world, "books/ratings", 3, 10);
    assert!(!look_again(&mut world), "it is not an hour yet");
    world.pass(SignedDuration::from_mins(2));
    assert!(look_again(&mut world), "twice as many endpoints");
    endpoints(&mut world, "books/ratings", 3, 1);
    assert!(!look_again(&mut world), "a tenth more is no news");
    endpoints(&mut world, "books/ratings", 1, 0);
    endpoints(&mut world, "books/ratings", 2, 0);
    assert!(look_again(&mut world), "most are gone");
}

#[test]
fn a_service_that_the_namespace_does_not_see_saves_nothing() {
    let mut world = shop("observe");
    let before = savings(&world).clusters;
    let hide = json!({"metadata": {"annotations": {"networking.istio.io/exportTo": "."}}});
    world.service_with("books", "ratings", &["http:8080"], &hide);
    world.pass(SignedDuration::from_hours(2));
    let plan = world.engine.plan_fence(&web(), world.now).unwrap();
    assert_eq!(plan.status.unwrap().savings.unwrap().clusters, before - 1);
}

#[test]
fn the_brake_on_one_service_stops_observing_too_and_enforce_goes_before_observe() {
    let mut world = super::shop();
    let more = |mode: &str| json!({"metadata": {"labels": {"servicefence.io/mode": mode}}, "spec": {"selector": {"app": "web"}}});
    world.namespace("shop", Some("observe"));
    world.service_with("shop", "web-canary", &["http:8080"], &more("enforce"));
    world.settle();
    assert!(world.scope("shop", "web").is_some());
    world.service_with("shop", "web-canary", &["http:8080"], &more("off"));
    world.settle();
    assert_eq!(world.fence("shop", "web"), None);
}

#[test]
fn the_default_of_a_namespace_does_not_scope_pods_that_are_only_observed() {
    let mut world = super::shop();
    world.namespace("shop", None);
    let observed = json!({"metadata": {"labels": {"servicefence.io/mode": "observe"}}});
    world.service_with("shop", "web", &["http:8080"], &observed);
    let spec = json!({"mode": "Enforce", "workload": {"namespaceDefault": true}});
    world.object("ServiceFence", "shop", "rest", spec);
    world.settle();
    assert_eq!(world.scope("shop", "rest"), None);
    assert_eq!(world.condition("shop", "rest", "Ready"), "False PodsOptedOut");
}

#[test]
fn a_conflict_is_said_before_anything_is_enforced() {
    let mut world = shop("observe");
    let spec = json!({"workloadSelector": {"labels": {"app": "web"}}, "egress": [{"hosts": ["./*"]}]});
    world.object("Sidecar", "shop", "mine", spec);
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "False ForeignSidecar");
    assert_eq!(world.condition("shop", "web", "Enforced"), "False ForeignSidecar");
}
