//! TLS on either side: certificates and keys from PEM files, and what to say when they will not do.
//!
//! - TLS 1.2 and 1.3, by rustls with ring; nothing older, no renegotiation
//! - towards clients: a certificate of our own, and, if a CA is given, one wanted from each client
//! - towards mongod: its certificate is checked against the CA file of `local.uri`, or the usual public ones
//! - files are read at the start and on [`ServerTls::reload`]; a connection keeps what it began with
//!
//! Not here: encrypted keys, revocation lists, session tickets that outlive the process.

mod files;
mod upstream;
mod validity;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor, TlsStream,
    rustls::{ServerConfig, crypto::ring, server::WebPkiClientVerifier},
};

use crate::stream::Stream;
use files::{certificates, key, roots};
pub use upstream::{UpstreamTls, UpstreamTlsFiles};

/// Why a certificate or key cannot be used. Says which setting, which file, and what would do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is not there, or not for us.
    #[error("{setting}: {file} cannot be read: {source}")]
    Unreadable {
        /// The key in the configuration, or the option of `local.uri`.
        setting: &'static str,
        /// As configured.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{setting}: {file} {problem}")]
    Content {
        /// The key in the configuration, or the option of `local.uri`.
        setting: &'static str,
        /// As configured.
        file: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

/// Which files a listener's TLS is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTlsFiles {
    /// Our certificate, and those between it and its CA, as PEM.
    pub cert_file: PathBuf,
    /// Its key as PEM, not encrypted; `None`: it stands beside the certificate.
    pub key_file: Option<PathBuf>,
    /// CAs as PEM: a client must show a certificate of theirs.
    pub client_ca_file: Option<PathBuf>,
}

/// TLS towards clients.
#[derive(Debug)]
pub struct ServerTls {
    files: ServerTlsFiles,
    current: RwLock<Loaded>,
}

#[derive(Debug, Clone)]
struct Loaded {
    config: Arc<ServerConfig>,
    expires: Option<SystemTime>,
}

impl ServerTls {
    /// Reads the files.
    pub fn load(files: ServerTlsFiles) -> Result<ServerTls, TlsError> {
        let current = RwLock::new(read(&files)?);
        Ok(ServerTls { files, current })
    }

    /// Reads the files again. New connections use what they say now; after an error, what was there before.
    pub fn reload(&self) -> Result<(), TlsError> {
        let loaded = read(&self.files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    /// When the first certificate that clients are shown stops being valid; `None` when that cannot be read.
    pub fn expires(&self) -> Option<SystemTime> {
        self.current().expires
    }

    /// Shakes hands with a client that has connected.
    pub(crate) async fn accept(&self, client: TcpStream) -> io::Result<Stream> {
        let accepted = TlsAcceptor::from(self.current().config).accept(client).await?;
        Ok(Stream::Tls(Box::new(TlsStream::from(accepted))))
    }

    fn current(&self) -> Loaded {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(files: &ServerTlsFiles) -> Result<Loaded, TlsError> {
    const CERT: &str = "proxy.tls_cert_file";
    const CLIENT_CA: &str = "proxy.tls_client_ca_file";
    let (key_setting, key_file) = match &files.key_file {
        Some(file) => ("proxy.tls_key_file", file),
        None => (CERT, &files.cert_file),
    };
    let chain = certificates(CERT, &files.cert_file)?;
    let expires = chain.iter().filter_map(|certificate| validity::ends(certificate)).min();
    let key = key(key_setting, key_file)?;
    let provider = Arc::new(ring::default_provider());
    let content =
        |setting, file: &PathBuf, problem: String| TlsError::Content { setting, file: file.clone(), problem };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| content(CERT, &files.cert_file, error.to_string()))?;
    let builder = match &files.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(roots(CLIENT_CA, file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            let verifier = verifier.map_err(|error| content(CLIENT_CA, file, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder.with_single_cert(chain, key).map_err(|error| {
        let cert = files.cert_file.display();
        content(key_setting, key_file, format!("does not go with the certificate in {cert}: {error}"))
    })?;
    Ok(Loaded { config: Arc::new(config), expires })
}
