//! Client to mongod: what a request is shows in its first bytes, and decides how it travels.
//!
//! - *pass*: part by part as it arrives
//! - *watch*: the same, but its last byte waits until its mark is in the log
//! - *hold*: nothing leaves until it was scanned (inserts), rewritten (hello), or looked into (what is compressed)
//! - a frame that finds no room to be held, or has to give it up, passes unscanned; capture is told
//! - writes that get no reply are followed by a ping of ours, at a frame boundary, when no other whole frame is here
//! - a header that is none: its 16 bytes go on and nothing after them; mongod answers what came before, and closes

use std::{io::ErrorKind, time::Duration};

use bytes::Bytes;
use capture::Class;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    select,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use wire::{
    FRAME_BYTES_MAX, HEADER_BYTES, Head,
    hello::{self, Asked},
};

use super::{
    Conversation, HELLO_BYTES_MAX,
    look::{Expect, Request, Way, late_way, look, look_inside},
};
use crate::{
    held::{Held, OWN_BYTES, Room},
    metrics::{Metrics, Reason},
    outstanding::ReplyTo,
    source::{Filled, Source},
    watch::{Captured, Watcher, apart},
};

pub(crate) struct Requests<'a, R, W> {
    pub(crate) client: Source<R>,
    pub(crate) upstream: W,
    pub(crate) conversation: &'a Conversation,
    pub(crate) watching: Option<Watching<'a>>,
    pub(crate) held: &'a Held,
    pub(crate) metrics: &'a Metrics,
    pub(crate) drain: &'a CancellationToken,
    /// How long the client may be silent while nothing is owed to it; zero: any time.
    pub(crate) idle_timeout: Duration,
    /// The write that the request in hand carries, while its last byte is not here.
    pub(crate) unsent: Option<Captured>,
}

/// What a session needs to see writes.
pub(crate) struct Watching<'a> {
    pub(crate) watcher: &'a Watcher,
    pub(crate) session: capture::Session,
}

impl Watching<'_> {
    /// Looks at a whole request, which takes `room`, and appends its mark.
    fn request(&self, frame: &[u8], room: Room) -> Option<Captured> {
        apart(room.bytes(), || Some(self.watcher.begin(self.session.request(frame)?, room)))
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
            _ => {}
        }
        match end {
            End::Client => {
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
            Way::Captured(class) => {
                self.count(class);
                self.send_captured(request, class).await
            }
            Way::NameComesLater => self.send_late_name(request).await,
            Way::Compressed => self.send_compressed(request).await,
        }
    }

    fn count(&self, class: Class) {
        let watch = matches!(class, Class::Watch);
        if watch { &self.metrics.requests_watch } else { &self.metrics.requests_hold }.inc();
    }

    /// Waits for a request's first bytes, at a frame boundary.
    async fn next_request(&mut self) -> Result<Request, End> {
        loop {
            self.client.frames.set_frame_bytes_max(self.conversation.frame_bytes_max());
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
            Expect::Nothing => {}
            Expect::One => self.conversation.outstanding().request(request.id, reply, false),
            Expect::Stream => self.conversation.outstanding().request(request.id, reply, true),
        }
    }

    /// A client that sends without reading waits here: 1024 outstanding requests of some 200 bytes each. And a captured
    /// request, while mongod may not get to it for long: no mark, room or ticket of it must wait with it.
    ///
    /// What the client sends meanwhile is read as far as that takes little room, to learn that it has gone.
    async fn wait_for_turn(&mut self, request: Request) -> Result<(), End> {
        let is_captured = matches!(request.way, Way::Captured(_) | Way::NameComesLater);
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

    async fn send_hello(&mut self, request: Request) -> Result<(), End> {
        if request.length > HELLO_BYTES_MAX {
            // No driver sends that. Compressors that we cannot read leave with the reply.
            self.expect(request, ReplyTo::Hello(Asked::Members));
            return self.send_rest(request, 0).await;
        }
        let frame = self.whole_frame().await?;
        let asked = hello::asked(&frame).unwrap_or(Asked::Members);
        self.expect(request, ReplyTo::Hello(asked));
        match hello::offer_readable_compressors(&frame) {
            Some(instead) => self.send(&instead).await,
            None => self.send(&frame).await,
        }
    }

    /// Forwards a captured request: all but its last byte as it comes, or nothing, until it is whole and marked.
    async fn send_captured(&mut self, request: Request, class: Class) -> Result<(), End> {
        if request.length > FRAME_BYTES_MAX {
            // A server that takes more than any that we know; our parsers do not.
            return self.send_unscanned(request, 0).await;
        }
        let (since, mut room) = (Instant::now(), Room::default());
        let own = self.own_bytes();
        let mut sent = 0;
        loop {
            let here = self.head()?.bytes.len();
            if !self.held.cover(&mut room, here.saturating_sub(own)).await {
                drop(room);
                return self.send_unscanned(request, sent).await;
            }
            if here == request.length {
                break;
            }
            if matches!(class, Class::Watch) {
                let head = head_of(&self.client)?;
                self.upstream.write_all(&head.bytes[sent..]).await.map_err(|_| End::Upstream)?;
                sent = here;
            }
            if !self.fill_held(since).await? {
                drop(room);
                return self.send_unscanned(request, sent).await;
            }
        }
        let frame = self.whole_frame().await?;
        self.send_seen(request, &frame, &frame, sent, room).await
    }

    /// Marks and forwards a whole captured request, of which `sent` bytes have left. What it says stands in `inside`,
    /// which is the frame itself unless that is compressed.
    async fn send_seen(
        &mut self,
        request: Request,
        frame: &[u8],
        inside: &[u8],
        sent: usize,
        room: Room,
    ) -> Result<(), End> {
        let captured = self.watching.as_ref().and_then(|watching| watching.request(inside, room));
        let Some(mut captured) = captured else {
            self.expect(request, ReplyTo::Plain);
            return self.send(&frame[sent..]).await;
        };
        let instead = captured.forward().filter(|_| sent == 0);
        self.register(request, captured);
        match instead {
            Some(frame) => self.send(&frame).await,
            None => self.send(&frame[sent..]).await,
        }
    }

    /// Holds a compressed request until it is whole, to learn what it is. It goes on as it came, but for an added `_id`.
    async fn send_compressed(&mut self, request: Request) -> Result<(), End> {
        let (since, mut room) = (Instant::now(), Room::default());
        let own = self.own_bytes();
        loop {
            let head = self.head()?;
            let (here, inflated) = (head.bytes.len(), wire::inflated_bytes(&head));
            let is_large = request.length.max(inflated) > HELLO_BYTES_MAX;
            if is_large && self.watching.is_none() {
                // Whether it gets a reply is not known; one that nobody waits for is forwarded all the same.
                self.metrics.requests_pass.inc();
                return self.send_rest(request, 0).await;
            }
            let readable = request.length.max(inflated) <= FRAME_BYTES_MAX;
            if !readable || !self.held.cover(&mut room, (here + inflated).saturating_sub(own)).await {
                drop(room);
                return self.send_unscanned(request, 0).await;
            }
            if here == request.length {
                break;
            }
            if !self.fill_held(since).await? {
                drop(room);
                return self.send_unscanned(request, 0).await;
            }
        }
        let inside =
            apart(room.bytes(), || wire::inflate(self.head()?.bytes).map_err(|_| End::NotAFrame)).ok();
        let inner = inside.as_deref().and_then(|inside| look_inside(inside, |name| self.class(name)));
        match (inner, inside) {
            (Some(Request { way: Way::Captured(class), expect, .. }), Some(inside)) => {
                self.count(class);
                let frame = self.whole_frame().await?;
                self.send_seen(Request { expect, ..request }, &frame, &inside, 0, room).await
            }
            (Some(Request { way, expect, .. }), _) => {
                drop(room);
                Box::pin(self.forward(Request { way, expect, ..request })).await
            }
            (None, _) => {
                self.metrics.requests_pass.inc();
                let frame = self.whole_frame().await?;
                self.send_seen(request, &frame, &frame, 0, room).await
            }
        }
    }

    /// What the request in hand may hold besides the shared room.
    fn own_bytes(&self) -> usize {
        if self.conversation.outstanding().has_write() { 0 } else { OWN_BYTES }
    }

    /// Forwards a captured request that cannot be looked at; `sent` of its bytes have left.
    async fn send_unscanned(&mut self, request: Request, sent: usize) -> Result<(), End> {
        let head = self.head()?.bytes;
        self.unsent = self.watching.as_ref().and_then(|watching| watching.unscanned(head));
        if self.unsent.is_none() {
            self.expect(request, ReplyTo::Plain);
        }
        self.send_rest(request, sent).await
    }

    /// Forwards a request whose name comes behind a document sequence: held until it is whole, then it is known.
    async fn send_late_name(&mut self, request: Request) -> Result<(), End> {
        if request.length > FRAME_BYTES_MAX {
            return self.send_unscanned(request, 0).await;
        }
        let (since, mut room) = (Instant::now(), Room::default());
        loop {
            let here = self.head()?.bytes.len();
            let held = self.held.cover(&mut room, here).await;
            if held && here == request.length {
                break;
            }
            if !held || !self.fill_held(since).await? {
                drop(room);
                return self.send_unscanned(request, 0).await;
            }
        }
        let way = late_way(self.head()?.bytes, |name| self.class(name));
        // What captures it takes its own room.
        drop(room);
        Box::pin(self.forward(Request { way, ..request })).await
    }

    /// Registers a captured request before its last byte leaves.
    fn register(&self, request: Request, captured: Captured) {
        let mut outstanding = self.conversation.outstanding();
        if captured.expects_reply() {
            outstanding.write(request.id, captured);
        } else {
            outstanding.silent_write(request.id, captured);
        }
    }

    async fn send_fence(&mut self) -> Result<(), End> {
        self.conversation.outstanding().fence(FENCE_ID);
        self.send(FENCE).await
    }

    /// Forwards what is left of the front frame as it arrives; `sent` of its bytes have left. A write that it carries
    /// counts from its last part on: mongod runs nothing that is not whole.
    async fn send_rest(&mut self, request: Request, mut sent: usize) -> Result<(), End> {
        loop {
            while let Some(part) = self.client.frames.take_part().map_err(|_| End::NotAFrame)? {
                let skip = sent.min(part.len());
                sent -= skip;
                let is_last = self.client.frames.remaining() == 0;
                if let Some(captured) = self.unsent.take_if(|_| is_last) {
                    self.register(request, captured);
                }
                self.send(&part[skip..]).await?;
                if is_last {
                    return Ok(());
                }
            }
            self.fill().await?;
        }
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

    /// The front frame, when all of it has arrived. Whoever calls this has bounded its length.
    async fn whole_frame(&mut self) -> Result<Bytes, End> {
        loop {
            if let Some(frame) = self.client.frames.take_frame().map_err(|_| End::NotAFrame)? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), End> {
        more(self.client.fill().await)
    }

    /// Waits for more of a held frame; false when its room, held since `since`, is wanted by others.
    async fn fill_held(&mut self, since: Instant) -> Result<bool, End> {
        select! {
            filled = self.client.fill() => more(filled).map(|()| true),
            () = self.held.wanted(since) => Ok(false),
        }
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

/// The request id of our own pings. A client may use it too: the order of requests tells whose reply it is.
const FENCE_ID: i32 = i32::from_be_bytes(*b"dual");

/// `{ping: 1, $db: "admin"}`, allowed before authentication as well (`wire-facts.md` 8).
const FENCE: &[u8] = b"\x33\0\0\0laud\0\0\0\0\xdd\x07\0\0\
    \0\0\0\0\0\x1e\0\0\0\x10ping\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0";

#[cfg(test)]
mod tests {
    use wire::OpMsg;

    use super::*;

    #[test]
    fn the_fence_is_a_ping() {
        let msg = OpMsg::parse(FENCE).unwrap();
        assert_eq!((msg.header.request_id, msg.header.response_to), (FENCE_ID, 0));
        let names: Vec<_> = msg.body().into_iter().map(|field| field.unwrap().0.as_str()).collect();
        assert_eq!(names, ["ping", "$db"]);
        assert_eq!(msg.body().get_str("$db").unwrap(), "admin");
        assert!(!msg.flags.more_to_come());
    }
}
