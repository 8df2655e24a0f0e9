//! Random commands of every kind, from many connections at once: source and target are equal afterwards.
//!
//! Undisturbed traffic that the design follows makes nothing dirty and no dead letter. What is left to a comparison by
//! design (`Kinds::All` draws it as well): `$out`, `$merge`, `mapReduce`, `applyOps`; commands over collections and
//! indexes; filters that are no pure function of the document; an upsert without `_id` whose reply says nothing.
//! `cargo xtask soak` plays the same for longer.

mod fidelity;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use testkit::differential::{Fault, Kinds, Run, Source};

use crate::support::BIN;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_is_followed() -> Result<()> {
    play(run(Source::Standalone, Kinds::Followed, &[])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_set_is_followed() -> Result<()> {
    play(run(Source::ReplicaSet, Kinds::Followed, &[])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_compared_is_equal_as_well() -> Result<()> {
    play(run(Source::ReplicaSet, Kinds::All, &[Fault::HangUps, Fault::TimeLimits, Fault::KillOp])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_killed_loses_nothing() -> Result<()> {
    let run = run(Source::Standalone, Kinds::All, &[Fault::KillProxy, Fault::HangUps]);
    play(Run { commands: 1_500, commands_per_round: 1_500, ..run }).await
}

/// Collections come and go, and change names and options, under writes to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_come_and_go() -> Result<()> {
    let run = run(Source::Standalone, Kinds::Collections, &[Fault::KillProxy, Fault::KillTarget]);
    play(Run { clients: 6, commands: 1_200, commands_per_round: 1_200, ..run }).await
}

fn run(source: Source, kinds: Kinds, faults: &[Fault]) -> Run {
    Run {
        binary: PathBuf::from(BIN),
        source,
        seed: seed(),
        clients: 12,
        commands: 3_000,
        commands_per_round: 3_000,
        kinds,
        faults: faults.to_vec(),
    }
}

/// `DUALSYNC_SEED` repeats a run, as far as chance lets it.
fn seed() -> u64 {
    let given = std::env::var("DUALSYNC_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..1 << 40))
}

async fn play(run: Run) -> Result<()> {
    println!("seed {}", run.seed);
    let outcome = Box::pin(run.play()).await?;
    println!("{outcome}");
    if run.faults.is_empty() {
        let contended = outcome.followed.contended();
        ensure!(contended >= 0.2, "only {:.0} % of the writes met another", 100.0 * contended);
    }
    Ok(())
}
