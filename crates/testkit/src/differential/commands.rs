//! Random commands, of every kind that capture tells apart.

mod compared;
mod odd;

use bson::{Bson, Document, doc};
use fastrand::Rng;

use super::values;

/// What a write may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Anything that is followed without a comparison when its reply comes.
    Any,
    /// No upsert whose `_id` only a reply would tell.
    Named,
    /// No statement over many documents: it may carry a `txnNumber`.
    One,
    /// Over many documents, and long enough to be stopped on the way.
    Slow,
}

/// Draws commands for one database.
#[derive(Debug, Clone)]
pub(super) struct Commands {
    database: String,
}

/// The collections and their share of the writes.
const COLLECTIONS: &[(&str, u32)] = &[
    ("hot", 40),
    ("keyed", 20),
    ("warm", 14),
    ("unique", 9),
    ("partial", 5),
    ("valid", 3),
    ("moderate", 3),
    ("warned", 2),
    ("folded", 6),
    ("clustered", 6),
    ("wide", 4),
];
/// Collections that come and go, in a run with such commands.
const PASSING: [&str; 3] = ["passing0", "passing1", "passing2"];
/// Capped, and of time series.
pub(super) const SIZED: &str = "sized";
pub(super) const SERIES: &str = "series";

impl Commands {
    pub(super) fn new(database: &str) -> Commands {
        Commands { database: database.to_owned() }
    }

    /// What is there before.
    pub(super) fn before(&self) -> Vec<Document> {
        let name = |index: &Document| {
            index.iter().map(|(key, way)| format!("{key}_{way}")).collect::<Vec<_>>().join("_")
        };
        let index = |coll: &str, keys: Document, unique: bool| {
            let name = name(&keys);
            doc! {"createIndexes": coll, "indexes": [{"key": keys, "name": name, "unique": unique}]}
        };
        let wide: Vec<Document> = (0..300).map(|id| doc! {"_id": id, "n": id % 7, "s": "a"}).collect();
        let commands = [
            doc! {"create": "hot"},
            doc! {"create": "warm"},
            doc! {"create": "keyed"},
            index("hot", doc! {"n": 1}, false),
            index("warm", doc! {"n": 1}, false),
            doc! {"create": "valid", "validator": no_text()},
            doc! {"create": "moderate", "validator": no_text(), "validationLevel": "moderate"},
            doc! {"create": "warned", "validator": no_text(), "validationAction": "warn"},
            doc! {"create": "clustered", "clusteredIndex": {"key": {"_id": 1}, "unique": true}},
            doc! {"create": "partial"},
            doc! {"createIndexes": "partial", "indexes": [{
                "key": {"k": 1}, "name": "k_1", "unique": true, "partialFilterExpression": {"n": {"$gt": 9}},
            }]},
            doc! {"create": "sight", "viewOn": "warm", "pipeline": [{"$match": {"n": {"$gt": 3}}}]},
            doc! {"create": "folded", "collation": {"locale": "en", "strength": 2}},
            doc! {"create": "unique"},
            index("unique", doc! {"k": 1}, true),
            doc! {"insert": "wide", "documents": wide},
        ];
        commands.into_iter().map(|command| self.with_db(command)).collect()
    }

    /// What is there beside, where commands are sent that need a comparison: collections that are not copied, so that
    /// all that is to be seen of them is that nothing else suffers.
    pub(super) fn before_compared(&self) -> Vec<Document> {
        let commands = [
            doc! {"create": SIZED, "capped": true, "size": 100_000, "max": 50},
            doc! {"create": SERIES, "timeseries": {"timeField": "at", "metaField": "m"}},
        ];
        commands.into_iter().map(|command| self.with_db(command)).collect()
    }

    /// A write of this shape.
    pub(super) fn write(&self, rng: &mut Rng, shape: Shape) -> Document {
        if shape == Shape::Slow {
            return self.slow(rng);
        }
        let coll = weighted(rng, COLLECTIONS);
        let mut command = match rng.u8(0..20) {
            0..5 => insert(rng, coll),
            5..12 => update(rng, coll, shape),
            12..15 => delete(rng, coll, shape),
            _ => find_and_modify(rng, coll, shape),
        };
        // Not defined, a variable is refused; in a filter, the target would refuse it as well.
        let text = command.to_string();
        if text.contains(values::VARIABLE) && (text.contains("$expr") || rng.u8(0..4) != 0) {
            command.insert("let", doc! {"step": rng.i32(1..4)});
        }
        self.with_db(command)
    }

    /// The command, now and then in an odd spelling.
    pub(super) fn spelled(rng: &mut Rng, command: Document) -> Document {
        if rng.u8(0..12) == 0 { odd::spelled(rng, command) } else { command }
    }

    /// Adds a statement to a batch, as a retry that overlaps the first try in part.
    pub(super) fn extend(&self, rng: &mut Rng, body: &mut Document) {
        if let Ok(coll) = body.get_str("insert").map(ToOwned::to_owned)
            && let Ok(documents) = body.get_array_mut("documents")
        {
            documents.push(values::document(rng, &coll).into());
        }
    }

    /// Some milliseconds for each of the collection's documents, of which some may be reached before the time is over.
    fn slow(&self, rng: &mut Rng) -> Document {
        let sum = doc! {"$reduce": {
            "input": {"$range": [0, 1_000]}, "initialValue": 0, "in": {"$add": ["$$value", "$$this"]},
        }};
        let change = match rng.u8(0..3) {
            0 => doc! {"q": {"n": {"$gte": rng.i32(0..7)}}, "limit": 0},
            _ => {
                let n = doc! {"$add": ["$n", {"$subtract": [sum, 499_499]}]};
                doc! {"q": {"n": {"$lt": rng.i32(0..99)}}, "u": [{"$set": {"n": n}}], "multi": true}
            }
        };
        let delete = change.contains_key("limit");
        let mut command = match delete {
            true => doc! {"delete": "wide", "deletes": [change]},
            false => doc! {"update": "wide", "updates": [change]},
        };
        if rng.bool() {
            command.insert("maxTimeMS", rng.i32(1..30));
        }
        if delete && rng.bool() {
            let again: Vec<Document> = (0..200).map(|id| doc! {"_id": id, "n": id % 7, "s": "a"}).collect();
            command = doc! {"insert": "wide", "documents": again, "ordered": false};
        }
        self.with_db(command)
    }

    fn with_db(&self, mut command: Document) -> Document {
        if !command.contains_key("$db") {
            command.insert("$db", self.database.as_str());
        }
        command
    }
}

fn no_text() -> Document {
    doc! {"n": {"$not": {"$type": "string"}}}
}

fn insert(rng: &mut Rng, coll: &str) -> Document {
    let many = if rng.u8(0..3) == 0 { rng.usize(2..6) } else { 1 };
    let documents: Vec<Document> = (0..many).map(|_| values::document(rng, coll)).collect();
    batch(rng, doc! {"insert": coll, "documents": documents})
}

fn update(rng: &mut Rng, coll: &str, shape: Shape) -> Document {
    let many = if rng.u8(0..4) == 0 { rng.usize(2..5) } else { 1 };
    let updates: Vec<Document> = (0..many).map(|_| update_statement(rng, coll, shape)).collect();
    let mut command = batch(rng, doc! {"update": coll, "updates": updates});
    if rng.u8(0..30) == 0 {
        command.insert("bypassDocumentValidation", true);
    }
    command
}

fn update_statement(rng: &mut Rng, coll: &str, shape: Shape) -> Document {
    let (query, named) = values::filter(rng, coll);
    let (change, filters) = values::change(rng);
    let mut statement = doc! {"q": query, "u": change.clone()};
    if let Some(filters) = filters {
        statement.insert("arrayFilters", filters);
    }
    let replacement =
        change.as_document().and_then(|it| it.keys().next()).is_some_and(|key| !key.starts_with('$'));
    if shape != Shape::One && !replacement && rng.u8(0..6) == 0 {
        statement.insert("multi", true);
    }
    if (named || shape != Shape::Named) && rng.u8(0..4) == 0 {
        statement.insert("upsert", true);
    }
    options(rng, &mut statement, coll, shape);
    statement
}

fn delete(rng: &mut Rng, coll: &str, shape: Shape) -> Document {
    let many = if rng.u8(0..4) == 0 { rng.usize(2..4) } else { 1 };
    let deletes: Vec<Document> = (0..many)
        .map(|_| {
            let (query, named) = values::filter(rng, coll);
            let all = shape != Shape::One && (named || rng.u8(0..3) == 0) && rng.u8(0..3) == 0;
            let mut statement = doc! {"q": query, "limit": i32::from(!all)};
            options(rng, &mut statement, coll, shape);
            statement
        })
        .collect();
    batch(rng, doc! {"delete": coll, "deletes": deletes})
}

fn find_and_modify(rng: &mut Rng, coll: &str, shape: Shape) -> Document {
    let (query, named) = values::filter(rng, coll);
    let name = if rng.u8(0..10) == 0 { "findandmodify" } else { "findAndModify" };
    let mut command = doc! {name: coll, "query": query};
    if rng.u8(0..4) == 0 {
        command.insert("remove", true);
    } else {
        let (change, filters) = values::change(rng);
        command.insert("update", change);
        if let Some(filters) = filters {
            command.insert("arrayFilters", filters);
        }
        if (named || shape != Shape::Named) && rng.u8(0..4) == 0 {
            command.insert("upsert", true);
        }
        if rng.bool() {
            command.insert("new", true);
        }
    }
    if rng.u8(0..3) == 0 {
        command.insert("sort", doc! {"n": if rng.bool() { 1 } else { -1 }});
    }
    match rng.u8(0..12) {
        0 => _ = command.insert("fields", doc! {"_id": 0}),
        1 => _ = command.insert("fields", doc! {"n": 1}),
        2 => _ = command.insert("fields", doc! {"_id": "$n"}),
        _ => {}
    }
    options(rng, &mut command, coll, shape);
    command
}

/// Collation and hint.
fn options(rng: &mut Rng, statement: &mut Document, coll: &str, shape: Shape) {
    match rng.u8(0..40) {
        // By a collation of its own no text names an `_id`.
        0 if shape != Shape::Named => _ = statement.insert("collation", doc! {"locale": "en", "strength": 1}),
        1 if ["hot", "warm"].contains(&coll) => _ = statement.insert("hint", doc! {"n": 1}),
        // There is none: refused.
        2 if rng.u8(0..4) == 0 => _ = statement.insert("hint", "missing_1"),
        _ => {}
    }
}

fn batch(rng: &mut Rng, mut command: Document) -> Document {
    match rng.u8(0..60) {
        0..15 => _ = command.insert("ordered", false),
        15..25 => _ = command.insert("ordered", true),
        // Refused before anything runs.
        25 => _ = command.insert("unheardOf", 1),
        26 => _ = command.insert("comment", Bson::Null),
        _ => {}
    }
    command
}

/// Draws by weight.
pub(super) fn weighted<T: Copy>(rng: &mut Rng, shares: &[(T, u32)]) -> T {
    let mut point = rng.u32(0..shares.iter().map(|(_, share)| share).sum());
    for (value, share) in shares {
        if point < *share {
            return *value;
        }
        point -= share;
    }
    shares[0].0
}
