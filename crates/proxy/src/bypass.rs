//! The switch that takes capture out of the way while clients are served.
//!
//! - while it is on, a request that would be captured is forwarded as it comes: no scan, no mark, no `_id`, no fence, and
//!   its reply is not held. Hello is still rewritten, since clients must keep finding us
//! - writes that were captured when it is switched on end as captured ones
//! - whoever switches has everything made dirty, on disk, before [`Bypass::turn_on`], and again once [`Bypass::is_quiet`]
//!   after [`Bypass::turn_off`]: a write that passed unseen may still be at work when capture is back
//!
//! Not here: what becomes of the order over a restart (`replicator` remembers it).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The switch; all listeners share it.
#[derive(Debug, Default)]
pub struct Bypass {
    on: AtomicBool,
    /// Requests that passed unseen and have not ended.
    passing: AtomicU64,
    /// Until when one may be at work whose connection is gone.
    adrift: Mutex<Option<Instant>>,
}

/// A request that passed unseen, until mongod has ended it.
#[derive(Debug)]
pub(crate) struct Passing {
    bypass: Arc<Bypass>,
    ended: bool,
}

/// How long mongod may go on with a write whose client is gone: as long as for an orphan.
const ADRIFT_MAX: Duration = Duration::from_secs(600);

impl Bypass {
    /// Capture is out of the way from the next request on.
    pub fn turn_on(&self) {
        self.on.store(true, Ordering::SeqCst);
    }

    /// Capture is back from the next request on.
    pub fn turn_off(&self) {
        self.on.store(false, Ordering::SeqCst);
    }

    /// Whether requests pass unseen.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    /// Whether all that passed unseen has ended on mongod.
    pub fn is_quiet(&self) -> bool {
        let adrift = *self.adrift.lock().unwrap_or_else(PoisonError::into_inner);
        self.passing() == 0 && adrift.is_none_or(|until| until <= Instant::now())
    }

    /// Requests that passed unseen and have not ended.
    pub fn passing(&self) -> u64 {
        self.passing.load(Ordering::SeqCst)
    }

    /// A request that would be captured; `None` when it is to be.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Passing> {
        if !self.is_on() {
            return None;
        }
        // Counted before the switch is looked at for good: who finds it off and nobody passing has them all.
        self.passing.fetch_add(1, Ordering::SeqCst);
        let passing = Passing { bypass: self.clone(), ended: false };
        if self.is_on() {
            return Some(passing);
        }
        passing.ended();
        None
    }
}

impl Passing {
    /// mongod has ended it, or has nothing of it.
    pub(crate) fn ended(mut self) {
        self.ended = true;
    }
}

/// One that nobody has seen the end of may still be at work.
impl Drop for Passing {
    fn drop(&mut self) {
        if !self.ended {
            let until = Instant::now() + ADRIFT_MAX;
            *self.bypass.adrift.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        }
        self.bypass.passing.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_quiet_when_all_have_ended() {
        let bypass = Arc::new(Bypass::default());
        assert!(bypass.enter().is_none() && bypass.is_quiet());
        bypass.turn_on();
        let (one, two) = (bypass.enter().unwrap(), bypass.enter().unwrap());
        bypass.turn_off();
        assert!(bypass.enter().is_none());
        one.ended();
        assert_eq!((bypass.passing(), bypass.is_quiet()), (1, false));
        drop(two);
        assert_eq!((bypass.passing(), bypass.is_quiet()), (0, false), "its end was not seen");
        *bypass.adrift.lock().unwrap() = Instant::now().checked_sub(ADRIFT_MAX);
        assert!(bypass.is_quiet());
    }
}
