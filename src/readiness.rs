//! Ready once everything that was waited for is done.
//!
//! Flows in: names of tasks that must get somewhere first. Flows out: whether any is left. A task
//! that ends without getting there, by an error or a panic, never makes the process ready.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

/// What the process still waits for.
#[derive(Clone)]
pub struct Readiness {
    pending: Arc<watch::Sender<BTreeSet<&'static str>>>,
}

/// One thing that is waited for; dropped when it is done.
pub struct Pending {
    name: &'static str,
    pending: Arc<watch::Sender<BTreeSet<&'static str>>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            pending: Arc::new(watch::Sender::new(BTreeSet::new())),
        }
    }
}

impl Readiness {
    /// Waits for `name` until the answer is dropped.
    pub fn wait_for(&self, name: &'static str) -> Pending {
        self.pending.send_modify(|pending| {
            pending.insert(name);
        });
        Pending {
            name,
            pending: self.pending.clone(),
        }
    }

    /// What is still waited for.
    pub fn pending(&self) -> BTreeSet<&'static str> {
        self.pending.borrow().clone()
    }

    /// Returns once nothing is waited for.
    pub async fn ready(&self) {
        let mut pending = self.pending.subscribe();
        // The sender lives in `self`, so the channel cannot close.
        let _ = pending.wait_for(BTreeSet::is_empty).await;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.pending.send_modify(|pending| {
            pending.remove(self.name);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_the_last_is_done() {
        let readiness = Readiness::default();
        let (one, two) = (readiness.wait_for("one"), readiness.wait_for("two"));
        drop(one);
        assert_eq!(readiness.pending(), BTreeSet::from(["two"]));
        drop(two);
        readiness.ready().await;
    }
}
