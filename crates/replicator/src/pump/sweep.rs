//! Expiry is a deletion that nobody sends: from time to time, what may have expired on the target is looked for on the
//! source, and what is gone there is converged. What was renewed comes by its own entry.

use std::time::Instant;

use bson::DateTime;
use record::{Key, Namespace};
use tracing::{debug, warn};

use super::Pump;
use crate::error::{Class, UNAUTHORIZED};
use crate::execute::Stall;
use crate::expiry::Expiry;
use crate::plan::Converge;
use crate::target::TIME_LIMIT_EXCEEDED;

/// Documents of one collection in one sweep; the rest in the next, at once.
const KEYS_MAX: usize = 20_000;
const KEYS_PER_LOOK: usize = 1_000;

impl Pump {
    /// Looks for what has expired, when that is due.
    pub(super) async fn sweep(&mut self) -> Result<(), Stall> {
        if self.swept.elapsed() < self.config.sweep_interval {
            return Ok(());
        }
        let hello = self.executor.source.hello().await.map_err(Stall::Source)?;
        let now = hello.get_datetime("localTime").copied().unwrap_or_else(|_| DateTime::now());
        // A sweep that fails is not tried again before it is due: following goes first.
        let (before, mut more) = (std::mem::replace(&mut self.swept, Instant::now()), false);
        for expiry in self.executor.target.expiries().await.map_err(Stall::Target)? {
            let ns = Namespace::parse(&expiry.namespace);
            if (self.config.captures)(&self.config.filter, &ns) && !self.shared.keeps(&ns) {
                let swept = self.sweep_one(&ns, &expiry, now).await.map(|left| more |= left);
                self.executor.unless_forbidden(&ns, swept)?;
            }
        }
        if more {
            self.swept = before;
        }
        Ok(())
    }

    /// Says whether there may be more.
    async fn sweep_one(&mut self, ns: &Namespace, expiry: &Expiry, now: DateTime) -> Result<bool, Stall> {
        if self.executor.source.collection(ns).await.map_err(Stall::Source)?.is_none() {
            return Ok(false); // a collection that was dropped, or kept in spite of it: nothing expires there
        }
        let found = self.executor.target.candidates(ns, &expiry.filter(now), None, None, KEYS_MAX).await;
        let found = match found {
            Ok(found) => found,
            // While its documents are copied its indexes are not there yet.
            Err(error)
                if error.class == Class::Refused
                    || matches!(error.code, Some(TIME_LIMIT_EXCEEDED | UNAUTHORIZED)) =>
            {
                warn!(%ns, %error, "the target cannot look for what has expired");
                return Ok(false);
            }
            Err(error) => return Err(Stall::Target(error)),
        };
        let keys: Vec<Key> = found.iter().filter_map(|id| Key::of(id)).collect();
        let mut gone = 0;
        for keys in keys.chunks(KEYS_PER_LOOK) {
            let there = self.executor.source.which(ns, keys).await.map_err(Stall::Source)?;
            let keys: Vec<Key> = keys.iter().filter(|key| !there.contains(*key)).cloned().collect();
            gone += keys.len();
            self.executor.converge(ns, &Converge { keys, ..Converge::default() }).await?;
        }
        debug!(%ns, found = found.len(), gone, "looked for what has expired");
        // Those that the source has not deleted yet are found again: not at once.
        Ok(gone == KEYS_MAX)
    }
}
