//! Accepts clients, and brings their sessions to an end on shutdown.
//!
//! - shutdown: the port closes, idle sessions end at once, busy ones with their last owed reply, all others when
//!   `drain_timeout` is over
//! - beyond `connections_max` a client is accepted and closed at once, as mongod does it
//! - a session that dies by a bug of ours leaves the others alone; since nobody knows what it had under way,
//!   everything is missed

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info_span, warn};

use crate::{
    config::Config,
    held::Held,
    metrics::Metrics,
    session::Shared,
    watch::{Outage, Watch, Watcher},
};

/// Why a listener cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program has the port.
    #[error("{listen} is in use by another program: stop it, or choose another address in proxy.listen")]
    InUse {
        /// The address as configured.
        listen: String,
    },
    /// The port needs rights that this process does not have.
    #[error("no right to listen on {listen}: choose a port from 1024 on in proxy.listen")]
    Denied {
        /// The address as configured.
        listen: String,
    },
    /// The address is none, or none of this host.
    #[error("cannot listen on {listen}: {source}; proxy.listen wants host:port with an address of this host")]
    Address {
        /// The address as configured.
        listen: String,
        /// What the system says.
        source: io::Error,
    },
}

/// A bound port with its sessions.
pub struct Listener {
    socket: TcpListener,
    local_addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Listener {
    /// Takes the port. Clients that connect are served once [`run`](Self::run) runs.
    ///
    /// Without `watch` nothing is captured. [`Config::durability`] matters with it only.
    pub async fn bind(config: Config, watch: Option<Watch>, metrics: Metrics) -> Result<Listener, BindError> {
        let watcher = watch.map(|watch| Arc::new(Watcher::new(watch, config.durability)));
        let held = Held::new(config.held_bytes_max, config.held_patience);
        let open = Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS)));
        Listener::with(config, watcher, held, open, metrics).await
    }

    /// Takes another port of the same proxy, for another server. What is captured, counted and bounded is shared;
    /// of `config` only addresses and times count.
    pub async fn beside(&self, config: Config) -> Result<Listener, BindError> {
        let Shared { watcher, held, open, metrics, .. } = &*self.shared;
        let config = Config { connections_max: self.shared.config.connections_max, ..config };
        Listener::with(config, watcher.clone(), held.clone(), open.clone(), metrics.clone()).await
    }

    async fn with(
        config: Config,
        watcher: Option<Arc<Watcher>>,
        held: Held,
        open: Arc<Semaphore>,
        metrics: Metrics,
    ) -> Result<Listener, BindError> {
        let bound = TcpListener::bind(&config.listen).await;
        let bound = bound.and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (local_addr, socket) = bound.map_err(|source| {
            let listen = config.listen.clone();
            match source.kind() {
                io::ErrorKind::AddrInUse => BindError::InUse { listen },
                io::ErrorKind::PermissionDenied => BindError::Denied { listen },
                _ => BindError::Address { listen, source },
            }
        })?;
        let shared = Arc::new(Shared {
            held,
            watcher,
            open,
            metrics,
            upstream: Outage::default(),
            misnamed: Outage::default(),
            drain: CancellationToken::new(),
            kill: CancellationToken::new(),
            config,
        });
        Ok(Listener { socket, local_addr, shared })
    }

    /// The address it listens on, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves clients until `shutdown`, then drains. All sessions have ended when it returns.
    pub async fn run(self, shutdown: CancellationToken) {
        let Listener { socket, shared, .. } = self;
        let mut sessions = JoinSet::new();
        let mut next_id = 0_u64;
        let (full, failing) = (Outage::default(), Outage::default());
        loop {
            let accepted = select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = sessions.join_next() => {
                    notice(&shared, ended);
                    continue;
                }
                accepted = socket.accept() => accepted,
            };
            let place = shared.open.clone().try_acquire_owned();
            match (accepted, place) {
                (Ok((client, peer)), Ok(place)) => {
                    full.ended("connections are accepted again");
                    failing.ended("connections can be accepted again");
                    next_id += 1;
                    debug!(session = next_id, %peer, "accepted");
                    let span = info_span!("session", id = next_id);
                    sessions.spawn(serve(shared.clone(), client, place).instrument(span));
                }
                (Ok((client, _)), Err(_)) => {
                    shared.metrics.refused_total.inc();
                    let limit = format!("{} connections are open", shared.config.connections_max);
                    full.began(&limit, "proxy.connections_max is reached: clients are turned away");
                    drop(client);
                }
                (Err(error), _) => {
                    // Out of file descriptors, mostly: the client waits in the backlog.
                    failing.began(&error, "cannot accept connections");
                    sleep(Duration::from_millis(200)).await;
                }
            }
        }
        drop(socket);
        drain(&shared, sessions).await;
    }
}

async fn drain(shared: &Shared, mut sessions: JoinSet<()>) {
    shared.drain.cancel();
    let all = async {
        while let Some(ended) = sessions.join_next().await {
            notice(shared, ended);
        }
    };
    if timeout(shared.config.drain_timeout, all).await.is_ok() {
        return;
    }
    warn!(sessions = sessions.len(), "sessions did not end in time and are cut off");
    shared.kill.cancel();
    while let Some(ended) = sessions.join_next().await {
        notice(shared, ended);
    }
}

async fn serve(shared: Arc<Shared>, client: TcpStream, place: OwnedSemaphorePermit) {
    shared.metrics.connections_total.inc();
    shared.metrics.connections.inc();
    let _open = Open(&shared.metrics);
    // Given back before it is counted as closed.
    let _place = place;
    Box::pin(shared.serve(client)).await;
}

/// Counts a connection while it is open.
struct Open<'a>(&'a Metrics);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

fn notice(shared: &Shared, ended: Result<(), JoinError>) {
    if let Err(bug) = ended {
        shared.metrics.sessions_died_total.inc();
        error!(error = %bug, "a session died: everything must be compared");
        if let Some(watcher) = &shared.watcher {
            watcher.missed_everything();
        }
    }
}
