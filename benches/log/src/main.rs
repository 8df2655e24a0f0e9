//! The sync log beside bare system calls, fjall and raft-engine, in one run: `cargo run --release` in this folder.
//!
//! - ways are measured in rounds, in random order within a round; printed is the median of the rounds, and in brackets
//!   the middle half of them, which is the noise
//! - a ratio is taken round by round, against the bare system calls of the same round
//! - files lie in `--dir`, on a real disk; some 6 GiB are needed

mod bare;
mod figures;
mod ours;
mod peers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use figures::{Table, percentile};

/// What a record carries: about one small document.
pub(crate) const PAYLOAD_BYTES: usize = 1024;

#[derive(Debug, Parser)]
struct Options {
    /// Where the files are made; not a file system in memory.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Rounds of each measure.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Only measures whose name begins like this: one, four, synced, reading, reopening, memory.
    #[arg(long, default_value = "")]
    only: String,
    /// Where the random order begins.
    #[arg(long)]
    seed: Option<u64>,
    /// Internal: append to the log in this folder until killed.
    #[arg(long, hide = true)]
    append_to: Option<PathBuf>,
    /// Internal: read the log in this folder and print the memory that it took.
    #[arg(long, hide = true)]
    read_from: Option<PathBuf>,
}

/// Something that takes records.
pub(crate) trait Way: Send + Sync {
    /// Takes one record into the page cache.
    fn append(&self, payload: &[u8]) -> Result<()>;

    /// The same, on disk when it returns.
    fn append_synced(&self, payload: &[u8]) -> Result<()>;

    /// Appenders at once, each of which goes on when its record is on disk. Gives what each append took.
    fn append_together(&self, appenders: usize, appends: usize) -> Result<Vec<Duration>> {
        let times = std::sync::Mutex::new(Vec::with_capacity(appenders * appends));
        together(appenders, || {
            let payload = payload();
            let mut own = Vec::with_capacity(appends);
            for _ in 0..appends {
                let start = Instant::now();
                self.append_synced(&payload)?;
                own.push(start.elapsed());
            }
            times.lock().expect("no thread panics").extend(own);
            Ok(())
        })?;
        Ok(times.into_inner().expect("no thread panics"))
    }
}

type Make = fn(&Path) -> Result<Arc<dyn Way>>;

const WAYS: &[(&str, Make)] = &[
    ("bare", bare::with_thread),
    ("bare, leader", bare::with_leader),
    ("dualsync, journal", ours::make_journal),
    ("dualsync, process", ours::make_process),
    ("raft-engine", peers::raft_engine),
    ("fjall", peers::fjall),
];

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(dir) = &options.append_to {
        return ours::append_until_killed(dir);
    }
    if let Some(dir) = &options.read_from {
        return ours::read_and_print_memory(dir);
    }
    std::fs::create_dir_all(&options.dir).context("make the folder")?;
    let scratch = tempfile::Builder::new().prefix("bench-log-").tempdir_in(&options.dir)?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    fastrand::seed(seed);
    println!("seed {seed}, {} rounds, {}", options.rounds, figures::machine());
    let measures: [(&str, fn(&Path, usize) -> Result<()>); 6] = [
        ("one", one_thread),
        ("four", four_threads),
        ("synced", synced),
        ("reading", ours::reading),
        ("reopening", ours::reopening),
        ("memory", ours::memory),
    ];
    measures
        .iter()
        .filter(|(name, _)| name.starts_with(&options.only))
        .try_for_each(|(_, measure)| measure(scratch.path(), options.rounds))
}

/// Each append timed by itself, nobody waiting for the disk.
fn one_thread(dir: &Path, rounds: usize) -> Result<()> {
    const APPENDS: usize = 150_000;
    let mut table = Table::new("one thread, 1 KiB, not waiting for the disk (us)", &["p50", "p99"]);
    rounds_of(dir, rounds, WAYS, |name, way| {
        let payload = payload();
        let mut times = Vec::with_capacity(APPENDS);
        for _ in 0..APPENDS {
            let start = Instant::now();
            way.append(&payload)?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        table.add(name, &[micros(percentile(&times, 50.0)), micros(percentile(&times, 99.0))]);
        Ok(())
    })?;
    table.print("bare");
    Ok(())
}

/// Four threads at once, one GiB together.
fn four_threads(dir: &Path, rounds: usize) -> Result<()> {
    const APPENDS: usize = (1 << 30) / PAYLOAD_BYTES / 4;
    let mut table = Table::new("four threads, 1 GiB in all (thousand appends a second)", &["rate"]);
    rounds_of(dir, rounds.min(5), WAYS, |name, way| {
        // Both keep every record in memory, or write it twice: a quarter shows their rate as well.
        let appends = if name == "fjall" || name == "raft-engine" { APPENDS / 4 } else { APPENDS };
        let took = together(4, || {
            let payload = payload();
            (0..appends).try_for_each(|_| way.append(&payload))
        })?;
        table.add(name, &[(4 * appends) as f64 / took.as_secs_f64() / 1000.0]);
        Ok(())
    })?;
    table.print("bare");
    Ok(())
}

/// 64 appenders, each waiting until its record is on disk; they share syncs. Threads, but for the one way that is called
/// after its tasks: so the proxy's sessions wait.
fn synced(dir: &Path, rounds: usize) -> Result<()> {
    const APPENDS: usize = 1000;
    let mut table =
        Table::new("64 appenders, every append synced (appends a second; p50 in ms)", &["rate", "p50"]);
    let tasks: (&'static str, Make) = ("dualsync, 64 tasks", ours::make_tasks);
    let ways: Vec<_> =
        WAYS.iter().copied().filter(|(name, _)| *name != "dualsync, process").chain([tasks]).collect();
    rounds_of(dir, rounds, &ways, |name, way| {
        // It syncs for each by itself.
        let appends = if name == "fjall" { APPENDS / 10 } else { APPENDS };
        let start = Instant::now();
        let mut times = way.append_together(64, appends)?;
        let rate = times.len() as f64 / start.elapsed().as_secs_f64();
        times.sort_unstable();
        table.add(name, &[rate, micros(percentile(&times, 50.0)) / 1000.0]);
        Ok(())
    })?;
    table.print("bare");
    Ok(())
}

/// Calls `measure` for each way, on new files, in random order, `rounds` times.
fn rounds_of(
    dir: &Path,
    rounds: usize,
    ways: &[(&'static str, Make)],
    mut measure: impl FnMut(&'static str, Arc<dyn Way>) -> Result<()>,
) -> Result<()> {
    for _ in 0..rounds {
        let mut order = ways.to_vec();
        fastrand::shuffle(&mut order);
        for (name, make) in order {
            let files = tempfile::tempdir_in(dir)?;
            measure(name, make(files.path()).with_context(|| format!("start {name}"))?)
                .with_context(|| format!("measure {name}"))?;
        }
        // What one round has written is not to be paid for by the next.
        rustix::fs::sync();
    }
    Ok(())
}

fn together(threads: usize, work: impl Fn() -> Result<()> + Sync) -> Result<Duration> {
    let start = Instant::now();
    let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        running.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    let took = start.elapsed();
    outcomes.into_iter().collect::<Result<Vec<()>>>()?;
    ensure!(!took.is_zero(), "no time passed");
    Ok(took)
}

pub(crate) fn payload() -> Vec<u8> {
    (0..PAYLOAD_BYTES).map(|_| fastrand::u8(..)).collect()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
