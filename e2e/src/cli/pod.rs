//! `mesh pod add` and `mesh pod remove`.

use anyhow::{Context as _, Result};
use clap::Subcommand;

use super::WhichMesh;
use crate::pod::{PodSpec, Protocol};

#[derive(Debug, Subcommand)]
pub(super) enum Pod {
    /// Add a pod; with any port also the Service of its app
    Add(Box<Add>),
    /// Remove a pod
    Remove {
        /// The pod: NAMESPACE/NAME
        pod: String,
        #[command(flatten)]
        mesh: WhichMesh,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// The pod: NAMESPACE/NAME
    pod: String,
    /// Its label app, its service account and the name of its Service; otherwise the pod's name
    #[arg(long)]
    app: Option<String>,
    /// More labels
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Serve HTTP/1.1, HTTP/2, WebSocket and gRPC on this port
    #[arg(long, value_name = "PORT")]
    http: Vec<u16>,
    /// Serve gRPC on this port, with a Service port that says so
    #[arg(long, value_name = "PORT")]
    grpc: Vec<u16>,
    /// Serve a TCP echo on this port
    #[arg(long, value_name = "PORT")]
    tcp: Vec<u16>,
    /// Serve TCP with a banner on this port
    #[arg(long, value_name = "PORT")]
    tcp_server_first: Vec<u16>,
    /// Serve TLS on this port
    #[arg(long, value_name = "PORT")]
    tls: Vec<u16>,
    /// Without a sidecar
    #[arg(long, conflicts_with = "router")]
    plain: bool,
    /// As an Istio gateway
    #[arg(long)]
    router: bool,
    #[command(flatten)]
    mesh: WhichMesh,
}

impl Pod {
    pub(super) async fn run(self) -> Result<()> {
        match self {
            Self::Add(add) => add.run().await,
            Self::Remove { pod, mesh } => {
                mesh.attach().await?.remove_pod(&pod).await?;
                println!("pod {pod} is gone");
                Ok(())
            }
        }
    }
}

impl Add {
    async fn run(self) -> Result<()> {
        self.pod
            .split_once('/')
            .with_context(|| format!("`{}` is not NAMESPACE/NAME", self.pod))?;
        let mesh = self.mesh.attach().await?;
        let mut spec = PodSpec::new(&self.pod);
        if let Some(app) = &self.app {
            spec = spec.app(app);
        }
        for label in &self.label {
            let (name, value) = label
                .split_once('=')
                .with_context(|| format!("`{label}` is not NAME=VALUE"))?;
            spec = spec.label(name, value);
        }
        if self.plain {
            spec = spec.plain();
        }
        if self.router {
            spec = spec.router();
        }
        let ports = [
            (Protocol::Http, &self.http),
            (Protocol::Grpc, &self.grpc),
            (Protocol::Tcp, &self.tcp),
            (Protocol::TcpServerFirst, &self.tcp_server_first),
            (Protocol::Tls, &self.tls),
        ];
        for (protocol, ports) in ports {
            for port in ports {
                spec = spec.serve(protocol, *port);
            }
        }
        if ports.iter().all(|(_, ports)| ports.is_empty()) {
            mesh.add_pod(spec).await?;
        } else {
            mesh.add_app(spec).await?;
        }
        let pod = mesh.pod(&self.pod)?;
        println!("pod {} runs at {}", self.pod, pod.ip);
        Ok(())
    }
}
