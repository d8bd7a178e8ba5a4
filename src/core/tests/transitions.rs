//! How a Sidecar changes in two steps, and what is left of the objects by which older versions did.
use jiff::SignedDuration;
use serde_json::json;

use crate::engine::Change;
use crate::name::FenceKey;
use crate::plan::target::{Rank, Target};
use crate::render::Kind;
use crate::simulate::world::{SYSTEM, dynamic, settings};
use crate::tests::ranges::envoy_filter;
use crate::tests::*;

/// What is due until the first Sidecar of a namespace. Its EnvoyFilter stands by before that.
pub(super) fn first_sidecar(world: &mut World) {
    world.step();
    world.pass(SignedDuration::from_secs(1));
    world.step();
}

fn nothing_is_warm_after_the_settle_time(world: &mut World) {
    world.pass(SignedDuration::from_millis(999));
    assert_eq!(world.step(), [] as [&str; 0]);
    world.pass(SignedDuration::from_millis(1));
    assert_eq!(world.step(), ["apply Sidecar shop/servicefence-web"]);
    assert_eq!(world.warm("shop", "web"), [""; 0]);
}

#[test]
fn a_first_sidecar_keeps_everything_warm_for_the_settle_time() {
    let mut world = World::new();
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    world.service("books", "reviews", &["http:8080"]);
    let fence = Target::Fence(FenceKey::new("shop", "web"));
    world.step();
    assert_eq!(world.engine.rank(&fence), Rank::Urgent);
    first_sidecar(&mut world);
    assert_eq!(
        world.engine.rank(&fence),
        Rank::Normal,
        "the rest comes after other first ones"
    );
    assert_eq!(world.warm("shop", "web"), ["*/*"]);
    assert_eq!(world.condition("shop", "web", "Enforced"), "True Scoped");
    nothing_is_warm_after_the_settle_time(&mut world);
}

#[test]
fn a_proxy_that_a_default_of_the_mesh_limits_is_not_given_the_whole_mesh_on_the_way() {
    let mut world = World::new();
    let hosts = ["./*", "istio-system/*", "servicefence-system/*"];
    world.object(
        "Sidecar",
        "istio-system",
        "default",
        json!({"egress": [{"hosts": hosts}]}),
    );
    stock(&mut world);
    world.namespace("late", Some("enforce"));
    world.service("late", "web", &["http:8080"]);
    first_sidecar(&mut world);
    assert_eq!(world.warm("late", "web"), hosts);
    world.settle();
    world.namespace("late", Some("off"));
    world.step();
    assert_eq!(world.warm("late", "web"), hosts);
}

#[test]
fn a_learned_host_is_warm_for_the_settle_time_before_it_is_in_scope() {
    let mut world = shop();
    learn(&mut world, &reviews());
    assert_eq!(world.step(), ["apply Sidecar shop/servicefence-web"]);
    let host = ["books/reviews.books.svc.cluster.local"];
    assert_eq!(world.warm("shop", "web"), host);
    assert_eq!(world.scope("shop", "web"), Some(vec![]));
    world.pass(SignedDuration::from_millis(999));
    assert_eq!(world.step(), [] as [&str; 0]);
    world.pass(SignedDuration::from_millis(1));
    let writes = world.step();
    assert_eq!(writes, ["apply Sidecar shop/servicefence-web", "status shop/web"]);
    assert_eq!(world.scope("shop", "web").unwrap(), host);
    assert_eq!(world.warm("shop", "web"), [""; 0]);
    assert_eq!(world.settle(), [] as [&str; 0]);
}

/// istiod has told the proxies of the one port that the rule names, and tells them of the other with a change
/// of the EnvoyFilter.
#[test]
fn what_rules_brought_in_part_is_told_once_more_before_it_is_in_scope() {
    let mut world = shop();
    world.service("books", "parts", &["http:8080", "http-admin:9090"]);
    world.edit("shop", "web", allow(&["reviews.books"]));
    world.settle();
    let before = envoy_filter(&world);
    let to_parts = json!([{"route": [{"destination": {"host": "parts", "port": {"number": 8080}}}]}]);
    let rules = json!({"hosts": ["reviews"], "http": to_parts});
    world.object("VirtualService", "books", "reviews", rules);
    let parts = "books/parts.books.svc.cluster.local".to_owned();
    let sidecar = "apply Sidecar shop/servicefence-web";
    let writes = world.step();
    let told = "apply EnvoyFilter shop/servicefence";
    assert_eq!(writes[..2], [sidecar, told]);
    assert_eq!(world.warm("shop", "web"), ["books/parts.books.svc.cluster.local"]);
    world.pass(SignedDuration::from_millis(999));
    assert_eq!(world.step(), [""; 0], "the settle time begins then");
    world.pass(SignedDuration::from_millis(1));
    assert!(world.step().iter().any(|write| write == sidecar));
    assert!(world.scope("shop", "web").unwrap().contains(&parts));
    assert_eq!(world.settle(), [""; 0]);
    assert!(leads(&world) && envoy_filter(&world) != before);
    // The next time it goes back to the words of before.
    let mut world = world.restarted(|_| {});
    assert_eq!(world.settle(), [""; 0]);
    world.service("books", "more", &["http:8080", "http-admin:9090"]);
    let to_more = json!({"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "more"}}]}]});
    world.object("VirtualService", "books", "reviews", to_more);
    world.settle();
    assert_eq!(envoy_filter(&world), before);
    // What comes along with its rules comes whole.
    world.service("lab", "both", &["http:8080", "http-admin:9090"]);
    let to_both = json!({"hosts": ["first"], "http": [{"route": [{"destination": {"host": "both"}}]}]});
    world.service("lab", "first", &["http:8080"]);
    world.object("VirtualService", "lab", "first", to_both);
    world.edit("shop", "web", allow(&["reviews.books", "first.lab"]));
    world.settle();
    assert!(
        world
            .scope("shop", "web")
            .unwrap()
            .contains(&"lab/both.lab.svc.cluster.local".to_owned())
    );
    assert_eq!(envoy_filter(&world), before);
}

#[test]
fn a_slow_istiod_lengthens_the_settle_time() {
    let mut world = shop();
    world.apply(Change::Convergence(SignedDuration::from_secs(5)));
    learn(&mut world, &reviews());
    world.step();
    world.pass(SignedDuration::from_secs(4));
    assert_eq!(world.step(), [] as [&str; 0]);
    world.pass(SignedDuration::from_secs(1));
    world.step();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/reviews.books.svc.cluster.local"]
    );
}

#[test]
fn without_a_settle_time_the_sidecar_is_written_at_once() {
    let mut settings = settings();
    settings.settle_time = SignedDuration::ZERO;
    let mut world = World::with(settings);
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    let reviews = world.service("books", "reviews", &["http:8080"]);
    world.settle();
    learn(&mut world, &reviews);
    world.step();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/reviews.books.svc.cluster.local"]
    );
    assert_eq!(world.warm("shop", "web"), [""; 0]);
}

#[test]
fn a_host_that_leaves_is_warm_for_the_settle_time_after() {
    let mut world = shop();
    world.edit("shop", "web", allow(&["reviews.books"]));
    world.settle();
    world.edit("shop", "web", json!({}));
    world.step();
    assert_eq!(world.scope("shop", "web"), Some(vec![]));
    assert_eq!(
        world.warm("shop", "web"),
        ["books/reviews.books.svc.cluster.local"]
    );
    nothing_is_warm_after_the_settle_time(&mut world);
}

#[test]
fn a_service_that_is_gone_leaves_at_once() {
    let mut world = shop();
    let db = world.service("books", "db", &["tcp:5432"]);
    world.settle();
    world.no_service(&db);
    let sidecars = world
        .settle()
        .iter()
        .filter(|write| write.contains("Sidecar"))
        .count();
    assert_eq!(sidecars, 1);
    assert_eq!(world.scope("shop", "web"), Some(vec![]));
}

#[test]
fn a_host_that_the_gateway_does_not_serve_joins_at_once() {
    let mut world = shop();
    let entry = json!({"hosts": ["api.example.com"], "ports": [{"number": 443, "protocol": "TLS"}]});
    world.object("ServiceEntry", "books", "ext", entry);
    world.step();
    assert_eq!(world.scope("shop", "web").unwrap(), ["books/api.example.com"]);
    assert_eq!(world.warm("shop", "web"), [""; 0]);
}

#[test]
fn off_gives_the_whole_mesh_back_before_the_sidecar_goes_and_the_filter_goes_last() {
    let mut world = shop();
    world.namespace("shop", Some("off"));
    let writes: Vec<_> = world
        .settle()
        .iter()
        .filter(|write| !write.starts_with("status"))
        .cloned()
        .collect();
    assert_eq!(
        writes,
        [
            "apply Sidecar shop/servicefence-web",
            "delete Sidecar shop/servicefence-web",
            "delete ServiceFence shop/web",
            "apply EnvoyFilter shop/servicefence",
            "delete EnvoyFilter shop/servicefence",
        ]
    );
}

/// Its last part, which leads to the gateway.
fn leads(world: &World) -> bool {
    envoy_filter(world).contains("FILTER_CHAIN")
}

/// A shop that was just labelled: the EnvoyFilter is written, and stands by.
fn filter_stands_by() -> World {
    let mut world = World::new();
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    world.step();
    world
}

/// Istio gives a proxy a listener before the routes to it, and it may be ready after them.
#[test]
fn the_filter_leads_nowhere_before_it_is_there() {
    let mut world = filter_stands_by();
    assert!(!leads(&world));
    assert_eq!(world.scope("shop", "web"), None);
    world.pass(SignedDuration::from_millis(999));
    world.step();
    assert!(!leads(&world));
    world.settle();
    assert!(leads(&world));
    assert_eq!(world.scope("shop", "web"), Some(vec![]));
}

/// A range that comes meanwhile must not shorten that.
#[test]
fn the_filter_stands_by_as_long_where_ranges_change() {
    let mut world = filter_stands_by();
    world.apply(Change::ServiceCidrs(["10.200.0.0/16".parse().unwrap()].into()));
    assert_eq!(world.step(), [] as [&str; 0]);
    world.settle();
    assert!(leads(&world));
    assert_eq!(world.scope("shop", "web"), Some(vec![]));
}

/// The watches bring the ranges after the filter, and a filter that stands by must not be taken for an old
/// one that serves.
#[test]
fn a_controller_that_starts_waits_for_a_filter_that_stands_by() {
    let world = filter_stands_by();
    let ranges_last =
        |changes: &mut Vec<Change>| changes.sort_by_key(|change| matches!(change, Change::ServiceCidrs(_)));
    let again = world.restarted(ranges_last);
    let plan = again.engine.plan_namespace(&"shop".into(), again.now);
    assert!(plan.writes.is_empty() && plan.again_at.is_some(), "{plan:?}");
}

#[test]
fn a_filter_is_urgent_while_a_fence_waits_for_it() {
    let mut world = filter_stands_by();
    let namespace = Target::Namespace("shop".into());
    assert_eq!(world.engine.rank(&namespace), Rank::Urgent);
    world.settle();
    assert_eq!(world.engine.rank(&namespace), Rank::Normal);
}

/// Istio uses the older one of two Sidecars for a pod: a second one would take its place in one step when it
/// goes.
#[test]
fn a_fence_waits_for_the_sidecar_of_one_that_gives_its_pods_back() {
    let mut world = shop();
    let mine = json!({"workload": {"selector": {"app": "web"}}});
    world.object("ServiceFence", "shop", "mine", mine);
    world.step();
    assert_eq!(world.warm("shop", "web"), ["*/*"]);
    assert_eq!(world.scope("shop", "mine"), None);
    world.pass(SignedDuration::from_secs(1));
    world.step();
    assert_eq!(world.scope("shop", "web"), None);
    assert_eq!(world.warm("shop", "mine"), ["*/*"]);
}

#[test]
fn a_fence_waits_for_the_sidecar_of_one_that_goes_to_other_pods() {
    let mut world = shop();
    let selects = |app: &str| json!({"spec": {"selector": {"app": app}}});
    world.service_with("shop", "web", &["http:8080"], &selects("other"));
    world.service_with("shop", "heir", &["http:8080"], &selects("web"));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    assert_eq!(world.condition("shop", "heir", "Ready"), "True Scoped");
}

/// Warm hosts join where the controller did not see the label go, too.
#[test]
fn a_sidecar_that_gets_its_label_back_goes_on() {
    let mut world = shop();
    learn(&mut world, &reviews());
    world.step();
    let key = (Kind::Sidecar, "shop".into(), "servicefence-web".into());
    let ours = world.objects[&key].clone();
    world.objects.get_mut(&key).unwrap()["metadata"]["labels"] = json!({});
    let mut world = world.restarted(|_| {});
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "False NameTaken");
    world.apply(dynamic("Sidecar", ours.clone()).observe(SYSTEM).unwrap());
    world.objects.insert(key, ours);
    world.settle();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/reviews.books.svc.cluster.local"]
    );
    assert_eq!(world.warm("shop", "web"), [""; 0]);
}

/// Istio takes a proxy's cluster before the routes to it: so the routes go first, for as long as proxies may
/// not have heard.
#[test]
fn the_filter_leads_nowhere_before_it_goes() {
    let mut world = shop();
    let whole = envoy_filter(&world);
    world.namespace("shop", Some("off"));
    while leads(&world) {
        world.pass(SignedDuration::from_millis(100));
        world.step();
    }
    // A controller that starts anew waits as long.
    let mut world = world.restarted(|_| {});
    let plan = world.engine.plan_namespace(&"shop".into(), world.now);
    assert!(plan.writes.is_empty() && plan.again_at.is_some(), "{plan:?}");
    world.namespace("shop", Some("enforce"));
    world.settle();
    assert_eq!(envoy_filter(&world), whole);
}

#[test]
fn what_an_older_version_left_is_removed_and_a_users_object_of_that_name_is_not() {
    let mut world = shop();
    let ports = "servicefence-ports.servicefence-system.svc.cluster.local";
    let spec = json!({"hosts": [ports], "exportTo": ["."], "http": []});
    for (namespace, label) in [
        ("shop", "servicefence"),
        ("books", "somebody"),
        ("later", "servicefence"),
    ] {
        let labels = json!({"app.kubernetes.io/managed-by": label});
        let meta = json!({"namespace": namespace, "name": "servicefence-warm-2", "labels": labels});
        let object = dynamic("VirtualService", json!({"metadata": meta, "spec": spec}));
        world.apply(object.observe(SYSTEM).unwrap());
    }
    // A copy of another object of ours is not one of these, and the controller has no right to delete it.
    let meta = json!({"namespace": "books", "name": "fallback-books", "labels": {"app.kubernetes.io/managed-by": "servicefence"}});
    let copy = dynamic("VirtualService", json!({"metadata": meta, "spec": spec}));
    world.apply(copy.observe(SYSTEM).unwrap());
    assert_eq!(world.settle(), ["delete VirtualService shop/servicefence-warm-2"]);
    world.namespace("later", None);
    assert_eq!(
        world.settle(),
        ["delete VirtualService later/servicefence-warm-2"]
    );
    world.resync();
    world.namespace_with("shop", Some("enforce"), &[("team", "a")]);
    assert_eq!(world.settle(), [] as [&str; 0]);
}
