//! Further hosts that come into a scope along with a host.

use serde_json::json;

use crate::observe::Watched;
use crate::render::Kind;
use crate::settings::Settings;
use crate::simulate::world::{mode_label, settings};
use crate::tests::*;

const CANARY: &str = r"([^.]+)\.([^.]+)\.svc\.cluster\.local=$1-canary.$2.svc.cluster.local";
const REVIEWS: &str = "books/reviews.books.svc.cluster.local";
const REVIEWS_CANARY: &str = "books/reviews-canary.books.svc.cluster.local";

fn world_with(aliases: &[&str]) -> World {
    let mut world = World::with(Settings {
        aliases: aliases.iter().map(|alias| alias.parse().unwrap()).collect(),
        ..settings()
    });
    stock(&mut world);
    world
}

/// A shop with canaries; its workload has called `reviews`.
fn shop_with_canaries() -> World {
    let mut world = world_with(&[CANARY]);
    world.service("books", "reviews-canary", &["http:8080"]);
    learn(&mut world, &reviews());
    world.settle();
    world
}

#[test]
fn the_alias_of_a_host_comes_and_goes_with_it() {
    let mut world = shop_with_canaries();
    assert_eq!(scope(&world), [REVIEWS_CANARY, REVIEWS]);
    world.edit("shop", "web", json!({"deny": ["reviews.books"]}));
    world.settle();
    assert!(scope(&world).is_empty());
    world.edit("shop", "web", allow(&["reviews.books"]));
    world.settle();
    assert_eq!(scope(&world), [REVIEWS_CANARY, REVIEWS]);
}

#[test]
fn an_alias_comes_when_the_mesh_has_it_and_goes_when_not_in_two_steps() {
    let mut world = world_with(&[CANARY]);
    learn(&mut world, &reviews());
    world.settle();
    assert_eq!(scope(&world), [REVIEWS]);
    let canary = world.service("books", "reviews-canary", &["http:8080"]);
    world.step();
    assert_eq!(world.warm("shop", "web"), [REVIEWS_CANARY]);
    assert_eq!(scope(&world), [REVIEWS]);
    world.settle();
    assert_eq!(scope(&world), [REVIEWS_CANARY, REVIEWS]);
    world.no_service(&canary);
    world.settle();
    assert_eq!(scope(&world), [REVIEWS]);
}

#[test]
fn a_host_that_the_mesh_has_not_brings_no_alias() {
    let mut world = shop_with_canaries();
    world.no_service(&reviews());
    world.settle();
    assert_eq!(scope(&world), [REVIEWS], "what was learned stays");
    world.service("books", "reviews", &["http:8080"]);
    world.settle();
    assert_eq!(scope(&world), [REVIEWS_CANARY, REVIEWS]);
}

#[test]
fn the_mesh_has_a_host_by_whatever_object_names_it_and_shows_it_to_whom() {
    let mut world = world_with(&[CANARY]);
    world.service("books", "old-canary", &["http:8080"]);
    world.edit("shop", "web", allow(&["old.books"]));
    world.settle();
    let old = "books/old.books.svc.cluster.local";
    assert_eq!(scope(&world), [old]);
    let hosts = json!(["old.books.svc.cluster.local"]);
    let entry = json!({"hosts": hosts, "exportTo": ["."], "ports": [{"number": 80, "protocol": "HTTP"}]});
    let rules = json!({"hosts": hosts, "exportTo": ["."], "http": []});
    for (kind, spec, watched) in [
        ("ServiceEntry", entry, Watched::ServiceEntries),
        ("VirtualService", rules, Watched::VirtualServices),
    ] {
        world.object(kind, "data", "old", spec);
        world.settle();
        assert_eq!(
            scope(&world),
            ["books/old-canary.books.svc.cluster.local", old],
            "{kind}"
        );
        world.gone(watched, "data", "old");
        world.settle();
        assert_eq!(scope(&world), [old], "{kind}");
    }
}

#[test]
fn only_what_the_namespace_sees_comes() {
    let mut world = shop_with_canaries();
    let exported = |to: &str| json!({"metadata": {"annotations": {"networking.istio.io/exportTo": to}}});
    world.service_with("books", "reviews-canary", &["http:8080"], &exported("books"));
    world.settle();
    assert_eq!(scope(&world), [REVIEWS]);
    world.service_with("books", "reviews-canary", &["http:8080"], &exported("*"));
    world.settle();
    assert_eq!(scope(&world), [REVIEWS_CANARY, REVIEWS]);
}

#[test]
fn an_alias_has_no_aliases_unless_it_is_in_scope_by_itself() {
    let mut world = shop_with_canaries();
    let twice = world.service("books", "reviews-canary-canary", &["http:8080"]);
    world.settle();
    assert_eq!(scope(&world), [REVIEWS_CANARY, REVIEWS]);
    learn(&mut world, &ServiceKey::new("books", "reviews-canary"));
    world.settle();
    assert_eq!(
        scope(&world),
        [&twice.scope_host().to_string(), REVIEWS_CANARY, REVIEWS]
    );
}

#[test]
fn a_pattern_may_have_several_templates_and_a_host_several_patterns() {
    let mut world = world_with(&[
        r"(.+)\.books\.svc\.cluster\.local=$1.archive.svc.cluster.local",
        r"(.+)\.books\.svc\.cluster\.local=ratings.books.svc.cluster.local",
        r"reviews\..+=api.example.com",
    ]);
    world.service("archive", "reviews", &["http:8080"]);
    let entry = json!({"hosts": ["api.example.com"], "ports": [{"number": 443, "protocol": "TLS"}]});
    world.object("ServiceEntry", "data", "api", entry);
    learn(&mut world, &reviews());
    world.settle();
    let all = [
        "archive/reviews.archive.svc.cluster.local",
        "books/ratings.books.svc.cluster.local",
        REVIEWS,
        "data/api.example.com",
    ];
    assert_eq!(scope(&world), all);
    let said = world
        .engine
        .explain(&web(), "api.example.com", world.now)
        .unwrap();
    let sources: Vec<_> = said.because.iter().map(|because| because.source).collect();
    assert_eq!(sources, ["Protocol", "Alias"]);
    world.gone(Watched::ServiceEntries, "data", "api");
    world.settle();
    assert_eq!(scope(&world), all[..3]);
}

#[test]
fn what_is_denied_is_no_alias_but_stays_where_something_else_wants_it() {
    let mut world = shop_with_canaries();
    let denied = json!({"deny": ["reviews-canary.books"]});
    world.edit("shop", "web", denied);
    world.settle();
    assert_eq!(scope(&world), [REVIEWS]);
    let both = json!({"deny": ["reviews-canary.books"], "allow": [{"host": "reviews-canary.books"}]});
    world.edit("shop", "web", both);
    world.settle();
    assert_eq!(scope(&world), [REVIEWS_CANARY, REVIEWS]);
}

#[test]
fn explain_names_the_host_and_the_pattern_of_an_alias() {
    let mut world = shop_with_canaries();
    // By the rules of the shop, reviews is there under a second namespace.
    let rules = json!({"hosts": ["reviews.books.svc.cluster.local"], "http": []});
    world.object("VirtualService", "shop", "mine", rules);
    world.settle();
    let said = world
        .engine
        .explain(&web(), "reviews-canary.books", world.now)
        .unwrap();
    assert_eq!(said.because.len(), 1, "{said:?}");
    assert_eq!(said.because[0].source, "Alias");
    assert_eq!(
        said.answer,
        r"reviews-canary.books.svc.cluster.local is in scope: aliases of the chart make it of reviews.books.svc.cluster.local, which is in scope, by the pattern ([^.]+)\.([^.]+)\.svc\.cluster\.local"
    );
}

#[test]
fn rules_for_an_alias_come_with_it() {
    let mut world = shop_with_canaries();
    let rules = json!({"hosts": ["reviews-canary.books.svc.cluster.local"], "http": []});
    world.object("VirtualService", "shop", "mine", rules);
    world.settle();
    assert!(scope(&world).contains(&"shop/reviews-canary.books.svc.cluster.local".to_owned()));
}

#[test]
fn an_alias_and_a_listener_that_swallows_bring_each_other() {
    let mut world = world_with(&[CANARY]);
    world.service("books", "reviews-canary", &["http:9090"]);
    world.service("data", "db", &["tcp:9090"]);
    world.service("data", "db-canary", &["http:7070"]);
    world.service("data", "log", &["tcp:7070"]);
    world.edit("shop", "web", json!({"learning": {"nonHttp": "Learn"}}));
    world.settle();
    assert!(scope(&world).is_empty());
    learn(&mut world, &reviews());
    world.settle();
    let of_data = ["db-canary", "db", "log"].map(|name| format!("data/{name}.data.svc.cluster.local"));
    assert_eq!(
        scope(&world),
        [&[REVIEWS_CANARY.to_owned(), REVIEWS.to_owned()][..], &of_data].concat()
    );
}

#[test]
fn a_fence_that_observes_follows_too() {
    let mut world = world_with(&[CANARY]);
    world.service_with("shop", "web", &["http:8080"], &mode_label("observe"));
    learn(&mut world, &reviews());
    world.settle();
    let hosts = |world: &World| world.status("shop", "web").scope.unwrap().hosts;
    let before = hosts(&world);
    world.service("books", "reviews-canary", &["http:8080"]);
    world.settle();
    assert_eq!(hosts(&world), before + 1);
    world.no_service(&reviews());
    world.settle();
    assert_eq!(hosts(&world), before, "reviews stays and brings nothing");
    assert!(!world.has(Kind::Sidecar, "shop", "servicefence-web"));
}

#[test]
fn a_service_that_is_no_alias_touches_no_other_fence() {
    let mut world = shop_with_canaries();
    world.service("shop", "cart", &["http:8080"]);
    world.settle();
    let canary = crate::engine::Change::Service(ServiceKey::new("books", "reviews-canary"), None);
    let now = world.now;
    let fences = |world: &mut World, change: crate::engine::Change| -> Vec<_> {
        let dirty = world.engine.apply(change, now).targets.into_iter();
        dirty
            .filter_map(|target| match target {
                crate::plan::target::Target::Fence(key) => Some(key.to_string()),
                _ => None,
            })
            .collect()
    };
    let facts = world.engine.mesh().services.get(&reviews()).cloned().unwrap();
    assert_eq!(fences(&mut world, canary.clone()), ["shop/web"]);
    let other = crate::engine::Change::Service(ServiceKey::new("books", "other"), Some(facts.clone()));
    assert!(fences(&mut world, other).is_empty());
    let again = crate::engine::Change::Service(ServiceKey::new("books", "reviews-canary"), Some(facts));
    assert_eq!(fences(&mut world, again), ["shop/web"]);
}
