//! TLS towards mongod, from the options of `local.uri`.

use std::{io, path::PathBuf, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector, TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

use super::{
    TlsError,
    files::{certificates, key, roots},
};
use crate::stream::Stream;

/// What `local.uri` says about TLS for clients' connections; the names are its options'.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTlsFiles {
    /// `tlsCAFile`; `None`: the CAs that browsers trust.
    pub ca_file: Option<PathBuf>,
    /// `local.clients_cert_key_file`: what mongod is shown, for every client's connection.
    pub cert_key_file: Option<PathBuf>,
    /// `tlsAllowInvalidCertificates`: mongod may be anybody.
    pub allow_invalid_certificates: bool,
}

/// TLS towards mongod. Cheap to clone.
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl UpstreamTls {
    /// Reads the files. `host` is the name that mongod's certificate must have, and that it is told (SNI).
    pub fn load(host: &str, files: &UpstreamTlsFiles) -> Result<UpstreamTls, TlsError> {
        const CA: &str = "local.uri (tlsCAFile)";
        const CERT_KEY: &str = "local.clients_cert_key_file";
        let roots = match &files.ca_file {
            Some(file) => roots(CA, file)?,
            None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        };
        let wrong = |problem: String| TlsError::Content {
            setting: CERT_KEY,
            file: files.cert_key_file.clone().unwrap_or_default(),
            problem,
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &files.cert_key_file {
            None => builder.with_no_client_auth(),
            Some(file) => {
                builder.with_client_auth_cert(certificates(CERT_KEY, file)?, key(CERT_KEY, file)?).map_err(
                    |error| wrong(format!("holds a key that does not go with its certificate: {error}")),
                )?
            }
        };
        if files.allow_invalid_certificates {
            config.dangerous().set_certificate_verifier(Arc::new(Anybody(provider)));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Content {
            setting: "local.uri",
            file: host.into(),
            problem: "is no name that a certificate can have".to_owned(),
        })?;
        Ok(UpstreamTls { config: Arc::new(config), name })
    }

    /// Whether there is a certificate that mongod is shown.
    pub(crate) fn shows_certificate(&self) -> bool {
        self.config.client_auth_cert_resolver.has_certs()
    }

    /// Shakes hands over a new connection.
    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<Stream> {
        let connected = TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream).await?;
        Ok(Stream::Tls(Box::new(TlsStream::from(connected))))
    }
}

/// Takes every certificate, as `tlsAllowInvalidCertificates` asks; its holder must still have the key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
