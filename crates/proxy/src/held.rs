//! The bound on bytes that are held to be looked at, over all sessions.
//!
//! - counted as they arrive, not as they are announced: a client that promises 48 MB and sends nothing takes no room
//! - full means: wait a little, then say no; the frame goes on unscanned
//! - a captured request keeps its room until its outcome is recorded, since capture keeps its statements until then

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// One permit per KiB: the semaphore counts in `u32` steps, and nobody cares for less.
const UNIT_BYTES: usize = 1024;
/// Frames that wait for each other's room end here; a bulk load's frames come and go in milliseconds.
const WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct Held {
    units: Arc<Semaphore>,
}

/// The room that one frame takes.
#[derive(Debug, Default)]
pub(crate) struct Room {
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    pub(crate) fn new(bytes_max: usize) -> Held {
        Held { units: Arc::new(Semaphore::new((bytes_max / UNIT_BYTES).min(Semaphore::MAX_PERMITS))) }
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
            Err(_) => match timeout(WAIT, self.units.clone().acquire_many_owned(missing)).await {
                Ok(Ok(more)) => more,
                _ => return false,
            },
        };
        match &mut room.permit {
            Some(permit) => permit.merge(more),
            None => room.permit = Some(more),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn room_is_shared_and_given_back() {
        let held = Held::new(10 * 1024);
        let (mut one, mut two) = (Room::default(), Room::default());
        assert!(held.cover(&mut one, 1).await);
        assert!(held.cover(&mut one, 6 * 1024).await);
        assert!(held.cover(&mut two, 4 * 1024).await);
        assert!(!held.cover(&mut two, 5 * 1024).await, "full: after a wait, no");
        drop(one);
        assert!(held.cover(&mut two, 10 * 1024).await);
        assert!(!held.cover(&mut two, 10 * 1024 + 1).await, "alone too large");
    }
}
