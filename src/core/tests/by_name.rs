//! Imports by name: names that a Sidecar cannot have, names that stand for several services, and wildcards
//! over short names.

use serde_json::{Value, json};

use crate::observe::Watched;
use crate::tests::*;

const REVIEWS: &str = "books/reviews.books.svc.cluster.local";
const NO_NAME: &str = "servicefence-system/*.servicefence.invalid";

fn redirecting(host: &str) -> Value {
    json!({"hosts": [host], "http": [{"redirect": {"uri": "/other"}}]})
}

/// Istio would refuse the whole Sidecar.
#[test]
fn an_address_with_rules_is_in_no_scope() {
    let mut world = shop();
    for host in ["10.96.12.3", "-.example.com", "*.example.com"] {
        world.object("VirtualService", "legacy", "by-ip", redirecting(host));
        world.settle();
        assert_eq!(world.condition("shop", "web", "Enforced"), "True Scoped");
        let names: Vec<_> = scope(&world).into_iter().collect();
        let expected: &[&str] = match host {
            "*.example.com" => &["legacy/servicefence.example.com"],
            _ => &[],
        };
        assert_eq!(names, expected, "{host}");
    }
}

/// By exact names istiod takes one service for each, and the oldest of all first.
#[test]
fn where_names_do_not_tell_services_apart_istiod_goes_through_all() {
    let mut world = shop();
    let imports = |world: &World| -> Vec<String> {
        let sidecar = &world.objects[&(
            crate::render::Kind::Sidecar,
            "shop".into(),
            "servicefence-web".into(),
        )];
        serde_json::from_value(sidecar["spec"]["egress"][0]["hosts"].clone()).unwrap()
    };
    let entry = |host: &str, addresses: &[&str], export_to: &[&str]| {
        json!({
            "hosts": [host], "addresses": addresses, "exportTo": export_to, "resolution": "STATIC",
            "ports": [{"number": 5432, "name": "tcp", "protocol": "TCP"}],
        })
    };
    for (name, entries, expected) in [
        (
            "one address",
            vec![entry("a.example", &["172.30.0.1"], &[])],
            false,
        ),
        (
            "two addresses",
            vec![entry("a.example", &["172.30.0.1", "172.30.0.2"], &[])],
            true,
        ),
        (
            "two of one name",
            vec![entry("a.example", &[], &[]), entry("a.example", &[], &[])],
            true,
        ),
        ("one for some", vec![entry("a.example", &[], &["shop"])], true),
        ("one for others", vec![entry("a.example", &[], &["books"])], false),
    ] {
        for (at, entry) in entries.iter().enumerate() {
            world.object("ServiceEntry", "data", &format!("e{at}"), entry.clone());
        }
        world.settle();
        assert_eq!(imports(&world).contains(&NO_NAME.to_owned()), expected, "{name}");
        for at in 0..entries.len() {
            world.gone(Watched::ServiceEntries, "data", &format!("e{at}"));
        }
        world.settle();
        assert!(!imports(&world).contains(&NO_NAME.to_owned()), "{name}");
    }
}

/// In a proxy that knows `reviews.books` that name is exact, and comes first.
#[test]
fn a_wildcard_over_short_names_takes_no_call_to_a_service() {
    let mut world = shop();
    world.service("books", "front", &["http:80"]);
    let front = "books/front.books.svc.cluster.local".to_owned();
    for wildcard in ["*.books", "*.books.svc"] {
        let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
        world.object(
            "ServiceEntry",
            "edge",
            "wide",
            json!({"hosts": [wildcard], "ports": ports, "resolution": "NONE"}),
        );
        world.settle();
        assert!(scope(&world).contains(&front), "{wildcard}: {:?}", scope(&world));
        assert!(
            !scope(&world).contains(&REVIEWS.to_owned()),
            "it has no port of that number"
        );
        let said = world.engine.explain(&web(), "front.books", world.now).unwrap();
        assert!(said.answer.contains("have its short name too"), "{}", said.answer);
        world.gone(Watched::ServiceEntries, "edge", "wide");
        world.object("VirtualService", "edge", "wide", redirecting(wildcard));
        world.settle();
        assert!(scope(&world).contains(&front), "{wildcard}: {:?}", scope(&world));
        // A Service that comes later counts as well.
        world.service("books", "late", &["http:80"]);
        world.settle();
        assert!(scope(&world).contains(&"books/late.books.svc.cluster.local".to_owned()));
        world.no_service(&crate::name::ServiceKey::new("books", "late"));
        world.gone(Watched::VirtualServices, "edge", "wide");
        world.settle();
        assert_eq!(scope(&world), [""; 0]);
    }
}

/// A range listens for all addresses of its number, and tells by the address within.
#[test]
fn the_listener_of_a_range_takes_what_has_no_other() {
    let mut world = shop();
    world.service("old", "legacy", &["any:8080"]);
    for (addresses, expected) in [
        (["192.168.0.0/16"], true),
        (["192.168.0.1/32"], false),
        (["fd00::1/128"], false),
    ] {
        let ports = json!([{"number": 8080, "name": "tcp", "protocol": "TCP"}]);
        let lan =
            json!({"hosts": ["lan.corp"], "addresses": addresses, "ports": ports, "resolution": "NONE"});
        world.object("ServiceEntry", "shop", "lan", lan);
        world.settle();
        assert_eq!(
            scope(&world).contains(&REVIEWS.to_owned()),
            expected,
            "{addresses:?}"
        );
    }
}

/// No proxy without it in scope has a listener for its number.
#[test]
fn a_service_that_few_see_makes_no_listener_for_all() {
    let mut world = shop();
    let hidden = json!({"metadata": {"annotations": {"networking.istio.io/exportTo": "."}}});
    world.service_with("books", "ui", &["http:3128"], &hidden);
    world.settle();
    let ports = world
        .objects
        .iter()
        .find(|((kind, ..), _)| *kind == crate::render::Kind::Service);
    let ports = ports
        .map(|(_, object)| object["spec"]["ports"].to_string())
        .unwrap_or_default();
    assert!(ports.contains("8080") && !ports.contains("3128"), "{ports}");
}
