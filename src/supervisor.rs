//! Every background task is watched: one that ends while the process should run ends the process,
//! with its name.

use std::collections::HashMap;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// The tasks of the process.
pub struct Supervisor {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
    shutdown: CancellationToken,
}

/// A task ended that should have run as long as the process.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// It returned.
    #[error("the task {0} ended though it should run as long as the process; see its last log lines")]
    Returned(&'static str),
    /// It panicked.
    #[error("the task {0} failed: {1}")]
    Failed(&'static str, JoinError),
}

impl Supervisor {
    /// No tasks yet; those that are started end when `shutdown` is cancelled.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            names: HashMap::new(),
            shutdown,
        }
    }

    /// Starts a task that must run as long as the process. It is dropped at shutdown.
    pub fn critical(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.draining(name, async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Starts a task that ends by itself after shutdown, when it has done what it had begun.
    pub fn draining(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Runs until shutdown, or until a task ends before.
    pub async fn run(&mut self) -> Result<(), Ended> {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some((name, ended)) = self.next_end() => match ended {
                Ok(()) if shutdown.is_cancelled() => Ok(()),
                Ok(()) => Err(Ended::Returned(name)),
                Err(error) => Err(Ended::Failed(name, error)),
            },
        }
    }

    /// Waits for the tasks to end after shutdown.
    pub async fn drain(&mut self) {
        while self.next_end().await.is_some() {}
    }

    /// The tasks that have not ended, by name.
    pub fn running(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.names.values().copied().collect();
        names.sort_unstable();
        names
    }

    async fn next_end(&mut self) -> Option<(&'static str, Result<(), JoinError>)> {
        let ended = self.tasks.join_next_with_id().await?;
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let name = self.names.remove(&id).unwrap_or_default();
        Some((name, ended.map(drop)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_critical_task_that_ends_is_an_error_with_its_name() {
        let mut tasks = Supervisor::new(CancellationToken::new());
        tasks.critical("watch", async {});
        assert!(matches!(tasks.run().await, Err(Ended::Returned("watch"))));
    }

    #[tokio::test]
    async fn shutdown_ends_critical_tasks_and_waits_for_draining_ones() {
        let shutdown = CancellationToken::new();
        let mut tasks = Supervisor::new(shutdown.clone());
        let (done, is_done) = tokio::sync::oneshot::channel();
        tasks.critical("for ever", std::future::pending());
        let begun = shutdown.clone();
        tasks.draining("drain", async move {
            begun.cancelled().await;
            done.send(()).unwrap();
        });
        shutdown.cancel();
        assert!(tasks.run().await.is_ok());
        tasks.drain().await;
        is_done.await.unwrap();
        assert!(tasks.running().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_after_shutdown_has_a_name() {
        let shutdown = CancellationToken::new();
        let mut tasks = Supervisor::new(shutdown.clone());
        tasks.draining("stuck", std::future::pending());
        tasks.critical("watch", std::future::pending());
        shutdown.cancel();
        let grace = std::time::Duration::from_secs(20);
        assert!(tokio::time::timeout(grace, tasks.drain()).await.is_err());
        assert_eq!(tasks.running(), ["stuck"]);
    }

    #[tokio::test]
    async fn a_task_that_fails_is_an_error_with_its_name() {
        let mut tasks = Supervisor::new(CancellationToken::new());
        tasks.critical("watch", async { panic!("on purpose") });
        let error = tasks.run().await.unwrap_err().to_string();
        assert!(error.starts_with("the task watch failed"), "{error}");
    }
}
