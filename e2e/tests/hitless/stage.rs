//! The places of the transitions: a caller with a fence that is widened and narrowed, and one that a label
//! scopes and unscopes. Every step waits for its condition on the objects and on the traffic, never for a
//! time.
//!
//! One server stands behind all hosts. The controller gathers what it learns for [`GATHER`], so that the
//! clients use the gateway for a while before a call widens the scope.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{Mesh, PodSpec, Protocol, Server, ServiceSpec};

use crate::traffic::{Destination, Traffic};

/// Chart values for [`GATHER`].
pub(crate) const GATHER: [&str; 2] = ["debounce.quiet=2500ms", "debounce.max=2500ms"];

/// Calls of each client that prove a path.
const PROOF: u64 = 10;

/// A range of Services that comes and goes; no Service has an address of it.
const FURTHER: &str = "10.97.0.0";

const SERVER: &str = "books/server";

/// The hosts of the caller with a fence of its own.
pub(crate) const FENCED: [Destination; 4] = [
    Destination::new("http stays", "http://stay-http.books:8080/"),
    Destination::new("http moves", "http://move-http.books:8080/"),
    Destination::new("tcp stays", "tcp-server-first://stay-tcp.books:9000"),
    Destination::new("tcp moves", "tcp-server-first://move-tcp.books:9001"),
];

/// The hosts of the caller that a label scopes. With the default `nonHttp: Auto` both TCP hosts are in the
/// scope. The last is outside the mesh and has a short name, so its calls take the second look while the
/// EnvoyFilter is there.
pub(crate) const LABELLED: [Destination; 5] = [
    Destination::new("http in scope", "http://stay-http.books:8080/"),
    Destination::new("http outside", "http://move-http.books:8080/").looked_at_twice(),
    Destination::new("tcp", "tcp-server-first://stay-tcp.books:9000"),
    Destination::new("tcp, another", "tcp-server-first://move-tcp.books:9001"),
    Destination::new("http external", "http://api.example.com:8080/").looked_at_twice(),
];

const STAY: [&str; 2] = [
    "stay-http.books.svc.cluster.local",
    "stay-tcp.books.svc.cluster.local",
];
const MOVE: [&str; 2] = [
    "move-http.books.svc.cluster.local",
    "move-tcp.books.svc.cluster.local",
];

/// What both stages call: one server and a Service for each host.
pub(crate) async fn add_server(mesh: &Mesh) -> Result<()> {
    mesh.add_pod(
        PodSpec::new(SERVER)
            .http(8080)
            .tcp_server_first(9000)
            .tcp_server_first(9001),
    )
    .await?;
    for (name, protocol, port) in [
        ("stay-http", Protocol::Http, 8080),
        ("move-http", Protocol::Http, 8080),
        ("stay-tcp", Protocol::TcpServerFirst, 9000),
        ("move-tcp", Protocol::TcpServerFirst, 9001),
    ] {
        let name = format!("books/{name}");
        mesh.add_service(&ServiceSpec::new(&name).selects("server").port(protocol, port))
            .await?;
        mesh.wait_endpoint(&name).await?;
    }
    Ok(())
}

/// A caller `<namespace>/web` with its fence.
pub(crate) struct Stage {
    mesh: Mesh,
    namespace: &'static str,
}

impl Stage {
    /// The caller with the fence that is edited; its scope starts with the hosts that stay.
    pub(crate) async fn fenced(mesh: &Mesh) -> Result<Self> {
        let stage = Self {
            mesh: mesh.clone(),
            namespace: "shop",
        };
        mesh.add_app(PodSpec::new(&stage.caller()).http(8080)).await?;
        stage
            .write(&json!({"mode": "Enforce", "learning": {"nonHttp": "Learn"}, "allow": allow(&STAY)}))
            .await?;
        mesh.wait_condition(stage.namespace, "web", "Enforced", "True")
            .await?;
        mesh.wait_at_rest(stage.namespace).await?;
        Ok(stage)
    }

    /// Back to the scope of the start. Nothing may call meanwhile.
    pub(crate) async fn reset(&self) -> Result<()> {
        self.allow_moving(false).await?;
        self.forget_at_rest().await?;
        until("the scope of the start", LONG, async || {
            let scope = self.mesh.scope(self.namespace, "web").await?;
            ensure!(scope.len() == STAY.len(), "it is {scope:?}");
            Ok(())
        })
        .await?;
        self.mesh.wait_at_rest(self.namespace).await
    }

    /// The caller that a label scopes; its fence allows one HTTP host.
    pub(crate) async fn labelled(mesh: &Mesh) -> Result<Self> {
        let stage = Self {
            mesh: mesh.clone(),
            namespace: "store",
        };
        mesh.add_app(PodSpec::new(&stage.caller()).http(8080)).await?;
        let server = Server {
            protocol: Protocol::Http,
            port: 8080,
        };
        mesh.add_external("api.example.com", &[server]).await?;
        stage.write(&json!({"allow": allow(&STAY[..1])})).await?;
        mesh.wait_cluster(&stage.caller(), MOVE[0], true).await?;
        Ok(stage)
    }

    /// The caller's pod.
    pub(crate) fn caller(&self) -> String {
        format!("{}/web", self.namespace)
    }

    async fn write(&self, spec: &Value) -> Result<()> {
        self.mesh
            .apply(&json!({
                "apiVersion": "servicefence.io/v1alpha1", "kind": "ServiceFence",
                "metadata": {"name": "web", "namespace": self.namespace}, "spec": spec,
            }))
            .await
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.mesh.kubectl(&[&["-n", self.namespace], args].concat()).await
    }

    /// Allows the moving hosts too, or only those that stay.
    pub(crate) async fn allow_moving(&self, moving: bool) -> Result<()> {
        let hosts = if moving {
            [STAY, MOVE].concat()
        } else {
            STAY.to_vec()
        };
        self.write(&json!({"mode": "Enforce", "learning": {"nonHttp": "Learn"}, "allow": allow(&hosts)}))
            .await
    }

    /// Empties the learned list: the controller forgets.
    pub(crate) async fn forget(&self) -> Result<()> {
        self.kubectl(&[
            "patch",
            "servicefence",
            "web",
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status":{"learned":null}}"#,
        ])
        .await?;
        Ok(())
    }

    async fn learned(&self) -> Result<Vec<String>> {
        let fence = self.mesh.fence(self.namespace, "web").await?;
        let learned = fence["status"]["learned"].as_array().cloned().unwrap_or_default();
        let hosts = learned.iter().filter_map(|entry| entry["host"].as_str());
        Ok(hosts.map(str::to_owned).collect())
    }

    /// Whether a call has widened the scope, or is about to.
    pub(crate) async fn has_learned(&self) -> Result<bool> {
        Ok(!self.learned().await?.is_empty())
    }

    /// Waits until every one of these hosts is learned.
    async fn wait_learned(&self, hosts: &[&str]) -> Result<()> {
        until(format!("{hosts:?} in status.learned"), LONG, async || {
            let learned = self.learned().await?;
            ensure!(
                hosts.iter().all(|host| learned.iter().any(|is| is == host)),
                "it has {learned:?}"
            );
            Ok(())
        })
        .await
    }

    /// Waits until both moving hosts are learned.
    pub(crate) async fn wait_moving_learned(&self) -> Result<()> {
        self.wait_learned(&MOVE).await
    }

    /// Forgets what was learned while it changes nothing, since `allow` names it or nothing is enforced.
    pub(crate) async fn forget_at_rest(&self) -> Result<()> {
        self.forget().await?;
        until("an empty learned list", LONG, async || {
            ensure!(self.learned().await?.is_empty(), "it is not");
            Ok(())
        })
        .await
    }

    /// Waits until the Sidecar has both moving hosts, or neither, nothing is warm any more, and the clients
    /// of the moving hosts go that way.
    pub(crate) async fn wait_moved(&self, traffic: &Traffic, inside: bool) -> Result<()> {
        until(
            format!(
                "the moving hosts {} the scope",
                if inside { "in" } else { "outside" }
            ),
            LONG,
            async || {
                let scope = self.mesh.scope(self.namespace, "web").await?;
                let has = MOVE.map(|host| scope.iter().any(|is| is.ends_with(&format!("/{host}"))));
                ensure!(has == [inside; 2], "the scope is {scope:?}");
                Ok(())
            },
        )
        .await?;
        self.wait_way(traffic, "http moves", &MOVE, inside).await?;
        if inside {
            // Out of scope the next widening may already be under way.
            self.mesh.wait_at_rest(self.namespace).await?;
        }
        Ok(())
    }

    /// Waits until calls to `hosts` go directly and no call goes by the gateway, or the other way round.
    async fn wait_way(&self, traffic: &Traffic, http: &str, hosts: &[&str], direct: bool) -> Result<()> {
        let proxy = self.mesh.proxy(&self.caller())?;
        let way = if direct { "directly" } else { "by the gateway" };
        until(format!("calls {way} to {hosts:?}"), LONG, async || {
            let (more, taken) = proxy.watch(traffic.more(PROOF)).await?;
            more?;
            let ways = hosts.iter().all(|host| taken.uses(host) == direct);
            ensure!(ways && taken.fallback() != direct, "they went by {taken}");
            let kept = traffic
                .kept_via(http)
                .is_some_and(|via| via == servicefence_e2e::Via::Direct);
            ensure!(kept == direct, "the kept connection goes another way");
            Ok(())
        })
        .await
    }

    /// Labels the namespace, or takes the label away, and waits until the caller is scoped, or no longer,
    /// nothing is warm any more, and the clients of the host outside the scope go that way.
    pub(crate) async fn label(&self, traffic: &Traffic, enforce: bool) -> Result<()> {
        let label = if enforce {
            "servicefence.io/mode=enforce"
        } else {
            "servicefence.io/mode-"
        };
        self.mesh
            .kubectl(&["label", "namespace", self.namespace, label, "--overwrite"])
            .await?;
        until(format!("the caller scoped: {enforce}"), LONG, async || {
            let there = self
                .kubectl(&["get", "sidecars,envoyfilters", "-o", "name"])
                .await?;
            let scoped = there.contains("servicefence-web");
            let filtered = there.contains("envoyfilter");
            ensure!(scoped == enforce && filtered == enforce, "there are {there:?}");
            Ok(())
        })
        .await?;
        self.wait_way(traffic, "http outside", &MOVE[..1], !enforce)
            .await?;
        if !enforce {
            self.mesh.wait_at_rest(self.namespace).await?;
        }
        Ok(())
    }

    /// Gives the mesh one more range of Services, or takes it away, and waits until the caller's proxy tells
    /// calls by it.
    pub(crate) async fn further_range(&self, traffic: &Traffic, there: bool) -> Result<()> {
        let range = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": "further"}, "spec": {"cidrs": [format!("{FURTHER}/24")]},
        });
        if there {
            self.mesh.apply(&range).await?;
        } else {
            self.mesh.delete(&range).await?;
        }
        let proxy = self.mesh.proxy(&self.caller())?;
        until(format!("the proxy knows the range: {there}"), LONG, async || {
            let knows = proxy.config_dump().await?.to_string().contains(FURTHER);
            ensure!(knows == there, "it does not");
            Ok(())
        })
        .await?;
        traffic.more(PROOF).await
    }

    /// Waits until what the clients taught while they were scoped is stored, and forgets it, so that the next
    /// label finds the host outside the scope again.
    pub(crate) async fn forget_between(&self) -> Result<()> {
        self.wait_learned(&MOVE[..1]).await?;
        self.forget_at_rest().await
    }
}

fn allow(hosts: &[&str]) -> Value {
    hosts.iter().map(|host| json!({"host": host})).collect()
}
