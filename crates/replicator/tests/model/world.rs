//! The source, its clients, the log between both sides, and what may happen to all of them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use fastrand::Rng;
use record::{Doubt, Effect, Entry, Namespace, Target, Touch};
use replicator::plan::{Limits, Planner, Rules, Unit};

use crate::Extra;
use crate::reconciler::Comparing;
use crate::replicator_side::Stage;
use crate::statement::{Select, Statement, Store, key_of, nothing};

/// A write on its way.
#[derive(Clone)]
pub struct Write {
    pub mark: u64,
    pub statements: Vec<Statement>,
    /// Per statement, once executed.
    pub done: Option<Vec<(u32, u32)>>,
    pub contended: bool,
    pub orphan: bool,
    /// The log took nothing of it.
    pub missed: bool,
    /// A transaction.
    pub atomic: bool,
}

fn conflict(a: &Write, b: &Write) -> bool {
    let touches = |w: &Write| w.statements.iter().map(Statement::touch).collect::<Vec<_>>();
    let b = touches(b);
    touches(a).iter().any(|x| b.iter().any(|y| !matches!((x, y), (Touch::Key(x), Touch::Key(y)) if x != y)))
}

pub struct Model {
    pub rng: Rng,
    pub extra: Extra,
    pub rules: Rules,
    /// Small, so that they are met.
    pub limits: Limits,
    pub keys: i64,
    pub source: Store,
    pub target: Store,
    pub head: u64,
    pub in_flight: Vec<Write>,
    pub log: Vec<(u64, Arc<Entry>)>,
    // the replicator
    pub planner: Planner,
    pub applied: usize,
    pub sent: u64,
    pub batch: Option<(usize, u64, VecDeque<Unit>)>,
    pub stage: Stage,
    pub late: Vec<Statement>,
    /// For now the target does not take some documents.
    pub refusing: bool,
    /// Keys whose documents it did not take.
    pub letters: BTreeSet<i64>,
    /// How seldom it does a step.
    pub slowness: u32,
    // the reconciler
    pub missed_of_12: u32,
    pub dirty_on_disk: bool,
    pub scan: Option<Comparing>,
}

pub fn ns() -> Namespace {
    Namespace::new("d", "c")
}

impl Model {
    pub fn new(seed: u64, rules: Rules, extra: Extra) -> Model {
        let mut rng = Rng::with_seed(seed);
        let keys = *rng.choice(&[2, 3, 5, 8]).expect("some");
        let missed_of_12 = *rng.choice(&[0, 1, 5]).expect("some");
        let refusing = rng.u32(..3) == 0;
        let slowness = *rng.choice(&[1, 1, 8]).expect("some");
        let limits = Limits { ahead_keys_max: rng.usize(0..6), barriers_max: rng.usize(0..4) };
        Model {
            limits,
            keys,
            rng,
            extra,
            rules,
            source: Store::new(),
            target: Store::new(),
            head: 1,
            in_flight: Vec::new(),
            log: Vec::new(),
            planner: Planner::new(rules, limits, 0),
            applied: 0,
            sent: 0,
            batch: None,
            stage: Stage::Plan,
            late: Vec::new(),
            slowness,
            missed_of_12,
            dirty_on_disk: false,
            scan: None,
            refusing,
            letters: BTreeSet::new(),
        }
    }

    pub fn run(mut self) -> Result<(), String> {
        let mut left = self.rng.u32(5..50);
        let in_flight_max = *self.rng.choice(&[1, 2, 4, 8]).expect("some");
        let crashes = self.rng.bool();
        loop {
            let busy = self.batch.is_some() || self.applied < self.log.len();
            if left == 0
                && self.in_flight.is_empty()
                && !busy
                && self.late.is_empty()
                && !self.dirty_on_disk
                && self.scan.is_none()
                && self.letters.is_empty()
                && matches!(self.stage, Stage::Plan)
            {
                break;
            }
            match self.rng.u32(..15) {
                0..=2 if left > 0 && self.in_flight.len() < in_flight_max => {
                    left -= 1;
                    self.start();
                }
                3 | 4 => self.execute(),
                5 | 6 => self.reply(),
                7 if crashes && self.rng.u32(..8) == 0 => self.proxy_dies(),
                8 if !self.late.is_empty() => self.late_lands(),
                9 if left == 0 && self.in_flight.is_empty() => self.retry(),
                12.. if self.dirty_on_disk || self.scan.is_some() => self.compare(),
                _ if self.rng.u32(..self.slowness) > 0 => {}
                _ if busy || !matches!(self.stage, Stage::Plan) => self.replicate(crashes),
                _ => {}
            }
        }
        let Model { source, target, .. } = self;
        if source == target { Ok(()) } else { Err(format!("source {source:?}\ntarget {target:?}")) }
    }

    fn start(&mut self) {
        let count = if self.rng.u32(..4) == 0 { 2 } else { 1 };
        let statements =
            (0..count).map(|_| Statement::any(&mut self.rng, self.keys, self.extra.down)).collect();
        let missed = self.rng.u32(..12) < self.missed_of_12;
        let atomic = self.rng.u32(..3) > 0;
        let mark = self.head;
        let mut write =
            Write { mark, statements, done: None, contended: false, orphan: false, missed, atomic };
        if missed {
            // Noted before it is forwarded; it counts as in flight as any other.
            self.make_dirty();
        } else {
            self.head += 1;
        }
        for other in &mut self.in_flight {
            let seen = !other.orphan || self.extra.orphans_in_flight;
            if seen && conflict(other, &write) {
                other.contended = true;
                write.contended = true;
            }
        }
        self.in_flight.push(write);
    }

    fn pick(&mut self, executed: bool) -> Option<usize> {
        let fits = |w: &Write| w.done.is_some() == executed;
        let found: Vec<usize> = (0..self.in_flight.len()).filter(|i| fits(&self.in_flight[*i])).collect();
        self.rng.choice(found)
    }

    fn execute(&mut self) {
        let Some(at) = self.pick(false) else { return };
        let write = &mut self.in_flight[at];
        let done =
            write.statements.iter().map(|s| s.run(&mut self.source, &mut self.rng, nothing).0).collect();
        write.done = Some(done);
    }

    /// The reply is read (or an orphan is seen to have ended): the entry is appended, the write leaves the table.
    fn reply(&mut self) {
        let Some(at) = self.pick(true) else { return };
        let write = self.in_flight.remove(at);
        if write.missed {
            return;
        }
        let done = write.done.as_ref().expect("executed");
        let mut effects = Vec::new();
        let mut doubt = write.contended.then_some(Doubt::Contended);
        let had_effect = |(statement, (n, modified)): (&Statement, &(u32, u32))| match statement {
            Statement::Update { .. } => *modified > 0,
            _ => *n > 0,
        };
        let effective = write.statements.iter().zip(done).filter(|it| had_effect(*it)).count();
        // Two updates by key in one command: the reply has their totals only.
        let totals_only = effective == 1
            && write.statements.len() == 2
            && write.statements.iter().all(Statement::is_keyed_update);
        for (statement, (n, modified)) in write.statements.iter().zip(done) {
            if !had_effect((statement, &(*n, *modified))) && !write.orphan && !totals_only {
                continue;
            }
            let (n, modified) = if totals_only { (&0, &0) } else { (n, modified) };
            if matches!(
                statement,
                Statement::Update { keys: Select::One { .. }, .. }
                    | Statement::Delete { keys: Select::One { .. } }
            ) {
                doubt = Some(Doubt::Predicate);
            }
            let target = Target::new(ns(), statement.touch());
            if matches!(statement, Statement::Exchange(_)) {
                doubt = Some(Doubt::Dropped);
            }
            effects.push(Effect { target, op: statement.op(), n: *n, modified: *modified });
        }
        if write.orphan {
            doubt = Some(Doubt::Orphan);
        }
        // As `capture::Write` decides.
        let known = |effect: &Effect| matches!(effect.target.touch, Touch::Key(_)) && effect.n > 0;
        let atomic = write.atomic && doubt.is_none() && effects.len() > 1 && effects.iter().all(known);
        if !effects.is_empty() {
            let entry = Entry { mark: write.mark, doubt, atomic, effects, operation_time: None, at_ms: 0 };
            self.log.push((self.head, Arc::new(entry)));
        }
        self.head += 1;
    }

    /// The proxy is killed and started again: replies are lost, their writes may still run.
    fn proxy_dies(&mut self) {
        // A write that is not in the log has no mark to wait for: the scan waits until it has ended on the source.
        while let Some(at) = self.in_flight.iter().position(|write| write.missed) {
            let write = self.in_flight.remove(at);
            if write.done.is_none() {
                for statement in &write.statements {
                    statement.run(&mut self.source, &mut self.rng, nothing);
                }
            }
        }
        for write in &mut self.in_flight {
            write.orphan = true;
        }
        self.crash(Vec::new());
    }

    /// The replicator starts again, or has lost a server in the middle of a batch; `unsent` may still land on the
    /// target.
    pub fn crash(&mut self, unsent: Vec<Statement>) {
        self.batch = None;
        if let Stage::Converge { steps, taken } = std::mem::replace(&mut self.stage, Stage::Plan) {
            let keys: Vec<i64> = steps.into_iter().flat_map(|step| step.keys).collect();
            self.give_back(&keys, taken);
        }
        if self.rng.bool() {
            self.planner = Planner::new(self.rules, self.limits, self.sent);
            self.scan = None;
            if self.dirty_on_disk {
                self.planner.set_dirty(&ns());
            }
            if !self.extra.letters_on_disk {
                self.letters.clear();
            }
            for key in &self.letters {
                self.planner.set_dead(&ns(), &key_of(*key));
            }
        } else {
            self.planner.unknown_outcome(self.sent);
        }
        if self.extra.fence {
            // Whatever still runs has ended before anything else is written: all of it, or none.
            if self.rng.bool() {
                for statement in &unsent {
                    let refuses = self.refuses();
                    statement.run(&mut self.target, &mut self.rng, refuses);
                }
            }
        } else {
            self.late.extend(unsent);
        }
    }

    pub fn make_dirty(&mut self) {
        self.dirty_on_disk = true;
        self.planner.set_dirty(&ns());
    }
}
