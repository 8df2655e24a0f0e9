//! A session's requests that wait for something, in the order in which mongod takes them.
//!
//! - mongod executes one request of a connection at a time and answers in order (`wire-facts.md` 3): a reply to one
//!   request proves that all before it have ended
//! - request ids mean nothing by themselves: clients may repeat them. The oldest request of that id is meant
//! - whether a request gets a reply is not known of what could not be looked into: its reply is taken if it comes, and a
//!   fence follows it before anything else, so that no other's reply is taken for it
//! - a streamed reply answers the reply before it, not the request (`wire-facts.md` 2.2)
//! - a write without a reply that mongod has dropped, since nobody is logged in on the connection (`wire-facts.md` 3), is
//!   told from one that may have done something by the fence before it: nothing but such writes came in between
//!
//! The list is generic over what a captured write is, so that tests can ask it without a log.

// By its path, since the fuzz target takes this file by its own.
#[path = "outstanding/request.rs"]
mod request;

use std::collections::VecDeque;

use wire::Header;

use crate::bypass::Passing;
use request::Request;
pub(crate) use request::{Answer, ReplyTo};

/// Drivers keep one request per connection; this many can only be a client that pipelines without reading.
pub(crate) const OUTSTANDING_MAX: usize = 1024;
/// After so many writes without a reply a fence is due even though more requests are waiting.
const UNFENCED_MAX: usize = 64;

/// Whether the client may write, as far as our fences have told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The client has sent something behind the last fence that may have changed it.
    Unknown,
    /// A fence is under way.
    Asked,
    /// Nobody is logged in, and mongod wants that.
    Stranger,
    /// Somebody was logged in at some time, or need not be: what it is allowed is not ours to know.
    Known,
}

/// The list. See the module.
#[derive(Debug)]
pub(crate) struct Outstanding<W> {
    requests: VecDeque<Request<W>>,
    /// Requests without a reply, or perhaps without, that nothing behind them has fenced yet.
    unfenced: usize,
    standing: Standing,
}

/// What a reply ended.
#[derive(Debug)]
pub(crate) struct Settled<W> {
    /// Writes before it, which ended without a reply.
    pub(crate) unseen: Vec<W>,
    /// Those that mongod has dropped.
    pub(crate) refused: Vec<W>,
    /// The write that it answers.
    pub(crate) answered: Option<W>,
}

impl<W> Outstanding<W> {
    pub(crate) fn new() -> Self {
        Outstanding { requests: VecDeque::new(), unfenced: 0, standing: Standing::Unknown }
    }

    /// A request whose reply goes to the client as it comes, or, with [`ReplyTo::Hello`], rewritten.
    pub(crate) fn request(&mut self, id: i32, reply: ReplyTo, may_stream: bool) {
        self.push(Request { reply, may_stream, ..Request::new(id) });
    }

    /// A captured write that gets a reply.
    pub(crate) fn write(&mut self, id: i32, write: W) {
        self.push(Request { reply: ReplyTo::Write, write: Some(write), ..Request::new(id) });
    }

    /// A captured write that gets no reply.
    pub(crate) fn silent_write(&mut self, id: i32, write: W) {
        let reply = ReplyTo::Write;
        self.push(Request { reply, write: Some(write), answer: Answer::Nothing, ..Request::new(id) });
    }

    /// A request that could not be looked into, with the write that it may carry.
    pub(crate) fn unread(&mut self, id: i32, write: Option<W>) {
        let reply = if write.is_some() { ReplyTo::Write } else { ReplyTo::Plain };
        self.push(Request { reply, write, answer: Answer::Unknown, ..Request::new(id) });
    }

    /// A request that passes unseen. Of those that get no reply one stands for all in a row, as the next reply ends them
    /// all, so that they cannot fill the list.
    pub(crate) fn passing(&mut self, id: i32, answer: Answer, passing: Passing) {
        if answer == Answer::Nothing && self.requests.back().is_some_and(Request::is_lost) {
            return passing.ended();
        }
        self.push(Request { answer, passing: Some(passing), ..Request::new(id) });
    }

    /// A request that is not captured and gets no reply: nothing of it is remembered.
    pub(crate) fn silent(&mut self) {
        self.stands(Standing::Unknown);
    }

    /// Our own command, around writes that get no reply.
    pub(crate) fn fence(&mut self, id: i32) {
        self.request(id, ReplyTo::Fence, false);
        self.stands(Standing::Asked);
    }

    /// Whether a fence should be sent before a captured write that gets no reply.
    pub(crate) fn needs_probe(&self) -> bool {
        self.standing == Standing::Unknown
    }

    /// Once known, always known: who has logged out may have written before.
    fn stands(&mut self, standing: Standing) {
        if self.standing != Standing::Known {
            self.standing = standing;
        }
    }

    fn push(&mut self, mut request: Request<W>) {
        request.probed = matches!(self.standing, Standing::Asked | Standing::Stranger);
        request.refused = self.standing == Standing::Stranger && request.may_be_dropped();
        if !request.is_silent_write() {
            self.stands(Standing::Unknown);
        }
        // Whatever is answered fences what was sent before it.
        match request.answer {
            Answer::Reply => self.unfenced = 0,
            Answer::Nothing => self.unfenced += usize::from(request.write.is_some()),
            Answer::Unknown => self.unfenced += 1,
        }
        self.requests.push_back(request);
    }

    /// Whether a fence should be sent when nothing else is waiting to be sent.
    ///
    /// Never behind a stream: mongod reads nothing of the connection until it ends (`wire-facts.md` 2.2).
    pub(crate) fn fence_due(&self) -> bool {
        self.unfenced > 0 && !self.requests.iter().any(|request| request.may_stream)
    }

    /// Whether what is sent now may wait for long: behind a stream, or a hello that waits for a change. No driver sends
    /// anything there; anybody can, without a password.
    pub(crate) fn may_wait_long(&self) -> bool {
        self.requests.iter().any(Request::may_wait_long)
    }

    /// Whether a fence should be sent even though more is waiting to be sent.
    pub(crate) fn fence_urgent(&self) -> bool {
        let unread = self.requests.back().is_some_and(|request| request.answer == Answer::Unknown);
        (unread || self.unfenced >= UNFENCED_MAX) && self.fence_due()
    }

    /// Whether nothing waits for anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.iter().all(Request::is_lost)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.requests.len() >= OUTSTANDING_MAX
    }

    /// Whether a reply is owed to somebody. Streams are not counted: they may never end, and the first reply of a
    /// driver's monitor may take as long as its heartbeat, 10 s.
    pub(crate) fn owes_reply(&self) -> bool {
        self.requests.iter().any(|request| !request.may_stream && !request.is_lost())
    }

    /// Whether a captured write is outstanding.
    pub(crate) fn has_write(&self) -> bool {
        self.requests.iter().any(|request| request.write.is_some())
    }

    /// Whether a captured write is under way that will come to an end: one behind a stream may never.
    pub(crate) fn writes_under_way(&self) -> bool {
        let mut soon = self.requests.iter().take_while(|request| !request.may_wait_long());
        soon.any(|request| request.write.is_some())
    }

    /// What to do with a reply. One that answers nothing we know is [`ReplyTo::Plain`].
    pub(crate) fn meant(&self, reply: &Header) -> ReplyTo {
        self.position(reply).map_or(ReplyTo::Plain, |at| self.requests[at].reply)
    }

    /// Whether what is answered may get more than one reply, for all that is known of it.
    pub(crate) fn may_stream(&self, reply: &Header) -> bool {
        let request = self.position(reply).and_then(|at| self.requests.get(at));
        request.is_some_and(|request| request.may_stream || request.answer == Answer::Unknown)
    }

    /// Takes off what `reply` has ended, all of it having been read.
    pub(crate) fn settle(&mut self, reply: &Header, more_to_come: bool) -> Settled<W> {
        let mut settled = Settled { unseen: Vec::new(), refused: Vec::new(), answered: None };
        let Some(at) = self.position(reply) else { return settled };
        for request in self.requests.drain(..at) {
            let ended = if request.refused { &mut settled.refused } else { &mut settled.unseen };
            ended.extend(request.ended());
        }
        if let Some(request) = self.requests.front_mut() {
            settled.answered = request.write.take();
            if more_to_come {
                request.stream = Some(reply.request_id);
                request.may_stream = true;
            } else {
                self.requests.pop_front().and_then(Request::ended);
            }
        }
        settled
    }

    /// The same for the reply to a fence: whether it says that nobody is logged in who had to be.
    pub(crate) fn settle_fence(&mut self, reply: &Header, unauthorized: bool) -> Settled<W> {
        let settled = self.settle(reply, false);
        if !unauthorized {
            self.standing = Standing::Known;
            return settled;
        }
        for request in &mut self.requests {
            if !(request.probed && request.may_be_dropped()) {
                break;
            }
            request.refused = true;
        }
        if self.standing == Standing::Asked && self.requests.iter().all(Request::is_silent_write) {
            self.standing = Standing::Stranger;
        }
        settled
    }

    /// All writes whose end will not be seen, for the connection to mongod is gone; and as `refused` those that it had
    /// said it would drop.
    pub(crate) fn take_writes(&mut self) -> Settled<W> {
        self.unfenced = 0;
        let (refused, unseen): (Vec<_>, Vec<_>) = self.requests.drain(..).partition(|it| it.refused);
        let writes = |requests: Vec<Request<W>>| requests.into_iter().filter_map(|it| it.write).collect();
        Settled { unseen: writes(unseen), refused: writes(refused), answered: None }
    }

    fn position(&self, reply: &Header) -> Option<usize> {
        self.requests.iter().position(|request| match request.stream {
            Some(previous) => previous == reply.response_to,
            None => request.answer != Answer::Nothing && request.id == reply.response_to,
        })
    }
}

#[cfg(test)]
#[path = "outstanding/tests.rs"]
mod tests;
