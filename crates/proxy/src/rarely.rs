//! Log lines that anybody out there could otherwise write as many of as they like.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// At most one line a minute of its kind; it says how many were left out before it.
#[derive(Debug, Default)]
pub(crate) struct Rarely(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    left_out: u64,
}

impl Rarely {
    /// How many lines were left out since the last one; `None` when this one is left out as well.
    pub(crate) fn due(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            state.left_out += 1;
            return None;
        }
        state.last = Some(Instant::now());
        Some(std::mem::take(&mut state.left_out))
    }
}

const INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted() {
        let rarely = Rarely::default();
        assert_eq!(rarely.due(), Some(0));
        assert_eq!((rarely.due(), rarely.due()), (None, None));
        rarely.0.lock().unwrap().last = Instant::now().checked_sub(INTERVAL);
        assert_eq!(rarely.due(), Some(2));
    }
}
