//! Asks the server.
//!
//! The HTTP client is kube's, which brings all that a server may ask for: own certificate authorities, client
//! certificates, tokens from files, passwords, headers.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use axum::http::{Method, Request, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::{SignedDuration, Timestamp};
use kube::client::Body;
use kube::config::AuthInfo;
use tokio::time::Instant;

use super::answer::{Answer, Sample};
use super::{Calls, MOST_SKEW, PrometheusMetrics, Settings, positive, query};
use crate::fence::name::Name;
use crate::fence::{Counted, Period};
use crate::logging::with_causes;

/// The longest answer that is read.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// A clock that is so far off tells no time to reckon with.
const ABSURD_SKEW: SignedDuration = SignedDuration::from_hours(24);

/// Why metrics could not be read. The sentences are for the operator: they stand in logs and conditions.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A file or setting is wrong.
    #[error("Prometheus cannot be asked: {0}")]
    Setup(String),
    /// No connection, or one that broke.
    #[error("Prometheus cannot be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("Prometheus did not answer within {0:?}")]
    TimedOut(Duration),
    /// An answer of something else, such as a proxy.
    #[error("Prometheus answered with HTTP status {0}")]
    Status(u16),
    /// An error of the server.
    #[error("Prometheus refused a query ({kind}): {message}")]
    Refused {
        /// Its kind: `bad_data`, `execution`, `timeout` and others.
        kind: String,
        /// What it said.
        message: String,
    },
    /// Longer than what is read.
    #[error("the answer of Prometheus is longer than {} MB", MOST_BYTES / 1024 / 1024)]
    TooLong,
    /// No JSON, or other JSON.
    #[error("the answer of Prometheus cannot be read: {0}")]
    Unreadable(serde_json::Error),
    /// Not an instant vector.
    #[error("the answer of Prometheus is not a vector")]
    NoVector,
    /// It has none of the metrics.
    #[error(
        "Prometheus answers, but has no istio_requests_total or istio_tcp_connections_opened_total of a client: see that \
         it scrapes the sidecars, and the matchers that ServiceFence was given"
    )]
    Empty,
    /// The label that shows where a series comes from is on none.
    #[error(
        "no series of Prometheus has the label {0:?}, which shows the namespace that it was scraped in: set \
         prometheus.namespaceLabel of the chart to the one that your scrape configuration writes"
    )]
    NoNamespace(String),
    /// It warned that the answer may be incomplete.
    #[error("the answer of Prometheus may be incomplete; it warned: {0}")]
    Partial(String),
    /// Its clock is off.
    #[error("the clock of Prometheus is {0:#} off ours: one of the two is wrong")]
    Skewed(SignedDuration),
}

impl QueryError {
    /// Whether a shorter period may be answered.
    pub(super) fn is_too_much(&self) -> bool {
        match self {
            Self::TimedOut(_) | Self::TooLong => true,
            Self::Refused { kind, .. } => kind == "timeout" || kind == "execution",
            _ => false,
        }
    }

    /// A bounded name for the metric.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Setup(_) => "setup",
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut(_) => "timeout",
            Self::Status(_) | Self::Refused { .. } => "refused",
            Self::TooLong | Self::Unreadable(_) | Self::NoVector => "unreadable",
            Self::Empty => "empty",
            Self::NoNamespace(_) => "no_namespace",
            Self::Partial(_) => "partial",
            Self::Skewed(_) => "skewed",
        }
    }
}

/// How far the server's clock is before ours.
#[derive(Clone, Copy, Debug)]
pub struct Clock(SignedDuration);

impl Clock {
    /// Says when the two clocks are further apart than they should be. Queries go by the server's.
    pub(super) fn check(self) -> Result<(), QueryError> {
        let off = SignedDuration::from_secs(self.0.abs().as_secs());
        if off > MOST_SKEW {
            Err(QueryError::Skewed(off))
        } else {
            Ok(())
        }
    }
}

/// What was found.
pub struct Found {
    /// Who called whom.
    pub found: Calls,
    /// Why there may be more.
    pub warning: Option<String>,
}

/// At how many moments there is what.
#[derive(Clone, Copy)]
pub(super) struct Gapless {
    /// There are metrics of calls all the time.
    pub(super) calls: bool,
    /// And of bytes.
    pub(super) bytes: bool,
}

/// Asks one server.
pub struct Client {
    kube: kube::Client,
    settings: Settings,
    metrics: PrometheusMetrics,
}

impl Client {
    /// Reads the files that the settings name.
    pub fn new(settings: &Settings, metrics: PrometheusMetrics) -> Result<Self, QueryError> {
        let url = settings
            .url
            .parse()
            .map_err(|_| QueryError::Setup(format!("{:?} is not a URL", settings.url)))?;
        let mut config = kube::Config::new(url);
        config.root_cert_file.clone_from(&settings.ca_file);
        config.connect_timeout = Some(positive(settings.timeout));
        config.headers = settings
            .headers
            .iter()
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect();
        let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
        // The next cycle asks again.
        config.default_retry = false;
        config.auth_info = AuthInfo {
            username: settings.username.clone(),
            password: secret(settings.password_file.as_deref())?.map(Into::into),
            token: secret(settings.token_file.as_deref())?.map(Into::into),
            client_certificate: path(&settings.cert_file),
            client_key: path(&settings.key_file),
            ..AuthInfo::default()
        };
        let kube = kube::Client::try_from(config).map_err(|error| QueryError::Setup(with_causes(&error)))?;
        Ok(Self {
            kube,
            settings: settings.clone(),
            metrics,
        })
    }

    /// Sees that the server has the metrics, and what time it has.
    pub async fn clock(&self) -> Result<Clock, QueryError> {
        let body = self
            .ask("anything", &query::anything(&self.settings), None)
            .await?;
        let now = Timestamp::now();
        let (samples, _) = self.read(&body)?;
        let at = samples.first().and_then(Sample::at).ok_or(QueryError::Empty)?;
        let ahead = at.duration_since(now);
        self.metrics.skew.set(ahead.as_secs_f64());
        let clock = Clock(ahead);
        if ahead.abs() > ABSURD_SKEW {
            clock.check()?;
        }
        Ok(clock)
    }

    /// Whether there are metrics all through `window` before `end`, so that silence in it means something.
    pub(super) async fn gapless(
        &self,
        clock: &Clock,
        end: Timestamp,
        window: SignedDuration,
    ) -> Result<Gapless, QueryError> {
        let (expression, expected) = query::moments(&self.settings, window);
        let body = self.ask("moments", &expression, Some(end + clock.0)).await?;
        let (samples, warned) = self.read(&body)?;
        let all_the_time = |of: &str| {
            let number = samples.iter().find(|one| one.label(query::OF) == of);
            let number = number.and_then(Sample::number).unwrap_or_default();
            warned.is_none() && number >= expected
        };
        Ok(Gapless {
            calls: all_the_time(query::OF_CALLS),
            bytes: all_the_time(query::OF_BYTES),
        })
    }

    /// How far there are bytes of connections in `window` before `end`, and why there may be more without.
    pub(super) async fn counted(
        &self,
        clock: &Clock,
        end: Timestamp,
        window: SignedDuration,
        namespaces: &BTreeSet<Name>,
    ) -> Result<(Counted, Option<String>), QueryError> {
        let expression = query::counted(&self.settings, window, namespaces);
        let body = self.ask("counted", &expression, Some(end + clock.0)).await?;
        let (samples, warned) = self.read(&body)?;
        let mut counted = Counted::default();
        for sample in &samples {
            let Some(teller) = sample.teller(&self.settings.namespace_label) else {
                continue;
            };
            if sample.label(query::OF) == query::OF_BYTES {
                counted.namespaces.insert(teller.namespace);
            } else {
                counted.without_bytes.insert(teller);
            }
        }
        Ok((counted, warned))
    }

    /// Who called whom in `window` before `end`.
    pub async fn calls(
        &self,
        clock: &Clock,
        end: Timestamp,
        window: SignedDuration,
        namespaces: &BTreeSet<Name>,
    ) -> Result<Found, QueryError> {
        let period = Period {
            first: end - window,
            last: end,
        };
        let mut found = Calls::new();
        let mut warning = None;
        let queries = query::calls(&self.settings, window, namespaces);
        for (name, expression) in ["requests", "connections"].into_iter().zip(&queries) {
            let body = self.ask(name, expression, Some(end + clock.0)).await?;
            let (samples, warned) = self.read(&body)?;
            let label = &self.settings.namespace_label;
            if !label.is_empty() && !samples.is_empty() && samples.iter().all(|one| !one.has(label)) {
                let error = QueryError::NoNamespace(label.clone());
                self.metrics.errors.with_label_values(&[error.category()]).inc();
                return Err(error);
            }
            for sample in samples {
                match sample.call(&self.settings.namespace_label) {
                    Some(call) => {
                        found
                            .entry(call)
                            .and_modify(|known: &mut Period| *known = known.and(period))
                            .or_insert(period);
                    }
                    None => self.metrics.foreign.inc(),
                }
            }
            warning = warning.or(warned);
        }
        Ok(Found { found, warning })
    }

    fn read<'a>(&self, body: &'a (u16, Vec<u8>)) -> Result<(Vec<Sample<'a>>, Option<String>), QueryError> {
        let answer = Answer::read(&body.1, body.0);
        if let Err(error) = &answer {
            self.metrics.errors.with_label_values(&[error.category()]).inc();
        }
        answer
    }

    async fn ask(
        &self,
        name: &str,
        expression: &str,
        at: Option<Timestamp>,
    ) -> Result<(u16, Vec<u8>), QueryError> {
        let begun = Instant::now();
        let timeout = positive(self.settings.timeout);
        let answer = tokio::time::timeout(timeout, self.send(expression, at));
        let answer = answer.await.unwrap_or(Err(QueryError::TimedOut(timeout)));
        self.metrics.queries.with_label_values(&[name]).inc();
        self.metrics.seconds.observe(begun.elapsed().as_secs_f64());
        match &answer {
            Ok((_, body)) => self.metrics.bytes.inc_by(body.len() as u64),
            Err(error) => self.metrics.errors.with_label_values(&[error.category()]).inc(),
        }
        answer
    }

    fn form(&self, expression: &str, at: Option<Timestamp>) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("query", expression);
        form.append_pair("timeout", &format!("{}s", self.settings.timeout.as_secs()));
        if let Some(at) = at {
            form.append_pair(
                "time",
                &format!("{}.{:03}", at.as_second(), at.subsec_millisecond()),
            );
        }
        form.finish()
    }

    async fn send(&self, expression: &str, at: Option<Timestamp>) -> Result<(u16, Vec<u8>), QueryError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri("/api/v1/query")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(self.form(expression, at).into_bytes()))
            .map_err(|error| QueryError::Setup(error.to_string()))?;
        let unreachable =
            |error: &(dyn std::error::Error + 'static)| QueryError::Unreachable(with_causes(error));
        let answer = self.kube.send(request).await.map_err(|error| match error {
            // What it wraps says it better.
            kube::Error::Service(error) => unreachable(&*error),
            error => unreachable(&error),
        })?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                QueryError::TooLong
            } else {
                unreachable(&*error)
            }
        })?;
        Ok((status, body.to_bytes().to_vec()))
    }
}

/// What a file of credentials holds, if there is one.
fn secret(path: Option<&Path>) -> Result<Option<String>, QueryError> {
    let Some(path) = path else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| QueryError::Setup(format!("{}: {error}", path.display())))?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}
