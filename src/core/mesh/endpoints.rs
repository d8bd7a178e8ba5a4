//! What EndpointSlices tell: how many endpoints Services have, and to which of them an address belongs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::facts::EndpointsFacts;
use crate::mesh::index::count;
use crate::name::{Cidr, ConfigKey, ServiceKey};

/// All EndpointSlices.
#[derive(Default)]
pub struct Endpoints {
    slices: BTreeMap<ConfigKey, EndpointsFacts>,
    /// Of IPv4 and of IPv6: one endpoint has an address of each in a dual-stack cluster.
    of_service: HashMap<ServiceKey, [u64; 2]>,
    /// The slices that an address stands in: several while endpoints move from one to another, and where
    /// Services share their pods.
    by_address: BTreeSet<(IpAddr, ConfigKey)>,
    /// See [`Endpoints::pod_ranges`]; how many addresses are in each.
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

    /// The Service that a slice belongs to.
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
        told(self.slices.get(key)) != told(facts)
    }

    /// The ranges in which the addresses of pods are, as far as the pods of Services tell: of each address
    /// the first 20 bits, of IPv6 48. Nodes have ranges of their own, often with 24 bits, of IPv6 64: several
    /// of them share one of these.
    pub fn pod_ranges(&self) -> impl Iterator<Item = &Cidr> {
        self.ranges.keys()
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
