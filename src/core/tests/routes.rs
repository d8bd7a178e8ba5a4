//! Where the fallback gateway sends a miss.

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::engine::Change;
use crate::observe::Watched;
use crate::plan::target::{Rank, Target};
use crate::render::Kind;
use crate::settings::Settings;
use crate::simulate::world::{SYSTEM, settings};
use crate::tests::*;

/// The gateway's rules to the Services of a namespace by the address and port that was dialled.
pub(super) fn rules(world: &World, namespace: &str) -> Vec<Value> {
    let all = all_rules(world, namespace).into_iter();
    all.filter(|rule| !is_by_name(rule)).collect()
}

/// Those by the name of a Service on port 80, which the Service does not have.
pub(super) fn rules_by_name(world: &World, namespace: &str) -> Vec<Value> {
    all_rules(world, namespace)
        .into_iter()
        .filter(is_by_name)
        .collect()
}

fn is_by_name(rule: &Value) -> bool {
    let matched = &rule["match"][0];
    let address = matched["headers"]["x-servicefence-original-dst"]["exact"].as_str();
    let host = matched["authority"]["exact"].as_str();
    address.is_some_and(|address| address.ends_with(":80"))
        && host.is_some_and(|host| host.ends_with(".svc.cluster.local"))
}

/// The rules of the first object for a namespace.
fn all_rules(world: &World, namespace: &str) -> Vec<Value> {
    let object = &world.objects[&(
        Kind::VirtualService,
        SYSTEM.into(),
        format!("fallback-{namespace}").into(),
    )];
    object["spec"]["http"].as_array().unwrap().clone()
}

#[test]
fn a_service_is_routed_by_the_address_that_was_dialled() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080", "tcp-debug:9000"]);
    world.settle();
    let host = "reviews.books.svc.cluster.local";
    assert_eq!(
        rules(&world, "books"),
        [
            json!({
                "match": [
                    {"gateways": ["servicefence-fallback"], "headers": {"x-servicefence-original-dst": {"exact": "10.96.0.1:8080"}}},
                    {"gateways": ["servicefence-fallback-tunnel"], "authority": {"exact": "10.96.0.1:8080"}},
                ],
                "route": [{"destination": {"host": host, "port": {"number": 8080}}}]
            }),
            json!({
                "match": [{"gateways": ["servicefence-fallback-tunnel"], "authority": {"exact": "10.96.0.1:9000"}}],
                "route": [{"destination": {"host": host, "port": {"number": 9000}}}]
            }),
        ]
    );
}

/// The ports that are routed to.
fn routed_ports(world: &World, namespace: &str) -> Vec<u64> {
    let rules = rules(world, namespace);
    let ports = rules
        .iter()
        .map(|rule| &rule["route"][0]["destination"]["port"]["number"]);
    ports.map(|port| port.as_u64().unwrap()).collect()
}

#[test]
fn a_route_follows_a_new_port_when_the_gateway_has_its_cluster() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080"]);
    world.apply(Change::Ready);
    world.settle();
    assert_eq!(
        routed_ports(&world, "books"),
        [8080],
        "what was there at the start is known"
    );

    world.service("books", "ratings", &["http:8081"]);
    world.step();
    assert_eq!(routed_ports(&world, "books"), [8080]);
    world.pass(SignedDuration::from_millis(600));
    world.service("books", "reviews", &["http:8080", "http-more:8082"]);
    world.step();
    world.pass(SignedDuration::from_millis(600));
    world.step();
    assert_eq!(
        routed_ports(&world, "books"),
        [8081, 8080],
        "each port has its own time"
    );
    world.settle();
    assert_eq!(routed_ports(&world, "books"), [8081, 8080, 8082]);
}

#[test]
fn a_port_that_goes_and_comes_back_is_new() {
    let mut world = World::new();
    world.apply(Change::Ready);
    let both = ["http:8080", "http-more:8082"];
    world.service("books", "reviews", &both);
    world.settle();
    world.service("books", "reviews", &["http:8080"]);
    world.service("books", "reviews", &both);
    world.step();
    assert_eq!(routed_ports(&world, "books"), [8080]);
    world.settle();
    assert_eq!(routed_ports(&world, "books"), [8080, 8082]);
}

#[test]
fn a_gateway_that_passes_nothing_on_has_its_routes_at_once() {
    let mut world = World::with(Settings {
        gateway_passes_on: false,
        ..settings()
    });
    world.apply(Change::Ready);
    world.service("books", "reviews", &["http:8080"]);
    world.step();
    assert_eq!(routed_ports(&world, "books"), [8080]);
}

#[test]
fn routes_wait_for_what_is_urgent_unless_users_have_rules_there() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080"]);
    let routes = Target::Routes("books".into());
    assert_eq!(world.engine.rank(&routes), Rank::Idle);
    let spec = json!({"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]});
    world.object("VirtualService", "books", "reviews", spec);
    assert_eq!(world.engine.rank(&routes), Rank::Normal);
    world.settle();
    world.gone(Watched::VirtualServices, "books", "reviews");
    assert_eq!(
        world.engine.rank(&routes),
        Rank::Normal,
        "what is written has the rule still"
    );

    let mut world = World::with(Settings {
        gateway_passes_on: false,
        ..settings()
    });
    world.service("books", "reviews", &["http:8080"]);
    assert_eq!(world.engine.rank(&routes), Rank::Normal);
}

#[test]
fn the_users_rules_are_carried_over_with_every_match_bound_to_the_address() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080"]);
    world.service("books", "v2", &["http:9090"]);
    world.object("VirtualService", "books", "reviews", json!({
        "hosts": ["reviews"],
        "http": [
            {"match": [{"uri": {"prefix": "/api"}, "sourceNamespace": "shop"}, {"port": 81}, {"gateways": ["edge"]}],
             "route": [{"destination": {"host": "reviews", "subset": "v1"}, "weight": 90}, {"destination": {"host": "v2"}, "weight": 10}],
             "timeout": "3s", "headers": {"request": {"set": {"x-a": "b"}}}},
            {"redirect": {"uri": "/other"}},
        ],
    }));
    world.settle();
    let rules = rules(&world, "books");
    let address = json!({"exact": "10.96.0.1:8080"});
    assert_eq!(
        rules[0],
        json!({
            "match": [{
                "gateways": ["servicefence-fallback"],
                "uri": {"prefix": "/api"},
                "headers": {"x-servicefence-original-dst": address, "x-servicefence-source": {"prefix": "shop/"}},
            }],
            "route": [
                {"destination": {"host": "reviews.books.svc.cluster.local", "subset": "v1", "port": {"number": 8080}}, "weight": 90},
                {"destination": {"host": "v2.books.svc.cluster.local", "port": {"number": 8080}}, "weight": 10},
            ],
            "timeout": "3s",
            "headers": {"request": {"set": {"x-a": "b"}}},
        })
    );
    assert_eq!(rules[1]["redirect"], json!({"uri": "/other"}));
    assert_eq!(rules[2]["directResponse"], json!({"status": 404}));
    assert_eq!(
        rules[3]["route"][0]["destination"]["host"],
        "reviews.books.svc.cluster.local"
    );
}

#[test]
fn rules_that_few_namespaces_see_come_first_and_bind_to_them() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080"]);
    let rule = |host: &str| json!([{"route": [{"destination": {"host": host}}]}]);
    world.object(
        "VirtualService",
        "books",
        "public",
        json!({"hosts": ["reviews"], "http": rule("public")}),
    );
    world.object(
        "VirtualService",
        "shop",
        "own",
        json!({
            "hosts": ["reviews.books.svc.cluster.local"], "exportTo": ["."], "http": rule("own"),
        }),
    );
    world.settle();
    let rules = rules(&world, "books");
    assert_eq!(
        rules[0]["route"][0]["destination"]["host"],
        "own.shop.svc.cluster.local"
    );
    assert_eq!(
        rules[0]["match"][0]["headers"]["x-servicefence-source"],
        json!({"prefix": "shop/"})
    );
    assert_eq!(rules[1]["directResponse"], json!({"status": 404}));
    assert_eq!(
        rules[2]["route"][0]["destination"]["host"],
        "public.books.svc.cluster.local"
    );
}

#[test]
fn a_rule_that_cannot_be_carried_is_said_and_the_service_still_answers() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080"]);
    world.object("VirtualService", "books", "reviews", json!({
        "hosts": ["reviews"],
        "http": [{"match": [{"sourceLabels": {"app": "web"}}], "route": [{"destination": {"host": "v2"}}]}],
    }));
    let plan = world.engine.plan_routes(&"books".into(), world.now);
    let said: Vec<_> = plan.not_carried.iter().map(|rule| rule.because).collect();
    assert_eq!(said, ["it matches sourceLabels, which the gateway does not know"]);
    world.settle();
    let rules = rules(&world, "books");
    assert_eq!(rules.len(), 1);
    assert_eq!(
        rules[0]["route"][0]["destination"]["host"],
        "reviews.books.svc.cluster.local"
    );
}

#[test]
fn where_rules_say_nothing_of_a_port_or_a_caller_there_are_none() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080", "http-admin:9090"]);
    let to = |host: &str, matched: Value| json!([{"match": [matched], "route": [{"destination": {"host": host}}]}]);
    let objects = [
        ("older", to("admin", json!({"port": 9090}))),
        ("younger", to("v2", json!({"sourceNamespace": "shop"}))),
    ];
    for (name, http) in objects {
        world.object(
            "VirtualService",
            "books",
            name,
            json!({"hosts": ["reviews"], "http": http}),
        );
    }
    world.settle();
    let said = rules(&world, "books").into_iter().map(|rule| {
        let headers = &rule["match"][0]["headers"];
        let address = headers["x-servicefence-original-dst"]["exact"].as_str().unwrap();
        let caller = headers["x-servicefence-source"]["prefix"]
            .as_str()
            .unwrap_or("*/");
        let to = rule["route"][0]["destination"]["host"]
            .as_str()
            .map(|host| host.split('.').next().unwrap());
        format!(
            "{caller}{} -> {}",
            &address[address.len() - 4..],
            to.unwrap_or("404")
        )
    });
    let said: Vec<_> = said.collect();
    assert_eq!(
        said,
        [
            "shop/8080 -> v2",
            "shop/8080 -> 404",
            "*/8080 -> reviews",
            "*/9090 -> admin",
            "*/9090 -> 404",
            "*/9090 -> reviews",
        ]
    );
}

#[test]
fn malformed_rules_harm_no_others() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:8080"]);
    world.object("VirtualService", "books", "odd", json!({
        "hosts": ["reviews"],
        "http": [{"match": "x", "route": [1, {"destination": 2}, {}], "mirror": 3, "headers": 4}, {"match": [{"headers": 5}]}],
    }));
    world.settle();
    assert!(!rules(&world, "books").is_empty());
}

#[test]
fn large_rules_share_an_object_only_as_far_as_they_fit() {
    let mut world = World::new();
    world.service("books", "reviews", &["http:80"]);
    let large = |size: usize| json!({"headers": {"request": {"set": {"x-a": "a".repeat(size)}}}, "route": [{"destination": {"host": "reviews"}}]});
    let http: Vec<_> = (0..40).map(|_| large(30_000)).chain([large(600_000)]).collect();
    world.object(
        "VirtualService",
        "books",
        "large",
        json!({"hosts": ["reviews"], "http": http}),
    );
    world.settle();
    // 17, 17 and 6 of them, the largest, and the ones that ServiceFence adds.
    assert!(world.has(Kind::VirtualService, SYSTEM, "fallback-books.5"));
    assert!(!world.has(Kind::VirtualService, SYSTEM, "fallback-books.6"));
}

#[test]
fn the_objects_of_a_big_namespace_are_split_and_those_of_none_are_deleted() {
    let mut world = World::new();
    let services: Vec<_> = (0..1_500)
        .map(|number| world.service("books", &format!("s{number}"), &["http:80"]))
        .collect();
    world.settle();
    assert!(world.has(Kind::VirtualService, SYSTEM, "fallback-books.2"));
    for service in &services[..600] {
        world.no_service(service);
    }
    world.settle();
    assert!(!world.has(Kind::VirtualService, SYSTEM, "fallback-books.2"));
    for service in &services[600..] {
        world.no_service(service);
    }
    world.settle();
    assert!(
        world
            .objects
            .keys()
            .all(|(kind, ..)| *kind != Kind::VirtualService)
    );
    assert!(!world.has(Kind::Service, SYSTEM, "servicefence-ports"));
}

#[test]
fn a_new_http_port_number_is_one_write_of_the_placeholder() {
    let mut world = shop();
    world.service("books", "odd", &["grpc:7777"]);
    let writes: Vec<_> = world.settle().to_vec();
    assert_eq!(
        writes,
        [
            "apply Service servicefence-system/servicefence-ports",
            "apply VirtualService servicefence-system/fallback-books"
        ]
    );
}

#[test]
fn the_placeholder_has_the_port_numbers_that_are_http_and_nothing_else_now() {
    let mut world = shop();
    let numbers = |world: &World| -> Vec<Value> {
        let ports = &world.objects[&(Kind::Service, SYSTEM.into(), "servicefence-ports".into())];
        let ports = ports["spec"]["ports"].as_array().unwrap().iter();
        ports.map(|port| port["port"].clone()).collect()
    };
    let app_protocol = |protocol: &str| {
        let port = json!({"name": "odd", "port": 7000, "appProtocol": protocol});
        json!({"spec": {"ports": [port]}})
    };
    world.service(
        "books",
        "named",
        &[
            "http2-a:7001",
            "grpc:7002",
            "grpc-web-b:7003",
            "tcp-c:7004",
            "odd:7005",
        ],
    );
    let odd = world.service_with("books", "odd", &[], &app_protocol("kubernetes.io/h2c"));
    world.settle();
    assert_eq!(numbers(&world), [7000, 7001, 7002, 7003, 8080]);
    // Another protocol, on the same number or by another Service, takes it out; without that it is in again.
    world.service_with("books", "odd", &[], &app_protocol("mysql"));
    let other = world.service("data", "db", &["tcp:7001"]);
    world.settle();
    assert_eq!(numbers(&world), [7002, 7003, 8080]);
    world.no_service(&other);
    world.service_with("books", "odd", &[], &app_protocol("http"));
    world.settle();
    assert_eq!(numbers(&world), [7000, 7001, 7002, 7003, 8080]);
    // Istio takes the part before a hyphen there too, and an ExternalName has no ports of its own.
    world.service_with("books", "odd", &[], &app_protocol("http-alt"));
    let alias = json!({"spec": {"type": "ExternalName", "externalName": "db.example.com"}});
    world.service_with("data", "alias", &["tcp:7001", "db:8080"], &alias);
    world.settle();
    assert_eq!(numbers(&world), [7000, 7001, 7002, 7003, 8080]);
    // A number goes with the last Service that has it.
    world.service("data", "also", &["http:7000"]);
    world.no_service(&odd);
    world.no_service(&ServiceKey::new("books", "named"));
    world.settle();
    assert_eq!(numbers(&world), [7000, 8080]);
    world.no_service(&ServiceKey::new("data", "also"));
    world.settle();
    assert_eq!(numbers(&world), [8080]);
}

#[test]
fn what_is_hidden_from_the_gateway_is_reached_directly() {
    let mut world = shop();
    let hidden = |to: &str| json!({"metadata": {"annotations": {"networking.istio.io/exportTo": to}}});
    let vault = world.service_with("books", "vault", &["http:8080"], &hidden("shop"));
    world.service_with("books", "safe", &["http:8080"], &hidden("."));
    world.object(
        "VirtualService",
        "books",
        "ratings",
        json!({
            "hosts": ["ratings"], "http": [{"route": [{"destination": {"host": "vault"}}]}],
        }),
    );
    world.settle();
    // For those who do not see the destination either it is as for the gateway: there is no such cluster.
    let to_vault = |rule: &Value| rule.to_string().contains("vault");
    assert!(rules(&world, "books").iter().any(to_vault));
    assert_eq!(
        world.scope("shop", "web").unwrap(),
        [
            "books/ratings.books.svc.cluster.local",
            "books/vault.books.svc.cluster.local"
        ],
        "what is led there too"
    );

    world.no_service(&vault);
    world.service("books", "vault", &["http:8080"]);
    world.settle();
    assert!(world.scope("shop", "web").unwrap().is_empty());
    assert!(rules(&world, "books").iter().any(to_vault));
}
