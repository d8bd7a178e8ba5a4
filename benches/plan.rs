//! From a change to a plan, in a mesh of 10,000 Services and 2,000 fences with 20 hosts each: time
//! by Criterion, allocations by a counting allocator.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use servicefence::fence::facts::{
    DestinationRuleFacts, LabelValue, Labels, MeshConfigLayer, NamespaceFacts, Port, Protocol, ServiceFacts,
    ServiceKind, Visibility,
};
use servicefence::fence::name::{ConfigKey, FenceKey, Name, ServiceKey};
use servicefence::fence::simulate::Simulation;
use servicefence::fence::{Change, Settings, Target};
use servicefence_crd::istio::DestinationRuleSpec;
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
        rule_ports: Vec::new(),
        stands_for: None,
        selector: [("app".to_owned(), name.clone())].into_iter().collect(),
        mode: LabelValue::Absent,
        labels: Labels::new(),
        node_local: false,
        visibility: Visibility::All,
        exported_by_default: true,
    };
    Change::Service(ServiceKey::new(namespace, name), Some(facts))
}

/// A rule with subsets, as every second Service has one, for all to see.
fn destination_rule(number: u32) -> Change {
    let (namespace, name) = (format!("ns-{}", number % NAMESPACES), format!("svc-{number}"));
    let spec = DestinationRuleSpec {
        host: name.clone(),
        subsets: vec![serde_json::json!({"name": "v1", "labels": {"version": "v1"}})],
        ..Default::default()
    };
    let facts = DestinationRuleFacts::of(&spec, &namespace);
    Change::DestinationRule(ConfigKey::new(namespace, name), Some(facts))
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

/// A mesh in which all is written that comes before a Sidecar, so that the plan of a fence is a whole one.
fn simulation() -> Simulation {
    let settings = Settings {
        settle_time: SignedDuration::ZERO,
        ..Settings::default()
    };
    let mut simulation = Simulation::new(settings, now());
    for namespace in 0..NAMESPACES {
        let facts = NamespaceFacts {
            mode: LabelValue::Absent,
            fallback: LabelValue::Absent,
            labels: Labels::new(),
            terminating: false,
        };
        simulation.apply(Change::Namespace(format!("ns-{namespace}").into(), Some(facts)));
    }
    let services: Option<_> = "10.96.0.0/12".parse().ok();
    simulation.apply(Change::ServiceCidrs(services.into_iter().collect()));
    simulation.apply(Change::GatewayReady(true));
    simulation.apply(Change::MeshConfig(
        "istio".into(),
        Some(MeshConfigLayer::default()),
    ));
    for number in 0..SERVICES {
        simulation.apply(service(number, 8080));
    }
    for number in (0..SERVICES).step_by(2) {
        simulation.apply(destination_rule(number));
    }
    for number in 0..FENCES {
        simulation.apply(fence(number).1);
    }
    carry_out(&mut simulation, &Target::Ports);
    // An EnvoyFilter stands by before it leads calls on.
    for namespace in (0..NAMESPACES).chain(0..NAMESPACES) {
        let namespace = Target::Namespace(format!("ns-{namespace}").into());
        carry_out(&mut simulation, &namespace);
    }
    simulation
}

fn carry_out(simulation: &mut Simulation, target: &Target) {
    if let Err(unreadable) = simulation.reconcile(target) {
        panic!("{unreadable}");
    }
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
    let mut simulation = simulation();
    let (key, change) = fence(0);
    let first = simulation.engine.plan_fence(&key, now());
    assert!(
        first.is_some_and(|plan| plan.sidecar.is_some()),
        "the plan is not a whole one"
    );
    measure(criterion, "plan of a fence's first Sidecar", || {
        simulation.engine.plan_fence(&key, now())
    });
    for _ in 0..2 {
        carry_out(&mut simulation, &Target::Fence(key.clone()));
    }
    let mut engine = simulation.engine;
    let rest = engine.plan_fence(&key, now()).unwrap_or_default();
    assert!(
        rest.sidecar.is_none() && rest.status.is_none(),
        "it is not at rest"
    );
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
