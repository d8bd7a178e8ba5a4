//! Pure: from Services and EndpointSlices to iptables rules and hosts lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::{Deserialize, Serialize};

use super::BACKGROUND_LABEL;
use crate::addresses::node_beside;
use crate::interception::Family;

/// What is in force: every Service of the mesh that can be called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    /// By `namespace/name`.
    services: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// One of each family; none of a headless Service.
    cluster_ips: Vec<String>,
    /// Ready endpoints (address, port) by Service port, of all families.
    ports: BTreeMap<i32, Vec<(String, i32)>>,
    /// The ready addresses of the Service's first family.
    addresses: Vec<String>,
}

impl Table {
    /// Of all Services and slices; `is_real` tells the addresses that exist here.
    pub(super) fn of<'a>(
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
        is_real: &impl Fn(&str) -> bool,
    ) -> Self {
        let mut by_service: BTreeMap<String, Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in slices {
            let label = slice
                .metadata
                .labels
                .as_ref()
                .and_then(|all| all.get("kubernetes.io/service-name"));
            if let (Some(namespace), Some(service)) = (&slice.metadata.namespace, label) {
                by_service
                    .entry(format!("{namespace}/{service}"))
                    .or_default()
                    .push(slice);
            }
        }
        let mut table = Self::default();
        for service in services {
            let metadata = &service.metadata;
            let background = metadata
                .labels
                .as_ref()
                .is_some_and(|all| all.contains_key(BACKGROUND_LABEL));
            let (Some(namespace), Some(name), false) = (&metadata.namespace, &metadata.name, background)
            else {
                continue;
            };
            let key = format!("{namespace}/{name}");
            let slices = by_service.remove(&key).unwrap_or_default();
            table.services.insert(key, Entry::of(service, &slices, is_real));
        }
        table
    }

    /// How many ready endpoints a Service has.
    pub(super) fn endpoints(&self, service: &str) -> Option<usize> {
        Some(self.services.get(service)?.addresses.len())
    }

    /// The chain `VIP` for `iptables-restore --noflush`: naming a chain empties it, all in one step.
    pub(super) fn iptables(&self, family: Family) -> String {
        let mut text = "*nat\n:VIP - [0:0]\n".to_owned();
        let here = |ip: &&String| Family::of(ip) == family;
        for entry in self.services.values() {
            let Some(ip) = entry.cluster_ips.iter().find(here) else {
                continue;
            };
            for (port, endpoints) in &entry.ports {
                let endpoints = endpoints.iter().filter(|(address, _)| here(&address));
                let numbered: Vec<_> = (1_u32..).zip(endpoints).collect();
                for (left, (address, target)) in numbered.into_iter().rev() {
                    // Each rule takes its share of what the rules before it left over.
                    let share = match left {
                        1 => String::new(),
                        _ => format!(
                            " -m statistic --mode random --probability {:.6}",
                            1.0 / f64::from(left)
                        ),
                    };
                    let to = match family {
                        Family::V4 => format!("{address}:{target}"),
                        Family::V6 => format!("[{address}]:{target}"),
                    };
                    let _ = writeln!(
                        text,
                        "-A VIP -p tcp -d {ip} --dport {port}{share} -j DNAT --to-destination {to}"
                    );
                }
            }
        }
        text + "COMMIT\n"
    }

    /// The node's address, of the family of the API server's Service.
    fn node(&self) -> &'static str {
        let api = self.services.get("default/kubernetes");
        let ip = api.and_then(|entry| entry.cluster_ips.first());
        node_beside(ip.map_or("", String::as_str))
    }

    /// A hosts file for processes at home in the Kubernetes namespace `home`.
    pub(super) fn hosts(&self, home: &str, externals: &BTreeMap<String, String>) -> String {
        let mut text = format!("127.0.0.1 localhost\n{} istiod.istio-system.svc\n", self.node());
        for (key, entry) in &self.services {
            let Some((namespace, name)) = key.split_once('/') else {
                continue;
            };
            if key == "istio-system/istiod" {
                continue;
            }
            let short = if namespace == home {
                format!(" {name}")
            } else {
                String::new()
            };
            let is_headless = entry.cluster_ips.is_empty();
            let addresses = if is_headless {
                &entry.addresses
            } else {
                &entry.cluster_ips
            };
            for address in addresses {
                let full = format!("{name}.{namespace}.svc");
                let _ = writeln!(
                    text,
                    "{address} {full}.cluster.local {full} {name}.{namespace}{short}"
                );
            }
        }
        for (name, address) in externals {
            let _ = writeln!(text, "{address} {name}");
        }
        text
    }
}

/// How many pods the selector of a Service selects that take calls; none without a selector.
pub(super) fn selected(service: &Service, pods: &[Pod]) -> Option<usize> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref().filter(|it| !it.is_empty())?;
    let all = spec.publish_not_ready_addresses == Some(true);
    let chosen = pods.iter().filter(|pod| {
        let labels = pod.metadata.labels.as_ref();
        let ready = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let is_ready =
            ready.is_some_and(|them| them.iter().any(|it| it.type_ == "Ready" && it.status == "True"));
        pod.metadata.namespace == service.metadata.namespace
            && (all || is_ready)
            && selector
                .iter()
                .all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
    });
    Some(chosen.count())
}

impl Entry {
    fn of(service: &Service, slices: &[&EndpointSlice], is_real: &impl Fn(&str) -> bool) -> Self {
        let spec = service.spec.as_ref();
        let one = spec.and_then(|spec| spec.cluster_ip.as_ref());
        let all = spec
            .and_then(|spec| spec.cluster_ips.as_ref())
            .into_iter()
            .flatten();
        let ips: BTreeSet<&String> = all.chain(one).collect();
        let ips = ips.into_iter().filter(|ip| !ip.is_empty() && *ip != "None");
        let mut entry = Self {
            cluster_ips: ips.cloned().collect(),
            ..Self::default()
        };
        let families = spec.and_then(|spec| spec.ip_families.as_ref());
        let is_ipv6 = families.is_some_and(|all| all.first().is_some_and(|family| family == "IPv6"));
        let first_family = if is_ipv6 { Family::V6 } else { Family::V4 };
        for slice in slices {
            let addresses: Vec<&String> = slice
                .endpoints
                .iter()
                .flatten()
                .filter(|endpoint| endpoint.conditions.as_ref().and_then(|it| it.ready) != Some(false))
                .filter_map(|endpoint| endpoint.addresses.first())
                .filter(|address| is_real(address))
                .collect();
            let of_the_first = addresses
                .iter()
                .filter(|address| Family::of(address) == first_family);
            entry
                .addresses
                .extend(of_the_first.map(|address| (*address).clone()));
            for port in spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten() {
                let name = port.name.as_deref().unwrap_or_default();
                let target = slice
                    .ports
                    .iter()
                    .flatten()
                    .find(|it| it.name.as_deref().unwrap_or_default() == name)
                    .and_then(|it| it.port);
                let Some(target) = target else { continue };
                let endpoints = addresses.iter().map(|address| ((*address).clone(), target));
                entry.ports.entry(port.port).or_default().extend(endpoints);
            }
        }
        entry.addresses.sort();
        entry.addresses.dedup();
        entry
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[allow(clippy::needless_pass_by_value, reason = "tests write json!(…) in place")]
    fn table(ready: &[&str], labels: serde_json::Value) -> Table {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "reviews", "namespace": "books", "labels": labels},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        }))
        .unwrap();
        let endpoints: Vec<_> = ready.iter().map(|ip| json!({"addresses": [ip]})).collect();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "reviews-1", "namespace": "books", "labels": {"kubernetes.io/service-name": "reviews"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}],
        }))
        .unwrap();
        Table::of([&service], [&slice], &|ip: &str| ip.starts_with("10.1."))
    }

    #[test]
    fn every_endpoint_gets_its_share() {
        let rules = table(&["10.1.0.10", "10.1.0.11"], json!({})).iptables(Family::V4);
        let lines: Vec<&str> = rules.lines().filter(|line| line.starts_with("-A")).collect();
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].contains("-d 10.96.0.7 --dport 80 -m statistic --mode random --probability 0.500000")
        );
        assert!(
            lines[1].ends_with("--dport 80 -j DNAT --to-destination 10.1.0.10:8080"),
            "{}",
            lines[1]
        );
    }

    #[test]
    fn made_up_endpoints_and_background_services_get_no_rule() {
        let unreal = table(&["10.64.0.1"], json!({}));
        assert!(!unreal.iptables(Family::V4).contains("DNAT"));
        assert_eq!(unreal.endpoints("books/reviews"), Some(0));
        let background = table(&["10.1.0.10"], json!({BACKGROUND_LABEL: "true"}));
        assert_eq!(background, Table::default());
    }

    #[test]
    fn short_names_are_for_the_services_own_namespace() {
        let table = table(&["10.1.0.10"], json!({}));
        let externals = BTreeMap::from([("api.example.com".to_owned(), "10.2.0.10".to_owned())]);
        let at_home = table.hosts("books", &externals);
        let full = "10.96.0.7 reviews.books.svc.cluster.local reviews.books.svc reviews.books";
        assert!(at_home.contains(&format!("{full} reviews\n")), "{at_home}");
        assert!(at_home.contains("10.2.0.10 api.example.com\n"));
        assert!(table.hosts("shop", &externals).contains(&format!("{full}\n")));
    }
}
