//! mongod to client: a reply is matched with its request, and forwarded as it comes unless it must be looked at.
//!
//! - a hello's reply, also each streamed one, is held and its addresses are rewritten
//! - a captured write's reply is held until its entry is in the log, and durable where the write asked for that
//! - the reply to our own fence is swallowed
//! - a client that is gone still has its replies read, as long as a captured write is under way
//! - bytes that are no frames (mongod's text for a browser) go on as they are, to the end

use std::io::ErrorKind;

use bytes::Bytes;
use capture::Lost;
use prometheus::Histogram;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    select,
};
use tracing::{debug, warn};
use wire::{
    Address, Flags, Header, OpCode, OpMsg,
    hello::{self, Asked, Names},
    peek_flags,
};

use super::{Conversation, HELLO_BYTES_MAX};
use crate::{
    held::{Held, OWN_BYTES, Room},
    outstanding::{ReplyTo, Settled},
    source::{Filled, Source},
    watch::{Captured, Watcher},
};

pub(crate) struct Replies<'a, R, W> {
    pub(crate) upstream: Source<R>,
    pub(crate) client: Client<W>,
    pub(crate) conversation: &'a Conversation,
    pub(crate) watcher: Option<&'a Watcher>,
    pub(crate) held: &'a Held,
    pub(crate) delay: &'a Histogram,
    /// The addresses that hello replies name.
    pub(crate) names: &'a Names,
    /// Told what a hello reply calls the member that answers.
    pub(crate) met: &'a (dyn Fn(&Address) + Sync),
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
        let meant = self.conversation.outstanding().meant(&reply.header);
        match meant {
            ReplyTo::Plain => {
                self.send_as_it_comes().await?;
                self.settle(reply);
            }
            ReplyTo::Hello(asked) => self.send_hello(reply, asked).await?,
            ReplyTo::Write => self.send_outcome(reply).await?,
            ReplyTo::Fence => self.take_fence(reply).await?,
        }
        self.delay.observe(self.upstream.since_read().as_secs_f64());
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
                filled = self.upstream.fill() => more(filled)?,
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
            warn!(
                bytes = reply.header.length,
                "a hello reply is too long to be rewritten: drivers may bypass us"
            );
            self.send_as_it_comes().await?;
            self.settle(reply);
            return Ok(());
        }
        let frame = self.whole_frame().await?;
        let facts = hello::facts(&frame);
        reply.more_to_come |= facts.more_to_come;
        self.settle(reply);
        if let Some(bytes) = facts.frame_bytes_max.filter(|bytes| *bytes > HELLO_BYTES_MAX) {
            self.upstream.frames.set_frame_bytes_max(bytes);
            self.conversation.set_frame_bytes_max(bytes);
        }
        if let Some(me) = &facts.me {
            (self.met)(me);
        }
        match hello::rewrite_reply(&frame, self.names, asked) {
            Some(rewritten) => self.client.send(&rewritten).await,
            None => self.client.send(&frame).await,
        }
        Ok(())
    }

    async fn send_outcome(&mut self, reply: Reply) -> Result<(), End> {
        let mut room = Room::default();
        let frame = loop {
            let here = self.upstream.frames.buffered().min(reply.header.length);
            if !self.held.cover(&mut room, here.saturating_sub(OWN_BYTES)).await {
                // mongod answers when it has finished: the write has ended, though we cannot read how.
                let captured = self.settle(reply);
                self.ended_unseen(captured);
                return self.send_as_it_comes().await;
            }
            if let Some(frame) = self.take_frame()? {
                break frame;
            }
            self.fill().await?;
        };
        let captured = self.settle(reply);
        if let (Some(watcher), Some(captured)) = (self.watcher, captured) {
            watcher.answered(captured, &frame).await;
        }
        // From here on it waits for its client only, as it would in mongod, and needs nobody's room.
        drop(room);
        self.client.send(&frame).await;
        Ok(())
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
        let mut unauthorized = false;
        if reply.header.length <= HELLO_BYTES_MAX {
            unauthorized = says_unauthorized(&self.whole_frame().await?);
        } else {
            self.swallow().await?;
        }
        let settled = self.conversation.outstanding().settle_fence(&reply.header, unauthorized);
        self.ended(settled);
        Ok(())
    }

    async fn swallow(&mut self) -> Result<(), End> {
        loop {
            while self.take_part()?.is_some() {
                if self.upstream.frames.remaining() == 0 {
                    return Ok(());
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
        more(self.upstream.fill().await)
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

/// Whether a whole reply is the error that nobody is logged in who had to be.
fn says_unauthorized(reply: &[u8]) -> bool {
    const UNAUTHORIZED: i32 = 13;
    OpMsg::parse(reply).is_ok_and(|reply| reply.body().get_i32("code").is_ok_and(|code| code == UNAUTHORIZED))
}

fn more(filled: std::io::Result<Filled>) -> Result<(), End> {
    match filled {
        Ok(Filled::More) => Ok(()),
        Ok(Filled::End) => Err(End(Lost::ServerClosed)),
        // Closing over what it has not read, as our own fence behind what it cannot read.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(End(Lost::ServerClosed)),
        Err(_) => Err(End(Lost::Broken)),
    }
}
