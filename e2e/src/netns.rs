//! Network namespaces: made, entered, listed and deleted. Every process and address of a mesh lives in one.
//!
//! A socket belongs to the namespace of the thread that makes it, wherever it is used later. So one small
//! thread per namespace makes sockets for the whole harness, and thousands of calls from a pod need no
//! process at all.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

const MOUNTED: &str = "/run/netns";
const CONFIGURED: &str = "/etc/netns";

/// A named network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace, with loopback up.
    pub fn create(name: &str) -> Result<Self> {
        run("ip", &["netns", "add", name], "")?;
        let netns = Self::named(name);
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// A namespace that exists already.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(MOUNTED).join(&self.name)
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Runs lines of `ip` commands inside.
    pub fn ip(&self, lines: &str) -> Result<()> {
        run("ip", &["-n", &self.name, "-batch", "-"], lines).map(drop)
    }

    /// The same about IPv6.
    pub fn ip6(&self, lines: &str) -> Result<()> {
        run("ip", &["-6", "-n", &self.name, "-batch", "-"], lines).map(drop)
    }

    /// Runs a short program inside and gives its output.
    pub fn run(&self, program: &str, args: &[&str], stdin: &str) -> Result<String> {
        let net = format!("--net={}", self.path().display());
        let mut all = vec![net.as_str(), "--", program];
        all.extend(args);
        run("nsenter", &all, stdin)
    }

    /// What processes inside see as `/etc/hosts`. Written in place, since running processes hold the file
    /// itself.
    pub fn write_hosts(&self, text: &str) -> Result<()> {
        let folder = PathBuf::from(CONFIGURED).join(&self.name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("hosts"), text)?;
        // Names that are in no hosts file must fail at once, not after a resolver's time-out.
        fs::write(
            folder.join("resolv.conf"),
            "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
        )?;
        Ok(())
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A maker of sockets of this namespace.
    pub fn sockets(&self) -> Result<Sockets> {
        let file = self.open()?;
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name(format!("sockets {}", self.name))
            .spawn(move || {
                if let Err(error) = setns(&file, CloneFlags::CLONE_NEWNET) {
                    eprintln!("cannot enter a network namespace: {error}");
                    return;
                }
                drop(file);
                while let Ok((is_ipv6, order)) = inbox.recv() {
                    let socket = if is_ipv6 {
                        TcpSocket::new_v6()
                    } else {
                        TcpSocket::new_v4()
                    };
                    // Whoever asked may have given up; that is no fault.
                    let _ = order.send(socket);
                }
            })?;
        Ok(Sockets { orders })
    }

    fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("there is no network namespace {}", self.name))
    }

    /// Ends what runs inside and deletes the namespace. Nothing to do is no error.
    pub fn delete(&self) -> Result<()> {
        delete_all(std::slice::from_ref(self))
    }

    /// A short name for a folder, there until the namespace is deleted.
    pub fn short_path(&self, folder: &Path) -> Result<PathBuf> {
        let link = self.short_link();
        let _ = fs::remove_file(&link);
        symlink(folder, &link).with_context(|| format!("cannot make {}", link.display()))?;
        Ok(link)
    }

    fn short_link(&self) -> PathBuf {
        Path::new("/run").join(&self.name)
    }
}

/// Whether a socket is to be of IPv6, and who gets it.
type Order = (bool, oneshot::Sender<std::io::Result<TcpSocket>>);

/// Makes sockets that belong to one namespace.
#[derive(Clone, Debug)]
pub struct Sockets {
    orders: mpsc::Sender<Order>,
}

impl Sockets {
    /// A new TCP socket of IPv4, not yet connected.
    pub async fn tcp(&self) -> std::io::Result<TcpSocket> {
        self.order(false).await
    }

    /// One of the family of what it is to reach.
    pub async fn tcp_to(&self, address: SocketAddr) -> std::io::Result<TcpSocket> {
        self.order(address.is_ipv6()).await
    }

    async fn order(&self, is_ipv6: bool) -> std::io::Result<TcpSocket> {
        let gone = || std::io::Error::other("the pod's network namespace is gone");
        let (order, delivery) = oneshot::channel();
        self.orders.send((is_ipv6, order)).map_err(|_| gone())?;
        delivery.await.map_err(|_| gone())?
    }
}

/// The namespaces with names that begin with `prefix`.
pub fn with_prefix(prefix: &str) -> Vec<Netns> {
    let Ok(entries) = fs::read_dir(MOUNTED) else {
        return Vec::new();
    };
    let mut found: Vec<Netns> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .map(|name| Netns { name })
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// Ends every process in these namespaces, then deletes them and their files under `/etc/netns`.
pub fn delete_all(all: &[Netns]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let pids = pids_inside(all);
        if pids.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            bail!("processes {pids:?} of the mesh do not end");
        }
        for pid in pids {
            // It may have ended in between.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(20));
    }
    for netns in all {
        if netns.exists() {
            run("ip", &["netns", "delete", &netns.name], "")?;
        }
        let files = PathBuf::from(CONFIGURED).join(&netns.name);
        if files.exists() {
            fs::remove_dir_all(files)?;
        }
        // There is one only for a pod with a proxy.
        let _ = fs::remove_file(netns.short_link());
    }
    Ok(())
}

/// Processes in one of these network namespaces. A namespace is known by its inode.
fn pids_inside(all: &[Netns]) -> Vec<i32> {
    let inodes: Vec<u64> = all
        .iter()
        .filter_map(|netns| fs::metadata(netns.path()).ok())
        .map(|meta| meta.ino())
        .collect();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|meta| inodes.contains(&meta.ino()))
        })
        .collect()
}

/// Asks everything inside to end and waits for it; what has not ended after `grace` is left to the deletion.
pub async fn terminate(netns: &Netns, grace: Duration) {
    let all = std::slice::from_ref(netns);
    for pid in pids_inside(all) {
        // It may have ended in between.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let empty = async {
        while !pids_inside(all).is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let _ = tokio::time::timeout(grace, empty).await;
}

/// The processes inside with `part` in their command line.
pub fn processes(netns: &Netns, part: &str) -> Vec<Pid> {
    let matches = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(part)
    };
    pids_inside(std::slice::from_ref(netns))
        .into_iter()
        .filter(matches)
        .map(Pid::from_raw)
        .collect()
}

/// Runs a short program to its end; its standard error becomes the error.
pub fn run(program: &str, args: &[&str], stdin: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that fails early closes the pipe; its own message says more than the broken pipe.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {}` failed: {}", args.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
