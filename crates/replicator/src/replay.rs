//! Sends certain statements again, in few commands, and says which keys did not come out as on the source.
//!
//! - statements are spread over [`Lane`]s, a key's all over one: lanes need no order among each other. What came one after
//!   the other mostly lies side by side on the server as well, so a lane is a stretch of them, not every eighth
//! - a lane is a row of *levels*, sent one after the other; the commands of one level have no key in common and may be
//!   under way together. So a lane usually is one level of up to three commands: its inserts, updates and deletes
//! - a command that holds a key twice is ordered
//!
//! Not here: what to do about a difference (`converge.rs` copies the key).

use std::collections::HashMap;

use bson::raw::{RawArrayBuf, RawDocument, RawDocumentBuf};
use bson::{cstr, rawdoc};
use record::{Key, Namespace, Op, Touch};

use crate::plan::Unit;
use crate::target::{Reply, Validation};

/// One command carries at most this many bytes of statements; the server takes 16 MiB and a little
/// (`wire-facts.md` 1.3), and one statement alone may be that large.
const COMMAND_BYTES_MAX: usize = 8 << 20;
/// One command carries at most this many statements; the server takes 100,000.
const COMMAND_STATEMENTS_MAX: usize = 5_000;
/// Fewer statements than this are not worth another command.
const LANE_STATEMENTS_MIN: usize = 250;

/// One write command with the statements that it carries.
#[derive(Debug)]
pub struct Command<'a> {
    kind: Kind,
    units: Vec<&'a Unit>,
    bytes: usize,
    ordered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Insert,
    Update,
    Delete,
}

/// Commands on keys that no other lane has.
#[derive(Debug, Default)]
pub struct Lane<'a> {
    levels: Vec<Vec<Command<'a>>>,
}

/// Where a key's last statement stands.
#[derive(Debug, Clone, Copy)]
struct Last {
    lane: usize,
    level: usize,
    /// In the level.
    place: usize,
}

/// How many lanes so many statements are worth, of those that there are.
pub fn lanes_for(statements: usize, lanes_max: usize) -> usize {
    (statements / LANE_STATEMENTS_MIN).clamp(1, lanes_max.max(1))
}

/// Spreads keyed statements, given in the log's order, over so many lanes; at least one.
pub fn lanes(units: &[Unit], count: usize) -> Vec<Lane<'_>> {
    let stretch = units.len().div_ceil(count.max(1)).max(1);
    let mut lanes: Vec<Lane<'_>> = (0..count.max(1)).map(|_| Lane::default()).collect();
    let mut last: HashMap<&Key, Last> = HashMap::with_capacity(units.len());
    for (at, unit) in units.iter().enumerate() {
        let (Touch::Key(key), Some((kind, document))) = (&unit.effect().target.touch, statement(unit)) else {
            continue;
        };
        let before = last.get(key);
        let lane = before.map_or(at / stretch, |before| before.lane);
        let (level, place) = lanes[lane].push(unit, before, kind, document.as_bytes().len());
        last.insert(key, Last { lane, level, place });
    }
    lanes
}

impl<'a> Lane<'a> {
    /// Commands that may be under way together, level by level.
    pub fn levels(&self) -> &[Vec<Command<'a>>] {
        &self.levels
    }

    /// Behind its key's last statement, if it has one; says at which level and place.
    fn push(&mut self, unit: &'a Unit, before: Option<&Last>, kind: Kind, bytes: usize) -> (usize, usize) {
        let at = match before {
            // Behind its predecessor, in the same command if it is of the same kind: from then on that is ordered. (Two
            // inserts, or two deletes, of one key in a row cannot both have had an effect; the order keeps even that
            // harmless.)
            Some(&Last { level, place, .. }) => {
                let command = &mut self.levels[level][place];
                if command.kind == kind && command.takes(bytes) {
                    command.ordered = true;
                    (level, place)
                } else {
                    (level + 1, self.place(level + 1, kind, bytes))
                }
            }
            None => (0, self.place(0, kind, bytes)),
        };
        let command = &mut self.levels[at.0][at.1];
        command.units.push(unit);
        command.bytes += bytes;
        at
    }

    /// A command of this kind with room for so many bytes.
    fn place(&mut self, level: usize, kind: Kind, bytes: usize) -> usize {
        if self.levels.len() <= level {
            self.levels.push(Vec::new());
        }
        let commands = &mut self.levels[level];
        // The last one of its kind: those before it are full.
        let open = commands.iter().rposition(|command| command.kind == kind);
        open.filter(|place| commands[*place].takes(bytes)).unwrap_or_else(|| {
            commands.push(Command { kind, units: Vec::new(), bytes: 0, ordered: false });
            commands.len() - 1
        })
    }
}

fn statement(unit: &Unit) -> Option<(Kind, &RawDocument)> {
    Some(match unit.effect().op.as_ref()? {
        Op::Insert(document) => (Kind::Insert, document),
        Op::Update(statement) => (Kind::Update, statement),
        Op::Delete(statement) => (Kind::Delete, statement),
        Op::Over(_) => return None,
    })
}

impl<'a> Command<'a> {
    /// The command that replays one statement over many documents.
    pub fn of_one(unit: &'a Unit) -> Option<Command<'a>> {
        let (kind, document) = statement(unit)?;
        Some(Command { kind, units: vec![unit], bytes: document.as_bytes().len(), ordered: true })
    }

    fn takes(&self, bytes: usize) -> bool {
        self.units.is_empty()
            || self.units.len() < COMMAND_STATEMENTS_MAX && self.bytes + bytes <= COMMAND_BYTES_MAX
    }

    /// Whether a statement that fails keeps those behind it from being run.
    pub fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// Whether it writes documents that a validator could look at.
    pub fn validation(&self) -> Validation {
        if self.kind == Kind::Delete { Validation::Asked } else { Validation::Bypassed }
    }

    /// Its statements, in order.
    pub fn all(&self) -> &[&'a Unit] {
        &self.units
    }

    /// The bytes for the server, without a write concern.
    pub fn encode(&self, ns: &Namespace) -> RawDocumentBuf {
        let mut statements = RawArrayBuf::new();
        for (_, document) in self.units.iter().filter_map(|unit| statement(unit)) {
            statements.push(document);
        }
        let mut command = RawDocumentBuf::new();
        match self.kind {
            Kind::Insert => {
                command.append(cstr!("insert"), ns.coll());
                command.append(cstr!("documents"), statements);
            }
            Kind::Update => {
                command.append(cstr!("update"), ns.coll());
                command.append(cstr!("updates"), statements);
            }
            Kind::Delete => {
                command.append(cstr!("delete"), ns.coll());
                command.append(cstr!("deletes"), statements);
            }
        }
        command.append(cstr!("ordered"), self.ordered);
        command
    }

    /// The statements that did not do here what they did on the source. Counts are for the whole command: when
    /// they differ, it may have been any of its statements.
    pub fn different(&self, reply: &Reply) -> Vec<&'a Unit> {
        let failed: Vec<usize> = reply.errors.iter().map(|error| error.index).collect();
        // What is behind the first failure of an ordered command was not run.
        let end = failed.iter().min().filter(|_| self.ordered).map_or(self.units.len(), |first| *first);
        let end = end.min(self.units.len());
        let passed = self.units[..end].iter().enumerate().filter(|(index, _)| !failed.contains(index));
        let (mut n, mut modified, mut upserted, mut open) = (0, 0, 0, 0);
        for (_, unit) in passed {
            let effect = unit.effect();
            let keyed = matches!(effect.target.touch, Touch::Key(_));
            n += u64::from(effect.n);
            modified += u64::from(effect.modified);
            upserted += if keyed { u64::from(effect.n.saturating_sub(effect.modified)) } else { 0 };
            // Whether it has a part in the source's total, the source did not say.
            open += u64::from(effect.n == 0);
        }
        let as_on_the_source = (n..=n + open).contains(&reply.n)
            && (self.kind != Kind::Update
                || (modified..=modified + open).contains(&reply.modified) && reply.upserted == upserted);
        if !as_on_the_source {
            return self.units.clone();
        }
        if self.ordered {
            return self.units[end..].to_vec();
        }
        failed.iter().filter_map(|index| self.units.get(*index).copied()).collect()
    }
}

/// The replacement of one document by its source version, as an update statement. As a pipeline where a plain
/// replacement would be refused or changed: a first field with `$`, a top-level `Timestamp(0, 0)` (checked on
/// 6.0.5: `$literal` keeps every byte, fields that occur twice too).
pub fn replacement(document: &RawDocument) -> Option<RawDocumentBuf> {
    let key = Key::of(document)?;
    let mut statement = RawDocumentBuf::new();
    statement.append(cstr!("q"), key.filter());
    if is_plain(document) {
        statement.append(cstr!("u"), document);
    } else {
        let mut stages = RawArrayBuf::new();
        stages.push(rawdoc! {"$replaceWith": {"$literal": document.to_owned()}});
        statement.append(cstr!("u"), stages);
    }
    statement.append(cstr!("upsert"), true);
    Some(statement)
}

fn is_plain(document: &RawDocument) -> bool {
    document.iter_elements().flatten().all(|element| {
        let zero = bson::Timestamp { time: 0, increment: 0 };
        let is_zero = element.element_type() == bson::spec::ElementType::Timestamp
            && element.value().is_ok_and(|value| value.as_timestamp() == Some(zero));
        !is_zero && !element.key().as_str().starts_with('$')
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use record::{Effect, Entry, Target};

    fn unit(op: Op, id: i32) -> Unit {
        let key = Key::of(&rawdoc! {"_id": id}).unwrap();
        let modified = u32::from(matches!(op, Op::Update(_)));
        let target = Target::new(Namespace::new("d", "c"), Touch::Key(key));
        let effects = vec![Effect { target, op: Some(op), n: 1, modified }];
        let entry = Entry { mark: 0, doubt: None, atomic: false, effects, operation_time: None, at_ms: 0 };
        Unit::all(0, &Arc::new(entry)).next().unwrap()
    }
    fn insert(id: i32) -> Unit {
        unit(Op::Insert(rawdoc! {"_id": id}), id)
    }
    fn update(id: i32) -> Unit {
        unit(Op::Update(rawdoc! {"q": {"_id": id}, "u": {"$inc": {"n": 1}}}), id)
    }
    fn delete(id: i32) -> Unit {
        unit(Op::Delete(rawdoc! {"q": {"_id": id}, "limit": 1}), id)
    }

    fn one(units: &[Unit]) -> Lane<'_> {
        lanes(units, 1).remove(0)
    }
    fn shape(lane: &Lane<'_>) -> Vec<Vec<(Kind, usize, bool)>> {
        let level =
            |level: &Vec<Command<'_>>| level.iter().map(|c| (c.kind, c.units.len(), c.ordered)).collect();
        lane.levels().iter().map(level).collect()
    }

    #[test]
    fn few_statements_are_not_spread() {
        let counts = [0, 249, 500, 50_000].map(|statements| lanes_for(statements, 8));
        assert_eq!(counts, [1, 1, 2, 8]);
    }

    #[test]
    fn a_batch_of_distinct_keys_is_three_commands_at_once() {
        let units = [insert(2), update(1), delete(3), update(4), insert(5)];
        let expected = [[(Kind::Insert, 2, false), (Kind::Update, 2, false), (Kind::Delete, 1, false)]];
        assert_eq!(shape(&one(&units)), expected);
    }

    #[test]
    fn the_statements_of_a_key_keep_their_order() {
        let units = [insert(1), update(1), update(1), delete(1), insert(1), update(2)];
        let expected = [
            vec![(Kind::Insert, 1, false), (Kind::Update, 1, false)],
            vec![(Kind::Update, 2, true)],
            vec![(Kind::Delete, 1, false)],
            vec![(Kind::Insert, 1, false)],
        ];
        assert_eq!(shape(&one(&units)), expected);
    }

    #[test]
    fn a_full_command_is_followed_by_another_and_order_is_kept() {
        let many = i32::try_from(COMMAND_STATEMENTS_MAX).unwrap();
        let mut units: Vec<Unit> = (0..=many).map(update).collect();
        units.push(update(0));
        units.push(update(many));
        let lanes = lanes(&units, 1);
        let expected = [
            vec![(Kind::Update, COMMAND_STATEMENTS_MAX, false), (Kind::Update, 2, true)],
            vec![(Kind::Update, 1, false)],
        ];
        assert_eq!(shape(&lanes[0]), expected);
    }

    #[test]
    fn a_key_has_one_lane() {
        let units: Vec<Unit> = (0..2_000).flat_map(|id| [insert(id), update(id)]).collect();
        let lanes = lanes(&units, 5);
        assert_eq!(lanes.len(), 5);
        for lane in &lanes {
            assert_eq!(lane.levels().len(), 2);
            assert_eq!(lane.levels()[0][0].units.len(), lane.levels()[1][0].units.len());
            assert_eq!(lane.levels()[0][0].units.len(), 400);
        }
    }

    #[test]
    fn a_count_that_is_not_the_sources_suspects_the_whole_command() {
        let units = [update(1), update(2)];
        let lane = one(&units);
        let command = &lane.levels()[0][0];
        assert!(command.different(&Reply { n: 2, modified: 2, ..Reply::default() }).is_empty());
        assert_eq!(command.different(&Reply { n: 1, modified: 1, ..Reply::default() }).len(), 2);
        assert_eq!(command.different(&Reply { n: 2, modified: 1, upserted: 1, ..Reply::default() }).len(), 2);
    }

    #[test]
    fn an_ordered_commands_counts_before_its_failure_are_the_sources_too() {
        let units = [update(1), update(1), update(1)];
        let lane = one(&units);
        let command = &lane.levels()[0][0];
        let failed = |n: u64| {
            let error = crate::target::WriteError {
                index: 2,
                code: 11000,
                message: String::new(),
                key_pattern: None,
                key_value: None,
            };
            command.different(&Reply { n, modified: n, errors: vec![error], ..Reply::default() }).len()
        };
        assert!(command.is_ordered());
        assert_eq!(failed(2), 1);
        assert_eq!(failed(1), 3, "one of the first two did nothing");
    }

    #[test]
    fn a_failed_statement_suspects_its_key_alone() {
        let units = [insert(1), insert(2)];
        let lane = one(&units);
        let command = &lane.levels()[0][0];
        let error = crate::target::WriteError {
            index: 1,
            code: 11000,
            message: String::new(),
            key_pattern: None,
            key_value: None,
        };
        let different = command.different(&Reply { n: 1, errors: vec![error], ..Reply::default() });
        assert_eq!(different.len(), 1);
        assert_eq!(different[0].effect(), units[1].effect());
    }
}
