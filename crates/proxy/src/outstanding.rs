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

use std::collections::VecDeque;

use wire::{Header, hello::Asked};

use crate::bypass::Passing;

/// Drivers keep one request per connection; this many can only be a client that pipelines without reading.
pub(crate) const OUTSTANDING_MAX: usize = 1024;
/// After so many writes without a reply a fence is due even though more requests are waiting.
const UNFENCED_MAX: usize = 64;

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
struct Request<W> {
    id: i32,
    reply: ReplyTo,
    /// The captured write that this request carries.
    write: Option<W>,
    answer: Answer,
    /// It asked for a stream of replies; mongod may read nothing behind it for long.
    may_stream: bool,
    /// The id of the last streamed reply, while more are to come.
    stream: Option<i32>,
    /// It passed unseen.
    passing: Option<Passing>,
    /// Nothing but writes came between the last fence and it.
    probed: bool,
    /// mongod drops it without a word.
    refused: bool,
}

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
    fn new(id: i32) -> Self {
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
    fn ended(self) -> Option<W> {
        self.passing.into_iter().for_each(Passing::ended);
        self.write
    }

    /// It passed unseen, and nobody waits for a reply.
    fn is_lost(&self) -> bool {
        self.answer == Answer::Nothing && self.write.is_none()
    }

    fn is_silent_write(&self) -> bool {
        self.answer == Answer::Nothing && self.write.is_some()
    }

    fn may_be_dropped(&self) -> bool {
        self.answer != Answer::Reply && self.write.is_some()
    }

    fn may_wait_long(&self) -> bool {
        self.may_stream || matches!(self.reply, ReplyTo::Hello(_))
    }
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
mod tests {
    use std::sync::Arc;

    use wire::OpCode;

    use super::*;
    use crate::bypass::Bypass;

    const HELLO: ReplyTo = ReplyTo::Hello(Asked::Members);

    fn reply(request_id: i32, response_to: i32) -> Header {
        Header { length: 16, request_id, response_to, opcode: OpCode::Msg }
    }

    #[test]
    fn the_oldest_request_of_an_id_is_meant() {
        let mut list = Outstanding::<&str>::new();
        list.request(0, ReplyTo::Plain, false);
        list.write(0, "insert");
        list.request(0, HELLO, false);
        assert_eq!(list.meant(&reply(1, 0)), ReplyTo::Plain);
        assert_eq!(list.settle(&reply(1, 0), false).answered, None);
        assert_eq!(list.meant(&reply(2, 0)), ReplyTo::Write);
        assert_eq!(list.settle(&reply(2, 0), false).answered, Some("insert"));
        assert_eq!(list.meant(&reply(3, 0)), HELLO);
        assert!(list.owes_reply() && list.may_wait_long());
        list.settle(&reply(3, 0), false);
        assert!(!list.owes_reply() && !list.may_wait_long());
    }

    #[test]
    fn a_reply_ends_silent_writes_before_it() {
        let mut list = Outstanding::new();
        list.silent_write(5, "one");
        list.silent_write(6, "two");
        assert!(list.fence_due() && !list.fence_urgent());
        list.fence(5);
        assert!(!list.fence_due());
        list.silent_write(7, "three");
        assert_eq!(list.meant(&reply(1, 5)), ReplyTo::Fence, "a silent write of that id gets no reply");
        assert_eq!(list.settle(&reply(1, 5), false).unseen, ["one", "two"]);
        assert!(list.fence_due() && list.writes_under_way());
        assert_eq!(list.take_writes().unseen, ["three"]);
    }

    /// wire-facts 3: `w: 0` while nobody is logged in is dropped without a word.
    #[test]
    fn what_a_stranger_writes_is_known_by_the_fence_before_it() {
        let mut list = Outstanding::new();
        assert!(list.needs_probe());
        list.fence(9);
        assert!(!list.needs_probe());
        list.silent_write(1, "one");
        list.fence(9);
        list.silent_write(2, "two");
        assert!(list.settle_fence(&reply(50, 9), true).unseen.is_empty());
        assert_eq!(list.settle_fence(&reply(51, 9), true).refused, ["one"]);
        // The same holds for what comes behind its answer.
        assert!(!list.needs_probe());
        list.silent_write(3, "three");
        // Unless anything else comes, which may be a login.
        list.silent();
        assert!(list.needs_probe());
        list.unread(4, Some("four"));
        list.fence(9);
        list.silent_write(5, "five");
        list.silent();
        let settled = list.settle_fence(&reply(52, 9), true);
        assert_eq!((settled.refused, settled.unseen), (vec!["two", "three"], vec!["four"]));
        assert!(list.needs_probe());
        list.fence(9);
        list.silent_write(6, "six");
        let settled = list.settle_fence(&reply(53, 9), false);
        assert_eq!((settled.refused, settled.unseen), (vec!["five"], vec![]));
        // From now on whatever it writes may have been done, also when it has logged out.
        list.silent();
        assert!(!list.needs_probe());
        list.fence(9);
        list.silent_write(7, "seven");
        assert_eq!(list.settle_fence(&reply(54, 9), true).unseen, ["six"]);
        assert_eq!(list.take_writes().unseen, ["seven"]);
    }

    /// A frame that nobody has looked into may have logged somebody in, reply or not.
    #[test]
    fn behind_what_nobody_saw_a_stranger_may_be_none() {
        for answered_late in [false, true] {
            let mut list = Outstanding::new();
            list.fence(9);
            if !answered_late {
                list.settle_fence(&reply(50, 9), true);
            }
            list.silent_write(1, "unseen");
            list.silent();
            assert!(list.needs_probe());
            list.fence(9);
            list.silent_write(2, "seen");
            if answered_late {
                list.settle_fence(&reply(50, 9), true);
            }
            // It is a stranger no longer.
            list.settle_fence(&reply(51, 9), false);
            assert_eq!(list.take_writes().unseen, ["seen"]);
        }
    }

    #[test]
    fn a_connection_that_breaks_leaves_no_doubt_about_what_was_dropped() {
        let mut list = Outstanding::new();
        list.fence(9);
        list.silent_write(1, "one");
        list.settle_fence(&reply(50, 9), true);
        list.silent_write(2, "two");
        list.write(3, "three");
        let lost = list.take_writes();
        assert_eq!((lost.refused, lost.unseen), (vec!["one", "two"], vec!["three"]));
    }

    #[test]
    fn a_plain_request_fences_too() {
        let mut list = Outstanding::new();
        list.silent_write(1, "one");
        list.request(2, ReplyTo::Plain, false);
        assert!(!list.fence_due());
        assert_eq!(list.settle(&reply(9, 2), false).unseen, ["one"]);
    }

    #[test]
    fn what_was_not_looked_into_is_fenced_and_takes_a_reply_or_none() {
        for replies in [true, false] {
            let mut list = Outstanding::new();
            list.unread(1, Some("unread"));
            assert!(list.fence_urgent(), "before another request of that id");
            list.fence(9);
            assert!(!list.fence_due());
            list.request(1, HELLO, false);
            if replies {
                assert_eq!(list.meant(&reply(5, 1)), ReplyTo::Write);
                assert_eq!(list.settle(&reply(5, 1), false).answered, Some("unread"));
            }
            let unseen = list.settle(&reply(6, 9), false).unseen;
            assert_eq!(unseen.is_empty(), replies, "{unseen:?}");
            assert_eq!(list.meant(&reply(7, 1)), HELLO);
        }
    }

    #[test]
    fn many_silent_writes_ask_for_a_fence() {
        let mut list = Outstanding::new();
        for id in 0..64 {
            assert!(!list.fence_urgent());
            list.silent_write(id, id);
        }
        assert!(list.fence_urgent());
    }

    #[test]
    fn a_stream_is_followed_from_reply_to_reply_and_never_fenced() {
        let mut list = Outstanding::new();
        list.request(1, HELLO, true);
        list.silent_write(2, "behind");
        assert!(list.owes_reply());
        for (id, response_to) in [(100, 1), (101, 100), (103, 101)] {
            assert_eq!(list.meant(&reply(id, response_to)), HELLO);
            assert_eq!(list.settle(&reply(id, response_to), true).unseen, <[&str; 0]>::default());
            assert!(!list.fence_due() && !list.writes_under_way());
        }
        assert_eq!(list.meant(&reply(104, 1)), ReplyTo::Plain, "not the request's id any more");
        list.settle(&reply(104, 103), false);
        assert!(list.fence_due(), "the stream has ended");
    }

    #[test]
    fn what_passes_unseen_ends_with_the_next_reply_and_is_never_fenced() {
        let bypass = Arc::new(Bypass::default());
        bypass.turn_on();
        let mut list = Outstanding::<&str>::new();
        for id in 0..2000 {
            list.passing(id, Answer::Nothing, bypass.enter().unwrap());
        }
        assert!(!list.is_full() && !list.fence_due() && !list.owes_reply() && list.is_empty());
        list.passing(5000, Answer::Reply, bypass.enter().unwrap());
        assert!(list.owes_reply() && !list.has_write());
        assert_eq!(bypass.passing(), 2);
        assert_eq!(list.meant(&reply(1, 5000)), ReplyTo::Plain);
        list.settle(&reply(1, 5000), false);
        assert!(bypass.is_quiet() && list.is_empty());
        list.passing(5001, Answer::Reply, bypass.enter().unwrap());
        list.take_writes();
        assert!(!bypass.is_quiet(), "the connection is gone, and it may still be at work");
    }

    #[test]
    fn a_stream_is_not_owed() {
        let mut list = Outstanding::<()>::new();
        list.request(1, ReplyTo::Plain, true);
        assert!(!list.owes_reply());
        list.settle(&reply(7, 1), true);
        assert!(!list.owes_reply());
    }

    #[test]
    fn replies_to_nothing_end_nothing() {
        let mut list = Outstanding::new();
        list.write(1, "write");
        assert_eq!(list.meant(&reply(1, 2)), ReplyTo::Plain);
        let settled = list.settle(&reply(1, 2), false);
        assert!(settled.unseen.is_empty() && settled.answered.is_none());
        assert!(list.writes_under_way());
    }
}
