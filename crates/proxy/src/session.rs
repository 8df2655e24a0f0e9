//! One client connection and its connection to mongod.
//!
//! - dials, runs both directions in one task, and hands on the writes whose reply will not come any more
//! - mongod not reachable: the client's connection is closed, which a driver sees as a network error
//!
//! Not here: TLS to either side; Unix sockets. Both are streams like these once they are connected.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    select,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use wire::Address;

use crate::{
    config::Config,
    held::Held,
    members,
    metrics::Metrics,
    relay::{Client, Conversation, Replies, Requests, Watching},
    source::Source,
    watch::{Outage, Watcher},
};

/// What all sessions of a listener share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) watcher: Option<Arc<Watcher>>,
    pub(crate) held: Held,
    /// A place for each connection that may be open, over all listeners.
    pub(crate) open: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
    pub(crate) upstream: Outage,
    /// The member behind this listener goes by another name.
    pub(crate) misnamed: Outage,
    /// No new requests.
    pub(crate) drain: CancellationToken,
    /// The drain has taken too long.
    pub(crate) kill: CancellationToken,
}

impl Shared {
    /// Serves one client until either side closes.
    pub(crate) async fn serve(&self, client: TcpStream) {
        match self.dial().await {
            Ok(upstream) => {
                self.upstream.ended("mongod is reachable again");
                if let Err(error) = self.join(client, upstream).await {
                    debug!(%error, "the session ended early");
                }
            }
            Err(error) => {
                self.metrics.upstream_errors_total.inc();
                self.upstream.began(&error, "mongod is not reachable: clients are turned away");
            }
        }
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let address = &self.config.upstream;
        let dialled = timeout(self.config.connect_timeout, TcpStream::connect(address)).await;
        let stream = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        stream.map_err(|error| io::Error::new(error.kind(), format!("connect to {address}: {error}")))
    }

    /// Another spelling than the set's own would be looked for in vain in the other members' replies.
    fn met(&self, me: &Address) {
        let Some(member) = &self.config.member else { return };
        if me == member {
            self.misnamed.ended("the member has the name that proxy.listeners gives it");
        } else {
            let what = "proxy.listeners: the server calls itself otherwise than member says, so clients of the other \
                        listeners do not find it; take over its own name";
            self.misnamed.began(&format!("{me} is not {member}"), what);
        }
    }

    async fn join(&self, client: TcpStream, upstream: TcpStream) -> io::Result<()> {
        prepare(&client)?;
        prepare(&upstream)?;
        let names = members::names(&self.config, canonical(client.local_addr()?));
        let met = |me: &Address| self.met(me);
        let via = upstream.local_addr()?.to_string();
        let (client_in, client_out) = client.into_split();
        let (upstream_in, upstream_out) = upstream.into_split();

        let conversation = Conversation::new();
        let watcher = self.watcher.as_deref();
        let mut requests = Requests {
            client: Source::new(client_in, self.metrics.bytes_to_server.clone()),
            upstream: upstream_out,
            conversation: &conversation,
            watching: watcher.map(|watcher| Watching { watcher, session: watcher.session(via) }),
            held: &self.held,
            metrics: &self.metrics,
            drain: &self.drain,
            unsent: None,
        };
        let mut replies = Replies {
            upstream: Source::new(upstream_in, self.metrics.bytes_to_client.clone()),
            client: Client::new(client_out),
            conversation: &conversation,
            watcher,
            held: &self.held,
            names: &names,
            met: &met,
        };
        select! {
            () = replies.forward_replies() => {}
            () = async { requests.forward_requests().await; std::future::pending().await } => {}
            () = self.kill.cancelled() => {}
        }
        if let Some(watcher) = watcher {
            requests.unsent.into_iter().for_each(|captured| watcher.never_sent(captured));
            let writes = conversation.outstanding().take_writes();
            writes.into_iter().for_each(|captured| watcher.orphaned(captured));
        }
        if replies.client.close().await {
            linger(requests.client.stream_mut()).await;
        }
        Ok(())
    }
}

/// No delay, and an end to connections whose other side vanished without a word, as mongod has it on its own.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(300))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    Ok(())
}

/// Reads what the client still sends, for a moment: closing over unread bytes would reset the connection, and with it
/// the last reply could get lost.
async fn linger(client: &mut (impl AsyncRead + Unpin)) {
    const BYTES_MAX: u64 = 1024 * 1024;
    const TIME_MAX: Duration = Duration::from_secs(1);
    let mut rest = client.take(BYTES_MAX);
    let _ = timeout(TIME_MAX, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

/// A client that dialled an IPv4 address knows nothing of its IPv6 form.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
