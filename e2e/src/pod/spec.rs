//! What a caller says about a pod.

use std::collections::BTreeMap;

use serde_json::Value;

/// The annotation that names the revision of Istio that a pod belongs to.
pub(crate) const REVISION: &str = "istio.io/rev";

/// What runs in front of the app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodKind {
    /// A sidecar: all TCP in and out goes through it.
    #[default]
    Sidecar,
    /// A gateway: the proxy is the app.
    Router,
    /// No proxy.
    Plain,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.1, HTTP/2 by prior knowledge, WebSocket.
    Http,
    /// gRPC. Served by the same server; the Service port says `grpc`.
    Grpc,
    /// TCP echo: the client speaks first.
    Tcp,
    /// TCP with a banner: the server speaks first, then echoes.
    TcpServerFirst,
    /// TLS with a certificate of its own, then HTTP.
    Tls,
}

impl Protocol {
    /// The option of `mesh app` that serves it.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Http | Self::Grpc => "--http",
            Self::Tcp => "--tcp",
            Self::TcpServerFirst => "--tcp-server-first",
            Self::Tls => "--tls",
        }
    }

    /// The prefix of a Service port's name, from which Istio takes the protocol.
    pub(crate) fn port_prefix(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp | Self::TcpServerFirst => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// One port that the app serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// What it speaks there.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// A pod to add. `PodSpec::new("shop/web").http(8080)` is a complete one.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) app: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) service_account: String,
    pub(crate) kind: PodKind,
    pub(crate) servers: Vec<Server>,
    pub(crate) ready: bool,
    pub(crate) proxy_config: Value,
}

impl PodSpec {
    /// A pod with a sidecar, named `namespace/name`; its app label and its service account are the name too.
    pub fn new(name: &str) -> Self {
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            app: name.to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            service_account: name.to_owned(),
            kind: PodKind::Sidecar,
            servers: Vec::new(),
            ready: true,
            proxy_config: Value::Null,
        }
    }

    /// Sets the label `app` and the service account.
    #[must_use]
    pub fn app(mut self, app: &str) -> Self {
        app.clone_into(&mut self.app);
        app.clone_into(&mut self.service_account);
        self
    }

    /// Sets what runs in front of the app.
    #[must_use]
    pub fn kind(mut self, kind: PodKind) -> Self {
        self.kind = kind;
        self
    }

    /// Without a proxy.
    #[must_use]
    pub fn plain(self) -> Self {
        self.kind(PodKind::Plain)
    }

    /// A gateway.
    #[must_use]
    pub fn router(self) -> Self {
        self.kind(PodKind::Router)
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds an annotation. Istio's `traffic.sidecar.istio.io/exclude…`, `sidecar.istio.io/interceptionMode`
    /// and `proxy.istio.io/config` have their effect.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Is served by the istiod of this revision, instead of the first one.
    #[must_use]
    pub fn revision(self, revision: &str) -> Self {
        self.annotation(REVISION, revision)
    }

    /// Sets the service account.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// Serves a port.
    #[must_use]
    pub fn serve(mut self, protocol: Protocol, port: u16) -> Self {
        self.servers.push(Server { protocol, port });
        self
    }

    /// Serves HTTP.
    #[must_use]
    pub fn http(self, port: u16) -> Self {
        self.serve(Protocol::Http, port)
    }

    /// Serves gRPC.
    #[must_use]
    pub fn grpc(self, port: u16) -> Self {
        self.serve(Protocol::Grpc, port)
    }

    /// Serves a TCP echo.
    #[must_use]
    pub fn tcp(self, port: u16) -> Self {
        self.serve(Protocol::Tcp, port)
    }

    /// Serves TCP with a banner.
    #[must_use]
    pub fn tcp_server_first(self, port: u16) -> Self {
        self.serve(Protocol::TcpServerFirst, port)
    }

    /// Serves TLS.
    #[must_use]
    pub fn tls(self, port: u16) -> Self {
        self.serve(Protocol::Tls, port)
    }

    /// Leaves the pod's Ready condition false.
    #[must_use]
    pub fn not_ready(mut self) -> Self {
        self.ready = false;
        self
    }

    /// Fields of Istio's ProxyConfig for this pod, merged over the mesh's.
    #[must_use]
    pub fn proxy_config(mut self, config: Value) -> Self {
        self.proxy_config = config;
        self
    }
}
