//! The replication rules against random interleavings: writers, late replies, a replicator that reads and writes
//! in steps, crashes of either, commands that land late. The planner, the grouping of commands and the look at
//! their replies are the product's own; both servers and the log are small models.
//!
//! When all is quiet, the target must equal the source. With any rule left out, some interleaving diverges.
//! A failing seed is printed; `MODEL_SEEDS=1000000 cargo test -p replicator --test model` runs more.

#![allow(clippy::expect_used, clippy::panic, reason = "a test: its helpers fail it")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{RawBsonRef, rawdoc};
use fastrand::Rng;
use record::{Doubt, Effect, Entry, Key, Namespace, Op, Predicate, Raw, Target, Touch};
use replicator::plan::{Limits, Planner, Rules, Scan, Unit, Work, queues};
use replicator::replay::{Command, Lane, lanes};
use replicator::{Reply, WriteError};

const SEEDS: u64 = 20_000;

/// What the model itself may leave out, beside the planner's rules.
#[derive(Clone, Copy)]
struct Extra {
    /// Nothing is written before late commands have landed or died.
    fence: bool,
    /// A write whose outcome is unknown stays in flight until it has ended.
    orphans_in_flight: bool,
    /// A scan begins when no write that could not be recorded is under way any more.
    scan_waits: bool,
    /// The reconciler hands keys to the replicator, which reads them again.
    hand_over: bool,
    /// What is dirty stays so on disk until its scan has ended.
    dirty_until_the_end: bool,
    /// The cursor says how far the log was when a scan ended.
    sent_at_the_end: bool,
}

const ALL: Extra = Extra {
    fence: true,
    orphans_in_flight: true,
    scan_waits: true,
    hand_over: true,
    dirty_until_the_end: true,
    sent_at_the_end: true,
};

type Doc = [i64; 3];
type Store = BTreeMap<i64, Doc>;
const FIELDS: [&str; 3] = ["a", "b", "n"];

/// A statement, executed the same way on both sides.
#[derive(Clone, Debug)]
enum Statement {
    Insert(i64, Doc),
    Update { keys: Select, set: bool, field: usize, value: i64 },
    Delete { keys: Select },
}

#[derive(Clone, Copy, Debug)]
enum Select {
    Key(i64),
    One { field: usize, value: i64 },
    Many { field: usize, value: i64 },
}

impl Select {
    fn any(rng: &mut Rng, keys: i64) -> Select {
        let (field, value) = (rng.usize(..2), rng.i64(0..3));
        match rng.u32(..10) {
            0 | 1 => Select::Many { field, value },
            2 => Select::One { field, value },
            _ => Select::Key(rng.i64(0..keys)),
        }
    }

    fn find(self, store: &Store, rng: &mut Rng) -> Vec<i64> {
        match self {
            Select::Key(key) => store.contains_key(&key).then_some(key).into_iter().collect(),
            Select::Many { field, value } | Select::One { field, value } => {
                let mut found: Vec<i64> =
                    store.iter().filter(|(_, d)| d[field] == value).map(|(k, _)| *k).collect();
                rng.shuffle(&mut found);
                if matches!(self, Select::One { .. }) {
                    found.truncate(1);
                }
                found
            }
        }
    }

    fn filter(self) -> RawDocumentBuf {
        match self {
            Select::Key(key) => rawdoc! {"_id": key},
            Select::One { field: 0, value } | Select::Many { field: 0, value } => rawdoc! {"a": value},
            Select::One { value, .. } | Select::Many { value, .. } => rawdoc! {"b": value},
        }
    }

    fn touch(self) -> Touch {
        match self {
            Select::Key(key) => Touch::Key(key_of(key)),
            _ => Touch::Predicate(Predicate { filter: Raw(self.filter()), collation: None, variables: None }),
        }
    }
}

fn key_of(id: i64) -> Key {
    Key::of(&rawdoc! {"_id": id}).expect("a key")
}

impl Statement {
    fn any(rng: &mut Rng, keys: i64) -> Statement {
        match rng.u32(..10) {
            0..=2 => Statement::Insert(rng.i64(0..keys), [rng.i64(0..3), rng.i64(0..3), 0]),
            3 | 4 => Statement::Delete { keys: Select::any(rng, keys) },
            _ => {
                let keys = Select::any(rng, keys);
                let set = rng.bool();
                let field = if set { rng.usize(..2) } else { 2 };
                Statement::Update { keys, set, field, value: if set { rng.i64(0..3) } else { 1 } }
            }
        }
    }

    fn touch(&self) -> Touch {
        match self {
            Statement::Insert(key, _) => Touch::Key(key_of(*key)),
            Statement::Update { keys, .. } | Statement::Delete { keys } => keys.touch(),
        }
    }

    fn op(&self) -> Op {
        match self {
            Statement::Insert(key, [a, b, n]) => Op::Insert(rawdoc! {"_id": *key, "a": *a, "b": *b, "n": *n}),
            Statement::Update { keys, set, field, value } => {
                let mut change = RawDocumentBuf::new();
                change.append(bson::cstr!("x"), *value);
                let operator = if *set { "$set" } else { "$inc" };
                let multi = matches!(keys, Select::Many { .. });
                let field = i32::try_from(*field).expect("small");
                // The model's own notation: which field, by which operator.
                Op::Update(
                    rawdoc! {"q": keys.filter(), "u": {"op": operator, "field": field, "by": change}, "multi": multi},
                )
            }
            Statement::Delete { keys } => {
                let limit = i32::from(!matches!(keys, Select::Many { .. }));
                Op::Delete(rawdoc! {"q": keys.filter(), "limit": limit})
            }
        }
    }

    /// The statement that an entry's op stands for.
    fn of(op: &Op) -> Statement {
        let int = |doc: &RawDocument, name: &str| match doc.get(name).expect("well formed") {
            Some(RawBsonRef::Int64(n)) => n,
            Some(RawBsonRef::Int32(n)) => n.into(),
            other => panic!("{name}: {other:?}"),
        };
        let select = |statement: &RawDocument, many: bool| {
            let q = statement.get_document("q").expect("q");
            if q.get("_id").expect("well formed").is_some() {
                return Select::Key(int(q, "_id"));
            }
            let field = usize::from(q.get("a").expect("well formed").is_none());
            let value = int(q, FIELDS[field]);
            if many { Select::Many { field, value } } else { Select::One { field, value } }
        };
        match op {
            Op::Insert(doc) => Statement::Insert(int(doc, "_id"), FIELDS.map(|name| int(doc, name))),
            Op::Update(statement) => {
                let u = statement.get_document("u").expect("u");
                Statement::Update {
                    keys: select(statement, statement.get_bool("multi").expect("multi")),
                    set: u.get_str("op").expect("op") == "$set",
                    field: usize::try_from(int(u, "field")).expect("small"),
                    value: int(u.get_document("by").expect("by"), "x"),
                }
            }
            Op::Delete(statement) => {
                Statement::Delete { keys: select(statement, int(statement, "limit") == 0) }
            }
        }
    }

    fn is_keyed_update(&self) -> bool {
        matches!(self, Statement::Update { keys: Select::Key(_), .. })
    }

    /// Runs it; returns matched (or inserted) and modified.
    fn run(&self, store: &mut Store, rng: &mut Rng) -> (u32, u32) {
        match self {
            Statement::Insert(key, doc) => {
                if store.contains_key(key) {
                    return (0, 0);
                }
                store.insert(*key, *doc);
                (1, 0)
            }
            Statement::Update { keys, set, field, value } => {
                let (mut n, mut modified) = (0, 0);
                for key in keys.find(store, rng) {
                    let slot = &mut store.get_mut(&key).expect("found")[*field];
                    let new = if *set { *value } else { *slot + value };
                    modified += u32::from(*slot != new);
                    *slot = new;
                    n += 1;
                }
                (n, modified)
            }
            Statement::Delete { keys } => {
                let found = keys.find(store, rng);
                for key in &found {
                    store.remove(key);
                }
                (u32::try_from(found.len()).expect("few"), 0)
            }
        }
    }
}

/// A write on its way.
#[derive(Clone)]
struct Write {
    mark: u64,
    statements: Vec<Statement>,
    /// Per statement, once executed.
    done: Option<Vec<(u32, u32)>>,
    contended: bool,
    orphan: bool,
    /// The log took nothing of it.
    missed: bool,
}

fn conflict(a: &Write, b: &Write) -> bool {
    let touches = |w: &Write| w.statements.iter().map(Statement::touch).collect::<Vec<_>>();
    let b = touches(b);
    touches(a).iter().any(|x| b.iter().any(|y| !matches!((x, y), (Touch::Key(x), Touch::Key(y)) if x != y)))
}

struct Model {
    rng: Rng,
    extra: Extra,
    rules: Rules,
    /// Small, so that they are met.
    limits: Limits,
    keys: i64,
    source: Store,
    target: Store,
    head: u64,
    in_flight: Vec<Write>,
    log: Vec<(u64, Arc<Entry>)>,
    // the replicator
    planner: Planner,
    applied: usize,
    sent: u64,
    batch: Option<(usize, u64, VecDeque<Unit>)>,
    stage: Stage,
    late: Vec<Statement>,
    /// How seldom it does a step.
    slowness: u32,
    // the reconciler
    missed_of_12: u32,
    dirty_on_disk: bool,
    scan: Option<Comparing>,
}

enum Stage {
    Plan,
    Find(Box<Work>),
    /// `taken` units of the batch are done with it; `None`: the reconciler handed the keys over.
    Read {
        keys: Vec<i64>,
        got: HashMap<i64, Option<Doc>>,
        taken: Option<usize>,
    },
}

/// The reconciler on its way through the namespace, key by key, each side at a moment of its own.
struct Comparing {
    scan: Scan,
    left: Vec<i64>,
    key: Option<i64>,
    source: Option<Option<Doc>>,
    target: Option<Option<Doc>>,
    /// Found to differ, with the source's version that was seen.
    differ: Vec<(i64, Option<Doc>)>,
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

fn ns() -> Namespace {
    Namespace::new("d", "c")
}

impl Model {
    fn new(seed: u64, rules: Rules, extra: Extra) -> Model {
        let mut rng = Rng::with_seed(seed);
        let keys = *rng.choice(&[2, 3, 5, 8]).expect("some");
        let missed_of_12 = *rng.choice(&[0, 1, 5]).expect("some");
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
        }
    }

    fn run(mut self) -> Result<(), String> {
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
        let count = if self.rng.u32(..5) == 0 { 2 } else { 1 };
        let statements = (0..count).map(|_| Statement::any(&mut self.rng, self.keys)).collect();
        let missed = self.rng.u32(..12) < self.missed_of_12;
        let mut write =
            Write { mark: self.head, statements, done: None, contended: false, orphan: false, missed };
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
        let done = write.statements.iter().map(|s| s.run(&mut self.source, &mut self.rng)).collect();
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
            effects.push(Effect { target, op: Some(statement.op()), n: *n, modified: *modified });
        }
        if write.orphan {
            doubt = Some(Doubt::Orphan);
        }
        if !effects.is_empty() {
            let entry = Entry { mark: write.mark, doubt, effects, operation_time: None, at_ms: 0 };
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
                    statement.run(&mut self.source, &mut self.rng);
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
    fn crash(&mut self, unsent: Vec<Statement>) {
        self.batch = None;
        if let Stage::Read { keys, taken, .. } = std::mem::replace(&mut self.stage, Stage::Plan) {
            self.give_back(&keys, taken);
        }
        if self.rng.bool() {
            self.planner = Planner::new(self.rules, self.limits, self.sent);
            self.scan = None;
            if self.dirty_on_disk {
                self.planner.set_dirty(&ns());
            }
        } else {
            self.planner.unknown_outcome(self.sent);
        }
        if self.extra.fence {
            // Whatever still runs has ended before anything else is written: all of it, or none.
            if self.rng.bool() {
                for statement in &unsent {
                    statement.run(&mut self.target, &mut self.rng);
                }
            }
        } else {
            self.late.extend(unsent);
        }
    }

    fn make_dirty(&mut self) {
        self.dirty_on_disk = true;
        self.planner.set_dirty(&ns());
    }

    /// One step of the reconciler. It asks the replicator only between two of its steps.
    fn compare(&mut self) {
        let Some(scan) = &mut self.scan else {
            let waits = self.extra.scan_waits && self.in_flight.iter().any(|write| write.missed);
            if matches!(self.stage, Stage::Plan) && !waits {
                let mut left: Vec<i64> = (0..self.keys).collect();
                self.rng.shuffle(&mut left);
                let scan = self.planner.scan_begins(&ns());
                self.dirty_on_disk = self.extra.dirty_until_the_end;
                self.scan =
                    Some(Comparing { scan, left, key: None, source: None, target: None, differ: Vec::new() });
            }
            return;
        };
        let Some(key) = scan.key.or_else(|| scan.left.pop()) else { return self.ask() };
        scan.key = Some(key);
        match (&scan.source, &scan.target) {
            (Some(source), Some(target)) => {
                if source != target {
                    scan.differ.push((key, *source));
                }
                (scan.key, scan.source, scan.target) = (None, None, None);
            }
            (None, Some(_)) => scan.source = Some(self.source.get(&key).copied()),
            (Some(_), None) => scan.target = Some(self.target.get(&key).copied()),
            (None, None) if self.rng.bool() => scan.source = Some(self.source.get(&key).copied()),
            (None, None) => scan.target = Some(self.target.get(&key).copied()),
        }
    }

    fn ask(&mut self) {
        let Some(scan) = self.scan.as_mut().filter(|_| matches!(self.stage, Stage::Plan)) else { return };
        let differ = std::mem::take(&mut scan.differ);
        if !self.extra.hand_over && !differ.is_empty() {
            for (key, doc) in differ {
                let _ = match doc {
                    Some(doc) => self.target.insert(key, doc),
                    None => self.target.remove(&key),
                };
            }
            return;
        }
        if !differ.is_empty() {
            let keys = differ.into_iter().map(|(key, _)| key).collect();
            self.stage = Stage::Read { keys, got: HashMap::new(), taken: None };
            return;
        }
        if self.extra.sent_at_the_end {
            self.sent = self.sent.max(self.head);
        }
        if self.planner.scan_ended(&ns(), scan.scan, self.head) {
            self.dirty_on_disk = false;
        }
        self.scan = None;
    }

    /// The reconciler is told that its keys were not converged.
    fn give_back(&mut self, keys: &[i64], taken: Option<usize>) {
        if let (None, Some(scan)) = (taken, &mut self.scan) {
            scan.left.extend(keys);
        }
    }

    fn late_lands(&mut self) {
        let at = self.rng.usize(..self.late.len());
        let statement = self.late.remove(at);
        statement.run(&mut self.target, &mut self.rng);
    }

    fn replicate(&mut self, crashes: bool) {
        match std::mem::replace(&mut self.stage, Stage::Plan) {
            Stage::Plan => self.plan(crashes),
            Stage::Find(work) => self.find(&work),
            Stage::Read { keys, got, taken } => self.read(keys, got, taken, crashes),
        }
    }

    fn plan(&mut self, crashes: bool) {
        if self.batch.is_none() {
            let count = *self.rng.choice(&[1, 2, 5, 20]).expect("some");
            let until = (self.applied + count).min(self.log.len());
            let entries: Vec<Arc<Entry>> =
                self.log[self.applied..until].iter().map(|(_, e)| e.clone()).collect();
            let end = self.log[until - 1].0 + 1;
            let queue = queues(&entries).into_iter().next().map(|(_, queue)| queue).unwrap_or_default();
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
        let replayed = std::mem::take(&mut work.replay);
        if !replayed.is_empty() || work.multi.is_some() {
            self.sent = self.sent.max(*end);
        }
        let lanes = lanes(&replayed, self.rng.usize(1..4));
        let multi = work.multi.as_ref().and_then(Command::of_one);
        let in_order: Vec<&Command<'_>> = match &multi {
            Some(command) => vec![command],
            None => interleave(&lanes, &mut self.rng),
        };
        let total: usize = in_order.iter().map(|command| command.all().len()).sum();
        let stop = if crashes && self.rng.u32(..10) == 0 { self.rng.usize(..=total) } else { usize::MAX };
        let mut sent = 0;
        let mut unsent = Vec::new();
        for command in in_order {
            let mut reply = Reply::default();
            for (index, unit) in command.all().iter().enumerate() {
                let statement = Statement::of(unit.effect().op.as_ref().expect("replayed"));
                if sent >= stop {
                    unsent.push(statement);
                    continue;
                }
                sent += 1;
                let (n, modified) = statement.run(&mut self.target, &mut self.rng);
                reply.n += u64::from(n);
                reply.modified += u64::from(modified);
                if n == 0 && matches!(statement, Statement::Insert(..)) {
                    reply.errors.push(WriteError {
                        index,
                        code: 11000,
                        message: String::new(),
                        key_value: None,
                    });
                    if command.is_ordered() {
                        break;
                    }
                }
            }
            if sent < stop {
                for unit in command.different(&reply) {
                    if let Touch::Key(key) = &unit.effect().target.touch {
                        work.converge.keys.push(key.clone());
                    }
                }
            }
        }
        if stop != usize::MAX {
            return self.crash(unsent);
        }
        self.stage = Stage::Find(Box::new(work));
    }

    fn find(&mut self, work: &Work) {
        let id = |key: &Key| match key.id() {
            RawBsonRef::Int64(id) => id,
            other => panic!("{other:?}"),
        };
        let mut keys: Vec<i64> = work.converge.keys.iter().map(id).collect();
        for predicate in &work.converge.predicates {
            let field = usize::from(predicate.filter.0.get("a").expect("well formed").is_none());
            let value = predicate.filter.0.get_i64(FIELDS[field]).expect("a value");
            keys.extend(self.target.iter().filter(|(_, d)| d[field] == value).map(|(k, _)| *k));
        }
        keys.sort_unstable();
        keys.dedup();
        self.stage = Stage::Read { keys, got: HashMap::new(), taken: Some(work.taken) };
    }

    fn read(
        &mut self,
        keys: Vec<i64>,
        mut got: HashMap<i64, Option<Doc>>,
        taken: Option<usize>,
        crashes: bool,
    ) {
        let missing: Vec<i64> = keys.iter().copied().filter(|k| !got.contains_key(k)).collect();
        if !missing.is_empty() {
            if crashes && self.rng.u32(..20) == 0 {
                self.give_back(&keys, taken);
                return self.crash(Vec::new()); // the source is away; what was replayed before is on the target
            }
            let count = self.rng.usize(1..4);
            got.extend(missing.iter().take(count).map(|k| (*k, self.source.get(k).copied())));
            self.stage = Stage::Read { keys, got, taken };
            return;
        }
        let head = self.head;
        if !keys.is_empty() {
            self.sent = self.sent.max(head);
        }
        let crash = crashes && self.rng.u32(..10) == 0;
        let written = if crash { self.rng.usize(..=keys.len()) } else { keys.len() };
        for key in &keys[..written] {
            let _ = match got[key] {
                Some(doc) => self.target.insert(*key, doc),
                None => self.target.remove(key),
            };
        }
        if crash {
            self.give_back(&keys, taken);
            return self.crash(Vec::new());
        }
        self.planner.converged(&ns(), keys.iter().map(|k| key_of(*k)), head);
        if let Some(taken) = taken {
            let (_, _, queue) = self.batch.as_mut().expect("a batch is under way");
            drop(queue.drain(..taken));
        }
    }
}

fn seeds() -> u64 {
    std::env::var("MODEL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS)
}

#[test]
fn no_interleaving_diverges() {
    for seed in 0..seeds() {
        if let Err(difference) = Model::new(seed, Rules::default(), ALL).run() {
            panic!("seed {seed} diverges:\n{difference}");
        }
    }
}

#[test]
fn without_any_one_rule_some_interleaving_diverges() {
    let rules = Rules::default();
    let cases: [(&str, Rules, Extra); 14] = [
        ("doubt", Rules { doubt: false, ..rules }, ALL),
        ("ahead", Rules { ahead: false, ..rules }, ALL),
        ("sent", Rules { sent: false, ..rules }, ALL),
        ("barrier", Rules { barrier: false, ..rules }, ALL),
        ("lone_multi", Rules { lone_multi: false, ..rules }, ALL),
        ("dirty", Rules { dirty: false, ..rules }, ALL),
        ("scan_floor", Rules { scan_floor: false, ..rules }, ALL),
        ("scan_again", Rules { scan_again: false, ..rules }, ALL),
        ("scan_waits", rules, Extra { scan_waits: false, ..ALL }),
        ("hand_over", rules, Extra { hand_over: false, ..ALL }),
        ("dirty_until_the_end", rules, Extra { dirty_until_the_end: false, ..ALL }),
        ("sent_at_the_end", rules, Extra { sent_at_the_end: false, ..ALL }),
        ("fence", rules, Extra { fence: false, ..ALL }),
        ("orphans_in_flight", rules, Extra { orphans_in_flight: false, ..ALL }),
    ];
    for (name, rules, extra) in cases {
        let found = (0..seeds() * 10).find(|seed| Model::new(*seed, rules, extra).run().is_err());
        println!("without {name}: first divergence at seed {found:?}");
        assert!(found.is_some(), "without the rule `{name}` nothing diverges: is it needed?");
    }
}
