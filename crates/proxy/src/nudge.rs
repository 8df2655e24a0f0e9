//! Keeps sockets and timers alive while a thread of the runtime hangs in the log's disk.
//!
//! A worker of tokio that has looked for events, and then blocks in the task that they woke, leaves nobody who looks for
//! the next ones (tokio issue 4730): with a device that hangs, all sessions would stand still. A task that comes from
//! outside wakes another worker, and that one looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;

/// How long sessions may stand still at most; ten wake-ups a second are not to be seen in any figure.
const INTERVAL: Duration = Duration::from_millis(100);

/// Nudges until it is dropped.
pub(crate) struct Nudge(Arc<AtomicBool>);

impl Nudge {
    /// For the runtime that the caller is in. `None` where no thread can be made: then it goes without.
    pub(crate) fn start() -> Option<Nudge> {
        let (stop, runtime) = (Arc::new(AtomicBool::new(false)), Handle::current());
        let stopped = stop.clone();
        let nudging = move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(INTERVAL);
                drop(runtime.spawn(async {}));
            }
        };
        std::thread::Builder::new().name("nudge".to_owned()).spawn(nudging).ok().map(|_| Nudge(stop))
    }
}

impl Drop for Nudge {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
