//! File descriptors: as many as the system gives, and no more connections than fit.
//!
//! Out of descriptors the log could not begin its next file, so connections never get the last ones.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the log, dualsync's own connections, the admin port.
const RESERVE: u64 = 256;

/// Raises the limit on open files as far as it goes; how many connections fit, with two descriptors each.
pub(crate) fn connections_that_fit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // No number means that there is no limit.
    let Some(files) = (if raised.is_ok() { maximum } else { current }) else { return usize::MAX };
    usize::try_from((files - RESERVE.min(files / 2)) / 2).unwrap_or(usize::MAX)
}
