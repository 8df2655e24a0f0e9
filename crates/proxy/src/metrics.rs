//! The proxy's metrics.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::stream::Kind;

/// Counters of all listeners; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) connections: IntGauge,
    pub(crate) connections_total: IntCounter,
    pub(crate) requests_pass: IntCounter,
    pub(crate) requests_watch: IntCounter,
    pub(crate) requests_hold: IntCounter,
    pub(crate) requests_hello: IntCounter,
    pub(crate) requests_bypass: IntCounter,
    pub(crate) bytes_to_server: IntCounter,
    pub(crate) bytes_to_client: IntCounter,
    pub(crate) upstream_errors_total: IntCounter,
    pub(crate) refused_total: IntCounter,
    pub(crate) sessions_died_total: IntCounter,
    pub(crate) hellos_unread_total: IntCounter,
    pub(crate) delay_to_server: Histogram,
    pub(crate) delay_to_client: Histogram,
    sessions: IntGaugeVec,
    turned_away: IntCounterVec,
}

/// Why we ended a client's connection, or never served it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its TLS handshake failed.
    Handshake,
    /// It does not speak TLS, and we want it to.
    PlainOnTls,
    /// It speaks TLS, and we do not.
    TlsOnPlain,
    /// Its first request took too long.
    Greeting,
    /// It stopped in the middle of a frame.
    Stalled,
    /// It was silent for `idle_timeout`.
    Idle,
    /// It writes in a way that nobody would see.
    OldWrite,
    /// Nothing but us would keep it from doing what it likes.
    Unguarded,
}

impl Reason {
    fn label(self) -> &'static str {
        match self {
            Reason::Handshake => "tls_handshake",
            Reason::PlainOnTls => "plain_on_tls",
            Reason::TlsOnPlain => "tls_on_plain",
            Reason::Greeting => "no_first_request",
            Reason::Stalled => "stalled",
            Reason::Idle => "idle",
            Reason::OldWrite => "old_write",
            Reason::Unguarded => "mongod_open",
        }
    }
}

fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Tcp => "tcp",
        Kind::Unix => "unix",
        Kind::Tls => "tls",
    }
}

impl Metrics {
    /// Registers the proxy's metrics. Fails when they are registered already.
    pub fn register(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let connections =
            IntGauge::new("dualsync_proxy_connections", "Client connections that are open now.")?;
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let by = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        registry.register(Box::new(connections.clone()))?;
        let sessions = IntGaugeVec::new(
            Opts::new(
                "dualsync_proxy_sessions",
                "Clients that are served now, by what carries the connection.",
            ),
            &["kind"],
        )?;
        registry.register(Box::new(sessions.clone()))?;
        for kind in [Kind::Tcp, Kind::Unix, Kind::Tls] {
            sessions.with_label_values(&[label(kind)]);
        }
        let delay = HistogramVec::new(
            HistogramOpts::new(
                "dualsync_proxy_delay_seconds",
                "Time from reading a frame's last bytes to having written them, what the receiver makes us wait included.",
            )
            .buckets(DELAY_BUCKETS.to_vec()),
            &["direction"],
        )?;
        registry.register(Box::new(delay.clone()))?;
        let requests = by(
            "dualsync_proxy_requests_total",
            "Requests by how they were forwarded: pass as they came, watch but for the last byte, hold until scanned, bypass while capture is out of the way.",
            "class",
        )?;
        let bytes =
            by("dualsync_proxy_bytes_total", "Bytes received, by where they were going.", "direction")?;
        let turned_away = by(
            "dualsync_proxy_turned_away_total",
            "Client connections that the proxy ended for how the client behaved.",
            "reason",
        )?;
        for reason in [
            Reason::Handshake,
            Reason::PlainOnTls,
            Reason::TlsOnPlain,
            Reason::Greeting,
            Reason::Stalled,
            Reason::Idle,
            Reason::OldWrite,
            Reason::Unguarded,
        ] {
            turned_away.with_label_values(&[reason.label()]);
        }
        Ok(Metrics {
            connections,
            sessions,
            turned_away,
            delay_to_server: delay.with_label_values(&["to_server"]),
            delay_to_client: delay.with_label_values(&["to_client"]),
            connections_total: counter("dualsync_proxy_connections_total", "Client connections accepted.")?,
            requests_pass: requests.with_label_values(&["pass"]),
            requests_watch: requests.with_label_values(&["watch"]),
            requests_hold: requests.with_label_values(&["hold"]),
            requests_hello: requests.with_label_values(&["hello"]),
            requests_bypass: requests.with_label_values(&["bypass"]),
            bytes_to_server: bytes.with_label_values(&["to_server"]),
            bytes_to_client: bytes.with_label_values(&["to_client"]),
            upstream_errors_total: counter(
                "dualsync_proxy_upstream_errors_total",
                "Client connections closed because mongod could not be reached.",
            )?,
            refused_total: counter(
                "dualsync_proxy_refused_total",
                "Client connections closed because the connection limit was reached.",
            )?,
            hellos_unread_total: counter(
                "dualsync_proxy_hellos_unread_total",
                "Client connections ended because mongod's hello reply could not be read, so that its addresses would have led past the proxy.",
            )?,
            sessions_died_total: counter(
                "dualsync_proxy_sessions_died_total",
                "Sessions that ended by a bug; each makes everything be compared.",
            )?,
        })
    }

    pub(crate) fn sessions(&self, kind: Kind) -> IntGauge {
        self.sessions.with_label_values(&[label(kind)])
    }

    pub(crate) fn turned_away(&self, reason: Reason) {
        self.turned_away.with_label_values(&[reason.label()]).inc();
    }
}

/// From what a look at a small frame costs to what a person notices.
const DELAY_BUCKETS: [f64; 12] =
    [0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.02, 0.1, 1.0];
