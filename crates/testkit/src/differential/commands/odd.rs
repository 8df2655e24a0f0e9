//! The same commands in spellings that no driver uses: other types for flags and numbers, nothing for a value, other
//! names, another order of the fields. Some the server takes, some it refuses; capture has to read them as it does.

use bson::{Bson, Document};
use fastrand::Rng;

/// The command, in one odd spelling.
pub(super) fn spelled(rng: &mut Rng, mut command: Document) -> Document {
    match rng.u8(0..10) {
        0 => _ = command.insert("ordered", value(rng)),
        1 => _ = command.insert("comment", value(rng)),
        2 => {
            command.insert("apiVersion", "1");
            command.insert("apiStrict", rng.bool());
        }
        3 => return renamed(rng, &command),
        4 => return shuffled(rng, &command),
        5 if command.contains_key("findAndModify") => {
            let name = ["remove", "upsert", "new", "update", "query", "sort"][rng.usize(0..6)];
            command.insert(name, value(rng));
        }
        5..9 => {
            let names =
                ["multi", "upsert", "limit", "hint", "collation", "sort", "arrayFilters", "c", "q", "u"];
            let (name, value) = (names[rng.usize(0..names.len())], value(rng));
            let list = ["updates", "deletes"].into_iter().find(|list| command.contains_key(list));
            let list = list.and_then(|list| command.get_array_mut(list).ok());
            let statement = list.and_then(|list| list.first_mut()?.as_document_mut());
            if let Some(statement) = statement {
                statement.insert(name, value);
            }
        }
        _ => _ = command.insert("maxTimeMS", "text"),
    }
    command
}

fn value(rng: &mut Rng) -> Bson {
    match rng.u8(0..12) {
        0 => Bson::Null,
        1 => Bson::Undefined,
        2 => 0.into(),
        3 => 1.into(),
        4 => 1.0.into(),
        5 => 0.5.into(),
        6 => 1_i64.into(),
        7 => "1.0".parse().map_or(Bson::Null, Bson::Decimal128),
        8 => true.into(),
        9 => false.into(),
        10 => "text".into(),
        _ => Document::new().into(),
    }
}

/// By another name, which the server does not know, mostly; the collection's as a symbol.
fn renamed(rng: &mut Rng, command: &Document) -> Document {
    let mut fields = command.clone().into_iter();
    let Some((name, coll)) = fields.next() else { return Document::new() };
    let first = match rng.u8(0..4) {
        0 => (name.to_uppercase(), coll),
        1 => (name.to_lowercase(), coll),
        _ => {
            let text = coll.as_str().unwrap_or_default().to_owned();
            (name, Bson::Symbol(text))
        }
    };
    std::iter::once(first).chain(fields).collect()
}

/// The command's name first, the rest in any order.
fn shuffled(rng: &mut Rng, command: &Document) -> Document {
    let mut fields: Vec<(String, Bson)> = command.clone().into_iter().collect();
    if let Some(rest) = fields.get_mut(1..) {
        rng.shuffle(rest);
    }
    fields.into_iter().collect()
}
