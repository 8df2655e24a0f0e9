//! One client connection and its connection to mongod.
//!
//! - shakes hands where TLS is wanted, dials, runs both directions in one task, and hands on the writes whose reply will
//!   not come any more
//! - mongod not reachable: the client's connection is closed, which a driver sees as a network error
//! - a client that speaks TLS to a plain port is turned away: a mongod that takes TLS as well would shake hands with it
//!   through us, and nobody would see what it writes

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use capture::Lost;
use prometheus::IntGauge;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    select,
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use wire::{Address, FrameReader, hello::Facts};

use crate::{
    config::Config,
    gate::Gate,
    held::Held,
    limits::Limits,
    line::Line,
    members::{self, Dialled},
    metrics::{Metrics, Reason},
    rarely::Rarely,
    refusal,
    relay::{Client, Conversation, Replies, Requests, Watching},
    source::{Filled, Source},
    stream::Stream,
    upstream,
    watch::{Outage, Watcher},
};

/// What all sessions of a listener share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) watcher: Option<Arc<Watcher>>,
    /// Where it depends on mongod who is served.
    pub(crate) gate: Option<Gate>,
    pub(crate) held: Held,
    /// A place for each connection that may be open, over all listeners.
    pub(crate) open: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
    pub(crate) upstream: Outage,
    /// The member behind this listener goes by another name.
    pub(crate) misnamed: Outage,
    /// The server behind this listener is older than those that we know.
    pub(crate) old: Outage,
    /// The server seems to want to see a certificate.
    pub(crate) nameless: Outage,
    /// Clients that do not speak as we do.
    pub(crate) strangers: Rarely,
    /// Hello replies that cannot be read.
    pub(crate) unreadable: Rarely,
    /// No new requests.
    pub(crate) drain: CancellationToken,
    /// The drain has taken too long.
    pub(crate) kill: CancellationToken,
}

/// Who connects, for log lines.
#[derive(Debug, Clone, Copy)]
struct Guest {
    peer: Option<SocketAddr>,
    /// By when its first request must have come.
    deadline: Instant,
}

impl Shared {
    /// Serves one client until either side closes.
    pub(crate) async fn serve(&self, client: Stream, peer: Option<SocketAddr>) {
        let guest = Guest { peer, deadline: Instant::now() + self.config.handshake_timeout };
        let shaken = select! {
            shaken = self.shake_hands(client, guest) => shaken,
            () = self.drain.cancelled() => None,
        };
        let Some(client) = shaken else { return };
        let _served = Served::begin(self.metrics.sessions(client.kind()));
        let dialled = select! {
            dialled = self.config.upstream.dial() => dialled,
            () = self.drain.cancelled() => return,
        };
        match dialled {
            Ok(dialled) => {
                self.upstream.ended("mongod is reachable again");
                let Some(client) = self.let_in(client, guest).await else { return };
                if let Err(error) = self.join(client, dialled, guest).await {
                    debug!(%error, "the session ended early");
                }
            }
            Err(error) => {
                self.metrics.upstream_errors_total.inc();
                self.upstream.began(&error, "mongod is not reachable: clients are turned away");
            }
        }
    }

    /// The client, over TLS if that is wanted; `None` when it is turned away.
    async fn shake_hands(&self, client: Stream, guest: Guest) -> Option<Stream> {
        let Some(tls) = &self.config.tls else { return Some(client) };
        let client = match client {
            Stream::Tcp(client) => client,
            other => return Some(other),
        };
        let shake = async {
            let mut first = [0];
            match client.peek(&mut first).await {
                Ok(1) if first[0] != TLS_HANDSHAKE => {
                    self.turn_away(guest, Reason::PlainOnTls, PLAIN_ON_TLS);
                    None
                }
                Ok(1) => Some(tls.accept(client).await),
                _ => None,
            }
        };
        match timeout_at(guest.deadline, shake).await {
            Ok(Some(Ok(stream))) => Some(stream),
            // It hangs up, as a look at whether the port is open does.
            Ok(None) => None,
            Ok(Some(Err(error))) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Ok(Some(Err(error))) => {
                self.turn_away(guest, Reason::Handshake, &format!("its TLS handshake failed: {error}"));
                None
            }
            Err(_) => {
                self.metrics.turned_away(Reason::Greeting);
                None
            }
        }
    }

    /// The client, unless it must stay outside: then it is told why. Called when its connection to mongod stands; whether
    /// that is with the mongod that was asked, its first command waits to know.
    async fn let_in(&self, mut client: Stream, guest: Guest) -> Option<Stream> {
        let Some(gate) = &self.gate else { return Some(client) };
        let passed = select! {
            passed = gate.pass() => passed,
            () = self.drain.cancelled() => return None,
        };
        let Err(denied) = passed else { return Some(client) };
        self.turn_away(guest, Reason::Unguarded, denied.why());
        let told = async {
            let told = timeout(TELL_MAX, refusal::tell(&mut client, denied)).await;
            debug!(?told, "the client was told why");
            timeout(CLOSE_MAX, linger(&mut client)).await
        };
        select! {
            _ = told => {}
            () = self.drain.cancelled() => {}
        }
        None
    }

    /// What a hello reply says of the server behind this listener.
    fn met(&self, facts: &Facts) {
        match facts.wire_version {
            Some(version) if version < OLDEST_WIRE_VERSION => {
                self.old.began(&format!("maxWireVersion {version}"), OLD_SERVER);
            }
            _ => self.old.ended("the local mongod is of 6.0 or later"),
        }
        if let (Some(me), Some(member)) = (&facts.me, &self.config.member) {
            self.met_member(me, member);
        }
    }

    /// Another spelling than the set's own would be looked for in vain in the other members' replies.
    fn met_member(&self, me: &Address, member: &Address) {
        if me == member {
            self.misnamed.ended("the member has the name that proxy.listeners gives it");
        } else {
            let what = "proxy.listeners: the server calls itself otherwise than member says, so clients of the other \
                        listeners do not find it; take over its own name";
            self.misnamed.began(&format!("{me} is not {member}"), what);
        }
    }

    async fn join(&self, client: Stream, upstream: upstream::Dialled, guest: Guest) -> io::Result<()> {
        let dialled = Dialled { address: client.local_addr()?.map(canonical), host: client.asked_for() };
        let names = members::names(&self.config, &dialled);
        let met = |facts: &Facts| self.met(facts);
        let turn_away = |reason: Reason, what: &str| self.turn_away(guest, reason, what);
        let may_be_tls = !matches!(client, Stream::Tls(_));
        let (client_in, client_out) = client.into_split();
        let (upstream_in, upstream_out) = upstream.stream.into_split();

        let conversation = Conversation::new();
        let watcher = self.watcher.as_deref();
        let limits = Limits::new(guest.deadline, self.config.frame_timeout);
        let mut requests = Requests {
            client: Source::new(client_in, self.metrics.bytes_to_server.clone(), limits),
            upstream: upstream_out,
            conversation: &conversation,
            gate: self.gate.as_ref(),
            watching: watcher.map(|watcher| Watching { watcher, session: watcher.session(upstream.via) }),
            held: &self.held,
            metrics: &self.metrics,
            drain: &self.drain,
            idle_timeout: self.config.idle_timeout,
            unsent: None,
            turn_away: &turn_away,
        };
        let mut replies = Replies {
            upstream: Source::new(upstream_in, self.metrics.bytes_to_client.clone(), Limits::none()),
            client: Client::new(client_out),
            conversation: &conversation,
            watcher,
            held: &self.held,
            names: &names,
            met: &met,
            heard: false,
            mute: false,
            metrics: &self.metrics,
            unreadable: &self.unreadable,
        };
        let forward_requests = async {
            if may_be_tls && self.speaks_tls(&mut requests.client).await {
                self.turn_away(guest, Reason::TlsOnPlain, TLS_ON_PLAIN);
                return;
            }
            requests.forward_requests().await;
            std::future::pending().await
        };
        let lost = select! {
            lost = replies.forward_replies() => lost,
            () = forward_requests => Lost::Broken,
            () = self.kill.cancelled() => Lost::Broken,
        };
        if let Some(watcher) = watcher {
            let writes = conversation.outstanding().take_writes();
            let nothing = requests.unsent.into_iter().chain(writes.refused);
            nothing.for_each(|captured| watcher.did_nothing(captured));
            writes.unseen.into_iter().for_each(|captured| watcher.orphaned(captured, lost));
        }
        if replies.mute {
            self.wants_certificates().await;
        }
        // TLS says good-bye, for which a client that does not read has no room.
        if timeout(CLOSE_MAX, replies.client.close()).await.unwrap_or(false) {
            select! {
                () = linger(requests.client.stream_mut()) => {}
                () = self.kill.cancelled() => {}
            }
        }
        Ok(())
    }

    /// mongod has closed before it answered anything. Without a certificate that it wants, it does so after the handshake,
    /// and says it to its own log only; but it also does when it goes, or cannot read the client's first bytes. So it is
    /// asked something that it answers to everybody.
    async fn wants_certificates(&self) {
        let nameless = self.config.upstream.tls.as_ref().is_some_and(|tls| !tls.shows_certificate());
        if !nameless {
            return;
        }
        let asked = async { Line::open(&self.config.upstream).await.ok()?.process().await.err() };
        let closed = select! {
            error = asked => error.filter(|error| error.kind() != io::ErrorKind::TimedOut),
            () = self.drain.cancelled() => None,
        };
        if let Some(error) = closed {
            self.nameless.began(&error, NO_CERTIFICATE);
        }
    }

    /// Waits for as much as it takes to tell; what was read stays there.
    async fn speaks_tls<R: AsyncRead + Unpin>(&self, client: &mut Source<R>) -> bool {
        while client.frames.buffered() < wire::HEADER_BYTES {
            let filled = select! {
                filled = client.fill() => filled,
                () = self.drain.cancelled() => return false,
            };
            if !matches!(filled, Ok(Filled::More)) {
                return false;
            }
        }
        is_client_hello(&mut client.frames)
    }

    fn turn_away(&self, guest: Guest, reason: Reason, what: &str) {
        self.metrics.turned_away(reason);
        match self.strangers.due() {
            Some(left_out) => warn!(peer = ?guest.peer, left_out, "a client is turned away: {what}"),
            None => debug!(peer = ?guest.peer, "a client is turned away: {what}"),
        }
    }
}

/// Counts a session while it runs.
struct Served(IntGauge);

impl Served {
    fn begin(gauge: IntGauge) -> Served {
        gauge.inc();
        Served(gauge)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Whether a connection begins with TLS and no frame, by the rule of a mongod that takes both: a record of type handshake,
/// where a frame would answer something. Bytes that are otherwise no hello do not matter: mongod may find one in them.
fn is_client_hello(frames: &mut FrameReader) -> bool {
    let start = frames.buffer_mut().first_chunk::<{ wire::HEADER_BYTES }>();
    start.is_some_and(|bytes| {
        let answers = i32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        bytes[0] == TLS_HANDSHAKE && !matches!(answers, 0 | -1)
    })
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

const TLS_HANDSHAKE: u8 = 0x16;
/// Of 6.0, the first that takes commands by OP_MSG only.
pub(crate) const OLDEST_WIRE_VERSION: i32 = 17;
const NO_CERTIFICATE: &str = "mongod closes connections before it answers anything: if it wants certificates (its log says so), set local.clients_cert_key_file";
const OLD_SERVER: &str = "the local mongod is older than 6.0, for which dualsync is not made: what older protocols write there is not let through";
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// How long a client that is not served may take for the request that is answered with the reason.
const TELL_MAX: Duration = Duration::from_secs(2);
const PLAIN_ON_TLS: &str = "it does not speak TLS, and this port wants it (proxy.tls_cert_file): give the client tls=true and tlsCAFile";
const TLS_ON_PLAIN: &str = "it speaks TLS, and this port does not: set proxy.tls_cert_file, or take tls=true out of the client's settings";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_told_from_frames() {
        let check = |bytes: &[u8], expected| {
            let mut frames = FrameReader::default();
            frames.feed(bytes);
            assert_eq!(is_client_hello(&mut frames), expected, "{bytes:?}");
        };
        check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x3b\x8a\x11\x92\x5c", true);
        // A record longer than any frame.
        check(b"\x16\x03\x01\x3f\x00\x01\x00\x01\xfc\x03\x03\x3b\x8a\x11\x92\x5c", true);
        // A frame of 0x10316 bytes, its request's id 0x100.
        check(b"\x16\x03\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00", false);
        // Its random bytes can be made to look like an opcode, and its version is nobody's to check.
        check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x3b\xdd\x07\x00\x00", true);
        check(b"\x16\x09\x01\x02\x00\x02\x00\x01\xfc\x03\x03\x3b\xdd\x07\x00\x00", true);
        check(b"\x16\x03\x01\x00\x00\x01\x00\x00\xff\xff\xff\xff\xdd\x07\x00\x00", false);
        check(b"GET / HTTP/1.1\r\n", false);
        check(b"\x16\x03", false);
    }
}
