//! Why a stream is ended, and what its sender is told.
//!
//! In: the node id of a stream's first message. Out: the node's name, or a [`Refusal`] with a sentence for the
//! person who reads Envoy's log. A single bad entry is no refusal: it is counted, and the stream goes on.

use tonic::Code;

use super::complaints::Excerpt;
use super::wire::Malformed;
use crate::fence::miss::{is_label, is_subdomain};

/// The longest node id that can be well formed: type, IPv6 address, pod, namespace and a DNS domain.
const MAX_NODE_ID: usize = 1024;

/// Why a stream is ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The first message does not say who sends the stream.
    #[error("the first message must carry an identifier with a node id")]
    MissingIdentifier,
    /// The node id is not one that Istio gives.
    #[error("the node id {0} is not `<type>~<ip>~<pod>.<namespace>~<namespace>.svc.<domain>`")]
    MalformedIdentifier(String),
    /// The sender is a proxy, but not a gateway.
    #[error("the node {0} is not a gateway (`router~…`); only the fallback gateway may report misses here")]
    NotGateway(String),
    /// The sender is a gateway of another namespace.
    #[error(
        "the gateway {node} is not in the namespace {expected}; only the fallback gateway may report misses here"
    )]
    ForeignNamespace {
        /// The node id, escaped and cut.
        node: String,
        /// The only namespace whose gateways may report.
        expected: String,
    },
    /// Nothing came after the stream was opened.
    #[error("no message came within {0} s of opening the stream")]
    Idle(u64),
    /// A message is not protobuf.
    #[error("{0}")]
    MalformedMessage(#[from] Malformed),
    /// gRPC itself could not read the stream: a message over the limit, a bad frame, compression.
    #[error("{message}")]
    Unreadable {
        /// What tonic answers.
        code: Code,
        /// What tonic says.
        message: String,
    },
}

impl Refusal {
    /// Every value that [`Refusal::category`] can return.
    pub const CATEGORIES: [&'static str; 7] = [
        "missing_identifier",
        "malformed_identifier",
        "not_gateway",
        "foreign_namespace",
        "idle",
        "malformed_message",
        "unreadable",
    ];

    /// A bounded name for the kind of this refusal: metric label and log field.
    pub fn category(&self) -> &'static str {
        match self {
            Self::MissingIdentifier => "missing_identifier",
            Self::MalformedIdentifier(_) => "malformed_identifier",
            Self::NotGateway(_) => "not_gateway",
            Self::ForeignNamespace { .. } => "foreign_namespace",
            Self::Idle(_) => "idle",
            Self::MalformedMessage(_) => "malformed_message",
            Self::Unreadable { .. } => "unreadable",
        }
    }

    /// The gRPC status code that the sender gets.
    pub fn code(&self) -> Code {
        match self {
            Self::MissingIdentifier | Self::MalformedIdentifier(_) | Self::MalformedMessage(_) => {
                Code::InvalidArgument
            }
            Self::NotGateway(_) | Self::ForeignNamespace { .. } => Code::PermissionDenied,
            Self::Idle(_) => Code::DeadlineExceeded,
            Self::Unreadable { code, .. } => *code,
        }
    }
}

impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

/// Checks that a node id is that of a gateway in `system_namespace`, and returns it.
///
/// Istio's form is `router~10.0.0.7~servicefence-fallback-5c9f.servicefence-system~servicefence-system.svc.cluster.local`.
/// The domain behind `.svc.` is the mesh's own choice.
pub(super) fn check_node_id<'a>(id: &'a [u8], system_namespace: &str) -> Result<&'a str, Refusal> {
    let malformed = || Refusal::MalformedIdentifier(Excerpt(id).to_string());
    if id.len() > MAX_NODE_ID {
        return Err(malformed());
    }
    let text = str::from_utf8(id).map_err(|_| malformed())?;
    let mut fields = text.split('~');
    let (Some(kind), Some(ip), Some(workload), Some(domain), None) = (
        fields.next(),
        fields.next(),
        fields.next(),
        fields.next(),
        fields.next(),
    ) else {
        return Err(malformed());
    };
    // A pod's name may have dots, a namespace's may not.
    let (pod, namespace) = workload.rsplit_once('.').ok_or_else(malformed)?;
    let domain_fits = domain
        .strip_prefix(namespace)
        .and_then(|rest| rest.strip_prefix(".svc."))
        .is_some_and(is_subdomain);
    if ip.parse::<std::net::IpAddr>().is_err() || !is_subdomain(pod) || !is_label(namespace) || !domain_fits {
        return Err(malformed());
    }
    if kind != "router" {
        return Err(Refusal::NotGateway(Excerpt(id).to_string()));
    }
    if namespace != system_namespace {
        return Err(Refusal::ForeignNamespace {
            node: Excerpt(id).to_string(),
            expected: system_namespace.to_owned(),
        });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn category(id: &[u8]) -> &'static str {
        check_node_id(id, "servicefence-system").map_or_else(|refusal| refusal.category(), |_| "accepted")
    }

    #[test]
    fn a_gateway_of_the_system_namespace_may_report() {
        for id in [
            "router~10.0.0.7~servicefence-fallback-5c9f.servicefence-system~servicefence-system.svc.cluster.local",
            "router~fd00::7~gateway.with.dots.servicefence-system~servicefence-system.svc.mesh.example",
        ] {
            assert_eq!(category(id.as_bytes()), "accepted", "{id}");
        }
    }

    #[test]
    fn other_proxies_and_other_namespaces_may_not() {
        let sidecar = "sidecar~10.0.0.7~web-1.servicefence-system~servicefence-system.svc.cluster.local";
        assert_eq!(category(sidecar.as_bytes()), "not_gateway");
        let foreign = "router~10.0.0.7~ingress.istio-system~istio-system.svc.cluster.local";
        assert_eq!(category(foreign.as_bytes()), "foreign_namespace");
    }

    #[test]
    fn a_node_id_of_another_form_is_malformed() {
        let long = format!(
            "router~10.0.0.7~gw.servicefence-system~servicefence-system.svc.{}",
            "a.".repeat(MAX_NODE_ID)
        );
        for id in [
            "",
            "router",
            "router~~~",
            "router~10.0.0.7~gw.servicefence-system",
            "router~10.0.0~gw.servicefence-system~servicefence-system.svc.cluster.local",
            "router~10.0.0.7~gw~servicefence-system.svc.cluster.local",
            "router~10.0.0.7~.servicefence-system~servicefence-system.svc.cluster.local",
            "router~10.0.0.7~gw.servicefence-system~other.svc.cluster.local",
            "router~10.0.0.7~gw.servicefence-system~servicefence-system.svc.",
            "router~10.0.0.7~gw.servicefence-system~servicefence-system.svc.cluster.local~x",
            &long,
        ] {
            assert_eq!(category(id.as_bytes()), "malformed_identifier", "{id}");
        }
        assert_eq!(
            category(b"router~10.0.0.7~\xff.servicefence-system~x"),
            "malformed_identifier"
        );
    }

    #[test]
    fn every_category_is_listed_and_every_sentence_stays_short() {
        let hostile = vec![0xff; 100_000];
        let all = [
            Refusal::MissingIdentifier,
            check_node_id(&hostile, "x").unwrap_err(),
            Refusal::NotGateway(String::new()),
            Refusal::ForeignNamespace {
                node: String::new(),
                expected: String::new(),
            },
            Refusal::Idle(30),
            Refusal::MalformedMessage(Malformed::Truncated),
            Refusal::Unreadable {
                code: Code::Internal,
                message: String::new(),
            },
        ];
        assert_eq!(all.each_ref().map(Refusal::category), Refusal::CATEGORIES);
        assert!(all.iter().all(|refusal| refusal.to_string().len() < 500));
    }
}
