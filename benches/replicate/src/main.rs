//! How fast the replicator drains the log, beside plain bulk writes: `cargo run --release` in this folder.
//!
//! - real servers: a standalone as the source, a replica set of one as the target, all on this machine
//! - a backlog is appended through the log's own interface while the worker is paused; drained is timed
//! - peers send the same statements by the same driver, over as many connections, with `w: "majority"`
//! - ways are measured in rounds; printed is the median of the rounds, in brackets the middle half of them; ratios are
//!   taken round by round

mod backlog;
mod figures;
mod ours;
mod peers;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use backlog::Write;
use bson::{doc, rawdoc};
use clap::Parser;
use figures::{percentile, ratios, spread};
use mongodb::Client;
use ours::Ours;
use peers::{Bulk, bulk};
use testkit::net::Relay;
use testkit::{Mongod, ReplicaSet};

#[derive(Debug, Parser)]
pub(crate) struct Settings {
    /// Where the logs are made; not a file system in memory.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Rounds of each measure.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Entries in each backlog.
    #[arg(long, default_value_t = 50_000)]
    entries: i64,
    /// Entries in the backlog whose draining is watched for memory.
    #[arg(long, default_value_t = 5_000_000)]
    memory_entries: i64,
    /// `sync.batch_entries_max`
    #[arg(long, default_value_t = 50_000)]
    batch: usize,
    /// Connections of the peers.
    #[arg(long, default_value_t = 8)]
    lanes: i64,
    /// Statements in each command of the peers.
    #[arg(long, default_value_t = 1_000)]
    peer_batch: i64,
    /// Only measures whose name begins like this: inserts, updates, converged, hot, lag, far, memory.
    #[arg(long, default_value = "")]
    only: String,
}

/// Both servers, and a slow line to the target.
struct Stage {
    source: Mongod,
    target: ReplicaSet,
    relay: Relay,
    here: Client,
    there: Client,
    far: Client,
}

/// One way: half of the round trip.
const DELAY: Duration = Duration::from_millis(25);
const WRITES_PER_SECOND: u32 = 2_000;
const LAG_SECONDS: u32 = 5;

#[tokio::main]
async fn main() -> Result<()> {
    let settings = Settings::parse();
    println!("{}, {settings:?}", figures::machine());
    let source = Mongod::standalone().await?;
    let target = ReplicaSet::start(1).await?;
    let relay = Relay::start_delayed(target.members()[0].address(), DELAY).await?;
    let (here, there) = (source.client().await?, target.client().await?);
    let far = Client::with_uri_str(relay.uri()).await?;
    let stage = Stage { source, target, relay, here, there, far };
    let wanted = |name: &str| name.starts_with(&settings.only);
    if wanted("inserts") {
        stage.replayed(&settings, "inserts", Bulk::Inserts, Write::Insert).await?;
    }
    if wanted("updates") {
        stage.replayed(&settings, "updates", Bulk::Updates, Write::Update).await?;
    }
    if wanted("converged") {
        stage.converged(&settings).await?;
    }
    if wanted("hot") {
        stage.hot(&settings).await?;
    }
    if wanted("lag") {
        stage.lag(&settings).await?;
    }
    if wanted("far") {
        stage.far(&settings).await?;
    }
    if wanted("memory") {
        stage.memory(&settings).await?;
    }
    Ok(())
}

impl Stage {
    /// Backlogs of one kind of certain statements, each on a key of its own.
    async fn replayed(
        &self,
        settings: &Settings,
        name: &str,
        kind: Bulk,
        write: fn(i64) -> Write,
    ) -> Result<()> {
        let (mut own, mut peers) = (Vec::new(), Vec::new());
        let mut processor = [0.0; 2];
        for round in 0..=settings.rounds {
            self.prepare(kind, settings, false).await?;
            processor[0] -= figures::processor_seconds();
            let peer =
                bulk(&self.there, kind, 0..settings.entries, settings.peer_batch, settings.lanes).await?;
            processor[0] += figures::processor_seconds();
            self.prepare(kind, settings, false).await?;
            let ours = self.start(settings, false).await?;
            for id in 0..settings.entries {
                backlog::append(&ours.log, &ours.pending, write(id))?;
            }
            processor[1] -= figures::processor_seconds();
            let took = ours.drain().await?;
            processor[1] += figures::processor_seconds();
            ours.expect(settings.entries.unsigned_abs(), 0)?;
            ours.stop().await?;
            self.count(settings.entries).await?;
            // The first one warms up.
            if round > 0 {
                own.push(rate(settings.entries, took));
                peers.push(rate(settings.entries, peer));
            }
        }
        show(name, "entries/s", &own, &peers);
        let [peer, own] =
            processor.map(|seconds| seconds * 1e6 / (settings.entries * (settings.rounds as i64 + 1)) as f64);
        println!("           processor time here, per entry: {own:.1} us beside {peer:.1} us");
        Ok(())
    }

    /// Entries in doubt, each on a key of its own, whose documents differ.
    async fn converged(&self, settings: &Settings) -> Result<()> {
        let (mut own, mut peers) = (Vec::new(), Vec::new());
        for round in 0..=settings.rounds {
            self.prepare(Bulk::Updates, settings, true).await?;
            let kind = Bulk::Replacements(7);
            let peer =
                bulk(&self.there, kind, 0..settings.entries, settings.peer_batch, settings.lanes).await?;
            let ours = self.start(settings, false).await?;
            for id in 0..settings.entries {
                backlog::append(&ours.log, &ours.pending, Write::Contended(id))?;
            }
            let took = ours.drain().await?;
            ours.expect(0, settings.entries.unsigned_abs())?;
            ours.stop().await?;
            let items = self.there.database("bench").collection::<bson::RawDocumentBuf>("items");
            ensure!(items.count_documents(doc! {"n": 0}).await? == settings.entries.unsigned_abs());
            if round > 0 {
                own.push(rate(settings.entries, took));
                peers.push(rate(settings.entries, peer));
            }
        }
        show("converged", "keys/s", &own, &peers);
        Ok(())
    }

    /// One key over and over.
    async fn hot(&self, settings: &Settings) -> Result<()> {
        const UPDATES: u64 = 100_000;
        self.prepare(Bulk::Updates, settings, true).await?;
        let ours = self.start(settings, false).await?;
        for _ in 0..UPDATES {
            backlog::append(&ours.log, &ours.pending, Write::Contended(0))?;
        }
        let before = self.writes().await?;
        let took = ours.drain().await?;
        let writes = self.writes().await? - before;
        ours.expect(0, UPDATES)?;
        ours.stop().await?;
        println!(
            "hot        {UPDATES} contended updates of one key: {writes} writes on the target, {took:.1?}"
        );
        ensure!(writes < 1_000, "{writes} writes on the target");
        Ok(())
    }

    /// Steady running.
    async fn lag(&self, settings: &Settings) -> Result<()> {
        let (alone, lags) = self.lags(settings, false).await?;
        println!(
            "lag        at {WRITES_PER_SECOND} writes/s: p50 {:.1} ms, p99 {:.1} ms; a lone majority insert {:.1} ms: {:.1} times",
            percentile(&lags, 50.0),
            percentile(&lags, 99.0),
            alone,
            percentile(&lags, 50.0) / alone
        );
        Ok(())
    }

    /// With 50 ms of round-trip time.
    async fn far(&self, settings: &Settings) -> Result<()> {
        let (alone, lags) = self.lags(settings, true).await?;
        println!(
            "far lag    at {WRITES_PER_SECOND} writes/s: p50 {:.1} ms, p99 {:.1} ms; a lone majority insert {alone:.1} ms",
            percentile(&lags, 50.0),
            percentile(&lags, 99.0)
        );
        for (name, mixed) in [("far insert", false), ("far mixed", true)] {
            let (mut near, mut far) = (Vec::new(), Vec::new());
            for round in 0..=settings.rounds {
                for delayed in [false, true] {
                    let entries = settings.entries * 4;
                    self.prepare(if mixed { Bulk::Updates } else { Bulk::Inserts }, settings, mixed).await?;
                    let ours = self.start(settings, delayed).await?;
                    for id in 0..entries {
                        let base = fastrand::i64(0..settings.entries);
                        let write = match id % 20 {
                            _ if !mixed => Write::Insert(id),
                            0..=9 => Write::Insert(settings.entries + id),
                            10..=17 => Write::Update(base),
                            18 => Write::Delete(settings.entries + id - 18),
                            _ => Write::Contended(base),
                        };
                        backlog::append(&ours.log, &ours.pending, write)?;
                    }
                    let took = ours.drain().await?;
                    ours.stop().await?;
                    if round > 0 {
                        if delayed { &mut far } else { &mut near }.push(rate(entries, took));
                    }
                }
            }
            show(name, "entries/s", &far, &near);
        }
        Ok(())
    }

    /// The p50 of a lone majority insert, and the lags of entries that come steadily, in milliseconds.
    async fn lags(&self, settings: &Settings, delayed: bool) -> Result<(f64, Vec<f64>)> {
        self.prepare(Bulk::Inserts, settings, false).await?;
        let client = if delayed { &self.far } else { &self.there };
        let mut alone = Vec::new();
        for id in 0..200_i64 {
            let began = Instant::now();
            let insert = rawdoc! {"insert": "alone", "documents": [backlog::document(id, 0)], "writeConcern": {"w": "majority"}};
            client.database("bench").run_raw_command(insert).await?;
            alone.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let ours = self.start(settings, delayed).await?;
        ours.shared.resume()?;
        let (log, pending) = (ours.log.clone(), ours.pending.clone());
        let (told, mut appended) = tokio::sync::mpsc::unbounded_channel();
        let writer = tokio::spawn(async move {
            let began = Instant::now();
            let mut tick = tokio::time::interval(Duration::from_millis(1));
            let mut id = 0;
            while id < i64::from(WRITES_PER_SECOND * LAG_SECONDS) {
                tick.tick().await;
                while (id as f64) < began.elapsed().as_secs_f64() * f64::from(WRITES_PER_SECOND) {
                    let at = backlog::append(&log, &pending, Write::Insert(id))?;
                    told.send((at, Instant::now()))?;
                    id += 1;
                }
            }
            anyhow::Ok(())
        });
        let mut lags = Vec::new();
        while let Some((at, since)) = appended.recv().await {
            while ours.shared.status().applied < at.0 {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            lags.push(since.elapsed().as_secs_f64() * 1e3);
        }
        writer.await??;
        ours.stop().await?;
        Ok((percentile(&alone, 50.0), lags.split_off(lags.len() / 5)))
    }

    async fn memory(&self, settings: &Settings) -> Result<()> {
        self.prepare(Bulk::Inserts, settings, false).await?;
        let ours = self.start(settings, false).await?;
        // The smaller they are, the more of them are in memory at a time.
        for id in 0..settings.memory_entries {
            backlog::append(&ours.log, &ours.pending, Write::Small(id))?;
        }
        figures::reset_memory_peak();
        let took = ours.drain().await?;
        let peak = figures::memory_peak_mib();
        ours.expect(settings.memory_entries.unsigned_abs(), 0)?;
        ours.stop().await?;
        println!(
            "memory     {} entries: {peak:.0} MiB at most, {:.0} entries/s",
            settings.memory_entries,
            rate(settings.memory_entries, took)
        );
        ensure!(peak <= 300.0, "{peak} MiB");
        Ok(())
    }

    async fn start(&self, settings: &Settings, delayed: bool) -> Result<Ours> {
        let target = if delayed { self.relay.uri() } else { self.target.uri() };
        Ours::start(settings, &self.source.uri(), &target).await
    }

    /// Both servers as they should be before a backlog of `kind`.
    async fn prepare(&self, kind: Bulk, settings: &Settings, both: bool) -> Result<()> {
        // The log before is gone, and another one may feed the target.
        self.there.database("__dualsync").drop().await?;
        for client in [&self.here, &self.there] {
            client.database("bench").drop().await?;
            client.database("bench").create_collection("items").await?;
        }
        if kind != Bulk::Inserts {
            bulk(&self.there, Bulk::Inserts, 0..settings.entries, 1_000, 1).await?;
            if both {
                let here = self.here.database("bench").collection::<bson::RawDocumentBuf>("items");
                for from in (0..settings.entries).step_by(1_000) {
                    here.insert_many((from..from + 1_000).map(|id| backlog::document(id, 0))).await?;
                }
            }
        }
        // What this has left to do is not to be paid for by whoever is measured next.
        self.there.database("admin").run_command(doc! {"fsync": 1}).await?;
        Ok(())
    }

    async fn count(&self, expected: i64) -> Result<()> {
        let items = self.there.database("bench").collection::<bson::RawDocumentBuf>("items");
        let count = items.count_documents(doc! {}).await?;
        ensure!(count == expected.unsigned_abs(), "{count} documents on the target instead of {expected}");
        Ok(())
    }

    /// Statements that the target has run.
    async fn writes(&self) -> Result<i64> {
        let status = self.there.database("admin").run_command(doc! {"serverStatus": 1}).await?;
        let counters = status.get_document("opcounters").context("opcounters")?;
        let number =
            |name| counters.get_i64(name).or_else(|_| counters.get_i32(name).map(i64::from)).unwrap_or(0);
        Ok(number("insert") + number("update") + number("delete"))
    }
}

fn rate(entries: i64, took: Duration) -> f64 {
    entries as f64 / took.as_secs_f64()
}

fn show(name: &str, unit: &str, own: &[f64], peers: &[f64]) {
    println!(
        "{name:<10} {unit} {:<28} beside {:<28} ratio {}",
        spread(own),
        spread(peers),
        spread(&ratios(own, peers))
    );
}
