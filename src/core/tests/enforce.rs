//! From the label to the scoped Sidecar, and how scopes grow and shrink.
use jiff::SignedDuration;
use serde_json::json;

use crate::engine::Change;
use crate::facts::{SidecarFacts, Stamp};
use crate::name::{ConfigKey, Fingerprint, ScopeHost};
use crate::observe::Watched;
use crate::render::Kind;
use crate::simulate::world::SYSTEM;
use crate::tests::*;

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
        "apply Service servicefence-system/servicefence-ports",
        "apply EnvoyFilter shop/servicefence",
    ] {
        assert!(
            at(before) < sidecar,
            "{before} comes after the Sidecar: {:?}",
            world.writes
        );
    }
    assert!(
        at("status shop/web") > sidecar,
        "a status says that the fence waits for what is being written: {:?}",
        world.writes
    );
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
        assert!(plan.sidecar.is_none() && plan.status.is_none() && plan.again_at.is_none());
    }
    world.pass(SignedDuration::from_hours(24));
    world.step();
    assert_eq!(world.writes.len(), written);
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
            listens: false,
            proxy: serde_json::Map::new(),
            created: world.now,
            ours: true,
            selector: Some([("app".to_owned(), "web".to_owned())].into_iter().collect()),
            has_selector: true,
            hosts,
            warm: [].into(),
            owners: Vec::new(),
            says_more: false,
        }),
    ));
    let writes = world
        .settle()
        .iter()
        .filter(|write| write.contains("Sidecar"))
        .count();
    // What it must not have leaves as any other host.
    assert_eq!(writes, 2);
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
    let theirs = Stamp {
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
    let target = crate::plan::target::Target::Fence(web());
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
fn what_the_meshs_default_sidecar_says_about_proxies_is_kept() {
    let mut world = shop();
    let policy = json!({"mode": "REGISTRY_ONLY"});
    let ingress = json!([{"port": {"number": 8080, "protocol": "HTTP", "name": "http"}, "defaultEndpoint": "127.0.0.1:9080"}]);
    let spec = |world: &World| {
        world.objects[&(Kind::Sidecar, "shop".into(), "servicefence-web".into())]["spec"].clone()
    };
    let before = spec(&world);
    world.object(
        "Sidecar",
        "istio-system",
        "default",
        json!({
            "egress": [{"hosts": ["./*", "servicefence-system/*"]}],
            "ingress": ingress,
            "outboundTrafficPolicy": policy,
        }),
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
    with_policy["ingress"] = ingress;
    assert_eq!(spec(&world), with_policy);
    world.gone(Watched::Sidecars, "istio-system", "default");
    world.settle();
    assert_eq!(spec(&world), before);
}

/// Such as a local HTTP proxy: a Sidecar of ours would take it from the applications that call it.
#[test]
fn listeners_of_the_meshs_default_sidecar_are_not_taken_away() {
    let mut world = shop();
    let port = json!({"number": 3128, "protocol": "HTTP_PROXY", "name": "proxy"});
    world.object(
        "Sidecar",
        "istio-system",
        "default",
        json!({"egress": [{"port": port, "bind": "127.0.0.1", "hosts": ["*/*"]}, {"hosts": ["*/*"]}]}),
    );
    world.settle();
    assert_eq!(world.condition("shop", "web", "Enforced"), "False ForeignSidecar");
    let said = &world.said.last().unwrap().1.message;
    assert!(said.contains("listeners with ports of their own"), "{said}");
    world.gone(Watched::Sidecars, "istio-system", "default");
    world.settle();
    assert_eq!(world.condition("shop", "web", "Enforced"), "True Scoped");
}

#[test]
fn a_foreign_envoy_filter_of_our_name_makes_the_fence_step_back() {
    let mut world = shop();
    let theirs = Stamp {
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
