//! Certificates of a test's own: a CA, and what it signs, as PEM files in a temporary folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;

/// A CA with its folder; the files go with it.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// Both, as mongod wants them.
    pub cert_key_file: PathBuf,
}

impl Authority {
    /// A CA that nobody has heard of.
    pub fn new() -> Result<Authority> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("CA {}", fastrand::u32(..)));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let folder = tempfile::Builder::new().prefix("dualsync-tls-").tempdir().context("make a folder")?;
        let ca = Authority { issuer, folder };
        fs::write(ca.ca_file(), ca.issuer.pem())?;
        Ok(ca)
    }

    /// Its own certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The folder of all files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A certificate for 127.0.0.1 and localhost, good for servers and clients, in files that begin with `name`.
    pub fn identity(&self, name: &str) -> Result<Identity> {
        self.sign(name, &["localhost", "127.0.0.1"], 2100)
    }

    /// The same for other hosts.
    pub fn identity_for(&self, name: &str, hosts: &[&str]) -> Result<Identity> {
        self.sign(name, hosts, 2100)
    }

    /// The same, not valid any more.
    pub fn expired_identity(&self, name: &str) -> Result<Identity> {
        self.sign(name, &["localhost", "127.0.0.1"], 2002)
    }

    fn sign(&self, name: &str, hosts: &[&str], until: i32) -> Result<Identity> {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name.push(DnType::CommonName, name);
        // Of its own: mongod takes whoever shares its organisation for a member of its cluster.
        params.distinguished_name.push(DnType::OrganizationName, format!("tests of {name}"));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(until, 1, 1));
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        let file = |suffix: &str| self.folder.path().join(format!("{name}{suffix}.pem"));
        let identity = Identity { cert_file: file(""), key_file: file("-key"), cert_key_file: file("-both") };
        fs::write(&identity.cert_file, cert.pem())?;
        fs::write(&identity.key_file, key.serialize_pem())?;
        fs::write(&identity.cert_key_file, cert.pem() + &key.serialize_pem())?;
        Ok(identity)
    }
}
