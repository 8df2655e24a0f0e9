//! Requests and replies: whatever a client sends, each reply of a server that answers in order is matched with its own
//! request, every write ends once, and none that the server has done counts as dropped.
#![no_main]
#![allow(dead_code, reason = "the product's own files, of which a part is played")]

#[path = "../../crates/proxy/src/bypass.rs"]
mod bypass;
#[path = "../../crates/proxy/src/outstanding.rs"]
mod outstanding;

use std::collections::VecDeque;

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use outstanding::{Outstanding, ReplyTo, Settled};
use wire::{Header, OpCode, hello::Asked};

/// Clients use it, too.
const FENCE_ID: i32 = 3;
const HELLO: ReplyTo = ReplyTo::Hello(Asked::Members);

fuzz_target!(|bytes: &[u8]| {
    let _ = Play::new().run(&mut Unstructured::new(bytes));
});

/// A request on its way to the server, as it truly is.
#[derive(Debug, Clone, Copy)]
struct Sent {
    id: i32,
    meant: ReplyTo,
    /// The number of the write that it carries.
    write: Option<usize>,
    /// More than one is a stream.
    replies: usize,
    does: Does,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Does {
    Nothing,
    Writes,
    LogsIn,
    LogsOut,
    /// Our own.
    Fences,
}

/// What has become of a write.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Sent,
    Done,
    Dropped,
    /// It was told of, once.
    Ended,
}

struct Play {
    list: Outstanding<usize>,
    server: VecDeque<Sent>,
    /// Id and what is left of the stream that is being sent.
    streaming: Option<(Sent, i32, usize)>,
    fates: Vec<Fate>,
    logged_in: bool,
    last_reply: i32,
}

impl Play {
    fn new() -> Play {
        Play {
            list: Outstanding::new(),
            server: VecDeque::new(),
            streaming: None,
            fates: Vec::new(),
            logged_in: false,
            last_reply: 1000,
        }
    }

    fn run(mut self, input: &mut Unstructured<'_>) -> Result<()> {
        self.logged_in = input.arbitrary()?;
        while !input.is_empty() {
            if input.ratio(1, 3)? {
                self.reply();
            } else {
                self.request(input)?;
            }
        }
        // The connection breaks, or everything is answered.
        if input.arbitrary().unwrap_or(false) {
            self.answer_all();
            assert!(!self.list.owes_reply());
        }
        let lost = self.list.take_writes();
        for write in lost.refused {
            assert!(!matches!(self.fates[write], Fate::Done | Fate::Ended), "{:?}", self.fates[write]);
        }
        for write in lost.unseen {
            assert_ne!(self.fates[write], Fate::Ended);
        }
        Ok(())
    }

    /// The client sends something, by the rules of `relay/requests.rs`.
    fn request(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.list.fence_urgent() || (self.list.fence_due() && input.arbitrary()?) {
            self.fence();
        }
        while self.list.is_full() {
            self.reply();
        }
        let id = input.int_in_range(0..=4)?;
        let plain = Sent { id, meant: ReplyTo::Plain, write: None, replies: 1, does: Does::Nothing };
        match input.int_in_range(0..=7)? {
            0 => {
                self.list.request(id, ReplyTo::Plain, false);
                let does = if input.arbitrary()? { Does::LogsIn } else { Does::LogsOut };
                self.server.push_back(Sent { does, ..plain });
            }
            1 => {
                let replies = input.int_in_range(1..=3)?;
                let meant = if input.arbitrary()? { HELLO } else { ReplyTo::Plain };
                self.list.request(id, meant, true);
                self.server.push_back(Sent { meant, replies, ..plain });
            }
            2 => {
                self.list.silent();
                let does = if input.arbitrary()? { Does::LogsIn } else { Does::LogsOut };
                self.server.push_back(Sent { replies: 0, does, ..plain });
            }
            3 => {
                let write = self.write();
                self.list.write(id, write);
                self.server.push_back(Sent {
                    meant: ReplyTo::Write,
                    write: Some(write),
                    does: Does::Writes,
                    ..plain
                });
            }
            4 | 5 => {
                self.wait();
                if self.list.needs_probe() {
                    self.fence();
                }
                let write = self.write();
                self.list.silent_write(id, write);
                self.server.push_back(Sent { write: Some(write), replies: 0, does: Does::Writes, ..plain });
            }
            6 => {
                // Nobody knows what it is.
                self.wait();
                let id = if id == FENCE_ID { 0 } else { id };
                let write = input.arbitrary()?;
                let write = if write { Some(self.write()) } else { None };
                self.list.unread(id, write);
                let meant = if write.is_some() { ReplyTo::Write } else { ReplyTo::Plain };
                let does = *input.choose(&[Does::Writes, Does::LogsIn, Does::LogsOut])?;
                let does = if write.is_none() && does == Does::Writes { Does::Nothing } else { does };
                let replies = input.int_in_range(0..=1)?;
                self.server.push_back(Sent { id, meant, write, replies, does });
            }
            _ => {
                self.list.request(id, HELLO, false);
                self.server.push_back(Sent { meant: HELLO, ..plain });
            }
        }
        Ok(())
    }

    fn write(&mut self) -> usize {
        self.fates.push(Fate::Sent);
        self.fates.len() - 1
    }

    fn fence(&mut self) {
        self.list.fence(FENCE_ID);
        let (meant, does) = (ReplyTo::Fence, Does::Fences);
        self.server.push_back(Sent { id: FENCE_ID, meant, write: None, replies: 1, does });
    }

    /// Nothing that is captured goes behind what may take long.
    fn wait(&mut self) {
        while self.list.may_wait_long() {
            assert!(self.reply(), "waiting for nothing");
        }
    }

    fn answer_all(&mut self) {
        while self.reply() {}
    }

    /// The server goes on to its next reply, and we take it; false when it has nothing more to do.
    fn reply(&mut self) -> bool {
        let (sent, to, left) = match self.streaming.take() {
            Some((sent, previous, left)) => (sent, previous, left),
            None => loop {
                let Some(sent) = self.server.pop_front() else { return false };
                self.execute(sent);
                if sent.replies > 0 {
                    break (sent, sent.id, sent.replies);
                }
            },
        };
        self.last_reply += 1;
        let header = Header { length: 16, request_id: self.last_reply, response_to: to, opcode: OpCode::Msg };
        assert_eq!(self.list.meant(&header), sent.meant, "{sent:?}");
        assert!(left == 1 || self.list.may_stream(&header));
        let settled = match sent.does {
            Does::Fences => self.list.settle_fence(&header, !self.logged_in),
            _ => self.list.settle(&header, left > 1),
        };
        self.settled(sent, settled);
        if left > 1 {
            self.streaming = Some((sent, self.last_reply, left - 1));
        }
        true
    }

    fn execute(&mut self, sent: Sent) {
        match sent.does {
            Does::LogsIn => self.logged_in = true,
            Does::LogsOut => self.logged_in = false,
            Does::Nothing | Does::Writes | Does::Fences => {}
        }
        if let Some(write) = sent.write {
            let done = sent.does == Does::Writes && self.logged_in;
            self.fates[write] = if done { Fate::Done } else { Fate::Dropped };
        }
    }

    fn settled(&mut self, sent: Sent, settled: Settled<usize>) {
        if sent.write.is_some() {
            assert_eq!(settled.answered, sent.write);
        }
        for write in settled.refused {
            assert_eq!(std::mem::replace(&mut self.fates[write], Fate::Ended), Fate::Dropped);
        }
        for write in settled.unseen.into_iter().chain(settled.answered) {
            let fate = std::mem::replace(&mut self.fates[write], Fate::Ended);
            assert!(matches!(fate, Fate::Done | Fate::Dropped), "it has not ended, or twice: {fate:?}");
        }
    }
}
