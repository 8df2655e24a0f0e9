//! The planner's bounds and rules.

/// The planner's bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Keys that one namespace remembers as ahead; beyond that its floor rises. 64 k keys are about 10 MiB.
    pub ahead_keys_max: usize,
    /// Predicates of one namespace in one batch that still are barriers of their own; with more of them the
    /// batch is converged as a whole, which takes one round of reading and writing instead of one for each.
    pub barriers_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { ahead_keys_max: 65_536, barriers_max: 8 }
    }
}

/// The rules, each a real branch, so that the model can show what each is for. All on in the product.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// What is in doubt is converged, never replayed.
    pub doubt: bool,
    /// A key that was converged is replayed only from marks behind the reading.
    pub ahead: bool,
    /// What may have been sent before a restart or an unknown outcome is converged.
    pub sent: bool,
    /// A predicate waits for what is before it, and what is behind waits for it.
    pub barrier: bool,
    /// A `multi` statement is replayed only when no key of its namespace is ahead.
    pub lone_multi: bool,
    /// While a namespace is dirty, its entries are only converged.
    pub dirty: bool,
    /// When a scan has ended, its namespace is, as a whole, ahead.
    pub scan_floor: bool,
    /// What becomes dirty during a scan is scanned again.
    pub scan_again: bool,
    /// What is ahead and evicted raises its namespace's floor.
    pub evicted: bool,
    /// Keys in the dead letters are never replayed.
    pub dead: bool,
    /// What is sent before the rest of its batch has no key in common with it.
    pub apart: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            doubt: true,
            ahead: true,
            sent: true,
            barrier: true,
            lone_multi: true,
            dirty: true,
            scan_floor: true,
            scan_again: true,
            evicted: true,
            dead: true,
            apart: true,
        }
    }
}
