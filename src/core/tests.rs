//! Decisions, from the outside: what happens in a cluster, and what is written.

mod aliases;
mod by_name;
mod carried;
mod conditions;
mod connections;
mod covered;
mod delegates;
mod destination_rules;
mod destinations;
mod detection;
mod discovery;
mod dual_stack;
mod enforce;
mod expiry;
mod explain;
mod external_names;
mod gateway;
mod gateway_api;
mod headless;
mod invariants;
mod jwks;
mod memory;
mod mesh_config;
mod metrics;
mod months;
mod namespaces;
mod observe;
mod optin;
mod owner_rules;
mod passthrough;
mod policy;
mod proxy_calls;
mod ranges;
mod reached_otherwise;
mod risks;
mod rollouts;
mod routes;
mod rules;
mod subsets;
mod telemetry;
mod transitions;
mod unknown_labels;
mod wildcards;
mod workloads;

use serde_json::json;

use crate::name::{FenceKey, ServiceKey};
use crate::observe::Observe as _;
use crate::simulate::world::World;

/// A shop that calls books, in a mesh with another Service; everything enforced and at rest.
fn shop() -> World {
    let mut world = World::new();
    stock(&mut world);
    world
}

fn stock(world: &mut World) {
    world.namespace("shop", Some("enforce"));
    world.namespace("books", None);
    world.service("shop", "web", &["http:8080"]);
    world.service("books", "reviews", &["http:8080"]);
    world.service("books", "ratings", &["http:8080"]);
    world.pod("shop", "web-1", &[("app", "web")]);
    world.settle();
}

fn fences(world: &World) -> Vec<String> {
    world.engine.fences().map(|(key, _)| key.to_string()).collect()
}

fn web() -> FenceKey {
    FenceKey::new("shop", "web")
}

fn reviews() -> ServiceKey {
    ServiceKey::new("books", "reviews")
}

fn learn(world: &mut World, service: &ServiceKey) {
    world.learned(&web(), service);
}

fn allow(hosts: &[&str]) -> serde_json::Value {
    json!({"allow": hosts.iter().map(|host| json!({"host": host})).collect::<Vec<_>>()})
}

/// MeshConfig changes, to this YAML, and everything comes to rest.
fn mesh_config(world: &mut World, text: &str) {
    apply_mesh_config(world, text);
    world.settle();
}

fn apply_mesh_config(world: &mut World, text: &str) {
    let map = json!({"metadata": {"name": "istio"}, "data": {"mesh": text}});
    let map: k8s_openapi::api::core::v1::ConfigMap = serde_json::from_value(map).unwrap();
    world.apply(map.observe("").unwrap());
}

/// The scope of the fence `web`.
fn scope(world: &World) -> Vec<String> {
    world.scope("shop", "web").unwrap()
}

/// What the first condition of the fence `web` says.
fn message(world: &World) -> String {
    world.status("shop", "web").conditions[0].message.clone()
}

/// What was written since, but for statuses.
fn writes(world: &World, from: usize) -> Vec<&str> {
    let writes = world.writes[from..].iter().map(String::as_str);
    writes.filter(|write| !write.starts_with("status")).collect()
}

/// The same world after a restart, which by itself writes nothing.
fn restarted(world: &World) -> World {
    let mut again = world.restarted(|_| ());
    again.settle();
    assert_eq!(again.writes, [] as [&str; 0]);
    again
}
