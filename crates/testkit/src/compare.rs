//! Are both sides equal, byte for byte?
//!
//! - compared: every document of every collection of every database, by the raw bytes of its `_id` and of its whole
//! - the documents of a capped collection must have the same order; measurements of a time-series collection are compared
//!   as a multiset, whatever the order of their fields
//! - left out: `admin`, `config`, `local`, `__dualsync`, views, and collections named `system.*`
//! - [`databases`] compares documents only: an empty collection equals a missing one; [`everything`] compares kind,
//!   options and indexes as well, but for what expiry says
//! - one side of one collection is held in memory at a time; meant for the sizes of tests and the demo
//! - both sides must be at rest

mod shapes;
mod special;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result, bail};
use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use bson::{Bson, Document, doc};
use mongodb::Client;
use mongodb::options::Hint;
use mongodb::results::CollectionType;

/// What was compared and how it came out, per namespace (`db.collection`), in the order of their names.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Every namespace that exists on either side.
    pub collections: BTreeMap<String, Collection>,
    /// What differs in kind, options or indexes, by namespace: the left side's and the right side's.
    pub shapes: BTreeMap<String, (String, String)>,
}

/// One namespace, compared.
#[derive(Debug, Default)]
pub struct Collection {
    /// Documents on the left (the source).
    pub left: u64,
    /// Documents on the right (the target).
    pub right: u64,
    /// Documents that only the left has.
    pub missing: u64,
    /// Documents that only the right has.
    pub extra: u64,
    /// Documents whose bytes differ under the same `_id`.
    pub different: u64,
    /// The first few of them.
    pub examples: Vec<Difference>,
}

/// One document that is not equal, as canonical Extended JSON.
#[derive(Debug)]
pub struct Difference {
    /// Its `_id`.
    pub id: String,
    /// The left side's document, if there is one.
    pub left: Option<String>,
    /// The right side's document, if there is one.
    pub right: Option<String>,
}

/// Compares the source (left) with the target (right).
pub async fn databases(left: &Client, right: &Client) -> Result<Comparison> {
    documents(left, right, |_| true).await
}

/// The same of the databases that `wanted` names, with kind, options and indexes of every collection.
pub async fn everything(left: &Client, right: &Client, wanted: impl Fn(&str) -> bool) -> Result<Comparison> {
    let mut comparison = documents(left, right, &wanted).await?;
    let (left, right) = (shapes::of(left, &wanted).await?, shapes::of(right, &wanted).await?);
    for namespace in left.keys().chain(right.keys()) {
        let (here, there) = (left.get(namespace), right.get(namespace));
        if here != there {
            let text = |shape: Option<&Document>| shape.map_or("(none)".to_owned(), ToString::to_string);
            comparison.shapes.insert(namespace.clone(), (text(here), text(there)));
        }
    }
    Ok(comparison)
}

async fn documents(left: &Client, right: &Client, wanted: impl Fn(&str) -> bool) -> Result<Comparison> {
    let mut namespaces = namespaces(left).await.context("list the left side's collections")?;
    namespaces.extend(self::namespaces(right).await.context("list the right side's collections")?);
    namespaces.retain(|(database, _)| wanted(database));
    let mut comparison = Comparison::default();
    for (database, collection) in namespaces {
        let namespace = format!("{database}.{collection}");
        let compared = self::collection(left, right, &database, &collection)
            .await
            .with_context(|| format!("compare {namespace}"))?;
        comparison.collections.insert(namespace, compared);
    }
    Ok(comparison)
}

impl Comparison {
    /// Whether everything that was compared is the same on both sides.
    pub fn equal(&self) -> bool {
        self.shapes.is_empty() && self.collections.values().all(Collection::equal)
    }

    /// Documents on the left, in all collections.
    pub fn documents(&self) -> u64 {
        self.collections.values().map(|collection| collection.left).sum()
    }
}

impl Collection {
    /// Whether every document is the same on both sides.
    pub fn equal(&self) -> bool {
        self.missing + self.extra + self.different == 0
    }

    fn example(&mut self, left: Option<&RawDocument>, right: Option<&RawDocument>) {
        if self.examples.len() < EXAMPLES_MAX {
            let id = left.or(right).and_then(|document| document.get("_id").ok().flatten());
            self.examples.push(Difference {
                id: id.map(value_json).unwrap_or_default(),
                left: left.map(document_json),
                right: right.map(document_json),
            });
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.collections.keys().map(String::len).max().unwrap_or(0).max("collection".len());
        writeln!(f, "{:width$}  {:>9}  {:>9}  result", "collection", "source", "target")?;
        for (namespace, compared) in &self.collections {
            write!(f, "{namespace:width$}  {:>9}  {:>9}  ", compared.left, compared.right)?;
            if compared.equal() {
                writeln!(f, "equal")?;
                continue;
            }
            let Collection { missing, extra, different, examples, .. } = compared;
            writeln!(f, "NOT EQUAL: {missing} missing, {extra} extra, {different} different")?;
            for Difference { id, left, right } in examples {
                writeln!(f, "  _id {id}")?;
                writeln!(f, "    source {}", left.as_deref().unwrap_or("(none)"))?;
                writeln!(f, "    target {}", right.as_deref().unwrap_or("(none)"))?;
            }
        }
        for (namespace, (left, right)) in &self.shapes {
            writeln!(f, "{namespace}  NOT EQUAL in options or indexes\n  source {left}\n  target {right}")?;
        }
        Ok(())
    }
}

async fn namespaces(client: &Client) -> Result<BTreeSet<(String, String)>> {
    let mut found = BTreeSet::new();
    for database in client.list_database_names().await? {
        if DATABASES_LEFT_OUT.contains(&database.as_str()) {
            continue;
        }
        let mut collections = client.database(&database).list_collections().await?;
        while collections.advance().await? {
            let collection = collections.deserialize_current()?;
            let view = matches!(collection.collection_type, CollectionType::View);
            if !view && !collection.name.starts_with("system.") {
                found.insert((database.clone(), collection.name));
            }
        }
    }
    Ok(found)
}

async fn collection(left: &Client, right: &Client, database: &str, name: &str) -> Result<Collection> {
    match kind(left, database, name).await?.or(kind(right, database, name).await?) {
        Some(Kind::Measured) => return special::measured(left, right, database, name).await,
        Some(Kind::Capped) => {
            let mut compared = keyed(left, right, database, name).await?;
            if compared.equal() {
                special::order(left, right, database, name, &mut compared).await?;
            }
            Ok(compared)
        }
        _ => keyed(left, right, database, name).await,
    }
}

enum Kind {
    Keyed,
    Capped,
    Measured,
}

async fn kind(client: &Client, database: &str, name: &str) -> Result<Option<Kind>> {
    let mut found = client.database(database).list_collections().filter(doc! {"name": name}).await?;
    if !found.advance().await? {
        return Ok(None);
    }
    let found = found.deserialize_current()?;
    Ok(Some(match found.collection_type {
        CollectionType::Timeseries => Kind::Measured,
        _ if found.options.capped == Some(true) => Kind::Capped,
        _ => Kind::Keyed,
    }))
}

async fn keyed(left: &Client, right: &Client, database: &str, name: &str) -> Result<Collection> {
    let mut compared = Collection::default();
    let mut unmatched = BTreeMap::new();
    let mut documents = read(left, database, name).await?;
    while documents.advance().await? {
        let document = documents.current().to_owned();
        compared.left += 1;
        if unmatched.insert(raw_id(&document)?, document).is_some() {
            bail!("the source holds the same _id twice");
        }
    }
    let mut documents = read(right, database, name).await?;
    while documents.advance().await? {
        let document = documents.current();
        compared.right += 1;
        match unmatched.remove(&raw_id(document)?) {
            Some(same) if same.as_bytes() == document.as_bytes() => {}
            Some(other) => {
                compared.different += 1;
                compared.example(Some(&other), Some(document));
            }
            None => {
                compared.extra += 1;
                compared.example(None, Some(document));
            }
        }
    }
    for document in unmatched.values() {
        compared.missing += 1;
        compared.example(Some(document), None);
    }
    Ok(compared)
}

async fn read(client: &Client, database: &str, name: &str) -> Result<mongodb::Cursor<RawDocumentBuf>> {
    // Natural order finds every document, whatever the state of an index.
    let natural = Hint::Keys(doc! { "$natural": 1 });
    Ok(client.database(database).collection(name).find(doc! {}).hint(natural).await?)
}

/// An `_id` as the bytes of a document that holds nothing else: type and value, exactly.
fn raw_id(document: &RawDocument) -> Result<Vec<u8>> {
    let id = document.get("_id").context("read a document")?.context("a document has no _id")?;
    let mut alone = RawDocumentBuf::new();
    alone.append(bson::raw::cstr!("_id"), id);
    Ok(alone.into_bytes())
}

fn value_json(value: RawBsonRef<'_>) -> String {
    match Bson::try_from(value) {
        Ok(value) => value.into_canonical_extjson().to_string(),
        Err(error) => format!("({error})"),
    }
}

fn document_json(document: &RawDocument) -> String {
    match Document::try_from(document) {
        Ok(document) => Bson::Document(document).into_canonical_extjson().to_string(),
        Err(error) => format!("({error})"),
    }
}

const DATABASES_LEFT_OUT: [&str; 4] = ["admin", "config", "local", "__dualsync"];
const EXAMPLES_MAX: usize = 5;
