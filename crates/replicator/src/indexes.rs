//! Indexes on both sides, compared by name and by what they are.

use std::collections::BTreeMap;

use bson::raw::{RawBson, RawDocument, RawDocumentBuf};
use bson::rawdoc;
use mongodb::Client;
use record::Namespace;
use tracing::info;

use crate::error::ServerError;
use crate::execute::{Executor, Stall};
use crate::expiry::EXPIRY;
use crate::server::{cursor, next};

const NAMESPACE_NOT_FOUND: i32 = 26;
/// There is no such index; a view or a time-series collection, which has none by that name.
const NO_INDEX: [i32; 3] = [27, NAMESPACE_NOT_FOUND, 166];

/// The indexes' specifications but for that of `_id`; none where there is no such collection.
pub async fn indexes(client: &Client, ns: &Namespace) -> Result<Vec<RawDocumentBuf>, ServerError> {
    let list = rawdoc! {"listIndexes": ns.coll(), "cursor": {}};
    let mut cursor = match cursor(client, ns.db(), list).await {
        Err(error) if error.code.is_some_and(|code| NO_INDEX.contains(&code)) => return Ok(Vec::new()),
        other => other?,
    };
    let mut indexes = Vec::new();
    while let Some(index) = next(&mut cursor).await? {
        if index.get_str("name").is_ok_and(|name| name != "_id_") {
            indexes.push(index);
        }
    }
    Ok(indexes)
}

/// Without those that belong to the collection itself.
pub fn by_name(specs: &[RawDocumentBuf]) -> BTreeMap<String, RawDocumentBuf> {
    let own = |spec: &&RawDocumentBuf| !spec.get_bool("clustered").unwrap_or(false);
    let named = specs.iter().filter(own);
    named.filter_map(|spec| Some((spec.get_str("name").ok()?.to_owned(), spec.clone()))).collect()
}

/// The names of the target's indexes that the source does not have, or not so, or that let documents expire.
pub fn unwanted(source: &[RawDocumentBuf], target: &[RawDocumentBuf]) -> Vec<String> {
    let wanted = by_name(source);
    let is_wanted = |name: &str, spec: &RawDocument| {
        let expires = spec.get(EXPIRY).is_ok_and(|value| value.is_some());
        !expires && wanted.get(name).is_some_and(|wanted| fields(wanted) == fields(spec))
    };
    by_name(target).into_iter().filter(|(name, spec)| !is_wanted(name, spec)).map(|(name, _)| name).collect()
}

/// A document's fields whatever their order, without what may differ between equal ones.
pub fn fields(doc: &RawDocument) -> BTreeMap<String, RawBson> {
    let known = doc.into_iter().flatten();
    let kept = known.filter(|(name, _)| !["v", "ns", "background", EXPIRY].contains(&name.as_str()));
    kept.map(|(name, value)| (name.as_str().to_owned(), RawBson::from(value))).collect()
}

impl Executor {
    /// Drops what could refuse documents that come now; what is missing is made beside the documents' way.
    pub async fn drop_unwanted_indexes(&self, ns: &Namespace) -> Result<(), Stall> {
        let here = self.source.indexes(ns).await.map_err(Stall::Source)?;
        let there = self.target.indexes(ns).await.map_err(Stall::Target)?;
        for index in unwanted(&here, &there) {
            self.target.drop_index(ns, &index).await.map_err(Stall::Target)?;
            info!(%ns, index, "an index that the source does not have was dropped on the target");
        }
        Ok(())
    }
}
