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
        None => fastrand::u64(0..1_000_000),
    };
    fastrand::seed(seed);
    println!("{}\nseed {seed}, {ROUNDS} rounds; in brackets: the middle half of the rounds\n", machine());
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

/// The servers, and for each way a client with a single connection and one with many. Ended in this order.
struct Stage {
    single: Vec<Client>,
    many: Vec<Client>,
    off: Dualsync,
    on: Dualsync,
    local: Mongod,
    target: ReplicaSet,
}

impl Stage {
    async fn start() -> Result<Stage> {
        let bin = std::env::var_os("DUALSYNC_BIN")
            .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_dualsync")), PathBuf::from);
        let (local, target) = tokio::try_join!(Mongod::standalone(), ReplicaSet::start(1))?;
        let off = Dualsync::builder(&bin).local(local.uri()).start().await?;
        let on = Dualsync::builder(&bin).local(local.uri()).atlas(target.uri());
        let on = on.start().await?;
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
            let id = fastrand::i64(0..DOCUMENTS);
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
        "_id": id, "customer": fastrand::i64(0..1_000_000), "items": items.map(Bson::from).collect::<Vec<_>>(),
        "note": "x".repeat(200), "at": bson::DateTime::now(),
    }
}

fn shuffled<T, const N: usize>(mut all: [T; N]) -> [T; N] {
    fastrand::shuffle(&mut all);
    all
}

/// Each figure is the median of the rounds; behind it, in brackets, where the middle half of the rounds lies.
fn print_latencies(samples: &[(Way, Op, Vec<Duration>)]) {
    println!("microseconds{:>21}{:>22}{:>9}{:>22}{:>22}", "p50", "added", "/ direct", "p99", "added");
    for (op, way) in all() {
        let rounds = |way| samples.iter().filter(move |(w, o, _)| (*w, *o) == (way, op));
        let share = |way, share| Rounds(rounds(way).map(|(_, _, times)| quantile(times, share)).collect());
        let (p50, p99) = (share(way, 0.50), share(way, 0.99));
        let (direct50, direct99) = (share(Way::Direct, 0.50), share(Way::Direct, 0.99));
        let ratio = p50.middle() / direct50.middle();
        let (more50, more99) = (p50.minus(&direct50), p99.minus(&direct99));
        println!("{}{p50:>22}{more50:>22}{ratio:>9.2}{p99:>22}{more99:>22}", label(op, way));
    }
}

fn print_rates(rates: &[(Way, Op, f64)]) {
    println!("\ncommands a second{:>16}{:>31}", "16 clients", "/ direct");
    for (op, way) in all() {
        let rounds = |way| rates.iter().filter(move |(w, o, _)| (*w, *o) == (way, op));
        let rounds = |way| Rounds(rounds(way).map(|(_, _, rate)| *rate).collect());
        let ratio = rounds(way).middle() / rounds(Way::Direct).middle();
        println!("{}{:>22}{ratio:>31.2}", label(op, way), rounds(way));
    }
}

fn all() -> impl Iterator<Item = (Op, Way)> {
    OPS.into_iter().flat_map(|op| WAYS.map(|way| (op, way)))
}

fn label(op: Op, way: Way) -> String {
    format!("{:<8}{:<11}", format!("{op:?}"), way.name())
}

/// One figure per round, in their order.
struct Rounds(Vec<f64>);

impl Rounds {
    fn middle(&self) -> f64 {
        self.quantile(0.5)
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN)
    }

    /// Round by round, so that what disturbed a whole round cancels out.
    fn minus(&self, other: &Rounds) -> Rounds {
        Rounds(self.0.iter().zip(&other.0).map(|(mine, other)| mine - other).collect())
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (low, middle, high) = (self.quantile(0.25), self.middle(), self.quantile(0.75));
        f.pad(&format!("{middle:.0} ({low:.0} to {high:.0})"))
    }
}

/// Microseconds below which this share of the times lies.
fn quantile(times: &[Duration], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() as f64 * share) as usize).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
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

const ROUNDS: usize = 16;
const ROUNDS_OF_MANY: usize = 7;
const COMMANDS: usize = 1_000;
const CLIENTS: u32 = 16;
const TIME_OF_MANY: Duration = Duration::from_millis(700);
/// What finds choose from, per way.
const DOCUMENTS: i64 = 10_000;
const DRAIN_MAX: Duration = Duration::from_secs(60);
