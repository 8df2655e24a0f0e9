//! What is counted: entries by the way they went, batches, failures; as metrics, and since the last reset.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};

use super::{Counts, Shared, now_ms};

/// How an entry reached the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Its statements were sent again.
    Replayed,
    /// Its documents were copied.
    Converged,
    /// It made its namespace dirty.
    Dirty,
}

impl Way {
    fn label(self) -> &'static str {
        match self {
            Way::Replayed => "replayed",
            Way::Converged => "converged",
            Way::Dirty => "dirty",
        }
    }
}

/// Entries of a batch, by the way they went.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    ways: [(u64, u64); 3],
    delay_ms: u64,
}

impl Applied {
    /// One more; `names_id`: each of its statements names `_id`.
    pub(crate) fn add(&mut self, way: Way, names_id: bool, delay_ms: u64) {
        let (entries, keyed) = &mut self.ways[way as usize];
        *entries += 1;
        *keyed += u64::from(names_id);
        self.delay_ms += delay_ms;
    }

    fn ways(&self) -> impl Iterator<Item = (Way, (u64, u64))> {
        [Way::Replayed, Way::Converged, Way::Dirty].into_iter().zip(self.ways)
    }
}

pub(super) struct Metrics {
    entries: IntCounterVec,
    keyed: IntCounterVec,
    batch_seconds: Histogram,
    failures: IntCounterVec,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let entries = IntCounterVec::new(
            Opts::new("dualsync_entries_total", "Entries applied to the target, by the way they went."),
            &["way"],
        )?;
        let keyed = IntCounterVec::new(
            Opts::new("dualsync_keyed_entries_total", "Of these, entries whose every statement names _id."),
            &["way"],
        )?;
        let batch_seconds = Histogram::with_opts(HistogramOpts::new(
            "dualsync_replicator_batch_seconds",
            "Time from reading a batch to its last acknowledgement by the target.",
        ))?;
        let failures = IntCounterVec::new(
            Opts::new(
                "dualsync_replicator_failures_total",
                "Documents refused, and batches stalled by a server.",
            ),
            &["kind"],
        )?;
        for way in [Way::Replayed, Way::Converged, Way::Dirty] {
            entries.with_label_values(&[way.label()]);
            keyed.with_label_values(&[way.label()]);
        }
        for kind in ["refused", "source", "target"] {
            failures.with_label_values(&[kind]);
        }
        registry.register(Box::new(entries.clone()))?;
        registry.register(Box::new(keyed.clone()))?;
        registry.register(Box::new(batch_seconds.clone()))?;
        registry.register(Box::new(failures.clone()))?;
        Ok(Metrics { entries, keyed, batch_seconds, failures })
    }
}

impl Shared {
    /// Counts start from zero again; positions and metrics do not.
    pub fn reset_counts(&self) {
        self.status_mut().counts = Counts::default();
    }

    pub(crate) fn count_applied(&self, applied: &Applied) {
        let mut status = self.status_mut();
        for (way, (entries, keyed)) in applied.ways() {
            self.0.metrics.entries.with_label_values(&[way.label()]).inc_by(entries);
            self.0.metrics.keyed.with_label_values(&[way.label()]).inc_by(keyed);
            status.entries_applied += entries;
            match way {
                Way::Replayed => status.counts.replayed += entries,
                Way::Converged => status.counts.converged += entries,
                Way::Dirty => status.counts.dirty += entries,
            }
        }
        status.counts.delay_ms += applied.delay_ms;
    }

    pub(crate) fn count_failed(&self) {
        self.0.metrics.failures.with_label_values(&["refused"]).inc();
        self.status_mut().counts.failed += 1;
    }

    pub(crate) fn count_stall(&self, server: &'static str) {
        self.0.metrics.failures.with_label_values(&[server]).inc();
        self.status_mut().counts.stalls += 1;
    }

    pub(crate) fn count_batch(&self, took: std::time::Duration) {
        self.0.metrics.batch_seconds.observe(took.as_secs_f64());
        let mut status = self.status_mut();
        status.last_sync_ms = Some(now_ms());
    }
}
