//! Headless Services: when they may be out of scope, and how a call to the address of a pod is told to be to
//! them.
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use crate::engine::Change;
use crate::learn::Attribution;
use crate::learn::miss::Miss;
use crate::observe::Watched;
use crate::settings::Settings;
use crate::simulate::world::{SYSTEM, settings};
use crate::tests::*;

const PEERS: &str = "data/peers.data.svc.cluster.local";

/// The shop, which learns headless Services, and `peers` with a pod at 10.1.0.7.
pub(super) fn shop() -> World {
    let mut world = super::shop();
    populate(&mut world);
    world
}

pub(super) fn populate(world: &mut World) {
    world.namespace("data", None);
    headless(world, "data", "peers", &["http:8080"], &json!({}));
    slice(world, "data/peers", "peers-1", &["10.1.0.7"]);
    learn_headless(world);
    world.settle();
    world.writes.clear();
}

fn learn_headless(world: &mut World) {
    world.edit("shop", "web", json!({"learning": {"headless": "Learn"}}));
    world.settle();
}

pub(super) fn headless(
    world: &mut World,
    namespace: &str,
    name: &str,
    ports: &[&str],
    spec: &Value,
) -> ServiceKey {
    let mut spec = spec.clone();
    spec["clusterIP"] = json!("None");
    world.service_with(namespace, name, ports, &json!({"spec": spec}))
}

/// An EndpointSlice as Kubernetes writes it.
pub(super) fn slice(world: &mut World, service: &str, name: &str, addresses: &[&str]) {
    slice_with(world, service, name, addresses, true);
}

fn slice_with(world: &mut World, service: &str, name: &str, addresses: &[&str], is_kubernetes: bool) {
    let (namespace, service) = service.split_once('/').unwrap();
    let mut labels = json!({"kubernetes.io/service-name": service});
    if is_kubernetes {
        labels["endpointslice.kubernetes.io/managed-by"] = json!("endpointslice-controller.k8s.io");
    }
    let is_ipv6 = addresses.iter().any(|address| address.contains(':'));
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| json!({"addresses": [address]}))
        .collect();
    let slice = json!({
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "addressType": if is_ipv6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
    });
    let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
    world.apply(slice.observe(SYSTEM).unwrap());
}

/// What a call from `web-1` to an address teaches.
fn called(world: &World, destination: &str) -> String {
    let miss = Miss {
        namespace: "shop",
        pod: "web-1",
        destination: destination.parse().unwrap(),
    };
    match world.engine.attribute(&miss, world.now) {
        Attribution::New(seen) => {
            let services: Vec<_> = seen
                .iter()
                .map(|seen| ServiceKey::of_host(&seen.host.name).unwrap().to_string())
                .collect();
            services.join(" ")
        }
        Attribution::Known => "known".to_owned(),
        Attribution::Unattributed(why) => why.as_str().to_owned(),
    }
}

fn in_scope(world: &World) -> bool {
    world.scope("shop", "web").unwrap().contains(&PEERS.to_owned())
}

/// Why `peers` is in the scope, or is not.
fn said(world: &World) -> String {
    let said = world.engine.explain(&web(), "peers.data", world.now).unwrap();
    assert_eq!(said.in_scope, in_scope(world), "{said:?}");
    said.answer
}

#[test]
fn a_headless_service_stays_in_scope_unless_its_owner_learns_such_services() {
    let mut world = super::shop();
    headless(&mut world, "data", "peers", &["http:8080"], &json!({}));
    slice(&mut world, "data/peers", "peers-1", &["10.1.0.7"]);
    for spec in [json!({}), json!({"learning": {"headless": "Keep"}})] {
        world.edit("shop", "web", spec);
        world.settle();
        assert!(said(&world).ends_with("learning.headless keeps such hosts"));
        assert_eq!(called(&world, "10.1.0.7:8080"), "not_mesh");
    }
}

#[test]
fn it_leaves_in_two_steps_is_learned_by_the_address_of_a_pod_and_comes_back_in_two_steps() {
    let mut world = super::shop();
    headless(&mut world, "data", "peers", &["http:8080"], &json!({}));
    slice(&mut world, "data/peers", "peers-1", &["10.1.0.7"]);
    world.settle();
    assert!(in_scope(&world));
    world.writes.clear();
    learn_headless(&mut world);
    assert!(!in_scope(&world));
    let narrowed = [
        "apply Sidecar shop/servicefence-web",
        "apply Sidecar shop/servicefence-web",
    ];
    assert_eq!(without_status(&world), narrowed);
    assert!(
        said(&world).ends_with("and from there to the pod that was dialled"),
        "{}",
        said(&world)
    );

    assert_eq!(called(&world, "10.1.0.7:8080"), "data/peers");
    world.writes.clear();
    learn(&mut world, &ServiceKey::new("data", "peers"));
    world.settle();
    assert!(in_scope(&world));
    assert_eq!(called(&world, "10.1.0.7:8080"), "known");
    assert_eq!(without_status(&world), narrowed);
}

fn without_status(world: &World) -> Vec<&str> {
    let writes = world.writes.iter().map(String::as_str);
    writes.filter(|write| !write.starts_with("status")).collect()
}

#[test]
fn before_the_first_sidecar_of_a_workload_it_is_warm_like_any_other() {
    let mut world = World::new();
    world.namespace("shop", Some("off"));
    world.namespace("data", None);
    world.service("shop", "web", &["http:8080"]);
    headless(&mut world, "data", "peers", &["http:8080"], &json!({}));
    let learns = json!({"mode": "Enforce", "learning": {"headless": "Learn"}});
    world.object("ServiceFence", "shop", "web", learns);
    super::transitions::first_sidecar(&mut world);
    assert_eq!(world.warm("shop", "web"), ["*/*"]);
    world.settle();
    assert!(!in_scope(&world));
}

#[test]
fn nothing_leaves_before_the_envoy_filter_knows_where_its_pods_are() {
    let mut world = super::shop();
    headless(&mut world, "data", "peers", &["http:8080"], &json!({}));
    world.settle();
    slice(&mut world, "data/peers", "peers-1", &["10.7.0.7"]);
    world.edit("shop", "web", json!({"learning": {"headless": "Learn"}}));
    let moves = |world: &World| {
        let plan = world.engine.plan_fence(&web(), world.now).unwrap();
        plan.sidecar.is_some()
    };
    assert!(!moves(&world));
    let namespace = world.engine.plan_namespace(&"shop".into(), world.now);
    let [crate::render::Write::Apply(filter)] = namespace.writes.as_slice() else {
        panic!("{namespace:?}");
    };
    let written = crate::facts::Stamp {
        ours: true,
        fingerprint: filter.fingerprint(),
    };
    world.apply(Change::EnvoyFilter("shop".into(), Some(written)));
    assert!(moves(&world));
}

#[test]
fn what_cannot_be_reached_or_seen_out_of_scope_stays_in_and_says_why() {
    let mut world = shop();
    assert!(!in_scope(&world));
    let policy = |spec: Value| ("AuthorizationPolicy", "data", spec);
    let asks = json!([{"from": [{"source": {"principals": ["*"]}}]}]);
    let rules = json!({"hosts": ["peers"], "http": [{"route": [{"destination": {"host": "peers"}}]}]});
    let strict = json!({"mtls": {"mode": "STRICT"}});
    let of_others = json!({"selector": {"matchLabels": {"app": "others"}}});
    let mut for_others = of_others.clone();
    for_others["rules"] = asks.clone();
    for ((kind, namespace, spec), why) in [
        (("PeerAuthentication", "data", strict), ""),
        (policy(json!({"rules": asks})), "asks who calls"),
        (policy(json!({"action": "DENY", "rules": asks})), "asks who calls"),
        (
            ("AuthorizationPolicy", "istio-system", json!({"rules": asks})),
            "asks who calls",
        ),
        (policy(for_others), ""),
        (
            policy(json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]})),
            "",
        ),
        (
            ("VirtualService", "data", rules),
            "a VirtualService has rules for it",
        ),
    ] {
        world.object(kind, namespace, "some", spec.clone());
        world.settle();
        let answer = said(&world);
        assert_eq!(in_scope(&world), !why.is_empty(), "{spec}: {answer}");
        assert!(answer.contains(why), "{spec}: {answer}");
        assert_eq!(
            called(&world, "10.1.0.7:8080") == "data/peers",
            why.is_empty(),
            "{spec}"
        );
        let watched = match kind {
            "PeerAuthentication" => Watched::PeerAuthentications,
            "AuthorizationPolicy" => Watched::AuthorizationPolicies,
            _ => Watched::VirtualServices,
        };
        world.gone(watched, namespace, "some");
        world.settle();
        assert!(!in_scope(&world), "without {spec}");
    }
}

#[test]
fn what_is_not_http_where_it_is_called_stays_in_and_says_why() {
    let mut world = shop();
    for (ports, selector, why) in [
        (
            &["http:8080", "tcp:9000"][..],
            json!({"app": "peers"}),
            "it has a port that is not HTTP",
        ),
        (&["http:8080"], json!(null), "it has no selector"),
        (
            &["http:15090"],
            json!({"app": "peers"}),
            "not HTTP everywhere in the mesh",
        ),
    ] {
        headless(&mut world, "data", "peers", ports, &json!({"selector": selector}));
        world.settle();
        assert!(said(&world).contains(why), "{}", said(&world));
    }
    headless(&mut world, "data", "peers", &["http:8080"], &json!({}));
    world.settle();
    assert!(!in_scope(&world));
    // No HTTP listener can stand there for calls out of scope.
    let db = world.service("books", "db", &["tcp:8080"]);
    world.settle();
    assert!(
        said(&world).contains("not HTTP everywhere in the mesh"),
        "{}",
        said(&world)
    );
    world.no_service(&db);
    world.settle();
    assert!(!in_scope(&world));
}

#[test]
fn a_registry_only_mesh_learns_it_too_since_its_address_is_one_of_the_mesh() {
    let mut world = shop();
    mesh_config(&mut world, "outboundTrafficPolicy: {mode: REGISTRY_ONLY}");
    assert!(!in_scope(&world), "{}", said(&world));
    assert_eq!(called(&world, "10.1.0.7:8080"), "data/peers");
}

#[test]
fn where_the_gateway_refuses_what_it_does_not_know_it_stays_in() {
    let mut world = World::with(Settings {
        gateway_passes_on: false,
        ..settings()
    });
    super::stock(&mut world);
    populate(&mut world);
    assert!(
        said(&world).contains("fallback.passthrough.enabled"),
        "{}",
        said(&world)
    );
}

#[test]
fn a_pod_of_two_services_teaches_both_where_they_have_the_port_are_seen_and_may_be_out_of_scope() {
    let mut world = shop();
    let same = json!({"selector": {"app": "peers"}});
    headless(&mut world, "data", "again", &["http:8080"], &same);
    headless(&mut world, "data", "other-port", &["http:8081"], &same);
    headless(&mut world, "data", "mixed", &["http:8080", "tcp:9000"], &same);
    let private = json!({
        "metadata": {"annotations": {"networking.istio.io/exportTo": "."}},
        "spec": {"clusterIP": "None", "selector": {"app": "peers"}},
    });
    world.service_with("data", "private", &["http:8080"], &private);
    for name in ["again", "other-port", "mixed", "private"] {
        slice(
            &mut world,
            &format!("data/{name}"),
            &format!("{name}-1"),
            &["10.1.0.7"],
        );
    }
    world.settle();
    assert_eq!(called(&world, "10.1.0.7:8080"), "data/again data/peers");
    assert_eq!(called(&world, "10.1.0.7:8081"), "data/other-port");
    learn(&mut world, &ServiceKey::new("data", "peers"));
    assert_eq!(called(&world, "10.1.0.7:8080"), "data/again");
    // What is denied does not keep the other one from being learned.
    let spec = json!({"deny": ["again.data"], "learning": {"headless": "Learn"}});
    world.edit("shop", "web", spec);
    world.settle();
    assert_eq!(called(&world, "10.1.0.7:8080"), "denied");
}

#[test]
fn only_an_address_that_kubernetes_tells_of_a_service_proves_it() {
    let mut world = shop();
    slice_with(&mut world, "data/peers", "forged-1", &["10.1.0.8"], false);
    slice(&mut world, "books/reviews", "reviews-1", &["10.1.0.9"]);
    slice(&mut world, "data/nobody", "nobody-1", &["10.1.0.10"]);
    slice(&mut world, "data/peers", "peers-6", &["fd00::7"]);
    world.settle();
    for (destination, is) in [
        ("10.1.0.7:8080", "data/peers"),
        ("[fd00::7]:8080", "data/peers"),
        ("10.1.0.7:8081", "not_mesh"),
        ("10.1.0.8:8080", "not_mesh"),
        ("10.1.0.9:8080", "books/reviews"),
        ("10.1.0.10:8080", "not_mesh"),
        ("10.1.0.11:8080", "not_mesh"),
    ] {
        assert_eq!(called(&world, destination), is, "{destination}");
    }
}

#[test]
fn an_address_that_services_of_several_namespaces_claim_teaches_none_of_them() {
    let mut world = shop();
    world.namespace("tenant", None);
    for name in ["one", "two"] {
        headless(&mut world, "tenant", name, &["http:8080"], &json!({}));
        slice(&mut world, &format!("tenant/{name}"), name, &["10.1.0.7"]);
    }
    // On a node's address, pods of several namespaces have ports of their own.
    headless(&mut world, "tenant", "other-port", &["http:8081"], &json!({}));
    slice(&mut world, "tenant/other-port", "other-port", &["10.1.0.7"]);
    // Nothing is told by a Service that is not there.
    slice(&mut world, "tenant/nobody", "nobody-1", &["10.1.0.8"]);
    slice(&mut world, "data/peers", "peers-2", &["10.1.0.8"]);
    world.settle();
    assert_eq!(called(&world, "10.1.0.7:8080"), "not_mesh");
    assert_eq!(called(&world, "10.1.0.7:8081"), "tenant/other-port");
    assert_eq!(called(&world, "10.1.0.8:8080"), "data/peers");
    for name in ["one", "two"] {
        world.gone(Watched::EndpointSlices, "tenant", name);
    }
    assert_eq!(called(&world, "10.1.0.7:8080"), "data/peers");
}

#[test]
fn the_address_of_a_service_teaches_nothing_else() {
    let mut world = shop();
    let address = world.engine.mesh().services.get(&reviews()).unwrap().addresses[0].to_string();
    slice(&mut world, "data/peers", "peers-2", &[&address]);
    world.settle();
    assert_eq!(called(&world, &format!("{address}:8080")), "books/reviews");
}

#[test]
fn endpoints_that_come_and_go_are_known_and_touch_nothing() {
    let mut world = shop();
    // Where other pods are, so that no range of addresses comes or goes.
    slice(&mut world, "books/reviews", "reviews-1", &["10.1.0.200"]);
    let mut apply = |addresses: &[&str], name: &str| {
        slice(&mut world, "data/peers", name, addresses);
        assert_eq!(world.settle(), [""; 0], "{addresses:?}");
        ["10.1.0.7:8080", "10.1.0.8:8080"].map(|at| called(&world, at) == "data/peers")
    };
    assert_eq!(apply(&["10.1.0.7", "10.1.0.8"], "peers-1"), [true, true]);
    assert_eq!(apply(&["10.1.0.8"], "peers-1"), [false, true]);
    // An endpoint moves to another slice, and stands in both for a while.
    assert_eq!(apply(&["10.1.0.8"], "peers-2"), [false, true]);
    assert_eq!(apply(&[], "peers-1"), [false, true]);
    assert_eq!(apply(&[], "peers-2"), [false, false]);
    slice(&mut world, "data/peers", "peers-1", &["10.1.0.7"]);
    world.gone(Watched::EndpointSlices, "data", "peers-1");
    assert_eq!(world.settle(), [""; 0]);
    assert_eq!(called(&world, "10.1.0.7:8080"), "not_mesh");
}

#[test]
fn what_is_passed_through_is_learned_by_the_address_of_a_pod_too() {
    let mut world = World::new();
    mesh_config(&mut world, super::telemetry::PROVIDER);
    super::stock(&mut world);
    let fallback = [(servicefence_crd::names::FALLBACK_LABEL, "passthrough")];
    world.namespace_with("shop", Some("enforce"), &fallback);
    world.apply(Change::GatewayReady(false));
    populate(&mut world);
    assert!(!in_scope(&world));
    assert_eq!(called(&world, "10.1.0.7:8080"), "data/peers");
    // Plain text goes out.
    for namespace in ["data", "istio-system"] {
        let strict = json!({"mtls": {"mode": "STRICT"}});
        world.object("PeerAuthentication", namespace, "some", strict);
        world.settle();
        assert!(
            in_scope(&world) && said(&world).contains("its pods may refuse"),
            "{namespace}"
        );
        world.gone(Watched::PeerAuthentications, namespace, "some");
    }
}

/// A client that balances by itself, or has its sockets balanced by the network plugin, dials pods and keeps
/// the Host of the Service.
#[test]
fn a_call_to_the_pod_of_any_service_is_learned_as_that_service() {
    let mut world = super::shop();
    world.namespace("data", None);
    slice(&mut world, "books/reviews", "reviews-1", &["10.1.0.9"]);
    world.settle();
    assert_eq!(called(&world, "10.1.0.9:8080"), "books/reviews");
    assert_eq!(
        called(&world, "10.1.0.9:9090"),
        "not_mesh",
        "Istio finds it by no Host either"
    );
    // Which of those that share a pod was called, nothing tells.
    headless(&mut world, "books", "peers", &["http:8080"], &json!({}));
    slice(&mut world, "books/peers", "peers-1", &["10.1.0.9"]);
    world.service("books", "again", &["http:8080"]);
    slice(&mut world, "books/again", "again-1", &["10.1.0.9"]);
    world.settle();
    assert_eq!(
        called(&world, "10.1.0.9:8080"),
        "books/again books/reviews",
        "peers is in scope"
    );
    learn(&mut world, &reviews());
    learn(&mut world, &ServiceKey::new("books", "again"));
    world.settle();
    assert_eq!(called(&world, "10.1.0.9:8080"), "known");
}
