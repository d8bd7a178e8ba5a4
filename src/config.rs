//! What the operator of the controller decides: the flags of `servicefence run`, each also an
//! environment variable.

mod prometheus;
mod selector;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use jiff::SignedDuration;
use servicefence_crd::{Fallback, Mode, Selector};

use self::selector::selector;
use crate::fence::name::{Cidr, DEFAULT_CLUSTER_DOMAIN, Name, ScopeHost};
use crate::fence::{Alias, Settings};

pub use self::prometheus::PrometheusConfig;

/// Flags of `servicefence run`.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Namespace of the controller and the fallback gateway.
    #[arg(long, env = "POD_NAMESPACE", default_value = "servicefence-system")]
    pub system_namespace: String,

    /// Mode of workloads without a servicefence.io/mode label on their Namespace or Service.
    #[arg(long, env = "SERVICEFENCE_DEFAULT_MODE", value_enum, default_value_t = DefaultMode::Off)]
    pub default_mode: DefaultMode,

    /// Who serves calls to hosts out of scope, where neither the fence nor its Namespace says.
    #[arg(long, env = "SERVICEFENCE_DEFAULT_FALLBACK", value_enum, default_value_t = DefaultFallback::Gateway)]
    pub default_fallback: DefaultFallback,

    /// Whether the fallback gateway is installed; without it no routes are written for it.
    #[arg(
        long,
        env = "SERVICEFENCE_FALLBACK_GATEWAY",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub fallback_gateway: bool,

    /// Whether the fallback gateway sends calls to addresses that it has no rule for on to them.
    #[arg(
        long,
        env = "SERVICEFENCE_FALLBACK_PASSTHROUGH",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub fallback_passthrough: bool,

    /// Address on which the fallback gateway's access logs arrive (gRPC).
    #[arg(long, env = "SERVICEFENCE_LOG_LISTEN", default_value = "[::]:18090")]
    pub log_listen: SocketAddr,

    /// Address on which the access logs of observed sidecars arrive (gRPC), where no metrics are read.
    #[arg(long, env = "SERVICEFENCE_OBSERVE_LISTEN", default_value = "[::]:18091")]
    pub observe_listen: SocketAddr,

    /// Address of /metrics, /livez and /readyz.
    #[arg(long, env = "SERVICEFENCE_ADMIN_LISTEN", default_value = "[::]:8080")]
    pub admin_listen: SocketAddr,

    /// Address of the API for people and tools, /v1/explain. It answers everybody who reaches it: on loopback
    /// these are those who may kubectl port-forward to the pod.
    #[arg(long, env = "SERVICEFENCE_API_LISTEN", default_value = "127.0.0.1:8081")]
    pub api_listen: SocketAddr,

    /// How long a host's clusters stand in the proxies before its routes come and after they go;
    /// 0s turns the two steps off, and a few requests fail at each change of a scope.
    #[arg(long, env = "SERVICEFENCE_SETTLE_TIME", default_value = "1s", value_parser = duration)]
    pub settle_time: SignedDuration,

    /// istiod's metrics, which lengthen the settle time while istiod is slow and tell whether it serves other
    /// clusters; empty: not read.
    #[arg(long, env = "SERVICEFENCE_ISTIOD_METRICS_URL", default_value = "")]
    pub istiod_metrics_url: String,

    /// istiod's namespace: nothing is fenced in it.
    #[arg(long, env = "SERVICEFENCE_ISTIO_NAMESPACE", default_value = "istio-system")]
    pub istio_namespace: String,

    /// Istio's root namespace, the rootNamespace of MeshConfig: nothing is fenced in it, and its Sidecar
    /// without a selector is the mesh's default; empty: istiod's namespace.
    #[arg(long, env = "SERVICEFENCE_ISTIO_ROOT_NAMESPACE", default_value = "")]
    pub istio_root_namespace: String,

    /// The ConfigMap with Istio's MeshConfig in istiod's namespace, istio-REVISION where istiod has a
    /// revision; empty: there is none.
    #[arg(long, env = "SERVICEFENCE_ISTIO_MESH_CONFIG_MAP", default_value = "istio")]
    pub istio_mesh_config_map: String,

    /// A ConfigMap there over which the other one is laid, as the SHARED_MESH_CONFIG of istiod names it;
    /// empty: there is none.
    #[arg(long, env = "SERVICEFENCE_ISTIO_SHARED_MESH_CONFIG_MAP", default_value = "")]
    pub istio_shared_mesh_config_map: String,

    /// Enforce fences although istiod's metrics say that it serves other clusters: each Service must be in
    /// this cluster too, and no pod of another one may take its configuration from here.
    #[arg(
        long,
        env = "SERVICEFENCE_ISTIO_MULTI_CLUSTER",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub istio_multi_cluster: bool,

    /// The cluster's DNS domain, in which the names of Services end; the same as istiod's.
    #[arg(
        long,
        env = "SERVICEFENCE_CLUSTER_DOMAIN",
        default_value = DEFAULT_CLUSTER_DOMAIN,
        value_parser = cluster_domain
    )]
    pub cluster_domain: String,

    /// A namespace in which nothing is fenced, whatever its labels say. Repeatable.
    #[arg(
        long = "exclude-namespace",
        env = "SERVICEFENCE_EXCLUDE_NAMESPACE",
        value_delimiter = ','
    )]
    pub exclude_namespaces: Vec<String>,

    /// Nothing is fenced in namespaces with labels that it does not match: a LabelSelector of Kubernetes as
    /// JSON, such as {"matchLabels":{"team":"a"}}. {} matches all.
    #[arg(long, env = "SERVICEFENCE_NAMESPACE_SELECTOR", default_value = "{}", value_parser = selector)]
    pub namespace_selector: Selector,

    /// A range of Service addresses. Repeatable; default: those of the cluster's ServiceCIDR objects.
    #[arg(
        long = "service-cidr",
        env = "SERVICEFENCE_SERVICE_CIDR",
        value_delimiter = ','
    )]
    pub service_cidrs: Vec<Cidr>,

    /// A range of pod addresses; all pods must be in one. Repeatable; default: what the addresses of
    /// Services' pods tell, the first 20 bits of each, of IPv6 48.
    #[arg(long = "pod-cidr", env = "SERVICEFENCE_POD_CIDR", value_delimiter = ',')]
    pub pod_cidrs: Vec<Cidr>,

    /// A host of every scope, as namespace/host. Repeatable.
    #[arg(long = "baseline-host", env = "SERVICEFENCE_BASELINE_HOST", value_delimiter = ',', value_parser = baseline_host)]
    pub baseline_hosts: Vec<ScopeHost>,

    /// A further host of every scope that has a host which matches: a regular expression of the whole name,
    /// and the host that is made of its groups, as $1 or $name. Only if the mesh has it. Repeatable.
    #[arg(long = "alias", env = "SERVICEFENCE_ALIAS", value_name = "PATTERN=TEMPLATE")]
    pub aliases: Vec<Alias>,

    /// After how long without a call learned hosts are forgotten, where metrics are read; 0s: never. A fence
    /// may say otherwise.
    #[arg(long, env = "SERVICEFENCE_EXPIRE_AFTER", default_value = "312h", value_parser = expire_after)]
    pub expire_after: SignedDuration,

    /// How long what was learned is kept without use: by generated fences that no label asks for any more,
    /// and of hosts that the mesh no longer has; 0s: for ever.
    #[arg(long, env = "SERVICEFENCE_RETENTION", default_value = "720h", value_parser = retention)]
    pub retention: SignedDuration,

    /// Where metrics are read.
    #[command(flatten)]
    pub prometheus: PrometheusConfig,

    /// Writes of Istio objects a second, on average: each costs istiod a push.
    #[arg(long, env = "SERVICEFENCE_WRITE_QPS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub write_qps: u32,

    /// Writes of Istio objects at once.
    #[arg(long, env = "SERVICEFENCE_WRITE_BURST", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub write_burst: u32,

    /// New observations of a fence are gathered until none has come for this long.
    #[arg(long, env = "SERVICEFENCE_DEBOUNCE", default_value = "50ms", value_parser = duration)]
    pub debounce: SignedDuration,

    /// New observations of a fence are gathered for this long at most.
    #[arg(long, env = "SERVICEFENCE_DEBOUNCE_MAX", default_value = "500ms", value_parser = duration)]
    pub debounce_max: SignedDuration,

    /// Which log lines are written: error, warn, info, debug, trace, or a tracing filter.
    #[arg(long, env = "SERVICEFENCE_LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    /// How log lines are written.
    #[arg(long, env = "SERVICEFENCE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// How long streams and writes may take to end at shutdown.
    #[arg(long, env = "SERVICEFENCE_SHUTDOWN_GRACE", default_value = "20s", value_parser = duration)]
    pub shutdown_grace: SignedDuration,

    /// Name of the controller's pod, for Events.
    #[arg(long, env = "POD_NAME", hide = true)]
    pub pod_name: Option<String>,
}

/// The default mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DefaultMode {
    /// Only what is labelled is fenced.
    Off,
    /// It is said of everything that is not labelled what a fence would do.
    Observe,
    /// Everything is fenced that is not labelled otherwise.
    Enforce,
}

/// The default fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DefaultFallback {
    /// The fallback gateway.
    Gateway,
    /// Istio's own passthrough.
    Passthrough,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Config {
    /// The ConfigMaps with MeshConfig, each over those before it (Istio: `toSources`).
    pub fn mesh_config_maps(&self) -> Vec<Name> {
        let maps = [&self.istio_shared_mesh_config_map, &self.istio_mesh_config_map];
        let there = maps.into_iter().filter(|name| !name.is_empty());
        there.map(|name| name.as_str().into()).collect()
    }

    fn root_namespace(&self) -> &str {
        match self.istio_root_namespace.as_str() {
            "" => &self.istio_namespace,
            named => named,
        }
    }

    /// What the engine needs of it.
    pub fn settings(&self) -> Settings {
        let excluded: BTreeSet<Name> = self
            .exclude_namespaces
            .iter()
            .chain([
                &self.system_namespace,
                &self.istio_namespace,
                &self.istio_root_namespace,
            ])
            .filter(|name| !name.is_empty())
            .map(|name| Name::from(name.as_str()))
            .collect();
        Settings {
            system_namespace: self.system_namespace.as_str().into(),
            istio_namespace: self.istio_namespace.as_str().into(),
            root_namespace: self.root_namespace().into(),
            mesh_config_maps: self.mesh_config_maps(),
            fences_multi_cluster: self.istio_multi_cluster,
            default_mode: match self.default_mode {
                DefaultMode::Off => Mode::Off,
                DefaultMode::Observe => Mode::Observe,
                DefaultMode::Enforce => Mode::Enforce,
            },
            default_fallback: match self.default_fallback {
                DefaultFallback::Gateway => Fallback::Gateway,
                DefaultFallback::Passthrough => Fallback::Passthrough,
            },
            has_gateway: self.fallback_gateway,
            gateway_passes_on: self.fallback_passthrough,
            excluded_namespaces: excluded,
            namespace_selector: self.namespace_selector.clone(),
            settle_time: self.settle_time,
            baseline: self.baseline_hosts.clone(),
            aliases: self.aliases.clone(),
            pod_cidrs: self.pod_cidrs.iter().copied().collect(),
            expire_after: self.expire_after,
            retention: self.retention,
            reads_history: self.prometheus.settings().is_some(),
        }
    }
}

fn expire_after(text: &str) -> Result<SignedDuration, String> {
    let after = duration(text)?;
    let (least, most) = (SignedDuration::from_hours(24), SignedDuration::from_hours(8760));
    if after.is_zero() || (least..=most).contains(&after) {
        Ok(after)
    } else {
        Err(format!(
            "{text:?} is too short or too long: write 24h to 8760h, or 0s for never"
        ))
    }
}

fn retention(text: &str) -> Result<SignedDuration, String> {
    let retention = duration(text)?;
    if retention <= SignedDuration::from_hours(8760) {
        Ok(retention)
    } else {
        Err(format!("{text:?} is too long: write up to 8760h, or 0s for ever"))
    }
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    let duration: SignedDuration = text
        .parse()
        .map_err(|_| format!("{text:?} is not a duration: write 500ms, 1s or 2m"))?;
    if duration.is_negative() {
        return Err(format!("{text:?} is negative: write 0s or more"));
    }
    Ok(duration)
}

fn cluster_domain(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    };
    if text.len() <= 253 && text.split('.').all(is_label) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is not a DNS domain in lower case, without dots at its ends: write cluster.local"
        ))
    }
}

fn baseline_host(text: &str) -> Result<ScopeHost, String> {
    ScopeHost::parse(text).ok_or_else(|| {
        format!("{text:?} is not namespace/host: write istio-system/zipkin.istio-system.svc.cluster.local")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_cluster_domain_is_a_dns_name() {
        for domain in ["cluster.local", "k8s", "prod-1.example.com"] {
            assert_eq!(cluster_domain(domain).as_deref(), Ok(domain));
        }
        for wrong in [
            "",
            ".",
            "cluster.local.",
            ".cluster.local",
            "Cluster.local",
            "a..b",
            "-a.b",
            "a/b",
            "a_b",
        ] {
            assert!(cluster_domain(wrong).is_err(), "{wrong}");
        }
    }

    #[derive(clap::Parser)]
    struct Run {
        #[command(flatten)]
        config: Config,
    }

    fn settings(flags: &[&str]) -> Result<Settings, String> {
        let flags = ["run"].iter().chain(flags);
        let run = Run::try_parse_from(flags).map_err(|error| error.to_string())?;
        Ok(run.config.settings())
    }

    #[test]
    fn without_flags_the_settings_are_the_default_ones() {
        let settings = settings(&[]).unwrap();
        assert_eq!(format!("{settings:?}"), format!("{:?}", Settings::default()));
    }

    #[test]
    fn what_the_chart_says_of_modes_namespaces_and_hosts_is_what_decides() {
        let is = settings(&[
            "--default-mode=observe",
            "--exclude-namespace=kube-system,monitoring",
            "--istio-root-namespace=mesh",
            "--baseline-host=mesh/zipkin.mesh.svc.cluster.local,data/api.example.com",
            "--expire-after=48h",
            "--retention=96h",
            r"--alias=(.+)\.books\.(svc\.cluster\.local)=$1.archive.$2",
            r"--alias=a{1,2}\.com=a.org",
            r#"--namespace-selector={"matchLabels":{"team":"a"}}"#,
        ])
        .unwrap();
        assert_eq!(is.default_mode, Mode::Observe);
        let names = |names: &[&str]| names.iter().map(|name| Name::from(*name)).collect();
        assert_eq!(
            is.excluded_namespaces,
            names(&[
                "istio-system",
                "kube-system",
                "mesh",
                "monitoring",
                "servicefence-system"
            ])
        );
        let patterns: Vec<_> = is.aliases.iter().map(|alias| &*alias.pattern).collect();
        assert_eq!(patterns, [r"(.+)\.books\.(svc\.cluster\.local)", r"a{1,2}\.com"]);
        assert_eq!(is.namespace_selector.match_labels["team"], "a");
        let hosts: Vec<_> = is.baseline.iter().map(ToString::to_string).collect();
        assert_eq!(
            hosts,
            ["mesh/zipkin.mesh.svc.cluster.local", "data/api.example.com"]
        );
        assert_eq!(is.expire_after, SignedDuration::from_hours(48));
        assert_eq!(is.retention, SignedDuration::from_hours(96));
        assert_eq!(settings(&[]).unwrap().default_mode, Mode::Off);
    }

    #[test]
    fn a_flag_that_cannot_work_says_what_to_write() {
        for (flag, said) in [
            (
                "--baseline-host=zipkin",
                "is not namespace/host: write istio-system/zipkin",
            ),
            ("--expire-after=1h", "too short or too long: write 24h to 8760h"),
            ("--retention=9000h", "too long: write up to 8760h, or 0s for ever"),
            ("--settle-time=-1s", "is negative: write 0s or more"),
            ("--settle-time=soon", "is not a duration: write 500ms, 1s or 2m"),
            ("--namespace-selector=team=a", "is not a LabelSelector"),
            ("--alias=(a=b", "is not a regular expression: unclosed group"),
            ("--default-mode=on", "possible values: off, observe, enforce"),
        ] {
            let error = settings(&[flag]).unwrap_err();
            assert!(error.contains(said), "{flag}: {error}");
        }
    }
}
