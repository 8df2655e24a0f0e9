//! Commands that are followed by the namespaces that they name (`wire-facts.md` section 4).

use std::collections::BTreeSet;

use bson::raw::{RawArray, RawBsonRef, RawDocument};
use record::{Namespace, Target, Touch};
use wire::OpMsg;

use crate::commands::Coarse;
use crate::read::{array, document, field, flag, text};

/// The places that a command names; `None` when it cannot be read: then they may be any.
pub(crate) type Places = Option<BTreeSet<Place>>;

/// A collection, or a whole database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Collection(Namespace),
    Database(Namespace),
}

impl Place {
    /// `coll` in `db`; the database when the name is no collection's.
    pub(crate) fn named(db: &str, coll: &str) -> Place {
        if coll.is_empty() || coll.starts_with('$') {
            Place::Database(Namespace::new(db, ""))
        } else {
            Place::Collection(Namespace::new(db, coll))
        }
    }

    fn parse(name: &str) -> Place {
        let name = Namespace::parse(name);
        Place::named(name.db(), name.coll())
    }

    pub(crate) fn target(self) -> Target {
        match self {
            Place::Collection(ns) => Target::new(ns, Touch::Namespace),
            Place::Database(ns) => Target::new(ns, Touch::Database),
        }
    }
}

/// What the command may write. An empty set: nothing.
pub(crate) fn places(command: Coarse, db: &str, message: &OpMsg<'_>) -> Places {
    let body = message.body();
    let named = body.iter().next()?.ok()?.1;
    let own = |coll: &str| Some(BTreeSet::from([Place::named(db, coll)]));
    match command {
        Coarse::Collection => own(named.as_str()?),
        Coarse::DropDatabase => own(""),
        Coarse::Rename => {
            Some(BTreeSet::from([Place::parse(named.as_str()?), Place::parse(text(body, "to")?)]))
        }
        Coarse::CloneAsCapped => own(text(body, "toCollection")?),
        Coarse::MapReduce => map_reduce(db, field(body, "out")?),
        Coarse::ApplyOps => {
            let mut places = BTreeSet::new();
            apply_ops(named.as_array()?, &mut places, NESTED_MAX)?;
            Some(places)
        }
        Coarse::BulkWrite => bulk_write(message),
    }
}

/// Where an aggregate writes; `None`: it does not.
pub(crate) fn aggregate(db: &str, body: &RawDocument) -> Option<Place> {
    //= aggregate: `explain: true` never writes, also with execution statistics (wire-facts.md 4)
    if flag(body, "explain") {
        return None;
    }
    let last = array(body, "pipeline")?.into_iter().last()?.ok()?.as_document()?;
    let (name, into) = last.iter().next()?.ok()?;
    let into = match name.as_str() {
        "$out" => into,
        "$merge" => match into {
            RawBsonRef::Document(merge) => field(merge, "into").unwrap_or(RawBsonRef::Null),
            name => name,
        },
        _ => return None,
    };
    Some(match into {
        RawBsonRef::String(coll) => Place::named(db, coll),
        RawBsonRef::Document(doc) => {
            Place::named(text(doc, "db").unwrap_or(db), text(doc, "coll").unwrap_or_default())
        }
        _ => Place::named(db, ""),
    })
}

fn map_reduce(db: &str, out: RawBsonRef<'_>) -> Places {
    let out = match out {
        RawBsonRef::String(coll) => return Some(BTreeSet::from([Place::named(db, coll)])),
        other => other.as_document()?,
    };
    if field(out, "inline").is_some() {
        return Some(BTreeSet::new());
    }
    let coll = ["replace", "merge", "reduce"].into_iter().find_map(|how| text(out, how))?;
    Some(BTreeSet::from([Place::named(text(out, "db").unwrap_or(db), coll)]))
}

/// `[{op, ns, o}]`; a command (`op: "c"`) may name its collection in `o`, so all of its database counts.
fn apply_ops(ops: &RawArray, places: &mut BTreeSet<Place>, nested_left: usize) -> Option<()> {
    for op in ops {
        let op = op.ok()?.as_document()?;
        let place = Place::parse(text(op, "ns")?);
        if text(op, "op")? != "c" {
            places.insert(place);
            continue;
        }
        let command = document(op, "o")?;
        if let Some(nested) = array(command, "applyOps") {
            apply_ops(nested, places, nested_left.checked_sub(1)?)?;
        }
        // A rename names both of its sides in full.
        for name in ["renameCollection", "to"].into_iter().filter_map(|name| text(command, name)) {
            places.insert(Place::parse(name));
        }
        if let Place::Database(ns) = place {
            places.insert(Place::Database(ns));
        }
    }
    Some(())
}

fn bulk_write(message: &OpMsg<'_>) -> Places {
    let in_body = array(message.body(), "nsInfo").into_iter().flatten();
    let in_body = in_body.map(|value| value.ok().and_then(RawBsonRef::as_document));
    let sequences = message.sequences().filter(|sequence| sequence.identifier == "nsInfo");
    let in_sequences = sequences.flat_map(|sequence| sequence.documents().map(Some));
    in_body.chain(in_sequences).map(|info| Some(Place::parse(text(info?, "ns")?))).collect()
}

/// `applyOps` inside `applyOps`: the server refuses more than a few.
const NESTED_MAX: usize = 8;
