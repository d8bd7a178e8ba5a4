//! Names of what is in the mesh that is measured.

/// Name of a namespace.
pub(super) fn namespace(number: usize) -> String {
    format!("team-{number:03}")
}

/// Name of a Service, the same ones in each namespace.
pub(super) fn service(number: usize) -> String {
    format!("service-{number:02}")
}
