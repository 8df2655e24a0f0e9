//! What dualsync adds to a find by `_id` and to an `insertOne`, and what it leaves of the throughput.
//!
//! `cargo bench --bench latency [-- --seed N]`; `DUALSYNC_BIN` measures another binary than the one just built.
//!
//! - four ways to one standalone mongod, each with a collection of its own: *direct*; *off*, through the proxy
//!   without a target; *capturing*, with a target and the worker paused: marks and entries go to the log; *on*, the
//!   worker runs as well, and its target (a replica set of one) shares this machine's processors with everybody
//! - one run measures all of them, in rounds of random order, so that drift hits all alike; a round that was
//!   captured is followed until its last entry is on the target before the next one begins
//! - ends with an error when the target has not got every document: a fast proxy that loses writes is no proxy
//!
//! Not here: TLS, authentication, large documents, a target that is far away (the application never waits for it).

#![allow(clippy::print_stdout, reason = "a benchmark talks to the person who called it")]

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bson::{Bson, Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection};
use serde_json::json;
use testkit::{Dualsync, Mongod, ReplicaSet};
use tokio::task::JoinSet;

/// How commands reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Off,
    Capturing,
    On,
}

const WAYS: [Way; 4] = [Way::Direct, Way::Off, Way::Capturing, Way::On];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Off => "off",
            Way::Capturing => "capturing",
            Way::On => "on",
        }
    }

    fn is_captured(self) -> bool {
        matches!(self, Way::Capturing | Way::On)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Find,
    Insert,
}

const OPS: [Op; 2] = [Op::Find, Op::Insert];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if !args.iter().any(|arg| arg == "--bench") {
        println!("measures nothing unless called by cargo bench");
        return Ok(());
    }
    let seed = match args.iter().position(|arg| arg == "--seed") {
        Some(at) => args.get(at + 1).context("--seed wants a number")?.parse().context("read --seed")?,
        None => fastrand::u64(..1_000_000),
    };
    fastrand::seed(seed);
    println!("{}\nseed {seed}, {ROUNDS} rounds\n", machine());
    tokio::runtime::Runtime::new().context("start a runtime")?.block_on(Box::pin(bench()))
}

async fn bench() -> Result<()> {
    let stage = Stage::start().await?;
    let mut samples = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        for way in shuffled(WAYS) {
            stage.before(way).await?;
            for op in shuffled(OPS) {
                samples.push((way, op, stage.latencies(way, op).await?));
            }
            stage.after(way).await?;
        }
    }
    for _ in 0..ROUNDS_OF_MANY {
        for way in shuffled(WAYS) {
            stage.before(way).await?;
            for op in shuffled(OPS) {
                rates.push((way, op, stage.throughput(way, op).await?));
            }
            stage.after(way).await?;
        }
    }
    print_latencies(&samples);
    print_rates(&rates);
    let documents = stage.assert_complete().await?;
    println!("\nThe target has all {documents} documents that were captured. {}", load());
    Ok(())
}

/// The servers, and one client per way that keeps a single connection for commands.
struct Stage {
    local: Mongod,
    target: ReplicaSet,
    off: Dualsync,
    on: Dualsync,
    single: Vec<Client>,
    many: Vec<Client>,
}

impl Stage {
    async fn start() -> Result<Stage> {
        let bin = std::env::var_os("DUALSYNC_BIN")
            .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_dualsync")), PathBuf::from);
        let (local, target) = tokio::try_join!(Mongod::standalone(), ReplicaSet::start(1))?;
        let off = Dualsync::builder(&bin).local(local.uri()).start().await?;
        let on = Dualsync::builder(&bin).local(local.uri()).atlas(target.uri());
        let on = on.expect_warning("Sync queue size is large").start().await?;
        let mut stage = Stage { local, target, off, on, single: Vec::new(), many: Vec::new() };
        for way in WAYS {
            stage.single.push(stage.client(way, 1).await?);
            stage.many.push(stage.client(way, CLIENTS).await?);
            let documents: Vec<Document> = (0..DOCUMENTS).map(document).collect();
            collection(&stage.single[way as usize], way).insert_many(documents).await.context("fill")?;
        }
        stage.on.wait_drained(DRAIN_MAX).await?;
        // Connections, plans and caches are warm before anything counts.
        for way in WAYS {
            for op in OPS {
                stage.latencies(way, op).await?;
                stage.throughput(way, op).await?;
            }
        }
        stage.on.wait_drained(DRAIN_MAX).await?;
        Ok(stage)
    }

    async fn client(&self, way: Way, connections: u32) -> Result<Client> {
        let address = match way {
            Way::Direct => self.local.address(),
            Way::Off => self.off.proxy_address(),
            Way::Capturing | Way::On => self.on.proxy_address(),
        };
        let mut options = ClientOptions::parse(format!("mongodb://{address}/")).await?;
        options.min_pool_size = Some(connections);
        options.max_pool_size = Some(connections);
        Client::with_options(options).context("make a client")
    }

    async fn before(&self, way: Way) -> Result<()> {
        if way == Way::Capturing {
            self.on.admin_post("/api/sync/worker/control", &json!({ "action": "pause" })).await?;
        }
        Ok(())
    }

    /// Nothing of this round disturbs the next one.
    async fn after(&self, way: Way) -> Result<()> {
        if way == Way::Capturing {
            self.on.admin_post("/api/sync/worker/control", &json!({ "action": "resume" })).await?;
        }
        if way.is_captured() { self.on.wait_drained(DRAIN_MAX).await } else { Ok(()) }
    }

    /// One command after the other over one connection; each one's time.
    async fn latencies(&self, way: Way, op: Op) -> Result<Vec<Duration>> {
        let collection = collection(&self.single[way as usize], way);
        let mut times = Vec::with_capacity(COMMANDS);
        for _ in 0..COMMANDS {
            let asked = Instant::now();
            run(&collection, op).await?;
            times.push(asked.elapsed());
        }
        Ok(times)
    }

    /// Many clients at once, each with a connection of its own; commands per second.
    async fn throughput(&self, way: Way, op: Op) -> Result<f64> {
        let mut clients = JoinSet::new();
        let began = Instant::now();
        for _ in 0..CLIENTS {
            let collection = collection(&self.many[way as usize], way);
            clients.spawn(async move {
                let mut done = 0_u32;
                while began.elapsed() < TIME_OF_MANY {
                    run(&collection, op).await?;
                    done += 1;
                }
                anyhow::Ok(done)
            });
        }
        let mut all = 0;
        while let Some(done) = clients.join_next().await {
            all += done??;
        }
        Ok(f64::from(all) / began.elapsed().as_secs_f64())
    }

    /// Equality came about by following, and nothing is missing; says how many documents were captured.
    async fn assert_complete(&self) -> Result<u64> {
        let report = self.on.report().await?;
        ensure!(report["namespaces"]["dirty"] == json!([]), "something is dirty: {report:#}");
        let (here, there) = (self.local.client().await?, self.target.client().await?);
        let mut all = 0;
        for way in WAYS.into_iter().filter(|way| way.is_captured()) {
            let expected = collection(&here, way).count_documents(doc! {}).await?;
            let found = collection(&there, way).count_documents(doc! {}).await?;
            ensure!(expected == found, "{way:?}: the target has {found} of {expected} documents");
            all += found;
        }
        Ok(all)
    }
}

fn collection(client: &Client, way: Way) -> Collection<Document> {
    client.database("bench").collection(way.name())
}

async fn run(collection: &Collection<Document>, op: Op) -> Result<()> {
    match op {
        Op::Find => {
            let id = fastrand::i64(..DOCUMENTS);
            let found = collection.find_one(doc! { "_id": id }).await?;
            ensure!(found.is_some(), "document {id} is missing");
        }
        // The driver adds the `_id`.
        Op::Insert => {
            let mut document = document(0);
            document.remove("_id");
            collection.insert_one(document).await?;
        }
    }
    Ok(())
}

/// Some 500 bytes, as an order of a small shop has.
fn document(id: i64) -> Document {
    let items = (0..4).map(|n| doc! { "product": n, "count": 1 + n, "price": 9.99, "name": "thing" });
    doc! {
        "_id": id, "customer": fastrand::i64(..1_000_000), "items": items.map(Bson::from).collect::<Vec<_>>(),
        "note": "x".repeat(200), "at": bson::DateTime::now(),
    }
}

fn shuffled<T, const N: usize>(mut all: [T; N]) -> [T; N] {
    fastrand::shuffle(&mut all);
    all
}

fn print_latencies(samples: &[(Way, Op, Vec<Duration>)]) {
    println!(
        "{:<8} {:<10} {:>9} {:>9} {:>9} {:>9} {:>12}   medians of the rounds",
        "", "", "p50", "p99", "p50 added", "p99 added", "p50 / direct"
    );
    for op in OPS {
        let mut direct = None;
        for way in WAYS {
            let rounds = samples.iter().filter(|(w, o, _)| (*w, *o) == (way, op));
            let rounds: Vec<&[Duration]> = rounds.map(|(_, _, times)| times.as_slice()).collect();
            let all = rounds.concat();
            let now = (quantile(&all, 0.50), quantile(&all, 0.99));
            let base = *direct.get_or_insert(now);
            println!(
                "{:<8} {:<10} {:>6.0} µs {:>6.0} µs {:>+6.0} µs {:>+6.0} µs {:>12.2}   {}",
                format!("{op:?}"),
                way.name(),
                now.0,
                now.1,
                now.0 - base.0,
                now.1 - base.1,
                now.0 / base.0,
                Spread::of(rounds.iter().map(|times| quantile(times, 0.50))),
            );
        }
    }
}

fn print_rates(rates: &[(Way, Op, f64)]) {
    println!("\n{:<8} {:<10} {:>15} {:>9}   of the rounds", "", "", "commands/s", "/ direct");
    for op in OPS {
        let mut direct = None;
        for way in WAYS {
            let rounds = rates.iter().filter(|(w, o, _)| (*w, *o) == (way, op)).map(|(_, _, rate)| *rate);
            let rounds: Vec<f64> = rounds.collect();
            let now = middle(rounds.clone());
            let base = *direct.get_or_insert(now);
            let (name, spread) = (way.name(), Spread::of(rounds));
            println!("{:<8} {name:<10} {now:>15.0} {:>9.2}   {spread}", format!("{op:?}"), now / base);
        }
    }
    println!("{CLIENTS} clients at once; the median of {ROUNDS_OF_MANY} rounds.");
}

/// Microseconds below which this share of the times lies.
fn quantile(times: &[Duration], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The noise: what differs less than this is not known to differ.
struct Spread {
    lowest: f64,
    highest: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let none = Spread { lowest: f64::INFINITY, highest: f64::NEG_INFINITY };
        values.into_iter().fold(none, |spread, value| Spread {
            lowest: spread.lowest.min(value),
            highest: spread.highest.max(value),
        })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = 100.0 * (self.highest - self.lowest) / self.highest;
        write!(f, "{:.0} to {:.0} ({share:.0} %)", self.lowest, self.highest)
    }
}

/// What the figures belong to.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpu = cpu.trim_start_matches([' ', '\t', ':']);
    format!("{cpu}, {cores} cores, Linux {}\n{}", kernel.trim(), load())
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("load {}", load.split(' ').take(2).collect::<Vec<_>>().join(" "))
}

const ROUNDS: usize = 12;
const ROUNDS_OF_MANY: usize = 5;
const COMMANDS: usize = 1_000;
const CLIENTS: u32 = 16;
const TIME_OF_MANY: Duration = Duration::from_millis(700);
/// What finds choose from, per way.
const DOCUMENTS: i64 = 10_000;
const DRAIN_MAX: Duration = Duration::from_secs(60);
