//! The pods that all worlds of a run share, since pods are the slow part of a mesh.

use anyhow::Result;
use serde_json::{Value, json};

use crate::mesh::Mesh;
use crate::pod::{PodSpec, Protocol, Server};

/// The namespace of the two callers.
pub(super) const HOME: &str = "shop";
/// The fenced caller.
pub(super) const CALLER: &str = "shop/caller";
/// The unscoped caller.
pub(super) const JUDGE: &str = "shop/judge";
/// A host outside the mesh.
pub(super) const EXTERNAL: &str = "api.example.com";
/// Fenced: `shop`, `bank`. Not fenced: `books`, `lab`, which takes plain text too.
pub(super) const NAMESPACES: [&str; 4] = [HOME, "books", "lab", "bank"];
/// What pods serve, by port.
pub(super) const SERVED: [(Protocol, u16); 5] = [
    (Protocol::Http, 8080),
    (Protocol::Grpc, 9090),
    (Protocol::Tcp, 9000),
    (Protocol::TcpServerFirst, 9001),
    (Protocol::Tls, 8443),
];

/// A pod that answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Destination {
    pub(super) namespace: &'static str,
    /// Its name, and its label `app`.
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    pub(super) proxied: bool,
    pub(super) ready: bool,
}

const fn destination(namespace: &'static str, name: &'static str, version: &'static str) -> Destination {
    Destination {
        namespace,
        name,
        version,
        proxied: true,
        ready: true,
    }
}

/// Each namespace has at least one that is ready.
pub(super) const DESTINATIONS: [Destination; 7] = [
    destination(HOME, "near", "v1"),
    destination("books", "a", "v1"),
    destination("books", "b", "v2"),
    destination("lab", "c", "v1"),
    Destination {
        proxied: false,
        ..destination("lab", "plain", "v2")
    },
    destination("bank", "d", "v1"),
    Destination {
        ready: false,
        ..destination("bank", "late", "v2")
    },
];

impl Destination {
    /// `namespace/name`.
    pub(super) fn full_name(self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn spec(self) -> PodSpec {
        let mut spec = PodSpec::new(&self.full_name())
            .label("version", self.version)
            .proxy_config(json!({"drainDuration": "1s"}));
        for (protocol, port) in SERVED {
            spec = spec.serve(protocol, port);
        }
        if !self.proxied {
            spec = spec.plain();
        }
        if self.ready { spec } else { spec.not_ready() }
    }
}

/// Adds all pods, the callers too.
pub(super) async fn create(mesh: &Mesh, judges_revision: &str) -> Result<()> {
    mesh.add_app(PodSpec::new(CALLER).http(8080)).await?;
    let judge = PodSpec::new(JUDGE)
        .app("caller")
        .revision(judges_revision)
        .http(8080);
    let mut specs = vec![judge];
    specs.extend(DESTINATIONS.map(Destination::spec));
    mesh.add_pods(specs).await?;
    mesh.apply(&permissive()).await?;
    let servers =
        [(Protocol::Http, 80), (Protocol::Tls, 443)].map(|(protocol, port)| Server { protocol, port });
    mesh.add_external(EXTERNAL, &servers).await?;
    Ok(())
}

fn permissive() -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "pool", "namespace": "lab"}, "spec": {"mtls": {"mode": "PERMISSIVE"}}})
}
