//! Every background task is watched: one that ends while the process should run ends the process,
//! with its name.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The tasks of the process.
pub struct Supervisor {
    tasks: JoinSet<&'static str>,
    shutdown: CancellationToken,
}

/// A task ended that should have run as long as the process.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// It returned.
    #[error("the task {0} ended though it should run as long as the process; see its last log lines")]
    Returned(&'static str),
    /// It panicked.
    #[error("a task failed: {0}")]
    Failed(#[from] tokio::task::JoinError),
}

impl Supervisor {
    /// No tasks yet; those that are started end when `shutdown` is cancelled.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            shutdown,
        }
    }

    /// Starts a task that must run as long as the process. It is dropped at shutdown.
    pub fn critical(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = task => {}
            }
            name
        });
    }

    /// Starts a task that ends by itself after shutdown, when it has done what it had begun.
    pub fn draining(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    /// Runs until shutdown, or until a task ends before.
    pub async fn run(&mut self) -> Result<(), Ended> {
        tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(_) if self.shutdown.is_cancelled() => Ok(()),
                Ok(name) => Err(Ended::Returned(name)),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Waits for the tasks to end after shutdown.
    pub async fn drain(mut self) {
        while self.tasks.join_next().await.is_some() {}
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
    }
}
