//! The bound on the memory of requests and replies that are held to be looked at, over all sessions.
//!
//! - counted as bytes arrive, not as they are announced: a client that promises 48 MB and sends nothing takes no room.
//!   What a frame is inside, and what capture makes of it, is counted once it is whole, before it is made
//! - what a session holds first is its own ([`OWN_BYTES`]): small writes never wait
//! - half of the room is for everybody; the other half for one frame at a time, the one whose turn it is among those that
//!   find no room any more. So there is always one that goes on, and no two wait for each other's end
//! - who waits reads nothing from its client meanwhile. As long as others give room back, it waits; when none does for a
//!   while, the frame goes on unscanned
//! - a frame may take as long as it likes while there is room for all; once it has had its time, it gives its room up
//!   to whoever has to wait for some, and goes on unscanned. So nobody keeps the room from others by stalling: that
//!   takes the whole bound anew each time, with 256 MiB and 10 s 27 MB/s
//! - a captured request keeps its room until its outcome is recorded, since capture keeps its statements until then

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    select,
    sync::{Notify, Semaphore},
    time::{Instant, sleep, sleep_until},
};

/// One permit per KiB: the semaphore counts in `u32` steps, and nobody cares for less.
const UNIT_BYTES: usize = 1024;
/// What one write of a session, and its reply, may hold besides the shared room. With 10,000 sessions that hold as much
/// in both directions at once, 320 MB; the buffers that they read into are larger.
pub(crate) const OWN_BYTES: usize = 16 * 1024;
/// A bulk load's frames come and go in milliseconds, the largest on a busy machine in a second or two: when none has for
/// so long, they may never.
const WAIT: Duration = Duration::from_secs(5);
/// How often those who stall are asked for their room meanwhile.
const ASK: Duration = Duration::from_millis(250);

#[derive(Debug, Clone)]
pub(crate) struct Held(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    units: usize,
    shared: Semaphore,
    /// Units set aside for the one whose turn it is.
    aside: usize,
    /// Whose turn it is.
    turn: Semaphore,
    /// Somebody has to wait.
    short: Notify,
    /// How often room was given back.
    returns: AtomicU64,
    patience: Duration,
}

/// The room that one frame takes, with what is made of it.
#[derive(Debug, Default)]
pub(crate) struct Room {
    held: Option<Held>,
    /// Units of the shared half.
    shared: usize,
    /// Units of what is set aside, and the turn; `None`: it is another's.
    turn: Option<usize>,
}

impl Held {
    /// Room for `bytes_max`. A frame that has held some for `patience` gives it up when others need it.
    pub(crate) fn new(bytes_max: usize, patience: Duration) -> Held {
        let units = (bytes_max / UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        let aside = units / 2;
        Held(Arc::new(Inner {
            units,
            shared: Semaphore::new(units - aside),
            aside,
            turn: Semaphore::new(1),
            short: Notify::new(),
            returns: AtomicU64::new(0),
            patience,
        }))
    }

    /// Makes `room` cover `bytes`; false when there is none, or was none for a while.
    pub(crate) async fn cover(&self, room: &mut Room, bytes: usize) -> bool {
        let Held(inner) = self;
        let wanted = bytes.div_ceil(UNIT_BYTES);
        let missing = wanted.saturating_sub(room.units());
        let Ok(permits) = u32::try_from(missing) else { return false };
        if missing == 0 || wanted > inner.units {
            return missing == 0;
        }
        room.held.get_or_insert_with(|| self.clone());
        if let Ok(more) = inner.shared.try_acquire_many(permits) {
            more.forget();
            room.shared += missing;
            return true;
        }
        if room.turn.is_none() {
            let either = async {
                select! {
                    biased;
                    more = inner.shared.acquire_many(permits) => more.map(|more| (more, false)),
                    mine = inner.turn.acquire() => mine.map(|mine| (mine, true)),
                }
            };
            let Some(Ok((permit, is_turn))) = inner.while_others_go_on(either).await else { return false };
            permit.forget();
            if !is_turn {
                room.shared += missing;
                return true;
            }
            room.turn = Some(0);
        }
        let taken = room.turn.unwrap_or_default();
        let aside = missing.min(inner.aside - taken);
        room.turn = Some(taken + aside);
        // The most that one frame may take is all of it.
        let Ok(rest) = u32::try_from(missing - aside) else { return false };
        let more = inner.while_others_go_on(inner.shared.acquire_many(rest));
        let Some(Ok(more)) = more.await else { return false };
        more.forget();
        room.shared += missing - aside;
        true
    }

    /// Returns when what has been held since `since` has had its time, and somebody waits for room.
    pub(crate) async fn wanted(&self, since: Instant) {
        sleep_until(since + self.0.patience).await;
        self.0.short.notified().await;
    }
}

impl Inner {
    /// What `room` comes to; `None` when nobody has given room back for a while.
    async fn while_others_go_on<T>(&self, room: impl Future<Output = T>) -> Option<T> {
        let mut room = pin!(room);
        let mut returns = self.returns.load(Ordering::Relaxed);
        let mut since = Instant::now();
        loop {
            // Again and again: who stalls may have had its time by now.
            self.short.notify_waiters();
            select! {
                biased;
                room = &mut room => return Some(room),
                () = sleep(ASK) => {}
            }
            let now = self.returns.load(Ordering::Relaxed);
            if now != returns {
                (returns, since) = (now, Instant::now());
            } else if since.elapsed() >= WAIT {
                return None;
            }
        }
    }
}

impl Room {
    /// The bytes that it covers, rounded up.
    pub(crate) fn bytes(&self) -> usize {
        self.units() * UNIT_BYTES
    }

    fn units(&self) -> usize {
        self.shared + self.turn.unwrap_or_default()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let Some(Held(inner)) = &self.held else { return };
        // Before those who wait can see it.
        inner.returns.fetch_add(1, Ordering::Relaxed);
        inner.shared.add_permits(self.shared);
        if self.turn.is_some() {
            inner.turn.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn room_is_shared_and_given_back() {
        let held = Held::new(20 * 1024, Duration::from_secs(10));
        let (mut one, mut two) = (Room::default(), Room::default());
        assert!(held.cover(&mut one, 1).await);
        assert!(held.cover(&mut one, 6 * 1024).await);
        assert!(held.cover(&mut two, 4 * 1024).await);
        assert!(held.cover(&mut two, 14 * 1024).await, "its turn: as much is set aside");
        let mut third = Room::default();
        assert!(!held.cover(&mut third, 1).await, "full: after a wait, no");
        drop(one);
        assert!(held.cover(&mut third, 6 * 1024).await);
        assert!(!held.cover(&mut two, 14 * 1024 + 1).await, "alone too large");
        drop((two, third));
        let mut all = Room::default();
        assert!(held.cover(&mut all, 10 * 1024).await && held.cover(&mut all, 20 * 1024).await);
        assert_eq!(all.bytes(), 20 * 1024);
    }

    /// Each has a part of what it needs: one of them goes on, and then the others.
    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_each_others_end() {
        let held = Held::new(20 * 1024, Duration::from_secs(10));
        let frame = async || {
            let mut room = Room::default();
            for bytes in [1024, 4 * 1024, 9 * 1024] {
                assert!(held.cover(&mut room, bytes).await, "{bytes}");
                sleep(Duration::from_millis(300)).await;
            }
        };
        tokio::join!(frame(), frame(), frame(), frame(), frame(), frame(), frame(), frame());
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_given_up_by_who_has_had_it_long_when_others_wait() {
        let held = Held::new(20 * 1024, Duration::from_secs(10));
        let (mut slow, mut turn, mut other) = (Room::default(), Room::default(), Room::default());
        let since = Instant::now();
        assert!(held.cover(&mut slow, 8 * 1024).await && held.cover(&mut turn, 10 * 1024).await);
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
