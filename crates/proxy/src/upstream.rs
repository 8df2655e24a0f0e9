//! The way to mongod: where it is, and what carries the connection.

use std::{io, time::Duration};

use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{
    line::Line,
    place::Place,
    stream::{Stream, prepare},
    tls::UpstreamTls,
};

/// How connections to mongod are made; each client gets one of its own.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The local mongod. A host is looked up for each connection.
    pub address: Place,
    /// Over TLS; not through a Unix socket.
    pub tls: Option<UpstreamTls>,
    /// How long a connection may take, TLS included.
    pub connect_timeout: Duration,
}

/// A new connection to mongod.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub stream: Stream,
    /// Our end, as mongod's `currentOp` names it when nothing on the way translates addresses: `ip:port`. Through a Unix
    /// socket mongod sees no address, and this is `unix`.
    pub via: String,
}

impl Upstream {
    /// Plain, within 5 s.
    pub fn plain(address: impl Into<Place>) -> Upstream {
        Upstream { address: address.into(), tls: None, connect_timeout: Duration::from_secs(5) }
    }

    /// Connects. An error names the address.
    pub async fn dial(&self) -> io::Result<Dialled> {
        let dialled = timeout(self.connect_timeout, self.connect()).await;
        let stream = dialled
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| io::Error::new(error.kind(), format!("connect to {}: {error}", self.address)))?;
        let via = stream.local_addr()?.map_or_else(|| "unix".to_owned(), |address| address.to_string());
        Ok(Dialled { stream, via })
    }

    /// Whether mongod takes commands from somebody who comes this way and has not logged in.
    ///
    /// It does as well while it has no users and takes us for its own host (the localhost exception).
    pub async fn is_open(&self) -> io::Result<bool> {
        Line::open(self).await?.is_open().await
    }

    /// The user that mongod makes of the certificate that it is shown this way (MONGODB-X509); `None`: nobody.
    pub async fn certificate_user(&self) -> io::Result<Option<String>> {
        Line::open(self).await?.log_in_by_certificate().await
    }

    async fn connect(&self) -> io::Result<Stream> {
        let stream = match &self.address {
            Place::Unix(path) => return UnixStream::connect(path).await.map(Stream::Unix),
            Place::Tcp(address) => TcpStream::connect(address).await?,
        };
        prepare(&stream)?;
        match &self.tls {
            Some(tls) => tls.connect(stream).await,
            None => Ok(Stream::Tcp(stream)),
        }
    }
}
