//! The flags about Prometheus.

use std::path::PathBuf;

use axum::http::Uri;
use clap::Args;
use jiff::SignedDuration;

use super::duration;
use crate::source::prometheus::{Header, Matcher, Settings};

/// Flags about the server from which metrics are read.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct PrometheusConfig {
    /// A server that speaks PromQL and has Istio's standard metrics, as http://host:port; its API is below
    /// /api/v1. Empty: metrics are not read.
    #[allow(rustdoc::bare_urls, reason = "help of a flag")]
    #[arg(long, env = "SERVICEFENCE_PROMETHEUS_URL", default_value = "", value_parser = url)]
    pub prometheus_url: String,

    /// How often it is asked what was called.
    #[arg(long, env = "SERVICEFENCE_PROMETHEUS_INTERVAL", default_value = "1m", value_parser = interval)]
    pub prometheus_interval: SignedDuration,

    /// How much of the past is read before a fence is enforced.
    #[arg(long, env = "SERVICEFENCE_PROMETHEUS_BACKFILL", default_value = "336h", value_parser = duration)]
    pub prometheus_backfill: SignedDuration,

    /// How long an answer may take.
    #[arg(long, env = "SERVICEFENCE_PROMETHEUS_TIMEOUT", default_value = "30s", value_parser = interval)]
    pub prometheus_timeout: SignedDuration,

    /// A label matcher for every query, such as cluster="east": for stores that hold several meshes.
    /// Repeatable.
    #[arg(long = "prometheus-matcher", env = "SERVICEFENCE_PROMETHEUS_MATCHER")]
    pub prometheus_matchers: Vec<Matcher>,

    /// The label with which the scraper marks a series' namespace. A series in which it differs from the
    /// source_workload_namespace that the workload claims is left out. Empty: it is not looked at.
    #[arg(
        long,
        env = "SERVICEFENCE_PROMETHEUS_NAMESPACE_LABEL",
        default_value = "namespace",
        value_parser = label_name
    )]
    pub prometheus_namespace_label: String,

    /// A header of every query, such as X-Scope-OrgID=team. Repeatable.
    #[arg(long = "prometheus-header", env = "SERVICEFENCE_PROMETHEUS_HEADER")]
    pub prometheus_headers: Vec<Header>,

    /// File with a bearer token.
    #[arg(
        long,
        env = "SERVICEFENCE_PROMETHEUS_TOKEN_FILE",
        conflicts_with = "prometheus_username"
    )]
    pub prometheus_token_file: Option<PathBuf>,

    /// User of basic authentication.
    #[arg(
        long,
        env = "SERVICEFENCE_PROMETHEUS_USERNAME",
        requires = "prometheus_password_file"
    )]
    pub prometheus_username: Option<String>,

    /// File with the password of basic authentication.
    #[arg(
        long,
        env = "SERVICEFENCE_PROMETHEUS_PASSWORD_FILE",
        requires = "prometheus_username"
    )]
    pub prometheus_password_file: Option<PathBuf>,

    /// File with the certificates (PEM) that may have signed the server's. Default: those of the system.
    #[arg(long, env = "SERVICEFENCE_PROMETHEUS_CA_FILE")]
    pub prometheus_ca_file: Option<PathBuf>,

    /// File with a client certificate (PEM).
    #[arg(
        long,
        env = "SERVICEFENCE_PROMETHEUS_CERT_FILE",
        requires = "prometheus_key_file"
    )]
    pub prometheus_cert_file: Option<PathBuf>,

    /// File with the client certificate's key (PEM).
    #[arg(
        long,
        env = "SERVICEFENCE_PROMETHEUS_KEY_FILE",
        requires = "prometheus_cert_file"
    )]
    pub prometheus_key_file: Option<PathBuf>,
}

impl PrometheusConfig {
    /// What the source needs of it; `None` where metrics are not read.
    pub fn settings(&self) -> Option<Settings> {
        (!self.prometheus_url.is_empty()).then(|| Settings {
            url: self.prometheus_url.clone(),
            interval: self.prometheus_interval,
            backfill: self.prometheus_backfill,
            timeout: self.prometheus_timeout,
            matchers: self.prometheus_matchers.clone(),
            namespace_label: self.prometheus_namespace_label.clone(),
            headers: self.prometheus_headers.clone(),
            token_file: self.prometheus_token_file.clone(),
            username: self.prometheus_username.clone(),
            password_file: self.prometheus_password_file.clone(),
            ca_file: self.prometheus_ca_file.clone(),
            cert_file: self.prometheus_cert_file.clone(),
            key_file: self.prometheus_key_file.clone(),
        })
    }
}

fn url(text: &str) -> Result<String, String> {
    let is_url = |uri: Uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"));
    if text.is_empty() || text.parse().is_ok_and(is_url) {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err(format!(
            "{text:?} is not a URL: write http://prometheus.monitoring.svc:9090"
        ))
    }
}

fn interval(text: &str) -> Result<SignedDuration, String> {
    let interval = duration(text)?;
    if interval < SignedDuration::from_secs(1) {
        return Err(format!("{text:?} is too short: write 1s or more"));
    }
    Ok(interval)
}

fn label_name(text: &str) -> Result<String, String> {
    if text.is_empty() || crate::source::prometheus::is_label_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not the name of a label: write namespace"))
    }
}
