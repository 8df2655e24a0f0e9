//! What goes wrong while a script is played.

use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bson::doc;
use tokio::time::sleep;

use super::world::{Server, World};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Clients close instead of reading a reply.
    HangUps,
    /// Statements are given too little time (`maxTimeMS`).
    TimeLimits,
    /// Running statements are killed (`killOp`).
    KillOp,
    /// The proxy is killed and starts again.
    KillProxy,
    /// The source steps down and is elected again.
    StepDown,
    /// The source is killed and starts again. A standalone takes back what it has acknowledged last.
    KillSource,
    /// The target is killed and starts again.
    KillTarget,
}

impl Fault {
    /// Every one, by its name.
    pub const ALL: [(&str, Fault); 7] = [
        ("hang-ups", Fault::HangUps),
        ("time-limits", Fault::TimeLimits),
        ("kill-op", Fault::KillOp),
        ("kill-proxy", Fault::KillProxy),
        ("step-down", Fault::StepDown),
        ("kill-source", Fault::KillSource),
        ("kill-target", Fault::KillTarget),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Fault::ALL.iter().find(|(_, fault)| *fault == self).map_or("", |(name, _)| name)
    }

    /// Whether clients that did nothing wrong lose their connection by it.
    pub(super) fn breaks_connections(self) -> bool {
        matches!(self, Fault::KillProxy | Fault::StepDown | Fault::KillSource)
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Fault> {
        match Fault::ALL.iter().find(|(known, _)| *known == name) {
            Some((_, fault)) => Ok(*fault),
            None => bail!("no fault is called {name}: {}", Fault::ALL.map(|(name, _)| name).join(", ")),
        }
    }
}

/// Runs `traffic` of `total` commands, disturbed.
pub(super) async fn beside<T>(
    traffic: impl Future<Output = Result<T>>,
    world: &mut World,
    faults: &[Fault],
    done: &Arc<AtomicU64>,
    total: u64,
) -> Result<T> {
    let kills =
        |fault| matches!(fault, Fault::KillProxy | Fault::StepDown | Fault::KillSource | Fault::KillTarget);
    let kills: Vec<Fault> = faults.iter().copied().filter(|fault| kills(*fault)).collect();
    let operations = world.source.client().await?;
    let disturbed = async {
        if kills.is_empty() {
            return std::future::pending().await;
        }
        // As many of them as there is traffic for, evenly, in turns.
        let times = (total / COMMANDS_PER_KILL).clamp(kills.len() as u64, KILLS_MAX);
        for (turn, fault) in (1..=times).zip(kills.iter().cycle()) {
            while done.load(Ordering::Relaxed) < total * turn / (times + 1) {
                sleep(LOOK).await;
            }
            strike(*fault, world).await.with_context(|| fault.name())?;
        }
        Ok::<(), anyhow::Error>(())
    };
    let killed = async {
        if !faults.contains(&Fault::KillOp) {
            return std::future::pending().await;
        }
        let admin = operations.database("admin");
        loop {
            let running = doc! {"currentOp": 1, "ns": {"$regex": "\\.wide$"}, "active": true};
            // It may be away: another fault's doing.
            let listed = admin.run_command(running).await.ok();
            let list = listed.as_ref().and_then(|listed| listed.get_array("inprog").ok());
            for op in list.into_iter().flatten().filter_map(|op| op.as_document()?.get("opid")) {
                _ = admin.run_command(doc! {"killOp": 1, "op": op}).await;
            }
            sleep(BETWEEN_KILLED).await;
        }
    };
    let mut disturbed = std::pin::pin!(disturbed);
    let mut killed = std::pin::pin!(killed);
    let mut traffic = std::pin::pin!(traffic);
    let mut over = false;
    let ended = loop {
        tokio::select! {
            ended = &mut traffic => break ended,
            struck = &mut disturbed, if !over => { struck?; over = true; }
            () = &mut killed => {}
        }
    };
    if !over && !kills.is_empty() {
        // What is down must come up again.
        disturbed.await?;
    }
    ended
}

async fn strike(fault: Fault, world: &mut World) -> Result<()> {
    match (fault, &mut world.source) {
        (Fault::KillProxy, _) => {
            world.dualsync.kill()?;
            world.dualsync.restart().await
        }
        (Fault::StepDown, Server::ReplicaSet(set)) => set.step_down().await,
        (Fault::KillSource, Server::ReplicaSet(set)) => {
            set.kill()?;
            set.resume().await
        }
        (Fault::KillTarget, _) => {
            world.target.kill()?;
            world.target.resume().await
        }
        (Fault::KillSource, Server::Standalone(mongod)) => {
            mongod.kill()?;
            mongod.start().await
        }
        (fault, Server::Standalone(_)) => bail!("{} is not for a standalone", fault.name()),
        (Fault::HangUps | Fault::TimeLimits | Fault::KillOp, _) => Ok(()),
    }
}

const LOOK: Duration = Duration::from_millis(10);
const BETWEEN_KILLED: Duration = Duration::from_millis(15);
const COMMANDS_PER_KILL: u64 = 1_000;
const KILLS_MAX: u64 = 20;
