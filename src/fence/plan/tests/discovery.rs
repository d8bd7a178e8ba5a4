//! What istiod takes of the cluster's objects, and to whom it shows it: MeshConfig decides where they say nothing.

use super::*;
use crate::fence::render::Kind;
use crate::fence::world::SYSTEM;
use crate::source::convert::Watched;

const PRIVATE: &str = "defaultServiceExportTo: ['.']";

/// The shop's fence, with the whole namespace `books` and a learned Service of it, at rest.
fn reader() -> World {
    let mut world = shop();
    world.edit("shop", "web", json!({"allow": [{"namespace": "books"}]}));
    world.settle();
    world
}

fn routed(world: &World) -> bool {
    world.has(Kind::VirtualService, SYSTEM, "fallback-books")
}

#[test]
fn services_that_say_nothing_are_seen_as_mesh_config_says() {
    let mut world = reader();
    assert_eq!(world.scope("shop", "web").unwrap().len(), 2);
    let mesh = world.engine.registry().hosts_visible_to("shop");
    let size = world.engine.registry().size_visible_to("shop");
    mesh_config(&mut world, PRIVATE);
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["shop/web.shop.svc.cluster.local"]
    );
    assert!(!routed(&world), "the gateway does not see them either");
    assert_eq!(world.engine.registry().hosts_visible_to("shop"), 1);
    assert!(world.engine.registry().size_visible_to("shop").bytes < size.bytes);
    mesh_config(&mut world, "{}");
    assert_eq!(world.scope("shop", "web").unwrap().len(), 2);
    assert!(routed(&world));
    assert_eq!(world.engine.registry().hosts_visible_to("shop"), mesh);
    assert_eq!(world.engine.registry().size_visible_to("shop"), size);
}

#[test]
fn what_a_service_says_itself_stands() {
    let mut world = reader();
    let exported = |to: &str| json!({"metadata": {"annotations": {"networking.istio.io/exportTo": to}}});
    world.service_with("books", "open", &["http:8080"], &exported("*"));
    world.service_with("books", "unsaid", &["http:8080"], &exported(""));
    mesh_config(&mut world, PRIVATE);
    let scope = world.scope("shop", "web").unwrap();
    assert_eq!(
        scope,
        [
            "books/open.books.svc.cluster.local",
            "shop/web.shop.svc.cluster.local"
        ]
    );
    // A Service that comes later is taken the same way, and one that says nothing any more too.
    world.service_with("books", "later", &["http:8080"], &exported(". , shop"));
    world.service("books", "late", &["http:8080"]);
    world.service("books", "open", &["http:8080"]);
    world.settle();
    let scope = world.scope("shop", "web").unwrap();
    assert_eq!(
        scope,
        [
            "books/later.books.svc.cluster.local",
            "shop/web.shop.svc.cluster.local"
        ]
    );
}

#[test]
fn default_exports_may_name_namespaces_and_nobody() {
    let mut world = reader();
    mesh_config(
        &mut world,
        &format!("defaultServiceExportTo: ['shop', '{SYSTEM}']"),
    );
    assert_eq!(world.scope("shop", "web").unwrap().len(), 2);
    assert!(routed(&world));
    mesh_config(&mut world, "defaultServiceExportTo: ['~']");
    assert_eq!(world.scope("shop", "web").unwrap(), [""; 0]);
    mesh_config(&mut world, "defaultServiceExportTo: []");
    assert_eq!(
        world.scope("shop", "web").unwrap().len(),
        2,
        "an empty list says nothing"
    );
}

#[test]
fn service_entries_follow_the_default_of_services() {
    let mut world = shop();
    world.object(
        "ServiceEntry",
        "books",
        "api",
        json!({"hosts": ["api.example.com"]}),
    );
    world.object(
        "ServiceEntry",
        "books",
        "open",
        json!({"hosts": ["open.example.com"], "exportTo": ["*"]}),
    );
    world.settle();
    let both = ["books/api.example.com", "books/open.example.com"];
    assert_eq!(world.scope("shop", "web").unwrap(), both);
    mesh_config(&mut world, PRIVATE);
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["books/open.example.com", "shop/web.shop.svc.cluster.local"]
    );
    mesh_config(&mut world, "{}");
    assert_eq!(world.scope("shop", "web").unwrap(), both);
}

#[test]
fn rules_that_say_nothing_apply_to_whom_mesh_config_says() {
    let mut world = shop();
    world.edit("shop", "web", allow(&["reviews.books"]));
    let rule = json!({"hosts": ["reviews.books.svc.cluster.local"], "http": [{"timeout": "3s"}]});
    world.object("VirtualService", "till", "reviews", rule);
    world.settle();
    let own = "books/reviews.books.svc.cluster.local";
    let both = [own, "till/reviews.books.svc.cluster.local"];
    let timeouts = |world: &World| {
        let routes = &world.objects[&(Kind::VirtualService, SYSTEM.into(), "fallback-books".into())];
        let rules = routes["spec"]["http"].as_array().unwrap().iter();
        let with = rules.filter(|rule| rule["timeout"] == "3s");
        with.map(|rule| rule["match"][0]["headers"].as_object().unwrap().len())
            .collect::<Vec<_>>()
    };
    assert_eq!(world.scope("shop", "web").unwrap(), both);
    assert_eq!(timeouts(&world), [1], "for every caller");
    mesh_config(&mut world, "defaultVirtualServiceExportTo: ['.']");
    assert_eq!(world.scope("shop", "web").unwrap(), [own]);
    assert_eq!(timeouts(&world), [2], "for callers of its namespace only");
    mesh_config(&mut world, "{}");
    assert_eq!(world.scope("shop", "web").unwrap(), both);
    assert_eq!(timeouts(&world), [1]);
}

#[test]
fn where_destination_rules_stay_in_their_namespace_no_rule_to_a_subset_is_left_to_the_gateway() {
    let mut world = shop();
    world.service("shop", "cart", &["http:8080"]);
    let rule = json!({
        "hosts": ["cart"],
        "http": [{"route": [{"destination": {"host": "cart", "subset": "v1"}}]}],
    });
    world.object("VirtualService", "shop", "cart", rule);
    world.settle();
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        [""; 0],
        "the gateway knows the subset"
    );
    mesh_config(&mut world, "defaultDestinationRuleExportTo: ['.']");
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["shop/cart.shop.svc.cluster.local"]
    );
    world.gone(Watched::VirtualServices, "shop", "cart");
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), [""; 0]);
}

#[test]
fn a_call_is_learned_where_the_caller_sees_what_it_called() {
    let mut world = shop();
    let miss = crate::fence::miss::Miss {
        namespace: "shop",
        pod: "web-1",
        destination: "10.96.0.2:8080".parse().unwrap(),
    };
    let learned = |world: &World| {
        matches!(
            world.engine.attribute(&miss, world.now),
            crate::fence::Attribution::New(_)
        )
    };
    assert!(learned(&world));
    mesh_config(&mut world, PRIVATE);
    assert!(!learned(&world));
    mesh_config(&mut world, "{}");
    assert!(learned(&world));
}
