//! `cargo xtask soak`: the differential test for longer, with a line in `docs/soak.csv` at its end.
//!
//! Commands are played in runs, each with servers of its own, in turns on a standalone and on a replica set, once with
//! all kinds of commands, once with those that need no comparison, and once with collections that come and go. The first run that ends unequal ends it all: its
//! line says so, and the shrunk script is printed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use testkit::differential::{Fault, Kinds, Run, Source};

use crate::demo;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where all choices come from
    #[arg(long)]
    seed: Option<u64>,
    /// How many commands
    #[arg(long, default_value_t = 100_000)]
    commands: usize,
    /// What goes wrong meanwhile: hang-ups, time-limits, kill-op, kill-proxy, step-down, kill-source,
    /// kill-target
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Clients at once
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Only on this source
    #[arg(long, value_enum)]
    source: Option<Only>,
    /// Only such commands
    #[arg(long, value_enum)]
    kinds: Option<Which>,
    /// A binary to try instead of a release build of this tree
    #[arg(long)]
    binary: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Only {
    Standalone,
    ReplicaSet,
}

/// Which commands.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Which {
    Followed,
    All,
    Collections,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let binary = options.binary.clone().map_or_else(|| demo::build(root), Ok)?;
    let seed = options.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let mut done = 0;
    let mut outcome = Ok(());
    let turns = turns(options);
    for number in 0.. {
        let (source, kinds) = turns[number % turns.len()];
        let commands = RUN_COMMANDS.min(options.commands - done);
        let seed = seed.wrapping_add(SEEDS_PER_RUN * number as u64);
        let run = Run {
            binary: binary.clone(),
            source,
            seed,
            clients: options.clients,
            commands,
            commands_per_round: ROUND_COMMANDS,
            kinds,
            faults: options.faults.clone(),
        };
        println!("{source:?}, {kinds:?}, seed {seed}");
        match runtime.block_on(Box::pin(run.play())) {
            Ok(came_out) => println!("  {came_out}"),
            Err(error) => {
                println!("  {error:#}");
                outcome = Err(error);
            }
        }
        done += commands;
        if outcome.is_err() || done >= options.commands {
            break;
        }
    }
    note(root, options, seed, done, outcome.is_err())?;
    outcome
}

/// A replica set alone steps down.
fn turns(options: &Options) -> Vec<(Source, Kinds)> {
    let needs_set = |fault: &Fault| matches!(fault, Fault::StepDown);
    let sources = match options.source {
        Some(Only::Standalone) => vec![Source::Standalone],
        Some(Only::ReplicaSet) => vec![Source::ReplicaSet],
        None if options.faults.iter().any(needs_set) => vec![Source::ReplicaSet],
        None => vec![Source::Standalone, Source::ReplicaSet],
    };
    let kinds = match options.kinds {
        Some(Which::Followed) => vec![Kinds::Followed],
        Some(Which::All) => vec![Kinds::All],
        Some(Which::Collections) => vec![Kinds::Collections],
        None => vec![Kinds::Followed, Kinds::All, Kinds::Collections],
    };
    let each = |source: Source| kinds.iter().map(move |kinds| (source, *kinds));
    sources.into_iter().flat_map(each).collect()
}

/// Appends the line.
fn note(root: &Path, options: &Options, seed: u64, commands: usize, failed: bool) -> Result<()> {
    let path = root.join("docs/soak.csv");
    let mut text = std::fs::read_to_string(&path).unwrap_or_default();
    if text.is_empty() {
        text.push_str("seed,commands,faults,differences,commit\n");
    }
    let faults: Vec<&str> = options.faults.iter().map(|fault| fault.name()).collect();
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(root).output();
    let commit = commit.context("ask git for the commit")?.stdout;
    let faults = if faults.is_empty() { "none".to_owned() } else { faults.join(" ") };
    let differences = if failed { "yes" } else { "0" };
    writeln!(text, "{seed},{commands},{faults},{differences},{}", String::from_utf8_lossy(&commit).trim())?;
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// One run's servers are used for so many commands.
const RUN_COMMANDS: usize = 40_000;
const ROUND_COMMANDS: usize = 5_000;
/// Each round of a run has a seed of its own.
const SEEDS_PER_RUN: u64 = 1_000;
