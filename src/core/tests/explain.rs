//! What a stranger asks: why is this host in, or out?

use jiff::SignedDuration;
use serde_json::json;

use crate::scope::Explanation;
use crate::simulate::world::SYSTEM;
use crate::tests::*;

fn explain(world: &World, host: &str) -> Explanation {
    world.engine.explain(&web(), host, world.now).unwrap()
}

/// Each reason as `source: detail`.
fn because(world: &World, host: &str) -> Vec<String> {
    let said = explain(world, host);
    assert_eq!(said.in_scope, !said.because.is_empty(), "{said:?}");
    let said = said.because.into_iter();
    said.map(|because| format!("{}: {}", because.source, because.detail))
        .collect()
}

#[test]
fn a_host_that_no_one_asked_for_is_served_by_the_gateway() {
    let world = shop();
    let said = explain(&world, "reviews.books");
    assert!(!said.in_scope && said.imports.is_empty() && said.because.is_empty());
    assert_eq!(
        said.answer,
        "reviews.books.svc.cluster.local is not in scope: nothing allows it and no call to it was seen; calls to it go \
         by the fallback gateway"
    );
    assert_eq!(said.sidecar.as_deref(), Some("shop/servicefence-web"));
}

#[test]
fn a_host_has_all_of_its_reasons() {
    let mut world = shop();
    learn(&mut world, &reviews());
    let until = world.now + SignedDuration::from_hours(24 * 300);
    world.edit(
        "shop",
        "web",
        json!({"allow": [
            {"host": "ratings.books"},
            {"namespace": "books", "until": until.to_string(), "reason": "until the move"},
        ]}),
    );
    world.object(
        "VirtualService",
        "shop",
        "mine",
        json!({"hosts": ["reviews.books.svc.cluster.local"], "http": [{"route": [{"destination": {"host": "ratings.books.svc.cluster.local"}}]}]}),
    );
    world.now += SignedDuration::from_secs(10);
    world.step();
    world.now += SignedDuration::from_secs(10);
    world.step();
    let said = explain(&world, "reviews.books");
    let sources: Vec<_> = said.because.iter().map(|because| because.source).collect();
    assert_eq!(sources, ["Spec", "AccessLog", "Route"]);
    assert_eq!(
        said.because[0].detail,
        "spec.allow[1]: namespace books (until the move)"
    );
    assert_eq!(said.because[0].until, Some(until));
    let learned = world.status("shop", "web").learned[0].clone();
    assert_eq!(
        (said.because[1].since, said.because[1].last_seen),
        (Some(learned.first_seen), Some(learned.last_seen))
    );
    assert_eq!(
        said.because[2].detail,
        "VirtualService shop/mine has rules for it"
    );
    assert_eq!(
        said.imports,
        [
            "books/reviews.books.svc.cluster.local",
            "shop/reviews.books.svc.cluster.local"
        ]
    );
    assert_eq!(
        said.answer,
        "reviews.books.svc.cluster.local is in scope: spec.allow[1]: namespace books (until the move)"
    );
}

#[test]
fn every_rule_of_the_protocol_has_a_reason_of_its_own() {
    let mut world = shop();
    world.service_with(
        "data",
        "peers",
        &["http:8080"],
        &json!({"spec": {"clusterIP": "None"}}),
    );
    let hidden = json!({"metadata": {"annotations": {"networking.istio.io/exportTo": "shop"}}});
    world.service_with("data", "hidden", &["http:8080"], &hidden);
    world.service("data", "db", &["tcp:5432"]);
    world.object(
        "ServiceEntry",
        "data",
        "api",
        json!({"hosts": ["api.example.com"], "ports": [{"number": 443, "protocol": "TLS"}]}),
    );
    world.object(
        "VirtualService",
        "data",
        "name",
        json!({"hosts": ["name.example.com"]}),
    );
    world.settle();
    for (host, detail) in [
        ("peers.data", "Protocol: it is headless"),
        (
            "hidden.data",
            "Protocol: it is not exported to the fallback gateway's namespace",
        ),
        (
            "db.data",
            "Protocol: it has a port that is not HTTP, and its open connections would be cut",
        ),
        ("api.example.com", "Protocol: a ServiceEntry declares it"),
        (
            "name.example.com",
            "Protocol: only a VirtualService knows this name",
        ),
        (
            &format!("servicefence-fallback.{SYSTEM}"),
            "Baseline: ServiceFence itself needs it",
        ),
    ] {
        let said = because(&world, host);
        assert!(
            said.iter().any(|said| said.starts_with(detail)),
            "{host}: {said:?}"
        );
    }

    let ports = explain(&world, &format!("servicefence-ports.{SYSTEM}")).answer;
    assert!(
        ports.ends_with("is in scope: ServiceFence itself needs it"),
        "{ports}"
    );

    world.service("books", "odd", &["tcp:8080"]);
    world.edit(
        "shop",
        "web",
        json!({"allow": [{"host": "reviews.books"}], "learning": {"nonHttp": "Learn"}}),
    );
    world.settle();
    assert!(because(&world, "db.data").is_empty());
    let said = because(&world, "odd.books");
    assert!(
        said[0].contains("an HTTP listener of the same number would swallow its connections"),
        "{said:?}"
    );
}

#[test]
fn what_is_denied_unknown_or_off_is_said_so() {
    let mut world = shop();
    learn(&mut world, &reviews());
    world.edit("shop", "web", json!({"deny": ["reviews.books"]}));
    world.settle();
    let answer = |world: &World, host: &str| explain(world, host).answer;
    assert!(answer(&world, "reviews.books").contains("spec.deny keeps it from being learned"));
    assert!(answer(&world, "nobody.home").starts_with("the mesh has no host nobody.home.svc.cluster.local"));
    assert!(answer(&world, "www.example.org").starts_with("the mesh has no host www.example.org"));
    world.edit("shop", "web", json!({"allow": [{"host": "nobody.home"}]}));
    world.settle();
    assert!(answer(&world, "nobody.home").ends_with("It will be in scope when it comes."));
    world.edit("shop", "web", json!({"mode": "Off"}));
    world.settle();
    assert!(answer(&world, "reviews.books").starts_with("this fence has no Sidecar (its mode is Off)"));
    assert!(
        world
            .engine
            .explain(&FenceKey::new("shop", "none"), "reviews.books", world.now)
            .is_none()
    );
}

#[test]
fn an_explanation_agrees_with_the_sidecar() {
    let mut world = shop();
    learn(&mut world, &reviews());
    world.service("data", "db", &["tcp:5432"]);
    world.settle();
    let imported = world.scope("shop", "web").unwrap();
    for host in ["reviews.books", "ratings.books", "db.data", "web", "nobody.home"] {
        let said = explain(&world, host);
        let is = imported
            .iter()
            .any(|import| import.ends_with(&format!("/{}", said.host)));
        assert_eq!((said.in_scope, !said.imports.is_empty()), (is, is), "{said:?}");
    }
}

#[test]
fn a_fence_without_a_sidecar_says_that_its_proxies_know_the_whole_mesh() {
    let mut world = shop();
    world.object("Sidecar", "shop", "mine", json!({"egress": [{"hosts": ["*/*"]}]}));
    world.settle();
    let said = explain(&world, "reviews.books");
    assert_eq!((said.sidecar, said.in_scope), (None, false));
    assert!(
        said.answer
            .starts_with("this fence has no Sidecar (see its conditions)"),
        "{}",
        said.answer
    );
}

#[test]
fn what_the_gateway_cannot_reach_is_not_said_to_go_by_it() {
    let mut world = shop();
    world.service_with(
        "books",
        "alias",
        &["http:8080"],
        &json!({"spec": {"type": "ExternalName"}}),
    );
    world.settle();
    let answer = explain(&world, "alias.books").answer;
    assert!(
        answer.contains("the fallback gateway has no route to it"),
        "{answer}"
    );
}
