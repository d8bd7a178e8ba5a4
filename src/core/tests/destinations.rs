//! Services to which rules of hosts in scope lead.

use serde_json::json;

use crate::tests::*;

const REVIEWS: &str = "books/reviews.books.svc.cluster.local";
const NEXT: &str = "books/next.books.svc.cluster.local";

#[test]
fn one_with_several_ports_is_imported_with_the_host_that_leads_to_it() {
    let mut world = shop();
    world.service("books", "next", &["http:8080"]);
    let route = json!({"destination": {"host": "next", "port": {"number": 8080}}});
    let rules = json!({"hosts": ["reviews"], "http": [{"route": [route]}]});
    world.object("VirtualService", "books", "reviews", rules);
    learn(&mut world, &reviews());
    world.settle();
    assert_eq!(scope(&world), [REVIEWS], "Istio brings its only port by itself");
    world.service("books", "next", &["http:8080", "grpc:9090"]);
    world.settle();
    assert_eq!(scope(&world), [NEXT, REVIEWS]);
    let said = world.engine.explain(&web(), "next.books", world.now).unwrap();
    assert!(
        said.answer.contains("only the ports that the rule names"),
        "{}",
        said.answer
    );
    world.edit("shop", "web", json!({"deny": ["reviews.books"]}));
    world.settle();
    assert_eq!(scope(&world), [""; 0], "it goes with the host");
}

#[test]
fn one_to_which_rules_of_an_external_name_lead_is_imported_too() {
    let mut world = shop();
    world.service("books", "next", &["http:8080", "grpc:9090"]);
    let stands_for = json!({"spec": {"type": "ExternalName", "externalName": "reviews.books.svc.cluster.local", "clusterIP": null}});
    world.service_with("books", "legacy", &[], &stands_for);
    let route = json!({"destination": {"host": "next", "port": {"number": 8080}}});
    let rules = json!({"hosts": ["legacy"], "http": [{"route": [route]}]});
    world.object("VirtualService", "books", "legacy", rules);
    learn(&mut world, &reviews());
    world.settle();
    assert_eq!(
        scope(&world),
        ["books/legacy.books.svc.cluster.local", NEXT, REVIEWS]
    );
}
