//! What connections cost: open and silent ones, as those of pools mostly are, and those that ask for all they can.

mod flood;

use anyhow::{Context, Result, ensure};
use bson::{doc, rawdoc};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::bad_input::raw::{Socket, must};
use crate::support::{BIN, Source, Stage};

/// Each has said hello, has written, and has read more than any buffer of an idle connection holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_costs_some_tens_of_kib() -> Result<()> {
    let count = connections_possible()?;
    let stage = Stage::start(Source::standalone().await?).await?;
    let address = stage.dualsync.proxy_address();
    let text = "x".repeat(66_000);
    stage
        .dualsync
        .client()
        .await?
        .database("memory")
        .collection("large")
        .insert_one(doc! {"text": &text})
        .await?;
    let open = async |number: i32| -> Result<Socket> {
        let mut socket = Socket::connect(&address).await?;
        must(&mut socket, &rawdoc! {"hello": 1, "$db": "admin"}).await?;
        let documents = rawdoc! {"_id": number, "text": &text[..10_000]};
        must(&mut socket, &rawdoc! {"insert": "small", "documents": [documents], "$db": "memory"}).await?;
        must(&mut socket, &rawdoc! {"find": "large", "$db": "memory"}).await?;
        Ok(socket)
    };
    // What is made once, or kept for the next one, is not what one more costs.
    let first: Vec<Socket> = sockets(&open, -50..0).await?;
    let before = resident_kib(stage.dualsync.pid())?;
    let idle = sockets(&open, 0..count).await?;
    stage.dualsync.wait_drained(crate::support::DRAIN_MAX).await?;
    let after = resident_kib(stage.dualsync.pid())?;
    let each = after.saturating_sub(before) / idle.len();
    println!("{count} idle connections: {before} KiB before, {after} KiB after, {each} KiB each");
    ensure!(each <= KIB_EACH_MAX, "an idle connection costs {each} KiB");
    drop(first);
    Ok(())
}

/// As where the binary cannot be marked as executable: the loader is the process then, and must not be begun again
/// in our place.
#[test]
fn the_loader_may_start_it() -> Result<()> {
    let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let loader =
        loader.into_iter().find(|path| std::path::Path::new(path).exists()).context("no glibc here")?;
    let plain = std::process::Command::new(BIN).arg("--version").output()?;
    let loaded = std::process::Command::new(loader).args([BIN, "--version"]).output()?;
    ensure!(plain.status.success() && loaded == plain, "{loaded:?}, {plain:?}");
    Ok(())
}

async fn sockets(
    open: &impl AsyncFn(i32) -> Result<Socket>,
    numbers: std::ops::Range<i32>,
) -> Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for number in numbers {
        sockets.push(open(number).await?);
    }
    Ok(sockets)
}

/// 1,000, or as many as files may be open: each takes two of the proxy's.
fn connections_possible() -> Result<i32> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Children inherit it.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("raise the limit of open files")?;
    let possible = maximum.map_or(1_000, |files| files.saturating_sub(500) / 2).min(1_000);
    ensure!(possible >= 200, "only {maximum:?} files may be open here: raise ulimit -n");
    Ok(i32::try_from(possible)?)
}

fn resident_kib(pid: Option<u32>) -> Result<usize> {
    memory_kib(pid, "VmRSS:")
}

/// A line of the process's status: `VmRSS:` what it has, `VmHWM:` the most that it had.
fn memory_kib(pid: Option<u32>, what: &str) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.context("it runs")?))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).context("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

const KIB_EACH_MAX: usize = 40;
