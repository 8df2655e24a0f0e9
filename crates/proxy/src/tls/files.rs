//! PEM files.

use std::{fs, path::Path};

use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::TlsError;

/// The certificates of a file, in its order; at least one.
pub(super) fn certificates(
    setting: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(setting, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(wrong(setting, file, NO_CERTIFICATE)),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(setting, file, &format!("is not PEM: {error}"))),
    }
}

/// The first key of a file.
pub(super) fn key(setting: &'static str, file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(setting, file)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        // A key of OpenSSL's old form says so in a header, and is found to be none only when it is used.
        let problem = if is_encrypted(&pem) { ENCRYPTED } else { NO_KEY };
        wrong(setting, file, problem)
    })
}

/// The CAs of a file.
pub(super) fn roots(setting: &'static str, file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(setting, file)? {
        roots.add(certificate).map_err(|error| {
            wrong(setting, file, &format!("holds a certificate that cannot be a CA: {error}"))
        })?;
    }
    Ok(roots)
}

fn read(setting: &'static str, file: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(file).map_err(|source| TlsError::Unreadable { setting, file: file.to_owned(), source })
}

fn wrong(setting: &'static str, file: &Path, problem: &str) -> TlsError {
    TlsError::Content { setting, file: file.to_owned(), problem: problem.to_owned() }
}

fn is_encrypted(pem: &[u8]) -> bool {
    pem.windows(ENCRYPTED_WORD.len()).any(|part| part == ENCRYPTED_WORD)
}

/// In the label of PKCS#8, in a header of the older form.
const ENCRYPTED_WORD: &[u8] = b"ENCRYPTED";
const NO_CERTIFICATE: &str = "holds no certificate: it wants PEM with -----BEGIN CERTIFICATE-----";
const NO_KEY: &str = "holds no private key: it wants PEM with -----BEGIN PRIVATE KEY----- (or RSA, or EC)";
const ENCRYPTED: &str = "holds an encrypted key, which cannot be asked for: decrypt it with openssl pkey -in … -out …, \
                         and keep the file readable for dualsync only (chmod 600)";
