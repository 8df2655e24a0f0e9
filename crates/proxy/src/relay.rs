//! The two directions of a session, and what they tell each other.
//!
//! - [`Requests::forward_requests`] looks at requests before it forwards them, [`Replies::forward_replies`] matches
//!   what comes back; both run in one task and share a [`Conversation`]
//! - the session ends when the replies end; a client that half-closes still gets its replies
//!
//! Not here: dialling, what happens to writes without a reply (`session`), what a write is (`capture`).

mod look;
mod replies;
mod requests;

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering},
};

use bson::oid::ObjectId;
use tokio::sync::Notify;
use wire::{FRAME_BYTES_MAX, hello::Facts};

pub(crate) use replies::{Client, Replies};
pub(crate) use requests::{Requests, Watching};

use crate::{outstanding::Outstanding, watch::Captured};

/// Handshakes are a few hundred bytes, with fifty members' names a few thousand. Held on top of the bound on held
/// bytes: what a session can hold at once is this, twice.
const HELLO_BYTES_MAX: usize = 64 * 1024;

/// What the two directions of one session share.
pub(crate) struct Conversation {
    outstanding: Mutex<Outstanding<Captured>>,
    /// A reply was read: there may be room, a stream may have ended.
    replied: Notify,
    /// No more requests will come, since the proxy is stopping.
    drained: AtomicBool,
    /// `drained` was set.
    drain: Notify,
    /// The largest frame that the server takes, as its hello has told.
    frame_bytes_max: AtomicUsize,
    /// The largest document, likewise.
    document_bytes_max: AtomicUsize,
    /// The newest protocol that the server speaks; -1: it has not told yet.
    wire_version: AtomicI32,
    /// The process that it is, if it has told.
    process: Mutex<Option<ObjectId>>,
}

impl Conversation {
    pub(crate) fn new() -> Self {
        Conversation {
            outstanding: Mutex::new(Outstanding::new()),
            replied: Notify::new(),
            drained: AtomicBool::new(false),
            drain: Notify::new(),
            frame_bytes_max: AtomicUsize::new(FRAME_BYTES_MAX),
            document_bytes_max: AtomicUsize::new(capture::DOCUMENT_BYTES_MAX),
            wire_version: AtomicI32::new(-1),
            process: Mutex::new(None),
        }
    }

    /// The list; held for the length of one call on it.
    pub(crate) fn outstanding(&self) -> MutexGuard<'_, Outstanding<Captured>> {
        self.outstanding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max.load(Ordering::Relaxed)
    }

    fn document_bytes_max(&self) -> usize {
        self.document_bytes_max.load(Ordering::Relaxed)
    }

    fn wire_version(&self) -> Option<i32> {
        Some(self.wire_version.load(Ordering::Relaxed)).filter(|version| *version >= 0)
    }

    fn process(&self) -> Option<ObjectId> {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the server has told of itself.
    fn learn(&self, facts: &Facts) {
        if facts.process.is_some() {
            *self.process.lock().unwrap_or_else(PoisonError::into_inner) = facts.process;
        }
        if let Some(bytes) = facts.frame_bytes_max.filter(|bytes| *bytes > HELLO_BYTES_MAX) {
            self.frame_bytes_max.store(bytes, Ordering::Relaxed);
        }
        if let Some(bytes) = facts.document_bytes_max {
            self.document_bytes_max.store(bytes, Ordering::Relaxed);
        }
        if let Some(version) = facts.wire_version {
            self.wire_version.store(version, Ordering::Relaxed);
        }
    }

    fn set_drained(&self) {
        self.drained.store(true, Ordering::Release);
        self.drain.notify_one();
    }

    fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }
}
