//! A world for tests: the engine, an API server of maps, and a clock that stands still.
//!
//! It carries out plans as the reconcilers do and feeds back what was written, through the same
//! reading of objects that production uses.

mod look;
mod objects;
mod restart;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use servicefence_crd::{Fallback, Forgot, Mode, Selector, Source, names};

pub(crate) use self::objects::{call, dynamic};
use self::objects::{merge, observe};
use super::change::{Change, Target};
use super::engine::{Engine, Settings};
use super::facts::{Asks, Labels, NamespaceFacts, PodFacts};
use super::learn::{Observation, Period, learn};
use super::name::{FenceKey, Name, PodKey, ServiceKey};
use super::plan::Said;
use super::render::{Kind, Object, Write};
use super::traffic::Call;
use crate::source::convert::{Observe, Watched};

pub(crate) const SYSTEM: &str = "servicefence-system";

/// So long is time let pass where a plan waits for it: retention takes longer.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(2);

/// More steps than any test needs: a loop of writes ends the test.
const MOST_STEPS: usize = 20_000;

pub(crate) fn settings() -> Settings {
    Settings {
        system_namespace: SYSTEM.into(),
        root_namespace: "istio-system".into(),
        default_mode: Mode::Off,
        default_fallback: Fallback::Gateway,
        has_gateway: true,
        gateway_passes_on: true,
        excluded_namespaces: [SYSTEM, "istio-system", "kube-system"].map(Name::from).into(),
        namespace_selector: Selector::default(),
        settle_time: SignedDuration::from_secs(1),
        baseline: Vec::new(),
        aliases: Vec::new(),
        pod_cidrs: [].into(),
        expire_after: SignedDuration::from_hours(336),
        retention: SignedDuration::from_hours(720),
        reads_history: false,
    }
}

/// The world.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) now: Timestamp,
    pub(crate) objects: BTreeMap<(Kind, Name, Name), Value>,
    /// Every write, in order, as `verb Kind namespace/name`.
    pub(crate) writes: Vec<String>,
    pub(crate) said: Vec<(FenceKey, Said)>,
    /// Changes that did not come from our writes, for replay.
    pub(crate) history: Vec<Change>,
    due: BTreeSet<(Timestamp, Target)>,
    version: u64,
    next_ip: u32,
}

impl World {
    /// A mesh with a ready gateway and nothing else.
    pub(crate) fn new() -> Self {
        Self::with(settings())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let mut world = Self {
            engine: Engine::new(settings),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            objects: BTreeMap::new(),
            writes: Vec::new(),
            said: Vec::new(),
            history: Vec::new(),
            due: BTreeSet::new(),
            version: 0,
            next_ip: 0x0a60_0001,
        };
        world.apply(Change::ServiceCidrs(["10.96.0.0/16".parse().unwrap()].into()));
        world.apply(Change::GatewayReady(true));
        world.namespace(SYSTEM, None);
        world
    }

    /// Something happens in the cluster.
    pub(crate) fn apply(&mut self, change: Change) {
        self.history.push(change.clone());
        self.take_in(change);
    }

    fn touch(&mut self, change: Change) {
        let dirty = self.engine.apply(change, self.now);
        self.due
            .extend(dirty.targets.into_iter().map(|target| (self.now, target)));
    }

    fn take_in(&mut self, change: Change) {
        let of_fence = match &change {
            Change::Fence(key, fence) => Some((key.namespace.clone(), fence.is_some())),
            _ => None,
        };
        // Pods are watched where there are fences.
        if let Some((namespace, true)) = &of_fence {
            self.touch(Change::PodsKnown(namespace.clone(), true));
        }
        self.touch(change);
        if let Some((namespace, false)) = of_fence
            && self.engine.fences_in(&namespace).next().is_none()
        {
            self.touch(Change::PodsKnown(namespace, false));
        }
    }

    pub(crate) fn namespace(&mut self, name: &str, mode: Option<&str>) {
        self.namespace_with(name, mode, &[]);
    }

    pub(crate) fn namespace_with(&mut self, name: &str, mode: Option<&str>, labels: &[(&str, &str)]) {
        let facts = NamespaceFacts {
            mode: Asks::parse(mode),
            fallback: Asks::parse(
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
            proxied: true,
            ..PodFacts::default()
        };
        self.apply(Change::Pod(PodKey::new(namespace, name), Some(facts)));
    }

    /// An Istio object, or a fence, as a user writes it.
    #[allow(clippy::needless_pass_by_value, reason = "tests write json!(…) in place")]
    pub(crate) fn object(&mut self, kind: &str, namespace: &str, name: &str, spec: Value) {
        self.version += 1;
        let created = self.now + SignedDuration::from_secs(i64::try_from(self.version).unwrap());
        let object = dynamic(
            kind,
            json!({
                "metadata": {
                    "namespace": namespace, "name": name, "uid": format!("uid-{kind}-{name}"), "generation": 1,
                    "creationTimestamp": created.to_string(),
                },
                "spec": spec,
            }),
        );
        self.apply(object.observe(SYSTEM).unwrap());
    }

    pub(crate) fn gone(&mut self, watched: Watched, namespace: &str, name: &str) {
        self.apply(watched.gone(namespace, name, SYSTEM));
        // Kubernetes deletes what a fence owns along with it.
        let sidecar = super::render::sidecar_name(name);
        let owned = (Kind::Sidecar, namespace.into(), sidecar.as_str().into());
        if watched == Watched::ServiceFences && self.objects.remove(&owned).is_some() {
            self.take_in(Watched::Sidecars.gone(namespace, &sidecar, SYSTEM));
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

    fn forget(&mut self, key: &FenceKey, hosts: &[Name]) {
        let mut fence = (*self.engine.fence(key).unwrap().resource).clone();
        let status = fence.status.as_mut().unwrap();
        status
            .learned
            .retain(|learned| !hosts.iter().any(|host| **host == *learned.host));
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        self.writes.push(format!("forget {key} {}", hosts.join(",")));
        status.forgot = Some(Forgot { at: self.now, hosts });
        self.take_in(Change::Fence(key.clone(), Some(Arc::new(fence))));
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
        let from = self.writes.len();
        let until = self.now + LONGEST_WAIT;
        for _ in 0..MOST_STEPS {
            let next = self.due.first().cloned().filter(|(at, _)| *at <= until);
            let Some((at, target)) = next else {
                return &self.writes[from..];
            };
            self.due.remove(&(at, target.clone()));
            self.now = self.now.max(at);
            self.reconcile(&target);
        }
        panic!(
            "writes never end: {:?}",
            &self.writes[self.writes.len().saturating_sub(10)..]
        );
    }

    /// Carries out what is due now, and no more.
    pub(crate) fn step(&mut self) -> Vec<String> {
        let from = self.writes.len();
        while let Some((at, target)) = self.due.first().cloned().filter(|(at, _)| *at <= self.now) {
            self.due.remove(&(at, target.clone()));
            self.reconcile(&target);
        }
        self.writes[from..].to_vec()
    }

    /// The hourly round of the reconciler.
    pub(crate) fn resync(&mut self) {
        let fences = self.engine.fences().map(|(key, _)| Target::Fence(key.clone()));
        self.due
            .extend(fences.map(|target| (self.now, target)).collect::<Vec<_>>());
    }

    pub(crate) fn pass(&mut self, time: SignedDuration) {
        self.now += time;
    }

    fn reconcile(&mut self, target: &Target) {
        let mut again_at = None;
        match target {
            Target::Fence(key) => {
                let Some(plan) = self.engine.plan_fence(key, self.now) else {
                    return;
                };
                self.carry_out(plan.sidecar);
                if !plan.forget.is_empty() {
                    self.forget(key, &plan.forget);
                }
                if plan.delete {
                    self.write(Write::Delete(
                        Kind::ServiceFence,
                        key.namespace.clone(),
                        key.name.clone(),
                    ));
                }
                if let Some(mut status) = plan.status {
                    self.writes.push(format!("status {key}"));
                    let mut fence = (*self.engine.fence(key).unwrap().resource).clone();
                    // These have another writer.
                    let before = fence.status.unwrap_or_default();
                    (status.learned, status.forgot) = (before.learned, before.forgot);
                    fence.status = Some(status);
                    self.take_in(Change::Fence(key.clone(), Some(Arc::new(fence))));
                }
                self.said.extend(plan.said.map(|said| (key.clone(), said)));
                again_at = plan.again_at;
            }
            Target::Namespace(name) => {
                let plan = self.engine.plan_namespace(name, self.now);
                self.carry_out(plan.writes);
                again_at = plan.again_at;
            }
            Target::Routes(namespace) => {
                let plan = self.engine.plan_routes(namespace, self.now);
                again_at = plan.again_at;
                if plan.taken.is_empty() {
                    self.carry_out(plan.writes);
                }
            }
            Target::Ports => {
                let plan = self.engine.plan_ports();
                self.carry_out(plan.write);
            }
        }
        self.due.extend(again_at.map(|at| (at, target.clone())));
    }

    fn carry_out(&mut self, writes: impl IntoIterator<Item = Write>) {
        for write in writes {
            self.write(write);
        }
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::Apply(Object {
                kind,
                namespace,
                name,
                mut body,
            }) => {
                self.writes
                    .push(format!("apply {} {namespace}/{name}", kind.as_str()));
                if kind == Kind::ServiceFence {
                    self.version += 1;
                    let created = self.now + SignedDuration::from_secs(i64::try_from(self.version).unwrap());
                    merge(
                        &mut body,
                        &json!({"metadata": {
                            "uid": format!("uid-{name}"), "generation": 1, "creationTimestamp": created.to_string(),
                        }}),
                    );
                }
                self.objects.insert((kind, namespace, name), body.clone());
                let change = observe(kind, body);
                self.take_in(change);
            }
            Write::Delete(kind, namespace, name) => {
                self.writes
                    .push(format!("delete {} {namespace}/{name}", kind.as_str()));
                self.objects.remove(&(kind, namespace.clone(), name.clone()));
                self.take_in(Watched::of(kind).gone(&namespace, &name, SYSTEM));
            }
        }
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
