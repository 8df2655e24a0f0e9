//! The registry, as Prometheus text and as one flat JSON object.

use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};
use serde_json::{Map, Value};

/// Prometheus text format 0.0.4.
pub(crate) fn text(registry: &Registry) -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(&registry.gather())
}

/// `{"name{label=\"value\"}": number, …}`; a histogram gives its count and sum.
pub(crate) fn json(registry: &Registry) -> Value {
    let mut all = Map::new();
    for family in registry.gather() {
        for metric in family.get_metric() {
            for (suffix, value) in figures(&family, metric) {
                all.insert(format!("{}{suffix}{}", family.name(), labels(metric)), number(value));
            }
        }
    }
    Value::Object(all)
}

fn figures(family: &MetricFamily, metric: &Metric) -> Vec<(&'static str, f64)> {
    match family.get_field_type() {
        MetricType::COUNTER => vec![("", metric.get_counter().get_value())],
        MetricType::GAUGE => vec![("", metric.get_gauge().get_value())],
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            #[expect(clippy::cast_precision_loss, reason = "a count beyond 2^53 may be rounded")]
            let count = histogram.get_sample_count() as f64;
            vec![("_count", count), ("_sum", histogram.get_sample_sum())]
        }
        MetricType::SUMMARY | MetricType::UNTYPED => Vec::new(),
    }
}

fn labels(metric: &Metric) -> String {
    let pairs: Vec<String> =
        metric.get_label().iter().map(|pair| format!("{}={:?}", pair.name(), pair.value())).collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

/// Counters are whole numbers to their readers, although Prometheus keeps all figures as floats.
fn number(value: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "checked: whole, and within 2^53")]
    if value.fract() == 0.0 && value.abs() < 9.0e15 { Value::from(value as i64) } else { Value::from(value) }
}
