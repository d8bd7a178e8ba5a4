//! Ports that are HTTP only if their first bytes are.

use serde_json::{Value, json};

use crate::render::Kind;
use crate::settings::Settings;
use crate::simulate::world::settings;
use crate::tests::routes::rules;
use crate::tests::*;

/// Istio's proxies tell HTTP by the first bytes where nothing is declared; where something else is, they pass
/// on bytes whatever these are, and what has no rule keeps the version of HTTP.
#[test]
fn http_is_routed_wherever_proxies_may_take_it_for_that() {
    let servers = |world: &World| -> Vec<Value> {
        let rules = rules(world, "books").into_iter();
        rules
            .map(|rule| rule["match"][0]["gateways"][0].clone())
            .collect()
    };
    let (calls, tunnels) = ("servicefence-fallback", "servicefence-fallback-tunnel");
    let ports = ["http:8080", "any:8081", "tcp-debug:9000", "db:3306"];
    let mut world = World::new();
    world.service("books", "reviews", &ports);
    world.settle();
    assert_eq!(servers(&world), [calls, calls, tunnels, tunnels]);

    let mut world = World::with(Settings {
        gateway_passes_on: false,
        ..settings()
    });
    world.service("books", "reviews", &ports);
    world.settle();
    assert_eq!(servers(&world), [calls; 4], "nothing is served without a rule");
}

/// istiod lets gateways speak HTTP/1.1 to such a port, and what has no rule keeps the version.
#[test]
fn http2_to_a_port_without_a_declared_protocol_has_no_rule() {
    let left_out = |world: &World| -> Vec<Value> {
        let rules = rules(world, "books").into_iter();
        rules
            .map(|rule| rule["match"][0]["withoutHeaders"].clone())
            .collect()
    };
    let http2 = json!({"x-servicefence-protocol": {"exact": "HTTP/2"}});
    for (passes_on, wanted) in [(true, [Value::Null, http2]), (false, [Value::Null, Value::Null])] {
        let mut world = World::with(Settings {
            gateway_passes_on: passes_on,
            ..settings()
        });
        world.service("books", "reviews", &["http:8080", "any:8081"]);
        world.settle();
        assert_eq!(left_out(&world), wanted);
    }
}

/// What answers by itself needs no version, as long as nothing before it may lead to a server.
#[test]
fn rules_that_answer_by_themselves_hold_for_http2_to_such_a_port() {
    let mut world = World::new();
    world.service("books", "reviews", &["any:8080"]);
    let path = |path: &str| json!([{"uri": {"exact": path}}]);
    let asked = json!([{"uri": {"exact": "/three"}, "withoutHeaders": {"x-asked": {}}}]);
    let route = json!([{"destination": {"host": "reviews"}}]);
    let rules_of_all = json!([
        {"match": path("/one"), "directResponse": {"status": 418}},
        {"match": path("/two"), "redirect": {"uri": "/"}},
        {"match": asked, "directResponse": {"status": 403}},
        {"match": path("/four"), "route": route},
        {"match": path("/five"), "directResponse": {"status": 418}},
    ]);
    world.object(
        "VirtualService",
        "books",
        "reviews",
        json!({"hosts": ["reviews"], "http": rules_of_all}),
    );
    world.settle();
    let but = |rule: &Value| rule["match"][0]["withoutHeaders"].clone();
    let http2 = json!({"x-servicefence-protocol": {"exact": "HTTP/2"}});
    let left_out: Vec<_> = rules(&world, "books").iter().map(but).collect();
    let theirs = json!({"x-asked": {}});
    let wanted = [
        &Value::Null,
        &Value::Null,
        &theirs,
        &http2,
        &http2,
        &http2,
        &http2,
    ];
    assert_eq!(left_out.iter().collect::<Vec<_>>(), wanted);
}

#[test]
fn a_rule_applies_to_a_port_without_a_declared_protocol() {
    let mut world = World::new();
    world.service("books", "reviews", &["any:8080", "tcp:9000"]);
    world.object(
        "VirtualService",
        "books",
        "reviews",
        json!({"hosts": ["reviews"], "http": [{"directResponse": {"status": 418}}]}),
    );
    world.settle();
    let statuses: Vec<_> = rules(&world, "books")
        .iter()
        .filter_map(|rule| rule["directResponse"]["status"].as_u64())
        .collect();
    assert_eq!(statuses, [418, 404], "and what matches none is not found");
}

/// The numbers are those on which one Service may speak HTTP and another one may not.
#[test]
fn first_bytes_are_looked_at_where_they_tell_something() {
    let mut world = shop();
    let numbers = |world: &World| -> Vec<u64> {
        let filter = &world.objects[&(Kind::EnvoyFilter, "shop".into(), "servicefence".into())];
        let patches = filter["spec"]["configPatches"].as_array().unwrap().iter();
        let chains = patches.filter_map(|patch| patch["patch"]["value"]["filter_chains"].as_array());
        let matched = chains
            .flatten()
            .map(|chain| &chain["filter_chain_match"]["destination_port"]);
        matched.filter_map(Value::as_u64).collect()
    };
    assert_eq!(numbers(&world), [0; 0]);
    let any = world.service("data", "any", &["any:9000", "tcp:9001", "db:3306"]);
    world.settle();
    assert_eq!(
        numbers(&world),
        [9000],
        "a proxy takes what is declared as TCP as it is"
    );
    let mixed = world.service("data", "mixed", &["tcp:8080"]);
    world.settle();
    assert_eq!(numbers(&world), [8080, 9000]);
    world.no_service(&any);
    world.settle();
    assert_eq!(numbers(&world), [8080]);
    world.no_service(&mixed);
    world.settle();
    assert_eq!(numbers(&world), [0; 0], "there is an HTTP listener again");
}

/// Where a number is not HTTP everywhere, ours has no HTTP listener: some Service must bring one.
#[test]
fn rules_for_names_without_a_listener_bring_one() {
    let outside =
        json!({"spec": {"type": "ExternalName", "externalName": "api.example.com", "clusterIP": null}});
    for (host, ports, number) in [
        ("outside.lab.svc.cluster.local", "http:80", 80),
        ("outside.lab.svc.cluster.local", "http:8081", 8081),
        ("shop.example.com", "http:80", 80),
    ] {
        let mut world = shop();
        world.service_with("lab", "outside", &[ports], &outside);
        world.service("books", "late", &[&format!("http:{number}")]);
        let rule = json!({"hosts": [host], "http": [{"fault": {"abort": {"httpStatus": 418}}}]});
        world.object("VirtualService", "lab", "rule", rule);
        world.settle();
        let late = "books/late.books.svc.cluster.local".to_owned();
        assert!(!scope(&world).contains(&late), "{host} {number}: ours has one");
        world.service("books", "bytes", &[&format!("tcp:{number}")]);
        world.settle();
        assert!(scope(&world).contains(&late), "{host} {number}");
        let why = world.engine.explain(&web(), "late.books", world.now).unwrap();
        assert!(why.because[0].detail.contains("brings no listener"), "{why:?}");
        // What the fence does not see is in scope for its rules, and brings none.
        let hidden = json!({"metadata": {"annotations": {"networking.istio.io/exportTo": "~"}}});
        world.service_with("books", "hidden", &[&format!("http:{number}")], &hidden);
        let rule = json!({"hosts": ["hidden.books.svc.cluster.local"], "http": [{"timeout": "3s"}]});
        world.object("VirtualService", "shop", "hidden", rule);
        world.settle();
        assert!(scope(&world).contains(&"shop/hidden.books.svc.cluster.local".to_owned()));
        assert!(scope(&world).contains(&late), "{host} {number}");
        world.service("lab", "another", &[&format!("http:{number}")]);
        world.edit("shop", "web", json!({"allow": [{"host": "another.lab"}]}));
        world.settle();
        assert!(
            !scope(&world).contains(&late),
            "{host} {number}: another one brings it"
        );
    }
}
