//! Figures of the running program for Prometheus, brought up to date when somebody scrapes.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::Sync;
use super::show::{lag_ms, noted, positions};

/// Figures that are read when somebody scrapes.
pub(super) struct Gauges {
    positions: IntGaugeVec,
    log_bytes: IntGauge,
    log_fill: Gauge,
    log_level: IntGauge,
    log_noted: IntGauge,
    without_statements: IntCounter,
    unrecorded: IntCounter,
    lag_entries: IntGauge,
    lag_seconds: Gauge,
    dirty: IntGauge,
    dead_letters: IntGauge,
    bypassed: IntGauge,
    connected: IntGaugeVec,
    captured: IntCounterVec,
    in_doubt: IntCounterVec,
    not_replicated: IntCounterVec,
}

impl Gauges {
    pub(super) fn register(registry: &Registry) -> Result<Gauges, prometheus::Error> {
        let counter = |name, help, label| IntCounterVec::new(Opts::new(name, help), &[label]);
        let gauges = Gauges {
            positions: IntGaugeVec::new(
                Opts::new("dualsync_log_position", "Records appended, durable, applied and trimmed."),
                &["position"],
            )?,
            log_bytes: IntGauge::new("dualsync_log_bytes", "Bytes of the sync log on disk.")?,
            log_fill: Gauge::new("dualsync_log_fill_ratio", "Share of the log's nearest bound; 1 is full.")?,
            log_level: IntGauge::new(
                "dualsync_log_level",
                "0 normal, 1 from 80 %, 2 from 90 % (no statements), 3 full (namespaces become dirty).",
            )?,
            log_noted: IntGauge::new(
                "dualsync_log_noted_namespaces",
                "Namespaces in the log's reserve that are not dirty for good yet.",
            )?,
            without_statements: IntCounter::new(
                "dualsync_log_entries_without_statements_total",
                "Entries that keep what was touched only, because the log was nearly full.",
            )?,
            unrecorded: IntCounter::new(
                "dualsync_unrecorded_writes_total",
                "Writes that went on without a mark in the log; their namespaces became dirty.",
            )?,
            lag_entries: IntGauge::new("dualsync_lag_entries", "Entries that wait.")?,
            lag_seconds: Gauge::new("dualsync_lag_seconds", "Age of the oldest entry that waits.")?,
            dirty: IntGauge::new("dualsync_dirty_namespaces", "Namespaces that need a full comparison.")?,
            dead_letters: IntGauge::new("dualsync_dead_letters", "Documents that the target refuses.")?,
            bypassed: IntGauge::new(
                "dualsync_capture_bypassed",
                "Whether writes pass unseen (1) or are captured (0).",
            )?,
            connected: IntGaugeVec::new(
                Opts::new("dualsync_connected", "Whether a server answers (1) or not (0)."),
                &["server"],
            )?,
            captured: counter("dualsync_captured_entries_total", "Entries by kind of write.", "kind")?,
            in_doubt: counter("dualsync_in_doubt_entries_total", "Entries in doubt by reason.", "reason")?,
            not_replicated: counter("dualsync_not_replicated_total", "Commands not replicated.", "command")?,
        };
        registry.register(Box::new(gauges.positions.clone()))?;
        registry.register(Box::new(gauges.log_bytes.clone()))?;
        registry.register(Box::new(gauges.log_fill.clone()))?;
        registry.register(Box::new(gauges.log_level.clone()))?;
        registry.register(Box::new(gauges.log_noted.clone()))?;
        registry.register(Box::new(gauges.without_statements.clone()))?;
        registry.register(Box::new(gauges.unrecorded.clone()))?;
        registry.register(Box::new(gauges.lag_entries.clone()))?;
        registry.register(Box::new(gauges.lag_seconds.clone()))?;
        registry.register(Box::new(gauges.dirty.clone()))?;
        registry.register(Box::new(gauges.dead_letters.clone()))?;
        registry.register(Box::new(gauges.bypassed.clone()))?;
        registry.register(Box::new(gauges.connected.clone()))?;
        registry.register(Box::new(gauges.captured.clone()))?;
        registry.register(Box::new(gauges.in_doubt.clone()))?;
        registry.register(Box::new(gauges.not_replicated.clone()))?;
        Ok(gauges)
    }

    pub(super) fn set(&self, sync: &Sync) {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let set_total = |vec: &IntCounterVec, label: &str, total: u64| {
            let counter = vec.with_label_values(&[label]);
            counter.inc_by(total.saturating_sub(counter.get()));
        };
        sync.comparing.before_scrape();
        let at = positions(sync);
        for (name, value) in [
            ("appended", at.appended),
            ("durable", at.durable),
            ("applied", at.applied),
            ("trimmed", at.trimmed),
        ] {
            self.positions.with_label_values(&[name]).set(signed(value));
        }
        let status = sync.shared.status();
        let (dirty, everything) = sync.shared.dirty();
        self.log_bytes.set(signed(sync.log.stats().bytes));
        let (fill, noted) = (sync.bounds.fill(), noted(sync));
        self.log_fill.set(fill.share);
        self.log_level.set(fill.level as i64);
        self.log_noted.set(signed(noted.namespaces.len() as u64 + u64::from(noted.everything)));
        self.lag_entries.set(signed(sync.pending.entries()));
        self.lag_seconds.set(lag_ms(sync) as f64 / 1000.0);
        self.dirty.set(signed(dirty.len() as u64 + u64::from(everything.is_some())));
        self.dead_letters.set(signed(sync.shared.dead_letters().len() as u64));
        self.bypassed.set(i64::from(sync.bypass.switch.is_on()));
        self.connected.with_label_values(&["local"]).set(i64::from(status.source.connected));
        self.connected.with_label_values(&["atlas"]).set(i64::from(status.target.connected));
        let counters = sync.capture.counters();
        let raise = |counter: &IntCounter, total: u64| counter.inc_by(total.saturating_sub(counter.get()));
        raise(&self.without_statements, counters.touches_only);
        raise(&self.unrecorded, sync.capture.unrecorded().writes);
        for (kind, total) in &counters.entries {
            set_total(&self.captured, kind.code(), *total);
        }
        for (doubt, total) in &counters.in_doubt {
            set_total(&self.in_doubt, doubt.code(), *total);
        }
        for (name, total) in counters.not_replicated.iter().chain(&counters.unknown) {
            set_total(&self.not_replicated, name, *total);
        }
    }
}
