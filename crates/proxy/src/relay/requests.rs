//! Client to mongod: what a request is shows in its first bytes, and decides how it travels.
//!
//! - *pass*: part by part as it arrives
//! - *watch*: the same, but its last byte waits until its mark is in the log
//! - *hold*: nothing leaves until it was scanned (inserts), rewritten (hello), or looked into (what is compressed)
//! - a frame that finds no room to be held, or has to give it up, passes unscanned; capture is told
//! - writes that get no reply, and what may get none, are followed by a fence of ours, at a frame boundary, when no other
//!   whole frame is here; and preceded by one until it is known that the client may write at all
//! - what servers before 6.0 take for a write without OP_MSG passes only where the server is known to refuse it
//! - a header that is none: its 16 bytes go on and nothing after them; mongod answers what came before, and closes

mod server;
mod ways;

use std::{io::ErrorKind, time::Duration};

use capture::Class;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    select,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use wire::{HEADER_BYTES, Head};

use super::{
    Conversation, HELLO_BYTES_MAX,
    look::{Expect, Request, Way, late_way, look, look_inside},
};
use crate::{
    bypass::Passing,
    gate::{Denied, Gate},
    held::{Held, Room},
    metrics::{Metrics, Reason},
    outstanding::ReplyTo,
    source::{Filled, Source},
    watch::{Captured, Watcher, apart},
};

pub(crate) struct Requests<'a, R, W> {
    pub(crate) client: Source<R>,
    pub(crate) upstream: W,
    pub(crate) conversation: &'a Conversation,
    /// Until the session is known to be with a mongod that keeps strangers out, where that matters.
    pub(crate) gate: Option<&'a Gate>,
    pub(crate) watching: Option<Watching<'a>>,
    pub(crate) held: &'a Held,
    pub(crate) metrics: &'a Metrics,
    pub(crate) drain: &'a CancellationToken,
    /// How long the client may be silent while nothing is owed to it; zero: any time.
    pub(crate) idle_timeout: Duration,
    /// The write that the request in hand carries, while its last byte is not here.
    pub(crate) unsent: Option<Captured>,
    /// Told why the client cannot be served.
    pub(crate) turn_away: &'a (dyn Fn(Reason, &str) + Sync),
}

/// What a session needs to see writes.
pub(crate) struct Watching<'a> {
    pub(crate) watcher: &'a Watcher,
    pub(crate) session: capture::Session,
}

impl Watching<'_> {
    /// Looks at a whole request, which takes `room`, and appends its mark.
    fn request(&self, frame: &[u8], room: Room) -> Option<Captured> {
        apart(frame.len(), || Some(self.watcher.begin(self.session.request(frame)?, room)))
    }

    /// The same for the front of a request that cannot be looked at.
    fn unscanned(&self, head: &[u8]) -> Option<Captured> {
        Some(self.watcher.begin(self.session.unscanned(head)?, Room::default()))
    }
}

/// Why no more requests are forwarded.
#[derive(Debug)]
enum End {
    /// The client has closed its side, or is gone, between two requests.
    Client,
    /// The same in the middle of one, of which mongod may have a part: nothing can follow it.
    Midway,
    /// What the client sends is not a frame.
    NotAFrame,
    /// The client took too long, with a request that mongod has nothing of.
    Late,
    /// The same in the middle of one, as with `Midway`.
    Stalled,
    /// The client was silent for as long as it may.
    Idle,
    /// The client writes as only servers before 6.0 let it.
    Old,
    /// Nobody knows that this mongod keeps strangers out.
    Denied(Denied),
    /// mongod takes no more.
    Upstream,
    /// The proxy is stopping.
    Drained,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Requests<'_, R, W> {
    /// Runs until no more requests are forwarded. mongod's connection is then half closed, if the client's is.
    pub(crate) async fn forward_requests(&mut self) {
        let mut greeted = false;
        let end = loop {
            if let Err(end) = self.forward_one().await {
                break end;
            }
            greeted = true;
            self.client.limits.greeted();
            self.metrics.delay_to_server.observe(self.client.since_read().as_secs_f64());
        };
        debug!(?end, "requests end");
        match end {
            End::Late | End::Stalled if !greeted => self.metrics.turned_away(Reason::Greeting),
            End::Late | End::Stalled => self.metrics.turned_away(Reason::Stalled),
            End::Idle => self.metrics.turned_away(Reason::Idle),
            End::Old => (self.turn_away)(Reason::OldWrite, OLD_WRITE),
            End::Denied(denied) => (self.turn_away)(Reason::Unguarded, denied.why()),
            _ => {}
        }
        match end {
            End::Client | End::Old | End::Denied(_) => {
                // mongod would stop looking for readers, never for writers; all the same nothing of ours tells it to
                // stop before the write's reply is here.
                self.writes_ended().await;
                let _ = self.upstream.shutdown().await;
            }
            // It does what came before, and closes; no fence could tell when (`wire-facts.md` 3).
            End::Midway | End::Stalled => {
                let _ = self.upstream.shutdown().await;
            }
            End::NotAFrame => {
                let header = self.client.frames.take_raw(HEADER_BYTES);
                let _ = self.send(&header).await;
                self.discard_rest().await;
                let _ = self.upstream.shutdown().await;
            }
            End::Drained | End::Late | End::Idle => self.conversation.set_drained(),
            End::Upstream => {}
        }
    }

    async fn forward_one(&mut self) -> Result<(), End> {
        let request = self.next_request().await?;
        self.wait_for_turn(request).await?;
        self.wait_for_gate(request).await?;
        self.forward(request).await.map_err(|end| match end {
            End::Client => End::Midway,
            End::Late => End::Stalled,
            end => end,
        })
    }

    /// How long the client may be silent from now on; never bounded while something is owed to it.
    fn patience(&self) -> Option<Duration> {
        let busy = !self.conversation.outstanding().is_empty() || self.client.frames.buffered() > 0;
        (!self.idle_timeout.is_zero() && !busy).then_some(self.idle_timeout)
    }

    /// Returns when no captured write is under way that will end.
    async fn writes_ended(&mut self) {
        loop {
            if self.conversation.outstanding().fence_due() && self.send_fence().await.is_err() {
                return;
            }
            if !self.conversation.outstanding().writes_under_way() {
                return;
            }
            self.conversation.replied.notified().await;
        }
    }

    async fn forward(&mut self, request: Request) -> Result<(), End> {
        match request.way {
            Way::Pass => {
                self.metrics.requests_pass.inc();
                self.expect(request, ReplyTo::Plain);
                self.send_rest(request, 0).await
            }
            Way::Hello => {
                self.metrics.requests_hello.inc();
                self.send_hello(request).await
            }
            Way::Captured(class) => match self.pass() {
                Some(passing) => self.send_unseen(request, passing).await,
                None => {
                    self.count(class);
                    self.send_captured(request, class).await
                }
            },
            Way::NameComesLater => self.send_late_name(request).await,
            Way::Compressed => self.send_compressed(request).await,
            Way::Old => {
                self.refused_as_old().await?;
                Box::pin(self.forward(Request { way: Way::Pass, ..request })).await
            }
        }
    }

    /// Whether a request that would be captured passes unseen, since capture is out of the way.
    fn pass(&self) -> Option<Passing> {
        self.watching.as_ref().and_then(|watching| watching.watcher.pass())
    }

    fn count(&self, class: Class) {
        let watch = matches!(class, Class::Watch);
        if watch { &self.metrics.requests_watch } else { &self.metrics.requests_hold }.inc();
    }

    /// Waits for a request's first bytes, at a frame boundary.
    async fn next_request(&mut self) -> Result<Request, End> {
        loop {
            self.client.frames.set_frame_bytes_max(self.conversation.frame_bytes_max());
            if let Some(watching) = &mut self.watching {
                watching.session.set_document_bytes_max(self.conversation.document_bytes_max());
            }
            if self.conversation.outstanding().fence_urgent() {
                self.send_fence().await?;
            }
            let head = self.client.frames.head().map_err(|_| End::NotAFrame)?;
            let here = head.map_or(0, |head| head.bytes.len());
            let request = head.and_then(|head| look(&head, |name| self.class(name)));
            // Also before a frame that may take long to come: it may never be whole.
            if request.is_none_or(|request| here < request.length)
                && self.conversation.outstanding().fence_due()
            {
                self.send_fence().await?;
            }
            if let Some(request) = request {
                return Ok(request);
            }
            let patience = self.patience();
            select! {
                filled = self.client.fill() => more(filled)?,
                () = self.conversation.replied.notified() => {}
                () = self.drain.cancelled() => return Err(End::Drained),
                () = async { sleep(patience.unwrap_or_default()).await }, if patience.is_some() => return Err(End::Idle),
            }
        }
    }

    fn class(&self, name: &str) -> Class {
        self.watching.as_ref().map_or(Class::Pass, |watching| watching.session.classify(name))
    }

    /// Registers a request that is not captured before its last byte leaves.
    fn expect(&self, request: Request, reply: ReplyTo) {
        match request.expect {
            Expect::Nothing => self.conversation.outstanding().silent(),
            Expect::One => self.conversation.outstanding().request(request.id, reply, false),
            Expect::Stream => self.conversation.outstanding().request(request.id, reply, true),
            Expect::Unknown => self.conversation.outstanding().unread(request.id, None),
        }
    }

    /// A client that sends without reading waits here: 1024 outstanding requests of some 200 bytes each. And a captured
    /// request, while mongod may not get to it for long: no mark, room or ticket of it must wait with it.
    ///
    /// What the client sends meanwhile is read as far as that takes little room, to learn that it has gone.
    async fn wait_for_turn(&mut self, request: Request) -> Result<(), End> {
        let is_captured =
            matches!(request.way, Way::Captured(_) | Way::NameComesLater | Way::Compressed | Way::Old);
        let mut open = true;
        loop {
            let (full, long) = {
                let outstanding = self.conversation.outstanding();
                (outstanding.is_full(), is_captured && outstanding.may_wait_long())
            };
            if !(full || long && open) {
                return Ok(());
            }
            if self.conversation.outstanding().fence_due() {
                self.send_fence().await?;
            }
            let reads_ahead = open && self.client.frames.buffered() < READ_AHEAD_BYTES;
            select! {
                () = self.conversation.replied.notified() => {}
                () = self.drain.cancelled() => return Err(End::Drained),
                filled = self.client.fill_ahead(), if reads_ahead => open = more(filled).is_ok(),
            }
        }
    }

    /// Registers a captured request before its last byte leaves.
    fn register(&self, request: Request, captured: Captured) {
        let mut outstanding = self.conversation.outstanding();
        match request.expect {
            Expect::Unknown => outstanding.unread(request.id, Some(captured)),
            _ if captured.expects_reply() => outstanding.write(request.id, captured),
            _ => outstanding.silent_write(request.id, captured),
        }
    }

    /// The same for one that nobody has looked into: it may be anything, a login too.
    fn register_unseen(&self, request: Request, captured: Captured) {
        self.register(request, captured);
        self.conversation.outstanding().silent();
    }

    /// Before a captured write that gets no reply: a stranger's is dropped by mongod without a word, and must not make us
    /// compare what it names.
    async fn probe(&mut self, expect: Expect) -> Result<(), End> {
        let silent = expect == Expect::Nothing && self.watching.is_some();
        if silent && self.conversation.outstanding().needs_probe() { self.send_fence().await } else { Ok(()) }
    }

    async fn send_fence(&mut self) -> Result<(), End> {
        self.conversation.outstanding().fence(FENCE_ID);
        self.send(FENCE).await
    }

    /// Reads until the client is gone: what is not read would reset its connection, and lose it the last replies.
    async fn discard_rest(&mut self) {
        loop {
            self.client.frames.take_raw(usize::MAX);
            if self.fill().await.is_err() {
                return;
            }
        }
    }

    fn head(&self) -> Result<Head<'_>, End> {
        head_of(&self.client)
    }

    async fn fill(&mut self) -> Result<(), End> {
        more(self.client.fill().await)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.upstream.write_all(bytes).await.map_err(|_| End::Upstream)?;
        // Over TLS: what a full socket did not take yet.
        self.upstream.flush().await.map_err(|_| End::Upstream)
    }
}

/// The front frame. That there is one was seen when the request's way was chosen.
fn head_of<R>(client: &Source<R>) -> Result<Head<'_>, End> {
    client.frames.head().ok().flatten().ok_or(End::NotAFrame)
}

fn more(filled: std::io::Result<Filled>) -> Result<(), End> {
    match filled {
        Ok(Filled::More) => Ok(()),
        Err(error) if error.kind() == ErrorKind::TimedOut => Err(End::Late),
        Ok(Filled::End) | Err(_) => Err(End::Client),
    }
}

/// As much as one read takes.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// The request id of our own commands. A client may use it too: the order of requests tells whose reply it is.
const FENCE_ID: i32 = i32::from_be_bytes(*b"dual");

/// `{refreshSessions: [], $db: "admin"}` does nothing, for everybody who has logged in; to others, where that is asked for,
/// the answer is 13, Unauthorized, also while the localhost exception lets them create the first user (seen on 6.0.5).
const FENCE: &[u8] = b"\x3f\0\0\0laud\0\0\0\0\xdd\x07\0\0\
    \0\0\0\0\0\x2a\0\0\0\x04refreshSessions\0\x05\0\0\0\0\x02$db\0\x06\0\0\0admin\0\0";

/// `{hello: 1, $db: "admin"}`.
const HELLO: &[u8] = b"\x34\0\0\0laud\0\0\0\0\xdd\x07\0\0\
    \0\0\0\0\0\x1f\0\0\0\x10hello\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0";
const OLD_WRITE: &str = "it may write by OP_INSERT, OP_UPDATE, OP_DELETE or OP_QUERY, which the local mongod, older than \
                         6.0, would do and nobody would see: take a mongod of 6.0 or later";

#[cfg(test)]
mod tests {
    use wire::OpMsg;

    use super::*;

    #[test]
    fn what_we_send_ourselves_reads() {
        let hello = OpMsg::parse(HELLO).unwrap();
        assert_eq!(
            (hello.body().get_i32("hello").unwrap(), hello.body().get_str("$db").unwrap()),
            (1, "admin")
        );
    }

    #[test]
    fn the_fence_reads() {
        let msg = OpMsg::parse(FENCE).unwrap();
        assert_eq!((msg.header.request_id, msg.header.response_to), (FENCE_ID, 0));
        let names: Vec<_> = msg.body().into_iter().map(|field| field.unwrap().0.as_str()).collect();
        assert_eq!(names, ["refreshSessions", "$db"]);
        assert!(msg.body().get_array("refreshSessions").unwrap().is_empty());
        assert_eq!(msg.body().get_str("$db").unwrap(), "admin");
        assert!(!msg.flags.more_to_come());
    }
}
