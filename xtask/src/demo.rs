//! `cargo xtask demo`: the whole way, once, before your eyes.
//!
//! A standalone mongod as the local database, a single-node replica set in Atlas's place, the release binary with the
//! repository's `proxy.toml` between them (ports, log folder and addresses come from the environment, so that nothing
//! collides and nothing is left behind). A shop's traffic goes through the proxy; the target is taken away and brought
//! back; at the end every document of both sides is compared, byte for byte.
//!
//! Everything that was started is ended: after the last step, on an error, on Ctrl-C and SIGTERM.

mod show;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bson::{Document, doc};
use serde_json::Value;
use testkit::compare::{self, Comparison};
use testkit::traffic::Shop;
use testkit::{Dualsync, Level, Mongod, ReplicaSet, mongod};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use crate::cargo;
use show::Show;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// End after the comparison; exit status 0 only if both sides are equal
    #[arg(long)]
    once: bool,
    /// Change one byte of one document on the target before comparing: must end in failure
    #[arg(long)]
    sabotage: bool,
    /// How long the shop is open
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=3600))]
    seconds: u64,
    /// Repeats the choices of an earlier run
    #[arg(long)]
    seed: Option<u64>,
}

/// What runs; dropping it ends all of it, the proxy first.
struct World {
    dualsync: Dualsync,
    local: Mongod,
    target: ReplicaSet,
}

pub(crate) fn run(root: &Path, options: Options) -> Result<()> {
    let binary = build(root)?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let outcome = runtime.block_on(Box::pin(demo(root, &binary, &options)));
    // A download that was interrupted must not keep us.
    runtime.shutdown_background();
    outcome
}

async fn demo(root: &Path, binary: &Path, options: &Options) -> Result<()> {
    let mut signals = Signals::new()?;
    let mut world = tokio::select! {
        world = Box::pin(World::start(root, binary)) => world?,
        () = signals.next() => bail!(INTERRUPTED),
    };
    let outcome = tokio::select! {
        outcome = Box::pin(world.show(options)) => outcome,
        () = signals.next() => bail!(INTERRUPTED),
    };
    if let Err(error) = outcome {
        world.print_warnings();
        return Err(error);
    }
    world.print_urls();
    if !options.once {
        println!("\nStays up until Ctrl-C.");
        signals.next().await;
    }
    world.end().await
}

impl World {
    async fn start(root: &Path, binary: &Path) -> Result<World> {
        println!("Looking for a mongod (the first time, one is downloaded: 40 MB) …");
        let found = tokio::task::spawn_blocking(mongod::find).await.context("look for a mongod")??;
        println!("mongod         {}", found.display());
        let (local, target) = tokio::try_join!(Mongod::standalone(), ReplicaSet::start(1))?;
        println!("local database {} (a standalone)", local.address());
        println!("target         {} (a replica set of one, in Atlas's place)", target.uri());
        let dualsync = Dualsync::builder(binary)
            .config(root.join("proxy.toml"))
            .local(local.uri())
            .atlas(target.uri())
            // The outage is meant to be warned about; what was written is printed when the demo fails.
            .expect_warning("")
            .start()
            .await?;
        println!("dualsync       {} -> {}", dualsync.uri(), dualsync.admin_url());
        Ok(World { dualsync, local, target })
    }

    /// Traffic, outage, drain, comparison. An error means that the two sides are not known to be equal.
    async fn show(&mut self, options: &Options) -> Result<()> {
        let seed = options.seed.unwrap_or_else(|| u64::from(std::process::id()));
        let shop = Shop {
            clients: CLIENTS,
            writes: (options.seconds * WRITES_PER_SECOND) as usize,
            seed,
            pause: PAUSE,
            ..Shop::default()
        };
        println!("\nThe shop opens for about {} s, with {CLIENTS} clients and seed {seed}.", options.seconds);
        let show = Show::new(shop.writes as u64);
        let open = Duration::from_secs(options.seconds);
        let uri = self.dualsync.uri();
        let tally = tokio::select! {
            done = async { tokio::try_join!(shop.run(&uri), outage(&mut self.target, &show, open)) } => done?.0,
            never = follow(&self.dualsync, &shop, &show) => match never? {},
        };
        show.note("The shop is closed; waiting until the sync log is drained.");
        tokio::select! {
            drained = self.dualsync.wait_drained(DRAIN_MAX) => drained?,
            never = follow(&self.dualsync, &shop, &show) => match never? {},
        }
        show.update(shop.done.load(Ordering::Relaxed), &look(&self.dualsync).await?);
        show.end();
        println!("\n{tally}");

        if options.sabotage {
            self.sabotage().await?;
        }
        let comparison =
            compare::databases(&self.local.client().await?, &self.target.client().await?).await?;
        self.print(&comparison).await?;
        ensure!(comparison.documents() > 0, "there was nothing to compare");
        ensure!(comparison.equal(), "the two sides are NOT equal");
        Ok(())
    }

    /// Flips one bit of one document behind everybody's back.
    async fn sabotage(&self) -> Result<()> {
        let products = self
            .target
            .client()
            .await?
            .database(&Shop::default().database)
            .collection::<Document>("products");
        let changed = products.update_one(doc! {}, doc! { "$bit": { "sold": { "xor": 1_i64 } } }).await?;
        ensure!(changed.modified_count == 1, "there was no document to sabotage");
        println!("Sabotage: one byte of one document on the target was changed.");
        Ok(())
    }

    async fn print(&self, comparison: &Comparison) -> Result<()> {
        println!("\nCompared by the raw bytes of every document:\n\n{comparison}");
        let result = if comparison.equal() { "EQUAL" } else { "NOT EQUAL" };
        println!(
            "{} documents in {} collections: {result}",
            comparison.documents(),
            comparison.collections.len()
        );
        let counts = &self.dualsync.report().await?["counts"];
        println!(
            "how: {} entries replayed, {} converged, {} left to a full comparison, {} dead letters",
            counts["replayed"], counts["converged"], counts["dirty"], counts["deadLetters"],
        );
        Ok(())
    }

    fn print_urls(&self) {
        let (admin, token) = (self.dualsync.admin_url(), self.dualsync.token());
        println!("\nproxy    {}", self.dualsync.uri());
        println!("local    {}", self.local.uri());
        println!("target   {}", self.target.uri());
        println!("status   {admin}/");
        println!("health   {admin}/api/sync/health");
        println!("metrics  {admin}/metrics");
        println!("report   {admin}/api/sync/report");
        println!("         curl -H 'Authorization: Bearer {token}' {admin}/api/sync/report");
        println!("token    {token} (of this run)");
    }

    fn print_warnings(&self) {
        let lines = self.dualsync.log_lines();
        let bad: Vec<&String> = lines.iter().filter(|line| Level::of(line) > Level::Fine).collect();
        println!("\ndualsync wrote {} warnings and errors; the last of them:", bad.len());
        bad[bad.len().saturating_sub(WARNINGS_SHOWN)..].iter().for_each(|line| println!("  {line}"));
    }

    /// In order: the proxy must end cleanly, then the databases.
    async fn end(mut self) -> Result<()> {
        let status = self.dualsync.terminate().await?;
        ensure!(status.success(), "dualsync ended with {status}");
        self.local.stop().await?;
        self.target.stop().await
    }
}

/// Takes the target away after a third of the time, for a quarter of it, and brings it back.
async fn outage(target: &mut ReplicaSet, show: &Show, open: Duration) -> Result<()> {
    sleep(open / 3).await;
    target.stop().await?;
    show.note("The target is AWAY. The shop does not notice; the sync log grows.");
    sleep(open / 4).await;
    target.resume().await?;
    show.note("The target is BACK. The sync log drains at its next try.");
    Ok(())
}

/// Shows how entries flow, for ever: an error is the only end.
async fn follow(dualsync: &Dualsync, shop: &Shop, show: &Show) -> Result<std::convert::Infallible> {
    loop {
        show.update(shop.done.load(Ordering::Relaxed), &look(dualsync).await?);
        sleep(show.pace()).await;
    }
}

/// What the dashboard would see: the report, with the state of both connections.
async fn look(dualsync: &Dualsync) -> Result<Value> {
    let mut report = dualsync.report().await?;
    report["connections"] = dualsync.admin_get("/api/sync/connections").await?;
    Ok(report)
}

/// Ctrl-C and SIGTERM, from now on; one that comes while nobody waits is kept.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Builds the release binary and says where cargo put it.
/// Builds the release binary and yields its path.
pub(crate) fn build(root: &Path) -> Result<PathBuf> {
    println!("Building the release binary …");
    let mut build = cargo(root)
        .args(["build", "--release", "--locked", "--package", "dualsync", "--bin", "dualsync"])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .spawn()
        .context("run cargo build")?;
    let mut executable = None;
    if let Some(stdout) = build.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let message: Value = serde_json::from_str(&line?).unwrap_or_default();
            if message["target"]["name"] == "dualsync" {
                executable = message["executable"].as_str().map(PathBuf::from).or(executable);
            }
        }
    }
    let status = build.wait().context("wait for cargo build")?;
    ensure!(status.success(), "cargo build: {status}");
    executable.context("cargo named no executable")
}

const INTERRUPTED: &str = "asked to end before both sides were compared";
const CLIENTS: usize = 4;
/// What four clients reach that rest this long after each write of about 2 ms.
const WRITES_PER_SECOND: u64 = 150;
const PAUSE: Duration = Duration::from_millis(25);
/// The longest pause between two tries of the target is 60 s.
const DRAIN_MAX: Duration = Duration::from_secs(150);
const WARNINGS_SHOWN: usize = 20;
