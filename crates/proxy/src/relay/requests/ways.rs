//! How each kind of request is forwarded: as it comes, but for its last byte, or once it was seen whole.

use bytes::Bytes;
use capture::Class;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    select,
    time::Instant,
};
use wire::{
    FRAME_BYTES_MAX,
    hello::{self, Asked},
};

use super::{End, Expect, HELLO_BYTES_MAX, Request, Requests, Way, head_of, late_way, look_inside, more};
use crate::{
    bypass::Passing,
    held::{OWN_BYTES, Room},
    outstanding::{Answer, ReplyTo},
    watch::apart,
};

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Requests<'_, R, W> {
    pub(super) async fn send_hello(&mut self, request: Request) -> Result<(), End> {
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
    pub(super) async fn send_captured(&mut self, request: Request, class: Class) -> Result<(), End> {
        self.probe(request.expect).await?;
        let mut sent = 0;
        let streamed = matches!(class, Class::Watch).then_some(&mut sent);
        let Some(mut room) = self.hold_whole(request, streamed).await? else {
            return self.send_unscanned(request, None, sent).await;
        };
        let all = request.length + self.weigh(self.head()?.bytes);
        if !self.held.cover(&mut room, all.saturating_sub(self.own_bytes())).await {
            drop(room);
            return self.send_unscanned(request, None, sent).await;
        }
        self.send_seen(request, None, sent, room).await
    }

    /// What capture will make of a request, in bytes.
    fn weigh(&self, inside: &[u8]) -> usize {
        self.watching.as_ref().map_or(0, |watching| watching.session.weigh(inside))
    }

    /// Marks and forwards the front frame, a whole captured request of which `sent` bytes have left. What it says stands
    /// in `inside`, if it is compressed.
    async fn send_seen(
        &mut self,
        request: Request,
        inside: Option<Vec<u8>>,
        sent: usize,
        room: Room,
    ) -> Result<(), End> {
        let frame = self.whole_frame().await?;
        let seen = inside.as_deref().unwrap_or(&frame);
        let captured = self.watching.as_ref().and_then(|watching| watching.request(seen, room));
        // To send it may take long, and capture has what it needs.
        drop(inside);
        let Some(mut captured) = captured else {
            // One without a reply changes nothing about who the client is.
            if request.expect != Expect::Nothing {
                self.expect(request, ReplyTo::Plain);
            }
            return self.send(&frame[sent..]).await;
        };
        let instead = captured.forward().filter(|_| sent == 0);
        self.register(request, captured);
        match instead {
            Some(instead) => {
                drop(frame);
                self.send(&instead).await
            }
            None => self.send(&frame[sent..]).await,
        }
    }

    /// Holds a compressed request until it is whole, to learn what it is. It goes on as it came, but for an added `_id`.
    pub(super) async fn send_compressed(&mut self, request: Request) -> Result<(), End> {
        let Some(mut room) = self.hold_whole(request, None).await? else {
            return self.send_unscanned(request, None, 0).await;
        };
        // The size that it announces takes no room before its bytes are here.
        let both = request.length + wire::inflated_bytes(&self.head()?);
        if !self.held.cover(&mut room, both.saturating_sub(self.own_bytes())).await {
            drop(room);
            return self.send_unscanned(request, None, 0).await;
        }
        let inside = apart(both, || wire::inflate(self.head()?.bytes).map_err(|_| End::NotAFrame)).ok();
        let inner = inside.as_deref().and_then(|inside| look_inside(inside, |name| self.class(name)));
        let expect = inner.map_or(request.expect, |inner| inner.expect);
        if inner.is_none_or(|inner| matches!(inner.way, Way::Captured(_)))
            && let Some(passing) = self.pass()
        {
            drop(room);
            return self.send_unseen(Request { expect, ..request }, passing).await;
        }
        match (inner, inside) {
            (Some(Request { way: Way::Captured(class), expect, .. }), Some(inside)) => {
                let all = both + self.weigh(&inside);
                if !self.held.cover(&mut room, all.saturating_sub(self.own_bytes())).await {
                    drop(room);
                    return self.send_unscanned(Request { expect, ..request }, Some(inside), 0).await;
                }
                self.count(class);
                self.probe(expect).await?;
                self.send_seen(Request { expect, ..request }, Some(inside), 0, room).await
            }
            (Some(Request { way, expect, .. }), inside) => {
                drop((room, inside));
                Box::pin(self.forward(Request { way, expect, ..request })).await
            }
            (None, inside) => {
                drop(inside);
                self.metrics.requests_pass.inc();
                self.send_seen(request, None, 0, room).await
            }
        }
    }

    /// What the request in hand may hold besides the shared room.
    fn own_bytes(&self) -> usize {
        if self.conversation.outstanding().has_write() { 0 } else { OWN_BYTES }
    }

    /// Forwards a request that would be captured as it comes, while capture is out of the way.
    pub(super) async fn send_unseen(&mut self, request: Request, passing: Passing) -> Result<(), End> {
        self.metrics.requests_bypass.inc();
        let answer = match request.expect {
            Expect::Nothing => Some(Answer::Nothing),
            Expect::One => Some(Answer::Reply),
            Expect::Unknown => Some(Answer::Unknown),
            Expect::Stream => None,
        };
        match answer {
            Some(answer) => self.conversation.outstanding().passing(request.id, answer, passing),
            // The end of a stream is not looked for: it counts as one whose connection is gone.
            None => self.expect(request, ReplyTo::Plain),
        }
        self.send_rest(request, 0).await
    }

    /// Forwards a captured request that cannot be looked at, but for its front, which stands in `inside` if it is
    /// compressed; `sent` of its bytes have left.
    async fn send_unscanned(
        &mut self,
        request: Request,
        inside: Option<Vec<u8>>,
        sent: usize,
    ) -> Result<(), End> {
        if sent == 0
            && let Some(passing) = self.pass()
        {
            return self.send_unseen(request, passing).await;
        }
        let head = inside.as_deref().map_or_else(|| self.head().map(|head| head.bytes), Ok)?;
        self.unsent = self.watching.as_ref().and_then(|watching| watching.unscanned(head));
        drop(inside);
        if self.unsent.is_none() {
            self.expect(request, ReplyTo::Plain);
        }
        self.send_rest(request, sent).await
    }

    /// Forwards a request whose name comes behind a document sequence: held until it is whole, then it is known.
    pub(super) async fn send_late_name(&mut self, request: Request) -> Result<(), End> {
        let Some(room) = self.hold_whole(request, None).await? else {
            return self.send_unscanned(request, None, 0).await;
        };
        let way = late_way(self.head()?.bytes, |name| self.class(name));
        // What captures it takes its own room.
        drop(room);
        Box::pin(self.forward(Request { way, ..request })).await
    }

    /// Reads on until the front frame is whole, which room covers; `None` when there is none for it, or no longer.
    ///
    /// With `sent`, what is here of a frame that is not whole yet leaves at once, and is counted there.
    async fn hold_whole(
        &mut self,
        request: Request,
        mut sent: Option<&mut usize>,
    ) -> Result<Option<Room>, End> {
        if request.length > FRAME_BYTES_MAX {
            // A server that takes more than any that we know; our parsers do not.
            return Ok(None);
        }
        let (since, mut room) = (Instant::now(), Room::default());
        let own = self.own_bytes();
        loop {
            let here = self.head()?.bytes.len();
            if !self.held.cover(&mut room, here.saturating_sub(own)).await {
                return Ok(None);
            }
            if here == request.length {
                return Ok(Some(room));
            }
            if let Some(sent) = &mut sent {
                let head = head_of(&self.client)?;
                self.upstream.write_all(&head.bytes[**sent..]).await.map_err(|_| End::Upstream)?;
                **sent = here;
            }
            if !self.fill_held(since).await? {
                return Ok(None);
            }
        }
    }

    /// Forwards what is left of the front frame as it arrives; `sent` of its bytes have left. A write that it carries
    /// counts from its last part on: mongod runs nothing that is not whole.
    pub(super) async fn send_rest(&mut self, request: Request, mut sent: usize) -> Result<(), End> {
        loop {
            while let Some(part) = self.client.frames.take_part().map_err(|_| End::NotAFrame)? {
                let skip = sent.min(part.len());
                sent -= skip;
                let is_last = self.client.frames.remaining() == 0;
                if let Some(captured) = self.unsent.take_if(|_| is_last) {
                    self.register_unseen(request, captured);
                }
                self.send(&part[skip..]).await?;
                if is_last {
                    return Ok(());
                }
            }
            self.fill().await?;
        }
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

    /// Waits for more of a held frame; false when its room, held since `since`, is wanted by others.
    async fn fill_held(&mut self, since: Instant) -> Result<bool, End> {
        select! {
            filled = self.client.fill() => more(filled).map(|()| true),
            () = self.held.wanted(since) => Ok(false),
        }
    }
}
