//! Compares one range of `_id` on both sides, byte by byte.
//!
//! The source's documents of the range are held (a page: bounded by number and bytes), the target's stream past.
//! Keys are matched by value, so nothing here needs to know how a server orders them.

use std::collections::HashMap;

use bson::raw::RawDocumentBuf;
use record::{Key, Namespace};
use replicator::{ServerError, next};

use crate::side::{Range, Side, bound};

/// Documents of the source that are held at a time.
const PAGE_DOCUMENTS: usize = 4_000;
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
    /// The source's next documents from `from` on.
    pub(crate) async fn read(
        source: &Side,
        ns: &Namespace,
        from: Option<RawDocumentBuf>,
    ) -> Result<Page, ServerError> {
        let mut range = Range { from, to: None };
        let mut cursor = source.documents(ns, &range, PAGE_DOCUMENTS + 1).await?;
        let mut page = Page { range: Range::default(), documents: HashMap::new(), unkeyed: 0 };
        let (mut count, mut bytes) = (0, 0);
        while let Some(document) = next(&mut cursor).await? {
            if count == PAGE_DOCUMENTS || bytes > PAGE_BYTES_MAX {
                range.to = bound(&document);
                break;
            }
            count += 1;
            bytes += document.as_bytes().len();
            match Key::of(&document) {
                Some(key) => drop(page.documents.insert(key, document)),
                None => page.unkeyed += 1,
            }
        }
        page.range = range;
        Ok(page)
    }

    /// Reads the target's documents of the same range.
    pub(crate) async fn compare(mut self, target: &Side, ns: &Namespace) -> Result<Found, ServerError> {
        let mut found = Found {
            source: self.documents.len() as u64 + self.unkeyed,
            unkeyed: self.unkeyed,
            next: self.range.to.clone(),
            ..Found::default()
        };
        let mut cursor = target.documents(ns, &self.range, 0).await?;
        while let Some(document) = next(&mut cursor).await? {
            found.target += 1;
            let Some(key) = Key::of(&document) else {
                found.unkeyed += 1;
                continue;
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
        found.differ.extend(self.documents.into_keys());
        Ok(found)
    }
}
