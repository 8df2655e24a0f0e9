//! `cargo xtask drivers`: PyMongo's own tests come out through the proxy as they come out without it.
//!
//! Two mongods of a kind, one of them behind the release binary with a target in Atlas's place; the same tests run on both
//! at the same time. What comes out differently is run again, alone, and counts only if it still differs: the tests measure
//! times, and some of them fail now and then on a busy machine. Minutes long, so it is run by hand; `tests/it/drivers`
//! has a short cut of it.
//!
//! The worker is paused meanwhile, so that fail points which the tests set meet nobody else's commands. Afterwards it
//! goes on, and must bring what the tests wrote to the target.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::suite::{Difference, Outcome, Outcomes, Suite, differences};
use testkit::{Dualsync, Mongod, ReplicaSet};

use crate::demo;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What the source is; both without it
    #[arg(long, value_enum)]
    source: Option<Kind>,
    /// Speak through a compressor: snappy, zlib or zstd
    #[arg(long)]
    compressor: Option<String>,
    /// A binary to try instead of a release build of this tree
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Tests to run instead of all that talk to a server, such as test/test_bulk.py
    tests: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    Standalone,
    ReplicaSet,
}

/// What runs; dropping it ends all of it, the proxy first.
struct World {
    dualsync: Dualsync,
    direct: Server,
    _source: Server,
    _target: ReplicaSet,
}

enum Server {
    Standalone(Mongod),
    ReplicaSet(ReplicaSet),
}

pub(crate) fn run(root: &Path, options: Options) -> Result<()> {
    let binary = options.binary.clone().map_or_else(|| demo::build(root), Ok)?;
    println!("Looking for PyMongo's tests (the first time, they are downloaded) …");
    let suite = Suite::pymongo()?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let kinds = options.source.map_or(vec![Kind::Standalone, Kind::ReplicaSet], |kind| vec![kind]);
    let mut found = 0;
    for kind in kinds {
        found += runtime.block_on(Box::pin(compare(&suite, &binary, kind, &options)))?;
    }
    ensure!(found == 0, "{found} tests come out differently through the proxy");
    Ok(())
}

/// How many tests come out differently.
async fn compare(suite: &Suite, binary: &Path, kind: Kind, options: &Options) -> Result<usize> {
    let world = World::start(binary, kind).await?;
    let tests = match options.tests.as_slice() {
        [] => TESTS.iter().map(|name| format!("test/test_{name}.py")).collect(),
        given => given.to_vec(),
    };
    println!("\n== {kind:?}, compressor: {}", options.compressor.as_deref().unwrap_or("none"));
    let pause = |action: &str| json!({ "action": action });
    world.dualsync.admin_post("/api/sync/worker/control", &pause("pause")).await?;
    let (direct, proxied) = world.both(suite, options, &tests).await?;
    println!("direct   {}\nproxied  {}", counts(&direct), counts(&proxied));
    ensure!(direct.values().any(|it| it.outcome == "passed"), "nothing passed: there is nothing to compare");

    for (name, outcome) in direct.iter().filter(|(_, outcome)| outcome.outcome == "failed") {
        println!("fails without the proxy: {name}: {}", outcome.says.lines().next().unwrap_or_default());
    }

    let mut differing = differences(&direct, &proxied);
    for _ in 0..TRIES_MORE {
        if differing.is_empty() {
            break;
        }
        let again: Vec<String> = differing.iter().map(|(name, ..)| name.clone()).collect();
        println!("{} differ; run again:\n  {}", again.len(), again.join("\n  "));
        let (direct, proxied) = world.both(suite, options, &again).await?;
        differing = differences(&direct, &proxied);
    }
    differing.iter().for_each(show);
    world.dualsync.admin_post("/api/sync/worker/control", &pause("resume")).await?;
    world.dualsync.wait_drained(DRAIN_MAX).await.context("bring what the tests wrote to the target")?;
    let report = world.dualsync.report().await?;
    println!("{} differ; {}", differing.len(), report["counts"]);
    Ok(differing.len())
}

impl World {
    async fn start(binary: &Path, kind: Kind) -> Result<World> {
        let (direct, source, target) =
            tokio::try_join!(Server::start(kind), Server::start(kind), ReplicaSet::start(1))?;
        let dualsync = Dualsync::builder(binary)
            .local(source.uri())
            .atlas(target.uri())
            // The tests break what can be broken; only what they see is compared.
            .expect_warning("")
            .start()
            .await?;
        Ok(World { dualsync, direct, _source: source, _target: target })
    }

    async fn both(&self, suite: &Suite, options: &Options, tests: &[String]) -> Result<(Outcomes, Outcomes)> {
        let compressor = options.compressor.as_deref();
        let (direct, proxied) = (self.direct.address(), self.dualsync.proxy_address());
        tokio::try_join!(
            suite.run(&direct, compressor, tests, SUITE_MAX),
            suite.run(&proxied, compressor, tests, SUITE_MAX),
        )
    }
}

impl Server {
    async fn start(kind: Kind) -> Result<Server> {
        // A test's forgotten transaction blocks the next one for this long.
        let args =
            ["--setParameter", "enableTestCommands=1", "--setParameter", "transactionLifetimeLimitSeconds=3"];
        Ok(match kind {
            Kind::Standalone => {
                let args = args.map(ToOwned::to_owned).to_vec();
                Server::Standalone(
                    Mongod::launch(testkit::mongod::Options { args, ..Default::default() }).await?,
                )
            }
            Kind::ReplicaSet => Server::ReplicaSet(ReplicaSet::start_with(1, &args).await?),
        })
    }

    fn mongod(&self) -> &Mongod {
        match self {
            Server::Standalone(mongod) => mongod,
            Server::ReplicaSet(set) => &set.members()[0],
        }
    }

    fn address(&self) -> String {
        self.mongod().address()
    }

    fn uri(&self) -> String {
        self.mongod().uri()
    }
}

fn counts(outcomes: &Outcomes) -> String {
    let count = |what: &str| outcomes.values().filter(|it| it.outcome == what).count();
    let seconds: f64 = outcomes.values().map(|it| it.seconds).sum();
    format!(
        "{} passed, {} failed, {} skipped in {seconds:.0} s",
        count("passed"),
        count("failed"),
        count("skipped")
    )
}

fn show((name, direct, proxied): &Difference) {
    let told = |outcome: &Option<Outcome>| match outcome {
        Some(outcome) => format!("{} {}", outcome.outcome, outcome.says.replace('\n', "\n             ")),
        None => "did not run".to_owned(),
    };
    println!("DIFFERENT {name}\n    direct : {}\n    proxied: {}", told(direct), told(proxied));
}

const TRIES_MORE: usize = 2;
const SUITE_MAX: Duration = Duration::from_secs(3600);
const DRAIN_MAX: Duration = Duration::from_secs(900);
/// The modules that talk to a server. Left out: what is about BSON, URIs, DNS or logging alone, what wants services that
/// are not here (encryption, OIDC, AWS, OCSP, several mongos), and what breaks its server for those after it.
const TESTS: &[&str] = &[
    "bulk",
    "causal_consistency",
    "change_stream",
    "client",
    "client_bulk_write",
    "client_context",
    "collation",
    "collection",
    "collection_management",
    "command_logging",
    "command_monitoring",
    "comment",
    "compression_support",
    "crud_unified",
    "crud_v1",
    "csot",
    "cursor",
    "custom_types",
    "database",
    "dbref",
    "examples",
    "grid_file",
    "gridfs",
    "gridfs_bucket",
    "gridfs_spec",
    "index_management",
    "json_util_integration",
    "load_balancer",
    "max_staleness",
    "monitor",
    "monitoring",
    "pooling",
    "raw_bson",
    "read_concern",
    "read_preferences",
    "read_write_concern_spec",
    "retryable_reads",
    "retryable_reads_unified",
    "retryable_writes",
    "retryable_writes_unified",
    "run_command",
    "session",
    "sessions_unified",
    "streaming_protocol",
    "threads",
    "transactions",
    "transactions_unified",
    "unified_format",
    "versioned_api",
    "versioned_api_integration",
    "write_concern",
];
