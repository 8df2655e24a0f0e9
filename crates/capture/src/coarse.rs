//! Commands that are followed by the namespaces that they name (`wire-facts.md` section 4).

use std::collections::BTreeSet;

use bson::raw::{RawArray, RawBsonRef, RawDocument};
use record::{Namespace, Over, Target, Touch};

use crate::commands::Coarse;
use crate::read::{array, document, field, flag, name, number, text};

/// The places that a command names; `None` when they cannot be read: then they may be any.
///
/// The server takes names that are not UTF-8. Where only a collection's cannot be read, it is its database.
pub(crate) type Places = Option<BTreeSet<Place>>;

/// A collection, or a whole database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Collection(Namespace),
    Database(Namespace),
}

impl Place {
    /// `coll` in `db`; the database when the name is no collection's, or that of the list of its views.
    pub(crate) fn named(db: &str, coll: &str) -> Place {
        let coll = coll.strip_prefix(BUCKETS).unwrap_or(coll);
        if coll.is_empty() || coll.starts_with('$') || coll == VIEWS {
            Place::Database(Namespace::new(db, ""))
        } else {
            Place::Collection(Namespace::new(db, coll))
        }
    }

    fn parse(name: &str) -> Place {
        let name = Namespace::parse(name);
        Place::named(name.db(), name.coll())
    }

    fn database(self) -> Place {
        match self {
            Place::Collection(ns) => Place::Database(Namespace::new(ns.db(), "")),
            database @ Place::Database(_) => database,
        }
    }

    pub(crate) fn target(self) -> Target {
        match self {
            Place::Collection(ns) => Target::new(ns, Touch::Namespace),
            Place::Database(ns) => Target::new(ns, Touch::Database),
        }
    }
}

/// Places as they are found in what anybody may have sent: at most [`PLACES_MAX`]. With more, their databases; with more
/// of those, any.
#[derive(Default)]
pub(crate) struct Gathered {
    places: BTreeSet<Place>,
    databases_only: bool,
    too_many: bool,
}

impl Gathered {
    pub(crate) fn add(&mut self, place: Place) {
        if self.too_many {
            return;
        }
        self.places.insert(if self.databases_only { place.database() } else { place });
        if self.places.len() > PLACES_MAX && !self.databases_only {
            self.databases_only = true;
            self.places = std::mem::take(&mut self.places).into_iter().map(Place::database).collect();
        }
        self.too_many = self.places.len() > PLACES_MAX;
    }

    pub(crate) fn places(self) -> Places {
        (!self.too_many).then_some(self.places)
    }
}

/// Whether a write to this collection changes what others show: the buckets of a time-series collection, or the list
/// of a database's views. Clients may write to the first, and drop both (seen on 6.0.5).
pub(crate) fn stands_for_another(coll: &str) -> bool {
    coll == VIEWS || coll.starts_with(BUCKETS)
}

/// Whether a write has fields that the server changes and indexes elsewhere (Queryable Encryption).
pub(crate) fn is_encrypted(command: &RawDocument) -> bool {
    field(command, "encryptionInformation").is_some()
}

/// Where such a write goes beside its own collection, as far as we can read.
pub(crate) fn add_encryption(places: &mut Gathered, db: &str, command: &RawDocument) {
    let information = document(command, "encryptionInformation");
    let schemas = information.and_then(|it| document(it, "schema"));
    let schemas = schemas.into_iter().flat_map(|all| all.iter().flatten());
    for schema in schemas.filter_map(|(_, schema)| schema.as_document()) {
        let state = ["escCollection", "eccCollection", "ecocCollection"];
        let state = state.into_iter().filter_map(|it| text(schema, it));
        state.for_each(|coll| places.add(Place::named(db, coll)));
    }
}

/// What the command may write. An empty set: nothing.
pub(crate) fn places(command: Coarse, db: &str, body: &RawDocument) -> Places {
    let named = body.iter_elements().next()?.ok()?.value().ok();
    match command {
        Coarse::Drop | Coarse::Collection | Coarse::Shape => {
            one(Place::named(db, named.and_then(name).unwrap_or_default()))
        }
        Coarse::DropDatabase => one(Place::named(db, "")),
        Coarse::Rename => {
            Some(BTreeSet::from([Place::parse(named.and_then(name)?), Place::parse(text(body, "to")?)]))
        }
        Coarse::InternalRename => {
            Some(BTreeSet::from([Place::parse(text(body, "from")?), Place::parse(text(body, "to")?)]))
        }
        Coarse::Validate if repairs(body) => one(Place::named(db, named.and_then(name).unwrap_or_default())),
        Coarse::Validate => Some(BTreeSet::new()),
        Coarse::CloneAsCapped => one(Place::named(db, text(body, "toCollection").unwrap_or_default())),
        Coarse::MapReduce => map_reduce(db, field(body, "out")),
        Coarse::ApplyOps => {
            let mut places = Gathered::default();
            apply_ops(named?.as_array()?, &mut places, NESTED_MAX)?;
            places.places()
        }
    }
}

/// The server takes any value for a yes that is not null, false or 0.
fn repairs(body: &RawDocument) -> bool {
    match body.get("repair") {
        Ok(None | Some(RawBsonRef::Null | RawBsonRef::Undefined)) => false,
        Ok(Some(value)) if number(value).is_some() => flag(body, "repair"),
        _ => true,
    }
}

/// What the command does to whole collections, and to which one: said of the one that is gone by it. `None` as well where
/// what it names stands for something else.
pub(crate) fn over(
    command: Coarse,
    places: &BTreeSet<Place>,
    body: &RawDocument,
) -> Option<(Namespace, Over)> {
    let named = name(body.iter_elements().next()?.ok()?.value().ok()?);
    match (command, places.first()?) {
        (Coarse::Drop, Place::Collection(ns)) if named == Some(ns.coll()) => Some((ns.clone(), Over::Drop)),
        (Coarse::DropDatabase, Place::Database(ns)) => Some((ns.clone(), Over::DropDatabase)),
        (Coarse::Rename, _) => {
            let (from, to) = (Namespace::parse(named?), Namespace::parse(text(body, "to")?));
            let both = [&from, &to].map(|ns| places.contains(&Place::Collection(ns.clone())));
            (both == [true, true]).then_some((from, Over::Rename(to)))
        }
        _ => None,
    }
}

/// Where an aggregate writes.
pub(crate) fn aggregate(db: &str, body: &RawDocument) -> Places {
    //= aggregate: `explain: true` never writes, also with execution statistics (wire-facts.md 4)
    let last = array(body, "pipeline").filter(|_| !flag(body, "explain"));
    let last = last.and_then(|stages| stages.into_iter().last()?.ok()?.as_document()?.iter_elements().next());
    let Some(Ok(stage)) = last else { return Some(BTreeSet::new()) };
    let into = match stage.key().as_str() {
        "$out" => stage.value().ok(),
        "$merge" => match stage.value().ok() {
            Some(RawBsonRef::Document(merge)) => field(merge, "into"),
            name => name,
        },
        _ => return Some(BTreeSet::new()),
    };
    one(match into {
        Some(RawBsonRef::String(coll)) => Place::named(db, coll),
        Some(RawBsonRef::Document(doc)) => {
            Place::named(database_or(db, doc)?, text(doc, "coll").unwrap_or_default())
        }
        _ => Place::named(db, ""),
    })
}

fn map_reduce(db: &str, out: Option<RawBsonRef<'_>>) -> Places {
    let out = match out {
        Some(RawBsonRef::String(coll)) => return one(Place::named(db, coll)),
        Some(RawBsonRef::Document(out)) => out,
        _ => return one(Place::named(db, "")),
    };
    if field(out, "inline").is_some() {
        return Some(BTreeSet::new());
    }
    let coll = ["replace", "merge", "reduce"].into_iter().find_map(|how| text(out, how));
    one(Place::named(database_or(db, out)?, coll.unwrap_or_default()))
}

/// The database that `into` names, or the command's own; `None` when it cannot be read.
fn database_or<'a>(own: &'a str, into: &'a RawDocument) -> Option<&'a str> {
    match into.get("db").ok()? {
        Some(RawBsonRef::String(db)) => Some(db),
        _ => Some(own), // the server refuses what is no string
    }
}

fn one(place: Place) -> Places {
    Some(BTreeSet::from([place]))
}

/// `[{op, ns, o}]`; a command (`op: "c"`) may name its collection in `o`, so all of its database counts.
fn apply_ops(ops: &RawArray, places: &mut Gathered, nested_left: usize) -> Option<()> {
    for op in ops {
        let op = op.ok()?.as_document()?;
        // A collection's uuid counts for more than the name beside it (seen on 6.0.5).
        if field(op, "ui").is_some_and(|uuid| uuid != RawBsonRef::Null) {
            return None;
        }
        let ns = Namespace::parse(text(op, "ns")?);
        if text(op, "op")? != "c" {
            places.add(Place::named(ns.db(), ns.coll()));
            continue;
        }
        let command = document(op, "o")?;
        if let Some(nested) = array(command, "applyOps") {
            apply_ops(nested, places, nested_left.checked_sub(1)?)?;
        }
        // A rename names both of its sides in full.
        for name in ["renameCollection", "to"].into_iter().filter_map(|name| text(command, name)) {
            places.add(Place::parse(name));
        }
        places.add(Place::Database(Namespace::new(ns.db(), "")));
    }
    Some(())
}

/// `applyOps` inside `applyOps`: the server refuses more than a few.
const NESTED_MAX: usize = 8;
/// What one command may name: each takes some hundred bytes, and may be five in the message.
pub(crate) const PLACES_MAX: usize = 1_000;
const BUCKETS: &str = "system.buckets.";
const VIEWS: &str = "system.views";
