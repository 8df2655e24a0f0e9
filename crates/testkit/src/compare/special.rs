//! Collections whose documents are more, or less, than a set of keys: the order of capped ones counts, and measurements
//! of a time-series collection have no key.

use std::collections::BTreeMap;

use anyhow::Result;
use bson::RawDocumentBuf;
use bson::doc;
use bson::raw::RawDocument;
use mongodb::Client;

use super::{Collection, read};

/// Measurements as a multiset. A server gives a measurement's fields back in an order that depends on its neighbours, so
/// they are put into the order of their names.
pub(super) async fn measured(
    left: &Client,
    right: &Client,
    database: &str,
    name: &str,
) -> Result<Collection> {
    let mut compared = Collection::default();
    let mut counted: BTreeMap<Vec<u8>, (RawDocumentBuf, i64)> = BTreeMap::new();
    for (client, one) in [(left, 1), (right, -1)] {
        let mut documents =
            client.database(database).collection::<RawDocumentBuf>(name).find(doc! {}).await?;
        while documents.advance().await? {
            let document = documents.current();
            *if one > 0 { &mut compared.left } else { &mut compared.right } += 1;
            counted.entry(by_name(document)).or_insert_with(|| (document.to_owned(), 0)).1 += one;
        }
    }
    for (document, count) in counted.values().filter(|(_, count)| *count != 0) {
        match *count > 0 {
            true => {
                (compared.missing, ()) =
                    (compared.missing + count.unsigned_abs(), compared.example(Some(document), None))
            }
            false => {
                (compared.extra, ()) =
                    (compared.extra + count.unsigned_abs(), compared.example(None, Some(document)))
            }
        }
    }
    Ok(compared)
}

/// Where both have the same documents, but not in the same order, the first that is elsewhere.
pub(super) async fn order(
    left: &Client,
    right: &Client,
    database: &str,
    name: &str,
    compared: &mut Collection,
) -> Result<()> {
    let (mut left, mut right) = (read(left, database, name).await?, read(right, database, name).await?);
    while left.advance().await? && right.advance().await? {
        if left.current().as_bytes() != right.current().as_bytes() {
            compared.different += 1;
            compared.example(Some(left.current()), Some(right.current()));
            break;
        }
    }
    Ok(())
}

fn by_name(document: &RawDocument) -> Vec<u8> {
    let mut fields: Vec<_> = document.into_iter().flatten().collect();
    fields.sort_by_key(|(name, _)| *name);
    let mut sorted = RawDocumentBuf::new();
    fields.into_iter().for_each(|(name, value)| sorted.append(name, value));
    sorted.into_bytes()
}
