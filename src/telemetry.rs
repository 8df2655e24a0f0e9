//! Log lines on standard error, for people or for machines.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer as _, Registry, fmt};

use crate::config::{LogFormat, TelemetryConfig};

/// Starts writing.
///
/// # Errors
/// When something else in this process writes already.
pub(crate) fn start(config: &TelemetryConfig) -> Result<(), TryInitError> {
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_ansi(false).boxed(),
    };
    Registry::default().with(lines.with_filter(filter(config.level))).try_init()
}

/// The libraries' own lines are worth reading when they warn: they can be many, and may quote commands.
fn filter(level: LevelFilter) -> Targets {
    let quiet = level.min(LevelFilter::WARN);
    Targets::new().with_default(level).with_targets(LIBRARIES.iter().map(|library| (*library, quiet)))
}

const LIBRARIES: &[&str] = &["mongodb", "hickory_proto", "hickory_resolver", "hyper", "hyper_util", "rustls"];

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_stay_quiet() {
        for (level, target, line, written) in [
            (LevelFilter::INFO, "dualsync::app", Level::INFO, true),
            (LevelFilter::INFO, "dualsync::app", Level::DEBUG, false),
            (LevelFilter::TRACE, "replicator::pump", Level::TRACE, true),
            (LevelFilter::TRACE, "mongodb::command", Level::INFO, false),
            (LevelFilter::TRACE, "mongodb::command", Level::WARN, true),
            (LevelFilter::ERROR, "mongodb::command", Level::WARN, false),
            (LevelFilter::OFF, "mongodb", Level::ERROR, false),
        ] {
            assert_eq!(filter(level).would_enable(target, &line), written, "{level} {target} {line}");
        }
    }
}
