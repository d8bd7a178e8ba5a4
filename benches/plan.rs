//! From a change to a plan, in a mesh of 10,000 Services and 2,000 fences with 20 hosts each: time
//! by Criterion, allocations by a counting allocator.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use serde_json::Map;
use servicefence::fence::facts::{
    LabelValue, Labels, NamespaceFacts, Port, Protocol, ServiceFacts, ServiceKind, SidecarFacts, Stamp,
    Visibility,
};
use servicefence::fence::name::{ConfigKey, FenceKey, Name, ScopeHost, ServiceKey};
use servicefence::fence::render::{Kind, Write};
use servicefence::fence::{Change, Engine, Settings};
use servicefence_crd::{LearnedHost, Mode, ServiceFence, ServiceFenceSpec, ServiceFenceStatus, Source};

const NAMESPACES: u32 = 100;
const SERVICES: u32 = 10_000;
const FENCES: u32 = 2_000;
const HOSTS: u32 = 20;

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(400_000)
}

fn service(number: u32, port: u16) -> Change {
    let (namespace, name) = (format!("ns-{}", number % NAMESPACES), format!("svc-{number}"));
    let facts = ServiceFacts {
        kind: ServiceKind::ClusterIp,
        addresses: vec![IpAddr::V4(Ipv4Addr::from(0x0a60_0001 + number))],
        ports: vec![Port {
            number: port,
            protocol: Protocol::Http,
        }],
        selector: [("app".to_owned(), name.clone())].into_iter().collect(),
        mode: LabelValue::Absent,
        labels: Labels::new(),
        visibility: Visibility::All,
        exported_by_default: true,
    };
    Change::Service(ServiceKey::new(namespace, name), Some(facts))
}

fn fence(number: u32) -> (FenceKey, Change) {
    let key = FenceKey::new(format!("ns-{}", number % NAMESPACES), format!("svc-{number}"));
    let mut fence = ServiceFence::new(
        &key.name,
        ServiceFenceSpec {
            mode: Some(Mode::Enforce),
            ..Default::default()
        },
    );
    let learned = (0..HOSTS).map(|host| {
        let to = (number * 7 + host * 13) % SERVICES;
        LearnedHost {
            host: format!("svc-{to}.ns-{}.svc.cluster.local", to % NAMESPACES),
            namespace: format!("ns-{}", to % NAMESPACES),
            sources: vec![Source::AccessLog],
            first_seen: now(),
            last_seen: now(),
        }
    });
    fence.status = Some(ServiceFenceStatus {
        learned: learned.collect(),
        ..Default::default()
    });
    (key.clone(), Change::Fence(key, Some(Arc::new(fence))))
}

fn engine() -> Engine {
    let mut engine = Engine::new(Settings {
        settle_time: SignedDuration::ZERO,
        ..Settings::default()
    });
    for namespace in 0..NAMESPACES {
        let facts = NamespaceFacts {
            mode: LabelValue::Absent,
            fallback: LabelValue::Absent,
            labels: Labels::new(),
            terminating: false,
        };
        engine.apply(
            Change::Namespace(format!("ns-{namespace}").into(), Some(facts)),
            now(),
        );
        engine.apply(Change::PodsKnown(format!("ns-{namespace}").into(), true), now());
    }
    engine.apply(Change::GatewayReady(true), now());
    for number in 0..SERVICES {
        engine.apply(service(number, 8080), now());
    }
    for number in 0..FENCES {
        engine.apply(fence(number).1, now());
    }
    // All that comes before a Sidecar, so that the plan of a fence is a whole one.
    let written = |write: Option<Write>| match write {
        Some(Write::Apply(object)) => Some(Stamp {
            ours: true,
            fingerprint: object.fingerprint(),
        }),
        _ => None,
    };
    let ports = written(engine.plan_ports().write);
    engine.apply(Change::Ports(ports), now());
    for namespace in 0..NAMESPACES {
        let namespace: Name = format!("ns-{namespace}").into();
        let filter = engine
            .plan_namespace(&namespace, now())
            .writes
            .into_iter()
            .find(|write| matches!(write, Write::Apply(object) if object.kind == Kind::EnvoyFilter));
        engine.apply(Change::EnvoyFilter(namespace, written(filter)), now());
    }
    engine
}

/// The fence's Sidecar and status are as it plans them.
fn settle(engine: &mut Engine, key: &FenceKey) {
    let plan = engine.plan_fence(key, now());
    let Some(Write::Apply(object)) = plan.and_then(|plan| plan.sidecar) else {
        panic!("there is no Sidecar to write");
    };
    let egress = object.body["spec"]["egress"].as_array();
    let scope = egress.and_then(|listeners| listeners.last());
    let hosts = scope.and_then(|listener| listener["hosts"].as_array());
    let facts = SidecarFacts {
        ours: true,
        selector: Some([("app".to_owned(), key.name.to_string())].into_iter().collect()),
        proxy: Map::new(),
        created: now(),
        hosts: hosts
            .into_iter()
            .flatten()
            .filter_map(|host| ScopeHost::parse(host.as_str()?))
            .collect(),
        warm: BTreeSet::new(),
        owners: Vec::new(),
        says_more: false,
    };
    let name = ConfigKey::new(key.namespace.clone(), &*object.name);
    engine.apply(Change::Sidecar(name, Some(facts)), now());
    let plan = engine.plan_fence(key, now()).unwrap_or_default();
    assert!(plan.sidecar.is_none(), "it is not at rest");
    let mut resource = engine.fence(key).map(|fence| (*fence.resource).clone());
    if let (Some(fence), Some(mut status)) = (&mut resource, plan.status) {
        status.learned = fence.status.take().unwrap_or_default().learned;
        fence.status = Some(status);
    }
    engine.apply(Change::Fence(key.clone(), resource.map(Arc::new)), now());
}

fn measure<T>(criterion: &mut Criterion, name: &str, mut work: impl FnMut() -> T) {
    work();
    let counted = allocation_counter::measure(|| {
        black_box(work());
    });
    println!(
        "{name}: {} allocations, {} bytes",
        counted.count_total, counted.bytes_total
    );
    criterion.bench_function(name, |bencher| bencher.iter(&mut work));
}

fn plans(criterion: &mut Criterion) {
    let mut engine = engine();
    let (key, change) = fence(0);
    assert!(
        engine
            .plan_fence(&key, now())
            .is_some_and(|plan| plan.sidecar.is_some()),
        "the plan is not a whole one"
    );
    measure(criterion, "plan of a fence's first Sidecar", || {
        engine.plan_fence(&key, now())
    });
    settle(&mut engine, &key);
    measure(criterion, "plan of a fence at rest", || {
        engine.plan_fence(&key, now())
    });
    let namespace: Name = "ns-0".into();
    measure(
        criterion,
        "plan of the routes of a namespace with 100 Services",
        || engine.plan_routes(&namespace, now()),
    );
    measure(criterion, "plan of a namespace with 20 fences", || {
        engine.plan_namespace(&namespace, now())
    });
    measure(criterion, "a fence that changes", || {
        engine.apply(change.clone(), now())
    });
    let mut flip = false;
    measure(criterion, "a Service that changes", || {
        flip = !flip;
        engine.apply(service(1, if flip { 9090 } else { 8080 }), now())
    });
}

criterion_group!(benches, plans);
criterion_main!(benches);
