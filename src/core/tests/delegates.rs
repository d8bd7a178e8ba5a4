//! VirtualServices that have rules from others.

use serde_json::{Value, json};

use crate::observe::Watched;
use crate::render::Kind;
use crate::simulate::world::{SYSTEM, call};
use crate::tests::*;

/// Reviews of `books` delegates `/api` to `own` of `v2`, in a world where both namespaces have a Service
/// `v2`.
fn delegating() -> World {
    let mut world = shop();
    world.service("v2", "v2", &["http:9090"]);
    world.service("books", "v2", &["http:7070"]);
    root(&mut world, &json!({}));
    world.settle();
    world
}

fn root(world: &mut World, more: &Value) {
    let mut rule =
        json!({"match": [{"uri": {"prefix": "/api"}}], "delegate": {"name": "own", "namespace": "v2"}});
    rule.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    world.object(
        "VirtualService",
        "books",
        "reviews",
        json!({"hosts": ["reviews"], "http": [rule, {"route": [{"destination": {"host": "reviews"}}]}]}),
    );
}

fn own(world: &mut World, more: &Value) {
    let mut spec = json!({"http": [
        {"match": [{"uri": {"exact": "/api/a"}}], "route": [{"destination": {"host": "v2"}}]},
        {"match": [{"uri": {"prefix": "/other"}}], "route": [{"destination": {"host": "never"}}]},
    ]});
    spec.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    world.object("VirtualService", "v2", "own", spec);
    world.settle();
}

/// Where the gateway sends requests for reviews: destinations, and the status of what matches nothing.
fn destinations(world: &World) -> Vec<String> {
    rules(world)
        .iter()
        .map(|rule| match &rule["route"][0]["destination"] {
            Value::Null => rule["directResponse"]["status"].to_string(),
            destination => format!(
                "{}:{}",
                destination["host"].as_str().unwrap(),
                destination["port"]["number"]
            ),
        })
        .map(|text| text.replace(".svc.cluster.local", ""))
        .collect()
}

/// What the gateway does with requests for reviews.
fn rules(world: &World) -> Vec<Value> {
    let object = &world.objects[&(Kind::VirtualService, SYSTEM.into(), "fallback-books".into())];
    let rules = object["spec"]["http"].as_array().unwrap().iter();
    rules
        .filter(|rule| rule["match"].to_string().contains("10.96.0.2:8080"))
        .cloned()
        .collect()
}

const WITHOUT: [&str; 3] = ["reviews.books:8080", "404", "reviews.books:8080"];
const WITH: [&str; 4] = ["v2.v2:8080", "reviews.books:8080", "404", "reviews.books:8080"];

#[test]
fn the_rules_of_a_delegate_are_carried_with_what_the_root_says() {
    let mut world = delegating();
    own(&mut world, &json!({}));
    root(
        &mut world,
        &json!({"timeout": "3s", "mirror": {"host": "v2"}, "name": "api"}),
    );
    world.settle();
    assert_eq!(
        rules(&world)[0],
        json!({
            "name": "api",
            "match": [{
                "gateways": ["servicefence-fallback"],
                "uri": {"exact": "/api/a"},
                "headers": {"x-servicefence-original-dst": {"exact": "10.96.0.2:8080"}},
            }],
            "route": [{"destination": {"host": "v2.v2.svc.cluster.local", "port": {"number": 8080}}}],
            "mirror": {"host": "v2.books.svc.cluster.local", "port": {"number": 8080}},
            "timeout": "3s",
        })
    );
    assert_eq!(destinations(&world), WITH);
    assert!(
        world
            .engine
            .plan_routes(&"books".into(), world.now)
            .not_carried
            .is_empty()
    );
}

#[test]
fn routes_follow_a_delegate_that_comes_changes_and_goes() {
    let mut world = delegating();
    assert_eq!(destinations(&world), WITHOUT);
    own(&mut world, &json!({}));
    assert_eq!(destinations(&world), WITH);
    own(
        &mut world,
        &json!({"http": [{"redirect": {"uri": "/"}}, {"route": [{"destination": {"host": "x"}}]}]}),
    );
    assert_eq!(destinations(&world)[1], "x.v2:8080");
    // One that has hosts is no delegate, and one that lost its delegate has its other rules still.
    own(&mut world, &json!({"hosts": ["v2"]}));
    assert_eq!(destinations(&world), WITHOUT);
    own(&mut world, &json!({}));
    assert_eq!(destinations(&world), WITH);
    world.gone(Watched::VirtualServices, "v2", "own");
    world.settle();
    assert_eq!(destinations(&world), WITHOUT);
}

#[test]
fn a_delegates_gateways_do_not_count_and_its_export_does() {
    let mut world = delegating();
    own(&mut world, &json!({"gateways": ["edge"]}));
    assert_eq!(destinations(&world), WITH);
    own(&mut world, &json!({"exportTo": ["."]}));
    assert_eq!(destinations(&world), WITHOUT);
    own(&mut world, &json!({"exportTo": ["books"]}));
    assert_eq!(destinations(&world), WITH);
    own(&mut world, &json!({}));
    mesh_config(&mut world, "defaultVirtualServiceExportTo: ['.']");
    assert!(!destinations(&world).contains(&WITH[0].to_owned()));
    mesh_config(&mut world, "{}");
    assert_eq!(destinations(&world), WITH);
    // Nor does istiod know one in a namespace that it does not look into.
    world.namespace_with("books", None, &[("team", "a")]);
    world.namespace_with("shop", Some("enforce"), &[("team", "a")]);
    mesh_config(&mut world, "discoverySelectors: [{matchLabels: {team: a}}]");
    assert_eq!(destinations(&world), WITHOUT);
    world.namespace_with("v2", None, &[("team", "a")]);
    world.settle();
    assert_eq!(destinations(&world), WITH);
}

#[test]
fn a_host_with_all_its_rules_dropped_is_as_without_rules() {
    let mut world = delegating();
    let spec = json!({"hosts": ["reviews"], "http": [{"delegate": {"name": "missing"}}]});
    world.object("VirtualService", "books", "reviews", spec);
    world.settle();
    assert_eq!(destinations(&world), ["reviews.books:8080"]);
}

#[test]
fn what_cannot_be_carried_is_said_of_the_root() {
    let mut world = delegating();
    for (rule, because) in [
        (json!({"delegate": {"name": "further"}}), "delegates in turn"),
        (json!({"redirect": {"uri": "/"}}), "refuses"),
    ] {
        root(&mut world, &json!({"fault": {"abort": {"httpStatus": 500}}}));
        own(&mut world, &json!({"http": [rule]}));
        let not_carried = world.engine.plan_routes(&"books".into(), world.now).not_carried;
        let said: Vec<_> = not_carried
            .iter()
            .map(|rule| (rule.author.to_string(), rule.because))
            .collect();
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].0, "VirtualService books/reviews");
        assert!(said[0].1.contains(because), "{said:?}");
        assert_eq!(destinations(&world), ["reviews.books:8080"; 2]);
    }
}

#[test]
fn a_call_that_a_delegate_answers_is_one_to_the_host_of_its_root() {
    let mut world = delegating();
    own(&mut world, &json!({}));
    world.calls(&[call("shop", "web", "v2.v2.svc.cluster.local")]);
    let fence = world.fence("shop", "web").unwrap();
    let learned = &fence.status.as_ref().unwrap().learned;
    let hosts: Vec<_> = learned.iter().map(|learned| learned.host.as_str()).collect();
    assert!(hosts.contains(&"reviews.books.svc.cluster.local"), "{hosts:?}");
}
