//! Log lines on standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// Log lines cannot be written as asked.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is wrong.
    #[error("the log level {level:?} is not error, warn, info, debug, trace or a filter: {source}")]
    Level {
        /// What was asked for.
        level: String,
        /// Why it is wrong.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else writes log lines already.
    #[error(transparent)]
    Taken(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logging.
pub fn init(level: &str, format: LogFormat) -> Result<(), TelemetryError> {
    // It logs each request that fails, and whoever made the request says so once more, with what it was for.
    let filter =
        EnvFilter::try_new(format!("kube_client::client::builder=off,{level}")).map_err(|source| {
            TelemetryError::Level {
                level: level.to_owned(),
                source,
            }
        })?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
        LogFormat::Text => registry.with(lines).try_init()?,
    }
    Ok(())
}

/// An error with its causes, each said once.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = error.source();
    }
    said
}
