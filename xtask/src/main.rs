//! The project's chores: `cargo xtask ci`, `cargo xtask tidy`, `cargo xtask demo`.

#![allow(clippy::print_stdout, reason = "a chore talks to the person who called it")]

mod ci;
mod demo;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().chore {
        Chore::Ci => root().and_then(|root| ci::run(&root)),
        Chore::Tidy => root().and_then(|root| tidy::run(&root)),
        Chore::Demo(options) => root().and_then(|root| demo::run(&root, options)),
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

/// The cargo that runs us.
fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
