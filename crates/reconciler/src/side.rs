//! One server, as the reconciler reads it: documents in ranges of `_id`, options, indexes, what is under way.

use std::collections::BTreeSet;
use std::time::Duration;

use bson::raw::{RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf};
use bson::{DateTime, Document, cstr, doc, rawdoc};
use mongodb::{Client, Cursor};
use record::{Key, Namespace};
use replicator::{
    Class, Collection, ServerError, answer, collection, concern, connect, cursor, integer, next,
};

/// The documents' `_id`s from `from` on, up to but not including `to`; without an end where there is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Range {
    pub(crate) from: Option<RawDocumentBuf>,
    pub(crate) to: Option<RawDocumentBuf>,
}

impl Range {
    /// Whether it begins behind everything that an index bound can name.
    pub(crate) fn is_behind_all(&self) -> bool {
        self.from.as_deref().is_some_and(is_last)
    }

    /// Whether [`Side::documents`] leaves out what [`Side::last`] finds.
    pub(crate) fn lacks_last(&self) -> bool {
        self.from.is_some() && self.to.is_none()
    }
}

/// A server.
pub(crate) struct Side {
    client: Client,
}

impl Side {
    /// Errors: an address that cannot be understood or resolved.
    pub(crate) async fn connect(uri: &str) -> Result<Side, ServerError> {
        Ok(Side { client: connect(uri, "dualsync reconciler", CONNECTIONS_MAX).await? })
    }

    /// The documents of a range in the order of `_id`, as the server orders it: `$gt` compares within one type
    /// only, an index's bounds do not.
    pub(crate) async fn documents(
        &self,
        ns: &Namespace,
        range: &Range,
        at_most: usize,
    ) -> Result<Cursor<RawDocumentBuf>, ServerError> {
        let mut find = rawdoc! {"find": ns.coll(), "hint": {"_id": 1}, "sort": {"_id": 1}};
        if let Some(from) = &range.from {
            find.append(cstr!("min"), from.as_ref());
        }
        if let Some(to) = &range.to {
            find.append(cstr!("max"), to.as_ref());
        }
        if at_most > 0 {
            find.append(cstr!("limit"), i64::try_from(at_most).unwrap_or(i64::MAX));
        }
        find.append(cstr!("batchSize"), BATCH_DOCUMENTS);
        concern(&self.client, None).await?.add_to(&mut find);
        cursor(&self.client, ns.db(), find).await
    }

    /// The document that an index bound without an end leaves out: with `min` alone, the server ends the range before
    /// `MaxKey` (seen on 6.0.5; not so for a clustered collection).
    pub(crate) async fn last(&self, ns: &Namespace) -> Result<Option<RawDocumentBuf>, ServerError> {
        let mut find = rawdoc! {"find": ns.coll(), "filter": {"_id": {"$eq": RawBson::MaxKey}}, "limit": 1};
        concern(&self.client, None).await?.add_to(&mut find);
        next(&mut cursor(&self.client, ns.db(), find).await?).await
    }

    /// Those of these keys whose documents match `filter`.
    pub(crate) async fn matching(
        &self,
        ns: &Namespace,
        keys: &[Key],
        filter: &RawDocument,
    ) -> Result<Vec<Key>, ServerError> {
        let mut ids = RawArrayBuf::new();
        keys.iter().for_each(|key| ids.push(key.id()));
        let mut both = RawArrayBuf::new();
        both.push(rawdoc! {"_id": {"$in": ids}});
        both.push(filter.to_owned());
        let mut find = rawdoc! {"find": ns.coll(), "projection": {"_id": 1}};
        find.append(cstr!("filter"), rawdoc! {"$and": both});
        find.append(cstr!("batchSize"), BATCH_DOCUMENTS);
        let mut cursor = cursor(&self.client, ns.db(), find).await?;
        let mut found = Vec::new();
        while let Some(document) = next(&mut cursor).await? {
            found.extend(Key::of(&document));
        }
        Ok(found)
    }

    /// The time by the server's clock.
    pub(crate) async fn now(&self) -> Result<DateTime, ServerError> {
        let hello = self.command("admin", doc! {"hello": 1}).await?;
        Ok(hello.get_datetime("localTime").copied().unwrap_or_else(|_| DateTime::now()))
    }

    /// All documents in their natural order.
    pub(crate) async fn in_order(&self, ns: &Namespace) -> Result<Cursor<RawDocumentBuf>, ServerError> {
        let mut find = rawdoc! {"find": ns.coll(), "sort": {"$natural": 1}};
        find.append(cstr!("batchSize"), BATCH_DOCUMENTS);
        concern(&self.client, None).await?.add_to(&mut find);
        cursor(&self.client, ns.db(), find).await
    }

    /// The time of a time-series collection's first (1) or last (-1) measurement, in milliseconds since 1970.
    pub(crate) async fn end_of_time(
        &self,
        ns: &Namespace,
        field: &str,
        order: i32,
    ) -> Result<Option<i64>, ServerError> {
        replicator::end_of_time(&self.client, ns, field, order).await
    }

    /// The collection's kind and options; `None` when it does not exist.
    pub(crate) async fn collection(&self, ns: &Namespace) -> Result<Option<Collection>, ServerError> {
        collection(&self.client, ns).await
    }

    /// About how many documents it holds; 0 for none.
    pub(crate) async fn count(&self, ns: &Namespace) -> Result<u64, ServerError> {
        let count = self.command(ns.db(), doc! {"count": ns.coll()}).await?;
        Ok(u64::try_from(integer(count.get("n"))).unwrap_or(0))
    }

    /// The indexes' specifications but for that of `_id`.
    pub(crate) async fn indexes(&self, ns: &Namespace) -> Result<Vec<RawDocumentBuf>, ServerError> {
        replicator::indexes(&self.client, ns).await
    }

    /// The operations that may be writing to `ns` now. Needs the privilege `inprog`; without it: none are seen.
    pub(crate) async fn writes_under_way(&self, ns: &Namespace) -> Result<BTreeSet<String>, ServerError> {
        let here = rawdoc! {"$or": [
            {"ns": ns.as_str(), "op": {"$in": ["insert", "update", "remove"]}},
            {"ns": ns.as_str(), "command.findAndModify": {"$exists": true}},
            {"ns": {"$regex": format!("^{}\\.", ns.db())}, "$or": [
                {"command.pipeline.$out": {"$exists": true}}, {"command.pipeline.$merge": {"$exists": true}},
                {"cursor.originatingCommand.pipeline.$out": {"$exists": true}},
                {"cursor.originatingCommand.pipeline.$merge": {"$exists": true}},
                {"command.mapReduce": {"$exists": true}}, {"command.renameCollection": {"$exists": true}},
                {"command.drop": {"$exists": true}}, {"command.dropDatabase": {"$exists": true}},
                {"command.convertToCapped": {"$exists": true}}, {"command.applyOps": {"$exists": true}},
                {"command.bulkWrite": {"$exists": true}},
            ]},
        ]};
        let command = rawdoc! {
            "aggregate": 1,
            "pipeline": [
                {"$currentOp": {"allUsers": true}}, {"$match": here}, {"$project": {"opid": 1}},
            ],
            "cursor": {},
        };
        let mut cursor = match cursor(&self.client, "admin", command).await {
            Err(error) if matches!(error.class, Class::Identity | Class::Refused) => {
                return Ok(BTreeSet::new());
            }
            other => other?,
        };
        let mut operations = BTreeSet::new();
        while let Some(operation) = next(&mut cursor).await? {
            let id = operation.get("opid").ok().flatten();
            operations.extend(id.map(|id| format!("{id:?}")));
        }
        Ok(operations)
    }

    /// Runs a command over indexes or options, acknowledged by the majority.
    pub(crate) async fn change(&self, db: &str, mut command: RawDocumentBuf) -> Result<(), ServerError> {
        command.append(cstr!("writeConcern"), rawdoc! {"w": "majority"});
        let db = self.client.database(db);
        let done = db.run_raw_command(command).into_future();
        // An index over a large collection takes its time; the worker goes on meanwhile.
        match tokio::time::timeout(CHANGE_MAX, done).await {
            Ok(done) => Ok(done.map(|_| ())?),
            Err(_) => Err(ServerError::timed_out("a change of indexes or options", CHANGE_MAX)),
        }
    }

    async fn command(&self, db: &str, command: Document) -> Result<Document, ServerError> {
        answer("a question", self.client.database(db).run_command(command)).await
    }

    /// Ends all connections.
    pub(crate) async fn close(self) {
        self.client.shutdown().immediate(true).await;
    }
}

/// Whether no other `_id` comes behind this document's.
pub(crate) fn is_last(document: &RawDocument) -> bool {
    matches!(document.get("_id"), Ok(Some(RawBsonRef::MaxKey)))
}

/// `{_id: value}` of a document, as a bound of a range.
pub(crate) fn bound(document: &RawDocument) -> Option<RawDocumentBuf> {
    let id = document.get("_id").ok()??;
    let mut bound = RawDocumentBuf::new();
    bound.append(cstr!("_id"), id);
    Some(bound)
}

/// Connections at a time.
const CONNECTIONS_MAX: u32 = 4;
/// Documents in one of a cursor's answers; 16 MiB at most, by the server.
const BATCH_DOCUMENTS: i64 = 5_000;
/// Longest wait for an index.
const CHANGE_MAX: Duration = Duration::from_secs(3_600);
