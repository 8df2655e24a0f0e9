//! A lock around calls that a device may hang in: whoever waits gives up after a while, and whoever comes later gives
//! up at once, until the device has answered. And a way to wait for others that leaves such a lock free.

use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
pub(crate) struct Patient<T> {
    value: Mutex<T>,
    /// Somebody has waited in vain, and nobody has had the lock since.
    hung: AtomicBool,
}

impl<T> Patient<T> {
    pub(crate) fn new(value: T) -> Patient<T> {
        Patient { value: Mutex::new(value), hung: AtomicBool::new(false) }
    }

    /// However long it takes: for threads that have nothing else to do.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock()
    }

    /// `None`: somebody has it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.value.try_lock()
    }

    /// `None`: the one who has the lock hangs.
    pub(crate) fn lock_within(&self, longest: Duration) -> Option<MutexGuard<'_, T>> {
        if let Some(free) = self.value.try_lock() {
            self.hung.store(false, Ordering::Relaxed);
            return Some(free);
        }
        if self.hung.load(Ordering::Relaxed) {
            return None;
        }
        let freed = self.value.try_lock_for(longest);
        if freed.is_none() {
            self.hung.store(true, Ordering::Relaxed);
        }
        freed
    }

    /// Whether the one who has the lock is known to hang.
    pub(crate) fn is_hung(&self) -> bool {
        self.hung.load(Ordering::Relaxed) && self.lock_within(Duration::ZERO).is_none()
    }
}

/// A count that can be waited for. Nobody does anything else while holding its lock: it is free at any time.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    turn: Mutex<u64>,
    more: Condvar,
}

impl Turns {
    pub(crate) fn turn(&self) -> u64 {
        *self.turn.lock()
    }

    pub(crate) fn next(&self) {
        *self.turn.lock() += 1;
        self.more.notify_all();
    }

    /// Returns once there is a later turn than `seen`, or after `longest`.
    pub(crate) fn wait_beyond(&self, seen: u64, longest: Duration) {
        let deadline = Instant::now() + longest;
        let mut turn = self.turn.lock();
        while *turn <= seen {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.more.wait_for(&mut turn, left);
        }
    }
}
