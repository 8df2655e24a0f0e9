//! `dualsync log`: looks into a sync log without owning it, on a live one as well as on a copy.
//!
//! - nothing is locked and nothing is changed; a log that is written to and trimmed meanwhile is read as it is
//! - what users have stored is shown only with `--show-documents`
//! - status 0; 1 when something in the log is damaged, or could not be read to its end; 2 when it cannot be looked at
//! - who closes the pipe early has seen enough: that is no error

mod export;
mod inspect;
mod ls;
mod read;
mod stats;
mod text;
mod verify;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use synclog::LogView;

use read::Range;

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The log's folder, or a copy of it [default: log.dir of the settings]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
    #[command(subcommand)]
    look: Look,
}

/// How to look at it.
#[derive(Debug, Subcommand)]
enum Look {
    /// List its files: positions, sizes, times, what is applied
    Ls,
    /// Count its records by kind, by namespace and by what made them uncertain
    Stats {
        #[command(flatten)]
        range: Range,
    },
    /// Print its records, one a line
    Inspect(inspect::Inspect),
    /// Check every checksum and name what is damaged
    Verify,
    /// Write its entries as Extended JSON, one a line
    Export(export::Export),
}

/// Why looking has ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// Whoever reads what is written has gone.
    #[error("nobody reads any more")]
    Unread,
    /// What is written cannot be written.
    #[error("cannot write {to}: {source}")]
    Write { to: String, source: io::Error },
    /// The folder cannot be looked at.
    #[error(transparent)]
    View(#[from] synclog::OpenError),
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// All of it could be read.
    Whole,
    /// Part of it could not.
    Damaged,
}

/// Looks, and prints to standard output.
pub(crate) fn run(args: &LogArgs, dir: &Path) -> ExitCode {
    let looked = LogView::open(dir).map_err(Problem::from).and_then(|view| look(&args.look, &view));
    match looked {
        Ok(Found::Whole) | Err(Problem::Unread) => ExitCode::SUCCESS,
        Ok(Found::Damaged) => ExitCode::FAILURE,
        Err(problem @ Problem::View(_)) => say(&problem, 2),
        Err(problem @ Problem::Write { .. }) => say(&problem, 1),
    }
}

fn say(problem: &Problem, status: u8) -> ExitCode {
    eprintln!("dualsync: {problem}");
    ExitCode::from(status)
}

fn look(look: &Look, view: &LogView) -> Result<Found, Problem> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let found = match look {
        Look::Ls => ls::ls(view, &mut out),
        Look::Stats { range } => stats::stats(view, range, &mut out),
        Look::Inspect(inspect) => inspect.run(view, &mut out),
        Look::Verify => verify::verify(view, &mut out),
        Look::Export(export) => export.run(view, &mut out),
    }?;
    out.flush().map_err(|source| written("standard output", source))?;
    // `verify` tells it among the rest.
    let missing = if matches!(look, Look::Verify) { &[][..] } else { &view.missing[..] };
    for fault in missing {
        eprintln!("dualsync: {}", verify::bad(fault));
    }
    Ok(if missing.is_empty() { found } else { Found::Damaged })
}

/// What a failed write means.
fn written(to: &str, source: io::Error) -> Problem {
    match source.kind() {
        io::ErrorKind::BrokenPipe => Problem::Unread,
        _ => Problem::Write { to: to.to_owned(), source },
    }
}

/// One line to standard output.
fn line(out: &mut impl Write, text: impl std::fmt::Display) -> Result<(), Problem> {
    writeln!(out, "{text}").map_err(|source| written("standard output", source))
}
