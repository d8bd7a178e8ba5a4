//! What fields of rules mean at the gateway: what they mean in a sidecar.

use serde_json::json;

use crate::tests::routes::{rules, rules_by_name};
use crate::tests::*;

/// Also where the destination has one port only: proxies know Services by the port that was called alone.
#[test]
fn a_rule_without_a_port_means_the_one_that_was_called() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080"]);
    world.service("other", "v2", &["http:9090"]);
    let route = json!({"destination": {"host": "v2.other.svc.cluster.local"}});
    let rule = json!({"hosts": ["reviews"], "http": [{"route": [route]}]});
    world.object("VirtualService", "books", "reviews", rule);
    world.settle();
    let port = &rules(&world, "books")[0]["route"][0]["destination"]["port"]["number"];
    assert_eq!(*port, 8080);
}

/// Where a match names gateways, `mesh` among them, Istio does not ask who calls.
#[test]
fn a_match_with_gateways_is_for_every_caller() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080"]);
    let with = |gateways: &[&str]| {
        json!({
            "hosts": ["reviews"],
            "http": [{
                "match": [{"gateways": gateways, "sourceNamespace": "till", "sourceLabels": {"app": "pos"}}],
                "redirect": {"uri": "/other"},
            }],
        })
    };
    world.object("VirtualService", "books", "reviews", with(&["mesh"]));
    world.settle();
    let carried = &rules(&world, "books")[0];
    assert_eq!(carried["redirect"], json!({"uri": "/other"}));
    let headers = json!({"x-servicefence-original-dst": {"exact": "10.96.0.1:8080"}});
    let expected = json!([{"gateways": ["servicefence-fallback"], "headers": headers}]);
    assert_eq!(carried["match"], expected);
    world.object("VirtualService", "books", "reviews", with(&[]));
    world.settle();
    assert!(rules(&world, "books")[0]["redirect"].is_null());
}

/// What Istio takes for unset counts for nothing.
#[test]
fn a_match_with_empty_fields_is_for_every_call() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080"]);
    let empty = json!({"port": 0, "sourceNamespace": "", "sourceLabels": {}, "uri": {"prefix": "/a"}});
    let rule = json!({"hosts": ["reviews"], "http": [{"match": [empty], "redirect": {"uri": "/other"}}]});
    world.object("VirtualService", "books", "reviews", rule);
    world.settle();
    let headers = json!({"x-servicefence-original-dst": {"exact": "10.96.0.1:8080"}});
    let expected =
        json!([{"gateways": ["servicefence-fallback"], "headers": headers, "uri": {"prefix": "/a"}}]);
    assert_eq!(rules(&world, "books")[0]["match"], expected);
}

/// The gateway takes requests over TLS, and the redirect is of one in plain text.
#[test]
fn a_redirect_without_a_scheme_is_to_plain_text() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080"]);
    for (redirect, carried) in [
        (
            json!({"authority": "a.example", "port": 80}),
            json!({"authority": "a.example"}),
        ),
        (json!({"port": 443}), json!({"port": 443, "scheme": "http"})),
        (
            json!({"port": 443, "scheme": "https"}),
            json!({"port": 443, "scheme": "https"}),
        ),
        (json!({"port": 8443}), json!({"port": 8443})),
    ] {
        let rule = json!({"hosts": ["reviews"], "http": [{"redirect": redirect}]});
        world.object("VirtualService", "books", "reviews", rule);
        world.settle();
        assert_eq!(rules(&world, "books")[0]["redirect"], carried, "{redirect}");
    }
}

/// They would name the gateway, and the connection to it.
#[test]
fn headers_that_name_the_proxy_are_not_carried() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080"]);
    for (value, is_carried) in [
        ("%HOSTNAME%", false),
        ("%DOWNSTREAM_LOCAL_ADDRESS%", false),
        ("%REQ(x-a)%", true),
    ] {
        let headers = json!({"request": {"set": {"x-by": value}}});
        let rule = json!({"hosts": ["reviews"], "http": [{"headers": headers, "route": [{"destination": {"host": "reviews"}}]}]});
        world.object("VirtualService", "books", "reviews", rule);
        world.settle();
        let not_carried = world.engine.plan_routes(&"books".into(), world.now).not_carried;
        assert_eq!(not_carried.is_empty(), is_carried, "{value}");
    }
}

/// Age counts only among those that are exported alike.
#[test]
fn rules_of_the_callers_own_namespace_come_before_those_exported_to_it() {
    let mut world = shop();
    let to = |host: &str, export_to: &str| {
        json!({
            "hosts": ["reviews.books.svc.cluster.local"], "exportTo": [export_to],
            "http": [{"route": [{"destination": {"host": host}}]}],
        })
    };
    world.object("VirtualService", "books", "a-older", to("v1", "shop"));
    world.object(
        "VirtualService",
        "shop",
        "own",
        to("v2.books.svc.cluster.local", "."),
    );
    world.settle();
    let of_shop = rules(&world, "books")
        .into_iter()
        .find(|rule| rule["match"].to_string().contains("shop/"));
    assert_eq!(
        of_shop.unwrap()["route"][0]["destination"]["host"],
        "v2.books.svc.cluster.local"
    );
}

/// Istio follows rules for a name on port 80, whatever ports its Service has, where anything listens there.
#[test]
fn rules_hold_by_name_on_port_80_where_the_service_has_none() {
    let mut world = shop();
    let route = json!({"destination": {"host": "reviews", "port": {"number": 8080}}});
    let rule = json!({
        "hosts": ["reviews"],
        "http": [{"match": [{"uri": {"prefix": "/a"}, "port": 80}], "route": [route]}],
    });
    world.object("VirtualService", "books", "reviews", rule);
    world.settle();
    let address = world.engine.mesh().services.get(&reviews()).unwrap().addresses[0];
    let by_name = rules_by_name(&world, "books");
    let [follows, none] = &by_name[..] else {
        panic!("{by_name:?}");
    };
    assert_eq!(follows["route"][0]["destination"]["port"]["number"], 8080);
    let host = json!({"exact": "reviews.books.svc.cluster.local"});
    assert_eq!(
        (&follows["match"][0]["authority"], &none["match"][0]["authority"]),
        (&host, &host)
    );
    assert_eq!(none["directResponse"]["status"], 404);
    let miss = std::net::SocketAddr::new(address, 80);
    assert_eq!(
        world.engine.mesh().service_at(miss),
        Some(&reviews()),
        "it is learned as that Service"
    );
    world.service("books", "reviews", &["http:8080", "http:80"]);
    world.settle();
    assert!(rules_by_name(&world, "books").is_empty(), "by address");
    world.service("books", "reviews", &["http:8080"]);
    world.object("VirtualService", "books", "reviews", json!({"hosts": ["other"]}));
    world.settle();
    assert!(rules_by_name(&world, "books").is_empty());
    assert_eq!(world.engine.mesh().service_at(miss), None);
}
