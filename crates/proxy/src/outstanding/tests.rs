use std::sync::Arc;

use wire::{OpCode, hello::Asked};

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
