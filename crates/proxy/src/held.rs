//! The bound on bytes that are held to be looked at, over all sessions.
//!
//! - counted as they arrive, not as they are announced: a client that promises 48 MB and sends nothing takes no room
//!   (what a compressed frame is inside counts once that is whole)
//! - what a session holds first is its own ([`OWN_BYTES`]): small writes never wait
//! - full means: wait a little, then say no; the frame goes on unscanned
//! - a frame may take as long as it likes while there is room for all; once it has had its time, it gives its room up
//!   to whoever has to wait for some, and goes on unscanned. So nobody keeps the room from others by stalling: that
//!   takes the whole bound anew each time, with 256 MiB and 10 s 27 MB/s
//! - a captured request keeps its room until its outcome is recorded, since capture keeps its statements until then

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout},
};

/// One permit per KiB: the semaphore counts in `u32` steps, and nobody cares for less.
const UNIT_BYTES: usize = 1024;
/// What one write of a session, and its reply, may hold besides the shared room. With 10,000 sessions that hold as much
/// in both directions at once, 320 MB; the buffers that they read into are larger.
pub(crate) const OWN_BYTES: usize = 16 * 1024;
/// Frames that wait for each other's room end here; a bulk load's frames come and go in milliseconds.
const WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct Held {
    units: Arc<Semaphore>,
    /// Somebody has to wait.
    short: Arc<Notify>,
    patience: Duration,
}

/// The room that one frame takes.
#[derive(Debug, Default)]
pub(crate) struct Room {
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Room for `bytes_max`. A frame that has held some for `patience` gives it up when others need it.
    pub(crate) fn new(bytes_max: usize, patience: Duration) -> Held {
        let units = Arc::new(Semaphore::new((bytes_max / UNIT_BYTES).min(Semaphore::MAX_PERMITS)));
        Held { units, short: Arc::default(), patience }
    }

    /// Makes `room` cover `bytes`; false when there was none for a while.
    pub(crate) async fn cover(&self, room: &mut Room, bytes: usize) -> bool {
        let have = room.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.div_ceil(UNIT_BYTES).saturating_sub(have);
        let Ok(missing) = u32::try_from(missing) else { return false };
        if missing == 0 {
            return true;
        }
        let more = match self.units.clone().try_acquire_many_owned(missing) {
            Ok(more) => more,
            Err(_) => {
                self.short.notify_waiters();
                match timeout(WAIT, self.units.clone().acquire_many_owned(missing)).await {
                    Ok(Ok(more)) => more,
                    _ => return false,
                }
            }
        };
        match &mut room.permit {
            Some(permit) => permit.merge(more),
            None => room.permit = Some(more),
        }
        true
    }

    /// Returns when what has been held since `since` has had its time, and somebody waits for room.
    pub(crate) async fn wanted(&self, since: Instant) {
        sleep_until(since + self.patience).await;
        self.short.notified().await;
    }
}

impl Room {
    /// The bytes that it covers, rounded up.
    pub(crate) fn bytes(&self) -> usize {
        self.permit.as_ref().map_or(0, |permit| permit.num_permits() * UNIT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn room_is_shared_and_given_back() {
        let held = Held::new(10 * 1024, Duration::from_secs(10));
        let (mut one, mut two) = (Room::default(), Room::default());
        assert!(held.cover(&mut one, 1).await);
        assert!(held.cover(&mut one, 6 * 1024).await);
        assert!(held.cover(&mut two, 4 * 1024).await);
        assert!(!held.cover(&mut two, 5 * 1024).await, "full: after a wait, no");
        drop(one);
        assert!(held.cover(&mut two, 10 * 1024).await);
        assert!(!held.cover(&mut two, 10 * 1024 + 1).await, "alone too large");
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_given_up_by_who_has_had_it_long_when_others_wait() {
        let held = Held::new(10 * 1024, Duration::from_secs(10));
        let (mut slow, mut other) = (Room::default(), Room::default());
        let since = Instant::now();
        assert!(held.cover(&mut slow, 8 * 1024).await);
        assert!(timeout(Duration::from_secs(100), held.wanted(since)).await.is_err(), "nobody waits");
        let give_up = async {
            held.wanted(since).await;
            drop(slow);
        };
        let (_, covered) = tokio::join!(give_up, held.cover(&mut other, 4 * 1024));
        assert!(covered);

        let early = timeout(Duration::from_secs(9), held.wanted(Instant::now()));
        let mut third = Room::default();
        let (early, covered) = tokio::join!(early, held.cover(&mut third, 8 * 1024));
        assert!(!covered && early.is_err(), "it has not had its time");
    }
}
