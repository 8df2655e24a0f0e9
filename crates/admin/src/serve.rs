//! Sockets: bind, accept within the bound, serve HTTP/1 within the limits, close in order.
//!
//! Shutdown: stop accepting, let open requests and orders end, at most `drain_timeout`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Limits};
use crate::routes::{Shared, router};
use crate::system::System;

/// Why the port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Everybody could reach it and nothing guards it.
    #[error(
        "admin.listen = {listen} is reachable from other hosts and no admin.token is set: set \
         DUALSYNC_ADMIN_TOKEN, or listen on 127.0.0.1"
    )]
    Unguarded {
        /// The address that was asked for.
        listen: SocketAddr,
    },
    /// Another program has the port, or this host has not the address.
    #[error("admin.listen = {listen} cannot be opened ({source}): choose a free port of this host")]
    Listen {
        /// The address that was asked for.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The opened port; [`Admin::run`] serves it.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    router: Router,
    limits: Limits,
    tasks: TaskTracker,
    local_addr: SocketAddr,
}

impl Admin {
    /// Opens the port. Clients may connect from now on; they are answered once [`Admin::run`] runs.
    ///
    /// # Errors
    /// When the address is taken or not of this host, or lies beyond loopback without an admin token.
    pub async fn bind<S: System>(
        config: Config,
        system: Arc<S>,
        registry: Registry,
    ) -> Result<Admin, BindError> {
        let listen = config.listen;
        if !config.on_loopback() && config.token.is_none() {
            return Err(BindError::Unguarded { listen });
        }
        let failed = |source| BindError::Listen { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let tasks = TaskTracker::new();
        let limits = config.limits.clone();
        let router = router(&Arc::new(config), Shared { system, registry, tasks: tasks.clone() });
        Ok(Admin { listener, router, limits, tasks, local_addr })
    }

    /// The address that was opened, with the true port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown`, then lets what is open end. Never fails: what goes wrong on one connection
    /// ends that one.
    pub async fn run(self, shutdown: CancellationToken) {
        let places = Arc::new(Semaphore::new(self.limits.connections_max));
        while let Some(socket) = self.accept(&places, &shutdown).await {
            let (stream, place) = socket;
            let connection = serve(stream, self.router.clone(), self.limits.clone(), shutdown.clone());
            self.tasks.spawn(async move {
                connection.await;
                drop(place);
            });
        }
        drop(self.listener);
        self.tasks.close();
        if tokio::time::timeout(self.limits.drain_timeout, self.tasks.wait()).await.is_err() {
            tracing::info!(open = self.tasks.len(), "admin port closed on open requests");
        }
    }

    /// The next connection with its place, or `None` at shutdown. Full: wait, the kernel's backlog holds them.
    async fn accept(
        &self,
        places: &Arc<Semaphore>,
        shutdown: &CancellationToken,
    ) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
        let next = async {
            let place = places.clone().acquire_owned().await.ok()?;
            loop {
                match self.listener.accept().await {
                    Ok((stream, _peer)) => return Some((stream, place)),
                    Err(error) => {
                        // Mostly out of file descriptors: they come back when connections end.
                        tracing::warn!(%error, "admin port cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        shutdown.run_until_cancelled(next).await.flatten()
    }
}

async fn serve(stream: TcpStream, router: Router, limits: Limits, shutdown: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(limits.header_bytes_max.max(BUFFER_BYTES_MIN))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = tokio::time::sleep(limits.connection_life) => None,
        () = shutdown.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            let last_request = limits.header_timeout + limits.request_timeout;
            match tokio::time::timeout(last_request, connection).await {
                Ok(ended) => ended,
                Err(_elapsed) => return tracing::debug!("admin connection cut: its reader stalls"),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection ended");
    }
}

/// Wait after a failed accept, so that an error that stays does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// hyper takes no smaller buffer.
const BUFFER_BYTES_MIN: usize = 8192;
