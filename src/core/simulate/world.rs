//! A world for tests: a simulation, and short words for what happens in it.

mod look;
mod objects;
mod restart;

use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use servicefence_crd::{Source, names};

use crate::engine::Change;
use crate::facts::{LabelValue, Labels, MeshConfigLayer, NamespaceFacts, PodFacts, ProxyKind};
use crate::learn::{Call, Observation, Period, learn};
use crate::name::ours::sidecar_name;
use crate::name::{FenceKey, Name, PodKey, ServiceKey};
use crate::observe::{Observe, Watched};
use crate::render::Kind;
use crate::settings::Settings;
use crate::simulate::Simulation;
use crate::simulate::world::objects::merge;

pub(crate) use self::objects::{call, dynamic};

pub(crate) const SYSTEM: &str = "servicefence-system";

/// So long is time let pass where a plan waits for it: retention takes longer.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(2);

pub(crate) fn settings() -> Settings {
    Settings {
        excluded_namespaces: [SYSTEM, "istio-system", "kube-system"].map(Name::from).into(),
        settle_time: SignedDuration::from_secs(1),
        // Two weeks, by which tests count.
        expire_after: SignedDuration::from_hours(336),
        ..Settings::default()
    }
}

/// The world.
pub(crate) struct World {
    simulation: Simulation,
    /// Changes that did not come from our writes, for replay.
    pub(crate) history: Vec<Change>,
    next_ip: u32,
}

impl Deref for World {
    type Target = Simulation;

    fn deref(&self) -> &Simulation {
        &self.simulation
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Simulation {
        &mut self.simulation
    }
}

impl World {
    /// A mesh with a ready gateway and nothing else.
    pub(crate) fn new() -> Self {
        Self::with(settings())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let mut world = Self {
            simulation: Simulation::new(settings, Timestamp::from_second(1_800_000_000).unwrap()),
            history: Vec::new(),
            next_ip: 0x0a60_0001,
        };
        world.apply(Change::ServiceCidrs(["10.96.0.0/16".parse().unwrap()].into()));
        world.apply(Change::GatewayReady(true));
        world.namespace(SYSTEM, None);
        world.mesh_config("istio", Some("{}"));
        world
    }

    /// Something happens in the cluster.
    pub(crate) fn apply(&mut self, change: Change) {
        self.history.push(change.clone());
        self.simulation.apply(change);
    }

    /// A ConfigMap with MeshConfig has this text, or is gone.
    pub(crate) fn mesh_config(&mut self, map: &str, text: Option<&str>) {
        let layer = text.map(|text| MeshConfigLayer::parse(text).unwrap());
        self.apply(Change::MeshConfig(map.into(), layer));
    }

    pub(crate) fn namespace(&mut self, name: &str, mode: Option<&str>) {
        self.namespace_with(name, mode, &[]);
    }

    pub(crate) fn namespace_with(&mut self, name: &str, mode: Option<&str>, labels: &[(&str, &str)]) {
        let facts = NamespaceFacts {
            mode: LabelValue::parse(mode),
            fallback: LabelValue::parse(
                labels
                    .iter()
                    .find(|(key, _)| *key == names::FALLBACK_LABEL)
                    .map(|(_, value)| *value),
            ),
            labels: owned(labels),
            terminating: false,
        };
        self.apply(Change::Namespace(name.into(), Some(facts)));
    }

    /// A Service of pods `app: <name>`; ports are `name:number`.
    pub(crate) fn service(&mut self, namespace: &str, name: &str, ports: &[&str]) -> ServiceKey {
        self.service_with(namespace, name, ports, &json!({}))
    }

    /// The same with more of a Service: `merge` is merged into its spec and labels.
    pub(crate) fn service_with(
        &mut self,
        namespace: &str,
        name: &str,
        ports: &[&str],
        more: &Value,
    ) -> ServiceKey {
        let ip = IpAddr::V4(Ipv4Addr::from(self.next_ip)).to_string();
        self.next_ip += 1;
        let ports: Vec<_> = ports
            .iter()
            .map(|port| port.split_once(':').unwrap())
            .map(|(name, number)| json!({"name": name, "port": number.parse::<u16>().unwrap()}))
            .collect();
        let mut service = json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": ip, "ports": ports, "selector": null},
        });
        merge(
            &mut service,
            &json!({"spec": {"selector": more["spec"].get("selector").unwrap_or(&json!({"app": name}))}}),
        );
        merge(&mut service, more);
        let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(service).unwrap();
        self.apply(service.observe(SYSTEM).unwrap());
        ServiceKey::new(namespace, name)
    }

    pub(crate) fn no_service(&mut self, key: &ServiceKey) {
        self.apply(Change::Service(key.clone(), None));
    }

    pub(crate) fn pod(&mut self, namespace: &str, name: &str, labels: &[(&str, &str)]) {
        self.pod_of(namespace, name, labels, "default");
    }

    pub(crate) fn pod_of(&mut self, namespace: &str, name: &str, labels: &[(&str, &str)], account: &str) {
        let facts = PodFacts {
            labels: owned(labels),
            account: account.into(),
            workload: name.split('-').next().unwrap().into(),
            proxy: ProxyKind::Sidecar,
            ..PodFacts::default()
        };
        self.apply(Change::Pod(PodKey::new(namespace, name), Some(facts)));
    }

    /// An Istio object, or a fence, as a user writes it.
    #[allow(clippy::needless_pass_by_value, reason = "tests write json!(…) in place")]
    pub(crate) fn object(&mut self, kind: &str, namespace: &str, name: &str, spec: Value) {
        let created = self.next_created();
        let object = dynamic(
            kind,
            json!({
                "metadata": {
                    "namespace": namespace, "name": name, "uid": format!("uid-{kind}-{name}"), "generation": 1,
                    "creationTimestamp": created,
                },
                "spec": spec,
            }),
        );
        self.apply(object.observe(SYSTEM).unwrap());
    }

    pub(crate) fn gone(&mut self, watched: Watched, namespace: &str, name: &str) {
        self.apply(watched.gone(namespace, name, SYSTEM));
        // Kubernetes deletes what a fence owns along with it.
        let sidecar = sidecar_name(name);
        let owned = (Kind::Sidecar, namespace.into(), sidecar.as_str().into());
        if watched == Watched::ServiceFences && self.objects.remove(&owned).is_some() {
            self.simulation
                .apply(Watched::Sidecars.gone(namespace, &sidecar, SYSTEM));
        }
    }

    /// The user changes a fence's spec.
    pub(crate) fn edit(&mut self, namespace: &str, name: &str, spec: Value) {
        let mut fence = (*self.fence(namespace, name).unwrap()).clone();
        fence.spec = serde_json::from_value(spec).unwrap();
        fence.metadata.generation = fence.metadata.generation.map(|generation| generation + 1);
        self.apply(Change::Fence(
            FenceKey::new(namespace, name),
            Some(Arc::new(fence)),
        ));
    }

    /// A call from a fence's workload to a Service is seen.
    pub(crate) fn learned(&mut self, fence: &FenceKey, service: &ServiceKey) {
        let seen = Observation {
            fence: fence.clone(),
            host: service.scope_host(),
            source: Source::AccessLog,
        };
        self.store(&seen, Period::at(self.now));
    }

    /// Metrics tell of calls.
    pub(crate) fn calls(&mut self, calls: &[Call]) {
        let calls = calls.iter().cloned().map(|call| (call, Period::at(self.now)));
        let traffic = self.engine.learn_from_calls(&calls.collect(), None, self.now);
        self.apply(Change::Told(traffic.told));
        for (observation, period) in traffic.observations {
            self.store(&observation, period);
        }
    }

    /// An observation is stored.
    pub(crate) fn store(&mut self, seen: &Observation, period: Period) {
        let fence = &seen.fence;
        let mut resource = (*self.engine.fence(fence).unwrap().resource).clone();
        let mut status = resource.status.unwrap_or_default();
        let expiry = self.engine.expiry(self.engine.fence(fence).unwrap());
        if let Some(list) = learn(&status.learned, expiry, [(seen, period)]) {
            status.learned = list;
        }
        resource.status = Some(status);
        self.apply(Change::Fence(fence.clone(), Some(Arc::new(resource))));
    }

    /// Carries out plans until nothing is left to do, letting time pass where a plan waits for it.
    pub(crate) fn settle(&mut self) -> &[String] {
        self.simulation.settle(LONGEST_WAIT).unwrap()
    }

    /// Carries out what is due now, and no more.
    pub(crate) fn step(&mut self) -> Vec<String> {
        self.simulation.step().unwrap().to_vec()
    }

    pub(crate) fn pass(&mut self, time: SignedDuration) {
        self.now += time;
    }
}

fn owned(labels: &[(&str, &str)]) -> Labels {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    labels.iter().map(owned).collect()
}

/// The label that opts a Service in or out.
pub(crate) fn mode_label(mode: &str) -> Value {
    json!({"metadata": {"labels": {names::MODE_LABEL: mode}}})
}
