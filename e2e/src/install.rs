//! ServiceFence on a mesh: the real chart by real helm, the controller under the chart's own
//! ServiceAccount, arguments and ports.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::addresses::in_url;
use crate::admin::{get_over, loopback};
use crate::kubelet::images::Images;
use crate::mesh::Mesh;
use crate::pod::PodRecord;
use crate::proxy::Proxy;
use crate::tools::repository;
use crate::wait::{LONG, SHORT, until};

/// Namespace of the installation.
pub const SYSTEM: &str = "servicefence-system";

/// Identity of the fallback gateway, as destinations see it.
pub const GATEWAY: &str = "spiffe://cluster.local/ns/servicefence-system/sa/servicefence-fallback";

/// The image that the chart names.
const IMAGE: &str = "ghcr.io/servicefence/servicefence";

/// Which build of the controller runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// Quick to build: for tests.
    Debug,
    /// As users run it: for figures.
    Release,
}

/// Cargo, without what it tells those that it runs of their package: crates that ask for that would be
/// compiled anew.
pub(crate) fn cargo() -> tokio::process::Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = tokio::process::Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// Builds the controller and tells where it is.
pub async fn controller(build: Build) -> Result<PathBuf> {
    let mut command = cargo();
    command.args([
        "build",
        "--bin",
        "servicefence",
        "--message-format",
        "json-render-diagnostics",
    ]);
    command.args(match build {
        // With a test beside it, crates have the features that `cargo test --workspace` gives them: it built
        // them already.
        Build::Debug => ["--workspace", "--test=docs"],
        Build::Release => ["--package=servicefence", "--release"],
    });
    let output = command
        .current_dir(repository())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .await
        .context("run cargo")?;
    ensure!(output.status.success(), "the controller does not build");
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["kind"] == json!(["bin"]))
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo did not say where the controller is")
}

impl Mesh {
    /// Installs the chart and waits as `helm install --wait` does. `values` are `--set` arguments.
    pub async fn install(&self, build: Build, values: &[&str]) -> Result<()> {
        let program = controller(build).await?;
        self.kubelet(Some(SYSTEM), Images::new().with(IMAGE, program));
        let chart = repository().join("charts/servicefence");
        let chart = chart.to_string_lossy();
        let mut args = vec![
            "install",
            "servicefence",
            &chart,
            "--namespace",
            SYSTEM,
            "--create-namespace",
            "--wait",
            "--timeout",
            "3m",
        ];
        // What runs in pods here finds no name of a Service.
        let node = in_url(self.core().families.node_ip());
        let metrics = format!("istio.metricsUrl=http://{node}:15014/metrics");
        if !values.iter().any(|value| value.starts_with("istio.revision=")) {
            args.extend(["--set", &metrics]);
        }
        for value in values {
            args.extend(["--set", value]);
        }
        self.helm(&args).await?;
        if values.contains(&"fallback.enabled=false") {
            return Ok(());
        }
        self.wait_endpoint(&format!("{SYSTEM}/servicefence-fallback"))
            .await
    }

    /// The fallback gateway's pods.
    pub fn gateway_pods(&self) -> impl Iterator<Item = PodRecord> {
        let is_gateway =
            |pod: &PodRecord| pod.namespace == SYSTEM && pod.name.starts_with("servicefence-fallback-");
        self.pods().into_iter().filter(is_gateway)
    }

    /// The controller's pod.
    pub async fn controller_pod(&self) -> Result<String> {
        until("the controller's pod", SHORT, async || {
            let list = self
                .kubectl(&[
                    "-n",
                    SYSTEM,
                    "get",
                    "pods",
                    "-l",
                    "app=servicefence",
                    "-o",
                    "json",
                ])
                .await?;
            let list: Value = serde_json::from_str(&list)?;
            let ready = |pod: &&Value| {
                pod["metadata"]["deletionTimestamp"].is_null()
                    && pod["status"]["conditions"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            };
            let pod = list["items"]
                .as_array()
                .into_iter()
                .flatten()
                .find(ready)
                .context("none is ready")?;
            let name = pod["metadata"]["name"].as_str().context("a name")?;
            Ok(format!("{SYSTEM}/{name}"))
        })
        .await
    }

    /// Ends the controller's pod, as a rollout would, and waits for the next one.
    pub async fn restart_controller(&self) -> Result<String> {
        let old = self.controller_pod().await?;
        let name = old.split_once('/').map_or("", |(_, name)| name);
        self.kubectl(&["-n", SYSTEM, "delete", "pod", name, "--wait=true"])
            .await?;
        until("another controller", LONG, async || {
            let pod = self.controller_pod().await?;
            ensure!(pod != old, "{pod} still is the old one");
            Ok(pod)
        })
        .await
    }

    /// The controller's metrics, as text.
    pub async fn controller_metrics(&self) -> Result<String> {
        let pod = self.controller_pod().await?;
        let sockets = self.core().sockets(&self.core().pod(&pod)?.netns())?;
        let page = get_over(sockets.tcp().await?, loopback(8080), "/metrics").await?;
        ensure!(page.status == 200, "{}", page.text());
        Ok(page.text())
    }

    /// Why a host is in the scope of a fence (`namespace/name`), or is not: what the controller's API
    /// answers.
    pub async fn explain(&self, fence: &str, host: &str) -> Result<Value> {
        let pod = self.controller_pod().await?;
        let sockets = self.core().sockets(&self.core().pod(&pod)?.netns())?;
        let question = format!("/v1/explain?fence={fence}&host={host}");
        let page = get_over(sockets.tcp().await?, loopback(8081), &question).await?;
        ensure!(page.status == 200, "{}", page.text());
        Ok(serde_json::from_str(&page.text())?)
    }

    /// A fence, as the API server has it.
    pub async fn fence(&self, namespace: &str, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(
            &self
                .kubectl(&["-n", namespace, "get", "servicefence", name, "-o", "json"])
                .await?,
        )?)
    }

    /// The hosts of a fence's Sidecar, without those that ServiceFence itself needs.
    pub async fn scope(&self, namespace: &str, name: &str) -> Result<Vec<String>> {
        let sidecar = format!("servicefence-{name}");
        let text = self
            .kubectl(&["-n", namespace, "get", "sidecar", &sidecar, "-o", "json"])
            .await?;
        let sidecar: Value = serde_json::from_str(&text)?;
        let hosts = sidecar["spec"]["egress"]
            .as_array()
            .and_then(|listeners| listeners.last())
            .context("egress")?["hosts"]
            .as_array()
            .context("hosts")?;
        let hosts = hosts.iter().filter_map(Value::as_str).map(str::to_owned);
        Ok(hosts
            .filter(|host| !host.contains(&format!(".{SYSTEM}.svc")))
            .collect())
    }

    /// Waits for a condition of a fence, `True` or `False`, and tells its reason.
    pub async fn wait_condition(
        &self,
        namespace: &str,
        name: &str,
        kind: &str,
        status: &str,
    ) -> Result<String> {
        until(
            format!("condition {kind}={status} of {namespace}/{name}"),
            LONG,
            async || {
                let fence = self.fence(namespace, name).await?;
                // What is said of the fence as it was proves nothing of what was just written into it.
                let (is, seen) = (
                    &fence["metadata"]["generation"],
                    &fence["status"]["observedGeneration"],
                );
                ensure!(seen == is, "generation {is} is not seen yet, only {seen}");
                let conditions = fence["status"]["conditions"]
                    .as_array()
                    .context("it has no conditions")?;
                let condition = conditions
                    .iter()
                    .find(|is| is["type"] == kind)
                    .context("it is not there")?;
                ensure!(
                    condition["status"] == status,
                    "{} {}",
                    condition["reason"],
                    condition["message"]
                );
                Ok(condition["reason"].as_str().unwrap_or_default().to_owned())
            },
        )
        .await
    }

    /// Labels a namespace and waits until the named fences are enforced, at rest, and in their pods' proxies.
    pub async fn enforce(&self, namespace: &str, fences: &[&str]) -> Result<()> {
        self.kubectl(&[
            "label",
            "namespace",
            namespace,
            "servicefence.io/mode=enforce",
            "--overwrite",
        ])
        .await?;
        for fence in fences {
            self.wait_enforced(namespace, fence).await?;
        }
        Ok(())
    }

    /// Waits until a fence is enforced, nothing in its namespace is on its way, and the proxy of the pod that
    /// is named as the fence has its Sidecar.
    pub async fn wait_enforced(&self, namespace: &str, fence: &str) -> Result<()> {
        self.wait_condition(namespace, fence, "Enforced", "True").await?;
        self.wait_at_rest(namespace).await?;
        let pod = format!("{namespace}/{fence}");
        if self.pods().iter().any(|it| it.full_name() == pod && it.proxied) {
            // Every proxy without a Sidecar knows it, and no scope has it.
            self.wait_cluster(&pod, &format!("|servicefence-observe.{SYSTEM}"), false)
                .await?;
        }
        Ok(())
    }

    /// Waits until no host is on its way into or out of a scope of the namespace.
    pub async fn wait_at_rest(&self, namespace: &str) -> Result<()> {
        until(format!("no transition in {namespace}"), LONG, async || {
            let sidecars = self
                .kubectl(&["-n", namespace, "get", "sidecars", "-o", "yaml"])
                .await?;
            ensure!(
                !sidecars.contains("name: servicefence-warm"),
                "hosts are on their way"
            );
            Ok(())
        })
        .await
    }

    /// Waits until a host is learned by a fence and its Sidecar has it.
    pub async fn wait_learned(&self, namespace: &str, name: &str, host: &str) -> Result<()> {
        until(
            format!("{host} in the scope of {namespace}/{name}"),
            LONG,
            async || {
                let fence = self.fence(namespace, name).await?;
                let learned = fence["status"]["learned"].as_array().cloned().unwrap_or_default();
                if !learned.iter().any(|entry| entry["host"] == host) {
                    bail!("not learned");
                }
                let scope = self.scope(namespace, name).await?;
                ensure!(
                    scope.iter().any(|entry| entry.ends_with(&format!("/{host}"))),
                    "learned, not in scope"
                );
                Ok(())
            },
        )
        .await
    }
}

impl Proxy {
    /// The cluster through which everything goes that a call uses next, by the counters around it.
    pub async fn watch<T>(&self, call: impl Future<Output = T>) -> Result<(T, crate::proxy::Taken)> {
        let before = self.traffic().await?;
        let result = call.await;
        Ok((result, self.taken_since(&before).await?))
    }
}

/// How long a fence may take for what it does in milliseconds when the machine is not busy.
pub const SOON: Duration = Duration::from_mins(1);
