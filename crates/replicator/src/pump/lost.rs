//! The source is gone for good: everything that the log has is brought to the target, and what cannot be known is told.
//!
//! - every statement that the log keeps is sent, in the log's order within each namespace, certain or not
//! - nothing can be converged, since nobody has the truth any more. What would have been is listed: entries in doubt,
//!   entries whose statement was not kept, what may have been sent before and does not bear it twice, commands over
//!   whole collections, marks without an outcome, dirty namespaces, dead letters
//! - as far as it comes it is remembered: after a failure it is run again

use std::collections::{BTreeMap, BTreeSet};

use bson::raw::{RawArrayBuf, RawDocument};
use bson::{Bson, cstr, rawdoc};
use record::{Key, Namespace, Op, Touch};
use serde::Serialize;
use synclog::CursorSync;
use tracing::info;

use super::Pump;
use crate::error::{Class, ServerError};
use crate::execute::Stall;
use crate::plan::{Unit, queues};
use crate::replay::{Command, lanes, replacement};
use crate::shared::now_ms;
use crate::state::{Cause, Dirty};
use crate::target::Validation;

/// Entries between two checkpoints.
const PORTION: usize = 1_000;
/// Keys that are listed of one namespace; all are counted.
const KEYS_MAX: usize = 1_000;

/// What became of the log without its source.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// Entries that were brought to the target.
    pub entries: u64,
    /// What may not be as it was on the source, by namespace.
    pub unknown: BTreeMap<String, Unknown>,
}

/// What is not known of one namespace.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unknown {
    /// Why.
    pub reasons: BTreeSet<String>,
    /// It may be any of its documents.
    pub any_document: bool,
    /// Documents, the first thousand, by `_id`; as many statements may stand behind one.
    pub keys: BTreeSet<String>,
    /// Statements that this is about.
    pub statements: u64,
}

/// Why that did not go on.
#[derive(Debug, thiserror::Error)]
pub enum LostError {
    /// There is a source.
    #[error(
        "the local mongod answers, if only to refuse us: nothing is drained without it; start dualsync as usual"
    )]
    SourceAnswers,
    /// The target does not take it now; what is done is remembered.
    #[error("the target does not take it now: {0}; run it again")]
    Target(String),
    /// The log does not give it out, or not remember it.
    #[error("the log: {0}")]
    Log(String),
}

impl From<Stall> for LostError {
    fn from(stall: Stall) -> LostError {
        match stall {
            Stall::Target(error) | Stall::Source(error) => LostError::Target(error.to_string()),
            Stall::Fenced(refused) => LostError::Target(refused.to_string()),
            Stall::Log(error) => LostError::Log(error.to_string()),
            Stall::Beside => LostError::Target("another command failed".to_owned()),
        }
    }
}

impl Lost {
    fn whole(&mut self, ns: &Namespace, why: &str) {
        let unknown = self.unknown.entry(ns.to_string()).or_default();
        unknown.reasons.insert(why.to_owned());
        unknown.any_document = true;
        unknown.statements += 1;
    }

    fn key(&mut self, ns: &Namespace, key: &Key, why: &str) {
        let unknown = self.unknown.entry(ns.to_string()).or_default();
        unknown.reasons.insert(why.to_owned());
        unknown.statements += 1;
        if unknown.keys.len() < KEYS_MAX {
            let id = Bson::try_from(key.id()).map(|id| id.into_relaxed_extjson().to_string());
            unknown.keys.insert(id.unwrap_or_else(|_| "?".to_owned()));
        }
    }

    pub(crate) fn touch(&mut self, ns: &Namespace, touch: &Touch, why: &str) {
        match touch {
            Touch::Key(key) => self.key(ns, key, why),
            Touch::Predicate(_) | Touch::Namespace | Touch::Database => self.whole(ns, why),
        }
    }
}

impl Pump {
    /// Told by every later run, and compared should the source come back after all: the cursor passes what it is about.
    fn remember_unknown(&mut self, lost: &Lost) {
        let reason = "drained without its source, what became of it is not known";
        for name in lost.unknown.keys() {
            let dirty = Dirty::new(reason, Cause::Unknown, now_ms());
            self.shared.state().set_dirty(&Namespace::parse(name), dirty);
        }
        self.save_state();
    }

    /// Brings what the log has to the target. `lost` holds what is not known already.
    pub(crate) async fn drain_without_source(&mut self, mut lost: Lost) -> Result<Lost, LostError> {
        match self.executor.source.hello().await {
            // A wrong password is no lost source either.
            Err(error) if !matches!(error.class, Class::Identity | Class::Refused) => {}
            _ => return Err(LostError::SourceAnswers),
        }
        let claimed = self.claim().await?;
        self.executor.target.fence(&claimed.replaced).await.map_err(Stall::Target)?;
        // As of the earlier runs: this one sends nothing twice.
        let sent = self.executor.checkpoint().sent;
        self.remember_unknown(&lost); // marks without an outcome
        loop {
            self.fill(PORTION);
            let part = self.feed().take(PORTION);
            let entries = part.entries().len() as u64;
            if entries == 0 {
                let end = self.feed().position() >= self.log.head();
                self.advance(part.end);
                if end || self.unreadable_now {
                    break;
                }
                continue;
            }
            self.executor.remember_sent(part.end)?;
            for (ns, queue) in queues(part.entries().enumerate()) {
                let units: Vec<Unit> = queue.into_iter().collect();
                self.send_all(&ns, &units, sent, &mut lost).await.map_err(Stall::Target)?;
            }
            lost.entries += entries;
            self.config.pending.done(entries);
            self.remember_unknown(&lost);
            self.advance(part.end);
        }
        self.park(CursorSync::Now);
        if self.unreadable_now {
            return Err(LostError::Log(
                "a part of it cannot be read: mend the disk, or run it again".to_owned(),
            ));
        }
        self.what_was_known_before(&mut lost);
        info!(
            entries = lost.entries,
            unknown = lost.unknown.len(),
            "the log is on the target, without its source"
        );
        Ok(lost)
    }

    /// What the worker was still to compare, or could not write.
    fn what_was_known_before(&self, lost: &mut Lost) {
        let state = self.shared.state();
        if let Some(dirty) = state.everything_dirty() {
            lost.whole(&Namespace::parse("*"), &format!("everything was to be compared: {}", dirty.reason));
        }
        for (ns, dirty) in state.dirty() {
            lost.whole(&ns, &format!("it was to be compared: {}", dirty.reason));
        }
        for letter in state.dead_letters() {
            let ns = Namespace::parse(&letter.namespace);
            let why = format!("the target refused it: {}", letter.reason);
            match letter.key() {
                Some(key) => lost.key(&ns, &key, &why),
                None => lost.whole(&ns, &why),
            }
        }
    }

    /// Sends the statements of one namespace, in order.
    async fn send_all(
        &self,
        ns: &Namespace,
        units: &[Unit],
        sent: u64,
        lost: &mut Lost,
    ) -> Result<(), ServerError> {
        let mut start = 0;
        for (at, unit) in units.iter().enumerate() {
            let effect = unit.effect();
            if let Some(why) = doubtful(unit, sent) {
                lost.touch(&effect.target.ns, &effect.target.touch, &why);
            }
            if !matches!(effect.target.touch, Touch::Key(_)) {
                self.send_keyed(ns, &units[start..at], lost).await?;
                start = at + 1;
                if let Some(command) = Command::of_one(unit) {
                    self.send_one(ns, &command, lost).await?;
                }
            }
        }
        self.send_keyed(ns, &units[start..], lost).await
    }

    async fn send_keyed(&self, ns: &Namespace, units: &[Unit], lost: &mut Lost) -> Result<(), ServerError> {
        for lane in lanes(units, 1) {
            for command in lane.levels().iter().flatten() {
                self.send_one(ns, command, lost).await?;
            }
        }
        Ok(())
    }

    async fn send_one(
        &self,
        ns: &Namespace,
        command: &Command<'_>,
        lost: &mut Lost,
    ) -> Result<(), ServerError> {
        let written = self.executor.target.write(ns, &|| command.encode(ns), command.validation()).await;
        let different = match written {
            Ok(reply) => command.different(&reply),
            Err(error) if error.class == Class::Refused => command.all().to_vec(),
            Err(error) => return Err(error),
        };
        for unit in different {
            let touch = &unit.effect().target.touch;
            // Perhaps from an earlier run: the document as it was inserted is right, once what follows is done as well.
            let written = match &unit.effect().op {
                Some(Op::Insert(document)) => self.put(ns, document).await?,
                _ => false,
            };
            if !written {
                lost.touch(ns, touch, "a statement did not do on the target what it did on the source");
            }
        }
        Ok(())
    }

    /// Whether the target has taken this document instead of whatever it had.
    async fn put(&self, ns: &Namespace, document: &RawDocument) -> Result<bool, ServerError> {
        let Some(statement) = replacement(document) else { return Ok(false) };
        let command = || {
            let mut updates = RawArrayBuf::new();
            updates.push(statement.clone());
            let mut command = rawdoc! {"update": ns.coll()};
            command.append(cstr!("updates"), updates);
            command
        };
        match self.executor.target.write(ns, &command, Validation::Bypassed).await {
            Ok(reply) => Ok(reply.errors.is_empty()),
            Err(error) if error.class == Class::Refused => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Why nobody knows that sending a statement again, or once more, does what it did on the source.
fn doubtful(unit: &Unit, sent: u64) -> Option<String> {
    let effect = unit.effect();
    let over_all = matches!(effect.target.touch, Touch::Namespace | Touch::Database);
    match (unit.doubt(), &effect.op) {
        (Some(doubt), _) if over_all => Some(format!("a command over all of it ({})", doubt.code())),
        (Some(doubt), Some(_)) => Some(format!("a statement in doubt ({})", doubt.code())),
        // Also one that is known for certain: it is not carried out here.
        (None, _) if over_all => Some("a command over all of it".to_owned()),
        (_, None) => Some("the log was nearly full and kept no statement".to_owned()),
        (None, Some(op)) if unit.mark() < sent && !bears_twice(op) => {
            Some("a statement may have been sent twice".to_owned())
        }
        (None, Some(_)) => None,
    }
}

/// Whether a statement with a key does the same when it is done again.
fn bears_twice(op: &Op) -> bool {
    let Op::Update(statement) = op else { return true };
    let Ok(change) = statement.get_document("u") else { return false };
    change.into_iter().flatten().all(|(name, _)| {
        let name = name.as_str();
        !name.starts_with('$') || ["$set", "$unset", "$max", "$min"].contains(&name)
    })
}

#[cfg(test)]
mod tests {
    use bson::raw::RawDocumentBuf;

    use super::*;

    #[test]
    fn what_bears_being_done_twice() {
        let update = |u: RawDocumentBuf| {
            let mut statement = rawdoc! {"q": {"_id": 1}};
            statement.append(cstr!("u"), u);
            bears_twice(&Op::Update(statement))
        };
        assert!(update(rawdoc! {"a": 1}) && update(rawdoc! {"$set": {"a": 1}, "$unset": {"b": 1}}));
        assert!(
            !update(rawdoc! {"$inc": {"a": 1}}) && !update(rawdoc! {"$set": {"a": 1}, "$push": {"b": 1}})
        );
        assert!(bears_twice(&Op::Insert(rawdoc! {"_id": 1})) && !bears_twice(&Op::Update(rawdoc! {"u": []})));
    }
}
