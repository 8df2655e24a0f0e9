//! The proxy's metrics.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Counters of all listeners; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) connections: IntGauge,
    pub(crate) connections_total: IntCounter,
    pub(crate) requests_pass: IntCounter,
    pub(crate) requests_watch: IntCounter,
    pub(crate) requests_hold: IntCounter,
    pub(crate) requests_hello: IntCounter,
    pub(crate) bytes_to_server: IntCounter,
    pub(crate) bytes_to_client: IntCounter,
    pub(crate) upstream_errors_total: IntCounter,
    pub(crate) refused_total: IntCounter,
    pub(crate) sessions_died_total: IntCounter,
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
        let requests = by(
            "dualsync_proxy_requests_total",
            "Requests by how they were forwarded: pass as they came, watch but for the last byte, hold until scanned.",
            "class",
        )?;
        let bytes =
            by("dualsync_proxy_bytes_total", "Bytes received, by where they were going.", "direction")?;
        Ok(Metrics {
            connections,
            connections_total: counter("dualsync_proxy_connections_total", "Client connections accepted.")?,
            requests_pass: requests.with_label_values(&["pass"]),
            requests_watch: requests.with_label_values(&["watch"]),
            requests_hold: requests.with_label_values(&["hold"]),
            requests_hello: requests.with_label_values(&["hello"]),
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
            sessions_died_total: counter(
                "dualsync_proxy_sessions_died_total",
                "Sessions that ended by a bug; each makes everything be compared.",
            )?,
        })
    }
}
