//! The mesh as a value: start it, use it from tests, and nothing of it survives the last handle.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Result, bail};
use kube::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::control_plane::{self, ISTIO_NAMESPACE, node_namespace};
use crate::handover::{self, Kubelet};
use crate::netns::{Netns, Sockets};
use crate::objects::{Objects, lock};
use crate::pod::record::PodRecord;
use crate::process::Process;
use crate::service_vips;
use crate::state::{self, Owner};
use crate::tools::{Tools, raise_limits};

/// Istio's `outboundTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutboundTrafficPolicy {
    /// Unknown destinations are passed through.
    #[default]
    AllowAny,
    /// Unknown destinations are refused.
    RegistryOnly,
}

impl OutboundTrafficPolicy {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::AllowAny => "ALLOW_ANY",
            Self::RegistryOnly => "REGISTRY_ONLY",
        }
    }
}

/// The mesh-wide mode of PeerAuthentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mtls {
    /// Only mTLS is accepted.
    #[default]
    Strict,
    /// Plaintext is accepted too.
    Permissive,
}

impl Mtls {
    /// The PeerAuthentication of the mesh.
    pub fn object(self) -> Value {
        let mode = match self {
            Self::Strict => "STRICT",
            Self::Permissive => "PERMISSIVE",
        };
        json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": "default", "namespace": ISTIO_NAMESPACE}, "spec": {"mtls": {"mode": mode}}})
    }
}

/// How to start a mesh. The default is a STRICT, ALLOW_ANY mesh that ends with its last handle.
#[derive(Clone, Debug, Default)]
pub struct MeshOptions {
    /// The id; a new one unless given.
    pub id: Option<String>,
    /// What happens to unknown destinations.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// Whether plaintext is accepted.
    pub mtls: Mtls,
    /// YAML fragments that are merged over MeshConfig, in this order.
    pub mesh_config: Vec<String>,
    /// Environment variables of istiod, over the usual ones.
    pub istiod_env: Vec<(String, String)>,
    /// The mesh outlives the last handle, until `mesh down`: a process of its own then keeps it.
    pub detached: bool,
    /// Nothing but etcd and an API server that knows Istio's kinds: no istiod, no controllers, no Service addresses.
    pub api_server_only: bool,
    /// Print each step of the start to stderr.
    pub verbose: bool,
}

impl MeshOptions {
    /// Sets the policy for unknown destinations.
    #[must_use]
    pub fn outbound(mut self, policy: OutboundTrafficPolicy) -> Self {
        self.outbound_traffic_policy = policy;
        self
    }

    /// Sets the mesh-wide mTLS mode.
    #[must_use]
    pub fn mtls(mut self, mtls: Mtls) -> Self {
        self.mtls = mtls;
        self
    }

    /// Adds a YAML fragment of MeshConfig.
    #[must_use]
    pub fn mesh_config(mut self, fragment: impl Into<String>) -> Self {
        self.mesh_config.push(fragment.into());
        self
    }

    /// Sets an environment variable of istiod.
    #[must_use]
    pub fn istiod_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.istiod_env.push((name.into(), value.into()));
        self
    }
}

/// A running mesh. Clones are handles of the same one; the last handle ends it, or hands it over if it was
/// started detached.
#[derive(Clone)]
pub struct Mesh {
    core: Arc<Core>,
    guard: Arc<Guard>,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mesh {}", self.core.id)
    }
}

/// What background tasks share with the handles; it does not keep the mesh alive.
pub(crate) struct Core {
    pub(crate) id: String,
    pub(crate) folder: PathBuf,
    pub(crate) tools: Tools,
    pub(crate) client: Client,
    pub(crate) objects: Objects,
    pub(crate) processes: Mutex<HashMap<String, Process>>,
    sockets: Mutex<HashMap<String, Sockets>>,
}

/// Ends the mesh when the last handle goes.
struct Guard {
    id: String,
    end: End,
    tasks: Mutex<JoinSet<()>>,
    kubelets: Mutex<Vec<Kubelet>>,
}

/// What the last handle does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Ends the mesh.
    Destroy,
    /// Hands it to a process of its own.
    HandOver,
    /// Nothing: it belongs to another process.
    Leave,
}

impl Guard {
    fn new(id: &str, end: End) -> Self {
        Self {
            id: id.to_owned(),
            end,
            tasks: Mutex::default(),
            kubelets: Mutex::default(),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        lock(&self.tasks).abort_all();
        let result = match self.end {
            End::Leave => return,
            End::HandOver => handover::give_away(&self.id, &lock(&self.kubelets)),
            End::Destroy => {
                if std::thread::panicking() {
                    eprintln!("{}", crate::dump::of(&self.id));
                }
                state::destroy(&self.id)
            }
        };
        if let Err(error) = result {
            eprintln!("mesh {}: {error:#}; `mesh down --id {0}` cleans up", self.id);
        }
    }
}

impl Mesh {
    /// Starts a mesh: control plane, Istio, Service addresses. About ten seconds, once the programs are built.
    pub async fn up(options: MeshOptions) -> Result<Self> {
        for id in state::clean_stale()? {
            eprintln!("cleaned up after mesh {id}, whose owner is gone");
        }
        let tools = tokio::task::spawn_blocking(Tools::ready).await??;
        raise_limits()?;
        let mut state = state::claim(options.id.as_deref(), Some(Owner::me()))?;
        // From here on everything that exists is found by the id, so a failed start leaves nothing.
        let mut guard = Guard::new(&state.id, End::Destroy);
        let start = Instant::now();
        let id = state.id.clone();
        let say = |step: &str| {
            if options.verbose {
                eprintln!("[{:5.1} s] mesh {id}: {step}", start.elapsed().as_secs_f64());
            }
        };
        let processes = control_plane::start(&tools, &options, &mut state, say)
            .await
            .inspect_err(|_| {
                eprintln!("{}", crate::dump::of(&state.id));
            })?;
        say("ready");
        let core = Arc::new(Core::open(&state.id, tools).await?);
        for process in processes {
            core.keep("control-plane", process);
        }
        if !options.api_server_only {
            lock(&guard.tasks).spawn(service_vips::keep(Arc::clone(&core)));
        }
        if options.detached {
            guard.end = End::HandOver;
        }
        Ok(Self {
            core,
            guard: Arc::new(guard),
        })
    }

    /// A handle of a mesh that another process started. Dropping it ends nothing.
    pub async fn attach(id: &str) -> Result<Self> {
        state::load(id)?;
        if !node_namespace(id).exists() {
            bail!("mesh {id} is not running; `mesh down --id {id}` removes what it left");
        }
        let tools = tokio::task::spawn_blocking(Tools::ready).await??;
        let core = Arc::new(Core::open(id, tools).await?);
        let guard = Guard::new(id, End::Leave);
        Ok(Self {
            core,
            guard: Arc::new(guard),
        })
    }

    /// Changes MeshConfig: a YAML fragment is merged over it. istiod follows within a second.
    pub async fn set_mesh_config(&self, fragment: &str) -> Result<()> {
        control_plane::change_mesh_config(&self.core.objects, fragment).await
    }

    /// Ends the mesh now and says whether that worked; dropping the last handle does the same silently.
    pub fn down(self) -> Result<()> {
        state::destroy(&self.core.id)
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.core.id
    }

    /// A client of its API server, as a cluster administrator.
    pub fn client(&self) -> Client {
        self.core.client.clone()
    }

    /// The kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.core.kubeconfig()
    }

    /// The folder with its logs.
    pub fn logs(&self) -> PathBuf {
        self.core.logs()
    }

    /// Server-side apply of one object.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        self.core.objects.apply(object).await.map(drop)
    }

    /// Server-side apply of all documents of a YAML text.
    pub async fn apply_yaml(&self, text: &str) -> Result<()> {
        self.core.objects.apply_yaml(text).await
    }

    /// Deletes an object, named by apiVersion, kind and metadata; gone already is fine.
    pub async fn delete(&self, object: &Value) -> Result<()> {
        self.core.objects.delete(object).await
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Remembers a kubelet, for the process that the mesh may be handed to.
    pub(crate) fn remember(&self, kubelet: Kubelet) {
        lock(&self.guard.kubelets).push(kubelet);
    }

    /// Runs a task until the mesh ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        lock(&self.guard.tasks).spawn(task);
    }
}

impl Core {
    async fn open(id: &str, tools: Tools) -> Result<Self> {
        let folder = state::folder(id);
        let client = control_plane::client(&folder.join("kubeconfig")).await?;
        Ok(Self {
            id: id.to_owned(),
            objects: Objects::new(client.clone()),
            folder,
            tools,
            client,
            processes: Mutex::default(),
            sockets: Mutex::default(),
        })
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    pub(crate) fn node(&self) -> Netns {
        node_namespace(&self.id)
    }

    /// Holds a process, so that it is reaped when it ends.
    pub(crate) fn keep(&self, group: &str, process: Process) {
        let name = process
            .log()
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default();
        lock(&self.processes).insert(format!("{group}/{name}"), process);
    }

    /// Takes the processes of a group out.
    pub(crate) fn take(&self, group: &str) -> Vec<Process> {
        let mut processes = lock(&self.processes);
        let prefix = format!("{group}/");
        let names: Vec<String> = processes
            .keys()
            .filter(|name| name.starts_with(&prefix))
            .cloned()
            .collect();
        names.iter().filter_map(|name| processes.remove(name)).collect()
    }

    /// A maker of sockets in a namespace, one thread for all callers.
    pub(crate) fn sockets(&self, netns: &Netns) -> Result<Sockets> {
        let mut sockets = lock(&self.sockets);
        if let Some(found) = sockets.get(netns.name()) {
            return Ok(found.clone());
        }
        let made = netns.sockets()?;
        sockets.insert(netns.name().to_owned(), made.clone());
        Ok(made)
    }

    /// Lets the thread of a namespace that goes end.
    pub(crate) fn forget_sockets(&self, netns: &Netns) {
        lock(&self.sockets).remove(netns.name());
    }

    /// The pod with this `namespace/name`.
    pub(crate) fn pod(&self, name: &str) -> Result<PodRecord> {
        PodRecord::load(&self.folder, name)
    }
}
