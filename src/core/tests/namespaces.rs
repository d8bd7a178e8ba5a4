//! Namespaces that may be fenced, by their labels.

use crate::render::Kind;
use crate::settings::Settings;
use crate::simulate::world::{SYSTEM, settings};
use crate::tests::*;

/// A mesh in which only namespaces of team `a` may be fenced.
fn only_team_a() -> World {
    World::with(Settings {
        namespace_selector: serde_json::from_value(json!({"matchLabels": {"team": "a"}})).unwrap(),
        ..settings()
    })
}

#[test]
fn only_namespaces_that_the_selector_matches_are_fenced_and_others_stay_destinations() {
    let mut world = only_team_a();
    world.namespace_with("shop", Some("enforce"), &[("team", "a")]);
    world.namespace_with("books", Some("enforce"), &[("team", "b")]);
    world.service("shop", "web", &["http:8080"]);
    let reviews = world.service("books", "reviews", &["http:8080"]);
    world.object(
        "ServiceFence",
        "books",
        "mine",
        json!({"mode": "Enforce", "workload": {"service": "reviews"}}),
    );
    world.settle();
    assert_eq!(fences(&world), ["books/mine", "shop/web"]);
    assert_eq!(
        world.condition("books", "mine", "Ready"),
        "False NamespaceExcluded"
    );
    let said = world.status("books", "mine").conditions[0].message.clone();
    assert!(
        said.contains("namespaceSelector of the chart does not match its labels"),
        "{said}"
    );
    learn(&mut world, &reviews);
    world.settle();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/reviews.books.svc.cluster.local"]
    );
    let in_books = |write: &&String| write.contains(" books/") && !write.starts_with("status");
    assert_eq!(world.writes.iter().find(in_books), None);
    assert!(
        world.has(Kind::VirtualService, SYSTEM, "fallback-books"),
        "the gateway serves calls to it"
    );
}

#[test]
fn a_namespace_with_labels_that_no_longer_match_gets_the_whole_mesh_back_in_two_steps() {
    let mut world = only_team_a();
    world.namespace_with("shop", Some("enforce"), &[("team", "a")]);
    world.namespace("books", None);
    world.service("shop", "web", &["http:8080"]);
    world.service("shop", "cart", &["http:8080"]);
    world.service("books", "reviews", &["http:8080"]);
    world.object(
        "ServiceFence",
        "shop",
        "mine",
        json!({"workload": {"service": "cart"}}),
    );
    world.settle();
    assert_eq!(fences(&world), ["shop/mine", "shop/web"]);
    assert_eq!(world.condition("shop", "mine", "Enforced"), "True Scoped");

    world.namespace_with("shop", Some("enforce"), &[("team", "b")]);
    let writes = world.settle().to_vec();
    let at = |write: &str| {
        let at = writes.iter().position(|is| is == write);
        at.unwrap_or_else(|| panic!("no {write} in {writes:?}"))
    };
    assert!(at("apply Sidecar shop/servicefence-web") < at("delete Sidecar shop/servicefence-web"));
    assert!(at("delete Sidecar shop/servicefence-web") < at("delete ServiceFence shop/web"));
    assert!(at("delete Sidecar shop/servicefence-mine") < at("delete EnvoyFilter shop/servicefence"));
    assert_eq!(fences(&world), ["shop/mine"], "what somebody wrote stays");
    assert_eq!(
        world.condition("shop", "mine", "Ready"),
        "False NamespaceExcluded"
    );

    world.namespace_with("shop", Some("enforce"), &[("team", "a")]);
    world.settle();
    assert_eq!(fences(&world), ["shop/mine", "shop/web"]);
    assert_eq!(world.condition("shop", "mine", "Enforced"), "True Scoped");
    assert_eq!(world.scope("shop", "web"), Some(vec![]));
}
