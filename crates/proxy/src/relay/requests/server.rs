//! Requests that wait until it is known which server this is: of what version, and which process.

use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
};

use super::{End, FENCE_ID, HELLO, Request, Requests, Way};
use crate::{gate::Denied, outstanding::ReplyTo, session::OLDEST_WIRE_VERSION};

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Requests<'_, R, W> {
    /// Returns when the server is known to refuse writes that come without OP_MSG; asks it, if no hello has told yet.
    pub(super) async fn refused_as_old(&mut self) -> Result<(), End> {
        if self.watching.is_none() {
            return Ok(());
        }
        match self.server_version().await? {
            Some(version) if version >= OLDEST_WIRE_VERSION => Ok(()),
            _ => Err(End::Old),
        }
    }

    /// Returns when this session is with a mongod that keeps strangers out, where that matters. A hello passes, since it
    /// tells which one this is.
    pub(super) async fn wait_for_gate(&mut self, request: Request) -> Result<(), End> {
        let Some(gate) = self.gate.filter(|_| !matches!(request.way, Way::Hello)) else { return Ok(()) };
        // A hello of the client's is under way: its reply tells.
        while self.conversation.wire_version().is_none() && self.conversation.outstanding().may_wait_long() {
            select! {
                () = self.conversation.replied.notified() => {}
                () = self.drain.cancelled() => return Err(End::Drained),
            }
        }
        self.server_version().await?.ok_or(End::Denied(Denied::Unknown))?;
        gate.pass_to(self.conversation.process()).await.map_err(End::Denied)?;
        self.gate = None;
        Ok(())
    }

    /// What the server says of itself in a hello's reply, the client's or one of our own: the newest protocol that it
    /// speaks. `None`: it is in the middle of a stream, and cannot be asked.
    async fn server_version(&mut self) -> Result<Option<i32>, End> {
        let mut asked = false;
        loop {
            match self.conversation.wire_version() {
                Some(version) => return Ok(Some(version)),
                None if self.conversation.outstanding().may_wait_long() => return Ok(None),
                None if !asked => {
                    asked = true;
                    self.conversation.outstanding().request(FENCE_ID, ReplyTo::Facts, false);
                    self.send(HELLO).await?;
                }
                None => self.conversation.replied.notified().await,
            }
        }
    }
}
