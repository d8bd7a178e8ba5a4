//! The keys of the control plane: a certificate authority, the API server's certificate, the service-account key pair.

use std::fs;
use std::path::Path;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Writes `ca.crt`, `apiserver.crt`, `apiserver.key`, `sa.key` and `sa.pub` into `folder`.
pub fn write(folder: &Path, server_names: &[String]) -> Result<()> {
    fs::create_dir_all(folder)?;
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority
        .distinguished_name
        .push(DnType::CommonName, "servicefence-mesh");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let server_key = KeyPair::generate()?;
    let mut server = CertificateParams::new(server_names.to_vec())?;
    server
        .distinguished_name
        .push(DnType::CommonName, "kube-apiserver");
    let server_certificate = server.signed_by(&server_key, &issuer)?;

    let accounts = KeyPair::generate()?;
    fs::write(folder.join("ca.crt"), authority_certificate.pem())?;
    fs::write(folder.join("apiserver.crt"), server_certificate.pem())?;
    fs::write(folder.join("apiserver.key"), server_key.serialize_pem())?;
    fs::write(folder.join("sa.key"), accounts.serialize_pem())?;
    fs::write(folder.join("sa.pub"), accounts.public_key_pem())?;
    Ok(())
}
