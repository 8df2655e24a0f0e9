//! What a request is, from its first bytes.
//!
//! - the command's name is the first key of its body (`wire-facts.md` 1.2); some 90 bytes are enough to know it
//! - what we do not know passes: unknown opcodes, flags, section kinds
//!
//! Not here: what a name means. That is `capture`'s to say.

use capture::Class;
use wire::{FirstKey, Head, Header, OpCode, OpMsg, first_key, hello, peek_flags};

/// What the first bytes tell of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) id: i32,
    /// Bytes of the whole frame.
    pub(super) length: usize,
    pub(super) expect: Expect,
    pub(super) way: Way,
}

/// How a request travels.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    Pass,
    Hello,
    /// A write, or what may turn out to be one.
    Captured(Class),
    /// The command's name comes behind a document sequence.
    NameComesLater,
    /// Only inside it is told what it is.
    Compressed,
    /// It may write, in a form that servers before 6.0 take.
    Old,
}

/// Which replies a request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    Nothing,
    One,
    /// One, or a stream.
    Stream,
    /// Only inside it is told.
    Unknown,
}

/// Looks at the front of a request; `None` while too little of it is here to tell.
pub(super) fn look(head: &Head<'_>, class: impl Fn(&str) -> Class) -> Option<Request> {
    let way = match (head.header.opcode, first_key(head)) {
        (_, FirstKey::NeedMore) => return None,
        (OpCode::Msg, FirstKey::Name(name)) => way_of(name, class),
        (OpCode::Query, FirstKey::Name(name)) if hello::is_hello(name) => Way::Hello,
        (OpCode::Query, FirstKey::Name(name)) if !matches!(class(name), Class::Pass) => Way::Old,
        (OpCode::Other(OP_UPDATE | OP_INSERT | OP_DELETE), _) => Way::Old,
        (OpCode::Msg, FirstKey::Sequence) => Way::NameComesLater,
        (OpCode::Compressed, _) => Way::Compressed,
        _ => Way::Pass,
    };
    let expect = match (head.header.opcode, peek_flags(head)) {
        (OpCode::Msg, Some(flags)) if flags.more_to_come() => Expect::Nothing,
        (OpCode::Msg, Some(flags)) if flags.exhaust_allowed() => Expect::Stream,
        (OpCode::Msg | OpCode::Query | OpCode::Other(OP_GET_MORE), _) => Expect::One,
        (OpCode::Compressed, _) => Expect::Unknown,
        _ => Expect::Nothing,
    };
    let Header { request_id: id, length, .. } = head.header;
    Some(Request { id, length, expect, way })
}

/// What a whole request is that was compressed, from what it is inside; `None` where a server would not read it.
pub(super) fn look_inside(inner: &[u8], class: impl Fn(&str) -> Class) -> Option<Request> {
    let head = Head { header: Header::of(inner).ok()?, bytes: inner };
    let request = look(&head, &class)?;
    match request.way {
        // A frame that was compressed twice.
        Way::Compressed => None,
        Way::NameComesLater => Some(Request { way: late_way(inner, class), ..request }),
        _ => Some(request),
    }
}

/// The way of a whole OP_MSG whose name was not among its first bytes.
pub(super) fn late_way(frame: &[u8], class: impl Fn(&str) -> Class) -> Way {
    let msg = OpMsg::parse(frame).ok();
    let first = msg.and_then(|msg| msg.body().into_iter().next()).and_then(Result::ok);
    first.map_or(Way::Pass, |(name, _)| way_of(name.as_str(), class))
}

fn way_of(name: &str, class: impl Fn(&str) -> Class) -> Way {
    match class(name) {
        _ if hello::is_hello(name) => Way::Hello,
        Class::Pass => Way::Pass,
        class => Way::Captured(class),
    }
}

/// 6.0 closes the connection on them, and does nothing (`wire-facts.md` 1.1).
const OP_UPDATE: i32 = 2001;
const OP_INSERT: i32 = 2002;
const OP_DELETE: i32 = 2006;
/// Answered with an error by every server that still knows it.
const OP_GET_MORE: i32 = 2005;
