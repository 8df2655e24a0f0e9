//! Deletes whole segments at the front.
//!
//! - only what the cursor on disk covers; oldest first; never the last segment
//! - a segment leaves the list after its file is gone: a failure leaves it readable
//! - the append lock is not held; readers that have the file open read on

use std::sync::{Arc, PoisonError};

use crate::error::TrimError;
use crate::log::Shared;
use crate::{Lsn, lock};

impl Shared {
    pub(crate) fn trim(&self, upto: Lsn) -> Result<(), TrimError> {
        let _one = lock(&self.trimming);
        let applied = self.cursor.durable_applied();
        if upto > applied {
            return Err(TrimError::NotCovered { upto, applied });
        }
        loop {
            let oldest = {
                let segments = self.list();
                match (segments.front(), segments.get(1)) {
                    (Some(oldest), Some(next)) if next.base <= upto => Arc::clone(oldest),
                    _ => return Ok(()),
                }
            };
            self.disk
                .remove(&oldest.path)
                .map_err(|source| TrimError::Disk { path: oldest.path.clone(), source })?;
            self.segments.write().unwrap_or_else(PoisonError::into_inner).pop_front();
        }
    }
}
