//! The workload that a fence names.

use std::fmt;

use servicefence_crd::ServiceFenceSpec;

use crate::facts::Labels;
use crate::name::{FenceKey, ServiceKey};

/// The workload that a fence names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadRef {
    /// The pods of a Service.
    Service(ServiceKey),
    /// Pods by label.
    Selector(Labels),
    /// All pods of the namespace that nothing else has.
    NamespaceDefault,
}

impl WorkloadRef {
    /// Reads the spec of a fence.
    pub fn of(key: &FenceKey, spec: &ServiceFenceSpec) -> Self {
        let workload = spec.workload.clone().unwrap_or_default();
        if workload.namespace_default == Some(true) {
            return Self::NamespaceDefault;
        }
        if let Some(selector) = workload.selector.filter(|selector| !selector.is_empty()) {
            return Self::Selector(selector.into_iter().collect());
        }
        let service = workload.service.as_deref().unwrap_or(&key.name);
        Self::Service(ServiceKey::new(key.namespace.clone(), service))
    }

    pub fn service(&self) -> Option<&ServiceKey> {
        match self {
            Self::Service(service) => Some(service),
            Self::Selector(_) | Self::NamespaceDefault => None,
        }
    }
}

impl fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "Service {}", service.name),
            Self::Selector(labels) => {
                let labels: Vec<_> = labels
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                write!(f, "pods with {}", labels.join(","))
            }
            Self::NamespaceDefault => f.write_str("pods without a fence of their own"),
        }
    }
}
