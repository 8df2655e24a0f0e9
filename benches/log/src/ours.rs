//! The sync log: appending, reading, opening again, memory.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use synclog::{Config, Durability, Lsn, SyncLog};

use crate::figures::{Table, spread};
use crate::{PAYLOAD_BYTES, Way, payload};

/// Kept open by whoever measures; closed with the last handle.
struct Ours {
    log: SyncLog,
    runtime: tokio::runtime::Runtime,
}

pub(crate) fn make_journal(dir: &Path) -> Result<Arc<dyn Way>> {
    make(dir, Durability::Journal)
}

pub(crate) fn make_process(dir: &Path) -> Result<Arc<dyn Way>> {
    make(dir, Durability::Process)
}

pub(crate) fn make_tasks(dir: &Path) -> Result<Arc<dyn Way>> {
    let runtime = tokio::runtime::Runtime::new()?;
    Ok(Arc::new(Tasks(Ours { log: open(&dir.join("log"), Durability::Journal)?, runtime })))
}

fn make(dir: &Path, durability: Durability) -> Result<Arc<dyn Way>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    Ok(Arc::new(Ours { log: open(&dir.join("log"), durability)?, runtime }))
}

fn open(dir: &Path, durability: Durability) -> Result<SyncLog> {
    let mut config = Config::new(dir);
    config.durability = durability;
    Ok(SyncLog::open(config)?.0)
}

impl Way for Ours {
    fn append(&self, payload: &[u8]) -> Result<()> {
        self.log.append(1, &[payload])?;
        Ok(())
    }

    fn append_synced(&self, payload: &[u8]) -> Result<()> {
        let lsn = self.log.append(1, &[payload])?;
        self.runtime.handle().block_on(self.log.wait_durable(lsn.next()))?;
        Ok(())
    }
}

/// Appenders are tasks of a runtime, as the proxy's sessions are, and not threads.
struct Tasks(Ours);

impl Way for Tasks {
    fn append(&self, payload: &[u8]) -> Result<()> {
        self.0.append(payload)
    }

    fn append_synced(&self, payload: &[u8]) -> Result<()> {
        self.0.append_synced(payload)
    }

    fn append_together(&self, appenders: usize, appends: usize) -> Result<Vec<Duration>> {
        let appender = |log: SyncLog| async move {
            let payload = payload();
            let mut own = Vec::with_capacity(appends);
            for _ in 0..appends {
                let start = Instant::now();
                let lsn = log.append(1, &[&payload])?;
                log.wait_durable(lsn.next()).await?;
                own.push(start.elapsed());
            }
            anyhow::Ok(own)
        };
        self.0.runtime.block_on(async {
            let running: Vec<_> =
                (0..appenders).map(|_| tokio::spawn(appender(self.0.log.clone()))).collect();
            let mut times = Vec::with_capacity(appenders * appends);
            for task in running {
                times.extend(task.await.context("an appender")??);
            }
            Ok(times)
        })
    }
}

/// The whole log with checksums, beside `pread` of the same files.
pub(crate) fn reading(dir: &Path, rounds: usize) -> Result<()> {
    let dir = dir.join("reading");
    fill(&dir, 1 << 30)?;
    let mut table = Table::new("reading 1 GiB from the page cache (GiB/s)", &["rate"]);
    for _ in 0..rounds {
        let (bytes, took) = pread(&dir)?;
        table.add("bare", &[gib_per_second(bytes, took)]);
        let log = open(&dir, Durability::Process)?;
        let start = Instant::now();
        let mut reader = log.reader(Lsn::ZERO)?;
        let mut read = 0;
        while let Some(record) = reader.next()? {
            read += 32 + record.payload.len() as u64;
        }
        table.add("dualsync", &[gib_per_second(read, start.elapsed())]);
        log.close()?;
    }
    table.print("bare");
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn pread(dir: &Path) -> Result<(u64, Duration)> {
    use std::os::unix::fs::FileExt as _;
    let start = Instant::now();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    for file in
        std::fs::read_dir(dir)?.flatten().filter(|file| file.path().extension().is_some_and(|e| e == "seg"))
    {
        let file = File::open(file.path())?;
        let mut at = 0;
        loop {
            let read = file.read_at(&mut buffer, at)?;
            if read == 0 {
                break;
            }
            at += read as u64;
        }
        bytes += at;
    }
    Ok((bytes, start.elapsed()))
}

/// Opening 2 GB again: after an end in order, and after the writer was killed.
pub(crate) fn reopening(dir: &Path, rounds: usize) -> Result<()> {
    let dir = dir.join("reopening");
    fill(&dir, 2_000_000_000)?;
    let (mut clean, mut killed) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        let log = open(&dir, Durability::Journal)?;
        clean.push(start.elapsed().as_secs_f64() * 1000.0);
        log.close()?;
        drop(log);
        kill_a_writer(&dir)?;
        let start = Instant::now();
        let (log, found) = SyncLog::open(Config::new(&dir))?;
        killed.push(start.elapsed().as_secs_f64() * 1000.0);
        ensure!(!found.clean && found.gap.is_none(), "the writer was not killed in mid-work: {found:?}");
        log.close()?;
    }
    println!("\nopening a log of 2 GB again (ms, warm)");
    println!("  closed in order     {}", spread(&clean));
    println!("  after kill -9       {}", spread(&killed));
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Lets another process append up to most of a segment, and kills it.
fn kill_a_writer(dir: &Path) -> Result<()> {
    let before = bytes_in(dir)?;
    let mut child = Command::new(std::env::current_exe()?).arg("--append-to").arg(dir).spawn()?;
    let waiting = Instant::now();
    while bytes_in(dir)? < before + (40 << 20) {
        ensure!(waiting.elapsed() < Duration::from_secs(60), "the writer writes nothing");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn bytes_in(dir: &Path) -> Result<u64> {
    let lengths = std::fs::read_dir(dir)?.flatten().filter_map(|file| Some(file.metadata().ok()?.len()));
    Ok(lengths.sum())
}

pub(crate) fn append_until_killed(dir: &Path) -> Result<()> {
    let log = open(dir, Durability::Journal)?;
    let payload = payload();
    loop {
        log.append(1, &[&payload])?;
    }
}

/// What a process takes that reads a log from end to end, for two sizes.
pub(crate) fn memory(dir: &Path, _rounds: usize) -> Result<()> {
    println!("\npeak resident memory of a process that opens and reads the whole log");
    for bytes in [100_000_000, 2_000_000_000] {
        let dir = dir.join("memory");
        fill(&dir, bytes)?;
        let output = Command::new(std::env::current_exe()?).arg("--read-from").arg(&dir).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        println!("  {:>5} MB  {}", bytes / 1_000_000, String::from_utf8_lossy(&output.stdout).trim());
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

pub(crate) fn read_and_print_memory(dir: &Path) -> Result<()> {
    let log = open(dir, Durability::Journal)?;
    let mut reader = log.reader(Lsn::ZERO)?;
    while reader.next()?.is_some() {}
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    println!("{}", peak.trim());
    Ok(())
}

fn fill(dir: &Path, bytes: u64) -> Result<()> {
    let log = open(dir, Durability::Process)?;
    let payload = payload();
    for _ in 0..bytes / (PAYLOAD_BYTES as u64 + 32) {
        log.append(1, &[&payload])?;
    }
    log.close()?;
    Ok(())
}

fn gib_per_second(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / f64::from(1 << 30)
}
