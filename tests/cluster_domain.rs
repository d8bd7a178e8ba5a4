//! A cluster with another domain than `cluster.local`. It is a binary of its own since a process has one
//! cluster domain.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use servicefence::fence::facts::{LabelValue, Labels, NamespaceFacts};
use servicefence::fence::name::{ServiceKey, cluster_domain, qualify, set_cluster_domain};
use servicefence::fence::observe::Observe;
use servicefence::fence::render::{Ranges, Write, envoy_filter_spec};
use servicefence::fence::{Change, Engine, HostPattern, Settings};

const DOMAIN: &str = "k8s.example";
const SYSTEM: &str = "servicefence-system";

/// Every test sets it: they run in any order.
fn use_domain() {
    assert_eq!(set_cluster_domain(DOMAIN), Ok(()));
    assert_eq!(cluster_domain(), DOMAIN);
}

fn engine() -> Engine {
    Engine::new(Settings {
        excluded_namespaces: [].into(),
        settle_time: SignedDuration::ZERO,
        expire_after: SignedDuration::ZERO,
        ..Settings::default()
    })
}

fn service(namespace: &str, name: &str) -> Change {
    let object = json!({
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"clusterIP": "10.96.0.20", "ports": [{"name": "http", "port": 8080}], "selector": {"app": name}},
    });
    let service: Service = serde_json::from_value(object).unwrap_or_else(|error| panic!("{error}"));
    service.observe(SYSTEM).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_first_domain_stays() {
    use_domain();
    assert_eq!(set_cluster_domain("cluster.local"), Err(DOMAIN));
    assert_eq!(cluster_domain(), DOMAIN);
}

#[test]
fn services_are_named_in_the_domain() {
    use_domain();
    let key = ServiceKey::new("books", "reviews");
    assert_eq!(&*key.host(), "reviews.books.svc.k8s.example");
    assert_eq!(ServiceKey::of_host("reviews.books.svc.k8s.example"), Some(key));
    assert_eq!(ServiceKey::of_host("reviews.books.svc.cluster.local"), None);
    assert_eq!(&*qualify("reviews", "books"), "reviews.books.svc.k8s.example");
}

#[test]
fn an_owner_may_write_a_host_in_the_domain_or_short() {
    use_domain();
    for text in [
        "reviews.books.svc.k8s.example",
        "reviews.books.svc",
        "reviews.books",
    ] {
        let pattern = HostPattern::parse(text, "shop");
        assert!(pattern.matches("reviews.books.svc.k8s.example"), "{text}");
    }
    let foreign = HostPattern::parse("reviews.books.svc.cluster.local", "shop");
    assert!(!foreign.matches("reviews.books.svc.k8s.example"));
}

#[test]
fn what_is_written_names_the_domain_and_no_other() {
    use_domain();
    let now = Timestamp::UNIX_EPOCH;
    let mut engine = engine();
    let facts = NamespaceFacts {
        mode: LabelValue::Absent,
        fallback: LabelValue::Absent,
        labels: Labels::default(),
        terminating: false,
    };
    engine.apply(Change::Namespace("books".into(), Some(facts)), now);
    engine.apply(service("books", "reviews"), now);
    let plan = engine.plan_routes(&"books".into(), now);
    let Some(Write::Apply(routes)) = plan.writes.first() else {
        panic!("{plan:?}");
    };
    let services = ["10.96.0.0/16".parse().unwrap_or_else(|error| panic!("{error}"))];
    let ranges = Ranges {
        services: &services.into(),
        pods: &[].into(),
        detected: &[9000].into(),
    };
    let filter: Value = envoy_filter_spec(&SYSTEM.into(), &ranges);
    for (text, named) in [
        (routes.body.to_string(), "reviews.books.svc.k8s.example"),
        (filter.to_string(), r"k8s\\.example"),
        (
            filter.to_string(),
            "servicefence-fallback.servicefence-system.svc.k8s.example",
        ),
    ] {
        assert!(text.contains(named), "{text}");
        assert!(
            !text.contains("cluster.local") && !text.contains(r"cluster\\.local"),
            "{text}"
        );
    }
}
