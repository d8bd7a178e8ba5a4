//! Hosts outside the mesh: a fence has in scope those that it uses.

use anyhow::{Result, ensure};
use serde_json::json;
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{Call, HttpClient, Mesh, Protocol, Server};

/// The caller.
const CALLER: &str = "patient/web";

/// Metrics tell of a connection to it, on a port number of its own.
pub(crate) const USED: &str = "used.outside.example";
/// No one calls it.
pub(crate) const IDLE: &str = "idle.outside.example";
/// The same; by their names they are the first, and keep the listeners of all their port numbers.
const FIRST: [&str; 2] = ["a.outside.example", "b.outside.example"];
/// No ServiceEntry has it: connections to it pass through a listener that is there for the first two and the
/// idle one.
const UNKNOWN: &str = "unknown.outside.example";

/// Connections from before the first Sidecar.
pub(crate) struct Connections(Vec<HttpClient>);

impl Connections {
    /// Adds the hosts, and connects to what is used and to what no ServiceEntry has.
    pub(crate) async fn open(mesh: &Mesh) -> Result<Self> {
        let servers = [(Protocol::Http, 80), (Protocol::Tls, 443), (Protocol::Tls, 8443)];
        let servers = servers.map(|(protocol, port)| Server { protocol, port });
        for host in [FIRST[0], FIRST[1], IDLE, USED, UNKNOWN] {
            mesh.add_external(host, &servers).await?;
        }
        let [a, b] = FIRST.map(|host| (host, &[443, 8443][..]));
        for (host, tls) in [a, b, (IDLE, &[443]), (USED, &[8443])] {
            let tls = tls
                .iter()
                .map(|port| json!({"number": port, "name": format!("tls-{port}"), "protocol": "TLS"}));
            let http = json!({"number": 80, "name": "http", "protocol": "HTTP"});
            let ports: Vec<_> = tls.chain([http]).collect();
            mesh.apply(&json!({
                "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
                "metadata": {"name": host.split('.').next(), "namespace": "store"},
                "spec": {"hosts": [host], "location": "MESH_EXTERNAL", "resolution": "DNS", "ports": ports},
            }))
            .await?;
        }
        until("clusters of all", LONG, async || {
            let dump = mesh.proxy(CALLER)?.config_dump().await?.to_string();
            let missing = [FIRST[0], FIRST[1], IDLE, USED]
                .into_iter()
                .find(|host| !dump.contains(&format!("outbound|80||{host}")));
            ensure!(missing.is_none(), "{missing:?}");
            calls(mesh, USED, USED).await
        })
        .await?;
        let mut clients = Vec::new();
        for host in [USED, UNKNOWN] {
            clients.push(mesh.http_client(CALLER, &tls(host)).await?);
        }
        let mut connections = Self(clients);
        for client in &mut connections.0 {
            let reply = client.get("/before").await;
            ensure!(reply.status == Some(200), "{reply}");
        }
        Ok(connections)
    }

    /// Whether none of them was cut.
    pub(crate) async fn are_open(&mut self) -> Result<()> {
        for client in &mut self.0 {
            let reply = client.get("/after").await;
            ensure!(
                reply.status == Some(200) && !reply.new_connection,
                "{client:?}: {reply}"
            );
        }
        Ok(())
    }
}

/// What is used is in scope, and what is not is reached as if there were no ServiceEntry.
pub(crate) async fn what_is_not_in_scope_is_passed_through(mesh: &Mesh) -> Result<()> {
    let scope = mesh.scope("patient", "web").await?;
    let outside = scope.iter().filter_map(|host| host.strip_prefix("store/"));
    let outside: Vec<_> = outside
        .filter(|host| host.ends_with(".outside.example"))
        .collect();
    ensure!(outside == [FIRST[0], FIRST[1], USED], "{outside:?}");
    until("a proxy that no longer knows the idle host", LONG, async || {
        calls(mesh, IDLE, "PassthroughCluster").await
    })
    .await?;
    calls(mesh, USED, USED).await?;
    calls(mesh, UNKNOWN, "PassthroughCluster").await
}

/// Calls a host by HTTP and by TLS, and sees which cluster of the caller's proxy that takes.
async fn calls(mesh: &Mesh, host: &str, cluster: &str) -> Result<()> {
    for (scheme, url) in [("http", format!("http://{host}/")), ("tls", tls(host))] {
        let call = Call::get(&url);
        let (reply, taken) = mesh.proxy(CALLER)?.watch(mesh.call(CALLER, &call)).await?;
        ensure!(
            reply.is_from(&format!("external/{host}")),
            "{scheme}: {reply}, by {taken}"
        );
        ensure!(
            taken.uses(cluster) && !taken.fallback(),
            "{scheme}: {reply}, by {taken}"
        );
    }
    Ok(())
}

fn tls(host: &str) -> String {
    let port = if host == USED { 8443 } else { 443 };
    format!("tls://{host}:{port}/")
}
