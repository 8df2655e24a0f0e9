//! dualsync: a transparent MongoDB proxy that keeps an exact copy of a local mongod in Atlas.
//!
//! Exit status: 0 after an ordered end, 1 after a failure while running, 2 for a wrong command line or setting.

mod app;
mod cli;
mod config;
mod program;
mod telemetry;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use cli::{Cli, Command};
use config::Config;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match Config::load(&cli.inputs()) {
        Ok(config) => config,
        Err(complaints) => {
            eprint!("dualsync: {complaints}");
            return ExitCode::from(2);
        }
    };
    match cli.command {
        Some(Command::CheckConfig) => print(&config),
        None => run(config),
    }
}

fn run(config: Config) -> ExitCode {
    if let Err(error) = telemetry::start(&config.telemetry) {
        eprintln!("dualsync: start logging: {error}");
        return ExitCode::FAILURE;
    }
    match work(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "dualsync ends");
            ExitCode::FAILURE
        }
    }
}

fn work(config: Config) -> anyhow::Result<()> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    runtime.block_on(app::run(config))
}

/// The settings on standard output, the warnings beside them; whoever closes the pipe early has seen enough.
fn print(config: &Config) -> ExitCode {
    let _ = write!(std::io::stdout(), "{config}");
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    ExitCode::SUCCESS
}
