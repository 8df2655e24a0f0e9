//! Accepts clients, and brings their sessions to an end on shutdown.
//!
//! - shutdown: the port closes, idle sessions end at once, busy ones with their last owed reply, all others when
//!   `drain_timeout` is over
//! - beyond `connections_max` a client is accepted and closed at once, as mongod does it
//! - a session that dies by a bug of ours leaves the others alone; since nobody knows what it had under way,
//!   everything is missed

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinHandle, JoinSet, spawn_blocking},
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info_span, warn};

use crate::{
    bind::{BindError, Socket},
    config::Config,
    gate::{Gate, Keeper},
    held::Held,
    metrics::Metrics,
    nudge::Nudge,
    place::Place,
    rarely::Rarely,
    session::Shared,
    stream::{Stream, prepare},
    watch::{Outage, Watch, Watcher},
};

const MEND_INTERVAL: Duration = Duration::from_secs(1);

/// A bound port or Unix socket with its sessions.
pub struct Listener {
    socket: Socket,
    place: Place,
    keeper: Option<Keeper>,
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
    /// of `config` only addresses, TLS and times count.
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
        let socket = Socket::bind(&config.listen, config.unix_mode).await?;
        let place = socket
            .place()
            .map_err(|source| BindError::Address { listen: config.listen.to_string(), source })?;
        let (gate, keeping) = match config.guarded {
            true => Some(Gate::new(config.upstream.clone())).unzip(),
            false => (None, None),
        };
        let shared = Arc::new(Shared {
            gate,
            held,
            watcher,
            open,
            metrics,
            upstream: Outage::default(),
            misnamed: Outage::default(),
            old: Outage::default(),
            nameless: Outage::default(),
            strangers: Rarely::default(),
            unreadable: Rarely::default(),
            drain: CancellationToken::new(),
            kill: CancellationToken::new(),
            config,
        });
        Ok(Listener { socket, place, keeper: keeping.map(Keeper::start), shared })
    }

    /// Whether clients are let in, where that depends on mongod ([`Config::guarded`]).
    pub fn gate(&self) -> Option<Gate> {
        self.shared.gate.clone()
    }

    /// Where it listens, with the port that was taken.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Serves clients until `shutdown`, then drains. All sessions have ended when it returns.
    pub async fn run(self, shutdown: CancellationToken) {
        let Listener { socket, shared, keeper: _keeper, .. } = self;
        let mut sessions = JoinSet::new();
        let mut next_id = 0_u64;
        let (full, failing) = (Outage::default(), Outage::default());
        let (mut tick, mut mending) = (interval(MEND_INTERVAL), None);
        let _nudge = shared.watcher.as_ref().and_then(|_| Nudge::start());
        loop {
            let accepted = select! {
                biased;
                () = shutdown.cancelled() => break,
                _ = tick.tick() => {
                    mend(&shared, &mut mending);
                    continue;
                }
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
                    debug!(session = next_id, ?peer, "accepted");
                    let span = info_span!("session", id = next_id);
                    sessions.spawn(serve(shared.clone(), client, peer, place).instrument(span));
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

/// Appends what could not be appended before, elsewhere: the log's disk may hang. One at a time.
fn mend(shared: &Arc<Shared>, under_way: &mut Option<JoinHandle<()>>) {
    let due = shared.watcher.as_ref().is_some_and(|watcher| watcher.has_unended());
    if due && under_way.as_ref().is_none_or(JoinHandle::is_finished) {
        let shared = shared.clone();
        *under_way = Some(spawn_blocking(move || shared.watcher.iter().for_each(|watcher| watcher.mend())));
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

async fn serve(shared: Arc<Shared>, client: Stream, peer: Option<SocketAddr>, place: OwnedSemaphorePermit) {
    shared.metrics.connections_total.inc();
    shared.metrics.connections.inc();
    let _open = Open(&shared.metrics);
    // Given back before it is counted as closed.
    let _place = place;
    if let Stream::Tcp(client) = &client
        && let Err(error) = prepare(client)
    {
        debug!(%error, "the client is gone before it was served");
        return;
    }
    Box::pin(shared.serve(client, peer)).await;
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
