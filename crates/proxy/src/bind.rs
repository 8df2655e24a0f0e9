//! Taking the place where clients connect.
//!
//! - a Unix socket gets its mode before anybody can connect to it; a file that a dead program left is replaced, one
//!   that answers is not, and neither is anything that is no socket. It is removed at the end, if it is still ours

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener, UnixSocket, UnixStream};

use crate::{place::Place, stream::Stream};

/// Why a listener cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program has the port or the socket.
    #[error("{listen} is in use by another program: stop it, or choose another address in proxy.listen")]
    InUse {
        /// The address as configured.
        listen: String,
    },
    /// The port needs rights that this process does not have.
    #[error(
        "no right to listen on {listen}: choose a port from 1024 on, or a folder that dualsync may write to, in proxy.listen"
    )]
    Denied {
        /// The address as configured.
        listen: String,
    },
    /// The address is none, or none of this host.
    #[error(
        "cannot listen on {listen}: {source}; proxy.listen wants host:port with an address of this host, or the path of a Unix socket"
    )]
    Address {
        /// The address as configured.
        listen: String,
        /// What the system says.
        source: io::Error,
    },
    /// Something else has the socket's name.
    #[error("{listen} is there and is no socket: choose another path in proxy.listen")]
    NotASocket {
        /// The path as configured.
        listen: String,
    },
}

/// Where clients connect.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, File),
}

/// A socket's file, by which it can be told from one that another program put in its place.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    id: Option<(u64, u64)>,
}

impl Drop for File {
    fn drop(&mut self) {
        if self.id.is_some() && id(&self.path) == self.id {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Socket {
    /// Takes the address; a Unix socket's file gets the mode `unix_mode`.
    pub(crate) async fn bind(listen: &Place, unix_mode: u32) -> Result<Socket, BindError> {
        let bound = match listen {
            Place::Tcp(address) => TcpListener::bind(address).await.map(Socket::Tcp),
            Place::Unix(path) => match clear(path).await {
                Ok(()) => bind_unix(path, unix_mode),
                Err(error) => Err(error),
            },
        };
        bound.map_err(|source| {
            let listen = listen.to_string();
            match source.kind() {
                io::ErrorKind::AddrInUse => BindError::InUse { listen },
                io::ErrorKind::PermissionDenied => BindError::Denied { listen },
                io::ErrorKind::AlreadyExists => BindError::NotASocket { listen },
                _ => BindError::Address { listen, source },
            }
        })
    }

    /// The address, with the port that was taken.
    pub(crate) fn place(&self) -> io::Result<Place> {
        match self {
            Socket::Tcp(listener) => Ok(Place::Tcp(listener.local_addr()?.to_string())),
            Socket::Unix(_, file) => Ok(Place::Unix(file.path.clone())),
        }
    }

    /// The next client, and its address where it has one.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Tcp(stream), Some(peer)))
            }
            Socket::Unix(listener, _) => Ok((Stream::Unix(listener.accept().await?.0), None)),
        }
    }
}

/// Makes room for the socket: nothing is there, or what a dead program left.
async fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // It is full, or not for us: either way somebody has it.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<Socket> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let file = File { path: path.to_owned(), id: id(path) };
    // Nobody can connect before `listen`.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(Socket::Unix(socket.listen(BACKLOG)?, file))
}

fn id(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// As the standard library has it for TCP on Linux.
const BACKLOG: u32 = 1024;
