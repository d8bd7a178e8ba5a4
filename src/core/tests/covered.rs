//! Services with names that ServiceEntries have too.

use serde_json::{Value, json};

use crate::tests::*;

const REVIEWS: &str = "books/reviews.books.svc.cluster.local";

fn entry(host: &str, port: u16, protocol: &str) -> Value {
    json!({
        "hosts": [host], "location": "MESH_INTERNAL", "resolution": "NONE",
        "ports": [{"name": "port", "number": port, "protocol": protocol}],
    })
}

#[test]
fn what_a_wildcard_covers_is_in_scope_with_it() {
    let mut world = shop();
    world.service("books", "late", &["http:9090"]);
    let books = "*.books.svc.cluster.local";
    for (host, port, protocol, covers) in [
        (books, 8080, "HTTP", true),
        (books, 8080, "TLS", true),
        ("*.svc.cluster.local", 8080, "HTTP", true),
        ("*.local", 8080, "GRPC", true),
        ("*ews.books.svc.cluster.local", 8080, "HTTP", true),
        (books, 8081, "HTTP", false),
        ("*.data.svc.cluster.local", 8080, "HTTP", false),
        ("*.reviews.books.svc.cluster.local", 8080, "HTTP", false),
        ("*.example.com", 8080, "HTTP", false),
    ] {
        world.object("ServiceEntry", "infra", "wide", entry(host, port, protocol));
        world.settle();
        let scope = scope(&world);
        assert!(scope.contains(&format!("infra/{host}")), "{scope:?}");
        assert_eq!(
            scope.contains(&REVIEWS.to_owned()),
            covers,
            "{host} {port} {protocol}: {scope:?}"
        );
        assert!(
            !scope.iter().any(|host| host.starts_with("books/late")),
            "{scope:?}"
        );
    }
}

#[test]
fn one_that_comes_or_gets_the_port_later_is_in_scope_at_once() {
    let mut world = shop();
    world.object(
        "ServiceEntry",
        "infra",
        "wide",
        entry("*.books.svc.cluster.local", 7070, "HTTP"),
    );
    world.settle();
    assert_eq!(scope(&world), ["infra/*.books.svc.cluster.local"]);
    world.service("books", "late", &["http:7070"]);
    world.settle();
    let with = [
        "books/late.books.svc.cluster.local",
        "infra/*.books.svc.cluster.local",
    ];
    assert_eq!(scope(&world), with);
    world.service("books", "late", &["http:7071"]);
    world.settle();
    assert_eq!(scope(&world), with[1..]);
    let external = json!({"spec": {"type": "ExternalName", "externalName": "late.books.svc.cluster.local", "clusterIP": null}});
    world.service_with("books", "alias", &["http:7070"], &external);
    world.settle();
    assert_eq!(
        scope(&world),
        ["books/alias.books.svc.cluster.local", with[0], with[1]],
        "calls by the ExternalName are calls to what it stands for"
    );
}

#[test]
fn explain_names_the_entry() {
    let mut world = shop();
    world.object(
        "ServiceEntry",
        "infra",
        "wide",
        entry("*.books.svc.cluster.local", 8080, "HTTP"),
    );
    world.settle();
    let explanation = world.engine.explain(&web(), "reviews.books", world.now).unwrap();
    let because = &explanation.because[0].detail;
    assert!(
        because.contains("ServiceEntry infra/wide declares *.books.svc.cluster.local"),
        "{because}"
    );
}

#[test]
fn a_service_with_the_name_of_an_entry_is_in_scope_with_it() {
    let mut world = shop();
    world.object(
        "ServiceEntry",
        "evil",
        "reviews",
        entry("reviews.books.svc.cluster.local", 9090, "HTTP"),
    );
    world.settle();
    let evil = "evil/reviews.books.svc.cluster.local";
    assert_eq!(scope(&world), [REVIEWS, evil]);
    world.no_service(&reviews());
    world.settle();
    assert_eq!(scope(&world), [evil]);
    world.service("books", "reviews", &["http:8080"]);
    world.settle();
    assert_eq!(scope(&world), [REVIEWS, evil]);
}

/// Our own HTTP listener is on numbers only that are HTTP everywhere.
#[test]
fn what_the_listener_of_an_entry_would_take_as_bytes_is_in_scope() {
    for (protocol, taken) in [("TCP", true), ("TLS", true), ("HTTP", false)] {
        let mut world = shop();
        world.object(
            "ServiceEntry",
            "infra",
            "wide",
            entry("*.example.com", 8080, protocol),
        );
        world.settle();
        assert!(
            !scope(&world).contains(&REVIEWS.to_owned()),
            "{protocol}: ours takes it"
        );
        world.service("data", "undeclared", &["any:8080"]);
        world.settle();
        assert_eq!(scope(&world).contains(&REVIEWS.to_owned()), taken, "{protocol}");
        world.service("data", "undeclared", &["any:8081"]);
        world.settle();
        assert!(
            !scope(&world).contains(&REVIEWS.to_owned()),
            "{protocol}: ours takes it again"
        );
    }
}

/// To callers of its own namespace `*.books` stands for its pods.
#[test]
fn what_a_headless_service_with_the_name_of_a_namespace_would_take_is_in_scope() {
    let mut world = shop();
    let headless = json!({"spec": {"clusterIP": "None"}});
    for (namespace, port, takes) in [
        ("shop", "http:8080", true),
        ("shop", "any:8080", true),
        ("shop", "http:9090", false),
        ("shop", "tcp:8080", false),
        ("data", "http:8080", false),
    ] {
        let pods = world.service_with(namespace, "books", &[port], &headless);
        world.settle();
        let is_in = scope(&world).contains(&REVIEWS.to_owned());
        assert_eq!(is_in, takes, "{namespace} {port}: {:?}", scope(&world));
        world.no_service(&pods);
        world.settle();
        assert!(
            !scope(&world).contains(&REVIEWS.to_owned()),
            "{:?}",
            scope(&world)
        );
    }
    world.service_with("shop", "books", &["http:7070"], &headless);
    world.settle();
    let late = world.service("books", "late", &["http:7070"]);
    world.settle();
    let late = late.scope_host();
    assert!(scope(&world).contains(&format!("{}/{}", late.namespace, late.name)));
}
