//! The local mongod, as the replicator reads it: documents as they are now, options, and who is connected.
//!
//! Never on a client's path: this is a connection of our own. On a replica set everything is read from the
//! primary with read concern majority, not before the writes in question.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::{Timestamp, cstr, doc, rawdoc};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use mongodb::options::ClientOptions;
use mongodb::{Client, Cursor};
use record::{Key, Namespace};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::error::{Class, ServerError};

/// Our own connections to the source, as mongod shows them.
const APP_NAME: &str = "dualsync replicator";
/// Connections: a few more than there are lanes as a rule.
const CONNECTIONS_MAX: u32 = 32;
/// Longest wait for one answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);
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

/// A connection to the source as the proxy makes them for its clients.
pub struct Dialled {
    /// The connection.
    pub stream: Box<dyn Duplex>,
    /// Our end of it, as the marks of what goes by it name it.
    pub via: String,
}

/// Makes one.
pub type Dial = Arc<dyn Fn() -> BoxFuture<'static, io::Result<Dialled>> + Send + Sync>;

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A read concern, or none on a standalone.
#[derive(Debug)]
pub struct Concern(Option<RawDocumentBuf>);

impl Concern {
    /// Adds it to a command that reads.
    pub fn add_to(&self, command: &mut RawDocumentBuf) {
        if let Some(concern) = &self.0 {
            command.append(cstr!("readConcern"), concern.as_ref());
        }
    }
}

/// Part of the documents that were asked for.
#[derive(Debug)]
pub struct Portion {
    /// As they are on the source now, byte for byte.
    pub documents: Vec<RawDocumentBuf>,
    /// Whether what is not among them does not exist; else: ask again for the rest.
    pub complete: bool,
}

/// Who is connected to the source.
#[derive(Debug)]
pub struct Connections {
    ends: HashSet<String>,
    /// Whether mongod sees our connections under the addresses that we have.
    direct: bool,
    /// Operations that run now and may write; not our own.
    pub running: HashSet<i64>,
}

impl Connections {
    /// Whether the connection whose near end is `via` is there. `None` when something on the way (a forwarder,
    /// address translation, a Unix socket) makes mongod see another end, so that nothing can be said.
    pub fn has(&self, via: &str) -> Option<bool> {
        let has_address = via.contains(':');
        (self.direct && has_address).then(|| self.ends.contains(via))
    }
}

/// A collection as `listCollections` shows it.
#[derive(Debug, Clone)]
pub struct Collection {
    /// `collection`, `view` or `timeseries`.
    pub kind: String,
    /// As given to `create`.
    pub options: RawDocumentBuf,
    /// Names this very collection: another one of the same name has another. A view has none.
    pub uuid: Option<String>,
}

impl Collection {
    /// Capped collections keep an order that cannot be converged.
    pub fn is_capped(&self) -> bool {
        self.options.get_bool("capped").unwrap_or(false)
    }

    /// Whether strings compare by a collation, so that a text key is not one document.
    pub fn has_collation(&self) -> bool {
        self.options.get_document("collation").is_ok_and(|c| c.get_str("locale").is_ok_and(|l| l != "simple"))
    }
}

impl Source {
    /// Prepares connections; none is made yet. Errors: an address that cannot be understood.
    ///
    /// `dials` lead to the servers that clients' connections lead to: the one of `uri`, or members of its set.
    pub async fn new(uri: &str, dials: &[Dial]) -> Result<Source, ServerError> {
        Ok(Source { client: connect(uri, APP_NAME, CONNECTIONS_MAX).await?, dials: dials.to_vec() })
    }

    /// Whether it answers, and its `hello`.
    pub async fn hello(&self) -> Result<bson::Document, ServerError> {
        answer("hello", self.client.database("admin").run_command(doc! {"hello": 1})).await
    }

    /// The server's version.
    pub async fn version(&self) -> Result<String, ServerError> {
        version(&self.client).await
    }

    /// How documents must be read from now on, and not before `after`.
    pub async fn concern(&self, after: Option<Timestamp>) -> Result<Concern, ServerError> {
        concern(&self.client, after).await
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
        collection(&self.client, ns).await
    }

    /// Its collections and views.
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, ServerError> {
        namespaces(&self.client, None).await
    }

    /// Its collections, each with what names it, of the same name or not; its views have none.
    pub async fn uuids(&self) -> Result<HashMap<Namespace, Option<String>>, ServerError> {
        let mut uuids = HashMap::new();
        for db in databases(&self.client).await? {
            let command = rawdoc! {"listCollections": 1, "cursor": {}};
            let mut cursor = self.cursor(&db, command).await?;
            while let Some(info) = next(&mut cursor).await? {
                if let Ok(name) = info.get_str("name") {
                    uuids.insert(Namespace::new(&db, name), uuid(&info));
                }
            }
        }
        Ok(uuids)
    }

    /// Names the data that it has: a server that is started on an empty folder has others. The same on all members of a
    /// replica set, and over restarts (both seen on 6.0.5). `None`: the user may not look.
    pub async fn data(&self) -> Result<Option<String>, ServerError> {
        match collection(&self.client, &Namespace::new("admin", "system.version")).await {
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
        namespaces(&self.client, Some(db)).await
    }

    /// The far ends of all connections that mongod knows. Needs the privilege `inprog`.
    ///
    /// Of a replica set the primary is asked: what an earlier one still ran when it stepped down was interrupted, and
    /// what it ran unnoticed behind a cut line is undone when it comes back.
    pub async fn connections(&self) -> Result<Connections, ServerError> {
        let direct = self.any_directly_seen().await?;
        let command = rawdoc! {
            "aggregate": 1,
            "pipeline": [
                {"$currentOp": {"allUsers": true, "idleConnections": true}},
                {"$project": {
                    "client": 1, "active": 1, "opid": 1, "op": 1, "appName": 1,
                    "hello": {"$ifNull": ["$command.hello", {"$ifNull": ["$command.isMaster", "$command.ismaster"]}]},
                }},
            ],
            "cursor": {},
        };
        let mut cursor = self.cursor("admin", command).await?;
        let (mut ends, mut running) = (HashSet::new(), HashSet::new());
        while let Some(operation) = next(&mut cursor).await? {
            running.extend(may_write(&operation));
            if let Ok(client) = operation.get_str("client") {
                ends.insert(client.to_owned());
            }
        }
        Ok(Connections { ends, direct, running })
    }

    /// Asks the first of the servers that answers: they are reached the same way.
    async fn any_directly_seen(&self) -> Result<bool, ServerError> {
        let mut message = "there is no server".to_owned();
        for dial in &self.dials {
            match directly_seen(dial).await {
                Ok(direct) => return Ok(direct),
                Err(error) => message = error.to_string(),
            }
        }
        Err(ServerError { class: Class::NotSent, code: None, message })
    }

    async fn cursor(&self, db: &str, command: RawDocumentBuf) -> Result<Cursor<RawDocumentBuf>, ServerError> {
        cursor(&self.client, db, command).await
    }
}

/// The server's version.
pub(crate) async fn version(client: &Client) -> Result<String, ServerError> {
    let info = answer("buildInfo", client.database("admin").run_command(doc! {"buildInfo": 1})).await?;
    Ok(info.get_str("version").unwrap_or_default().to_owned())
}

/// A client for this address; connections are made when they are needed. Errors: an address that cannot be understood, or a
/// name that cannot be resolved.
pub async fn connect(uri: &str, app_name: &str, connections_max: u32) -> Result<Client, ServerError> {
    let mut options = ClientOptions::parse(uri).await?;
    options.app_name = Some(app_name.to_owned());
    options.server_selection_timeout = Some(Duration::from_secs(5));
    // Less than the selection's time, so that its error is of now.
    options.heartbeat_freq = Some(Duration::from_secs(2));
    options.connect_timeout = Some(Duration::from_secs(10));
    options.max_pool_size = Some(connections_max);
    Ok(Client::with_options(options)?)
}

/// How documents must be read from now on: on a replica set with majority, at or after both `after` and what the server has
/// acknowledged by now.
pub async fn concern(client: &Client, after: Option<Timestamp>) -> Result<Concern, ServerError> {
    let hello = answer("hello", client.database("admin").run_command(doc! {"hello": 1})).await?;
    if !hello.contains_key("setName") {
        return Ok(Concern(None));
    }
    let mut concern = rawdoc! {"level": "majority"};
    if let Some(time) = hello.get_timestamp("operationTime").ok().max(after) {
        concern.append(cstr!("afterClusterTime"), time);
    }
    Ok(Concern(Some(concern)))
}

/// A number of any type in a server's reply; 0 for none.
pub fn integer(value: Option<&bson::Bson>) -> i64 {
    match value {
        Some(bson::Bson::Int32(n)) => (*n).into(),
        Some(bson::Bson::Int64(n)) => *n,
        #[allow(clippy::cast_possible_truncation)]
        Some(bson::Bson::Double(x)) => *x as i64,
        _ => 0,
    }
}

/// Opens a cursor over raw documents.
pub async fn cursor(
    client: &Client,
    db: &str,
    command: RawDocumentBuf,
) -> Result<Cursor<RawDocumentBuf>, ServerError> {
    let db = client.database(db);
    let cursor = answer("a query", db.run_raw_cursor_command(command)).await?;
    Ok(cursor.with_type())
}

/// The cursor's next document.
pub async fn next(cursor: &mut Cursor<RawDocumentBuf>) -> Result<Option<RawDocumentBuf>, ServerError> {
    match tokio::time::timeout(ANSWER_WAIT_MAX, cursor.next()).await {
        Ok(Some(document)) => Ok(Some(document?)),
        Ok(None) => Ok(None),
        Err(_) => Err(ServerError::timed_out("a query", ANSWER_WAIT_MAX)),
    }
}

/// An answer, or an error once it has taken too long.
pub async fn answer<T>(
    what: &str,
    action: impl IntoFuture<Output = mongodb::error::Result<T>>,
) -> Result<T, ServerError> {
    Ok(answered(what, action).await??)
}

/// The same, with what the driver says.
pub(crate) async fn answered<T>(
    what: &str,
    action: impl IntoFuture<Output = mongodb::error::Result<T>>,
) -> Result<mongodb::error::Result<T>, ServerError> {
    let answered = tokio::time::timeout(ANSWER_WAIT_MAX, action.into_future()).await;
    answered.map_err(|_| ServerError::timed_out(what, ANSWER_WAIT_MAX))
}

/// The collection's kind and options on this server; `None` when it does not exist.
pub async fn collection(client: &Client, ns: &Namespace) -> Result<Option<Collection>, ServerError> {
    let command = rawdoc! {"listCollections": 1, "filter": {"name": ns.coll()}, "cursor": {}};
    let mut cursor = cursor(client, ns.db(), command).await?;
    let Some(info) = next(&mut cursor).await? else { return Ok(None) };
    let options = info.get_document("options").map(ToOwned::to_owned).unwrap_or_default();
    let kind = info.get_str("type").unwrap_or("collection").to_owned();
    Ok(Some(Collection { kind, options, uuid: uuid(&info) }))
}

fn uuid(info: &RawDocumentBuf) -> Option<String> {
    let uuid = info.get_document("info").and_then(|info| info.get_binary("uuid")).ok()?;
    Some(uuid.bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// All databases but the server's own, and ours.
async fn databases(client: &Client) -> Result<Vec<String>, ServerError> {
    let mut names = answer("listDatabases", client.list_database_names()).await?;
    names.retain(|db| !matches!(db.as_str(), "admin" | "config" | "local" | crate::target::OWN_DATABASE));
    Ok(names)
}

/// The collections and views of this server, or of one database; not the server's own, not ours.
pub(crate) async fn namespaces(client: &Client, only: Option<&str>) -> Result<Vec<Namespace>, ServerError> {
    let databases = match only {
        Some(db) => vec![db.to_owned()],
        None => databases(client).await?,
    };
    let mut found = Vec::new();
    for db in databases {
        let command = rawdoc! {"listCollections": 1, "nameOnly": true, "cursor": {}};
        let mut names = cursor(client, &db, command).await?;
        while let Some(info) = next(&mut names).await? {
            let Ok(name) = info.get_str("name") else { continue };
            if !name.starts_with("system.") {
                found.push(Namespace::new(&db, name));
            }
        }
    }
    Ok(found)
}

/// The number of an operation that runs and may write, unless it is one of ours.
fn may_write(operation: &RawDocumentBuf) -> Option<i64> {
    let text = |key| operation.get_str(key).unwrap_or_default();
    let writes = matches!(text("op"), "insert" | "update" | "remove" | "command" | "bulkWrite");
    let runs = operation.get_bool("active").unwrap_or(true);
    let is_hello = operation.get("hello").ok().flatten().is_some_and(|it| it.as_null().is_none());
    let number = operation.get("opid").ok().flatten()?;
    let number = number.as_i32().map(i64::from).or(number.as_i64())?;
    (writes && runs && !is_hello && text("appName") != APP_NAME).then_some(number)
}

/// Whether mongod sees a connection that is made as the proxy makes them under the address that it has here.
async fn directly_seen(dial: &Dial) -> io::Result<bool> {
    let ask = async {
        let Dialled { stream: mut socket, via: here } = dial().await?;
        // An OP_MSG with one section of kind 0 (wire-facts 1.2): no login is needed.
        let body = rawdoc! {"whatsmyuri": 1, "$db": "admin"};
        let length = 21 + i32::try_from(body.as_bytes().len()).unwrap_or(0);
        let mut frame: Vec<u8> =
            [length, 1, 0, 2013, 0].iter().flat_map(|field| field.to_le_bytes()).collect();
        frame.push(0);
        frame.extend(body.as_bytes());
        socket.write_all(&frame).await?;
        socket.flush().await?;
        let mut head = [0; 21];
        socket.read_exact(&mut head).await?;
        let length = u64::from(u32::from_le_bytes([head[0], head[1], head[2], head[3]]));
        let mut reply = Vec::new();
        socket.take(length.clamp(21, 65_536) - 21).read_to_end(&mut reply).await?;
        let reply = RawDocumentBuf::from_bytes(reply).map_err(io::Error::other)?;
        Ok(reply.get_str("you").is_ok_and(|there| there == here))
    };
    tokio::time::timeout(Duration::from_secs(5), ask).await.map_err(io::Error::from)?
}
