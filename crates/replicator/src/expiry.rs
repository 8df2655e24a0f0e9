//! What expires on the source by itself, and does not on the target: a target that expires by itself would lose what the
//! application renews while the target is away.
//!
//! - the true values stand in `__dualsync.expiry`, one document for each collection: `{_id: "db.coll", indexes: […]}`.
//!   Whoever fails over to the target gives them to its indexes
//! - kept by the reconciler with each comparison; used by the sweep (`pump/sweep.rs`)
//! - time-series collections expire on both sides: their documents are never renewed

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Bson, DateTime, Document, cstr, doc, rawdoc};
use record::Namespace;
use serde::{Deserialize, Serialize};

use crate::error::ServerError;
use crate::server::{cursor, next};
use crate::target::{OWN_DATABASE, Target, Validation};

/// The field of options and indexes.
pub const EXPIRY: &str = "expireAfterSeconds";
const COLLECTION: &str = "expiry";

/// One index that lets documents expire; for a clustered collection, its `_id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expiring {
    /// The index's name.
    pub name: String,
    /// The field that holds a date.
    pub key: String,
    /// As the source has it.
    #[serde(rename = "expireAfterSeconds")]
    pub after_seconds: Bson,
    /// Of a partial index.
    #[serde(rename = "partialFilterExpression", skip_serializing_if = "Option::is_none")]
    pub only: Option<Document>,
}

/// The note of one collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expiry {
    /// `db.coll`
    #[serde(rename = "_id")]
    pub namespace: String,
    /// What expires.
    pub indexes: Vec<Expiring>,
}

impl Expiry {
    /// From the source's options and indexes; `None` when nothing expires, or the target does it as well.
    pub fn of(ns: &Namespace, options: &RawDocument, indexes: &[RawDocumentBuf]) -> Option<Expiry> {
        if options.get_document("timeseries").is_ok() {
            return None;
        }
        let one = |spec: &RawDocumentBuf| {
            let spec = Document::try_from(spec).ok()?;
            Some(Expiring {
                name: spec.get_str("name").ok()?.to_owned(),
                key: spec.get_document("key").ok()?.keys().next()?.clone(),
                after_seconds: spec.get(EXPIRY)?.clone(),
                only: spec.get_document("partialFilterExpression").ok().cloned(),
            })
        };
        let clustered = Document::try_from(options).ok().and_then(|options| options.get(EXPIRY).cloned());
        let clustered = clustered.map(|after_seconds| Expiring {
            name: "_id_".to_owned(),
            key: "_id".to_owned(),
            after_seconds,
            only: None,
        });
        let indexes: Vec<Expiring> = indexes.iter().filter_map(one).chain(clustered).collect();
        (!indexes.is_empty()).then(|| Expiry { namespace: ns.to_string(), indexes })
    }

    /// Those that may have expired by `now`, whatever else they are: a superset of what the source has deleted.
    pub fn filter(&self, now: DateTime) -> RawDocumentBuf {
        let one = |index: &Expiring| {
            let seconds = match &index.after_seconds {
                Bson::Int32(n) => f64::from(*n),
                Bson::Int64(n) => *n as f64,
                Bson::Double(x) => *x,
                _ => return None,
            };
            #[allow(clippy::cast_possible_truncation)]
            let before = now.timestamp_millis().saturating_sub((seconds * 1000.0) as i64);
            let mut expired = Document::new();
            expired.insert(&index.key, doc! {"$lte": DateTime::from_millis(before)});
            let both = index.only.iter().cloned().chain([expired]);
            Some(doc! {"$and": both.collect::<Vec<_>>()})
        };
        let any: Vec<Document> = self.indexes.iter().filter_map(one).collect();
        match any.is_empty() {
            true => rawdoc! {"_id": {"$in": []}},
            false => {
                RawDocumentBuf::try_from(&doc! {"$or": any}).unwrap_or_else(|_| rawdoc! {"_id": {"$in": []}})
            }
        }
    }

    /// The commands' database and the one that writes this note; without one, that removes it.
    pub fn command(
        ns: &Namespace,
        expiry: Option<&Expiry>,
    ) -> Result<(&'static str, RawDocumentBuf), ServerError> {
        let unreadable = |error: bson::error::Error| ServerError::from_code(9, &error.to_string());
        let command = match expiry {
            None => rawdoc! {"delete": COLLECTION, "deletes": [{"q": {"_id": ns.as_str()}, "limit": 1}]},
            Some(expiry) => {
                let note = bson::serialize_to_document(expiry).map_err(unreadable)?;
                let note = RawDocumentBuf::try_from(&note).map_err(unreadable)?;
                let mut update = rawdoc! {"q": {"_id": ns.as_str()}, "upsert": true};
                update.append(cstr!("u"), note);
                rawdoc! {"update": COLLECTION, "updates": [update]}
            }
        };
        Ok((OWN_DATABASE, command))
    }
}

impl Target {
    /// Nothing of `ns` expires any more.
    pub async fn forget_expiry(&self, ns: &Namespace) -> Result<(), ServerError> {
        let (db, command) = Expiry::command(ns, None)?;
        self.write(&Namespace::new(db, COLLECTION), &|| command.clone(), Validation::Asked).await.map(|_| ())
    }

    /// All notes.
    pub async fn expiries(&self) -> Result<Vec<Expiry>, ServerError> {
        let find = rawdoc! {"find": COLLECTION};
        let mut cursor = cursor(self.client().await?, OWN_DATABASE, find).await?;
        let mut notes = Vec::new();
        while let Some(note) = next(&mut cursor).await? {
            // Anything else was not written by us.
            notes.extend(bson::deserialize_from_slice::<Expiry>(note.as_bytes()).ok());
        }
        Ok(notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expires_is_found_and_looked_for() {
        let ns = Namespace::new("d", "c");
        let indexes = [
            rawdoc! {"v": 2, "key": {"a": 1}, "name": "a_1"},
            rawdoc! {"v": 2, "key": {"at": 1}, "name": "at_1", "expireAfterSeconds": 10, "partialFilterExpression": {"x": 1}},
        ];
        let expiry = Expiry::of(&ns, &rawdoc! {"expireAfterSeconds": 5_i64}, &indexes).unwrap();
        let names: Vec<_> =
            expiry.indexes.iter().map(|index| (index.name.as_str(), index.key.as_str())).collect();
        assert_eq!(names, [("at_1", "at"), ("_id_", "_id")]);
        let at = |seconds: i64| DateTime::from_millis(seconds * 1000);
        let expected = rawdoc! {"$or": [
            {"$and": [{"x": 1}, {"at": {"$lte": at(90)}}]}, {"$and": [{"_id": {"$lte": at(95)}}]},
        ]};
        assert_eq!(expiry.filter(at(100)), expected);
        assert_eq!(Expiry::of(&ns, &rawdoc! {}, &indexes[..1]), None);
        assert_eq!(
            Expiry::of(&ns, &rawdoc! {"timeseries": {"timeField": "t"}, "expireAfterSeconds": 5}, &[]),
            None
        );
    }
}
