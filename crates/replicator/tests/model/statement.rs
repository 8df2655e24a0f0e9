//! Statements, executed the same way on both sides.

use std::collections::BTreeMap;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{RawBsonRef, rawdoc};
use fastrand::Rng;
use record::{Key, Op, Predicate, Raw, Touch};

pub type Doc = [i64; 3];
pub type Store = BTreeMap<i64, Doc>;
pub const FIELDS: [&str; 3] = ["a", "b", "n"];

/// A statement, executed the same way on both sides.
#[derive(Clone, Debug)]
pub enum Statement {
    Insert(i64, Doc),
    /// The collection is another one now: dropped, or renamed away, or another was renamed onto it.
    Exchange(Store),
    Update {
        keys: Select,
        set: bool,
        field: usize,
        value: i64,
    },
    Delete {
        keys: Select,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum Select {
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

pub fn key_of(id: i64) -> Key {
    Key::of(&rawdoc! {"_id": id}).expect("a key")
}

impl Statement {
    pub fn any(rng: &mut Rng, keys: i64, down: bool) -> Statement {
        if rng.u32(..60) == 0 {
            let doc = |rng: &mut Rng| [rng.i64(0..3), rng.i64(0..3), 0];
            let some = (0..keys).filter(|_| rng.bool()).collect::<Vec<_>>();
            return Statement::Exchange(some.into_iter().map(|key| (key, doc(rng))).collect());
        }
        match rng.u32(..10) {
            0..=2 => Statement::Insert(rng.i64(0..keys), [rng.i64(0..3), rng.i64(0..3), 0]),
            3 | 4 => Statement::Delete { keys: Select::any(rng, keys) },
            _ => {
                let keys = Select::any(rng, keys);
                let set = rng.bool();
                let field = if set { rng.usize(..2) } else { 2 };
                let value = match set {
                    true => rng.i64(0..3),
                    false if down && rng.bool() => -1,
                    false => 1,
                };
                Statement::Update { keys, set, field, value }
            }
        }
    }

    pub fn touch(&self) -> Touch {
        match self {
            Statement::Exchange(_) => Touch::Namespace,
            Statement::Insert(key, _) => Touch::Key(key_of(*key)),
            Statement::Update { keys, .. } | Statement::Delete { keys } => keys.touch(),
        }
    }

    /// As it can be sent again.
    pub fn op(&self) -> Option<Op> {
        Some(match self {
            Statement::Exchange(_) => return None,
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
        })
    }

    /// The statement that an entry's op stands for.
    pub fn of(op: &Op) -> Statement {
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
            Op::Over(_) => unreachable!("not in the model's alphabet"),
        }
    }

    pub fn is_keyed_update(&self) -> bool {
        matches!(self, Statement::Update { keys: Select::Key(_), .. })
    }

    /// Runs it; returns matched (or inserted) and modified. `refuses`: documents that the server does not take; the second
    /// result says whether it met one.
    pub fn run(&self, store: &mut Store, rng: &mut Rng, refuses: fn(&Doc) -> bool) -> ((u32, u32), bool) {
        match self {
            Statement::Exchange(other) => {
                store.clone_from(other);
                ((1, 0), false)
            }
            Statement::Insert(key, doc) => {
                if store.contains_key(key) || refuses(doc) {
                    return ((0, 0), true);
                }
                store.insert(*key, *doc);
                ((1, 0), false)
            }
            Statement::Update { keys, set, field, value } => {
                let (mut n, mut modified) = (0, 0);
                for key in keys.find(store, rng) {
                    let doc = store.get_mut(&key).expect("found");
                    let mut new = *doc;
                    new[*field] = if *set { *value } else { new[*field] + value };
                    if refuses(&new) {
                        return ((n, modified), true);
                    }
                    modified += u32::from(*doc != new);
                    *doc = new;
                    n += 1;
                }
                ((n, modified), false)
            }
            Statement::Delete { keys } => {
                let found = keys.find(store, rng);
                for key in &found {
                    store.remove(key);
                }
                ((u32::try_from(found.len()).expect("few"), 0), false)
            }
        }
    }
}

/// A server that takes everything.
pub fn nothing(_: &Doc) -> bool {
    false
}
