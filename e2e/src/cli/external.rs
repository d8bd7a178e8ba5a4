//! `mesh external`.

use anyhow::Result;

use super::WhichMesh;
use crate::pod::{Protocol, Server};

#[derive(Debug, clap::Args)]
pub(super) struct External {
    /// The name that pods can resolve, such as api.example.com
    name: String,
    /// Serve HTTP on this port
    #[arg(long, value_name = "PORT")]
    http: Vec<u16>,
    /// Serve TLS on this port
    #[arg(long, value_name = "PORT")]
    tls: Vec<u16>,
    /// Serve a TCP echo on this port
    #[arg(long, value_name = "PORT")]
    tcp: Vec<u16>,
    #[command(flatten)]
    mesh: WhichMesh,
}

impl External {
    pub(super) async fn run(self) -> Result<()> {
        let mesh = self.mesh.attach().await?;
        let ports = [
            (Protocol::Http, &self.http),
            (Protocol::Tls, &self.tls),
            (Protocol::Tcp, &self.tcp),
        ];
        let servers: Vec<Server> = ports
            .into_iter()
            .flat_map(|(protocol, ports)| {
                ports.iter().map(move |port| Server {
                    protocol,
                    port: *port,
                })
            })
            .collect();
        let host = mesh.add_external(&self.name, &servers).await?;
        println!("{} is at {}, outside the mesh", self.name, host.ip);
        Ok(())
    }
}
