//! The plans of what the whole mesh shares: the gateway's routes and the placeholder Service.

use std::collections::BTreeSet;

use jiff::Timestamp;
use servicefence_crd::{Mode, names};

use crate::engine::{Engine, Fence};
use crate::facts::Written;
use crate::name::ours::namespace_of_routes;
use crate::name::{FenceKey, Fingerprint, Name, ServiceKey};
use crate::plan::target::{Rank, Target};
use crate::render::{self, Carry, Kind, NotCarried, Object, Write};

/// What to do for the routes to one namespace's Services.
#[derive(Debug, Default)]
pub struct RoutesPlan {
    /// The writes; none when all is as it must be.
    pub writes: Vec<Write>,
    /// The users' rules that first calls do not follow.
    pub not_carried: BTreeSet<NotCarried>,
    /// Object names that somebody else has.
    pub taken: Vec<Name>,
    /// What Istio may refuse and take without the rules of Gateway API; `None`: these are left out.
    pub whole: Option<Vec<Fingerprint>>,
    /// When the passing of time alone may change this plan.
    pub again_at: Option<Timestamp>,
}

/// What to do for the placeholder Service.
#[derive(Debug, Default)]
pub struct PortsPlan {
    /// The write, if any.
    pub write: Option<Write>,
    /// Somebody else has its name.
    pub taken: bool,
}

impl Engine {
    /// The plan of the routes to a namespace's Services; without the rules of Gateway API where Istio refused these very
    /// routes with them.
    pub fn plan_routes(&self, namespace: &Name, now: Timestamp) -> RoutesPlan {
        let fingerprints =
            |routes: &render::Routes| -> Vec<_> { routes.objects.iter().map(Object::fingerprint).collect() };
        let mut routes = self.rendered_routes(namespace, Carry::All, now);
        let mut are = fingerprints(&routes);
        let is_refused = self.routes_refused.get(namespace) == Some(&are);
        if is_refused {
            routes = self.rendered_routes(namespace, Carry::VirtualServices, now);
            are = fingerprints(&routes);
        }
        let mut plan = RoutesPlan {
            not_carried: routes.not_carried,
            again_at: self.arrivals.next(namespace, now),
            ..RoutesPlan::default()
        };
        let mut wanted = BTreeSet::new();
        for (object, fingerprint) in routes.objects.into_iter().zip(&are) {
            wanted.insert(object.name.clone());
            match self.routes.get(&object.name) {
                Some(is) if !is.ours => plan.taken.push(object.name.clone()),
                Some(is) if is.fingerprint == *fingerprint => {}
                _ => plan.writes.push(Write::Apply(object)),
            }
        }
        for (name, is) in self.written_routes(namespace) {
            if is.ours && !wanted.contains(name) {
                let system = self.settings.system_namespace.clone();
                plan.writes
                    .push(Write::Delete(Kind::VirtualService, system, name.clone()));
            }
        }
        plan.whole = (!is_refused).then_some(are);
        plan
    }

    /// How a target compares with others that are due.
    pub fn rank(&self, target: &Target) -> Rank {
        match target {
            Target::Ports => Rank::Urgent,
            Target::Namespace(namespace)
                if self
                    .fences_in(namespace)
                    .any(|(key, fence)| self.waits(key, fence)) =>
            {
                Rank::Urgent
            }
            Target::Fence(key) if self.fences.get(key).is_some_and(|fence| self.waits(key, fence)) => {
                Rank::Urgent
            }
            Target::Routes(namespace) if self.adds_no_rule(namespace) => Rank::Idle,
            Target::Namespace(_) | Target::Fence(_) | Target::Routes(_) => Rank::Normal,
        }
    }

    /// Whether a fence is to get its first Sidecar.
    fn waits(&self, key: &FenceKey, fence: &Fence) -> bool {
        self.mode(key, fence) == Mode::Enforce && self.own_sidecar(key).is_none()
    }

    /// Whether a namespace's first routes add nothing to what the gateway does by itself: the gateway passes on what it has no
    /// rule for, and no user has rules for these Services.
    fn adds_no_rule(&self, namespace: &Name) -> bool {
        let mut hosts = self.registry.services_in(namespace).map(|(key, _)| key.host());
        let has_rules = |host: Name| {
            self.registry.has_destination_rule(&host) || self.registry.rules_of_host(&host).next().is_some()
        };
        self.settings.gateway_passes_on
            && self.written_routes(namespace).next().is_none()
            && !hosts.any(has_rules)
    }

    /// The objects that hold a namespace's routes, or have a name of such.
    fn written_routes(&self, namespace: &Name) -> impl Iterator<Item = (&Name, &Written)> {
        self.routes
            .iter()
            .filter(move |(name, _)| namespace_of_routes(name).is_some_and(|of| of == *namespace))
    }

    fn rendered_routes(&self, namespace: &Name, carry: Carry, now: Timestamp) -> render::Routes {
        if !self.settings.has_gateway {
            return render::Routes::default();
        }
        let is_known = |service: &ServiceKey, port: u16| !self.arrivals.is_new(service, port, now);
        let system = &self.settings.system_namespace;
        render::routes(&self.registry, system, namespace, carry, is_known)
    }

    /// The plan of the placeholder Service.
    pub fn plan_ports(&self) -> PortsPlan {
        let taken = self.ports.as_ref().is_some_and(|is| !is.ours);
        PortsPlan {
            write: self.ports_write().filter(|_| !taken),
            taken,
        }
    }

    pub(crate) fn ports_write(&self) -> Option<Write> {
        let numbers = self.registry.placeholder_ports();
        if numbers.is_empty() {
            // A Service must have a port, and a mesh without HTTP has no miss to recognise.
            let system = self.settings.system_namespace.clone();
            return self
                .ports
                .as_ref()
                .map(|_| Write::Delete(Kind::Service, system, names::PORTS.into()));
        }
        let object = render::ports(&self.settings.system_namespace, &numbers);
        let same = self
            .ports
            .as_ref()
            .is_some_and(|is| is.ours && is.fingerprint == object.fingerprint());
        (!same).then_some(Write::Apply(object))
    }

    /// How many objects each kind of ours has, for the metrics.
    pub fn written(&self) -> impl Iterator<Item = (Kind, usize)> {
        let sidecars = self.sidecars.values().filter(|sidecar| sidecar.ours).count();
        [
            (Kind::ServiceFence, self.fences.len()),
            (Kind::Sidecar, sidecars),
            (Kind::VirtualService, self.routes.len()),
            (Kind::EnvoyFilter, self.envoy_filters.len()),
            (Kind::Service, usize::from(self.ports.is_some())),
        ]
        .into_iter()
    }
}
