//! From the label to the scoped Sidecar, and how scopes grow and shrink.

use jiff::SignedDuration;
use serde_json::json;

use super::*;
use crate::fence::change::Change;
use crate::fence::facts::{SidecarFacts, Written};
use crate::fence::name::{ConfigKey, Fingerprint, ScopeHost};
use crate::fence::render::Kind;
use crate::fence::world::{SYSTEM, settings};
use crate::source::convert::Watched;

#[test]
fn a_label_becomes_a_sidecar_and_everything_that_a_miss_needs_comes_first() {
    let mut world = World::new();
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    world.service("books", "reviews", &["http:8080"]);
    world.settle();
    let at = |write: &str| {
        world
            .writes
            .iter()
            .position(|done| done == write)
            .unwrap_or_else(|| panic!("no {write} in {:?}", world.writes))
    };
    let sidecar = at("apply Sidecar shop/servicefence-web");
    for before in [
        "apply ServiceFence shop/web",
        "apply VirtualService servicefence-system/fallback-books",
        "apply VirtualService servicefence-system/fallback-shop",
        "apply Service servicefence-system/servicefence-ports",
        "apply EnvoyFilter shop/servicefence",
        "apply VirtualService shop/servicefence-warm",
    ] {
        assert!(
            at(before) < sidecar,
            "{before} comes after the Sidecar: {:?}",
            world.writes
        );
    }
    assert!(at("delete VirtualService shop/servicefence-warm") > sidecar);
    assert_eq!(world.scope("shop", "web"), Some(vec![]));
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
    assert_eq!(world.condition("shop", "web", "Enforced"), "True Scoped");
    let scope = world.status("shop", "web").scope.unwrap();
    assert_eq!((scope.hosts, scope.mesh_hosts), (0, 2));
}

#[test]
fn at_rest_nothing_is_written() {
    let mut world = shop();
    let written = world.writes.len();
    for (key, _) in world.engine.fences() {
        let plan = world.engine.plan_fence(key, world.now).unwrap();
        assert!(plan.sidecar.is_none() && plan.status.is_none() && plan.moving.is_empty());
    }
    world.pass(SignedDuration::from_hours(24));
    world.step();
    assert_eq!(world.writes.len(), written);
}

#[test]
fn a_learned_host_is_warm_for_the_settle_time_before_the_sidecar_has_it_and_after() {
    let mut world = shop();
    learn(&mut world, &reviews());
    assert_eq!(world.step(), ["apply VirtualService shop/servicefence-warm"]);
    world.pass(SignedDuration::from_millis(999));
    assert_eq!(world.step(), [] as [&str; 0]);
    world.pass(SignedDuration::from_millis(1));
    let writes = world.step();
    assert_eq!(writes[0], "apply Sidecar shop/servicefence-web");
    assert!(!writes.iter().any(|write| write.starts_with("delete")));
    world.pass(SignedDuration::from_secs(1));
    assert_eq!(world.step(), ["delete VirtualService shop/servicefence-warm"]);
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/reviews.books.svc.cluster.local"]
    );
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
    assert_eq!(world.step()[0], "apply Sidecar shop/servicefence-web");
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
    assert_eq!(world.step()[0], "apply Sidecar shop/servicefence-web");
    assert!(
        !world.writes.iter().any(|write| write.contains("warm")),
        "{:?}",
        world.writes
    );
}

#[test]
fn a_host_that_leaves_is_warm_before_and_after() {
    let mut world = shop();
    world.edit("shop", "web", allow(&["reviews.books"]));
    world.settle();
    world.edit("shop", "web", json!({}));
    let kinds: Vec<_> = world
        .settle()
        .iter()
        .filter(|write| !write.starts_with("status"))
        .cloned()
        .collect();
    assert_eq!(
        kinds,
        [
            "apply VirtualService shop/servicefence-warm",
            "apply Sidecar shop/servicefence-web",
            "delete VirtualService shop/servicefence-warm"
        ]
    );
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
            "apply VirtualService shop/servicefence-warm",
            "delete Sidecar shop/servicefence-web",
            "delete ServiceFence shop/web",
            "delete VirtualService shop/servicefence-warm",
            "delete EnvoyFilter shop/servicefence",
        ]
    );
}

#[test]
fn a_sidecar_that_somebody_deletes_or_edits_comes_back() {
    let mut world = shop();
    world.edit("shop", "web", allow(&["reviews.books"]));
    world.settle();
    let before = world.objects.clone();

    world
        .objects
        .remove(&(Kind::Sidecar, "shop".into(), "servicefence-web".into()));
    world.gone(Watched::Sidecars, "shop", "servicefence-web");
    world.settle();
    assert_eq!(world.objects, before);

    let mut edited = before[&(Kind::Sidecar, "shop".into(), "servicefence-web".into())].clone();
    edited["spec"]["egress"][0]["hosts"]
        .as_array_mut()
        .unwrap()
        .push(json!("books/ratings.books.svc.cluster.local"));
    let hosts = edited["spec"]["egress"][0]["hosts"].as_array().unwrap().iter();
    let hosts = hosts
        .map(|host| ScopeHost::parse(host.as_str().unwrap()).unwrap())
        .collect();
    world.apply(Change::Sidecar(
        ConfigKey::new("shop", "servicefence-web"),
        Some(SidecarFacts {
            proxy: serde_json::Map::new(),
            created: world.now,
            ours: true,
            selector: None,
            hosts,
            owners: Vec::new(),
            says_more: false,
        }),
    ));
    let writes = world
        .settle()
        .iter()
        .filter(|write| write.contains("Sidecar"))
        .count();
    assert_eq!(writes, 1);
    assert_eq!(world.objects, before);
}

#[test]
fn services_that_are_not_http_stay_in_scope_unless_the_owner_says_learn() {
    let mut world = shop();
    world.service("books", "db", &["tcp-db:5432"]);
    world.service_with(
        "books",
        "peers",
        &["http:8080"],
        &json!({"spec": {"clusterIP": "None"}}),
    );
    world.settle();
    let (db, peers) = (
        "books/db.books.svc.cluster.local",
        "books/peers.books.svc.cluster.local",
    );
    assert_eq!(world.scope("shop", "web").unwrap(), [db, peers]);
    world.edit("shop", "web", json!({"learning": {"nonHttp": "Learn"}}));
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), [peers]);
    learn(&mut world, &ServiceKey::new("books", "db"));
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), [db, peers]);
}

#[test]
fn a_port_number_that_is_http_in_the_scope_keeps_other_protocols_on_it_in_scope() {
    let mut world = shop();
    world.service("books", "db", &["tcp:8080"]);
    world.service("books", "mq", &["tcp:5672"]);
    world.edit(
        "shop",
        "web",
        json!({"learning": {"nonHttp": "Learn"}, "allow": [{"host": "reviews.books"}]}),
    );
    world.settle();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        [
            "books/db.books.svc.cluster.local",
            "books/reviews.books.svc.cluster.local"
        ]
    );
    // 8080 is not HTTP only any more, so the placeholder must not have it.
    assert!(!world.has(Kind::Service, SYSTEM, "servicefence-ports"));
}

#[test]
fn service_entries_and_virtual_names_stay_in_scope() {
    let mut world = shop();
    world.object(
        "ServiceEntry",
        "books",
        "ext",
        json!({"hosts": ["api.example.com"], "ports": [{"number": 443, "protocol": "TLS"}]}),
    );
    world.object(
        "ServiceEntry",
        "books",
        "own",
        json!({"hosts": ["own.example.com"], "exportTo": ["."]}),
    );
    world.object(
        "VirtualService",
        "books",
        "alias",
        json!({"hosts": ["books.example.com"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]}),
    );
    world.settle();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/api.example.com", "books/books.example.com"]
    );
}

#[test]
fn the_rules_of_a_host_are_imported_from_the_namespace_that_has_them() {
    let mut world = shop();
    world.object(
        "VirtualService",
        "shop",
        "reviews",
        json!({"hosts": ["reviews.books.svc.cluster.local"], "http": []}),
    );
    world.object(
        "VirtualService",
        "other",
        "hidden",
        json!({"hosts": ["reviews.books.svc.cluster.local"], "exportTo": ["."]}),
    );
    world.object(
        "VirtualService",
        "books",
        "edge",
        json!({"hosts": ["reviews"], "gateways": ["edge"]}),
    );
    learn(&mut world, &reviews());
    world.settle();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        [
            "books/reviews.books.svc.cluster.local",
            "shop/reviews.books.svc.cluster.local"
        ]
    );
}

#[test]
fn allow_takes_every_form_of_a_name_and_says_what_it_does_not_know() {
    let mut world = shop();
    world.service("shop", "cart", &["http:8080"]);
    world.object(
        "ServiceEntry",
        "books",
        "ext",
        json!({"hosts": ["api.example.com"]}),
    );
    world.edit(
        "shop",
        "web",
        allow(&[
            "cart",
            "reviews.books",
            "ratings.books.svc.cluster.local",
            "api.example.com",
            "nobody.home",
            "www.example.org",
        ]),
    );
    world.settle();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        [
            "books/api.example.com",
            "books/ratings.books.svc.cluster.local",
            "books/reviews.books.svc.cluster.local",
            "home/nobody.home.svc.cluster.local",
            "shop/cart.shop.svc.cluster.local",
        ]
    );
    let ready = &world.status("shop", "web").conditions[0];
    assert!(
        ready
            .message
            .ends_with("allow names what the mesh does not have: nobody.home, www.example.org"),
        "{}",
        ready.message
    );
}

#[test]
fn what_somebody_else_owns_is_never_overwritten() {
    let mut world = World::new();
    let theirs = Written {
        ours: false,
        fingerprint: Fingerprint::of(&json!("theirs")),
    };
    world.apply(Change::Ports(Some(theirs.clone())));
    world.apply(Change::Routes("fallback-shop".into(), Some(theirs.clone())));
    world.apply(Change::EnvoyFilter("shop".into(), Some(theirs)));
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    world.object(
        "Sidecar",
        "shop",
        "servicefence-web",
        json!({"workloadSelector": {"labels": {"app": "other"}}}),
    );
    world.settle();
    let written: Vec<_> = world
        .writes
        .iter()
        .filter(|write| !write.starts_with("status"))
        .cloned()
        .collect();
    assert_eq!(written, ["apply ServiceFence shop/web"]);
    assert_eq!(world.condition("shop", "web", "Ready"), "False NameTaken");
}

#[test]
fn a_refused_write_is_said_in_the_condition_and_forgotten_when_it_succeeds() {
    let mut world = shop();
    let target = crate::fence::Target::Fence(web());
    world.apply(Change::WriteError(
        target.clone(),
        Some("the API server refused the write: quota".to_owned()),
    ));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "False WriteFailed");
    assert_eq!(world.condition("shop", "web", "Enforced"), "True WriteFailed");
    world.apply(Change::WriteError(target, None));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}

#[test]
fn a_mesh_that_grows_writes_nothing_to_those_that_do_not_call_it() {
    let mut world = shop();
    for number in 0..50 {
        world.service("books", &format!("new-{number}"), &["http:8080"]);
    }
    let writes: Vec<_> = world.settle().to_vec();
    assert!(
        writes.iter().all(|write| write.contains("fallback-books")),
        "{writes:?}"
    );
}

#[test]
fn many_services_are_warmed_in_several_objects_and_none_is_interrupted() {
    let mut world = World::new();
    world.namespace("shop", Some("enforce"));
    world.service("shop", "web", &["http:8080"]);
    for number in 0..1_200 {
        world.service("books", &format!("s{number}"), &["http:8080"]);
    }
    world.settle();
    assert_eq!(world.scope("shop", "web"), Some(vec![]));
    let sidecars = world
        .writes
        .iter()
        .filter(|write| write.contains("Sidecar"))
        .count();
    assert_eq!(sidecars, 1);
    for object in ["servicefence-warm", "servicefence-warm-2", "servicefence-warm-3"] {
        assert!(
            world
                .writes
                .contains(&format!("apply VirtualService shop/{object}")),
            "{object}"
        );
        assert!(!world.has(Kind::VirtualService, "shop", object), "{object}");
    }
}

#[test]
fn what_the_meshs_default_sidecar_says_about_proxies_is_kept() {
    let mut world = shop();
    let policy = json!({"mode": "REGISTRY_ONLY"});
    let spec = |world: &World| {
        world.objects[&(Kind::Sidecar, "shop".into(), "servicefence-web".into())]["spec"].clone()
    };
    let before = spec(&world);
    world.object(
        "Sidecar",
        "istio-system",
        "default",
        json!({"egress": [{"hosts": ["./*", "servicefence-system/*"]}], "outboundTrafficPolicy": policy}),
    );
    world.object(
        "Sidecar",
        "istio-system",
        "some",
        json!({"workloadSelector": {"labels": {"app": "x"}}, "outboundTrafficPolicy": {"mode": "ALLOW_ANY"}}),
    );
    world.settle();
    let mut with_policy = before.clone();
    with_policy["outboundTrafficPolicy"] = policy;
    assert_eq!(spec(&world), with_policy);
    world.gone(Watched::Sidecars, "istio-system", "default");
    world.settle();
    assert_eq!(spec(&world), before);
}

#[test]
fn a_foreign_envoy_filter_of_our_name_makes_the_fence_step_back() {
    let mut world = shop();
    let theirs = Written {
        ours: false,
        fingerprint: Fingerprint::of(&json!("theirs")),
    };
    world.apply(Change::EnvoyFilter("shop".into(), Some(theirs)));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "False NameTaken");
    assert_eq!(world.condition("shop", "web", "Enforced"), "False NameTaken");
    let said = &world.said.last().unwrap().1.message;
    assert!(said.starts_with("EnvoyFilter shop/servicefence exists"), "{said}");
    world.apply(Change::EnvoyFilter("shop".into(), None));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}

#[test]
fn a_sidecar_that_comes_back_was_written_then() {
    let mut world = shop();
    world.edit("shop", "web", json!({"mode": "Off"}));
    world.settle();
    world.pass(SignedDuration::from_hours(1));
    let back = world.now;
    world.edit("shop", "web", json!({}));
    world.settle();
    assert!(world.status("shop", "web").scope.unwrap().written_at >= Some(back));
}
