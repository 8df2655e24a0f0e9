//! One connection, whatever carries it: TCP, a Unix socket, TLS over TCP, on either side.
//!
//! - an enum and no boxed trait: the kinds are few and known, and a session's halves are read and written in a hot loop
//! - what is written to TLS may stay in its buffer (64 KiB at most) until it is flushed: writers flush
//! - half-close: `shutdown` sends TLS's close_notify and then ends our direction; reading goes on. A peer that ends its
//!   direction with or without close_notify has ended: frames have lengths, so nothing can be cut short unseen

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream, tcp, unix},
};
use tokio_rustls::TlsStream;

/// An open connection.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP; its state is some KiB.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What carries a connection; a label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Unix,
    Tls,
}

impl Stream {
    /// Splits it into its two directions. They are used by one task: TLS's lock between them is never waited for.
    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Stream::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Stream::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
            Stream::Tls(stream) => {
                let (read, write) = tokio::io::split(stream);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Stream::Tcp(_) => Kind::Tcp,
            Stream::Unix(_) => Kind::Unix,
            Stream::Tls(_) => Kind::Tls,
        }
    }

    /// Our end; `None` for a Unix socket.
    pub(crate) fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Stream::Tcp(stream) => stream.local_addr().map(Some),
            Stream::Unix(_) => Ok(None),
            Stream::Tls(stream) => stream.get_ref().0.local_addr().map(Some),
        }
    }
}

impl Stream {
    /// The host that a client over TLS has asked for (SNI): by what it then compared our certificate with. Addresses are
    /// not told that way.
    pub(crate) fn asked_for(&self) -> Option<&str> {
        match self {
            Stream::Tls(stream) => match &**stream {
                TlsStream::Server(stream) => stream.get_ref().1.server_name(),
                TlsStream::Client(_) => None,
            },
            _ => None,
        }
    }
}

/// No delay, and an end to connections whose other side vanished without a word, as mongod has it on its own.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(300))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    Ok(())
}

/// What a stream reads.
#[derive(Debug)]
pub(crate) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    Tls(tokio::io::ReadHalf<Box<TlsStream<TcpStream>>>),
}

/// What a stream writes.
#[derive(Debug)]
pub(crate) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    Tls(tokio::io::WriteHalf<Box<TlsStream<TcpStream>>>),
}

/// The same call on whatever it is.
macro_rules! each {
    ($half:expr, $kind:ident, $inner:ident => $call:expr) => {
        match $half.get_mut() {
            $kind::Tcp($inner) => $call,
            $kind::Unix($inner) => $call,
            $kind::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, ReadHalf, half => Pin::new(half).poll_read(cx, buffer))
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, WriteHalf, half => Pin::new(half).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, WriteHalf, half => Pin::new(half).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, WriteHalf, half => Pin::new(half).poll_shutdown(cx))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, Stream, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, Stream, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, Stream, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, Stream, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
