//! What is captured changes while the worker runs.
//!
//! - what comes in is dirty: it is compared as a whole, and again once no request can be under way any more that was begun
//!   when nobody looked at it
//! - what goes out is left as it is on the target: what is in the log for it, and what was known of it, is forgotten

use std::time::{Duration, Instant};

use record::Namespace;
use tracing::info;

use super::Pump;
use crate::error::ServerError;
use crate::execute::Stall;
use crate::shared::now_ms;
use crate::state::{Cause, Dirty, Filter};

/// A request that was read before may still have to reach mongod: as long as a client may take over one, and a little more.
const STRAGGLERS_MAX: Duration = Duration::from_secs(75);

/// Collections that have come in, and when the last request has ended that was begun before.
#[derive(Debug)]
pub(super) struct Lifted {
    due: Instant,
    namespaces: Vec<Namespace>,
}

impl Pump {
    /// Capture looks by `filter` already. `ordered`: beside the configuration, over restarts too.
    pub(super) async fn set_filter(&mut self, filter: Filter, ordered: bool) -> Result<(), ServerError> {
        let captures = self.config.captures;
        let listing = self.executor.source.namespaces().await?;
        let before = std::mem::replace(&mut self.config.filter, filter.clone());
        let there = self.listed(listing, Stall::Source);
        let comes_in = |ns: &Namespace| !captures(&before, ns) && captures(&filter, ns);
        let lifted: Vec<Namespace> = there.into_iter().filter(comes_in).collect();
        self.not_copied_yet(lifted.clone(), "was excluded before");
        {
            let mut state = self.shared.state();
            let goes_out = |ns: &Namespace| !ns.coll().is_empty() && !captures(&filter, ns);
            let dirty: Vec<Namespace> = state.dirty().map(|(ns, _)| ns).filter(goes_out).collect();
            dirty.iter().for_each(|ns| state.clear_dirty(ns));
            let mut dead: Vec<Namespace> =
                state.dead_letters().iter().map(|it| Namespace::parse(&it.namespace)).collect();
            dead.retain(goes_out);
            for ns in &dead {
                for key in state.remove_dead_letters_of(ns) {
                    self.executor.planner().clear_dead(ns, &key);
                }
            }
            state.set_filter(&filter);
            state.set_ordered_filter(ordered.then(|| filter.clone()));
            info!(lifted = lifted.len(), forgotten = dirty.len(), "include and exclude have changed");
        }
        if !lifted.is_empty() {
            self.lifted.push(Lifted { due: Instant::now() + STRAGGLERS_MAX, namespaces: lifted });
        }
        self.save_state();
        Ok(())
    }

    /// Those that were compared while a request of before may have been under way are compared once more.
    pub(super) fn settle_lifted(&mut self) {
        let due = self.lifted.extract_if(.., |it| it.due <= Instant::now());
        let namespaces: Vec<Namespace> = due.flat_map(|it| it.namespaces).collect();
        if namespaces.is_empty() {
            return;
        }
        for ns in namespaces.iter().filter(|ns| self.is_followed(ns)) {
            let reason = "was excluded until a minute ago";
            self.executor.planner().set_dirty(ns);
            self.shared.state().set_dirty(ns, Dirty::new(reason, Cause::Unknown, now_ms()));
        }
        self.save_state();
    }

    /// Whether what is in the log for `ns` is still to be brought to the target.
    pub(super) fn is_followed(&self, ns: &Namespace) -> bool {
        ns.coll().is_empty() || (self.config.captures)(&self.config.filter, ns)
    }
}
