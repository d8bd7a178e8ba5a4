//! A restart: another engine that is told what exists.

use std::collections::BTreeMap;

use crate::engine::Change;
use crate::observe::observe;
use crate::render::Kind;
use crate::simulate::Simulation;
use crate::simulate::world::{SYSTEM, World};

impl World {
    /// A new engine that is told, in any order, what exists: a restart.
    pub(crate) fn restarted(&self, order: impl Fn(&mut Vec<Change>)) -> Self {
        let mut newest: BTreeMap<String, Change> = BTreeMap::new();
        for change in &self.history {
            newest.insert(identity(change), change.clone());
        }
        newest.retain(|_, change| !matches!(change, Change::Fence(..) | Change::Ready));
        let mut changes: Vec<Change> = newest.into_values().collect();
        // What follows was written by us, and is what is there: another restart must not find it in the
        // history.
        let history = changes.clone();
        for (key, fence) in self.engine.fences() {
            changes.push(Change::Fence(key.clone(), Some(fence.resource.clone())));
        }
        for (_, body) in self
            .objects
            .iter()
            .filter(|((kind, ..), _)| *kind != Kind::ServiceFence)
        {
            changes.push(observe(body.clone(), SYSTEM).unwrap());
        }
        order(&mut changes);
        let mut simulation = Simulation::new(self.engine.settings.clone(), self.now);
        simulation.objects.clone_from(&self.objects);
        simulation.version = self.version;
        let mut world = Self {
            simulation,
            history: Vec::new(),
            next_ip: self.next_ip,
        };
        for change in changes {
            world.apply(change);
        }
        world.apply(Change::Ready);
        world.history = history;
        world
    }
}

/// What a change is about.
fn identity(change: &Change) -> String {
    let text = format!("{change:?}");
    let end = text.find(['{', '[']).unwrap_or(text.len());
    match change {
        Change::GatewayReady(_) => "gateway".to_owned(),
        Change::ServiceCidrs(_) => "cidrs".to_owned(),
        Change::Namespace(name, _) => format!("namespace {name}"),
        Change::Service(key, _) => format!("service {key}"),
        Change::Endpoints(key, _) => format!("endpoints {key}"),
        Change::Pod(key, _) => format!("pod {key}"),
        Change::VirtualService(key, _) => format!("virtualservice {key}"),
        Change::Route(key, _) => key.to_string(),
        Change::ServiceEntry(key, _) => format!("serviceentry {key}"),
        Change::Sidecar(key, _) => format!("sidecar {key}"),
        Change::Policy(key, _) => format!("policy {key}"),
        Change::PeerAuthentication(key, _) => format!("peerauthentication {key}"),
        Change::ProxyCalls(key, _) => key.to_string(),
        _ => text[..end].to_owned(),
    }
}
