//! The keys of the control plane and of Prometheus: certificate authorities, and what they sign.

use std::fs;
use std::path::Path;

use anyhow::Result;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// A certificate authority of its own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

impl Authority {
    /// A new one with this name.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        let issuer = Issuer::new(params, key);
        Ok(Self { issuer, certificate })
    }

    /// Writes `ca.crt`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        Ok(fs::write(folder.join("ca.crt"), self.certificate.pem())?)
    }

    /// Writes `<file>.crt` and `<file>.key`: a certificate for the subject `name` at these addresses.
    pub(crate) fn sign(&self, folder: &Path, file: &str, name: &str, addresses: &[String]) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(addresses.to_vec())?;
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(folder.join(format!("{file}.crt")), certificate.pem())?;
        fs::write(folder.join(format!("{file}.key")), key.serialize_pem())?;
        Ok(())
    }
}

/// Writes `ca.crt`, `apiserver.crt`, `apiserver.key`, `sa.key` and `sa.pub` into `folder`.
pub(crate) fn write(folder: &Path, server_names: &[String]) -> Result<()> {
    fs::create_dir_all(folder)?;
    let authority = Authority::new("servicefence-mesh")?;
    authority.write(folder)?;
    authority.sign(folder, "apiserver", "kube-apiserver", server_names)?;
    let accounts = KeyPair::generate()?;
    fs::write(folder.join("sa.key"), accounts.serialize_pem())?;
    fs::write(folder.join("sa.pub"), accounts.public_key_pem())?;
    Ok(())
}
