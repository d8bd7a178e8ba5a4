//! The mesh as a value: start it, use it from tests, and nothing of it survives the last handle.

pub(crate) mod core;
pub mod options;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Result, bail};
use kube::Client;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::addresses::node_namespace;
use crate::kubelet::images::Kubelet;
use crate::mesh::core::Core;
use crate::mesh::options::MeshOptions;
use crate::objects::lock;
use crate::state::{self, Owner};
use crate::tools::{Tools, raise_limits};
use crate::{control_plane, handover, service_vips};

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
    /// Starts a mesh: control plane, Istio, Service addresses. About ten seconds, once the programs are
    /// built.
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
        if !tools.others().is_empty() {
            say(&format!("with {}", tools.others().join(" and ")));
        }
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
