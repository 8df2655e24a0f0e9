//! dualsync: a transparent MongoDB proxy that keeps an exact copy of a local mongod in Atlas.
//!
//! Exit status: 0 after an ordered end, 1 after a failure while running, 2 for a wrong command line or setting, 3 when a log
//! was drained without its source and not all of it could be known.

mod app;
mod bounds;
mod cli;
mod config;
mod doors;
mod files;
mod log;
mod lost;
mod memory;
mod program;
mod rights;
mod telemetry;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use cli::{Cli, Command};
use config::Config;

fn main() -> ExitCode {
    memory::give_back_large_buffers();
    let cli = Cli::parse();
    // A copy of a log is looked at where there need not be any settings.
    if let Some(Command::Log(args)) = &cli.command
        && let Some(dir) = &args.dir
    {
        return log::run(args, dir);
    }
    let config = match Config::load(&cli.inputs()) {
        Ok(config) => config,
        Err(complaints) => {
            eprint!("dualsync: {complaints}");
            return ExitCode::from(2);
        }
    };
    match cli.command {
        Some(Command::CheckConfig) => check(&config),
        Some(Command::Log(args)) => log::run(&args, &config.log.dir),
        None if cli.source_lost => with_log(&config, lost::run),
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
            tracing::error!(error = sentence(&error), "dualsync ends");
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, outermost first; those that are quoted already are not said twice.
fn sentence(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !said.contains(&cause) {
            said.push_str(if said.is_empty() { "" } else { ": " });
            said.push_str(&cause);
        }
    }
    said
}

fn with_log(config: &Config, work: fn(&Config) -> ExitCode) -> ExitCode {
    match telemetry::start(&config.telemetry) {
        Ok(()) => work(config),
        Err(error) => {
            eprintln!("dualsync: start logging: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work(config: Config) -> anyhow::Result<()> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let ended = runtime.block_on(app::run(config));
    // What had to end in order has; the process ends with what is left. Dropping the runtime would end the driver's tasks
    // one by one, and one that misses another panics (mongodb 3.9.1, `ConnectionRequester::request`).
    std::mem::forget(runtime);
    ended
}

/// The settings on standard output, the warnings beside them; whoever closes the pipe early has seen enough. Servers that
/// answer are asked what dualsync's users may do there.
fn check(config: &Config) -> ExitCode {
    let _ = write!(std::io::stdout(), "{config}");
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("warning: rights are not checked: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let (missing, unknown) = runtime.block_on(rights::look(config));
    std::mem::forget(runtime); // as in `work`
    unknown.iter().for_each(|why| eprintln!("warning: {why}"));
    let (needed, better): (Vec<_>, Vec<_>) = missing.iter().partition(|it| it.is_needed());
    better.iter().for_each(|it| eprintln!("warning: {it}"));
    needed.iter().for_each(|it| eprintln!("dualsync: {it}"));
    if needed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let check = |error: anyhow::Error, expected| assert_eq!(sentence(&error), expected);
        check(anyhow::anyhow!("in use"), "in use");
        check(anyhow::anyhow!("in use").context("open the port"), "open the port: in use");
        check(
            anyhow::anyhow!("in use").context("a (in use): choose b").context("open"),
            "open: a (in use): choose b",
        );
    }
}
