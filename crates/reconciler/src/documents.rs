//! Compares one range of `_id` on both sides, byte by byte.
//!
//! The source's documents of the range are held (a page: bounded by number and bytes), the target's stream past.
//! Keys are matched by value, so nothing here needs to know how a server orders them.

use std::collections::HashMap;

use bson::raw::{RawDocument, RawDocumentBuf};
use record::{Key, Namespace};
use replicator::{ServerError, next};

use crate::side::{Range, Side, bound, is_last};

/// Documents of the source that are held at a time.
pub(crate) const PAGE_DOCUMENTS: usize = 4_000;
/// And their bytes, but for the last one.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Keys of documents that only the target has; beyond that they are counted. About 10 MiB.
const EXTRA_MAX: usize = 50_000;

/// Some of the source's documents, in order.
pub(crate) struct Page {
    /// From its beginning, up to the first document of the next page.
    pub(crate) range: Range,
    documents: HashMap<Key, RawDocumentBuf>,
    /// Documents without an `_id` that could be asked for.
    unkeyed: u64,
}

/// How a range came out.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Documents of the source.
    pub(crate) source: u64,
    /// Documents of the target.
    pub(crate) target: u64,
    /// Missing on the target, or different there.
    pub(crate) differ: Vec<Key>,
    /// On the target only; not all of them when there are very many.
    pub(crate) extra: Vec<Key>,
    /// How many there are.
    pub(crate) extra_all: u64,
    /// Documents whose `_id` is none that could be asked for.
    pub(crate) unkeyed: u64,
    /// Where to go on; `None` at the end.
    pub(crate) next: Option<RawDocumentBuf>,
}

impl Page {
    /// The source's next documents from `from` on, so many at most.
    pub(crate) async fn read(
        source: &Side,
        ns: &Namespace,
        from: Option<RawDocumentBuf>,
        at_most: usize,
    ) -> Result<Page, ServerError> {
        let mut page = Page { range: Range { from, to: None }, documents: HashMap::new(), unkeyed: 0 };
        let (mut count, mut bytes) = (0, 0);
        if !page.range.is_behind_all() {
            let mut cursor = source.documents(ns, &page.range, at_most + 1).await?;
            while let Some(document) = next(&mut cursor).await? {
                if count == at_most || bytes > PAGE_BYTES_MAX {
                    page.range.to = bound(&document);
                    break;
                }
                count += 1;
                bytes += document.as_bytes().len();
                page.take(document);
            }
        }
        if page.range.lacks_last()
            && let Some(document) = source.last(ns).await?
        {
            page.take(document);
        }
        Ok(page)
    }

    fn take(&mut self, document: RawDocumentBuf) {
        match Key::of(&document) {
            Some(key) => drop(self.documents.insert(key, document)),
            None => self.unkeyed += 1,
        }
    }

    /// Reads the target's documents of the same range.
    pub(crate) async fn compare(mut self, target: &Side, ns: &Namespace) -> Result<Found, ServerError> {
        let mut found = Found {
            source: self.documents.len() as u64 + self.unkeyed,
            unkeyed: self.unkeyed,
            next: self.range.to.clone(),
            ..Found::default()
        };
        let mut lacks_last = self.range.lacks_last();
        if !self.range.is_behind_all() {
            let mut cursor = target.documents(ns, &self.range, 0).await?;
            while let Some(document) = next(&mut cursor).await? {
                lacks_last &= !is_last(&document);
                self.meet(&document, &mut found);
            }
        }
        if lacks_last && let Some(document) = target.last(ns).await? {
            self.meet(&document, &mut found);
        }
        found.differ.extend(self.documents.into_keys());
        Ok(found)
    }

    /// A document of the target.
    fn meet(&mut self, document: &RawDocument, found: &mut Found) {
        found.target += 1;
        let Some(key) = Key::of(document) else {
            found.unkeyed += 1;
            return;
        };
        match self.documents.remove(&key) {
            Some(same) if same.as_bytes() == document.as_bytes() => {}
            Some(_) => found.differ.push(key),
            None => {
                found.extra_all += 1;
                if found.extra.len() < EXTRA_MAX {
                    found.extra.push(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Result, ensure};
    use bson::oid::ObjectId;
    use bson::{Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Timestamp, doc};
    use std::collections::BTreeSet;
    use testkit::Mongod;

    use super::*;

    /// One of every type that an `_id` can have, so that pages end between any two of them.
    fn ids() -> Vec<Bson> {
        let mut ids = vec![
            Bson::MinKey,
            Bson::Null,
            Bson::Symbol("symbol".into()),
            Bson::Document(doc! {"a": [1, "x"]}),
            Bson::Document(doc! {"a": [1, "x"], "b": Bson::Null}),
            Bson::Binary(Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![7; 16] }),
            Bson::ObjectId(ObjectId::new()),
            Bson::Boolean(false),
            Bson::DateTime(DateTime::from_millis(-1)),
            Bson::Timestamp(Timestamp { time: 5, increment: 6 }),
            Bson::JavaScriptCode("f()".into()),
            Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                code: "g()".into(),
                scope: doc! {"x": 1},
            }),
            Bson::MaxKey,
        ];
        ids.extend([f64::NAN, f64::NEG_INFINITY, -0.5, 1e300].map(Bson::Double));
        ids.extend((-3..3).map(Bson::Int32).chain([1 << 40, i64::MIN, i64::MAX].map(Bson::Int64)));
        ids.extend(
            ["0.1", "1E+6000"].iter().filter_map(|text| text.parse::<Decimal128>().ok()).map(Into::into),
        );
        ids.extend(["", "B", "a", "z", "é"].map(|text| Bson::String(text.into())));
        ids
    }

    /// What pages of `at_most` documents find, from the first to the last.
    async fn find(
        source: &Side,
        target: &Side,
        ns: &Namespace,
        at_most: usize,
    ) -> Result<[BTreeSet<Key>; 2]> {
        let (mut differ, mut extra) = (BTreeSet::new(), BTreeSet::new());
        let (mut from, mut twice, mut documents) = (None, 0, 0);
        loop {
            let page = Page::read(source, ns, from, at_most).await?;
            let found = page.compare(target, ns).await?;
            documents += found.source;
            twice += found.differ.into_iter().filter(|key| !differ.insert(key.clone())).count();
            twice += found.extra.into_iter().filter(|key| !extra.insert(key.clone())).count();
            match found.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        ensure!(twice == 0, "{twice} documents were found twice in pages of {at_most}");
        println!("pages of {at_most}: {documents} documents, {} differ, {} extra", differ.len(), extra.len());
        Ok([differ, extra])
    }

    #[tokio::test]
    async fn every_difference_is_found_once_wherever_pages_end() -> Result<()> {
        let (left, right) = (Mongod::standalone().await?, Mongod::standalone().await?);
        let (source, target) = (Side::connect(&left.uri()).await?, Side::connect(&right.uri()).await?);
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let options = [
            ("plain", doc! {}),
            ("folded", doc! {"collation": {"locale": "en", "strength": 2}}),
            ("clustered", doc! {"clusteredIndex": {"key": {"_id": 1}, "unique": true}}),
        ];
        for (name, options) in options {
            let (mut here, mut there) = (Vec::new(), Vec::new());
            let (mut differ, mut extra) = (BTreeSet::new(), BTreeSet::new());
            // A collation's index takes no symbols (code 201 of 6.0.5).
            let fits = |id: &Bson| name != "folded" || !matches!(id, Bson::Symbol(_));
            for id in ids().into_iter().filter(fits) {
                let document = doc! {"_id": id.clone(), "v": 1};
                let raw = RawDocumentBuf::try_from(&doc! {"_id": id.clone()})?;
                let key = Key::of(&raw);
                match rng.u32(..4) {
                    0 => {
                        here.push(document);
                        differ.extend(key);
                    }
                    1 => {
                        here.push(document);
                        there.push(doc! {"_id": id, "v": 1_i64});
                        differ.extend(key);
                    }
                    2 => {
                        there.push(document);
                        extra.extend(key);
                    }
                    _ => {
                        here.push(document.clone());
                        there.push(document);
                    }
                }
            }
            for (side, documents) in [(&left, here), (&right, there)] {
                let database = side.client().await?.database("d");
                let mut create = doc! {"create": name};
                create.extend(options.clone());
                database.run_command(create).await?;
                database.collection::<Document>(name).insert_many(documents).await?;
            }
            for at_most in [1, 2, 3, 7, 1_000] {
                let found = find(&source, &target, &Namespace::new("d", name), at_most).await?;
                for (found, meant) in found.iter().zip([&differ, &extra]) {
                    let wrong: Vec<_> = found.symmetric_difference(meant).collect();
                    ensure!(wrong.is_empty(), "{name}, pages of {at_most}: {wrong:?}");
                }
            }
        }
        Ok(())
    }
}
