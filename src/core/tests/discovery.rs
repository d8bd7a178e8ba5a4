//! What istiod takes of the cluster's objects, and to whom it shows it: MeshConfig decides where they say
//! nothing.

use serde_json::json;

use crate::render::Kind;
use crate::simulate::world::SYSTEM;
use crate::tests::routes::rules;
use crate::tests::*;

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
    let mesh = world.engine.mesh().hosts_visible_to("shop");
    let size = world.engine.mesh().size_visible_to("shop");
    mesh_config(&mut world, PRIVATE);
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        ["shop/web.shop.svc.cluster.local"]
    );
    assert!(!routed(&world), "the gateway does not see them either");
    assert_eq!(world.engine.mesh().hosts_visible_to("shop"), 1);
    assert!(world.engine.mesh().size_visible_to("shop").bytes < size.bytes);
    mesh_config(&mut world, "{}");
    assert_eq!(world.scope("shop", "web").unwrap().len(), 2);
    assert!(routed(&world));
    assert_eq!(world.engine.mesh().hosts_visible_to("shop"), mesh);
    assert_eq!(world.engine.mesh().size_visible_to("shop"), size);
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
fn default_exports_may_name_namespaces_and_none() {
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
        let rules = rules(world, "books").into_iter();
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
fn a_call_is_learned_where_the_caller_sees_what_it_called() {
    let mut world = shop();
    let miss = crate::miss::Miss {
        namespace: "shop",
        pod: "web-1",
        destination: "10.96.0.2:8080".parse().unwrap(),
    };
    let learned = |world: &World| {
        matches!(
            world.engine.attribute(&miss, world.now),
            crate::Attribution::New(_)
        )
    };
    assert!(learned(&world));
    mesh_config(&mut world, PRIVATE);
    assert!(!learned(&world));
    mesh_config(&mut world, "{}");
    assert!(learned(&world));
}

/// istiod looks into namespaces that do not say that they are outside.
const INSIDE: &str = "discoverySelectors: [{matchExpressions: [{key: outside, operator: DoesNotExist}]}]";

fn outside(world: &mut World, namespace: &str, mode: Option<&str>) {
    world.namespace_with(namespace, mode, &[("outside", "")]);
    world.settle();
}

#[test]
fn what_istiod_does_not_look_into_is_no_part_of_the_mesh_in_either_order() {
    for selectors_first in [true, false] {
        let mut world = reader();
        learn(&mut world, &reviews());
        world.object(
            "ServiceEntry",
            "books",
            "api",
            json!({"hosts": ["api.example.com"]}),
        );
        let rule = json!({"hosts": ["web.shop.svc.cluster.local"], "http": [{"timeout": "3s"}]});
        world.object("VirtualService", "books", "web", rule);
        world.edit(
            "shop",
            "web",
            json!({"allow": [{"namespace": "books"}, {"host": "web"}]}),
        );
        world.settle();
        let scope = world.scope("shop", "web").unwrap();
        assert_eq!(scope.len(), 5, "{scope:?}");
        let size = world.engine.mesh().size_visible_to("shop");
        if selectors_first {
            mesh_config(&mut world, INSIDE);
            assert_eq!(world.scope("shop", "web").unwrap(), scope);
            outside(&mut world, "books", None);
        } else {
            outside(&mut world, "books", None);
            assert_eq!(world.scope("shop", "web").unwrap(), scope);
            mesh_config(&mut world, INSIDE);
        }
        assert_eq!(
            world.scope("shop", "web").unwrap(),
            ["shop/web.shop.svc.cluster.local"]
        );
        assert!(!routed(&world));
        assert_eq!(world.engine.mesh().hosts_visible_to("shop"), 1);
        assert!(world.engine.mesh().size_visible_to("shop").bytes < size.bytes);
        // What comes and goes out of sight counts when the namespace comes into sight.
        world.service("books", "later", &["http:8080"]);
        world.no_service(&ServiceKey::new("books", "ratings"));
        world.settle();
        assert_eq!(world.scope("shop", "web").unwrap().len(), 1);
        world.namespace("books", None);
        world.settle();
        let after = world.scope("shop", "web").unwrap();
        assert!(
            after.contains(&"books/later.books.svc.cluster.local".to_owned()),
            "{after:?}"
        );
        assert!(
            !after.contains(&"books/ratings.books.svc.cluster.local".to_owned()),
            "{after:?}"
        );
        assert_eq!(after.len(), 5);
        assert!(routed(&world));
    }
}

/// istiod gives the gateway the clusters of all that comes into sight, and a route that comes with them may
/// be used first.
#[test]
fn what_comes_into_sight_has_its_routes_a_settle_time_later() {
    let mut world = reader();
    world.apply(crate::engine::Change::Ready);
    mesh_config(&mut world, PRIVATE);
    assert!(!routed(&world));
    apply_mesh_config(&mut world, "{}");
    world.step();
    assert!(!routed(&world));
    world.settle();
    assert!(routed(&world));
}

#[test]
fn one_selector_that_matches_is_enough_and_an_empty_one_matches_all() {
    let mut world = reader();
    let with = |selectors: &str| format!("discoverySelectors: [{selectors}]");
    world.namespace_with("books", None, &[("mesh", "a")]);
    let ours = "{matchExpressions: [{key: mesh, operator: NotIn, values: [a]}]}";
    for (selectors, hosts) in [
        (ours.to_owned(), 0),
        (format!("{ours}, {{matchLabels: {{mesh: b}}}}"), 0),
        (format!("{ours}, {{matchLabels: {{mesh: a}}}}"), 2),
        (format!("{ours}, {{}}"), 2),
        (String::new(), 2),
    ] {
        mesh_config(&mut world, &with(&selectors));
        assert_eq!(world.scope("shop", "web").unwrap().len(), hosts, "{selectors}");
    }
}

#[test]
fn a_namespace_that_istiod_does_not_look_into_is_not_fenced() {
    let mut world = shop();
    let by_hand = json!({"mode": "Enforce", "workload": {"service": "web"}});
    world.object("ServiceFence", "shop", "mine", by_hand);
    mesh_config(&mut world, INSIDE);
    assert!(world.has(Kind::Sidecar, "shop", "servicefence-mine"));
    outside(&mut world, "shop", Some("enforce"));
    assert_eq!(
        world.condition("shop", "mine", "Ready"),
        "False NamespaceNotDiscovered"
    );
    let message = &world.status("shop", "mine").conditions[0].message;
    assert!(
        message.starts_with("istiod does not look into namespace shop, "),
        "{message}"
    );
    let left = |world: &World| {
        world
            .objects
            .keys()
            .filter(|(_, namespace, _)| **namespace == *"shop")
            .count()
    };
    assert_eq!(left(&world), 0, "{:?}", world.objects.keys());
    world.namespace("shop", Some("enforce"));
    world.settle();
    assert_eq!(world.condition("shop", "mine", "Ready"), "True Scoped");
    assert!(world.has(Kind::Sidecar, "shop", "servicefence-mine"));
}

#[test]
fn generated_fences_follow_their_namespace_into_sight() {
    let mut world = World::new();
    mesh_config(&mut world, INSIDE);
    world.service("shop", "web", &["http:8080"]);
    outside(&mut world, "shop", Some("enforce"));
    assert!(world.fence("shop", "web").is_none());
    world.namespace("shop", Some("enforce"));
    world.settle();
    assert!(world.has(Kind::Sidecar, "shop", "servicefence-web"));
    outside(&mut world, "shop", Some("enforce"));
    assert!(!world.has(Kind::Sidecar, "shop", "servicefence-web"));
    assert!(world.fence("shop", "web").is_none());
}

#[test]
fn no_scope_stands_while_istiod_does_not_look_into_the_gateways_namespace() {
    let mut world = shop();
    mesh_config(&mut world, INSIDE);
    outside(&mut world, SYSTEM, None);
    assert_eq!(world.scope("shop", "web"), None);
    assert!(!world.has(Kind::EnvoyFilter, "shop", "servicefence"));
    let message = &world.status("shop", "web").conditions[0].message;
    assert!(
        message.starts_with("istiod does not look into namespace servicefence-system, "),
        "{message}"
    );
    world.namespace(SYSTEM, None);
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap(), [""; 0]);
}

#[test]
fn policies_out_of_sight_say_nothing() {
    let mut world = shop();
    mesh_config(&mut world, INSIDE);
    world.namespace("istio-system", None);
    let rules = json!([{"jwksUri": "http://reviews.books.svc.cluster.local/keys"}]);
    world.object(
        "RequestAuthentication",
        "istio-system",
        "tokens",
        json!({"jwtRules": rules}),
    );
    let source = json!([{"source": {"namespaces": ["shop"]}}]);
    let policy = json!({"selector": {"matchLabels": {"app": "ratings"}}, "rules": [{"from": source}]});
    world.object("AuthorizationPolicy", "istio-system", "callers", policy);
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap().len(), 2);
    outside(&mut world, "istio-system", None);
    assert_eq!(world.scope("shop", "web").unwrap(), [""; 0]);
    world.namespace("istio-system", None);
    world.settle();
    assert_eq!(world.scope("shop", "web").unwrap().len(), 2);
}
