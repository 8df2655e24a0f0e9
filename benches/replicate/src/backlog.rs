//! Entries as capture writes them, and the documents that they speak of.

use bson::raw::RawDocumentBuf;
use bson::{cstr, rawdoc};
use record::{Doubt, Effect, Entry, Key, Mark, Namespace, Op, RecordKind, Target, Touch};
use replicator::Pending;
use synclog::{Lsn, SyncLog};

/// Where everything happens, on both servers.
pub(crate) fn namespace() -> Namespace {
    Namespace::new("bench", "items")
}

/// About 300 bytes.
pub(crate) fn document(id: i64, n: i32) -> RawDocumentBuf {
    let text = "a shop sells goods of all kinds, and this is what one of them is described by; ".repeat(2);
    rawdoc! {
        "_id": id, "n": n, "name": format!("goods number {id}"), "price": id as f64 / 7.0,
        "tags": ["new", "cheap", "large"], "text": text, "seen": bson::DateTime::from_millis(id),
    }
}

/// What one entry does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Write {
    /// A new document.
    Insert(i64),
    /// One of a few bytes: many of them are read at a time.
    Small(i64),
    /// `$inc` by `_id`.
    Update(i64),
    /// By `_id`.
    Delete(i64),
    /// `$inc` by `_id`, while another was in flight on the same key.
    Contended(i64),
}

/// Appends a mark and its entry; returns the position behind them.
pub(crate) fn append(log: &SyncLog, pending: &Pending, write: Write) -> anyhow::Result<Lsn> {
    let (Write::Insert(id) | Write::Small(id) | Write::Update(id) | Write::Delete(id) | Write::Contended(id)) =
        write;
    let key = Key::of(&rawdoc! {"_id": id}).ok_or_else(|| anyhow::anyhow!("no key"))?;
    let target = Target::new(namespace(), Touch::Key(key));
    let mark = Mark {
        targets: vec![target.clone()],
        via: "127.0.0.1:50000".to_owned(),
        in_transaction: false,
        drops: false,
        at_ms: replicator::now_ms(),
    };
    let mark = log.append(RecordKind::Mark as u8, &[&mark.encode()])?.0;
    let (op, modified) = match write {
        Write::Insert(_) => (Op::Insert(document(id, 0)), 0),
        Write::Small(_) => (Op::Insert(rawdoc! {"_id": id, "n": 0}), 0),
        Write::Update(_) | Write::Contended(_) => (Op::Update(update(id)), 1),
        Write::Delete(_) => (Op::Delete(delete(id)), 0),
    };
    let entry = Entry {
        mark,
        doubt: matches!(write, Write::Contended(_)).then_some(Doubt::Contended),
        atomic: false,
        effects: vec![Effect { target, op: Some(op), n: 1, modified }],
        operation_time: None,
        at_ms: replicator::now_ms(),
    };
    let at = log.append(RecordKind::Entry as u8, &[&entry.encode()])?;
    pending.appended.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Ok(at.next())
}

/// An update statement.
pub(crate) fn update(id: i64) -> RawDocumentBuf {
    rawdoc! {"q": {"_id": id}, "u": {"$inc": {"n": 1}}, "multi": false, "upsert": false}
}

/// A delete statement.
pub(crate) fn delete(id: i64) -> RawDocumentBuf {
    rawdoc! {"q": {"_id": id}, "limit": 1}
}

/// A whole document, whether it is there or not.
pub(crate) fn replacement(id: i64, n: i32) -> RawDocumentBuf {
    let mut statement = rawdoc! {"q": {"_id": id}};
    statement.append(cstr!("u"), document(id, n));
    statement.append(cstr!("upsert"), true);
    statement
}
