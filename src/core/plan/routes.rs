//! The plan of the gateway's routes to a namespace's Services.

use std::collections::BTreeSet;

use crate::name::{Name, ServiceKey};
use crate::plan::planning::Planning;
use crate::plan::plans::RoutesPlan;
use crate::render::{self, Carry, Kind, Object, Write};

impl Planning<'_> {
    /// The plan of the routes to a namespace's Services; without the rules of Gateway API where Istio refused
    /// these very routes with them.
    pub fn plan_routes(self, namespace: &Name) -> RoutesPlan {
        let fingerprints =
            |routes: &render::Routes| -> Vec<_> { routes.objects.iter().map(Object::fingerprint).collect() };
        let mut routes = self.rendered_routes(namespace, Carry::All);
        let mut are = fingerprints(&routes);
        let is_refused = self.written.routes_refused.get(namespace) == Some(&are);
        if is_refused {
            routes = self.rendered_routes(namespace, Carry::VirtualServices);
            are = fingerprints(&routes);
        }
        let mut plan = RoutesPlan {
            not_carried: routes.not_carried,
            again_at: self.written.arrivals.next(namespace, self.now),
            ..RoutesPlan::default()
        };
        let mut wanted = BTreeSet::new();
        for (object, fingerprint) in routes.objects.into_iter().zip(&are) {
            wanted.insert(object.name.clone());
            match self.written.routes.get(&object.name) {
                Some(is) if !is.ours => plan.taken.push(object.name.clone()),
                Some(is) if is.fingerprint == *fingerprint => {}
                _ => plan.writes.push(Write::Apply(object)),
            }
        }
        for (name, is) in self.written.routes_of(namespace) {
            if is.ours && !wanted.contains(name) {
                let system = self.settings.system_namespace.clone();
                plan.writes
                    .push(Write::Delete(Kind::VirtualService, system, name.clone()));
            }
        }
        plan.whole = (!is_refused).then_some(are);
        plan
    }

    fn rendered_routes(self, namespace: &Name, carry: Carry) -> render::Routes {
        if !self.settings.has_gateway {
            return render::Routes::default();
        }
        let is_known =
            |service: &ServiceKey, port: u16| !self.written.arrivals.is_new(service, port, self.now);
        render::routes(self.mesh, self.settings, namespace, carry, is_known)
    }
}
