//! The local mongod, as the replicator reads it: documents as they are now, options, and who is connected.
//!
//! Never on a client's path: this is a connection of our own. On a replica set everything is read from the
//! primary with read concern majority, not before the writes in question.

mod connections;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::{Timestamp, cstr, doc, rawdoc};
use mongodb::{Client, Cursor};
use record::{Key, Namespace};

pub use connections::{Connections, Dial, Dialled, Duplex};

use crate::error::{Class, ServerError};
use crate::server::{self, Collection, Concern, Listing, answer, connect, databases, next, uuid};

/// Our own connections to the source, as mongod shows them.
const APP_NAME: &str = "dualsync replicator";
/// Connections: a few more than there are lanes as a rule.
const CONNECTIONS_MAX: u32 = 32;
/// What a read answers whose collection is dropped or renamed meanwhile (QueryPlanKilled, met on 6.0.5).
const COLLECTION_CHANGED: i32 = 175;
/// So often is a read tried under such changes; then it counts as an outage, which is waited for.
const READS_MAX: usize = 20;
const READ_PAUSE: Duration = Duration::from_millis(20);
/// Documents are read in portions of about this many bytes, one for each lane, so that memory stays bounded.
const READ_BYTES_MAX: usize = 4 << 20;

/// The server that the application writes to.
#[derive(Clone)]
pub struct Source {
    client: Client,
    dials: Vec<Dial>,
}

/// Part of the documents that were asked for.
#[derive(Debug)]
pub struct Portion {
    /// As they are on the source now, byte for byte.
    pub documents: Vec<RawDocumentBuf>,
    /// Whether what is not among them does not exist; else: ask again for the rest.
    pub complete: bool,
}

impl Source {
    /// Prepares connections; none is made yet. Errors: an address that cannot be understood.
    ///
    /// `dials` lead to the servers that clients' connections lead to: the one of `uri`, or members of its set.
    pub async fn new(uri: &str, dials: &[Dial]) -> Result<Source, ServerError> {
        Ok(Source { client: connect(uri, APP_NAME, CONNECTIONS_MAX).await?, dials: dials.to_vec() })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether it answers, and its `hello`.
    pub async fn hello(&self) -> Result<bson::Document, ServerError> {
        answer("hello", self.client.database("admin").run_command(doc! {"hello": 1})).await
    }

    /// The server's version.
    pub async fn version(&self) -> Result<String, ServerError> {
        server::version(&self.client).await
    }

    /// How documents must be read from now on, and not before `after`.
    pub async fn concern(&self, after: Option<Timestamp>) -> Result<Concern, ServerError> {
        server::concern(&self.client, after).await
    }

    /// The documents with these keys, as they are now. A read that a `drop` or another change of the collection killed is
    /// begun again.
    pub async fn read(
        &self,
        ns: &Namespace,
        keys: &[Key],
        concern: &Concern,
    ) -> Result<Portion, ServerError> {
        for _ in 1..READS_MAX {
            match self.read_once(ns, keys, concern).await {
                Err(error) if error.code == Some(COLLECTION_CHANGED) => {
                    tokio::time::sleep(READ_PAUSE).await;
                }
                result => return result,
            }
        }
        self.read_once(ns, keys, concern).await
    }

    async fn read_once(
        &self,
        ns: &Namespace,
        keys: &[Key],
        concern: &Concern,
    ) -> Result<Portion, ServerError> {
        let mut ids = RawArrayBuf::new();
        for key in keys {
            ids.push(key.id());
        }
        let mut find = RawDocumentBuf::new();
        find.append(cstr!("find"), ns.coll());
        find.append(cstr!("filter"), rawdoc! {"_id": {"$in": ids}});
        find.append(cstr!("batchSize"), i64::try_from(keys.len()).unwrap_or(i64::MAX));
        concern.add_to(&mut find);
        let mut cursor = self.cursor(ns.db(), find).await?;
        let mut portion = Portion { documents: Vec::new(), complete: true };
        let mut bytes = 0;
        while let Some(document) = next(&mut cursor).await? {
            // Only now: a portion of one document is complete, however large.
            if bytes > READ_BYTES_MAX {
                portion.complete = false;
                break;
            }
            bytes += document.as_bytes().len();
            portion.documents.push(document);
        }
        Ok(portion)
    }

    /// Those of these keys that have a document now.
    pub async fn which(&self, ns: &Namespace, keys: &[Key]) -> Result<HashSet<Key>, ServerError> {
        let mut ids = RawArrayBuf::new();
        keys.iter().for_each(|key| ids.push(key.id()));
        let mut find = rawdoc! {"find": ns.coll(), "projection": {"_id": 1}};
        find.append(cstr!("filter"), rawdoc! {"_id": {"$in": ids}});
        find.append(cstr!("batchSize"), i64::try_from(keys.len()).unwrap_or(i64::MAX));
        if let Some(concern) = self.concern(None).await?.0 {
            find.append(cstr!("readConcern"), concern);
        }
        let mut cursor = self.cursor(ns.db(), find).await?;
        let mut there = HashSet::new();
        while let Some(document) = next(&mut cursor).await? {
            there.extend(Key::of(&document));
        }
        Ok(there)
    }

    /// Whether this command over `ns` makes sense to the server: it is read and planned, and not run.
    pub async fn explain(&self, ns: &Namespace, command: RawDocumentBuf) -> Result<(), ServerError> {
        let mut explain = RawDocumentBuf::new();
        explain.append(cstr!("explain"), command);
        explain.append(cstr!("verbosity"), "queryPlanner");
        answer("explain", self.client.database(ns.db()).run_raw_command(explain)).await.map(drop)
    }

    /// The indexes but for that of `_id`.
    pub async fn indexes(&self, ns: &Namespace) -> Result<Vec<RawDocumentBuf>, ServerError> {
        crate::indexes::indexes(&self.client, ns).await
    }

    /// The collection's kind and options; `None` when it does not exist.
    pub async fn collection(&self, ns: &Namespace) -> Result<Option<Collection>, ServerError> {
        server::collection(&self.client, ns).await
    }

    /// Its collections and views.
    pub(crate) async fn namespaces(&self) -> Result<Listing<Vec<Namespace>>, ServerError> {
        server::namespaces(&self.client).await
    }

    /// Its collections, each with what names it, of the same name or not; its views have none.
    pub(crate) async fn uuids(&self) -> Result<Listing<HashMap<Namespace, Option<String>>>, ServerError> {
        let (mut uuids, mut forbidden) = (HashMap::new(), Vec::new());
        for db in databases(&self.client).await? {
            let command = rawdoc! {"listCollections": 1, "cursor": {}};
            let mut cursor = match self.cursor(&db, command).await {
                Ok(cursor) => cursor,
                Err(error) if error.is_forbidden() => {
                    forbidden.push((Namespace::new(&db, ""), error));
                    continue;
                }
                Err(error) => return Err(error),
            };
            while let Some(info) = next(&mut cursor).await? {
                if let Ok(name) = info.get_str("name") {
                    uuids.insert(Namespace::new(&db, name), uuid(&info));
                }
            }
        }
        Ok(Listing { found: uuids, forbidden })
    }

    /// Names the data that it has: a server that is started on an empty folder has others. The same on all members of a
    /// replica set, and over restarts (both seen on 6.0.5). `None`: the user may not look.
    pub async fn data(&self) -> Result<Option<String>, ServerError> {
        match server::collection(&self.client, &Namespace::new("admin", "system.version")).await {
            Ok(found) => Ok(found.and_then(|it| it.uuid)),
            Err(error) if matches!(error.class, Class::Refused | Class::Identity) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How often each collection was written to since mongod was started. Needs the privilege `top`.
    pub async fn writes_counted(&self) -> Result<HashMap<Namespace, u64>, ServerError> {
        let top = answer("top", self.client.database("admin").run_command(doc! {"top": 1})).await?;
        let totals = top.get_document("totals").map_err(|e| ServerError::from_code(9, &e.to_string()))?;
        let one = |(name, of): (&String, &bson::Bson)| {
            let of = of.as_document()?;
            let count = |kind: &str| {
                let count = of.get_document(kind).ok().and_then(|it| it.get("count"));
                count.and_then(|it| it.as_i64().or_else(|| it.as_i32().map(i64::from))).unwrap_or(0)
            };
            let writes: i64 = ["writeLock", "insert", "update", "remove"].map(count).iter().sum();
            Some((Namespace::parse(name), u64::try_from(writes).ok().filter(|writes| *writes > 0)?))
        };
        Ok(totals.iter().filter_map(one).collect())
    }

    /// The collections and views of one database.
    pub async fn namespaces_of(&self, db: &str) -> Result<Vec<Namespace>, ServerError> {
        server::namespaces_of(&self.client, db).await
    }

    async fn cursor(&self, db: &str, command: RawDocumentBuf) -> Result<Cursor<RawDocumentBuf>, ServerError> {
        server::cursor(&self.client, db, command).await
    }
}
