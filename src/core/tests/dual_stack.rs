//! Services with an IPv4 and an IPv6 address.
use serde_json::{Value, json};

use crate::engine::Change;
use crate::learn::Attribution;
use crate::learn::miss::Miss;
use crate::render::Kind;
use crate::simulate::world::SYSTEM;
use crate::tests::*;

const BOTH: [&str; 2] = ["10.96.0.50", "fd00:10:96::32"];

/// A shop, and books with `details` that has both addresses.
fn dual_stack_shop() -> World {
    let mut world = shop();
    let ranges = ["10.96.0.0/16", "fd00:10:96::/112"].map(|range| range.parse().unwrap());
    world.apply(Change::ServiceCidrs(ranges.into()));
    details(&mut world, &BOTH);
    world.settle();
    world
}

fn details(world: &mut World, addresses: &[&str]) -> ServiceKey {
    let spec = json!({"spec": {"clusterIP": addresses[0], "clusterIPs": addresses}});
    world.service_with("books", "details", &["http:8080", "tcp:9000"], &spec)
}

/// What the gateway routes to `details`, by header and by authority.
fn routed(world: &World) -> (Vec<String>, Vec<String>) {
    let routes = &world.objects[&(Kind::VirtualService, SYSTEM.into(), "fallback-books".into())];
    let rules = routes["spec"]["http"].as_array().unwrap().iter();
    let rules =
        rules.filter(|rule| rule["route"][0]["destination"]["host"] == "details.books.svc.cluster.local");
    let matches: Vec<&Value> = rules.flat_map(|rule| rule["match"].as_array().unwrap()).collect();
    let of = |find: fn(&Value) -> &Value| {
        let found = matches.iter().filter_map(|one| find(one).as_str());
        found.map(str::to_owned).collect()
    };
    (
        of(|one| &one["headers"]["x-servicefence-original-dst"]["exact"]),
        of(|one| &one["authority"]["exact"]),
    )
}

/// The Service that a miss of the shop to an address teaches.
fn learned(world: &World, destination: &str) -> Option<ServiceKey> {
    let miss = Miss {
        namespace: "shop",
        pod: "web-1",
        destination: destination.parse().unwrap(),
    };
    match world.engine.attribute(&miss, world.now) {
        Attribution::New(mut seen) => seen.pop().and_then(|seen| ServiceKey::of_host(&seen.host.name)),
        Attribution::Known | Attribution::Unattributed(_) => None,
    }
}

#[test]
fn the_gateway_routes_by_either_address() {
    let mut world = dual_stack_shop();
    let (headers, authorities) = routed(&world);
    assert_eq!(headers, ["10.96.0.50:8080", "[fd00:10:96::32]:8080"]);
    assert_eq!(
        authorities,
        [
            "10.96.0.50:8080",
            "[fd00:10:96::32]:8080",
            "10.96.0.50:9000",
            "[fd00:10:96::32]:9000"
        ]
    );
    details(&mut world, &BOTH[1..]);
    world.settle();
    assert_eq!(routed(&world).0, ["[fd00:10:96::32]:8080"]);
}

#[test]
fn the_callers_filter_takes_addresses_of_both_ranges() {
    let world = dual_stack_shop();
    let filter = &world.objects[&(Kind::EnvoyFilter, "shop".into(), "servicefence".into())];
    let patches = filter["spec"]["configPatches"].as_array().unwrap();
    // Each in a filter chain of its own, so that a further range ends no connection of the others.
    let chains: Vec<_> = patches
        .iter()
        .filter(|patch| patch["applyTo"] == "FILTER_CHAIN")
        .map(|patch| &patch["patch"]["value"]["filter_chain_match"]["prefix_ranges"])
        .collect();
    assert_eq!(
        chains,
        [
            &json!([{"address_prefix": "10.96.0.0", "prefix_len": 16}]),
            &json!([{"address_prefix": "fd00:10:96::", "prefix_len": 112}]),
        ]
    );
    for addresses in [r"10\\.96\\.[0-9]+\\.[0-9]+", r"fd00:10:96::"] {
        assert!(filter.to_string().contains(addresses), "{filter}");
    }
}

#[test]
fn a_miss_is_learned_by_either_address() {
    let mut world = dual_stack_shop();
    let key = ServiceKey::new("books", "details");
    for address in [
        "10.96.0.50:8080",
        "[fd00:10:96::32]:8080",
        "[fd00:10:96:0:0:0:0:32]:9000",
    ] {
        assert_eq!(learned(&world, address), Some(key.clone()), "{address}");
    }
    assert_eq!(learned(&world, "[fd00:10:96::32]:1"), None);
    assert_eq!(learned(&world, "[fd00:10:96::33]:8080"), None);
    details(&mut world, &BOTH[..1]);
    assert_eq!(
        learned(&world, "[fd00:10:96::32]:8080"),
        None,
        "the address is another's now"
    );
    assert_eq!(learned(&world, "10.96.0.50:8080"), Some(key));
}

#[test]
fn an_endpoint_with_two_addresses_is_one() {
    let mut world = dual_stack_shop();
    let slice = |family: &str, addresses: &[&str]| {
        let endpoints: Vec<_> = addresses
            .iter()
            .map(|address| json!({"addresses": [address]}))
            .collect();
        let slice: k8s_openapi::api::discovery::v1::EndpointSlice = serde_json::from_value(json!({
            "metadata": {
                "namespace": "books", "name": format!("details-{family}"),
                "labels": {"kubernetes.io/service-name": "details"},
            },
            "addressType": family,
            "endpoints": endpoints,
        }))
        .unwrap();
        slice.observe("").unwrap()
    };
    let key = ServiceKey::new("books", "details");
    let endpoints = |world: &World| {
        let size = world.engine.mesh().size_of(&key);
        (size.clusters, size.endpoints)
    };
    world.apply(slice("IPv4", &["10.244.0.1", "10.244.0.2"]));
    assert_eq!(endpoints(&world), (2, 4), "two endpoints in each of two clusters");
    world.apply(slice("IPv6", &["fd00:244::1", "fd00:244::2"]));
    assert_eq!(endpoints(&world), (2, 4));
    world.apply(slice("IPv4", &[]));
    assert_eq!(endpoints(&world), (2, 4));
}
