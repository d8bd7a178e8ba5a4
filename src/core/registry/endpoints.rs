//! What EndpointSlices tell: how many endpoints Services have, and to which of them an address belongs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Add as _;

use crate::facts::{EndpointsFacts, Visibility};
use crate::name::{Cidr, ConfigKey, ServiceKey};
use crate::registry::{Registry, count};
use crate::savings::Size;

/// All EndpointSlices.
#[derive(Default)]
pub(super) struct Endpoints {
    slices: BTreeMap<ConfigKey, EndpointsFacts>,
    /// Of IPv4 and of IPv6: one endpoint has an address of each in a dual-stack cluster.
    of_service: HashMap<ServiceKey, [u64; 2]>,
    /// The slices that an address stands in: several while endpoints move from one to another, and where Services share
    /// their pods.
    by_address: BTreeSet<(IpAddr, ConfigKey)>,
    /// See [`Registry::pod_ranges`]; how many addresses are in each.
    ranges: BTreeMap<Cidr, usize>,
}

impl Endpoints {
    /// Adds, replaces or removes an EndpointSlice; returns whether pods are in other ranges of addresses now.
    pub(super) fn set(&mut self, key: ConfigKey, facts: Option<EndpointsFacts>) -> bool {
        let mut moves = false;
        // First what comes: a range that stays was never empty.
        for address in facts.iter().flat_map(|facts| &facts.addresses) {
            moves |= count(&mut self.ranges, &range_of(*address), true);
        }
        if let Some(old) = self.slices.remove(&key) {
            if let Some(counts) = self.of_service.get_mut(&old.service) {
                counts[usize::from(old.ipv6)] -= old.ready;
                if *counts == [0, 0] {
                    self.of_service.remove(&old.service);
                }
            }
            for address in old.addresses {
                moves |= count(&mut self.ranges, &range_of(address), false);
                self.by_address.remove(&(address, key.clone()));
            }
        }
        if let Some(new) = facts {
            self.of_service.entry(new.service.clone()).or_default()[usize::from(new.ipv6)] += new.ready;
            let addresses = new.addresses.iter();
            self.by_address
                .extend(addresses.map(|address| (*address, key.clone())));
            self.slices.insert(key, new);
        }
        moves
    }

    /// Whose endpoints a slice is known to have.
    pub(super) fn service_of(&self, key: &ConfigKey) -> Option<&ServiceKey> {
        self.slices.get(key).map(|facts| &facts.service)
    }

    /// The endpoints of a Service.
    pub(super) fn of(&self, service: &ServiceKey) -> u64 {
        let counts = self.of_service.get(service);
        counts.map_or(0, |[ipv4, ipv6]| *ipv4.max(ipv6))
    }

    /// The Services that have a pod at this address.
    pub(super) fn at(&self, address: IpAddr) -> BTreeSet<&ServiceKey> {
        self.by_address
            .range((address, ConfigKey::new("", ""))..)
            .take_while(|(is, _)| *is == address)
            .filter_map(|(_, slice)| self.service_of(slice))
            .collect()
    }
}

/// The range that an address of a pod tells.
fn range_of(address: IpAddr) -> Cidr {
    match address {
        IpAddr::V4(address) => Cidr {
            address: (address & Ipv4Addr::new(0xff, 0xff, 0xf0, 0)).into(),
            prefix: 20,
        },
        IpAddr::V6(address) => Cidr {
            address: (address & Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0, 0, 0, 0, 0)).into(),
            prefix: 48,
        },
    }
}

impl Registry {
    /// Adds, replaces or removes an EndpointSlice; returns whether pods are in other ranges of addresses now.
    pub fn set_endpoints(&mut self, key: &ConfigKey, facts: Option<EndpointsFacts>) -> bool {
        let concerned: BTreeSet<ServiceKey> = self
            .endpoints
            .service_of(key)
            .into_iter()
            .chain(facts.as_ref().map(|facts| &facts.service))
            .cloned()
            .collect();
        let size = |registry: &Self| {
            let seen_by_all = concerned.iter().filter(|service| {
                let facts = registry.services.get(*service);
                facts.is_some_and(|facts| facts.visibility == Visibility::All)
            });
            seen_by_all
                .map(|service| registry.size_of(service))
                .fold(Size::default(), Size::add)
        };
        let before = size(self);
        let moves = self.endpoints.set(key.clone(), facts);
        self.size_for_all = self.size_for_all - before + size(self);
        moves
    }

    /// Whether an EndpointSlice would say something else about where the pods of a Service are.
    pub fn moves_addresses(&self, key: &ConfigKey, facts: Option<&EndpointsFacts>) -> bool {
        let told = |facts: Option<&EndpointsFacts>| -> BTreeSet<(ServiceKey, IpAddr)> {
            let of = |facts: &EndpointsFacts| {
                let addresses = facts.addresses.iter();
                let told: Vec<_> = addresses
                    .map(|address| (facts.service.clone(), *address))
                    .collect();
                told
            };
            facts.map(of).into_iter().flatten().collect()
        };
        told(self.endpoints.slices.get(key)) != told(facts)
    }

    /// The Services that have a pod at an address, and its port: Istio finds a call there by the Host, among the Services
    /// with a port of that number. None where they are of several namespaces: a pod is of one, so somebody claims the
    /// address of a stranger, and nothing tells who. No pod has the address of a Service.
    pub fn by_pod_at(&self, address: SocketAddr) -> BTreeSet<&ServiceKey> {
        let mut all = self.endpoints.at(address.ip());
        all.retain(|key| {
            let facts = self.services.get(*key);
            facts.is_some_and(|facts| facts.has_port(address.port()))
        });
        let namespaces: BTreeSet<_> = all.iter().map(|key| &key.namespace).collect();
        if namespaces.len() > 1 || self.by_address.contains_key(&address.ip()) {
            all.clear();
        }
        all
    }

    /// The ranges in which the addresses of pods are, as far as the pods of Services tell: of each address the first 20 bits,
    /// of IPv6 48. Nodes have ranges of their own, often with 24 bits, of IPv6 64: several of them share one of these.
    pub fn pod_ranges(&self) -> impl Iterator<Item = &Cidr> {
        self.endpoints.ranges.keys()
    }
}
