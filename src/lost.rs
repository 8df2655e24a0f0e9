//! `--source-lost`: the local mongod is gone for good, and the log's last writes are wanted on Atlas.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use prometheus::Registry;
use tracing::{error, info};

use crate::app;
use crate::config::Config;
use crate::doors::Doors;

/// All that is in the log is on the target, and something of it could not be known.
const WITH_DOUBTS: u8 = 3;

/// Brings the log to the target without its source, and says on standard output what could not be known.
pub(crate) fn run(config: &Config) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let drained = runtime.block_on(drain(config));
    std::mem::forget(runtime); // as where the proxy runs
    match drained {
        Ok(lost) => {
            let text = serde_json::to_string_pretty(&lost).unwrap_or_default();
            let _ = writeln!(std::io::stdout(), "{text}");
            if lost.unknown.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(WITH_DOUBTS) }
        }
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn drain(config: &Config) -> anyhow::Result<replicator::Lost> {
    let (sync, workers) = app::build_sync(config, &Doors::read(config)?, &Registry::new()).await?;
    info!("the log is brought to the target without the local mongod");
    let drained = workers.replicator.drain_without_source().await;
    let log = sync.log.clone();
    tokio::task::spawn_blocking(move || log.close()).await?.context("close the sync log")?;
    Ok(drained?)
}
