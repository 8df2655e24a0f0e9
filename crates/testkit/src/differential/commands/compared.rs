//! Commands that are followed by a comparison of their collection, or that only look like writes.

use bson::{Document, doc};
use fastrand::Rng;

use super::{Commands, PASSING, SERIES, SIZED, Shape, delete, find_and_modify, insert, update};

/// Commands over whole collections.
const OVER: [&str; 7] =
    ["drop", "create", "createIndexes", "dropIndexes", "collMod", "renameCollection", "dropDatabase"];

impl Commands {
    /// A write to a collection that comes and goes, or a command over such ones.
    pub(in super::super) fn collections(&self, rng: &mut Rng) -> Document {
        let coll = PASSING[rng.usize(0..PASSING.len())];
        let write = match rng.u8(0..20) {
            0..6 => insert(rng, coll),
            6..10 => update(rng, coll, Shape::Any),
            10..12 => delete(rng, coll, Shape::Any),
            12 => find_and_modify(rng, coll, Shape::Any),
            _ => loop {
                let (command, later) = self.compared(rng);
                let name = command.keys().next().map_or("", String::as_str);
                if !later && (OVER.contains(&name) || (name == "aggregate" && rng.bool())) {
                    return command;
                }
            },
        };
        let mut command = self.with_db(write);
        if rng.u8(0..6) == 0 {
            command.insert("$db", format!("{}_b", self.database));
        }
        command
    }

    /// A command that is followed by a comparison, and whether its cursor does the writing.
    pub(in super::super) fn compared(&self, rng: &mut Rng) -> (Document, bool) {
        let passing = |rng: &mut Rng| PASSING[rng.usize(0..PASSING.len())];
        let other = format!("{}_b", self.database);
        let command = match rng.u8(0..30) {
            0..3 => {
                let into = passing(rng);
                return self.aggregate(rng, into);
            }
            3 => {
                let out = ["replace", "merge", "reduce"][rng.usize(0..3)];
                doc! {
                    "mapReduce": "hot", "map": "function() { emit(this.n, 1) }",
                    "reduce": "function(key, values) { return Array.sum(values) }", "out": {out: "reduced"},
                }
            }
            4..6 => doc! {"drop": passing(rng)},
            6..8 => {
                let mut create = doc! {"create": passing(rng)};
                match rng.u8(0..4) {
                    0 => _ = create.insert("collation", doc! {"locale": "de", "strength": 1}),
                    1 => _ = create.insert("validator", doc! {"n": {"$exists": true}}),
                    2 => create.extend(doc! {"viewOn": "hot", "pipeline": [{"$match": {"n": 1}}]}),
                    _ => {}
                }
                create
            }
            8..12 => {
                let coll = if rng.bool() { passing(rng) } else { "warm" };
                let field = ["s", "l", "o.x"][rng.usize(0..3)];
                let mut index = doc! {"key": {field: 1}, "name": format!("{field}_1")};
                match rng.u8(0..4) {
                    0 => _ = index.insert("sparse", true),
                    1 => _ = index.insert("partialFilterExpression", doc! {"n": {"$gt": 3}}),
                    _ => {}
                }
                doc! {"createIndexes": coll, "indexes": [index]}
            }
            12..14 => {
                let coll = if rng.bool() { passing(rng) } else { "warm" };
                let index = ["s_1", "l_1", "o.x_1", "*"][rng.usize(0..4)];
                doc! {"dropIndexes": coll, "index": index}
            }
            14 => doc! {"collMod": passing(rng), "validator": {"n": {"$ne": rng.i32(0..9)}}},
            15..17 => {
                // Now and then into another database.
                let full = |coll: &str, other: bool| {
                    format!("{}{}.{coll}", self.database, if other { "_b" } else { "" })
                };
                let (from, to) = (rng.u8(0..6) == 0, rng.u8(0..6) == 0);
                let rename = doc! {
                    "renameCollection": full(passing(rng), from), "to": full(passing(rng), to),
                    "dropTarget": rng.bool(), "$db": "admin",
                };
                return (rename, false);
            }
            17 => doc! {"dropDatabase": 1, "$db": other},
            18..20 => {
                let coll = passing(rng);
                let mut insert = insert(rng, coll);
                insert.insert("$db", other);
                insert
            }
            20 => self.apply_ops(rng),
            21 => {
                let filter = match rng.u8(0..3) {
                    0 => doc! {"$expr": {"$lt": [{"$rand": {}}, 0.5]}},
                    1 => doc! {"$where": "this.n > 3"},
                    _ => doc! {"$expr": {"$lt": ["$at", "$$NOW"]}},
                };
                let update = doc! {"q": filter, "u": {"$inc": {"n": 1}}, "multi": true};
                doc! {"update": "warm", "updates": [update]}
            }
            22 => {
                let update = doc! {"q": {"n": rng.i32(0..40)}, "u": {"$set": {"m": 1}}, "upsert": true};
                doc! {"update": "warm", "updates": [update], "writeConcern": {"w": 0}}
            }
            23 => insert(rng, SIZED),
            24 => {
                let at = bson::DateTime::from_millis(rng.i64(0..100_000_000));
                match rng.u8(0..3) {
                    0 => doc! {"delete": SERIES, "deletes": [{"q": {"m": rng.i32(0..5)}, "limit": 0}]},
                    1 => {
                        doc! {"delete": format!("system.buckets.{SERIES}"), "deletes": [{"q": {}, "limit": 1}]}
                    }
                    _ => doc! {"insert": SERIES, "documents": [{"at": at, "m": rng.i32(0..5), "v": 1}]},
                }
            }
            25 => {
                let mut write = self.write(rng, Shape::Any);
                write.remove("$db");
                doc! {"explain": write, "verbosity": "executionStats"}
            }
            26 => {
                // Refused: a view.
                let mut write = update(rng, "warm", Shape::Any);
                write.insert("update", "sight");
                write
            }
            27 => doc! {"validate": passing(rng), "repair": rng.bool()},
            _ => {
                let coll = passing(rng);
                insert(rng, coll)
            }
        };
        (self.with_db(command), false)
    }

    fn apply_ops(&self, rng: &mut Rng) -> Document {
        let op = |rng: &mut Rng| {
            let (ns, id) = (format!("{}.applied", self.database), rng.i32(0..9));
            match rng.u8(0..6) {
                0 => doc! {"op": "d", "ns": ns, "o": {"_id": id}},
                1 => {
                    doc! {"op": "u", "ns": ns, "o": {"$v": 2, "diff": {"u": {"n": rng.i32(0..9)}}}, "o2": {"_id": id}}
                }
                // There is no such collection, or none yet: what stands before it is applied.
                2 => doc! {"op": "i", "ns": format!("{}.none", self.database), "o": {"_id": id}},
                3 => doc! {"op": "c", "ns": format!("{}.$cmd", self.database), "o": {
                    "create": "applied", "idIndex": {"v": 2, "key": {"_id": 1}, "name": "_id_"},
                }},
                _ => doc! {"op": "i", "ns": ns, "o": {"_id": id, "n": 1}},
            }
        };
        let ops: Vec<Document> = (0..rng.usize(1..4)).map(|_| op(rng)).collect();
        doc! {"applyOps": ops}
    }

    /// A command over collections that a transaction takes, in its place.
    pub(in super::super) fn in_transaction(&self, rng: &mut Rng) -> Document {
        let coll = PASSING[rng.usize(0..PASSING.len())];
        self.with_db(match rng.u8(0..3) {
            0 => doc! {"createIndexes": coll, "indexes": [{"key": {"s": 1}, "name": "s_1"}]},
            1 => insert(rng, coll),
            _ => doc! {"create": coll},
        })
    }

    fn aggregate(&self, rng: &mut Rng, into: &str) -> (Document, bool) {
        let last = match rng.u8(0..8) {
            0 => doc! {"$out": into},
            1 => doc! {"$out": {"db": format!("{}_b", self.database), "coll": into}},
            2 => doc! {"$merge": into},
            3 => doc! {"$merge": {"into": into, "whenMatched": "keepExisting", "whenNotMatched": "insert"}},
            4 => doc! {"$merge": {"into": into, "whenMatched": [{"$set": {"n": {"$add": ["$n", 1]}}}]}},
            _ => {
                let matched = ["replace", "keepExisting", "merge", "fail"][rng.usize(0..4)];
                let not_matched = ["insert", "discard", "fail"][rng.usize(0..3)];
                // Also into what it reads, and into one of the busy ones.
                let into = [into, "warm", "hot"][rng.usize(0..3)];
                doc! {"$merge": {"into": into, "whenMatched": matched, "whenNotMatched": not_matched}}
            }
        };
        let first = doc! {"$match": {"n": {"$lt": rng.i32(0..20)}}};
        let mut command = doc! {"aggregate": "warm", "pipeline": [first, last], "cursor": {}};
        let later = rng.u8(0..3) == 0;
        if later {
            command.insert("cursor", doc! {"batchSize": 0});
        }
        (self.with_db(command), later)
    }
}
