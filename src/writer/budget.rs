//! A token bucket for writes of Istio objects: each costs istiod a push. Writes that widen go
//! first; those that narrow wait, since nothing depends on them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

/// Which write goes first when there are more than the budget allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Somebody's call takes the longer path until it is done.
    Widen,
    /// It only saves memory.
    Narrow,
}

/// The budget.
pub struct Budget {
    per_second: f64,
    burst: f64,
    bucket: Mutex<Bucket>,
    widening: AtomicUsize,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Budget {
    /// `per_second` writes on average, `burst` at once. Both are at least one.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        Self {
            per_second: f64::from(per_second.max(1)),
            burst,
            bucket: Mutex::new(Bucket {
                tokens: burst,
                filled: Instant::now(),
            }),
            widening: AtomicUsize::new(0),
        }
    }

    /// Returns once the write may be made.
    pub async fn acquire(&self, priority: Priority) {
        let _waiting = (priority == Priority::Widen).then(|| Waiting::new(&self.widening));
        while let Some(wait) = self.take(priority) {
            sleep(wait).await;
        }
    }

    fn take(&self, priority: Priority) -> Option<Duration> {
        let mut bucket = self.bucket.lock();
        let now = Instant::now();
        let earned = now.duration_since(bucket.filled).as_secs_f64() * self.per_second;
        bucket.tokens = (bucket.tokens + earned).min(self.burst);
        bucket.filled = now;
        let behind = match priority {
            Priority::Widen => 0,
            Priority::Narrow => self.widening.load(Ordering::Relaxed),
        };
        if bucket.tokens >= 1.0 && behind == 0 {
            bucket.tokens -= 1.0;
            return None;
        }
        Some(Duration::from_secs_f64((1.0 / self.per_second).clamp(0.001, 1.0)))
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_the_rate_holds() {
        let budget = Budget::new(20, 100);
        let start = Instant::now();
        for _ in 0..100 {
            budget.acquire(Priority::Narrow).await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            budget.acquire(Priority::Widen).await;
        }
        let elapsed = start.elapsed().as_secs_f64();
        assert!((0.9..1.2).contains(&elapsed), "{elapsed}");
    }

    #[tokio::test(start_paused = true)]
    async fn widening_overtakes_narrowing_that_waits() {
        let budget = Arc::new(Budget::new(1, 1));
        budget.acquire(Priority::Widen).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let task = |priority| {
            let (budget, order) = (budget.clone(), order.clone());
            tokio::spawn(async move {
                budget.acquire(priority).await;
                order.lock().push(priority);
            })
        };
        let narrow = task(Priority::Narrow);
        tokio::task::yield_now().await;
        let widen = task(Priority::Widen);
        let _ = tokio::join!(narrow, widen);
        assert_eq!(*order.lock(), [Priority::Widen, Priority::Narrow]);
    }
}
