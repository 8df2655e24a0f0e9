//! A shorter script that fails as well.
//!
//! First only the turns that name a collection which differs are kept; then whole turns are left out, first half of
//! them, then a quarter, and so on; each try runs in a database of its own,
//! several times, since chance decides as well. Bounded in time: what is found till then is the answer.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::world::World;
use super::{Run, Script, Traffic, Turn};
use crate::compare::Comparison;

/// The shortest script found, as text.
pub(super) async fn shrink(
    run: &Run,
    world: &mut World,
    traffic: &Traffic,
    different: &Comparison,
) -> Result<String> {
    let start = Instant::now();
    let script = traffic.script("s");
    let turns = script.turns.len();
    let mut kept = naming(&script, different);
    let mut tries = 0;
    if !fails(run, world, traffic, &kept, &mut tries, start).await? {
        let text = shown(&only(traffic, "DB", &kept));
        let of = kept.len();
        return Ok(format!("{of} of {turns} turns name what differs; alone they do not fail:\n{text}"));
    }
    let mut parts = 2;
    while parts <= kept.len() && start.elapsed() < SHRINK_MAX {
        let size = kept.len().div_ceil(parts);
        let mut shorter = None;
        for part in 0..parts {
            let left_out = part * size..((part + 1) * size).min(kept.len());
            let rest: Vec<usize> = kept
                .iter()
                .enumerate()
                .filter(|(at, _)| !left_out.contains(at))
                .map(|(_, turn)| *turn)
                .collect();
            if rest.len() < kept.len()
                && start.elapsed() < SHRINK_MAX
                && fails(run, world, traffic, &rest, &mut tries, start).await?
            {
                shorter = Some(rest);
                break;
            }
        }
        match shorter {
            Some(rest) => {
                kept = rest;
                parts = (parts - 1).max(2);
            }
            None => parts *= 2,
        }
    }
    let text = shown(&only(traffic, "DB", &kept));
    Ok(format!("{} of {turns} turns fail as well, after {tries} tries:\n{text}", kept.len()))
}

/// The turns that name a collection which is not equal.
fn naming(script: &Script, different: &Comparison) -> Vec<usize> {
    let unequal = different.collections.iter().filter(|(_, compared)| !compared.equal());
    let names = unequal.map(|(name, _)| name).chain(different.shapes.keys());
    let names: Vec<&str> = names.filter_map(|name| Some(name.split_once('.')?.1)).collect();
    let named = |turn: &Turn| {
        turn.steps.iter().any(|step| names.iter().any(|name| step.body.to_string().contains(name)))
    };
    script.turns.iter().enumerate().filter(|(_, turn)| named(turn)).map(|(at, _)| at).collect()
}

fn shown(script: &Script) -> String {
    let text = script.to_string();
    let mut lines: Vec<&str> = text.lines().take(LINES_SHOWN).collect();
    if text.lines().count() > LINES_SHOWN {
        lines.push("…");
    }
    lines.join("\n")
}

/// Whether a try is not equal.
async fn fails(
    run: &Run,
    world: &mut World,
    traffic: &Traffic,
    turns: &[usize],
    tries: &mut usize,
    start: Instant,
) -> Result<bool> {
    for _ in 0..TRIES_EACH {
        *tries += 1;
        let database = format!("s{tries}x");
        let script = only(traffic, &database, turns);
        let (_, comparison) = Box::pin(run.once(world, &script, &database)).await?;
        if !comparison.equal() {
            return Ok(true);
        }
        if start.elapsed() > SHRINK_MAX {
            break;
        }
    }
    Ok(false)
}

fn only(traffic: &Traffic, database: &str, turns: &[usize]) -> Script {
    traffic.script(database).only(|at| turns.binary_search(&at).is_ok())
}

const SHRINK_MAX: Duration = Duration::from_secs(90);
const TRIES_EACH: usize = 3;
const LINES_SHOWN: usize = 120;
