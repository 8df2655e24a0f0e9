//! Random commands of every kind that may change data, from many connections at once, and whether the target is
//! equal to the source afterwards: documents, indexes and options, byte for byte.
//!
//! - a [`Script`] is made from a seed alone; how its clients interleave is up to chance
//! - its clients share a handful of documents, so that many of their writes meet
//! - [`Kinds::Followed`] draws what is followed without a comparison, [`Kinds::All`] also what is not (`$out`, …),
//!   [`Kinds::Collections`] above all what becomes of whole collections
//! - [`Fault`]s disturb it; a seed that fails is shrunk to a script that fails still, as far as chance lets it
//!
//! Capped and time-series collections are written to, but not compared: they are not copied yet. Not here: writes past
//! the proxy.

mod commands;
mod faults;
mod play;
mod script;
mod shrink;
mod values;
mod world;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub use faults::Fault;
pub use play::Tally;
pub use script::{Script, Step, Turn, Way};
pub use world::{Followed, Server, World};

use crate::compare::Comparison;

/// What is sent.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// Where all choices come from.
    pub seed: u64,
    /// Clients at once, each with two connections.
    pub clients: usize,
    /// Commands, over all clients.
    pub commands: usize,
    /// Which.
    pub kinds: Kinds,
    /// Transactions and retryable writes, which only a replica set takes.
    pub sessions: bool,
    /// Clients that close instead of reading the reply.
    pub hang_ups: bool,
    /// Statements that take long enough to be stopped on the way.
    pub slow: bool,
}

/// Which commands there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// Those that need no comparison of their whole collection.
    Followed,
    /// Those that do as well.
    All,
    /// Collections that come and go, change their names and their options, among writes to them.
    Collections,
}

/// What the application writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what it says")]
pub enum Source {
    Standalone,
    ReplicaSet,
}

/// A run: rounds of traffic, each in a database of its own, with a comparison at the end of each.
#[derive(Debug, Clone)]
pub struct Run {
    /// The binary under test.
    pub binary: PathBuf,
    /// What the application writes to.
    pub source: Source,
    /// Of the first round; each has its own.
    pub seed: u64,
    /// Clients at once.
    pub clients: usize,
    /// Commands, over all rounds.
    pub commands: usize,
    /// Of which one round has so many.
    pub commands_per_round: usize,
    /// Which commands.
    pub kinds: Kinds,
    /// What goes wrong meanwhile.
    pub faults: Vec<Fault>,
}

/// How a run came out. Both sides were equal.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What became of the commands.
    pub tally: Tally,
    /// What capture made of them; counted from the last start of the binary.
    pub followed: Followed,
    /// How long the traffic took, without what it took to compare.
    pub time: Duration,
}

impl Run {
    /// Plays all rounds. An error when the two sides are not equal, or when undisturbed traffic that can be followed
    /// was not; it names the seed.
    pub async fn play(&self) -> Result<Outcome> {
        let mut world = Box::pin(World::start(&self.binary, self.source)).await.context("start")?;
        let mut total = Outcome::default();
        let rounds = self.commands.div_ceil(self.commands_per_round).max(1);
        for round in 0..rounds {
            let seed = self.seed.wrapping_add(round as u64);
            let one = Box::pin(self.round(&mut world, seed, &format!("d{round}"))).await;
            let one = one.with_context(|| format!("seed {seed}, {} clients", self.clients))?;
            total.tally.sent += one.tally.sent;
            total.tally.refused += one.tally.refused;
            total.tally.broken += one.tally.broken;
            total.time += one.time;
            total.followed = one.followed;
        }
        Ok(total)
    }

    async fn round(&self, world: &mut World, seed: u64, database: &str) -> Result<Outcome> {
        let script = self.traffic(seed).script(database);
        let (outcome, comparison) = Box::pin(self.once(world, &script, database)).await?;
        if comparison.equal() {
            return Ok(outcome);
        }
        let shrunk = Box::pin(shrink::shrink(self, world, &self.traffic(seed), &comparison)).await;
        let shrunk = shrunk.unwrap_or_else(|error| format!("could not be shrunk: {error:#}"));
        bail!("source and target differ:\n{comparison}\n{shrunk}");
    }

    /// The same traffic, in a database that has not been used.
    async fn once(
        &self,
        world: &mut World,
        script: &Script,
        database: &str,
    ) -> Result<(Outcome, Comparison)> {
        let commands = commands::Commands::new(database);
        let mut before = commands.before();
        if self.kinds == Kinds::All {
            before.extend(commands.before_compared());
        }
        play::prepare(&before, &world.dualsync.proxy_address()).await.context("prepare")?;
        world.settle().await.context("before the traffic")?;
        let followed = world.followed().await?;
        let start = Instant::now();
        let done = Arc::new(AtomicU64::new(0));
        let address = world.dualsync.proxy_address();
        let breaks = self.faults.iter().any(|fault| fault.breaks_connections());
        let traffic = play::play(script, &address, breaks, &done);
        let tally = faults::beside(traffic, world, &self.faults, &done, script.commands() as u64).await?;
        let time = start.elapsed();
        world.settle().await?;
        let followed = world.followed().await?.since(&followed);
        if self.faults.is_empty() && self.kinds == Kinds::Followed {
            let applied = followed.ways["replayed"] + followed.ways["converged"];
            let dirty = || {
                world
                    .dualsync
                    .log_lines()
                    .into_iter()
                    .filter(|line| line.contains("is dirty") || line.contains("refuses"))
            };
            ensure!(
                followed.ways["dirty"] == 0,
                "something was left to a comparison: {followed:?}\n{}",
                dirty().collect::<Vec<_>>().join("\n")
            );
            ensure!(followed.captured == applied, "not everything was applied once: {followed:?}");
        }
        Ok((Outcome { tally, followed, time }, world.compare(database).await?))
    }

    fn traffic(&self, seed: u64) -> Traffic {
        let has = |fault: Fault| self.faults.contains(&fault);
        Traffic {
            seed,
            clients: self.clients,
            commands: self.commands_per_round.min(self.commands),
            kinds: self.kinds,
            sessions: self.source == Source::ReplicaSet,
            hang_ups: has(Fault::HangUps),
            slow: has(Fault::KillOp) || has(Fault::TimeLimits),
        }
    }
}

impl Traffic {
    /// The script in this database.
    pub fn script(&self, database: &str) -> Script {
        Script::new(self, database)
    }
}

impl Followed {
    /// The share of the captured writes that met another one that may touch the same document.
    pub fn contended(&self) -> f64 {
        let contended = self.in_doubt.get("contended").copied().unwrap_or_default();
        contended as f64 / self.captured.max(1) as f64
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { sent, refused, broken } = self.tally;
        let Followed { captured, ways, in_doubt } = &self.followed;
        let rate = sent as f64 / self.time.as_secs_f64();
        write!(f, "{sent} commands ({refused} refused, {broken} broken) at {rate:.0} a second; ")?;
        let in_doubt: Vec<_> = in_doubt.iter().filter(|(_, n)| **n > 0).collect();
        write!(f, "last round: {captured} entries {ways:?}, in doubt {in_doubt:?}, ")?;
        write!(f, "{:.0} % contended", 100.0 * self.followed.contended())
    }
}
