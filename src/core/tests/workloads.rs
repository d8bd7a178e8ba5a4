//! The workload of a fence.
use serde_json::json;

use crate::engine::Change;
use crate::facts::{PodFacts, ProxyKind};
use crate::learn::Attribution;
use crate::learn::miss::Miss;
use crate::name::PodKey;
use crate::observe::Watched;
use crate::render::Kind;
use crate::simulate::world::mode_label;
use crate::tests::*;

/// A namespace `jobs` with three pods and no Services.
fn jobs(mode: Option<&str>) -> World {
    let mut world = shop();
    world.namespace("jobs", mode);
    world.pod("jobs", "nightly-1", &[("job", "nightly")]);
    world.pod("jobs", "hourly-1", &[("job", "hourly")]);
    world.pod("jobs", "other-1", &[]);
    world
}

fn fence(world: &mut World, name: &str, spec: &serde_json::Value) {
    world.object("ServiceFence", "jobs", name, spec.clone());
    world.settle();
}

/// `jobs` with a fence for the nightly ones and another for the rest.
fn nightly_and_rest() -> World {
    let mut world = jobs(None);
    fence(
        &mut world,
        "nightly",
        &json!({"mode": "Enforce", "workload": {"selector": {"job": "nightly"}}}),
    );
    fence(
        &mut world,
        "rest",
        &json!({"mode": "Enforce", "workload": {"namespaceDefault": true}}),
    );
    world
}

fn sidecar(world: &World, name: &str) -> serde_json::Value {
    world.objects[&(
        Kind::Sidecar,
        "jobs".into(),
        format!("servicefence-{name}").into(),
    )]["spec"]
        .clone()
}

/// The fence that a call of a pod of `jobs` teaches.
fn learner(world: &World, pod: &str) -> Option<String> {
    let address = world.engine.mesh().services.get(&reviews()).unwrap().addresses[0];
    let miss = Miss {
        namespace: "jobs",
        pod,
        destination: (address, 8080).into(),
    };
    match world.engine.attribute(&miss, world.now) {
        Attribution::New(seen) => Some(seen[0].fence.name.to_string()),
        _ => None,
    }
}

#[test]
fn pods_without_a_service_are_fenced_by_their_labels() {
    let mut world = jobs(Some("enforce"));
    fence(
        &mut world,
        "nightly",
        &json!({"workload": {"selector": {"job": "nightly"}}}),
    );
    assert_eq!(
        sidecar(&world, "nightly")["workloadSelector"],
        json!({"labels": {"job": "nightly"}})
    );
    assert_eq!(learner(&world, "nightly-1").as_deref(), Some("nightly"));
    assert_eq!(learner(&world, "hourly-1"), None);
    let ready = &world.status("jobs", "nightly").conditions[0];
    assert!(
        ready
            .message
            .starts_with("the proxies of pods with job=nightly know"),
        "{}",
        ready.message
    );
    world.namespace("jobs", None);
    world.settle();
    assert_eq!(world.condition("jobs", "nightly", "Enforced"), "False Off");
}

#[test]
fn the_default_of_a_namespace_has_what_nothing_else_has() {
    let mut world = nightly_and_rest();
    assert_eq!(sidecar(&world, "rest").get("workloadSelector"), None);
    for (name, pods) in [("nightly", "True Scoped"), ("rest", "True Scoped")] {
        assert_eq!(world.condition("jobs", name, "Ready"), pods, "{name}");
    }
    for (pod, name) in [
        ("nightly-1", "nightly"),
        ("hourly-1", "rest"),
        ("other-1", "rest"),
    ] {
        assert_eq!(learner(&world, pod).as_deref(), Some(name), "{pod}");
    }
    fence(
        &mut world,
        "second",
        &json!({"mode": "Enforce", "workload": {"namespaceDefault": true}}),
    );
    assert_eq!(
        world.condition("jobs", "second", "Ready"),
        "False OverlappingFence"
    );
    // A user's own default comes first, one for some pods does not concern ours.
    world.object(
        "Sidecar",
        "jobs",
        "some",
        json!({"workloadSelector": {"labels": {"a": "b"}}}),
    );
    world.settle();
    assert_eq!(world.condition("jobs", "rest", "Ready"), "True Scoped");
    world.object("Sidecar", "jobs", "mine", json!({"egress": [{"hosts": ["*/*"]}]}));
    world.settle();
    assert_eq!(world.condition("jobs", "rest", "Ready"), "False ForeignSidecar");
    world.gone(Watched::Sidecars, "jobs", "mine");
    world.settle();
    assert_eq!(world.condition("jobs", "rest", "Ready"), "True Scoped");
}

#[test]
fn what_no_sidecar_applies_to_is_not_fenced_and_says_so() {
    let mut world = shop();
    let pod = |world: &mut World, name: &str, proxy| {
        let facts = PodFacts {
            labels: [("app".to_owned(), "edge".to_owned())].into_iter().collect(),
            proxy,
            ..PodFacts::default()
        };
        world.apply(Change::Pod(PodKey::new("shop", name), Some(facts)));
        world.settle();
    };
    world.service("shop", "edge", &["http:8080"]);
    for (proxy, sentence) in [
        (ProxyKind::Gateway, "the pods of Service edge are gateways"),
        (ProxyKind::None, "no pod of Service edge has a sidecar"),
    ] {
        pod(&mut world, "edge-1", proxy);
        assert_eq!(world.condition("shop", "edge", "Ready"), "True NoSidecars");
        assert_eq!(world.condition("shop", "edge", "Enforced"), "False NoSidecars");
        assert_eq!(world.condition("shop", "edge", "Conflicted"), "False NoConflict");
        let status = world.status("shop", "edge");
        assert!(status.savings.is_none() && world.scope("shop", "edge").is_none());
        assert!(
            status.conditions[0].message.contains(sentence),
            "{:?}",
            status.conditions
        );
    }
    // An application's pod behind the Service is scoped, whatever else is there.
    pod(&mut world, "edge-2", ProxyKind::Sidecar);
    assert_eq!(world.condition("shop", "edge", "Enforced"), "True Scoped");
    world.apply(Change::Pod(PodKey::new("shop", "edge-2"), None));
    world.settle();
    assert_eq!(world.condition("shop", "edge", "Enforced"), "False NoSidecars");
}

#[test]
fn proxyless_grpc_is_not_scoped() {
    let mut world = shop();
    let facts = PodFacts {
        labels: [("app".to_owned(), "web".to_owned())].into_iter().collect(),
        proxy: ProxyKind::Proxyless,
        ..PodFacts::default()
    };
    assert_eq!(world.condition("shop", "web", "Enforced"), "True Scoped");
    world.apply(Change::Pod(PodKey::new("shop", "web-2"), Some(facts)));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Enforced"), "False PodsProxyless");
    world.apply(Change::Pod(PodKey::new("shop", "web-2"), None));
    world.settle();
    assert_eq!(world.condition("shop", "web", "Enforced"), "True Scoped");
}

#[test]
fn virtual_machines_are_not_scoped() {
    let mut world = shop();
    let web = json!({"app": "web"});
    for (kind, watched, spec, wanted) in [
        (
            "WorkloadEntry",
            Watched::WorkloadEntries,
            json!({"address": "10.3.0.1", "labels": web, "serviceAccount": "web"}),
            "False VirtualMachines",
        ),
        (
            "WorkloadEntry",
            Watched::WorkloadEntries,
            json!({"address": "10.3.0.1", "labels": web}),
            "True Scoped",
        ),
        (
            "WorkloadEntry",
            Watched::WorkloadEntries,
            json!({"address": "10.3.0.1", "labels": {"app": "cart"}, "serviceAccount": "web"}),
            "True Scoped",
        ),
        (
            "WorkloadGroup",
            Watched::WorkloadGroups,
            json!({"metadata": {"labels": web}, "template": {"serviceAccount": "web"}}),
            "False VirtualMachines",
        ),
        (
            "WorkloadGroup",
            Watched::WorkloadGroups,
            json!({"template": {"labels": web}}),
            "False VirtualMachines",
        ),
    ] {
        world.object(kind, "shop", "old", spec.clone());
        world.settle();
        assert_eq!(world.condition("shop", "web", "Enforced"), wanted, "{spec}");
        world.gone(watched, "shop", "old");
        world.settle();
        assert_eq!(
            world.condition("shop", "web", "Enforced"),
            "True Scoped",
            "without {spec}"
        );
    }
    let elsewhere = json!({"labels": web, "serviceAccount": "web"});
    world.object("WorkloadEntry", "books", "old", elsewhere);
    world.settle();
    assert_eq!(world.condition("shop", "web", "Enforced"), "True Scoped");
}

#[test]
fn pods_with_proxies_that_intercept_nothing_are_not_scoped() {
    let mut world = nightly_and_rest();
    assert_eq!(world.condition("jobs", "nightly", "Ready"), "True Scoped");
    let late = |uncaptured| PodFacts {
        labels: [("job".to_owned(), "nightly".to_owned())].into_iter().collect(),
        uncaptured,
        ..PodFacts::default()
    };
    let key = PodKey::new("jobs", "nightly-2");
    world.apply(Change::Pod(key.clone(), Some(late(true))));
    world.settle();
    assert_eq!(
        world.condition("jobs", "nightly", "Ready"),
        "False PodsUncaptured"
    );
    assert_eq!(world.scope("jobs", "nightly"), None);
    assert_eq!(
        world.condition("jobs", "rest", "Ready"),
        "False PodsUncaptured",
        "its Sidecar would be for this pod too"
    );
    // After a restart nothing is written for it before the pods are seen again.
    let pods = |known| Change::PodsKnown("jobs".into(), known);
    let now = world.now;
    world.engine.apply(pods(false), now);
    world.engine.apply(Change::Pod(key.clone(), None), now);
    let plan = world.engine.plan_namespace(&"jobs".into(), now);
    assert!(plan.writes.is_empty(), "{plan:?}");
    world.apply(pods(true));
    world.apply(Change::Pod(key, Some(late(false))));
    world.settle();
    assert_eq!(world.condition("jobs", "nightly", "Ready"), "True Scoped");
    assert_eq!(world.condition("jobs", "rest", "Ready"), "True Scoped");
}

#[test]
fn what_is_opted_out_is_never_scoped_by_the_default_of_its_namespace() {
    let default = json!({"mode": "Enforce", "workload": {"namespaceDefault": true}});
    let mut world = jobs(None);
    fence(&mut world, "rest", &default);
    world.service_with("jobs", "api", &["http:8080"], &mode_label("off"));
    world.settle();
    assert_eq!(world.condition("jobs", "rest", "Ready"), "False PodsOptedOut");
    assert_eq!(world.scope("jobs", "rest"), None);
    world.service("jobs", "api", &["http:8080"]);
    world.settle();
    assert_eq!(world.condition("jobs", "rest", "Ready"), "True Scoped");
    fence(
        &mut world,
        "nightly",
        &json!({"mode": "Off", "workload": {"selector": {"job": "nightly"}}}),
    );
    assert_eq!(world.condition("jobs", "rest", "Ready"), "False PodsOptedOut");
    let ready = &world.status("jobs", "rest").conditions[0];
    assert!(
        ready
            .message
            .starts_with("pods with job=nightly of this namespace is opted out"),
        "{}",
        ready.message
    );
}

/// Whatever fence would scope them.
#[test]
fn pods_of_what_is_switched_off_are_never_scoped() {
    let mut world = jobs(None);
    world.pod("jobs", "api-1", &[("app", "api"), ("track", "canary")]);
    let canary = json!({"mode": "Enforce", "workload": {"selector": {"track": "canary"}}});
    fence(&mut world, "canary", &canary);
    assert_eq!(world.condition("jobs", "canary", "Ready"), "True Scoped");
    world.service_with("jobs", "api", &["http:8080"], &mode_label("off"));
    world.settle();
    assert_eq!(world.condition("jobs", "canary", "Ready"), "False PodsOptedOut");
    assert_eq!(world.scope("jobs", "canary"), None);
    world.service_with("jobs", "api", &["http:8080"], &mode_label("observe"));
    world.settle();
    assert_eq!(
        world.condition("jobs", "canary", "Ready"),
        "True Scoped",
        "to observe is no veto"
    );
    let all = json!({"mode": "Off", "workload": {"selector": {"app": "api"}}});
    fence(&mut world, "all", &all);
    assert_eq!(world.condition("jobs", "canary", "Ready"), "False PodsOptedOut");
    // Those to come as well.
    let late = json!({"mode": "Enforce", "workload": {"selector": {"app": "api", "track": "late"}}});
    fence(&mut world, "late", &late);
    assert_eq!(world.condition("jobs", "late", "Ready"), "False PodsOptedOut");
}

#[test]
fn a_call_teaches_the_fence_of_the_sidecar_that_the_pod_has() {
    let mut world = jobs(None);
    fence(
        &mut world,
        "rest",
        &json!({"mode": "Enforce", "workload": {"namespaceDefault": true}}),
    );
    let users = json!({"workloadSelector": {"labels": {"job": "hourly"}}, "egress": [{"hosts": ["*/*"]}]});
    world.object("Sidecar", "jobs", "legacy", users);
    world.settle();
    assert_eq!(learner(&world, "hourly-1"), None);
    // A fence that steps back, for one shared pod, leaves its other pods to the default.
    world.pod("jobs", "both-1", &[("job", "nightly"), ("track", "canary")]);
    fence(
        &mut world,
        "canary",
        &json!({"mode": "Enforce", "workload": {"selector": {"track": "canary"}}}),
    );
    fence(
        &mut world,
        "nightly",
        &json!({"mode": "Enforce", "workload": {"selector": {"job": "nightly"}}}),
    );
    assert_eq!(
        world.condition("jobs", "nightly", "Ready"),
        "False OverlappingFence"
    );
    assert_eq!(learner(&world, "nightly-1").as_deref(), Some("rest"));
    assert_eq!(learner(&world, "both-1").as_deref(), Some("canary"));
}

#[test]
fn a_conflict_that_ends_with_a_pod_brings_back_what_misses_need() {
    let mut world = jobs(None);
    let users = json!({"workloadSelector": {"labels": {"team": "a"}}, "egress": [{"hosts": ["*/*"]}]});
    world.object("Sidecar", "jobs", "mine", users);
    world.pod("jobs", "both-1", &[("job", "nightly"), ("team", "a")]);
    fence(
        &mut world,
        "nightly",
        &json!({"mode": "Enforce", "workload": {"selector": {"job": "nightly"}}}),
    );
    assert_eq!(
        world.condition("jobs", "nightly", "Ready"),
        "False ForeignSidecar"
    );
    world.gone(Watched::Pods, "jobs", "both-1");
    world.settle();
    assert_eq!(world.condition("jobs", "nightly", "Ready"), "True Scoped");
}

#[test]
fn a_workload_that_leaves_the_default_keeps_its_clusters_on_the_way() {
    let mut world = jobs(None);
    world.object(
        "ServiceFence",
        "jobs",
        "rest",
        json!({
            "mode": "Enforce", "workload": {"namespaceDefault": true}, "allow": [{"host": "reviews.books"}],
        }),
    );
    world.settle();
    let spec = json!({"mode": "Enforce", "workload": {"selector": {"job": "nightly"}}, "allow": [{"host": "ratings.books"}]});
    world.object("ServiceFence", "jobs", "nightly", spec);
    world.step();
    assert_eq!(
        world.warm("jobs", "nightly"),
        ["books/reviews.books.svc.cluster.local"],
        "what the default has, and not the whole mesh"
    );
    world.settle();
    let from = world.writes.len();
    world.edit(
        "jobs",
        "nightly",
        json!({"mode": "Enforce", "workload": {"service": "none"}}),
    );
    world.gone(Watched::ServiceFences, "jobs", "rest");
    world.settle();
    assert!(
        world.has(Kind::Sidecar, "jobs", "servicefence-nightly"),
        "{:?}",
        &world.writes[from..]
    );
}

#[test]
fn a_fence_by_labels_replaces_the_generated_one_for_the_same_pods() {
    let mut world = shop();
    world.object(
        "ServiceFence",
        "shop",
        "mine",
        json!({"workload": {"selector": {"app": "web"}}}),
    );
    world.settle();
    assert!(world.fence("shop", "web").is_none());
    assert_eq!(world.condition("shop", "mine", "Ready"), "True Scoped");
    world.gone(Watched::ServiceFences, "shop", "mine");
    world.settle();
    assert_eq!(world.condition("shop", "web", "Ready"), "True Scoped");
}

#[test]
fn nothing_is_planned_before_the_pods_are_known() {
    let mut world = shop();
    world.service_with(
        "shop",
        "canary",
        &["http:8080"],
        &json!({"spec": {"selector": {"track": "canary"}}}),
    );
    world.pod("shop", "web-2", &[("app", "web"), ("track", "canary")]);
    world.settle();
    assert_eq!(
        world.condition("shop", "canary", "Ready"),
        "False OverlappingFence"
    );
    let known = |known| crate::engine::Change::PodsKnown("shop".into(), known);
    // After a restart the younger fence must not take itself for alone.
    let now = world.now;
    world.engine.apply(known(false), now);
    let canary = FenceKey::new("shop", "canary");
    assert!(world.engine.plan_fence(&canary, now).is_none());
    let dirty = world.engine.apply(known(true), now);
    assert!(
        dirty
            .targets
            .contains(&crate::plan::target::Target::Fence(canary))
    );
}
