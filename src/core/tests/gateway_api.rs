//! Routes of Gateway API that are bound to Services: rules of hosts like those of VirtualServices.

use serde_json::{Value, json};

use crate::engine::Change;
use crate::observe::Watched;
use crate::render::Write;
use crate::simulate::world::call;
use crate::tests::routes::rules;
use crate::tests::*;

const REVIEWS: &str = "reviews.books.svc.cluster.local";

/// A route of `namespace` bound to Service `books/reviews` that sends everything to a Service of its own
/// namespace.
fn bind(world: &mut World, kind: &str, namespace: &str, name: &str, to: &str) {
    bind_to(
        world,
        kind,
        namespace,
        name,
        &json!({}),
        &json!([{"backendRefs": [{"name": to, "port": 8080}]}]),
    );
}

fn bind_to(world: &mut World, kind: &str, namespace: &str, name: &str, parent: &Value, rules: &Value) {
    let mut reference = json!({"group": "", "kind": "Service", "namespace": "books", "name": "reviews"});
    reference
        .as_object_mut()
        .unwrap()
        .extend(parent.as_object().unwrap().clone());
    world.object(
        kind,
        namespace,
        name,
        json!({"parentRefs": [reference], "rules": rules}),
    );
}

/// A route bound to one Service that leads to another, each as namespace and name.
pub(super) fn lead(world: &mut World, namespace: &str, name: &str, from: (&str, &str), to: (&str, &str)) {
    let parent = json!({"namespace": from.0, "name": from.1});
    let rules = json!([{"backendRefs": [{"namespace": to.0, "name": to.1, "port": 8080}]}]);
    bind_to(world, "HTTPRoute", namespace, name, &parent, &rules);
}

fn at_gateway(world: &World) -> Vec<Value> {
    let rules = rules(world, "books").into_iter();
    // Only those for the first Service, by its address.
    let address = world.engine.mesh().services.get(&reviews()).unwrap().addresses[0].to_string();
    rules
        .filter(|rule| rule["match"].to_string().contains(&address))
        .collect()
}

/// What the gateway does with calls to `books/reviews`, as `caller port? path? -> host or status`, in order.
fn said(world: &World) -> Vec<String> {
    let text = |rule: &Value| {
        let matched = &rule["match"][0];
        let headers = &matched["headers"];
        let caller = headers["x-servicefence-source"]["prefix"]
            .as_str()
            .unwrap_or("*/");
        let to = rule["route"][0]["destination"]["host"]
            .as_str()
            .map(ToOwned::to_owned);
        let to = to.unwrap_or_else(|| rule["directResponse"]["status"].to_string());
        format!("{caller} -> {}", to.trim_end_matches(".svc.cluster.local"))
    };
    at_gateway(world).iter().map(text).collect()
}

fn scope(world: &World) -> Vec<String> {
    world.scope("shop", "web").unwrap()
}

#[test]
fn a_host_in_scope_brings_the_routes_for_it() {
    let mut world = shop();
    bind(&mut world, "HTTPRoute", "books", "producer", "ratings");
    bind(&mut world, "HTTPRoute", "shop", "consumer", "web");
    bind(&mut world, "GRPCRoute", "other", "theirs", "x");
    world.settle();
    assert!(scope(&world).is_empty(), "{:?}", scope(&world));
    learn(&mut world, &reviews());
    world.settle();
    // Those of another namespace are for the callers there.
    let both = [format!("books/{REVIEWS}"), format!("shop/{REVIEWS}")];
    assert_eq!(scope(&world), both);
    world.gone(Watched::HttpRoutes, "shop", "consumer");
    world.settle();
    assert_eq!(scope(&world), [format!("books/{REVIEWS}")]);
}

#[test]
fn first_calls_follow_routes_by_the_namespace_of_the_caller() {
    let mut world = shop();
    bind(&mut world, "HTTPRoute", "books", "producer", "ratings");
    bind(&mut world, "HTTPRoute", "shop", "consumer", "web");
    world.settle();
    assert_eq!(
        said(&world),
        [
            "shop/ -> web.shop",
            "shop/ -> 404",
            "*/ -> ratings.books",
            "*/ -> 404",
            "*/ -> reviews.books"
        ]
    );
    world.gone(Watched::HttpRoutes, "books", "producer");
    world.gone(Watched::HttpRoutes, "shop", "consumer");
    world.settle();
    assert_eq!(said(&world), ["*/ -> reviews.books"]);
}

#[test]
fn a_route_is_carried_as_istiod_makes_it() {
    let mut world = shop();
    let rules = json!([{
        "matches": [{"path": {"type": "PathPrefix", "value": "/api"}}],
        "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "other.example"}}],
    }]);
    bind_to(&mut world, "HTTPRoute", "books", "reviews", &json!({}), &rules);
    world.settle();
    let address = json!({"x-servicefence-original-dst": {"exact": "10.96.0.2:8080"}});
    assert_eq!(
        at_gateway(&world)[0],
        json!({
            "name": "books.reviews.0",
            "match": [
                {"gateways": ["servicefence-fallback"], "uri": {"exact": "/api"}, "headers": address},
                {"gateways": ["servicefence-fallback"], "uri": {"prefix": "/api/"}, "headers": address},
            ],
            // Not the gateway's own port.
            "redirect": {"authority": "other.example", "port": 8080},
        })
    );
}

#[test]
fn routes_of_one_namespace_are_one_list_by_precedence_and_age() {
    let rule = |path: &str, to: &str| json!([{"matches": [{"path": {"value": path}}], "backendRefs": [{"name": to, "port": 8080}]}]);
    let mut world = shop();
    bind_to(
        &mut world,
        "HTTPRoute",
        "books",
        "z-old",
        &json!({}),
        &rule("/", "old"),
    );
    bind_to(
        &mut world,
        "GRPCRoute",
        "books",
        "grpc",
        &json!({}),
        &json!([
            {"matches": [{"method": {"service": "a.B", "method": "C"}}], "backendRefs": [{"name": "grpc", "port": 8080}]},
        ]),
    );
    bind_to(
        &mut world,
        "HTTPRoute",
        "books",
        "a-new",
        &json!({}),
        &rule("/", "new"),
    );
    bind_to(
        &mut world,
        "HTTPRoute",
        "books",
        "long",
        &json!({}),
        &rule("/long/path", "long"),
    );
    world.settle();
    assert_eq!(
        said(&world),
        [
            "*/ -> grpc.books",
            "*/ -> long.books",
            "*/ -> old.books",
            "*/ -> new.books",
            "*/ -> 404",
            "*/ -> reviews.books"
        ]
    );
    world.gone(Watched::HttpRoutes, "books", "z-old");
    world.gone(Watched::GrpcRoutes, "books", "grpc");
    world.settle();
    assert_eq!(
        said(&world),
        [
            "*/ -> long.books",
            "*/ -> new.books",
            "*/ -> 404",
            "*/ -> reviews.books"
        ]
    );
}

#[test]
fn a_route_bound_to_a_port_says_nothing_of_the_others() {
    let mut world = shop();
    world.service("books", "reviews", &["http:8080", "http-admin:9090"]);
    let rules = json!([{"backendRefs": [{"name": "ratings", "port": 8080}]}]);
    bind_to(
        &mut world,
        "HTTPRoute",
        "books",
        "reviews",
        &json!({"port": 9090}),
        &rules,
    );
    world.settle();
    let rules = at_gateway(&world);
    let addresses: Vec<_> = rules
        .iter()
        .map(|rule| {
            rule["match"][0]["headers"]["x-servicefence-original-dst"]["exact"]
                .as_str()
                .unwrap()
        })
        .map(|address| address.split(':').next_back().unwrap())
        .collect();
    assert_eq!(addresses, ["8080", "9090", "9090", "9090"]);
    assert_eq!(
        said(&world),
        [
            "*/ -> reviews.books",
            "*/ -> ratings.books",
            "*/ -> 404",
            "*/ -> reviews.books"
        ]
    );
}

#[test]
fn among_routes_and_virtual_services_istios_order_holds() {
    let virtual_service = |world: &mut World, namespace: &str, name: &str, export_to: &str| {
        let rules = json!([{"route": [{"destination": {"host": name}}]}]);
        world.object(
            "VirtualService",
            namespace,
            name,
            json!({"hosts": [REVIEWS], "exportTo": [export_to], "http": rules}),
        );
    };
    let mut world = shop();
    virtual_service(&mut world, "books", "public", "*");
    bind(&mut world, "HTTPRoute", "books", "producer", "ratings");
    bind(&mut world, "HTTPRoute", "shop", "consumer", "web");
    virtual_service(&mut world, "other", "private", ".");
    world.settle();
    // For each namespace private VirtualServices, then routes for callers of their own, then by age.
    assert_eq!(
        said(&world)
            .iter()
            .filter(|rule| !rule.ends_with("404"))
            .collect::<Vec<_>>(),
        [
            "books/ -> ratings.books",
            "other/ -> private.other",
            "shop/ -> web.shop",
            "*/ -> public.books",
            "*/ -> reviews.books"
        ]
    );
    world.gone(Watched::VirtualServices, "books", "public");
    virtual_service(&mut world, "books", "public", "*");
    world.settle();
    assert_eq!(
        said(&world)
            .iter()
            .filter(|rule| !rule.ends_with("404"))
            .collect::<Vec<_>>(),
        [
            "other/ -> private.other",
            "shop/ -> web.shop",
            "*/ -> ratings.books",
            "*/ -> reviews.books"
        ]
    );
}

#[test]
fn mesh_config_says_who_sees_routes() {
    let mut world = shop();
    bind(&mut world, "HTTPRoute", "books", "producer", "ratings");
    bind(&mut world, "HTTPRoute", "shop", "consumer", "web");
    learn(&mut world, &reviews());
    mesh_config(&mut world, "defaultVirtualServiceExportTo: ['.']");
    assert_eq!(
        said(&world),
        [
            "books/ -> ratings.books",
            "books/ -> 404",
            "shop/ -> web.shop",
            "shop/ -> 404",
            "*/ -> reviews.books"
        ]
    );
    mesh_config(&mut world, "discoverySelectors: [{matchLabels: {a: b}}]");
    world.namespace_with("books", None, &[("a", "b")]);
    world.settle();
    assert_eq!(
        said(&world),
        ["*/ -> ratings.books", "*/ -> 404", "*/ -> reviews.books"]
    );
}

#[test]
fn routes_that_few_namespaces_see_stand_among_their_private_rules_by_age() {
    let mut world = shop();
    bind(&mut world, "HTTPRoute", "shop", "consumer", "web");
    let private = json!({
        "hosts": [REVIEWS], "exportTo": ["."],
        "http": [{"route": [{"destination": {"host": "private"}}]}],
    });
    world.object("VirtualService", "shop", "private", private);
    world.settle();
    assert_eq!(
        said(&world)[0],
        "shop/ -> private.shop",
        "private ones come first"
    );
    mesh_config(&mut world, "defaultVirtualServiceExportTo: ['.']");
    assert_eq!(
        said(&world)[0],
        "shop/ -> web.shop",
        "both are, and the route is older"
    );
}

#[test]
fn what_is_not_bound_to_a_service_has_no_rules() {
    let mut world = shop();
    let to = json!([{"backendRefs": [{"name": "ratings", "port": 8080}]}]);
    for parent in [
        json!({"group": "gateway.networking.k8s.io", "kind": "Gateway"}),
        json!({"group": null, "kind": null}),
        json!({"group": "networking.istio.io", "kind": "ServiceEntry"}),
        json!({"name": "*"}),
        json!({"name": "reviews.books"}),
    ] {
        bind_to(&mut world, "HTTPRoute", "books", "reviews", &parent, &to);
        world.settle();
        assert_eq!(said(&world), ["*/ -> reviews.books"], "{parent}");
    }
    bind(&mut world, "HTTPRoute", "books", "reviews", "ratings");
    world.settle();
    assert_eq!(said(&world).len(), 3);
    let gateway = json!({"group": null, "kind": null});
    bind_to(&mut world, "HTTPRoute", "books", "reviews", &gateway, &to);
    world.settle();
    assert_eq!(
        said(&world),
        ["*/ -> reviews.books"],
        "it was bound and is no more"
    );
}

#[test]
fn a_rule_that_cannot_be_carried_is_said_of_its_route() {
    let mut world = shop();
    bind(&mut world, "HTTPRoute", "books", "good", "ratings");
    let pool = json!([{"matches": [{"path": {"value": "/pool"}}], "backendRefs": [{"group": "x.example", "kind": "Pool", "name": "p", "port": 80}]}]);
    bind_to(&mut world, "HTTPRoute", "books", "odd", &json!({}), &pool);
    world.settle();
    let not_carried = world.engine.plan_routes(&"books".into(), world.now).not_carried;
    let authors: Vec<_> = not_carried
        .iter()
        .map(|rule| format!("{}: {}", rule.author, rule.because))
        .collect();
    assert_eq!(
        authors,
        ["HTTPRoute books/odd: one of its backends is neither a Service nor a Hostname"]
    );
    assert_eq!(said(&world), ["*/ -> ratings.books", "*/ -> reviews.books"]);
}

#[test]
fn metrics_name_the_backend_and_teach_the_host_that_was_called() {
    let mut world = shop();
    bind(&mut world, "HTTPRoute", "books", "reviews", "ratings");
    world.settle();
    world.calls(&[call("shop", "web", "ratings.books.svc.cluster.local")]);
    let learned = world.status("shop", "web").learned;
    let hosts: Vec<_> = learned.iter().map(|host| host.host.as_str()).collect();
    assert_eq!(hosts, ["ratings.books.svc.cluster.local", REVIEWS]);
}

#[test]
fn an_explanation_names_the_routes() {
    let mut world = shop();
    bind(&mut world, "HTTPRoute", "books", "reviews", "ratings");
    bind(&mut world, "GRPCRoute", "books", "reviews", "ratings");
    learn(&mut world, &reviews());
    world.settle();
    let explained = world.engine.explain(&web(), "reviews.books", world.now).unwrap();
    let details: Vec<_> = explained
        .because
        .iter()
        .filter(|because| because.source == "Route")
        .map(|because| because.detail.as_str())
        .collect();
    assert_eq!(
        details,
        [
            "HTTPRoute books/reviews has rules for it",
            "GRPCRoute books/reviews has rules for it"
        ]
    );
}

#[test]
fn what_istio_refuses_of_routes_costs_them_alone_until_something_changes() {
    let mut world = shop();
    bind(&mut world, "HTTPRoute", "books", "reviews", "ratings");
    let http = json!([{"route": [{"destination": {"host": "reviews"}}]}]);
    let rules = json!({"hosts": ["ratings"], "http": http});
    world.object("VirtualService", "books", "ratings", rules);
    world.settle();
    let books = "books".into();
    let plan = world.engine.plan_routes(&books, world.now);
    assert!(plan.writes.is_empty() && plan.not_carried.is_empty(), "{plan:?}");
    world.apply(Change::RoutesRefused("books".into(), plan.whole.unwrap()));
    let plan = world.engine.plan_routes(&books, world.now);
    assert_eq!(plan.whole, None);
    let authors: Vec<_> = plan
        .not_carried
        .iter()
        .map(|rule| rule.author.to_string())
        .collect();
    assert_eq!(authors, ["HTTPRoute books/reviews"]);
    let [Write::Apply(object)] = &plan.writes[..] else {
        panic!("{plan:?}");
    };
    let rules = object.body["spec"]["http"].as_array().unwrap().iter();
    let hosts = rules.filter_map(|rule| rule["route"][0]["destination"]["host"].as_str());
    let services = hosts.map(|host| host.split('.').next().unwrap());
    // The rule for ratings, both by themselves, and the rule by name on port 80.
    assert_eq!(
        services.collect::<Vec<_>>(),
        ["reviews", "ratings", "reviews", "reviews"]
    );
    // Nothing more is tried until it would be something else.
    bind(&mut world, "HTTPRoute", "books", "reviews", "reviews");
    assert!(world.engine.plan_routes(&books, world.now).whole.is_some());
    bind(&mut world, "HTTPRoute", "books", "reviews", "ratings");
    assert_eq!(world.engine.plan_routes(&books, world.now).whole, None);
}
