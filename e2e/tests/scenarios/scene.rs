//! What a scenario has: the mesh, and namespaces of its own.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures_util::future::try_join_all;
use servicefence_e2e::install::{GATEWAY, SOON};
use servicefence_e2e::wait::{Hopeless, until};
use servicefence_e2e::{Call, Mesh, PodSpec, Protocol, Reply, ServiceSpec, Taken, Traffic, Via};

/// A scenario by name.
pub(crate) type Scenario = (
    &'static str,
    fn(Scene) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>,
);

/// Lists the scenarios of a module, which are async functions of a [`Scene`].
#[macro_export]
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn all() -> impl Iterator<Item = $crate::scene::Scenario> {
            let all: Vec<$crate::scene::Scenario> =
                vec![$((stringify!($name), |scene| Box::pin($name(scene)))),*];
            all.into_iter()
        }
    };
}

/// The mesh, the prefix of this scenario's namespaces, and its pods.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    prefix: String,
    apps: Arc<Mutex<BTreeSet<String>>>,
}

impl Scene {
    pub(crate) fn new(mesh: Mesh, scenario: &str) -> Self {
        let prefix = scenario.split('_').next().unwrap_or(scenario).to_owned();
        Self {
            mesh,
            prefix,
            apps: Arc::default(),
        }
    }

    /// A namespace of this scenario.
    pub(crate) fn ns(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// A pod of this scenario: `namespace/pod`.
    pub(crate) fn pod(&self, name: &str) -> String {
        let (namespace, pod) = name.split_once('/').unwrap_or(("default", name));
        format!("{}/{pod}", self.ns(namespace))
    }

    /// The host of a Service of this scenario.
    pub(crate) fn host(&self, name: &str) -> String {
        let (namespace, service) = name.split_once('/').unwrap_or(("default", name));
        format!("{service}.{}.svc.cluster.local", self.ns(namespace))
    }

    /// How a Sidecar imports a Service of this scenario.
    pub(crate) fn import(&self, name: &str) -> String {
        let namespace = name.split('/').next().unwrap_or_default();
        format!("{}/{}", self.ns(namespace), self.host(name))
    }

    /// A pod with a Service, to be given servers.
    pub(crate) fn app(&self, name: &str) -> PodSpec {
        let name = self.pod(name);
        let spec = PodSpec::new(&name);
        self.apps
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name);
        spec
    }

    /// Removes the pods of this scenario. All pods of the machine share what the kernel gives one user.
    pub(crate) async fn leave(self) -> Result<()> {
        let apps = std::mem::take(&mut *self.apps.lock().unwrap_or_else(PoisonError::into_inner));
        try_join_all(apps.iter().map(|app| self.mesh.remove_pod(app))).await?;
        Ok(())
    }

    pub(crate) async fn add(&self, apps: impl IntoIterator<Item = PodSpec>) -> Result<()> {
        try_join_all(apps.into_iter().map(|app| self.mesh.add_app(app))).await?;
        Ok(())
    }

    /// One more Service of a running app, named after it: `books/fresh` of app `server`.
    pub(crate) async fn service(&self, name: &str, app: &str, protocol: Protocol, port: u16) -> Result<()> {
        let name = self.pod(name);
        let service = ServiceSpec::new(&name).selects(app).port(protocol, port);
        self.mesh.add_service(&service).await?;
        self.mesh.wait_endpoint(&name).await
    }

    /// The address of a Service.
    pub(crate) async fn address(&self, name: &str) -> Result<String> {
        let full = self.pod(name);
        let (namespace, service) = full.split_once('/').context("namespace/name")?;
        let path = "jsonpath={.spec.clusterIP}";
        self.kubectl(&["-n", namespace, "get", "service", service, "-o", path])
            .await
    }

    /// Calls, and tells by which clusters of the caller's proxy it went.
    pub(crate) async fn call(&self, from: &str, call: &Call) -> Result<(Reply, Taken)> {
        let from = self.pod(from);
        let proxy = self.mesh.proxy(&from)?;
        proxy.watch(self.mesh.call(&from, call)).await
    }

    /// Calls until a pod answers: objects that lead there come to a proxy after a while.
    pub(crate) async fn until_answered(&self, from: &str, by: &str, call: &Call) -> Result<()> {
        until(format!("an answer of {by} to {from}"), SOON, async || {
            let (reply, taken) = self.call(from, call).await?;
            ensure!(reply.is_from(&self.pod(by)), "{reply}, by {taken}");
            Ok(())
        })
        .await
    }

    /// A first call: answered by the destination itself, through the gateway, as both proxies say.
    pub(crate) async fn first_call(&self, from: &str, to: &str, call: &Call) -> Result<Reply> {
        let (reply, taken) = self.call(from, call).await?;
        ensure!(
            reply.is_from(&self.pod(to)),
            "first call from {from} to {to}: {reply}"
        );
        ensure!(
            taken.fallback(),
            "first call from {from} to {to} went by {taken}, not by the fallback gateway"
        );
        if let Some(via) = &reply.via {
            ensure!(
                *via == Via::Through(GATEWAY.to_owned()),
                "the proxy of {to} saw the first call {via}"
            );
        }
        Ok(reply)
    }

    /// Calls until one goes direct, as both proxies say. Every call on the way must succeed.
    pub(crate) async fn until_direct(&self, from: &str, to: &str, call: &Call) -> Result<Reply> {
        until(format!("a direct call from {from} to {to}"), SOON, async || {
            let (reply, taken) = self.call(from, call).await?;
            if !reply.is_from(&self.pod(to)) {
                return Err(Hopeless(anyhow!("{reply}, by {taken}")).into());
            }
            ensure!(
                !taken.fallback() && taken.uses(&self.host(to)),
                "it went by {taken}"
            );
            if let Some(via) = &reply.via {
                ensure!(*via == Via::Direct, "the proxy of {to} saw it {via}");
            }
            Ok(reply)
        })
        .await
    }

    /// What the gateway's proxies sent to a Service so far.
    pub(crate) async fn at_gateway(&self, name: &str) -> Result<Traffic> {
        let host = self.host(name);
        let mut all = Traffic::default();
        for pod in self.mesh.gateway_pods() {
            let traffic = self.mesh.proxy(&pod.full_name())?.traffic().await?;
            for (_, more) in traffic.iter().filter(|(cluster, _)| cluster.ends_with(&host)) {
                all.requests += more.requests;
                all.connections += more.connections;
            }
        }
        Ok(all)
    }

    /// The hosts that a fence has learned.
    pub(crate) async fn learned_hosts(&self, fence: &str) -> Result<BTreeSet<String>> {
        let full = self.pod(fence);
        let (namespace, name) = full.split_once('/').context("namespace/name")?;
        let fence = self.mesh.fence(namespace, name).await?;
        let learned = fence["status"]["learned"].as_array().cloned().unwrap_or_default();
        let hosts = learned.iter().filter_map(|entry| entry["host"].as_str());
        Ok(hosts.map(str::to_owned).collect())
    }

    /// The scope of a fence as `namespace/service` of this scenario, and whatever else is in it.
    pub(crate) async fn scope(&self, fence: &str) -> Result<Vec<String>> {
        let full = self.pod(fence);
        let (namespace, name) = full.split_once('/').context("namespace/name")?;
        let mut scope = self.mesh.scope(namespace, name).await?;
        scope.retain(|host| host.starts_with(&format!("{}-", self.prefix)));
        Ok(scope)
    }

    pub(crate) async fn learned(&self, fence: &str, to: &str) -> Result<()> {
        let full = self.pod(fence);
        let (namespace, name) = full.split_once('/').context("namespace/name")?;
        self.mesh.wait_learned(namespace, name, &self.host(to)).await
    }

    pub(crate) async fn enforce(&self, namespace: &str, fences: &[&str]) -> Result<()> {
        self.mesh.enforce(&self.ns(namespace), fences).await
    }

    /// Labels a namespace, and waits until a fence says why it is not enforced.
    pub(crate) async fn held_back(&self, namespace: &str, fence: &str, reason: &str) -> Result<()> {
        let namespace = self.ns(namespace);
        let label = ["label", "namespace", &namespace, "servicefence.io/mode=enforce"];
        self.kubectl(&label).await?;
        let is = self
            .mesh
            .wait_condition(&namespace, fence, "Enforced", "False")
            .await?;
        ensure!(is == reason, "{is}");
        Ok(())
    }

    /// Writes an enforced fence with these further fields, and waits until it is at rest.
    pub(crate) async fn fence(&self, name: &str, spec: &str) -> Result<()> {
        let full = self.pod(name);
        let (namespace, name) = full.split_once('/').context("namespace/name")?;
        self.yaml(&format!(
            "{{apiVersion: servicefence.io/v1alpha1, kind: ServiceFence, \
             metadata: {{name: {name}, namespace: {namespace}}}, spec: {{mode: Enforce, {spec}}}}}"
        ))
        .await?;
        self.mesh.wait_enforced(namespace, name).await
    }

    pub(crate) async fn yaml(&self, text: &str) -> Result<()> {
        self.mesh.apply_yaml(&text.replace("$P", &self.prefix)).await
    }

    pub(crate) async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let args: Vec<String> = args.iter().map(|arg| arg.replace("$P", &self.prefix)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.mesh.kubectl(&args).await
    }
}
