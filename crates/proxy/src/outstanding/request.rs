//! One request that waits for something.

use wire::hello::Asked;

use crate::bypass::Passing;

/// What becomes of the reply to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyTo {
    /// Forward it as it comes.
    Plain,
    /// Hold it and rewrite its addresses.
    Hello(Asked),
    /// Hold it until the write's outcome is recorded.
    Write,
    /// It answers our own fence: swallow it.
    Fence,
    /// It answers our own hello: learn from it and swallow it.
    Facts,
}

/// One request.
#[derive(Debug)]
pub(super) struct Request<W> {
    pub(super) id: i32,
    pub(super) reply: ReplyTo,
    /// The captured write that this request carries.
    pub(super) write: Option<W>,
    pub(super) answer: Answer,
    /// It asked for a stream of replies; mongod may read nothing behind it for long.
    pub(super) may_stream: bool,
    /// The id of the last streamed reply, while more are to come.
    pub(super) stream: Option<i32>,
    /// It passed unseen.
    pub(super) passing: Option<Passing>,
    /// Nothing but writes came between the last fence and it.
    pub(super) probed: bool,
    /// mongod drops it without a word.
    pub(super) refused: bool,
}

/// What mongod sends for a request. One without a reply has ended when one behind it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Reply,
    Nothing,
    /// One of both.
    Unknown,
}

impl<W> Request<W> {
    /// One whose reply goes to the client as it comes.
    pub(super) fn new(id: i32) -> Self {
        let reply = ReplyTo::Plain;
        Request {
            id,
            reply,
            write: None,
            answer: Answer::Reply,
            may_stream: false,
            stream: None,
            passing: None,
            probed: false,
            refused: false,
        }
    }

    /// mongod has ended it: the write that it carried.
    pub(super) fn ended(self) -> Option<W> {
        self.passing.into_iter().for_each(Passing::ended);
        self.write
    }

    /// It passed unseen, and nobody waits for a reply.
    pub(super) fn is_lost(&self) -> bool {
        self.answer == Answer::Nothing && self.write.is_none()
    }

    pub(super) fn is_silent_write(&self) -> bool {
        self.answer == Answer::Nothing && self.write.is_some()
    }

    pub(super) fn may_be_dropped(&self) -> bool {
        self.answer != Answer::Reply && self.write.is_some()
    }

    pub(super) fn may_wait_long(&self) -> bool {
        self.may_stream || matches!(self.reply, ReplyTo::Hello(_))
    }
}
