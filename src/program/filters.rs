//! What is captured, changed while clients are served.

use admin::{Filters, Refusal};
use capture::Pattern;
use replicator::Filter;

use super::{Program, Sync, refused};
use crate::config::Config;

/// As the configuration has it.
pub(crate) fn configured(config: &Config) -> Filter {
    let texts = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect();
    Filter { include: texts(&config.sync.include), exclude: texts(&config.sync.exclude) }
}

/// As an order of before has it, or the configuration.
pub(crate) fn effective(config: &Config) -> Filter {
    replicator::ordered_filter(&config.log.dir).unwrap_or_else(|| configured(config))
}

/// Errors name the first text that is no pattern.
pub(crate) fn patterns(texts: &[String]) -> Result<Vec<Pattern>, String> {
    texts.iter().map(|text| Pattern::parse(text).map_err(|error| error.to_string())).collect()
}

/// What counts now.
pub(super) fn show(program: &Program) -> Filters {
    let (filter, ordered) = match &program.sync {
        Some(sync) => sync.shared.filter(),
        None => (configured(&program.config), false),
    };
    Filters { include: filter.include, exclude: filter.exclude, ordered }
}

/// Captures by these from now on; what is not named is as configured.
pub(super) async fn set(
    program: &Program,
    sync: &Sync,
    include: Option<Vec<String>>,
    exclude: Option<Vec<String>>,
) -> Result<Filters, Refusal> {
    let configured = configured(&program.config);
    let ordered = include.is_some() || exclude.is_some();
    let next = Filter {
        include: include.unwrap_or(configured.include),
        exclude: exclude.unwrap_or(configured.exclude),
    };
    let before = sync.shared.filter().0;
    // Nothing that comes in may be written to unseen once the worker looks what there is.
    turn(sync, &next)?;
    if let Err(error) = sync.shared.set_filter(next, ordered).await {
        turn(sync, &before)?;
        return Err(refused(error));
    }
    Ok(show(program))
}

fn turn(sync: &Sync, filter: &Filter) -> Result<(), Refusal> {
    let read = |texts: &[String]| {
        patterns(texts).map_err(|message| Refusal::Invalid {
            message,
            action: "write db, db.coll, or either with *".to_owned(),
        })
    };
    sync.capture.set_filter(read(&filter.include)?, read(&filter.exclude)?);
    Ok(())
}
