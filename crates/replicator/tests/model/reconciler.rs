//! The reconciler on its way through the namespace, key by key, each side at a moment of its own.

use replicator::plan::Scan;

use crate::replicator_side::Stage;
use crate::statement::Doc;
use crate::world::{Model, ns};

pub struct Comparing {
    scan: Scan,
    left: Vec<i64>,
    key: Option<i64>,
    source: Option<Option<Doc>>,
    target: Option<Option<Doc>>,
    /// Found to differ, with the source's version that was seen.
    differ: Vec<(i64, Option<Doc>)>,
}

impl Model {
    /// One step of the reconciler. It asks the replicator only between two of its steps.
    pub fn compare(&mut self) {
        let Some(scan) = &mut self.scan else {
            let waits = self.extra.scan_waits && self.in_flight.iter().any(|write| write.missed);
            if matches!(self.stage, Stage::Plan) && !waits {
                let mut left: Vec<i64> = (0..self.keys).collect();
                self.rng.shuffle(&mut left);
                let scan = self.planner.scan_begins(&ns());
                self.dirty_on_disk = self.extra.dirty_until_the_end;
                self.scan =
                    Some(Comparing { scan, left, key: None, source: None, target: None, differ: Vec::new() });
            }
            return;
        };
        let Some(key) = scan.key.or_else(|| scan.left.pop()) else { return self.ask() };
        scan.key = Some(key);
        match (&scan.source, &scan.target) {
            (Some(source), Some(target)) => {
                if source != target {
                    scan.differ.push((key, *source));
                }
                (scan.key, scan.source, scan.target) = (None, None, None);
            }
            (None, Some(_)) => scan.source = Some(self.source.get(&key).copied()),
            (Some(_), None) => scan.target = Some(self.target.get(&key).copied()),
            (None, None) if self.rng.bool() => scan.source = Some(self.source.get(&key).copied()),
            (None, None) => scan.target = Some(self.target.get(&key).copied()),
        }
    }

    fn ask(&mut self) {
        let Some(scan) = self.scan.as_mut().filter(|_| matches!(self.stage, Stage::Plan)) else { return };
        let differ = std::mem::take(&mut scan.differ);
        if !self.extra.hand_over && !differ.is_empty() {
            for (key, doc) in differ {
                let _ = match doc {
                    Some(doc) => self.target.insert(key, doc),
                    None => self.target.remove(&key),
                };
            }
            return;
        }
        if !differ.is_empty() {
            let keys = differ.into_iter().map(|(key, _)| key).collect();
            self.stage = self.steps(keys, None);
            return;
        }
        // As the worker does. No rule to leave out: since every batch says how far it went, what is behind the scan's head and not
        // sent yet has to be equal by chance and wrong after a restart, which none of 200,000 interleavings has shown.
        self.sent = self.sent.max(self.head);
        if self.planner.scan_ended(&ns(), scan.scan, self.head) {
            self.dirty_on_disk = false;
        }
        self.scan = None;
    }

    /// The reconciler is told that its keys were not converged.
    pub fn give_back(&mut self, keys: &[i64], taken: Option<usize>) {
        if let (None, Some(scan)) = (taken, &mut self.scan) {
            scan.left.extend(keys);
        }
    }
}
