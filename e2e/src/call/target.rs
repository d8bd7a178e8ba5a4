//! Where a call goes: its URL taken apart, its host resolved as a pod's DNS would, and the sockets of the
//! caller.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};
use tokio::net::TcpStream;

use crate::mesh::Mesh;
use crate::mesh::core::Core;
use crate::netns::Sockets;
use crate::service_vips;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 by prior knowledge.
    H2,
    /// gRPC.
    Grpc,
    /// WebSocket.
    Ws,
    /// TCP; the client speaks first.
    Tcp,
    /// TCP; the server speaks first.
    TcpServerFirst,
}

impl Scheme {
    fn parse(text: &str) -> Result<(Self, Option<u16>)> {
        Ok(match text {
            "http" => (Self::Http, Some(80)),
            "https" | "tls" => (Self::Https, Some(443)),
            "h2" => (Self::H2, Some(80)),
            "grpc" => (Self::Grpc, None),
            "ws" => (Self::Ws, Some(80)),
            "tcp" => (Self::Tcp, None),
            "tcp-server-first" => (Self::TcpServerFirst, None),
            _ => bail!(
                "`{text}` is no scheme; there are http, https, h2, grpc, ws, tcp, tcp-server-first, tls"
            ),
        })
    }
}

/// A resolved URL, seen from a pod.
#[derive(Clone, Debug)]
pub struct Target {
    /// What is spoken.
    pub scheme: Scheme,
    /// The host of the URL.
    pub host: String,
    /// `host`, or `host:port` unless the port is the scheme's own.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// Where the host is.
    pub address: SocketAddr,
    /// The identity that mTLS gives the caller.
    pub principal: String,
    sockets: Sockets,
}

impl Target {
    /// A new connection from the pod.
    pub(super) async fn connect(&self) -> Result<TcpStream> {
        let socket = self.sockets.tcp_to(self.address).await?;
        socket.set_nodelay(true)?;
        socket
            .connect(self.address)
            .await
            .with_context(|| format!("cannot connect to {}", self.address))
    }
}

impl Mesh {
    /// Takes a URL apart and resolves its host as the pod would.
    pub async fn target(&self, from: &str, url: &str) -> Result<Target> {
        let core = self.core();
        let pod = core.pod(from)?;
        let parts = split(url)?;
        let address = resolve(core, &pod.namespace, &parts.host).await?;
        Ok(Target {
            scheme: parts.scheme,
            address: (address, parts.port).into(),
            host: parts.host,
            authority: parts.authority,
            path: parts.path,
            principal: format!(
                "spiffe://cluster.local/ns/{}/sa/{}",
                pod.namespace, pod.service_account
            ),
            sockets: core.sockets(&pod.netns())?,
        })
    }
}

#[derive(Debug, PartialEq)]
struct Parts {
    scheme: Scheme,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

fn split(url: &str) -> Result<Parts> {
    let (scheme, rest) = url
        .split_once("://")
        .with_context(|| format!("`{url}` is no URL: it needs a scheme"))?;
    let (scheme, default_port) = Scheme::parse(scheme)?;
    let slash = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(slash);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (
            host,
            port.parse().with_context(|| format!("`{port}` is no port"))?,
        ),
        _ => (
            authority,
            default_port.with_context(|| format!("`{url}` needs a port"))?,
        ),
    };
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let authority = if Some(port) == default_port {
        host
    } else {
        authority
    };
    Ok(Parts {
        scheme,
        host: host.to_owned(),
        port,
        authority: authority.to_owned(),
        path,
    })
}

/// As cluster DNS answers: the address of the Service, a pod's for a headless one; external names from the
/// mesh's table.
async fn resolve(core: &Core, home: &str, host: &str) -> Result<IpAddr> {
    if let Ok(ip) = host.trim_matches(['[', ']']).parse() {
        return Ok(ip);
    }
    if let Some(ip) = service_vips::externals(&core.folder).get(host) {
        return Ok(ip.parse()?);
    }
    let host = host.to_lowercase();
    let short = host
        .trim_end_matches('.')
        .trim_end_matches(".cluster.local")
        .trim_end_matches(".svc");
    let (name, namespace) = short.split_once('.').unwrap_or((short, home));
    let api: Api<Service> = Api::namespaced(core.client.clone(), namespace);
    let service = api
        .get_opt(name)
        .await?
        .with_context(|| format!("the name {host} does not resolve"))?;
    let spec = service.spec.unwrap_or_default();
    if let Some(external) = spec.external_name {
        return Box::pin(resolve(core, home, &external)).await;
    }
    match spec.cluster_ip.as_deref() {
        Some(ip) if ip != "None" => Ok(ip.parse()?),
        _ => headless(core, namespace, name).await,
    }
}

async fn headless(core: &Core, namespace: &str, name: &str) -> Result<IpAddr> {
    let api: Api<EndpointSlice> = Api::namespaced(core.client.clone(), namespace);
    let slices = api
        .list(&ListParams::default().labels(&format!("kubernetes.io/service-name={name}")))
        .await?;
    let address = slices
        .into_iter()
        .flat_map(|slice| slice.endpoints.unwrap_or_default())
        .find(|endpoint| endpoint.conditions.as_ref().and_then(|it| it.ready) != Some(false))
        .and_then(|endpoint| endpoint.addresses.into_iter().next());
    Ok(address
        .with_context(|| format!("headless Service {name}.{namespace} has no ready endpoint"))?
        .parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let parts = split("http://reviews.books:8080/a?b=c").unwrap();
        assert_eq!((parts.host.as_str(), parts.port), ("reviews.books", 8080));
        assert_eq!(
            (parts.authority.as_str(), parts.path.as_str()),
            ("reviews.books:8080", "/a?b=c")
        );
    }

    #[test]
    fn the_port_of_the_scheme_is_left_out_of_the_authority() {
        let parts = split("http://example.com:80").unwrap();
        assert_eq!(
            (parts.authority.as_str(), parts.port, parts.path.as_str()),
            ("example.com", 80, "/")
        );
    }

    #[test]
    fn an_address_of_ipv6_stands_in_brackets() {
        let parts = split("http://[fd00::1]:8080/").unwrap();
        assert_eq!((parts.host.as_str(), parts.port), ("[fd00::1]", 8080));
        assert_eq!(split("http://[fd00::1]/").unwrap().port, 80);
    }

    #[test]
    fn what_is_missing_is_said() {
        assert!(
            split("tcp://db.data")
                .unwrap_err()
                .to_string()
                .contains("needs a port")
        );
        assert!(split("gopher://x").unwrap_err().to_string().contains("no scheme"));
    }
}
