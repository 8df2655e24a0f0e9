//! Client to mongod: what a request is shows in its first bytes, and decides how it travels.
//!
//! - *pass*: part by part as it arrives
//! - *watch*: the same, but its last byte waits until its mark is in the log
//! - *hold*: nothing leaves until it was scanned (inserts), or rewritten (hello)
//! - a frame that finds no room to be held passes unscanned; capture is told
//! - writes that get no reply are followed by a ping of ours, at a frame boundary, when the client sends nothing else
//! - a header that is none: its 16 bytes go on and nothing after them; mongod answers what came before, and closes

use bytes::Bytes;
use capture::Class;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    select,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use wire::{HEADER_BYTES, Head, hello};

use super::{
    Conversation, HELLO_BYTES_MAX,
    look::{Expect, Request, Way, late_way, look},
};
use crate::{
    held::{Held, Room},
    metrics::Metrics,
    outstanding::ReplyTo,
    source::{Filled, Source},
    watch::{Captured, Watcher},
};

pub(crate) struct Requests<'a, R, W> {
    pub(crate) client: Source<R>,
    pub(crate) upstream: W,
    pub(crate) conversation: &'a Conversation,
    pub(crate) watching: Option<Watching<'a>>,
    pub(crate) held: &'a Held,
    pub(crate) metrics: &'a Metrics,
    pub(crate) drain: &'a CancellationToken,
}

/// What a session needs to see writes.
pub(crate) struct Watching<'a> {
    pub(crate) watcher: &'a Watcher,
    pub(crate) session: capture::Session,
}

/// Why no more requests are forwarded.
#[derive(Debug)]
enum End {
    /// The client has closed its side, or is gone.
    Client,
    /// What the client sends is not a frame.
    NotAFrame,
    /// mongod takes no more.
    Upstream,
    /// The proxy is stopping.
    Drained,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Requests<'_, R, W> {
    /// Runs until no more requests are forwarded. mongod's connection is then half closed, if the client's is.
    pub(crate) async fn forward_requests(&mut self) {
        let end = loop {
            if let Err(end) = self.forward_one().await {
                break end;
            }
        };
        debug!(?end, "requests end");
        match end {
            End::Client => {
                // mongod would stop looking for readers, never for writers; all the same nothing of ours tells it to
                // stop before the write's reply is here.
                self.conversation.writes_ended().await;
                let _ = self.upstream.shutdown().await;
            }
            End::NotAFrame => {
                let header = self.client.frames.take_raw(HEADER_BYTES);
                let _ = self.upstream.write_all(&header).await;
                self.discard_rest().await;
                let _ = self.upstream.shutdown().await;
            }
            End::Drained => self.conversation.set_drained(),
            End::Upstream => {}
        }
    }

    async fn forward_one(&mut self) -> Result<(), End> {
        let request = self.next_request().await?;
        self.wait_for_room().await?;
        self.forward(request).await
    }

    async fn forward(&mut self, request: Request) -> Result<(), End> {
        match request.way {
            Way::Pass => {
                self.metrics.requests_pass.inc();
                self.expect(request, ReplyTo::Plain);
                self.send_rest(0).await
            }
            Way::Hello => {
                self.metrics.requests_hello.inc();
                self.expect(request, ReplyTo::Hello);
                self.send_hello(request).await
            }
            Way::Captured(class) => {
                let watch = matches!(class, Class::Watch);
                if watch { &self.metrics.requests_watch } else { &self.metrics.requests_hold }.inc();
                self.send_captured(request, class).await
            }
            Way::NameComesLater => self.send_late_name(request).await,
            Way::Unreadable => {
                self.metrics.requests_pass.inc();
                self.send_unscanned(request, 0, Room::default()).await
            }
        }
    }

    /// Waits for a request's first bytes, at a frame boundary.
    async fn next_request(&mut self) -> Result<Request, End> {
        loop {
            if self.conversation.outstanding().fence_urgent() {
                self.send_fence().await?;
            }
            let head = self.client.frames.head().map_err(|_| End::NotAFrame)?;
            if let Some(request) = head.and_then(|head| look(&head, |name| self.class(name))) {
                return Ok(request);
            }
            if self.conversation.outstanding().fence_due() {
                self.send_fence().await?;
            }
            select! {
                filled = self.client.fill() => more(filled)?,
                () = self.conversation.replied.notified() => {}
                () = self.drain.cancelled() => return Err(End::Drained),
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

    /// A client that sends without reading waits here: 1024 outstanding requests of some 200 bytes each.
    async fn wait_for_room(&mut self) -> Result<(), End> {
        while self.conversation.outstanding().is_full() {
            if self.conversation.outstanding().fence_due() {
                self.send_fence().await?;
            }
            self.conversation.replied.notified().await;
        }
        Ok(())
    }

    async fn send_hello(&mut self, request: Request) -> Result<(), End> {
        if request.length > HELLO_BYTES_MAX {
            // No driver sends that. Its compressors stay, and leave with the reply.
            return self.send_rest(0).await;
        }
        let frame = self.whole_frame().await?;
        match hello::strip_compression(&frame) {
            Some(stripped) => self.send(&stripped).await,
            None => self.send(&frame).await,
        }
    }

    /// Forwards a captured request: all but its last byte as it comes, or nothing, until it is whole and marked.
    async fn send_captured(&mut self, request: Request, class: Class) -> Result<(), End> {
        let mut room = Room::default();
        let mut sent = 0;
        loop {
            let here = self.head()?.bytes.len();
            if !self.held.cover(&mut room, here).await {
                return self.send_unscanned(request, sent, room).await;
            }
            if here == request.length {
                break;
            }
            if matches!(class, Class::Watch) {
                let head = head_of(&self.client)?;
                self.upstream.write_all(&head.bytes[sent..]).await.map_err(|_| End::Upstream)?;
                sent = here;
            }
            self.fill().await?;
        }
        let frame = self.whole_frame().await?;
        let captured = self.watching.as_ref().and_then(|watching| {
            let write = watching.session.request(&frame)?;
            Some(watching.watcher.begin(write, room))
        });
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

    /// Forwards a captured request that cannot be looked at; `sent` of its bytes have left.
    async fn send_unscanned(&mut self, request: Request, sent: usize, room: Room) -> Result<(), End> {
        let head = self.head()?;
        // Compressed bytes are nothing to read names from.
        let known = if matches!(request.way, Way::Unreadable) { HEADER_BYTES } else { head.bytes.len() };
        let captured = self.watching.as_ref().and_then(|watching| {
            let write = watching.session.unscanned(&head.bytes[..known])?;
            Some(watching.watcher.begin(write, room))
        });
        match captured {
            Some(captured) => self.register(request, captured),
            None => self.expect(request, ReplyTo::Plain),
        }
        self.send_rest(sent).await
    }

    /// Forwards a request whose name comes behind a document sequence: held until it is whole, then it is known.
    async fn send_late_name(&mut self, request: Request) -> Result<(), End> {
        let mut room = Room::default();
        loop {
            let here = self.head()?.bytes.len();
            if !self.held.cover(&mut room, here).await {
                return self.send_unscanned(request, 0, room).await;
            }
            if here == request.length {
                break;
            }
            self.fill().await?;
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

    /// Forwards what is left of the front frame as it arrives; `sent` of its bytes have left.
    async fn send_rest(&mut self, mut sent: usize) -> Result<(), End> {
        loop {
            while let Some(part) = self.client.frames.take_part().map_err(|_| End::NotAFrame)? {
                let skip = sent.min(part.len());
                sent -= skip;
                self.send(&part[skip..]).await?;
                if self.client.frames.remaining() == 0 {
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

    async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.upstream.write_all(bytes).await.map_err(|_| End::Upstream)
    }
}

/// The front frame. That there is one was seen when the request's way was chosen.
fn head_of<R>(client: &Source<R>) -> Result<Head<'_>, End> {
    client.frames.head().ok().flatten().ok_or(End::NotAFrame)
}

fn more(filled: std::io::Result<Filled>) -> Result<(), End> {
    match filled {
        Ok(Filled::More) => Ok(()),
        Ok(Filled::End) | Err(_) => Err(End::Client),
    }
}

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
