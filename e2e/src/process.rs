//! Long-running programs of the mesh: started in a network namespace, each with a log file and a session of
//! its own.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::Child;

use crate::netns::Netns;
use crate::objects::lock;

/// The user of Istio's proxies: interception leaves its traffic alone.
pub const PROXY_USER: &str = "1337";

/// What to start.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    path: PathBuf,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    folder: PathBuf,
    user: Option<String>,
    sees_hosts_file: bool,
}

impl Program {
    /// The program at `path`, called `name` in logs, with `folder` as its working folder.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        // Nothing of the caller's environment: a proxy setting there must not change how the mesh behaves.
        let path_of_system =
            std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        let env = [
            ("PATH".to_owned(), path_of_system),
            ("HOME".to_owned(), "/tmp".to_owned()),
        ]
        .into();
        let (name, path, folder) = (name.into(), path.into(), folder.into());
        Self {
            name,
            path,
            args: Vec::new(),
            env,
            folder,
            user: None,
            sees_hosts_file: true,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Runs it as this user (a number).
    #[must_use]
    pub fn run_as(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Leaves it the machine's own mounts: a process that makes network namespaces must make them for all to
    /// see.
    #[must_use]
    pub fn with_machine_mounts(mut self) -> Self {
        self.sees_hosts_file = false;
        self
    }

    /// Starts it inside `netns`; its output goes to `logs/<name>.log`.
    pub fn start(&self, netns: &Netns, logs: &Path) -> Result<Process> {
        let (command, log) = self.command(netns, logs)?;
        let child = tokio::process::Command::from(command)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        Ok(Process {
            name: self.name.clone(),
            log,
            child: Mutex::new(child),
        })
    }

    /// Starts it and leaves it alone: it outlives this process.
    pub fn leave(&self, netns: &Netns, logs: &Path) -> Result<()> {
        let (mut command, _) = self.command(netns, logs)?;
        command
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        Ok(())
    }

    fn command(&self, netns: &Netns, logs: &Path) -> Result<(Command, PathBuf)> {
        let log = logs.join(format!("{}.log", self.name));
        let output = OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command = if self.sees_hosts_file {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", netns.name()]);
            command
        } else {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", netns.path().display())).arg("--");
            command
        };
        if let Some(user) = &self.user {
            // The capability lets that user read a checkout below a home folder that only root may enter.
            command
                .args(["setpriv", "--reuid", user, "--regid", user, "--clear-groups"])
                .args([
                    "--inh-caps",
                    "+dac_read_search",
                    "--ambient-caps",
                    "+dac_read_search",
                ]);
        }
        command
            .arg(&self.path)
            .args(&self.args)
            .env_clear()
            .envs(&self.env)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0);
        Ok((command, log))
    }
}

/// A program that was started. Dropping it does not end it: the mesh ends everything in its namespaces.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its number, until it has ended.
    pub fn pid(&self) -> Option<u32> {
        lock(&self.child).id()
    }

    /// An error with its last words, if it has ended.
    pub fn still_runs(&self) -> Result<()> {
        match lock(&self.child).try_wait()? {
            None => Ok(()),
            Some(status) => {
                anyhow::bail!(
                    "{} ended with {status}:\n{}",
                    self.name,
                    last_lines(&self.log, 15)
                )
            }
        }
    }

    /// Waits until it ends.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child().wait().await?)
    }

    fn child(&mut self) -> &mut Child {
        self.child.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it and its children to end, and makes them after `grace`.
    pub async fn terminate(&mut self, grace: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        self.wait_or_kill(grace).await
    }

    /// Asks it alone to end, as Kubernetes asks the first process of a container, and makes all end after
    /// `grace`.
    pub async fn terminate_first(&mut self, grace: Duration) -> Result<ExitStatus> {
        if let Some(pid) = self.number() {
            // It may have ended in between.
            let _ = kill(pid, Signal::SIGTERM);
        }
        self.wait_or_kill(grace).await
    }

    async fn wait_or_kill(&mut self, grace: Duration) -> Result<ExitStatus> {
        if let Ok(status) = tokio::time::timeout(grace, self.child().wait()).await {
            return Ok(status?);
        }
        self.signal(Signal::SIGKILL);
        Ok(self.child().wait().await?)
    }

    fn signal(&mut self, signal: Signal) {
        if let Some(pid) = self.number() {
            // It may have ended in between.
            let _ = killpg(pid, signal);
        }
    }

    fn number(&mut self) -> Option<Pid> {
        let pid = self.child().id().and_then(|pid| i32::try_from(pid).ok());
        pid.map(Pid::from_raw)
    }
}

/// The last lines of a text file.
pub fn last_lines(path: &Path, count: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(count)..].iter();
    // A line may hold a whole object; its beginning says enough.
    last.map(|line| line.chars().take(400).collect::<String>())
        .collect::<Vec<_>>()
        .join("\n")
}
