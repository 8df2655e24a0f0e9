//! What others see of the reconciler: what it does to each namespace, how far it is, how the last scans came out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use prometheus::{Gauge, IntCounter, IntCounterVec, Opts, Registry};
use record::Namespace;
use replicator::{Verdict, now_ms};

/// What is being done about a dirty namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Its turn will come.
    Waiting,
    /// It is being compared.
    Scanning,
    /// Somebody has to decide, or to mend something: why.
    Held(String),
}

/// How far the comparison of one namespace is.
#[derive(Debug, Clone)]
pub struct View {
    /// What is being done.
    pub phase: Phase,
    /// Documents of the source compared so far.
    pub compared: u64,
    /// About how many there are; 0 before that is known.
    pub documents: u64,
    /// Documents found missing, different or on the target only; those that were just being replicated count too.
    pub differences: u64,
    /// Documents per second since it began.
    pub rate: f64,
    /// Seconds until it has been gone through, at that rate.
    pub eta_seconds: Option<f64>,
}

#[derive(Debug)]
struct Scanning {
    since: Instant,
    /// Compared in an earlier run.
    before: u64,
    compared: u64,
    documents: u64,
    differences: u64,
}

#[derive(Debug, Default)]
struct Inner {
    scanning: BTreeMap<Namespace, Scanning>,
    held: BTreeMap<Namespace, String>,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Progress {
    inner: Arc<Mutex<Inner>>,
    compared: IntCounter,
    differences: IntCounter,
    scans: IntCounterVec,
    now: Now,
}

/// The comparison that is under way; 0 while there is none.
#[derive(Debug, Clone)]
struct Now {
    documents: Gauge,
    compared: Gauge,
    left_seconds: Gauge,
}

impl Progress {
    pub(crate) fn new(registry: &Registry) -> Result<Progress, prometheus::Error> {
        let progress = Progress {
            inner: Arc::default(),
            compared: IntCounter::new(
                "dualsync_reconciler_documents_total",
                "Documents of the source compared with the target's.",
            )?,
            differences: IntCounter::new(
                "dualsync_reconciler_differences_total",
                "Documents found to differ, those on their way included.",
            )?,
            scans: IntCounterVec::new(
                Opts::new("dualsync_reconciler_scans_total", "Namespaces compared as a whole, by outcome."),
                &["outcome"],
            )?,
            now: Now {
                documents: Gauge::new(
                    "dualsync_reconciler_now_documents",
                    "About how many documents the collection holds that is being compared; 0 for none.",
                )?,
                compared: Gauge::new(
                    "dualsync_reconciler_now_compared",
                    "How many of them have been compared.",
                )?,
                left_seconds: Gauge::new(
                    "dualsync_reconciler_now_left_seconds",
                    "Time left for it at the rate so far.",
                )?,
            },
        };
        let now = &progress.now;
        for gauge in [&now.documents, &now.compared, &now.left_seconds] {
            registry.register(Box::new(gauge.clone()))?;
        }
        for outcome in ["equal", "again", "held"] {
            progress.scans.with_label_values(&[outcome]);
        }
        registry.register(Box::new(progress.compared.clone()))?;
        registry.register(Box::new(progress.differences.clone()))?;
        registry.register(Box::new(progress.scans.clone()))?;
        Ok(progress)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is being done about a dirty namespace, by its name.
    pub fn of(&self, ns: &str) -> View {
        let inner = self.inner();
        let ns = Namespace::parse(ns);
        let mut view = View {
            phase: inner.held.get(&ns).map_or(Phase::Waiting, |why| Phase::Held(why.clone())),
            compared: 0,
            documents: 0,
            differences: 0,
            rate: 0.0,
            eta_seconds: None,
        };
        if let Some(scanning) = inner.scanning.get(&ns) {
            let seconds = scanning.since.elapsed().as_secs_f64().max(0.001);
            let rate = (scanning.compared - scanning.before) as f64 / seconds;
            let left = scanning.documents.saturating_sub(scanning.compared) as f64;
            view.phase = Phase::Scanning;
            view.compared = scanning.compared;
            view.documents = scanning.documents;
            view.differences = scanning.differences;
            view.rate = rate;
            view.eta_seconds = (rate > 0.0 && scanning.documents > 0).then(|| left / rate);
        }
        view
    }

    /// Brings the figures of what is under way up to date.
    pub fn before_scrape(&self) {
        let scanning = self.inner().scanning.keys().next().map(Namespace::to_string);
        let view = scanning.map(|ns| self.of(&ns));
        let shown = |value: Option<f64>| value.unwrap_or(0.0);
        self.now.documents.set(shown(view.as_ref().map(|it| it.documents as f64)));
        self.now.compared.set(shown(view.as_ref().map(|it| it.compared as f64)));
        self.now.left_seconds.set(shown(view.and_then(|it| it.eta_seconds)));
    }

    /// The namespaces that somebody has to look at, and why.
    pub fn held(&self) -> Vec<(Namespace, String)> {
        self.inner().held.iter().map(|(ns, why)| (ns.clone(), why.clone())).collect()
    }

    pub(crate) fn begin(&self, ns: &Namespace, documents: u64) {
        self.resume(ns, 0, documents);
    }

    /// The same, so many having been compared before.
    pub(crate) fn resume(&self, ns: &Namespace, before: u64, documents: u64) {
        let scanning =
            Scanning { since: Instant::now(), before, compared: before, documents, differences: 0 };
        self.inner().scanning.insert(ns.clone(), scanning);
    }

    pub(crate) fn compared(&self, ns: &Namespace, documents: u64, differences: u64) {
        self.compared.inc_by(documents);
        self.differences.inc_by(differences);
        if let Some(scanning) = self.inner().scanning.get_mut(ns) {
            scanning.compared += documents;
            scanning.differences += differences;
        }
    }

    /// It is not under way any more, and not done.
    pub(crate) fn interrupted(&self, ns: &Namespace) {
        self.inner().scanning.remove(ns);
    }

    /// It became dirty meanwhile.
    pub(crate) fn again(&self, ns: &Namespace) {
        self.scans.with_label_values(&["again"]).inc();
        self.inner().scanning.remove(ns);
    }

    pub(crate) fn hold(&self, ns: &Namespace, why: &str) {
        self.scans.with_label_values(&["held"]).inc();
        let mut inner = self.inner();
        inner.scanning.remove(ns);
        inner.held.insert(ns.clone(), why.to_owned());
    }

    pub(crate) fn release(&self, ns: &Namespace) {
        self.inner().held.remove(ns);
    }

    /// What can be said when a scan has ended well.
    pub(crate) fn verdict(&self, ns: &Namespace, repaired: u64) -> Verdict {
        let inner = self.inner();
        let scanned = inner.scanning.get(ns);
        let took = scanned.map(|it| it.since.elapsed()).unwrap_or_default();
        Verdict {
            documents: scanned.map_or(0, |it| it.compared),
            repaired,
            equal_as_of_ms: now_ms(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn equal(&self, ns: &Namespace) {
        self.scans.with_label_values(&["equal"]).inc();
        let mut inner = self.inner();
        inner.scanning.remove(ns);
        inner.held.remove(ns);
    }
}
