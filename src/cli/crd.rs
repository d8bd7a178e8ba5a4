//! `servicefence crd`

use std::error::Error;
use std::io::Write as _;

use kube::CustomResourceExt;
use servicefence_crd::ServiceFence;

/// The CustomResourceDefinition as YAML.
pub fn yaml() -> Result<String, Box<dyn Error>> {
    Ok(serde_saphyr::to_string(&ServiceFence::crd())?)
}

pub(super) fn print() -> Result<(), Box<dyn Error>> {
    std::io::stdout().write_all(yaml()?.as_bytes())?;
    Ok(())
}
