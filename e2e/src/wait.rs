//! Waiting for a condition, never for a time: poll with a deadline, and say what was missing when it passes.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// An error after which waiting longer makes no sense.
#[derive(Debug)]
pub struct Hopeless(pub anyhow::Error);

impl fmt::Display for Hopeless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Hopeless {}

/// Repeats `check` until it succeeds. After `deadline` its last error is the error, with `what` in front.
pub async fn until<T, F: Future<Output = Result<T>>>(
    what: impl fmt::Display,
    deadline: Duration,
    mut check: impl FnMut() -> F,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let error = match check().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if error.is::<Hopeless>() || start.elapsed() >= deadline {
            return Err(anyhow!(
                "{what}: not after {:.1} s: {error:#}",
                start.elapsed().as_secs_f64()
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(150));
    }
}

/// For what takes long on a busy machine: a program that starts, a certificate, a webhook.
pub const LONG: Duration = Duration::from_secs(90);
/// For what normally takes milliseconds.
pub const SHORT: Duration = Duration::from_secs(30);
