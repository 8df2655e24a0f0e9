//! The worker in small steps. The planner, the grouping of commands and the look at their replies are the product's own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bson::RawBsonRef;
use fastrand::Rng;
use record::{Entry, Key, Touch};
use replicator::plan::{Work, queues};
use replicator::replay::{Command, Lane, lanes};
use replicator::{Reply, WriteError};

use crate::statement::{Doc, FIELDS, Statement, key_of, nothing};
use crate::world::{Model, ns};

pub enum Stage {
    Plan,
    Find(Box<Work>),
    /// `taken` units of the batch are done with it; `None`: the keys were handed over, or are those of letters.
    Converge {
        steps: Vec<Step>,
        taken: Option<usize>,
    },
}

/// Keys that are read and written together.
pub struct Step {
    pub keys: Vec<i64>,
    got: BTreeMap<i64, Option<Doc>>,
    /// The log's, taken after the last reading.
    head: Option<u64>,
    /// Sent, and perhaps not acknowledged yet: only then the planner hears of it.
    written: Option<Vec<Key>>,
    done: bool,
}

impl Model {
    pub fn late_lands(&mut self) {
        let at = self.rng.usize(..self.late.len());
        let statement = self.late.remove(at);
        let refuses = self.refuses();
        statement.run(&mut self.target, &mut self.rng, refuses);
    }

    pub fn replicate(&mut self, crashes: bool) {
        match std::mem::replace(&mut self.stage, Stage::Plan) {
            Stage::Plan => self.plan(crashes),
            Stage::Find(work) => self.find(&work),
            Stage::Converge { steps, taken } => self.converge(steps, taken, crashes),
        }
    }

    fn plan(&mut self, crashes: bool) {
        if self.batch.is_none() {
            let count = *self.rng.choice(&[1, 2, 5, 20]).expect("some");
            let until = (self.applied + count).min(self.log.len());
            let entries: Vec<Arc<Entry>> =
                self.log[self.applied..until].iter().map(|(_, e)| e.clone()).collect();
            let end = self.log[until - 1].0 + 1;
            if self.extra.sent_before {
                self.sent = self.sent.max(end);
            }
            let Some(done) = self.transactions(&entries, crashes) else { return };
            let rest = entries.iter().enumerate().filter(|(number, _)| !done.contains(number));
            let queue = queues(rest).into_iter().next().map(|(_, queue)| queue).unwrap_or_default();
            self.batch = Some((until, end, queue));
        }
        let (until, end, queue) = self.batch.as_ref().expect("just made");
        if queue.is_empty() {
            self.applied = *until;
            self.batch = None;
            let oldest = self.in_flight.iter().map(|w| w.mark).min().unwrap_or(self.head);
            let unread = self.log.get(self.applied).map_or(self.head, |(at, _)| *at);
            let marks = self.log[self.applied..].iter().map(|(_, e)| e.mark).min().unwrap_or(self.head);
            self.planner.forget(oldest.min(unread).min(marks));
            return;
        }
        let mut work = self.planner.next(&ns(), queue);
        if self.extra.sent_before {
            self.sent = self.sent.max(*end);
        }
        if work.dirty.is_some() {
            self.stage = self.steps(Vec::new(), Some(work.taken));
            if self.extra.exchanged_is_dirty {
                self.make_dirty();
            }
            return;
        }
        let mut replayed = std::mem::take(&mut work.replay);
        if !self.extra.lane_by_key {
            self.rng.shuffle(&mut replayed);
        }
        let lanes = lanes(&replayed, self.rng.usize(1..4));
        let multi = work.multi.as_ref().and_then(Command::of_one);
        let in_order: Vec<&Command<'_>> = match &multi {
            Some(command) => vec![command],
            None => interleave(&lanes, &mut self.rng),
        };
        let refuses = self.refuses();
        let total: usize = in_order.iter().map(|command| command.all().len()).sum();
        let stop = if crashes && self.rng.u32(..10) == 0 { self.rng.usize(..=total) } else { usize::MAX };
        let (mut sent, mut multi_differs) = (0, false);
        let (mut unsent, mut passed) = (Vec::new(), Vec::new());
        for command in in_order {
            let mut reply = Reply::default();
            for (index, unit) in command.all().iter().enumerate() {
                let statement = Statement::of(unit.effect().op.as_ref().expect("replayed"));
                if sent >= stop {
                    unsent.push(statement);
                    continue;
                }
                sent += 1;
                let ((n, modified), failed) = statement.run(&mut self.target, &mut self.rng, refuses);
                reply.n += u64::from(n);
                reply.modified += u64::from(modified);
                if failed {
                    reply.errors.push(WriteError {
                        index,
                        code: 11000,
                        message: String::new(),
                        key_pattern: None,
                        key_value: None,
                    });
                    if command.is_ordered() {
                        break;
                    }
                }
            }
            if sent >= stop {
                continue;
            }
            let different = command.different(&reply);
            for unit in command.all() {
                let differs = different.iter().any(|other| std::ptr::eq(*other, *unit));
                match &unit.effect().target.touch {
                    Touch::Key(key) if differs => work.converge.keys.push(key.clone()),
                    Touch::Key(key) => passed.push(id_of(key)),
                    _ => multi_differs |= differs,
                }
            }
        }
        // That a replay passes says nothing of a letter; with the rule of letters, none of their keys is among these.
        for key in passed {
            self.forgive(key);
        }
        if stop != usize::MAX {
            return self.crash(unsent);
        }
        if multi_differs {
            self.make_dirty();
        }
        self.stage = Stage::Find(Box::new(work));
    }

    /// Those that are sent again as one, first; says which were. `None`: crashed in the middle.
    fn transactions(&mut self, entries: &[Arc<Entry>], crashes: bool) -> Option<Vec<usize>> {
        let (mut done, refuses) = (Vec::new(), self.refuses());
        for number in self.planner.as_one(entries) {
            let statements: Vec<Statement> = entries[number]
                .effects
                .iter()
                .map(|effect| Statement::of(effect.op.as_ref().expect("replayed")))
                .collect();
            if crashes && self.rng.u32(..10) == 0 {
                // The commit may be on its way.
                let unsent = if self.rng.bool() { statements } else { Vec::new() };
                self.crash(unsent);
                return None;
            }
            let mut after = self.target.clone();
            let same = statements.iter().zip(&entries[number].effects).all(|(statement, effect)| {
                let (did, failed) = statement.run(&mut after, &mut self.rng, refuses);
                !failed && did == (effect.n, effect.modified)
            });
            if same {
                self.target = after;
                done.push(number);
            }
        }
        Some(done)
    }

    fn find(&mut self, work: &Work) {
        let mut keys: Vec<i64> = work.converge.keys.iter().map(id_of).collect();
        for predicate in &work.converge.predicates {
            let field = usize::from(predicate.filter.0.get("a").expect("well formed").is_none());
            let value = predicate.filter.0.get_i64(FIELDS[field]).expect("a value");
            keys.extend(self.target.iter().filter(|(_, d)| d[field] == value).map(|(k, _)| *k));
        }
        keys.sort_unstable();
        keys.dedup();
        self.stage = self.steps(keys, Some(work.taken));
    }

    /// Deals keys out to steps that are under way together.
    pub fn steps(&mut self, keys: Vec<i64>, taken: Option<usize>) -> Stage {
        let head = (!self.extra.head_after_reading).then_some(self.head);
        let step = |_| Step { keys: Vec::new(), got: BTreeMap::new(), head, written: None, done: false };
        let mut steps: Vec<Step> = (0..self.rng.usize(1..4)).map(step).collect();
        for key in keys {
            let at = self.rng.usize(..steps.len());
            steps[at].keys.push(key);
        }
        Stage::Converge { steps, taken }
    }

    /// One of the steps goes on by a little.
    fn converge(&mut self, mut steps: Vec<Step>, taken: Option<usize>, crashes: bool) {
        let open: Vec<usize> = (0..steps.len()).filter(|at| !steps[*at].done).collect();
        let Some(at) = self.rng.choice(open) else {
            if let Some(taken) = taken {
                let (_, _, queue) = self.batch.as_mut().expect("a batch is under way");
                drop(queue.drain(..taken));
            }
            return;
        };
        let step = &mut steps[at];
        let missing: Vec<i64> = step.keys.iter().copied().filter(|key| !step.got.contains_key(key)).collect();
        let mut crash = false;
        if !missing.is_empty() {
            // The source is away; what was replayed before is on the target.
            crash = crashes && self.rng.u32(..20) == 0;
            let count = self.rng.usize(1..4);
            step.got.extend(missing.iter().take(count).map(|key| (*key, self.source.get(key).copied())));
        } else if step.keys.is_empty() {
            step.done = true;
        } else if let Some(written) = step.written.take() {
            self.planner.converged(&ns(), written, step.head.expect("read"));
            step.done = true;
        } else if let Some(head) = step.head {
            crash = crashes && self.rng.u32(..10) == 0;
            let count = if crash { self.rng.usize(..=step.keys.len()) } else { step.keys.len() };
            if self.extra.sent_before {
                self.sent = self.sent.max(head);
            }
            step.written = Some(self.write(&step.keys[..count], &step.got));
        } else {
            step.head = Some(self.head);
        }
        self.stage = Stage::Converge { steps, taken };
        if crash {
            self.crash(Vec::new());
        }
    }

    fn write(&mut self, keys: &[i64], got: &BTreeMap<i64, Option<Doc>>) -> Vec<Key> {
        let refuses = self.refuses();
        let mut done = Vec::new();
        for key in keys {
            match got[key] {
                Some(doc) if refuses(&doc) => {
                    self.letters.insert(*key);
                    self.planner.set_dead(&ns(), &key_of(*key));
                    continue;
                }
                Some(doc) => drop(self.target.insert(*key, doc)),
                None => drop(self.target.remove(key)),
            }
            self.forgive(*key);
            done.push(key_of(*key));
        }
        done
    }

    fn forgive(&mut self, key: i64) {
        self.letters.remove(&key);
        self.planner.clear_dead(&ns(), &key_of(key));
    }

    /// The target takes everything again, and somebody orders the letters to be tried.
    pub fn retry(&mut self) {
        self.refusing = false;
        if matches!(self.stage, Stage::Plan) && !self.letters.is_empty() {
            let keys = self.letters.iter().copied().collect();
            self.stage = self.steps(keys, None);
        }
    }

    pub fn refuses(&self) -> fn(&Doc) -> bool {
        if self.refusing { |doc| doc[0] == 2 && doc[1] == 2 } else { nothing }
    }
}

fn id_of(key: &Key) -> i64 {
    match key.id() {
        RawBsonRef::Int64(id) => id,
        other => panic!("{other:?}"),
    }
}

/// An order in which the target may run them: lanes beside each other, and the commands of a level in any order.
fn interleave<'a>(lanes: &'a [Lane<'a>], rng: &mut Rng) -> Vec<&'a Command<'a>> {
    let mut left: Vec<VecDeque<&[Command<'_>]>> =
        lanes.iter().map(|lane| lane.levels().iter().map(Vec::as_slice).collect()).collect();
    let mut order = Vec::new();
    while !left.is_empty() {
        let at = rng.usize(..left.len());
        let Some(level) = left[at].pop_front() else {
            left.swap_remove(at);
            continue;
        };
        let mut level: Vec<&Command<'_>> = level.iter().collect();
        rng.shuffle(&mut level);
        order.extend(level);
    }
    order
}
