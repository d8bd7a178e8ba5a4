//! The busy clients: for each host one that makes a new connection for every call, and one that keeps its own.
//!
//! In: a caller and hosts. Out: how many calls there were, every one that failed, and every kept connection that
//! did not last. A failure is one of the mesh: names are resolved before the first call, calls under way are let
//! finish at the end, and a kept connection is closed by nobody but the mesh.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use servicefence_e2e::objects::lock;
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{Connections, HttpClient, Load, LoadSpec, Mesh, TcpSession, Via};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Between two calls of a client. Eight clients then keep two cores busy and leave istiod some of them.
const PAUSE: Duration = Duration::from_millis(5);
/// No answer in this time is a failure.
const PATIENCE: Duration = Duration::from_secs(10);
/// Failures beyond this many are counted, not kept.
const KEPT_FAILURES: usize = 200;

/// A host that is called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Destination {
    /// Its name in the tables.
    pub(crate) name: &'static str,
    /// What is called; `http` and `tcp-server-first`.
    pub(crate) url: &'static str,
}

impl Destination {
    pub(crate) const fn new(name: &'static str, url: &'static str) -> Self {
        Self { name, url }
    }

    fn is_http(&self) -> bool {
        self.url.starts_with("http://")
    }
}

/// What the clients of a destination met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Met {
    /// Calls, each on a new connection.
    pub(crate) new_calls: u64,
    /// Those that were not answered with success.
    pub(crate) new_failed: u64,
    /// Calls on the kept connection.
    pub(crate) kept_calls: u64,
    /// Those that were not answered with success.
    pub(crate) kept_failed: u64,
    /// How often the kept connection had ended and another one was needed.
    pub(crate) cut: u64,
    /// What went wrong, with its time.
    pub(crate) failures: Vec<String>,
}

impl Met {
    pub(crate) fn calls(&self) -> u64 {
        self.new_calls + self.kept_calls
    }

    pub(crate) fn failed(&self) -> u64 {
        self.new_failed + self.kept_failed
    }
}

/// All clients, until they are stopped.
pub(crate) struct Traffic {
    clients: BTreeMap<&'static str, (Load, Keeping)>,
}

impl Traffic {
    /// Two clients for each destination, in the pod `from`.
    pub(crate) async fn start(mesh: &Mesh, from: &str, destinations: &[Destination]) -> Result<Self> {
        let mut clients = BTreeMap::new();
        for to in destinations {
            let spec = LoadSpec::new(from)
                .clients(1)
                .pause(PAUSE)
                .connections(Connections::New)
                .get(to.url);
            let keeping = Keeping::start(mesh, from, to).await?;
            clients.insert(to.name, (mesh.start_load(&spec).await?, keeping));
        }
        Ok(Self { clients })
    }

    /// What happened so far, by destination.
    pub(crate) fn so_far(&self) -> BTreeMap<&'static str, Met> {
        let met = |(name, (new, kept)): (&&'static str, &(Load, Keeping))| {
            (*name, meet(&new.so_far(), &kept.so_far()))
        };
        self.clients.iter().map(met).collect()
    }

    /// Calls of one destination so far.
    pub(crate) fn calls(&self, name: &str) -> u64 {
        let (new, kept) = &self.clients[name];
        new.so_far().calls + kept.so_far().calls
    }

    /// Waits until every client has made so many more calls.
    pub(crate) async fn more(&self, calls: u64) -> Result<()> {
        for (name, (new, kept)) in &self.clients {
            let start = kept.so_far().calls;
            new.more(calls).await?;
            until(format!("{calls} more calls of {name}"), LONG, async || {
                ensure!(
                    kept.so_far().calls >= start + calls,
                    "the kept connection is silent"
                );
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// The way that the last call on the kept connection took, as the destination's proxy saw it; HTTP only.
    pub(crate) fn kept_via(&self, name: &str) -> Option<Via> {
        self.clients[name].1.so_far().via
    }

    /// Lets calls that are under way finish, and tells what happened.
    pub(crate) async fn stop(self) -> Result<BTreeMap<&'static str, Met>> {
        let mut all = BTreeMap::new();
        for (name, (new, kept)) in self.clients {
            all.insert(name, meet(&new.stop().await, &kept.stop().await?));
        }
        Ok(all)
    }
}

fn meet(new: &servicefence_e2e::LoadReport, kept: &Kept) -> Met {
    let of_new = new.failures.iter().map(|failure| {
        format!(
            "{} {} (new connection): {}",
            failure.at, failure.url, failure.reply
        )
    });
    Met {
        new_calls: new.calls,
        new_failed: new.failed,
        kept_calls: kept.calls,
        kept_failed: kept.failed,
        cut: kept.cut,
        failures: of_new
            .take(KEPT_FAILURES)
            .chain(kept.failures.iter().cloned())
            .collect(),
    }
}

/// What a kept connection met.
#[derive(Clone, Debug, Default)]
struct Kept {
    calls: u64,
    failed: u64,
    cut: u64,
    via: Option<Via>,
    failures: Vec<String>,
}

impl Kept {
    fn fail(&mut self, url: &str, error: &str) {
        if self.failures.len() < KEPT_FAILURES {
            self.failures
                .push(format!("{} {url} (kept connection): {error}", Timestamp::now()));
        }
    }
}

/// The client that keeps its connection.
struct Keeping {
    record: Arc<Mutex<Kept>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Keeping {
    async fn start(mesh: &Mesh, from: &str, to: &Destination) -> Result<Self> {
        let record = Arc::new(Mutex::new(Kept::default()));
        let (stop, stopped) = watch::channel(false);
        let into = Arc::clone(&record);
        let url = to.url;
        let task = if to.is_http() {
            let client = mesh.http_client(from, url).await?;
            tokio::spawn(keep_http(client, url, into, stopped))
        } else {
            let (mesh, from) = (mesh.clone(), from.to_owned());
            let session = mesh.tcp_session(&from, url).await?;
            tokio::spawn(async move { keep_tcp(&mesh, &from, session, url, &into, stopped).await })
        };
        Ok(Self { record, stop, task })
    }

    fn so_far(&self) -> Kept {
        lock(&self.record).clone()
    }

    async fn stop(self) -> Result<Kept> {
        self.stop.send_replace(true);
        self.task.await?;
        Ok(lock(&self.record).clone())
    }
}

async fn keep_http(
    mut client: HttpClient,
    url: &'static str,
    into: Arc<Mutex<Kept>>,
    stop: watch::Receiver<bool>,
) {
    while !*stop.borrow() {
        let reply = client.get("/").await;
        {
            let mut record = lock(&into);
            let again = reply.new_connection && record.calls > 0;
            record.calls += 1;
            record.via.clone_from(&reply.via);
            if again {
                record.cut += 1;
                record.fail(url, "the connection had ended and was made anew");
            }
            if !reply.is_ok() {
                record.failed += 1;
                record.fail(url, &reply.to_string());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn keep_tcp(
    mesh: &Mesh,
    from: &str,
    session: TcpSession,
    url: &str,
    into: &Mutex<Kept>,
    stop: watch::Receiver<bool>,
) {
    let mut kept = Some(session);
    while !*stop.borrow() {
        let call = async {
            let mut session = match kept.take() {
                Some(session) => session,
                None => mesh.tcp_session(from, url).await?,
            };
            session.exchange(b"ping\n").await?;
            anyhow::Ok(session)
        };
        let answer = timeout(PATIENCE, call).await;
        let answer = answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {PATIENCE:?}")));
        {
            let mut record = lock(into);
            record.calls += 1;
            match answer {
                Ok(session) => kept = Some(session),
                Err(error) => {
                    record.failed += 1;
                    record.cut += 1;
                    record.fail(url, &format!("{error:#}"));
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
