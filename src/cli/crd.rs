//! `servicefence crd`

use std::error::Error;
use std::io::Write as _;

/// The CustomResourceDefinition as YAML.
pub fn yaml() -> Result<String, Box<dyn Error>> {
    Ok(serde_saphyr::to_string(&servicefence_crd::definition())?)
}

pub(super) fn print() -> Result<(), Box<dyn Error>> {
    std::io::stdout().write_all(yaml()?.as_bytes())?;
    Ok(())
}
