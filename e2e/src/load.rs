//! A load generator: clients in a pod call a list of targets until they are stopped, and every failure is
//! kept.
//!
//! Odd clients make a new connection for each call, even ones keep theirs, so both kinds are always in the
//! mix.

mod report;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use report::{Failure, LoadReport, Outcome};

use crate::call::{Call, HttpClient, Scheme, Target, TcpSession};
use crate::mesh::Mesh;
use crate::objects::lock;
use report::Record;

/// Which connections clients use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// Every second client keeps its connection.
    #[default]
    Both,
    /// All keep theirs.
    Kept,
    /// A new one for each call.
    New,
}

/// What to call, and how hard.
#[derive(Clone, Debug)]
pub struct LoadSpec {
    from: String,
    calls: Vec<Call>,
    clients: usize,
    pause: Duration,
    connections: Connections,
}

impl LoadSpec {
    /// Eight clients in this pod, each with a pause of a millisecond between calls.
    pub fn new(from: &str) -> Self {
        Self {
            from: from.to_owned(),
            calls: Vec::new(),
            clients: 8,
            pause: Duration::from_millis(1),
            connections: Connections::Both,
        }
    }

    /// Adds a call. Clients take the calls in turn; schemes are HTTP's and TCP's.
    #[must_use]
    pub fn call(mut self, call: Call) -> Self {
        self.calls.push(call);
        self
    }

    /// Adds a GET or a TCP exchange.
    #[must_use]
    pub fn get(self, url: &str) -> Self {
        self.call(Call::get(url))
    }

    /// Sets the number of clients.
    #[must_use]
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// Sets the pause between two calls of a client.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Sets which connections clients use.
    #[must_use]
    pub fn connections(mut self, connections: Connections) -> Self {
        self.connections = connections;
        self
    }
}

/// Load that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Load {
    record: Arc<Mutex<Record>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Mesh {
    /// Starts load. Names are resolved once, at the start, as long-running clients do.
    pub async fn start_load(&self, spec: &LoadSpec) -> Result<Load> {
        let mut targets = Vec::new();
        for call in &spec.calls {
            let target = self.target(&spec.from, call.url()).await?;
            ensure!(
                !matches!(target.scheme, Scheme::Grpc | Scheme::Ws),
                "load is made of HTTP and TCP calls, not of {}",
                call.url()
            );
            targets.push((target, call.clone()));
        }
        ensure!(!targets.is_empty(), "load without any call");
        let record = Arc::new(Mutex::new(Record::new()));
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for number in 0..spec.clients {
            let keeps = match spec.connections {
                Connections::Both => number % 2 == 0,
                Connections::Kept => true,
                Connections::New => false,
            };
            let client = Client {
                mesh: self.clone(),
                targets: targets.clone(),
                number,
                keeps,
                pause: spec.pause,
                record: Arc::clone(&record),
                stop: stopped.clone(),
            };
            clients.spawn(client.run());
        }
        Ok(Load {
            record,
            stop,
            clients,
        })
    }
}

impl Load {
    /// What has happened so far.
    pub fn so_far(&self) -> LoadReport {
        lock(&self.record).report()
    }

    /// Lets calls that are under way finish, and tells what happened.
    pub async fn stop(mut self) -> LoadReport {
        self.stop.send_replace(true);
        while self.clients.join_next().await.is_some() {}
        lock(&self.record).report()
    }
}

struct Client {
    mesh: Mesh,
    targets: Vec<(Target, Call)>,
    number: usize,
    keeps: bool,
    pause: Duration,
    record: Arc<Mutex<Record>>,
    stop: watch::Receiver<bool>,
}

/// The connection that a client keeps to one target.
enum Kept {
    Http(HttpClient),
    Tcp(Option<TcpSession>),
}

impl Client {
    async fn run(self) {
        let mut kept: Vec<Kept> = self
            .targets
            .iter()
            .map(|(target, _)| self.fresh(target))
            .collect();
        let mut turn = self.number;
        while !*self.stop.borrow() {
            let index = turn % self.targets.len();
            turn += 1;
            let (target, call) = &self.targets[index];
            if !self.keeps {
                kept[index] = self.fresh(target);
            }
            let at = jiff::Timestamp::now();
            let reply = match &mut kept[index] {
                Kept::Http(client) => client.send(call).await,
                Kept::Tcp(session) => TcpSession::call(session, target, call).await,
            };
            lock(&self.record).take(at, call.url(), &reply);
            tokio::time::sleep(self.pause).await;
        }
    }

    fn fresh(&self, target: &Target) -> Kept {
        match target.scheme {
            Scheme::Tcp | Scheme::TcpServerFirst => Kept::Tcp(None),
            _ => Kept::Http(HttpClient::of(self.mesh.clone(), target.clone())),
        }
    }
}

impl Load {
    /// Waits until so many more calls have been made; a way to be sure that load really met a change.
    pub async fn more(&self, calls: u64) -> Result<()> {
        let start = self.so_far().calls;
        let begun = Instant::now();
        crate::wait::until(format!("{calls} more calls"), crate::wait::LONG, || async {
            let made = self.so_far().calls - start;
            ensure!(made >= calls, "only {made} in {:?}", begun.elapsed());
            Ok(())
        })
        .await
    }
}
