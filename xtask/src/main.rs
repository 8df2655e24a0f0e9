//! The project's chores: `cargo xtask ci`, `cargo xtask tidy`, `cargo xtask demo`,
//! `cargo xtask drivers`, `cargo xtask fuzz`, `cargo xtask record-replies`, `cargo xtask soak`.

#![allow(clippy::print_stdout, reason = "a chore talks to the person who called it")]

mod ci;
mod demo;
mod drivers;
mod fuzz;
mod record;
mod soak;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's chores")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Everything that the server checks: format, lints, docs, dependencies, tests, tidy, the demo once.
    Ci,
    /// What no compiler checks: the map in ARCHITECTURE.md, file sizes, forgotten notes, the README's commands.
    Tidy,
    /// Both databases, the proxy between them, a shop's traffic, an outage, and a comparison of every byte.
    Demo(demo::Options),
    /// The fuzz targets, each for a while.
    Fuzz(fuzz::Options),
    /// PyMongo's own tests, with and without the proxy: the outcomes must be the same. Takes a quarter of an hour.
    Drivers(drivers::Options),
    /// The replies of real servers that capture's tests read: records them again.
    RecordReplies,
    /// Random commands from many connections, disturbed if wanted, for as long as you like; then every byte compared.
    Soak(soak::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().chore {
        Chore::Ci => root().and_then(|root| ci::run(&root)),
        Chore::Tidy => root().and_then(|root| tidy::run(&root)),
        Chore::Demo(options) => root().and_then(|root| demo::run(&root, options)),
        Chore::Fuzz(options) => root().and_then(|root| fuzz::run(&root, &options)),
        Chore::Drivers(options) => root().and_then(|root| drivers::run(&root, options)),
        Chore::RecordReplies => root().and_then(|root| record::run(&root)),
        Chore::Soak(options) => root().and_then(|root| soak::run(&root, &options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder.
fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask stands in the workspace")?;
    Ok(root.to_owned())
}

/// The cargo that runs us, to be called in the workspace's folder.
///
/// Without the variables that cargo has set for xtask itself: build scripts (ring's) watch them, so that everything
/// behind them would be built once for `cargo xtask` and once for a plain `cargo build`.
fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
        command.env_remove(name);
    }
    command.current_dir(root);
    command
}
