//! Records as Extended JSON (canonical), one line each, for tools and for people with tools.
//!
//! - fields of a document stay in their order, doubled names too: the canonical form alone would sort them
//! - what a user has stored is shown only when asked for: documents, statements, filters; a key is otherwise shown by
//!   its type and a short hash, which is the same for the same key of the same log, and of no use without that log

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher as _};

use bson::raw::{RawBsonRef, RawDocument};
use bson::{Bson, spec::ElementType};

use crate::{Effect, Key, Op, Record, Target, Touch};

/// What of users' data is shown, and how the rest is hidden.
#[derive(Debug, Clone, Copy)]
pub struct Show {
    /// Documents, statements, filters and keys as they are.
    pub documents: bool,
    /// Goes into the hashes of hidden keys: the log's id.
    pub salt: [u8; 16],
}

impl Show {
    /// `{"lsn":…,"kind":…,…}` of a record at `lsn`.
    pub fn json(&self, lsn: u64, record: &Record) -> String {
        let mut out = format!("{{\"lsn\":{lsn}");
        // Writing to a string cannot fail.
        let _ = match record {
            Record::Mark(mark) => {
                out.push_str(",\"kind\":\"mark\"");
                date(&mut out, "at", mark.at_ms);
                let _ = write!(out, ",\"via\":{}", text(&mark.via));
                let _ = write!(out, ",\"inTransaction\":{}", mark.in_transaction);
                list(&mut out, "targets", &mark.targets, |out, target| self.target(out, target));
                out.write_char('}')
            }
            Record::Entry(entry) => {
                out.push_str(",\"kind\":\"entry\"");
                date(&mut out, "at", entry.at_ms);
                let _ = write!(out, ",\"mark\":{},\"certain\":{}", entry.mark, entry.doubt.is_none());
                if let Some(doubt) = entry.doubt {
                    let _ = write!(out, ",\"doubt\":{}", text(doubt.code()));
                }
                if entry.atomic {
                    out.push_str(",\"transaction\":true");
                }
                if let Some(time) = entry.operation_time {
                    let (t, i) = (time.time, time.increment);
                    let _ = write!(out, ",\"operationTime\":{{\"$timestamp\":{{\"t\":{t},\"i\":{i}}}}}");
                }
                list(&mut out, "effects", &entry.effects, |out, effect| self.effect(out, effect));
                out.write_char('}')
            }
            Record::Closed { mark } => write!(out, ",\"kind\":\"closed\",\"mark\":{mark}}}"),
        };
        out
    }

    /// A key for a person: its type and hash, or its value.
    pub fn key(&self, key: &Key) -> String {
        if self.documents {
            let mut out = String::new();
            value(&mut out, key.id());
            return out;
        }
        format!("{}:{}", type_name(key.id().element_type()), self.hash(key))
    }

    fn hash(&self, key: &Key) -> String {
        let mut hasher = DefaultHasher::new();
        (self.salt, key.canonical()).hash(&mut hasher);
        format!("{:08x}", hasher.finish() >> 32)
    }

    fn effect(&self, out: &mut String, effect: &Effect) {
        let (name, statement) = match &effect.op {
            Some(Op::Insert(doc)) => ("insert", Some(doc)),
            Some(Op::Update(doc)) => ("update", Some(doc)),
            Some(Op::Delete(doc)) => ("delete", Some(doc)),
            Some(Op::Over(doc)) => ("command", Some(doc)),
            None => ("", None),
        };
        self.target(out, &effect.target);
        out.pop(); // goes on inside of the target's object
        if let Some(statement) = statement {
            let _ = write!(out, ",\"op\":\"{name}\",\"n\":{},\"modified\":{}", effect.n, effect.modified);
            let _ = write!(out, ",\"statementBytes\":{}", statement.as_bytes().len());
            if self.documents {
                out.push_str(",\"statement\":");
                document(out, statement);
            }
        }
        out.push('}');
    }

    fn target(&self, out: &mut String, target: &Target) {
        let _ = write!(out, "{{\"ns\":{},\"touch\":", text(target.ns.as_str()));
        match &target.touch {
            Touch::Key(key) if self.documents => {
                out.push_str("\"key\",\"_id\":");
                value(out, key.id());
            }
            Touch::Key(key) => {
                let name = type_name(key.id().element_type());
                let _ = write!(out, "\"key\",\"idType\":\"{name}\",\"idHash\":\"{}\"", self.hash(key));
            }
            Touch::Predicate(predicate) => {
                out.push_str("\"predicate\"");
                let parts = [
                    ("filter", Some(&predicate.filter)),
                    ("collation", predicate.collation.as_ref()),
                    ("let", predicate.variables.as_ref()),
                ];
                for (name, part) in parts.into_iter().filter_map(|(name, part)| Some((name, part?))) {
                    if self.documents {
                        let _ = write!(out, ",\"{name}\":");
                        document(out, &part.0);
                    }
                }
            }
            Touch::Namespace => out.push_str("\"namespace\""),
            Touch::Database => out.push_str("\"database\""),
        }
        out.push('}');
    }
}

/// A document as Extended JSON (canonical), its fields in their order.
pub fn json(doc: &RawDocument) -> String {
    let mut out = String::new();
    document(&mut out, doc);
    out
}

fn list<T>(out: &mut String, name: &str, items: &[T], mut one: impl FnMut(&mut String, &T)) {
    let _ = write!(out, ",\"{name}\":[");
    for (nth, item) in items.iter().enumerate() {
        if nth > 0 {
            out.push(',');
        }
        one(out, item);
    }
    out.push(']');
}

fn date(out: &mut String, name: &str, ms: u64) {
    let _ = write!(out, ",\"{name}\":{{\"$date\":{{\"$numberLong\":\"{ms}\"}}}}");
}

/// A document in the order of its fields. One that is damaged ends where it is.
fn document(out: &mut String, doc: &RawDocument) {
    out.push('{');
    for (nth, element) in doc.iter_elements().map_while(Result::ok).enumerate() {
        if nth > 0 {
            out.push(',');
        }
        let _ = write!(out, "{}:", text(element.key().as_str()));
        match element.value() {
            Ok(inner) => value(out, inner),
            Err(_) => out.push_str("null"),
        }
    }
    out.push('}');
}

fn value(out: &mut String, raw: RawBsonRef<'_>) {
    match raw {
        RawBsonRef::Document(doc) => document(out, doc),
        RawBsonRef::Array(array) => {
            out.push('[');
            for (nth, item) in array.into_iter().map_while(Result::ok).enumerate() {
                if nth > 0 {
                    out.push(',');
                }
                value(out, item);
            }
            out.push(']');
        }
        scalar => match Bson::try_from(scalar) {
            Ok(scalar) => out.push_str(&scalar.into_canonical_extjson().to_string()),
            Err(_) => out.push_str("null"),
        },
    }
}

/// A JSON string.
fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// As `$type` names it.
fn type_name(kind: ElementType) -> &'static str {
    match kind {
        ElementType::Double => "double",
        ElementType::String => "string",
        ElementType::EmbeddedDocument => "object",
        ElementType::Binary => "binData",
        ElementType::ObjectId => "objectId",
        ElementType::Boolean => "bool",
        ElementType::DateTime => "date",
        ElementType::Null => "null",
        ElementType::Symbol => "symbol",
        ElementType::Int32 => "int",
        ElementType::Timestamp => "timestamp",
        ElementType::Int64 => "long",
        ElementType::Decimal128 => "decimal",
        ElementType::MinKey => "minKey",
        ElementType::MaxKey => "maxKey",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Doubt, Entry, Mark, Namespace, Predicate, Raw};
    use bson::{oid::ObjectId, rawdoc};

    fn entry() -> Record {
        let ns = Namespace::new("shop", "orders");
        let key = Key::of(&rawdoc! {"_id": 7}).unwrap();
        let filter = Raw(rawdoc! {"secret": "filter"});
        let predicate = Predicate { filter, collation: None, variables: None };
        let update = rawdoc! {"q": {"_id": 7}, "u": {"$set": {"z": "secret \"value\"", "a": 1_i64}}};
        let effects = vec![
            Effect {
                target: Target::new(ns.clone(), Touch::Key(key)),
                op: Some(Op::Update(update)),
                n: 1,
                modified: 1,
            },
            Effect { target: Target::new(ns, Touch::Predicate(predicate)), op: None, n: 0, modified: 0 },
        ];
        Record::Entry(Entry {
            mark: 3,
            doubt: Some(Doubt::Contended),
            atomic: false,
            effects,
            operation_time: None,
            at_ms: 1_000,
        })
    }

    #[test]
    fn every_line_is_json_and_shows_users_data_only_when_asked() {
        let records = [
            entry(),
            Record::Closed { mark: 9 },
            Record::Mark(Mark {
                targets: vec![Target::new(Namespace::new("secret?no", ""), Touch::Database)],
                via: "127.0.0.1:5".to_owned(),
                in_transaction: true,
                drops: false,
                at_ms: 5,
            }),
        ];
        for record in &records {
            let hidden = Show { documents: false, salt: [1; 16] }.json(4, record);
            let shown = Show { documents: true, salt: [1; 16] }.json(4, record);
            for line in [&hidden, &shown] {
                let json: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(json["lsn"], 4, "{line}");
                assert!(!line.contains('\n'));
            }
            assert!(!hidden.contains("secret \\") && !hidden.contains("filter\":"), "{hidden}");
        }
        let shown = Show { documents: true, salt: [1; 16] }.json(4, &records[0]);
        let set = r#""$set":{"z":"secret \"value\"","a":{"$numberLong":"1"}}"#;
        assert!(shown.contains(set), "fields keep their order: {shown}");
        assert!(shown.contains(r#""touch":"key","_id":{"$numberInt":"7"}"#), "{shown}");
        assert!(shown.contains(r#""filter":{"secret":"filter"}"#), "{shown}");
    }

    #[test]
    fn a_hidden_key_is_the_same_for_equal_keys_of_one_log() {
        let key = |doc: bson::RawDocumentBuf| Key::of(&doc).unwrap();
        let (one, other) =
            (Show { documents: false, salt: [1; 16] }, Show { documents: false, salt: [2; 16] });
        let id = ObjectId::new();
        let (int, double) = (key(rawdoc! {"_id": 5}), key(rawdoc! {"_id": 5.0}));
        assert!(one.key(&int).starts_with("int:"), "{}", one.key(&int));
        assert_eq!(one.key(&int)["int:".len()..], one.key(&double)["double:".len()..]);
        assert_ne!(one.key(&int), one.key(&key(rawdoc! {"_id": 6})));
        assert_ne!(one.key(&int), other.key(&int));
        assert!(one.key(&key(rawdoc! {"_id": id})).starts_with("objectId:"));
        assert_eq!(Show { documents: true, salt: [0; 16] }.key(&int), r#"{"$numberInt":"5"}"#);
    }
}
