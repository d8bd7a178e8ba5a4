//! Observing by the proxies' own access logs, where no metrics are read.

use serde_json::json;

use crate::observe::Watched;
use crate::render::Kind;
use crate::tests::*;

pub(super) const PROVIDER: &str = "extensionProviders: [{name: servicefence, envoyHttpAls: {service: reports.servicefence-system.svc.cluster.local, port: 1}}]\n";

/// The shop of [`super::shop`], observed.
fn shop(config: &str) -> World {
    let mut world = super::shop();
    mesh_config(&mut world, config);
    world.namespace("shop", Some("observe"));
    world.settle();
    world
}

fn logging(world: &World) -> Option<serde_json::Value> {
    let object = world
        .objects
        .get(&(Kind::Telemetry, "shop".into(), "servicefence".into()))?;
    Some(object["spec"]["accessLogging"].clone())
}

fn own() -> serde_json::Value {
    json!({"providers": [{"name": "servicefence"}], "match": {"mode": "CLIENT"}})
}

fn said(world: &World) -> String {
    let conditions = world.status("shop", "web").conditions;
    format!("{} {}", conditions[0].reason, conditions[0].message)
}

#[test]
fn proxies_report_their_calls_while_a_fence_observes_and_no_longer() {
    let mut world = shop(PROVIDER);
    assert_eq!(logging(&world), Some(json!([own()])));
    assert_eq!(world.condition("shop", "web", "Ready"), "True Observing");
    world.namespace("shop", Some("enforce"));
    world.settle();
    assert_eq!(logging(&world), None);
    world.namespace("shop", Some("observe"));
    world.settle();
    world.edit("shop", "web", json!({"learning": {"sources": ["Policy"]}}));
    world.settle();
    assert_eq!(logging(&world), None, "its only fence does not want to know");
}

#[test]
fn nothing_is_written_where_metrics_tell() {
    let mut world = World::with(crate::settings::Settings {
        reads_history: true,
        ..crate::simulate::world::settings()
    });
    world.namespace("shop", Some("observe"));
    world.service("shop", "web", &["http:8080"]);
    mesh_config(&mut world, PROVIDER);
    assert_eq!(logging(&world), None);
}

#[test]
fn what_was_logged_before_is_logged_on() {
    let with = |more: &str| logging(&shop(&format!("{PROVIDER}{more}"))).unwrap();
    assert_eq!(
        with("accessLogFile: /dev/stdout\n"),
        json!([own(), {"providers": [{"name": "envoy"}]}])
    );
    let defaults = "accessLogFile: /dev/stdout\ndefaultProviders: {accessLogging: [otel, envoy]}\n";
    assert_eq!(
        with(defaults),
        json!([own(), {"providers": [{"name": "otel"}, {"name": "envoy"}]}])
    );
    let mut world = shop(&format!("{PROVIDER}{defaults}"));
    let filter = json!({"expression": "response.code >= 400"});
    let of_root = json!({"accessLogging": [
        {"disabled": true, "match": {"mode": "SERVER"}}, {"providers": [{"name": "loki"}], "filter": filter},
    ]});
    world.object("Telemetry", "istio-system", "mesh-default", of_root);
    world.settle();
    let inherited = json!([
        own(),
        {"providers": [{"name": "otel"}, {"name": "envoy"}], "disabled": true, "match": {"mode": "SERVER"}},
        {"providers": [{"name": "loki"}], "filter": filter},
    ]);
    assert_eq!(logging(&world), Some(inherited));
    world.gone(Watched::Telemetries, "istio-system", "mesh-default");
    world.settle();
    assert_eq!(logging(&world).unwrap()[1]["providers"][0]["name"], "otel");
}

#[test]
fn what_cannot_be_repeated_is_left_alone_and_said() {
    let mut world = shop(&format!("{PROVIDER}accessLogFile: /var/log/envoy\n"));
    assert_eq!(logging(&world), None);
    assert!(said(&world).contains("NothingObserved"), "{}", said(&world));
    assert!(
        said(&world).contains("accessLogFile /var/log/envoy"),
        "{}",
        said(&world)
    );
    mesh_config(&mut world, "{}");
    assert!(
        said(&world).contains("add the extension provider servicefence"),
        "{}",
        said(&world)
    );
    mesh_config(&mut world, PROVIDER);
    assert!(logging(&world).is_some());
    mesh_config(&mut world, "{}");
    assert_eq!(logging(&world), None);
}

#[test]
fn a_telemetry_of_the_namespace_is_never_replaced() {
    let mut world = shop(PROVIDER);
    world.object(
        "Telemetry",
        "shop",
        "mine",
        json!({"tracing": [{"randomSamplingPercentage": 5}]}),
    );
    world.settle();
    assert_eq!(logging(&world), None, "ours is older, so theirs would not count");
    assert!(
        said(&world).contains("Telemetry shop/mine decides"),
        "{}",
        said(&world)
    );
    // They add what the condition says.
    world.object("Telemetry", "shop", "mine", json!({"accessLogging": [own()]}));
    world.settle();
    assert_eq!(logging(&world), None);
    assert_eq!(world.condition("shop", "web", "Ready"), "True Observing");
    world.gone(Watched::Telemetries, "shop", "mine");
    let of_some = json!({"selector": {"matchLabels": {"app": "web"}}, "metrics": []});
    world.object("Telemetry", "shop", "some", of_some);
    world.settle();
    assert!(
        logging(&world).is_some(),
        "one for some pods that says nothing of logs is in nobody's way"
    );
    let silent = json!({"selector": {"matchLabels": {"app": "web"}}, "accessLogging": [{"disabled": true}]});
    world.object("Telemetry", "shop", "some", silent);
    world.settle();
    assert!(
        said(&world).contains("Telemetry shop/some decides"),
        "{}",
        said(&world)
    );
}

#[test]
fn what_extension_providers_call_is_in_every_scope() {
    let mut world = super::shop();
    assert_eq!(world.scope("shop", "web").unwrap(), [""; 0]);
    let config = "
extensionProviders:
- {name: authz, envoyExtAuthzGrpc: {service: authz.security.svc.cluster.local, port: 9000}}
- {name: spans, opentelemetry: {service: observe/collector.observe.svc.cluster.local, port: 4317}}
- {name: outside, zipkin: {service: zipkin.example.com, port: 9411}}
- {name: file, envoyFileAccessLog: {path: /dev/stdout}}
- {name: prometheus, prometheus: {}}
- {name: servicefence, envoyHttpAls: {service: servicefence-observe.servicefence-system.svc.cluster.local, port: 18091}}
";
    mesh_config(&mut world, config);
    let called = [
        "observe/collector.observe.svc.cluster.local",
        "security/authz.security.svc.cluster.local",
    ];
    assert_eq!(world.scope("shop", "web").unwrap(), called);
    let said = world.engine.explain(&web(), "authz.security", world.now).unwrap();
    assert!(said.because[0].detail.contains("extension provider"), "{said:?}");
    mesh_config(&mut world, "{}");
    assert_eq!(world.scope("shop", "web").unwrap(), [""; 0]);
}
