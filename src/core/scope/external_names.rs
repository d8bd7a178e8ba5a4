//! ExternalNames. istiod takes calls to one for calls to the host that it stands for, where a Sidecar imports
//! its name beside the host, from the host's namespace (`matchingAliasService`).

use std::collections::BTreeSet;

use crate::name::{Name, ScopeHost, ServiceKey};
use crate::scope::because::Because;
use crate::scope::hosts::Scope;
use crate::scope::scoping::Scoping;
use crate::scope::why::Why;
use crate::workloads::Fence;

impl Scoping<'_> {
    /// Adds the hosts for which ExternalNames of the scope stand, and the ExternalNames of its hosts.
    pub(super) fn add_external_names(self, fence: &Fence, scope: &mut Scope) {
        let services = &self.mesh.services;
        if !services.have_external_names() {
            return;
        }
        let namespace = &fence.key.namespace;
        let hosts = scope.hosts.keys();
        let meant: BTreeSet<Name> = hosts
            .clone()
            .flat_map(|host| self.mesh.brought_by(namespace, host))
            .filter_map(|service| services.meant_by(&service))
            .filter(|host| !fence.owner_rules.denies(host))
            .collect();
        // Of a rule's destination istiod finds what it stands for where it is imported by itself, from its
        // own namespace (`GetDestinationCluster`).
        let led_to = hosts.flat_map(|host| self.mesh.led_to(namespace, host));
        let led_to = led_to.filter(|name| services.meant_by(name).is_some());
        let led_to: BTreeSet<ScopeHost> = led_to.map(ServiceKey::scope_host).collect();
        scope.extend(Why::ExternalName, led_to);
        for host in &meant {
            let imports = self.mesh.service_entries.imports_for(namespace, host);
            scope.extend(Why::ExternalName, imports);
        }
        let names = scope.hosts.keys().flat_map(|host| {
            let names = services.external_names_of(&host.name).into_iter();
            names.map(|name| ScopeHost {
                namespace: host.namespace.clone(),
                name: name.host(),
            })
        });
        let names: Vec<_> = names.collect();
        scope.extend(Why::ExternalName, names);
    }

    /// Which ExternalNames stand for a host, or what it stands for.
    pub(super) fn because_of_external_names(self, host: &ScopeHost) -> Vec<Because> {
        let services = &self.mesh.services;
        let meant = ServiceKey::of_host(&host.name).and_then(|service| services.meant_by(&service));
        let detail = if let Some(meant) = meant {
            format!("it is an ExternalName: calls to it are calls to {meant}, which is in scope")
        } else {
            let names = services.external_names_of(&host.name).into_iter();
            let names: Vec<_> = names.map(ToString::to_string).collect();
            format!("an ExternalName in scope stands for it: {}", names.join(", "))
        };
        vec![Because::new("Alias", detail)]
    }
}
