//! mongod to client: a reply is matched with its request, and forwarded as it comes unless it must be looked at.
//!
//! - a hello's reply, also each streamed one, is held and its addresses are rewritten
//! - a captured write's reply is held until its entry is in the log, and durable where the write asked for that
//! - one that cannot be read is not passed: its addresses could lead the client past us. The session ends
//! - the replies to our own commands are swallowed
//! - whether a compressed reply is the last of a stream is told inside only: where there may be one, it is held
//! - a client that is gone still has its replies read, as long as a captured write is under way
//! - bytes that are no frames (mongod's text for a browser) go on as they are, to the end

use std::io;

use bytes::Bytes;
use capture::Lost;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    select,
};
use tracing::{debug, warn};
use wire::{
    Flags, Head, Header, OpCode, OpMsg, WireError,
    hello::{self, Asked, Facts, Names},
    peek_flags,
};

use super::{Conversation, HELLO_BYTES_MAX};
use crate::{
    held::{Held, OWN_BYTES, Room},
    metrics::Metrics,
    outstanding::{ReplyTo, Settled},
    rarely::Rarely,
    source::{Filled, Source},
    watch::{Captured, Watcher, apart},
};

pub(crate) struct Replies<'a, R, W> {
    pub(crate) upstream: Source<R>,
    pub(crate) client: Client<W>,
    pub(crate) conversation: &'a Conversation,
    pub(crate) watcher: Option<&'a Watcher>,
    pub(crate) held: &'a Held,
    /// The addresses that hello replies name.
    pub(crate) names: &'a Names,
    /// Told what a hello reply says of the server.
    pub(crate) met: &'a (dyn Fn(&Facts) + Sync),
    /// A reply has come.
    pub(crate) heard: bool,
    /// mongod has closed before it has answered anything.
    pub(crate) mute: bool,
    pub(crate) metrics: &'a Metrics,
    /// Log lines about hello replies that cannot be read.
    pub(crate) unreadable: &'a Rarely,
}

/// The client's side, which may be gone while there is still something to read from mongod.
pub(crate) struct Client<W> {
    stream: W,
    gone: bool,
}

/// No more replies come.
struct End(Lost);

#[derive(Debug, Clone, Copy)]
struct Reply {
    header: Header,
    more_to_come: bool,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Replies<'_, R, W> {
    /// Runs until the session is over: mongod has closed, nobody waits any more, or the proxy stops.
    pub(crate) async fn forward_replies(&mut self) -> Lost {
        loop {
            if let Err(End(lost)) = self.forward_one().await {
                return lost;
            }
        }
    }

    async fn forward_one(&mut self) -> Result<(), End> {
        let reply = self.next_reply().await?;
        self.heard = true;
        let meant = self.conversation.outstanding().meant(&reply.header);
        match meant {
            ReplyTo::Plain if self.is_packed_stream(reply) => self.send_packed(reply).await?,
            ReplyTo::Plain => {
                self.send_as_it_comes().await?;
                self.settle(reply);
            }
            ReplyTo::Hello(asked) => self.send_hello(reply, asked).await?,
            ReplyTo::Facts => {
                let facts = hello::facts(&self.own_reply(reply).await?);
                // A server that does not tell is none that we know.
                let wire_version = facts.wire_version.or(Some(0));
                self.conversation.learn(&Facts { wire_version, ..facts });
                self.settle(reply);
            }
            ReplyTo::Write => self.send_outcome(reply).await?,
            ReplyTo::Fence => self.take_fence(reply).await?,
        }
        self.metrics.delay_to_client.observe(self.upstream.since_read().as_secs_f64());
        Ok(())
    }

    /// Waits for a reply's first bytes, at a frame boundary.
    async fn next_reply(&mut self) -> Result<Reply, End> {
        loop {
            match self.upstream.frames.head() {
                Err(error) => {
                    debug!(%error, "what mongod sends is not a frame");
                    return self.send_to_end().await;
                }
                Ok(Some(head)) => {
                    let (header, flags) = (head.header, peek_flags(&head));
                    let whole = head.bytes.len() == header.length;
                    if flags.is_some() || whole || header.opcode != OpCode::Msg {
                        let more_to_come = flags.is_some_and(Flags::more_to_come);
                        return Ok(Reply { header, more_to_come });
                    }
                }
                Ok(None) => {}
            }
            if self.is_over() {
                return Err(End(Lost::Broken));
            }
            select! {
                filled = self.upstream.fill() => self.more(filled)?,
                () = self.conversation.drain.notified() => {}
            }
        }
    }

    fn is_over(&self) -> bool {
        let outstanding = self.conversation.outstanding();
        (self.client.gone && !outstanding.writes_under_way())
            || (self.conversation.is_drained() && !outstanding.owes_reply())
    }

    async fn send_hello(&mut self, mut reply: Reply, asked: Asked) -> Result<(), End> {
        if reply.header.length > HELLO_BYTES_MAX {
            return Err(self.unreadable(&WireError::TooLong(reply.header.length)));
        }
        let frame = self.whole_frame().await?;
        let rewritten = hello::rewrite_reply(&frame, self.names, asked);
        let rewritten = rewritten.map_err(|error| self.unreadable(&error))?;
        let facts = hello::facts(&frame);
        reply.more_to_come |= facts.more_to_come;
        self.conversation.learn(&facts);
        self.upstream.frames.set_frame_bytes_max(self.conversation.frame_bytes_max());
        self.settle(reply);
        (self.met)(&facts);
        self.client.send(rewritten.as_deref().unwrap_or(&frame)).await;
        Ok(())
    }

    fn unreadable(&self, error: &WireError) -> End {
        self.metrics.hellos_unread_total.inc();
        match self.unreadable.due() {
            Some(left_out) => warn!(
                %error,
                left_out,
                "mongod's hello reply cannot be read: the client's connection is closed, for the addresses in it could lead past the proxy"
            ),
            None => debug!(%error, "mongod's hello reply cannot be read"),
        }
        End(Lost::Broken)
    }

    fn is_packed_stream(&self, reply: Reply) -> bool {
        reply.header.opcode == OpCode::Compressed && self.conversation.outstanding().may_stream(&reply.header)
    }

    /// Holds a compressed reply to learn whether another one follows. Without room it counts as the last one.
    async fn send_packed(&mut self, mut reply: Reply) -> Result<(), End> {
        let mut room = Room::default();
        let Some(frame) = self.hold(reply, &mut room).await? else {
            self.send_as_it_comes().await?;
            self.settle(reply);
            return Ok(());
        };
        let both = inflated_too(reply, &frame);
        reply.more_to_come = self.held.cover(&mut room, both.saturating_sub(OWN_BYTES)).await
            && apart(both, || more_inside(&frame));
        drop(room);
        self.settle(reply);
        self.client.send(&frame).await;
        Ok(())
    }

    async fn send_outcome(&mut self, mut reply: Reply) -> Result<(), End> {
        let mut room = Room::default();
        let Some(frame) = self.hold(reply, &mut room).await? else {
            // mongod answers when it has finished: the write has ended, though we cannot read how.
            let captured = self.settle(reply);
            self.ended_unseen(captured);
            return self.send_as_it_comes().await;
        };
        let both = inflated_too(reply, &frame);
        if !self.held.cover(&mut room, both.saturating_sub(OWN_BYTES)).await {
            let captured = self.settle(reply);
            self.ended_unseen(captured);
            self.client.send(&frame).await;
            return Ok(());
        }
        if self.is_packed_stream(reply) {
            reply.more_to_come = apart(both, || more_inside(&frame));
        }
        let captured = self.settle(reply);
        if let (Some(watcher), Some(captured)) = (self.watcher, captured) {
            watcher.answered(captured, &frame).await;
        }
        // From here on it waits for its client only, as it would in mongod, and needs nobody's room.
        drop(room);
        self.client.send(&frame).await;
        Ok(())
    }

    /// The reply, once all of it is here, which `room` covers; `None` when there is none for it.
    async fn hold(&mut self, reply: Reply, room: &mut Room) -> Result<Option<Bytes>, End> {
        loop {
            let here = self.upstream.frames.buffered().min(reply.header.length);
            if !self.held.cover(room, here.saturating_sub(OWN_BYTES)).await {
                return Ok(None);
            }
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            self.fill().await?;
        }
    }

    /// Takes off what the reply has ended; the write that it answers.
    fn settle(&self, reply: Reply) -> Option<Captured> {
        let settled = self.conversation.outstanding().settle(&reply.header, reply.more_to_come);
        self.ended(settled)
    }

    fn ended(&self, settled: Settled<Captured>) -> Option<Captured> {
        self.conversation.replied.notify_one();
        self.ended_unseen(settled.unseen);
        if let Some(watcher) = self.watcher {
            settled.refused.into_iter().for_each(|captured| watcher.did_nothing(captured));
        }
        settled.answered
    }

    fn ended_unseen(&self, writes: impl IntoIterator<Item = Captured>) {
        let Some(watcher) = self.watcher else { return };
        for captured in writes {
            watcher.ended_unseen(captured);
        }
    }

    /// The reply to our own fence, some hundred bytes: whether the client may write.
    async fn take_fence(&mut self, reply: Reply) -> Result<(), End> {
        let unauthorized = says_unauthorized(&self.own_reply(reply).await?);
        let settled = self.conversation.outstanding().settle_fence(&reply.header, unauthorized);
        self.ended(settled);
        Ok(())
    }

    /// Takes the reply to a command of ours, which is not for the client; nothing of one that is too long to be one.
    async fn own_reply(&mut self, reply: Reply) -> Result<Bytes, End> {
        if reply.header.length <= HELLO_BYTES_MAX {
            return self.whole_frame().await;
        }
        loop {
            while self.take_part()?.is_some() {
                if self.upstream.frames.remaining() == 0 {
                    return Ok(Bytes::new());
                }
            }
            self.fill().await?;
        }
    }

    /// The front frame, once all of it is here. Whoever calls this has bounded its length.
    async fn whole_frame(&mut self) -> Result<Bytes, End> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// Forwards the front frame as it arrives.
    async fn send_as_it_comes(&mut self) -> Result<(), End> {
        loop {
            while let Some(part) = self.take_part()? {
                self.client.send(&part).await;
                if self.upstream.frames.remaining() == 0 {
                    return Ok(());
                }
            }
            self.fill().await?;
        }
    }

    /// Forwards everything until mongod closes.
    async fn send_to_end(&mut self) -> Result<Reply, End> {
        loop {
            let bytes = self.upstream.frames.take_raw(usize::MAX);
            self.client.send(&bytes).await;
            drop(bytes);
            if self.client.gone {
                return Err(End(Lost::Broken));
            }
            self.fill().await?;
        }
    }

    fn take_frame(&mut self) -> Result<Option<Bytes>, End> {
        self.upstream.frames.take_frame().map_err(|_| End(Lost::Broken))
    }

    fn take_part(&mut self) -> Result<Option<Bytes>, End> {
        self.upstream.frames.take_part().map_err(|_| End(Lost::Broken))
    }

    async fn fill(&mut self) -> Result<(), End> {
        let filled = self.upstream.fill().await;
        self.more(filled)
    }

    fn more(&mut self, filled: io::Result<Filled>) -> Result<(), End> {
        let has_closed = !matches!(filled, Ok(Filled::More));
        self.mute = has_closed && !self.heard && !self.conversation.outstanding().is_empty();
        match filled {
            Ok(Filled::More) => Ok(()),
            Ok(Filled::End) => Err(End(Lost::ServerClosed)),
            // Closing over what it has not read, as our own fence behind what it cannot read.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(End(Lost::ServerClosed)),
            Err(error) => {
                debug!(%error, "mongod's side broke");
                Err(End(Lost::Broken))
            }
        }
    }
}

impl<W: AsyncWrite + Unpin> Client<W> {
    pub(crate) fn new(stream: W) -> Self {
        Client { stream, gone: false }
    }

    /// Sends what can be sent: a client that is gone is no error.
    async fn send(&mut self, bytes: &[u8]) {
        if self.gone {
            return;
        }
        let sent = async {
            self.stream.write_all(bytes).await?;
            // Over TLS: what a full socket did not take yet.
            self.stream.flush().await
        };
        if let Err(error) = sent.await {
            debug!(%error, "the client is gone");
            self.gone = true;
        }
    }

    /// Closes our side of the connection; false when the client is gone.
    pub(crate) async fn close(&mut self) -> bool {
        !self.gone && self.stream.shutdown().await.is_ok()
    }
}

/// The bytes of a whole reply, and of what it is inside.
fn inflated_too(reply: Reply, frame: &[u8]) -> usize {
    frame.len() + wire::inflated_bytes(&Head { header: reply.header, bytes: frame })
}

/// Whether a whole compressed reply says that another one follows.
fn more_inside(frame: &[u8]) -> bool {
    let inner = wire::inflate(frame).ok();
    inner.and_then(|inner| OpMsg::parse(&inner).ok().map(|msg| msg.flags.more_to_come())).unwrap_or(false)
}

/// Whether a whole reply is the error that nobody is logged in who had to be. Servers before 6.0 answer with the same
/// code where several users are logged in on one connection ("too many users are authenticated"): those may write.
fn says_unauthorized(reply: &[u8]) -> bool {
    const UNAUTHORIZED: i32 = 13;
    OpMsg::parse(reply).is_ok_and(|reply| {
        let is = |code| code == UNAUTHORIZED;
        let says = |text: &str| text.contains("requires authentication");
        reply.body().get_i32("code").is_ok_and(is) && reply.body().get_str("errmsg").is_ok_and(says)
    })
}
