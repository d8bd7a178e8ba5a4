//! Probes, made from inside the pod's namespace to the pod's address.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::admin;
use crate::netns::Sockets;
use crate::pod::PodRecord;

/// A probe of a container.
#[derive(Clone, Debug)]
pub(super) struct Prober {
    sockets: Sockets,
    address: SocketAddr,
    /// None for a TCP probe.
    path: Option<String>,
    timeout: Duration,
    pub(super) delay: Duration,
    pub(super) period: Duration,
    pub(super) failures: u32,
}

impl Prober {
    /// From the spec; an error when it is of a kind that is not known here.
    pub(super) fn of(
        probe: &Probe,
        container: &Container,
        record: &PodRecord,
        sockets: &Sockets,
    ) -> Result<Self> {
        let (port, path) = if let Some(http) = &probe.http_get {
            let scheme = http.scheme.as_deref().unwrap_or("HTTP");
            ensure!(
                scheme == "HTTP",
                "the mesh's kubelet probes by HTTP, not by {scheme}"
            );
            (
                &http.port,
                Some(http.path.clone().unwrap_or_else(|| "/".to_owned())),
            )
        } else if let Some(tcp) = &probe.tcp_socket {
            (&tcp.port, None)
        } else {
            bail!("the mesh's kubelet knows httpGet and tcpSocket probes only");
        };
        let seconds = |value: Option<i32>, usual: u64| {
            Duration::from_secs(value.and_then(|value| value.try_into().ok()).unwrap_or(usual))
        };
        Ok(Self {
            sockets: sockets.clone(),
            address: SocketAddr::new(record.ip.parse()?, number(port, container)?),
            path,
            timeout: seconds(probe.timeout_seconds, 1),
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            failures: probe
                .failure_threshold
                .and_then(|count| count.try_into().ok())
                .unwrap_or(3),
        })
    }

    /// One look.
    pub(super) async fn look(&self) -> Result<()> {
        let look = async {
            let socket = self.sockets.tcp_to(self.address).await?;
            match &self.path {
                None => socket
                    .connect(self.address)
                    .await
                    .map(drop)
                    .context("no connection"),
                Some(path) => {
                    let page = admin::get_over(socket, self.address, path).await?;
                    ensure!(
                        (200..400).contains(&page.status),
                        "{path} answers {}",
                        page.status
                    );
                    Ok(())
                }
            }
        };
        tokio::time::timeout(self.timeout, look)
            .await
            .context("no answer in time")?
    }
}

fn number(port: &IntOrString, container: &Container) -> Result<u16> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port)
        }
    };
    number
        .and_then(|number| number.try_into().ok())
        .with_context(|| format!("the container has no port {port:?}"))
}
