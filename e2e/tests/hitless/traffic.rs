//! The busy clients: for each host one that makes a new connection for every call, one that keeps its own,
//! and for HTTP one that reads answers which take a minute.
//!
//! In: a caller and hosts. Out: how many calls there were, every one that failed, and every kept connection
//! and long answer that did not last. A failure is one of the mesh: names are resolved before the first call,
//! calls under way are let finish at the end, and only the mesh closes a kept connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use servicefence_e2e::objects::lock;
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{Call, Connections, HttpClient, Load, LoadSpec, Mesh, TcpSession, Via};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Between two calls of a client. Eight clients then keep two cores busy and leave istiod some of them.
const PAUSE: Duration = Duration::from_millis(5);
/// No answer in this time is a failure.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is read for a minute: longer than the 45 s in which Envoy ends what a listener that changed still
/// carries.
const LONG_ANSWER: &str = "stream?n=120&ms=500";
/// Failures beyond this many are counted, not kept.
const KEPT_FAILURES: usize = 200;

/// A host that is called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Destination {
    /// Its name in the tables.
    pub(crate) name: &'static str,
    /// What is called; `http` and `tcp-server-first`.
    pub(crate) url: &'static str,
    /// Long answers of it last too.
    lasts: bool,
}

impl Destination {
    pub(crate) const fn new(name: &'static str, url: &'static str) -> Self {
        let lasts = true;
        Self { name, url, lasts }
    }

    /// Its calls take the second look. The listener of the second look goes with the last Sidecar and ends
    /// long answers.
    pub(crate) const fn looked_at_twice(mut self) -> Self {
        self.lasts = false;
        self
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
    /// How often the kept connection had ended and another one was needed, and how many long answers broke
    /// off.
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
    clients: BTreeMap<&'static str, Clients>,
}

/// Those of one destination.
struct Clients {
    new: Load,
    kept: Keeping,
    long: Option<Keeping>,
}

impl Traffic {
    /// Two or three clients for each destination, in the pod `from`.
    pub(crate) async fn start(mesh: &Mesh, from: &str, destinations: &[Destination]) -> Result<Self> {
        let mut clients = BTreeMap::new();
        for to in destinations {
            let spec = LoadSpec::new(from)
                .clients(1)
                .pause(PAUSE)
                .connections(Connections::New)
                .get(to.url);
            let these = Clients {
                kept: Keeping::start(mesh, from, to).await?,
                new: mesh.start_load(&spec).await?,
                long: (to.is_http() && to.lasts).then(|| Keeping::long_answers(mesh, from, to)),
            };
            clients.insert(to.name, these);
        }
        Ok(Self { clients })
    }

    /// What happened so far, by destination.
    pub(crate) fn so_far(&self) -> BTreeMap<&'static str, Met> {
        let met = |these: &Clients| {
            let long = these.long.as_ref().map(Keeping::so_far).unwrap_or_default();
            meet(&these.new.so_far(), &these.kept.so_far(), &long)
        };
        self.clients
            .iter()
            .map(|(name, these)| (*name, met(these)))
            .collect()
    }

    /// Calls of one destination so far.
    pub(crate) fn calls(&self, name: &str) -> u64 {
        let Clients { new, kept, .. } = &self.clients[name];
        new.so_far().calls + kept.so_far().calls
    }

    /// Waits until every client has made so many more calls.
    pub(crate) async fn more(&self, calls: u64) -> Result<()> {
        for (name, Clients { new, kept, .. }) in &self.clients {
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
        self.clients[name].kept.so_far().via
    }

    /// Lets calls that are under way finish, and tells what happened.
    pub(crate) async fn stop(self) -> Result<BTreeMap<&'static str, Met>> {
        // All at once, so that the last long answers end together.
        for long in self.clients.values().filter_map(|these| these.long.as_ref()) {
            long.stop.send_replace(true);
        }
        let mut met = BTreeMap::new();
        for (name, Clients { new, kept, long }) in self.clients {
            let (new, kept) = (new.stop().await, kept.stop().await?);
            let long = match long {
                Some(long) => long.stop().await?,
                None => Kept::default(),
            };
            met.insert(name, meet(&new, &kept, &long));
        }
        Ok(met)
    }
}

fn meet(new: &servicefence_e2e::LoadReport, kept: &Kept, long: &Kept) -> Met {
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
        cut: kept.cut + long.cut,
        failures: of_new
            .take(KEPT_FAILURES)
            .chain(kept.failures.iter().cloned())
            .chain(long.failures.iter().cloned())
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
                .push(format!("{} {url} (one connection): {error}", Timestamp::now()));
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
        let url = to.url;
        if to.is_http() {
            let client = mesh.http_client(from, url).await?;
            return Ok(Self::spawn(|into, stopped| keep_http(client, url, into, stopped)));
        }
        let (mesh, from) = (mesh.clone(), from.to_owned());
        let session = mesh.tcp_session(&from, url).await?;
        Ok(Self::spawn(|into, stopped| async move {
            keep_tcp(&mesh, &from, session, url, &into, stopped).await;
        }))
    }

    fn long_answers(mesh: &Mesh, from: &str, to: &Destination) -> Self {
        let call = Call::get(&format!("{}{LONG_ANSWER}", to.url)).timeout(2 * LONG);
        let (mesh, from) = (mesh.clone(), from.to_owned());
        Self::spawn(|into, stopped| async move {
            read_long_answers(&mesh, &from, &call, &into, stopped).await;
        })
    }

    fn spawn<F>(work: impl FnOnce(Arc<Mutex<Kept>>, watch::Receiver<bool>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let record = Arc::new(Mutex::new(Kept::default()));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(work(Arc::clone(&record), stopped));
        Self { record, stop, task }
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

async fn read_long_answers(
    mesh: &Mesh,
    from: &str,
    call: &Call,
    into: &Mutex<Kept>,
    stop: watch::Receiver<bool>,
) {
    while !*stop.borrow() {
        let reply = mesh.call(from, call).await;
        let mut record = lock(into);
        record.calls += 1;
        if !reply.is_ok() {
            record.cut += 1;
            record.fail(call.url(), &format!("a long answer broke off: {reply}"));
        }
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
