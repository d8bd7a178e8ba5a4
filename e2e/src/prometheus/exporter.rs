//! Istio's standard metrics of the mesh's proxies, for Prometheus to scrape.
//!
//! The proxies are plain Envoys, without the filter that counts for Istio. What it would count comes from
//! Envoy's own counters of each destination host and from what the proxy says of itself. The names, the
//! labels and the life of the series are Istio's: one appears with the first request, only grows, and begins
//! anew with its proxy.
//! <https://istio.io/latest/docs/reference/config/metrics/>

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::sync::Mutex;

use crate::mesh::core::Core;
use crate::pod::PodRecord;
use crate::proxy::{Proxy, SentReceived, Traffic, TrafficByCluster, difference};

/// Where it listens, in the node's namespace.
pub(super) const ADDRESS: &str = "127.0.0.1:9099";

/// Serves until it is dropped.
pub(super) fn serve(core: Arc<Core>, socket: TcpSocket) -> Result<impl Future<Output = ()>> {
    let address: SocketAddr = ADDRESS.parse()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(64)?;
    let exporter = Arc::new(Exporter {
        core,
        counted: Mutex::default(),
    });
    Ok(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let exporter = Arc::clone(&exporter);
            let service = service_fn(move |request| {
                let exporter = Arc::clone(&exporter);
                async move { Ok::<_, Infallible>(exporter.answer(&request).await) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // Prometheus says itself when a scrape fails.
            tokio::spawn(async move { drop(connection.await) });
        }
    })
}

struct Exporter {
    core: Arc<Core>,
    /// By pod.
    counted: Mutex<BTreeMap<String, Counted>>,
}

/// What the filter of one proxy would have counted.
#[derive(Default)]
struct Counted {
    /// How long the proxy had run.
    uptime: u64,
    /// Envoy's counters, which go with a cluster or a host, while Istio's stay.
    last: TrafficByCluster,
    total: TrafficByCluster,
    /// The same of bytes, of the proxies that count them.
    last_bytes: BTreeMap<String, SentReceived>,
    total_bytes: BTreeMap<String, SentReceived>,
}

impl Exporter {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (kind, result) = match request.uri().path() {
            "/targets" => ("application/json", Ok(self.targets())),
            pod => ("text/plain; version=0.0.4", self.metrics(&pod[1..]).await),
        };
        let (status, text) = match result {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        let kind = http::HeaderValue::from_static(kind);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    /// Every pod with a proxy, as Prometheus' own discovery of pods would label it.
    /// <https://prometheus.io/docs/prometheus/latest/http_sd/>
    fn targets(&self) -> String {
        let pods = PodRecord::all(&self.core.folder);
        let pods = pods.iter().filter(|pod| pod.proxied);
        pods.map(|pod| {
            json!({"targets": [ADDRESS], "labels": {
                "__metrics_path__": format!("/{}", pod.full_name()), "namespace": pod.namespace, "pod": pod.name}})
        })
        .collect::<Value>()
        .to_string()
    }

    async fn metrics(&self, pod: &str) -> Result<String> {
        let proxy = Proxy::of(&self.core, pod)?;
        let info: Value = serde_json::from_slice(&proxy.get("/server_info").await?.body)?;
        let (traffic, bytes) = tokio::try_join!(proxy.traffic(), proxy.bytes())?;
        let (total, bytes) = {
            let mut counted = self.counted.lock().await;
            let counted = counted.entry(pod.to_owned()).or_default();
            counted.add(uptime(&info), traffic, bytes);
            (counted.total.clone(), counted.total_bytes.clone())
        };
        let source = source(&info);
        let mut text = String::new();
        for (cluster, traffic) in &total {
            let Some(destination) = Destination::of(cluster) else {
                continue;
            };
            let is_http = self.is_http(&destination).await?;
            destination.write(&mut text, &source, *traffic, bytes.get(cluster).copied(), is_http);
        }
        Ok(text)
    }

    /// Whether Istio takes a port for one of HTTP, by its name or protocol.
    async fn is_http(&self, destination: &Destination<'_>) -> Result<bool> {
        let Some(port) = destination.port else {
            return Ok(false);
        };
        if destination.is_outside() {
            return self.is_http_outside(destination.host, port).await;
        }
        let api: Api<Service> = Api::namespaced(self.core.client.clone(), destination.namespace());
        let service = api.get_opt(destination.name()).await?;
        let ports = service
            .and_then(|service| service.spec)
            .and_then(|spec| spec.ports);
        let name = ports
            .into_iter()
            .flatten()
            .find(|is| is.port == port)
            .and_then(|is| is.name);
        // The ports of the fallback gateway take both.
        Ok(name.is_none_or(|name| name.starts_with("http") || name.starts_with("grpc")))
    }

    async fn is_http_outside(&self, host: &str, port: i32) -> Result<bool> {
        let kind = GroupVersionKind::gvk("networking.istio.io", "v1", "ServiceEntry");
        let resource = ApiResource::from_gvk_with_plural(&kind, "serviceentries");
        let all: Api<DynamicObject> = Api::all_with(self.core.client.clone(), &resource);
        let entries = all.list(&ListParams::default()).await?.items;
        let list = |entry: &DynamicObject, field: &str| {
            let list = entry.data["spec"][field].as_array();
            list.cloned().unwrap_or_default()
        };
        let of_host = entries
            .iter()
            .filter(|entry| list(entry, "hosts").iter().any(|is| is == host));
        let mut ports = of_host.flat_map(|entry| list(entry, "ports"));
        Ok(ports.any(|is| is["number"] == port && is["protocol"] == "HTTP"))
    }
}

impl Counted {
    fn add(&mut self, uptime: u64, traffic: TrafficByCluster, bytes: BTreeMap<String, SentReceived>) {
        if uptime < self.uptime {
            *self = Self::default();
        }
        self.uptime = uptime;
        for (cluster, more) in difference(&self.last, &traffic) {
            let total = self.total.entry(cluster).or_default();
            total.requests += more.requests;
            total.failed_requests += more.failed_requests;
            total.connections += more.connections;
        }
        self.last = traffic;
        for (cluster, now) in &bytes {
            let then = self.last_bytes.get(cluster).copied().unwrap_or_default();
            let total = self.total_bytes.entry(cluster.clone()).or_default();
            for at in 0..now.len() {
                // A cluster that comes anew begins anew.
                total[at] += if now[at] < then[at] {
                    now[at]
                } else {
                    now[at] - then[at]
                };
            }
        }
        self.last_bytes = bytes;
    }
}

/// Seconds since Envoy started: `12s`.
fn uptime(info: &Value) -> u64 {
    let said = info["uptime_current_epoch"].as_str().unwrap_or_default();
    said.trim_end_matches('s').parse().unwrap_or_default()
}

/// The labels of the caller, as its proxy's node names it.
fn source(info: &Value) -> String {
    let metadata = &info["node"]["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let label = |name: &str| text(&metadata["LABELS"][name]);
    let namespace = text(&metadata["NAMESPACE"]);
    let account = text(&metadata["SERVICE_ACCOUNT"]);
    let mut labels = String::from("reporter=\"source\"");
    for (name, value) in [
        ("source_workload", text(&metadata["WORKLOAD_NAME"])),
        (
            "source_canonical_service",
            label("service.istio.io/canonical-name"),
        ),
        (
            "source_canonical_revision",
            label("service.istio.io/canonical-revision"),
        ),
        ("source_workload_namespace", namespace.clone()),
        (
            "source_principal",
            format!("spiffe://cluster.local/ns/{namespace}/sa/{account}"),
        ),
        ("source_app", label("app")),
        ("source_version", label("version")),
        ("source_cluster", "Kubernetes".to_owned()),
    ] {
        let _ = write!(labels, ",{name}={value:?}");
    }
    labels
}

/// Where a cluster leads.
struct Destination<'a> {
    host: &'a str,
    /// The cluster's own name stands for the Service where there is none.
    cluster: &'a str,
    port: Option<i32>,
}

impl<'a> Destination<'a> {
    fn of(cluster: &'a str) -> Option<Self> {
        if matches!(cluster, "PassthroughCluster" | "BlackHoleCluster") {
            let host = "unknown";
            return Some(Self {
                host,
                cluster,
                port: None,
            });
        }
        let (port, rest) = cluster.strip_prefix("outbound|")?.split_once('|')?;
        let (_, host) = rest.split_once('|')?;
        let port = port.parse().ok();
        Some(Self { host, cluster, port })
    }

    /// Whether it is a host of a ServiceEntry.
    fn is_outside(&self) -> bool {
        self.port.is_some() && !self.host.ends_with(".svc.cluster.local")
    }

    fn name(&self) -> &'a str {
        match self.port {
            None => self.cluster,
            Some(_) if self.is_outside() => self.host,
            Some(_) => self.host.split('.').next().unwrap_or_default(),
        }
    }

    fn namespace(&self) -> &'a str {
        self.port
            .filter(|_| !self.is_outside())
            .and_then(|_| self.host.split('.').nth(1))
            .unwrap_or("unknown")
    }

    fn write(
        &self,
        text: &mut String,
        source: &str,
        traffic: Traffic,
        bytes: Option<SentReceived>,
        is_http: bool,
    ) {
        let labels = format!(
            "{source},destination_service={:?},destination_service_name={:?},destination_service_namespace={:?},\
             destination_cluster=\"Kubernetes\",connection_security_policy=\"unknown\"",
            self.host,
            self.name(),
            self.namespace()
        );
        if is_http {
            let good = traffic.requests.saturating_sub(traffic.failed_requests);
            for (code, count) in [("200", good), ("503", traffic.failed_requests)] {
                if count > 0 {
                    let _ = writeln!(
                        text,
                        "istio_requests_total{{{labels},request_protocol=\"http\",response_code={code:?},response_flags=\"-\"}} {count}"
                    );
                }
            }
        } else if traffic.connections > 0 {
            let [sent, received] = bytes.map_or([None; 2], |bytes| bytes.map(Some));
            for (counter, count) in [
                ("istio_tcp_connections_opened_total", Some(traffic.connections)),
                ("istio_tcp_sent_bytes_total", sent),
                ("istio_tcp_received_bytes_total", received),
            ] {
                if let Some(count) = count {
                    let _ = writeln!(
                        text,
                        "{counter}{{{labels},request_protocol=\"tcp\",response_flags=\"-\"}} {count}"
                    );
                }
            }
        }
    }
}
