//! Hosts that EnvoyFilters and extensions make proxies call.

use serde_json::{Value, json};

use crate::observe::Watched;
use crate::tests::*;

const AUTHZ: &str = "infra/authz.infra.svc.cluster.local";

/// A shop with two workloads, in a mesh with an authorizer.
fn shop_with_authz() -> World {
    let mut world = shop();
    world.namespace("infra", None);
    world.service("infra", "authz", &["grpc:9000"]);
    world.service("shop", "cart", &["http:8080"]);
    world.pod("shop", "cart-1", &[("app", "cart")]);
    world.settle();
    world
}

/// An EnvoyFilter that asks the authorizer, for pods with these labels.
fn asking(selector: &Value) -> Value {
    let filter = json!({
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {"grpc_service": {"envoy_grpc": {"cluster_name": "outbound|9000||authz.infra.svc.cluster.local"}}},
    });
    json!({
        "workloadSelector": {"labels": selector},
        "configPatches": [{
            "applyTo": "HTTP_FILTER", "match": {"context": "SIDECAR_INBOUND"},
            "patch": {"operation": "INSERT_BEFORE", "value": filter},
        }],
    })
}

fn scopes(world: &World) -> [Vec<String>; 2] {
    ["web", "cart"].map(|name| world.scope("shop", name).unwrap())
}

/// The listener of a Service that is not HTTP is its own, and there with the Service alone.
#[test]
fn a_service_with_a_listener_that_an_envoy_filter_changes_is_in_scope() {
    let mut world = shop_with_authz();
    world.service("data", "postgres", &["tcp:5432"]);
    world.settle();
    let learn = json!({"learning": {"nonHttp": "Learn"}});
    for name in ["web", "cart"] {
        world.edit("shop", name, learn.clone());
    }
    world.settle();
    assert_eq!(scopes(&world), [[""; 0], [""; 0]]);
    let limit = json!({
        "workloadSelector": {"labels": {"app": "web"}},
        "configPatches": [{
            "applyTo": "NETWORK_FILTER",
            "match": {"context": "SIDECAR_OUTBOUND", "listener": {"portNumber": 5432}},
            "patch": {"operation": "INSERT_BEFORE", "value": {"name": "limit"}},
        }],
    });
    world.object("EnvoyFilter", "shop", "limit", limit);
    world.settle();
    assert_eq!(
        scopes(&world),
        [vec!["data/postgres.data.svc.cluster.local"], vec![]]
    );
}

#[test]
fn what_an_envoy_filter_calls_is_in_the_scopes_of_those_whom_it_is_for() {
    let mut world = shop_with_authz();
    world.object("EnvoyFilter", "shop", "ask", asking(&json!({"app": "web"})));
    world.settle();
    assert_eq!(scopes(&world), [vec![AUTHZ], vec![]]);
    let said = world.engine.explain(&web(), "authz.infra", world.now).unwrap();
    assert_eq!(
        said.because[0].detail,
        "EnvoyFilter shop/ask names its cluster or its listener: proxies call it by themselves, or otherwise for that"
    );
    world.object("EnvoyFilter", "shop", "ask", asking(&json!({})));
    world.settle();
    assert_eq!(scopes(&world), [[AUTHZ], [AUTHZ]]);
    world.gone(Watched::EnvoyFilters, "shop", "ask");
    world.object("EnvoyFilter", "books", "ask", asking(&json!({})));
    world.settle();
    assert_eq!(
        scopes(&world),
        [[""; 0], [""; 0]],
        "one of another namespace is for none of these"
    );
    world.object(
        "EnvoyFilter",
        "istio-system",
        "ask",
        asking(&json!({"app": "cart"})),
    );
    world.settle();
    assert_eq!(scopes(&world), [vec![], vec![AUTHZ]]);
}

#[test]
fn a_foreign_envoy_filter_is_not_taken_for_ours() {
    let mut world = shop_with_authz();
    world.object("EnvoyFilter", "shop", "ask", asking(&json!({})));
    world.settle();
    assert!(world.has(crate::render::Kind::EnvoyFilter, "shop", "servicefence"));
    assert_eq!(world.condition("shop", "web", "Enforced"), "True Scoped");
}

#[test]
fn what_extensions_call_counts_as_well() {
    let mut world = shop_with_authz();
    let selector = json!({"matchLabels": {"app": "web"}});
    let cluster = "outbound|9000||authz.infra.svc.cluster.local";
    let wasm =
        json!({"selector": selector, "url": "oci://registry/ask:1", "pluginConfig": {"cluster": cluster}});
    world.object("WasmPlugin", "shop", "ask", wasm);
    world.settle();
    assert_eq!(scopes(&world), [vec![AUTHZ], vec![]]);
    world.gone(Watched::WasmPlugins, "shop", "ask");
    let code = format!("function envoy_on_request(h) h:httpCall('{cluster}', {{}}, '', 100) end");
    let lua = json!({"selector": selector, "lua": {"inlineCode": code}});
    world.object("TrafficExtension", "shop", "ask", lua);
    world.settle();
    assert_eq!(scopes(&world), [vec![AUTHZ], vec![]]);
    world.gone(Watched::TrafficExtensions, "shop", "ask");
    world.settle();
    assert_eq!(scopes(&world), [[""; 0], [""; 0]]);
}
