//! What an Envoy knows and did, from its admin interface inside the pod.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::admin::{self, Page};
use crate::mesh::Mesh;
use crate::mesh::core::Core;
use crate::netns::Sockets;
use crate::wait::until;

const ADMIN_PORT: u16 = 15000;

/// The admin interface of one proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    sockets: Sockets,
    /// Where its admin interface is.
    loopback: IpAddr,
    pod: String,
}

/// The size of a proxy's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyFigures {
    /// Active clusters, Envoy's own ones included.
    pub clusters: u64,
    /// Hosts of all clusters.
    pub endpoints: u64,
    /// Active listeners.
    pub listeners: u64,
    /// Bytes that Envoy has allocated.
    pub allocated_bytes: u64,
}

/// What went to one cluster since the proxy started, over all its hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests; of TCP none.
    pub requests: u64,
    /// Requests that failed.
    pub failed_requests: u64,
    /// Connections that were made.
    pub connections: u64,
    /// Connections that could not be made.
    pub failed_connections: u64,
}

/// Bytes of one cluster: sent, received.
pub(crate) type SentReceived = [u64; 2];

/// Traffic by cluster name.
pub type TrafficByCluster = BTreeMap<String, Traffic>;

/// The clusters that a call went to, by the counters before and after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken(pub TrafficByCluster);

impl Taken {
    /// Whether a cluster of this host was used: `reviews.books.svc.cluster.local`, or any part of a cluster's
    /// name.
    pub fn uses(&self, part: &str) -> bool {
        self.0.keys().any(|cluster| cluster.contains(part))
    }

    /// Whether the fallback gateway was used.
    pub fn fallback(&self) -> bool {
        self.uses("servicefence-fallback")
    }

    /// Whether something was passed through to its original address.
    pub fn passthrough(&self) -> bool {
        self.uses("PassthroughCluster")
    }
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return write!(f, "no cluster of the caller's proxy");
        }
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        write!(f, "{}", names.join(", "))
    }
}

impl Mesh {
    /// The proxy of a pod.
    pub fn proxy(&self, pod: &str) -> Result<Proxy> {
        Proxy::of(self.core(), pod)
    }

    /// Waits until the proxy of a pod knows a cluster with `part` in its name (or, with `false`, no longer
    /// knows it).
    pub async fn wait_cluster(&self, pod: &str, part: &str, known: bool) -> Result<()> {
        let proxy = self.proxy(pod)?;
        until(
            format!("the proxy of {pod} and cluster {part}"),
            Duration::from_secs(30),
            || async {
                let found = proxy.clusters().await?.iter().any(|name| name.contains(part));
                ensure!(
                    found == known,
                    "it {} it",
                    if found { "still knows" } else { "does not know" }
                );
                Ok(())
            },
        )
        .await
    }
}

impl Proxy {
    pub(crate) fn of(core: &Core, pod: &str) -> Result<Self> {
        let record = core.pod(pod)?;
        ensure!(record.proxied, "pod {pod} has no proxy");
        Ok(Self {
            sockets: core.sockets(&record.netns())?,
            loopback: core.families.loopback(),
            pod: pod.to_owned(),
        })
    }

    /// Any page of the admin interface.
    pub async fn get(&self, path: &str) -> Result<Page> {
        let address = SocketAddr::new(self.loopback, ADMIN_PORT);
        let socket = self.sockets.tcp_to(address).await?;
        let page = admin::get_over(socket, address, path)
            .await
            .with_context(|| format!("the proxy of {}", self.pod))?;
        ensure!(
            page.status == 200,
            "the proxy of {} answers {} to GET {path}",
            self.pod,
            page.status
        );
        Ok(page)
    }

    async fn json(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.get(path).await?.body)?)
    }

    /// The whole configuration, secrets left out as Envoy does.
    pub async fn config_dump(&self) -> Result<Value> {
        self.json("/config_dump").await
    }

    /// The names of all clusters.
    pub async fn clusters(&self) -> Result<Vec<String>> {
        let text = self.get("/clusters").await?.text();
        let mut names: Vec<String> = text
            .lines()
            .filter_map(|line| line.split_once("::"))
            .map(|(name, _)| name.to_owned())
            .collect();
        names.dedup();
        Ok(names)
    }

    /// The names of all listeners.
    pub async fn listeners(&self) -> Result<Vec<String>> {
        let text = self.get("/listeners").await?.text();
        Ok(text
            .lines()
            .filter_map(|line| line.split_once("::"))
            .map(|(name, _)| name.to_owned())
            .collect())
    }

    /// Counters and gauges by name. `filter` is a regular expression; Istio keeps only some of Envoy's
    /// statistics.
    pub async fn stats(&self, filter: &str) -> Result<BTreeMap<String, u64>> {
        let text = self
            .get(&format!("/stats?filter={}", percent(filter)))
            .await?
            .text();
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        Ok(pairs
            .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
            .collect())
    }

    /// One counter or gauge; 0 while Envoy has not made it.
    pub async fn stat(&self, name: &str) -> Result<u64> {
        let exactly = format!("^{}$", name.replace('.', "\\.").replace('|', "\\|"));
        Ok(self.stats(&exactly).await?.get(name).copied().unwrap_or_default())
    }

    /// The size of its configuration.
    pub async fn figures(&self) -> Result<ProxyFigures> {
        let (text, listeners, memory) =
            tokio::try_join!(self.get("/clusters"), self.listeners(), self.json("/memory"))?;
        let text = text.text();
        let endpoints = text.lines().filter(|line| line.contains("::rq_total::")).count();
        let clusters = text
            .lines()
            .filter(|line| line.contains("::observability_name::"))
            .count();
        Ok(ProxyFigures {
            clusters: clusters as u64,
            endpoints: endpoints as u64,
            listeners: listeners.len() as u64,
            allocated_bytes: memory["allocated"]
                .as_str()
                .and_then(|bytes| bytes.parse().ok())
                .unwrap_or_default(),
        })
    }

    /// What went where. From the counters of each host, which Envoy keeps whatever Istio's statistics filter
    /// says.
    pub async fn traffic(&self) -> Result<TrafficByCluster> {
        Ok(traffic(&self.get("/clusters").await?.text()))
    }

    /// The bytes of each cluster, where the `proxyStatsMatcher` of its configuration keeps them.
    pub(crate) async fn bytes(&self) -> Result<BTreeMap<String, SentReceived>> {
        let mut all: BTreeMap<String, SentReceived> = BTreeMap::new();
        for (at, direction) in ["tx", "rx"].into_iter().enumerate() {
            let counter = format!("upstream_cx_{direction}_bytes_total");
            for (name, value) in self.stats(&format!("^cluster\\..*{counter}$")).await? {
                let cluster = name.strip_prefix("cluster.").unwrap_or_default();
                let cluster = cluster.trim_end_matches(&counter).trim_end_matches(['.', ';']);
                all.entry(cluster.to_owned()).or_default()[at] = value;
            }
        }
        Ok(all)
    }

    /// What went where since `before`.
    pub async fn taken_since(&self, before: &TrafficByCluster) -> Result<Taken> {
        Ok(Taken(difference(before, &self.traffic().await?)))
    }
}

fn traffic(text: &str) -> TrafficByCluster {
    let mut all = TrafficByCluster::new();
    for line in text.lines() {
        let Some((rest, value)) = line.rsplit_once("::") else {
            continue;
        };
        let Some((rest, name)) = rest.rsplit_once("::") else {
            continue;
        };
        let (Some((cluster, _)), Ok(value)) = (rest.split_once("::"), value.parse::<u64>()) else {
            continue;
        };
        if cluster.starts_with("inbound") || cluster.starts_with("Inbound") || value == 0 {
            continue;
        }
        let entry = match name {
            "rq_total" | "rq_error" | "cx_total" | "cx_connect_fail" => {
                all.entry(cluster.to_owned()).or_default()
            }
            _ => continue,
        };
        match name {
            "rq_total" => entry.requests += value,
            "rq_error" => entry.failed_requests += value,
            "cx_total" => entry.connections += value,
            _ => entry.failed_connections += value,
        }
    }
    all
}

/// What is more in `after`. Envoy's own streams to istiod and its agent are not the app's.
pub(crate) fn difference(before: &TrafficByCluster, after: &TrafficByCluster) -> TrafficByCluster {
    const OWN: [&str; 4] = ["xds-grpc", "sds-grpc", "agent", "prometheus_stats"];
    let mut more = TrafficByCluster::new();
    for (cluster, now) in after
        .iter()
        .filter(|(cluster, _)| !OWN.contains(&cluster.as_str()))
    {
        let then = before.get(cluster).copied().unwrap_or_default();
        let delta = Traffic {
            requests: now.requests.saturating_sub(then.requests),
            failed_requests: now.failed_requests.saturating_sub(then.failed_requests),
            connections: now.connections.saturating_sub(then.connections),
            failed_connections: now.failed_connections.saturating_sub(then.failed_connections),
        };
        if delta != Traffic::default() {
            more.insert(cluster.clone(), delta);
        }
    }
    more
}

pub(crate) fn percent(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if keep(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTERS: &str = "\
outbound|8080||reviews.b.svc.cluster.local::observability_name::outbound|8080||reviews.b.svc.cluster.local
outbound|8080||reviews.b.svc.cluster.local::10.1.0.11:8080::cx_total::2
outbound|8080||reviews.b.svc.cluster.local::10.1.0.11:8080::rq_total::5
outbound|8080||reviews.b.svc.cluster.local::10.1.0.12:8080::rq_total::3
inbound|8080||::10.1.0.10:8080::rq_total::9
xds-grpc::127.0.0.1:0::rq_total::1
PassthroughCluster::10.2.0.10:80::cx_total::1";

    #[test]
    fn traffic_is_the_sum_over_the_hosts_of_a_cluster() {
        let found = traffic(CLUSTERS);
        let reviews = found["outbound|8080||reviews.b.svc.cluster.local"];
        assert_eq!((reviews.requests, reviews.connections), (8, 2));
        assert!(!found.contains_key("inbound|8080||"));
    }

    #[test]
    fn what_was_taken_is_what_is_more() {
        let before = traffic(CLUSTERS);
        let after = traffic(&CLUSTERS.replace("10.1.0.12:8080::rq_total::3", "10.1.0.12:8080::rq_total::4"));
        let taken = Taken(difference(&before, &after));
        assert!(taken.uses("reviews.b") && !taken.passthrough() && !taken.fallback());
        assert_eq!(taken.0.len(), 1);
    }
}
