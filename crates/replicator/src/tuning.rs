//! What people may change while the worker runs.

use serde::{Deserialize, Serialize};

/// How much of the target the worker may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Commands under way to the target at a time, at most; at least 1.
    pub lanes: usize,
    /// Entries in one batch, at most; at least 1.
    pub batch_entries_max: usize,
    /// Entries in a second, at most. 0: no bound.
    pub rate_max: u64,
}

/// What was ordered beside the configuration. It holds over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Retuned {
    /// Instead of [`Tuning::lanes`].
    pub lanes: Option<usize>,
    /// Instead of [`Tuning::batch_entries_max`].
    pub batch_entries_max: Option<usize>,
    /// Instead of [`Tuning::rate_max`].
    pub rate_max: Option<u64>,
}

impl Retuned {
    /// The configuration with what was ordered beside it.
    pub fn over(&self, configured: Tuning) -> Tuning {
        Tuning {
            lanes: self.lanes.unwrap_or(configured.lanes).max(1),
            batch_entries_max: self.batch_entries_max.unwrap_or(configured.batch_entries_max).max(1),
            rate_max: self.rate_max.unwrap_or(configured.rate_max),
        }
    }
}
