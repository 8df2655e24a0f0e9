//! Sends certain statements again, in few commands, and says which keys did not come out as on the source.
//!
//! Statements on different keys need no order. A key's own statements are put into *slots* that are sent one
//! after another, so that a whole batch usually is three commands: its inserts, its updates, its deletes.
//! A slot that holds a key twice is an ordered command.
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
const COMMAND_BYTES_MAX: usize = 12 << 20;
/// One command carries at most this many statements.
const COMMAND_STATEMENTS_MAX: usize = 10_000;

/// One write command with the statements that it carries.
#[derive(Debug)]
pub struct Command<'a> {
    kind: Kind,
    units: Vec<&'a Unit>,
    ordered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Insert = 0,
    Update = 1,
    Delete = 2,
}

/// Puts keyed statements, given in the log's order, into few commands to be sent one after another.
pub fn commands(units: &[Unit]) -> Vec<Command<'_>> {
    let mut last: HashMap<&Key, usize> = HashMap::new();
    let mut slots: Vec<Command<'_>> = Vec::new();
    for unit in units {
        let (Touch::Key(key), Some((kind, _))) = (&unit.effect.target.touch, statement(unit)) else {
            continue;
        };
        let previous = last.get(key).copied();
        let mut slot = kind as usize;
        if let Some(previous) = previous {
            slot += previous / 3 * 3;
            if slot < previous {
                slot += 3;
            }
        }
        while slots.len() <= slot {
            let kind = [Kind::Insert, Kind::Update, Kind::Delete][slots.len() % 3];
            slots.push(Command { kind, units: Vec::new(), ordered: false });
        }
        // Two inserts, or two deletes, of one key in a row cannot both have had an effect; the order keeps
        // even that harmless.
        slots[slot].ordered |= previous == Some(slot);
        slots[slot].units.push(unit);
        last.insert(key, slot);
    }
    slots.into_iter().filter(|slot| !slot.units.is_empty()).flat_map(Command::split).collect()
}

fn statement(unit: &Unit) -> Option<(Kind, &RawDocument)> {
    Some(match unit.effect.op.as_ref()? {
        Op::Insert(document) => (Kind::Insert, document),
        Op::Update(statement) => (Kind::Update, statement),
        Op::Delete(statement) => (Kind::Delete, statement),
    })
}

impl<'a> Command<'a> {
    /// The command that replays one statement over many documents.
    pub fn of_one(unit: &'a Unit) -> Option<Command<'a>> {
        let (kind, _) = statement(unit)?;
        Some(Command { kind, units: vec![unit], ordered: true })
    }

    fn split(self) -> Vec<Command<'a>> {
        let mut parts = Vec::new();
        let mut bytes = 0;
        let mut part = Command { units: Vec::new(), ..self };
        for unit in self.units {
            let size = statement(unit).map_or(0, |(_, document)| document.as_bytes().len());
            let full = bytes + size > COMMAND_BYTES_MAX || part.units.len() >= COMMAND_STATEMENTS_MAX;
            if full && !part.units.is_empty() {
                let next = Command { units: Vec::new(), ..part };
                parts.push(std::mem::replace(&mut part, next));
                bytes = 0;
            }
            bytes += size;
            part.units.push(unit);
        }
        parts.push(part);
        parts
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
        if let (true, Some(first)) = (self.ordered, failed.iter().min()) {
            return self.units[*first.min(&self.units.len())..].to_vec();
        }
        let passed = self.units.iter().enumerate().filter(|(index, _)| !failed.contains(index));
        let (mut n, mut modified, mut upserted, mut open) = (0, 0, 0, 0);
        for (_, unit) in passed {
            let effect = &unit.effect;
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
    use super::*;
    use record::{Effect, Target};

    fn unit(op: Op, id: i32) -> Unit {
        let key = Key::of(&rawdoc! {"_id": id}).unwrap();
        let modified = u32::from(matches!(op, Op::Update(_)));
        let target = Target::new(Namespace::new("d", "c"), Touch::Key(key));
        Unit {
            entry: 0,
            mark: 0,
            doubt: None,
            effect: Effect { target, op: Some(op), n: 1, modified },
            operation_time: None,
        }
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

    #[test]
    fn a_batch_of_distinct_keys_is_three_commands() {
        let units = [update(1), insert(2), delete(3), update(4), insert(5)];
        let shape: Vec<_> = commands(&units).iter().map(|c| (c.kind, c.units.len(), c.ordered)).collect();
        assert_eq!(shape, [(Kind::Insert, 2, false), (Kind::Update, 2, false), (Kind::Delete, 1, false)]);
    }

    #[test]
    fn the_statements_of_a_key_keep_their_order() {
        let units = [insert(1), update(1), update(1), delete(1), insert(1), update(2)];
        let shape: Vec<_> = commands(&units).iter().map(|c| (c.kind, c.units.len(), c.ordered)).collect();
        let expected = [
            (Kind::Insert, 1, false),
            (Kind::Update, 3, true),
            (Kind::Delete, 1, false),
            (Kind::Insert, 1, false),
        ];
        assert_eq!(shape, expected);
    }

    #[test]
    fn a_count_that_is_not_the_sources_suspects_the_whole_command() {
        let units = [update(1), update(2)];
        let command = &commands(&units)[0];
        assert!(command.different(&Reply { n: 2, modified: 2, ..Reply::default() }).is_empty());
        assert_eq!(command.different(&Reply { n: 1, modified: 1, ..Reply::default() }).len(), 2);
        assert_eq!(command.different(&Reply { n: 2, modified: 1, upserted: 1, ..Reply::default() }).len(), 2);
    }

    #[test]
    fn a_failed_statement_suspects_its_key_alone() {
        let units = [insert(1), insert(2)];
        let command = &commands(&units)[0];
        let error =
            crate::target::WriteError { index: 1, code: 11000, message: String::new(), key_value: None };
        let different = command.different(&Reply { n: 1, errors: vec![error], ..Reply::default() });
        assert_eq!(different.len(), 1);
        assert_eq!(different[0].effect, units[1].effect);
    }
}
