//! How long a client may take: for its first request, and for each frame that it has begun.
//!
//! - only time spent waiting for the client counts: while mongod, the log or another session keeps us from reading,
//!   nothing runs
//! - a frame must go on, not come to an end: 48 MB over a slow line are fine, a byte every now and then is not

use std::time::Duration;

use tokio::time::Instant;

/// A frame that has begun brings at least so many bytes each time its time is over, or its end: with 60 s some
/// 70 bytes/s, less than any line that a database is used over.
const PROGRESS_BYTES: usize = 4 * 1024;

/// What is left of a client's time.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Until the first request has come.
    greeting: Option<Instant>,
    frame: Option<Duration>,
    left: Duration,
    bytes: usize,
}

impl Limits {
    /// For mongod, which may take as long as it likes.
    pub(crate) fn none() -> Limits {
        Limits { greeting: None, frame: None, left: Duration::ZERO, bytes: 0 }
    }

    /// The first request until `greeting`; a frame in steps of `frame`, where zero means any time.
    pub(crate) fn new(greeting: Instant, frame: Duration) -> Limits {
        let frame = (!frame.is_zero()).then_some(frame);
        Limits { greeting: Some(greeting), frame, left: frame.unwrap_or_default(), bytes: 0 }
    }

    /// The first request has come.
    pub(crate) fn greeted(&mut self) {
        self.greeting = None;
    }

    /// Until when more must have come.
    pub(crate) fn due(&mut self, between_frames: bool) -> Option<Instant> {
        if between_frames {
            self.start_anew();
            return self.greeting;
        }
        let frame = self.frame.map(|_| Instant::now() + self.left);
        frame.into_iter().chain(self.greeting).min()
    }

    /// So much has come, waited for until `due`, which [`due`](Self::due) said before.
    pub(crate) fn received(&mut self, count: usize, due: Instant) {
        self.bytes += count;
        if self.bytes >= PROGRESS_BYTES {
            self.start_anew();
        } else {
            self.left = self.left.min(due.saturating_duration_since(Instant::now()));
        }
    }

    fn start_anew(&mut self) {
        self.left = self.frame.unwrap_or_default();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_frame_must_go_on() {
        let start = Instant::now();
        let mut limits = Limits::new(start + Duration::from_secs(10), FRAME);
        assert_eq!(limits.due(true), Some(start + Duration::from_secs(10)));
        assert_eq!(
            limits.due(false),
            Some(start + Duration::from_secs(10)),
            "the first one is due as a whole"
        );
        limits.greeted();
        assert_eq!(limits.due(true), None, "between frames it may be idle");
        let due = limits.due(false).unwrap();
        assert_eq!(due, start + FRAME);
        tokio::time::advance(Duration::from_secs(50)).await;
        limits.received(100, due);
        assert_eq!(limits.due(false), Some(start + FRAME), "too little to count");
        limits.received(PROGRESS_BYTES, due);
        assert_eq!(limits.due(false), Some(Instant::now() + FRAME));
        tokio::time::advance(Duration::from_secs(1000)).await;
        assert_eq!(limits.due(false), Some(Instant::now() + FRAME), "we did not wait for the client");
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_any_time() {
        let mut limits = Limits::new(Instant::now(), Duration::ZERO);
        limits.greeted();
        assert_eq!(limits.due(false), None);
    }
}
