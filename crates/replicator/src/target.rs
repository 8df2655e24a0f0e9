//! The target (Atlas), as the replicator writes it.
//!
//! - every write is a raw command with `w: "majority"` and `bypassDocumentValidation`
//! - a connection that broke may have left a command running, which could land after its successor
//!   (scenario D1): [`Target::fence`] waits until the server has lost every connection of earlier
//!   generations of this log's replicator, known by their application name
//! - our own bookkeeping lives in the database [`OWN_DATABASE`] and is never replicated
//!
//! Chosen against session ids that survive a restart: driver 3.9 adds its own `lsid` to every command and the
//! server refuses a second one (40413), so a session cannot be resumed by a later process.

mod transaction;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{Bson, Document, doc, rawdoc};
use mongodb::Client;
use record::Namespace;
use tokio::sync::OnceCell;
use tracing::{info, warn};

use crate::error::{Class, ServerError, UNAUTHORIZED, without_values};
use crate::expiry::EXPIRY;
use crate::source::{self, Collection, answer, connect, cursor, integer, next};

pub(crate) use transaction::Tried;

/// The database on the target that holds dualsync's own state.
pub const OWN_DATABASE: &str = "__dualsync";

/// A filter that takes longer to look up is left to a full comparison. Less than the wait for any answer.
const CANDIDATES_MS_MAX: i64 = 45_000;
/// "Time limit exceeded": the code of a look-up that took longer.
pub const TIME_LIMIT_EXCEEDED: i32 = 50;
/// Connections: more than there can be lanes, so that none waits for one.
const POOL_MAX: u32 = 100;
/// Before what was turned away is sent again; then it counts as an outage.
const SHED_WAITS_MS: [u64; 5] = [100, 200, 400, 800, 1_600];
/// Between two looks at the target's connections.
const FENCE_INTERVAL: Duration = Duration::from_millis(100);
/// Looks until that is said: half a minute.
const FENCE_LOOKS_QUIET: u32 = 300;
/// Where the server does not show its connections: how long a late command may take.
const FENCE_BLIND_WAIT: Duration = Duration::from_secs(10);

/// The server that is kept equal. One generation of connections; made anew after an unknown outcome.
pub struct Target {
    uri: String,
    /// Made at first use: an address that cannot be resolved now stops nothing, and a stopped worker has none.
    client: OnceCell<Client>,
    /// Begins the application name of all generations.
    name: String,
    generation: String,
    /// Whether the user may write past validators, as far as known.
    bypass: AtomicBool,
    /// The server has turned something away since that was last asked.
    shed: AtomicBool,
}

/// Whether validators of the target are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validation {
    /// As the server does by itself.
    Asked,
    /// The source has taken the documents already; needs the right `bypassDocumentValidation`.
    Bypassed,
}

/// What a write command answered.
#[derive(Debug, Default)]
pub struct Reply {
    /// Documents matched, inserted or deleted.
    pub n: u64,
    /// Documents modified.
    pub modified: u64,
    /// Documents upserted.
    pub upserted: u64,
    /// Statements that failed: their index, code, and the values of a unique index that stood in the way.
    pub errors: Vec<WriteError>,
}

/// One failed statement.
#[derive(Debug)]
pub struct WriteError {
    /// Which statement.
    pub index: usize,
    /// The server's code.
    pub code: i32,
    /// For a person.
    pub message: String,
    /// The unique index's values, when one stood in the way.
    pub key_value: Option<Document>,
}

impl Target {
    /// A new generation, without connections yet. `log_id` names the log that feeds the target.
    pub fn new(uri: &str, log_id: &str) -> Target {
        let name = name(log_id);
        let generation = format!("{name} {:016x}", fastrand::u64(..));
        Target {
            uri: uri.to_owned(),
            client: OnceCell::new(),
            name,
            generation,
            bypass: AtomicBool::new(true),
            shed: AtomicBool::new(false),
        }
    }

    pub(crate) async fn client(&self) -> Result<&Client, ServerError> {
        let connect = async || connect(&self.uri, &self.generation, POOL_MAX).await;
        self.client.get_or_try_init(connect).await
    }

    /// The next generation of the same target; all connections of this one are ended.
    pub async fn renew(&mut self) {
        let generation = format!("{} {:016x}", self.name, fastrand::u64(..));
        let (uri, name) = (self.uri.clone(), self.name.clone());
        let (bypass, shed) = (AtomicBool::new(true), AtomicBool::new(false));
        let next = Target { uri, client: OnceCell::new(), name, generation, bypass, shed };
        if let Some(client) = std::mem::replace(self, next).client.into_inner() {
            client.shutdown().immediate(true).await;
        }
    }

    /// Whether it answers, and its `hello`.
    pub async fn hello(&self) -> Result<Document, ServerError> {
        answer("hello", self.client().await?.database("admin").run_command(doc! {"hello": 1})).await
    }

    /// The server's version.
    pub async fn version(&self) -> Result<String, ServerError> {
        source::version(self.client().await?).await
    }

    /// Waits until no command of an earlier generation can land any more, nor one of the logs `replaced` by this one.
    pub async fn fence(&self, replaced: &[String]) -> Result<(), ServerError> {
        let mut everybody = true;
        let mut looks = 0;
        loop {
            match self.others(everybody, replaced).await {
                Ok((0, transactions)) => {
                    self.end_transactions(transactions).await?;
                    return Ok(());
                }
                Ok((connections, _)) => {
                    looks += 1;
                    if looks == FENCE_LOOKS_QUIET {
                        warn!(
                            connections,
                            "nothing is sent until the target has ended what an earlier connection of ours left running"
                        );
                    }
                    tokio::time::sleep(FENCE_INTERVAL).await;
                }
                // Without the privilege `inprog` a user still sees its own operations, which is what we ask for.
                Err(error) if everybody && matches!(error.class, Class::Identity | Class::Refused) => {
                    everybody = false
                }
                Err(error) if matches!(error.class, Class::Identity | Class::Refused) => {
                    warn!(%error, wait_s = FENCE_BLIND_WAIT.as_secs(), "target does not show its connections, waiting for late commands instead");
                    tokio::time::sleep(FENCE_BLIND_WAIT).await;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Transactions that nobody will commit any more hold their documents for a minute, if nobody ends them.
    async fn end_transactions(&self, sessions: Vec<Document>) -> Result<(), ServerError> {
        if !sessions.is_empty() {
            let admin = self.client().await?.database("admin");
            let killed = answer("killSessions", admin.run_command(doc! {"killSessions": sessions})).await;
            if let Err(error) = killed {
                info!(%error, "the target ends transactions of ours by itself, after a minute");
            }
        }
        Ok(())
    }

    /// How many connections and operations of other generations the server knows, and the sessions of those whose
    /// transactions are open.
    async fn others(
        &self,
        everybody: bool,
        replaced: &[String],
    ) -> Result<(usize, Vec<Document>), ServerError> {
        let names: Vec<String> = replaced.iter().map(|id| name(id)).chain([self.name.clone()]).collect();
        let pattern = format!("^({}) ", names.join("|"));
        let command = rawdoc! {
            "aggregate": 1,
            "pipeline": [
                {"$currentOp": {"allUsers": everybody, "idleConnections": true}},
                {"$match": {"appName": {"$regex": pattern, "$ne": self.generation.as_str()}}},
                {"$project": {"type": 1, "lsid.id": 1}},
            ],
            "cursor": {},
        };
        let mut cursor = cursor(self.client().await?, "admin", command).await?;
        let (mut count, mut sessions) = (0, Vec::new());
        while let Some(other) = next(&mut cursor).await? {
            // One without a connection: what would commit it cannot come any more.
            match other.get_document("lsid") {
                Ok(session) if other.get_str("type").is_ok_and(|it| it == "idleSession") => {
                    sessions.extend(Document::try_from(session).ok());
                }
                _ => count += 1,
            }
        }
        Ok((count, sessions))
    }

    /// Sends a write command (made without its write concern) and reads what it did.
    pub async fn write(
        &self,
        ns: &Namespace,
        make: &(dyn Fn() -> RawDocumentBuf + Sync),
        validation: Validation,
    ) -> Result<Reply, ServerError> {
        if validation == Validation::Bypassed && self.bypass.load(Ordering::Relaxed) {
            let past = || {
                let mut command = make();
                command.append(bson::cstr!("bypassDocumentValidation"), true);
                command
            };
            match self.send(ns, &past).await {
                Err(error) if error.code == Some(UNAUTHORIZED) => {
                    let reply = self.send(ns, make).await?;
                    info!(%ns, "the target's user may not write past validators (grant dbAdminAnyDatabase), so they are asked");
                    self.bypass.store(false, Ordering::Relaxed);
                    return Ok(reply);
                }
                other => return other,
            }
        }
        self.send(ns, make).await
    }

    /// Whether the server has turned a write away, which it took later, since this was last asked.
    pub fn take_shed(&self) -> bool {
        self.shed.swap(false, Ordering::Relaxed)
    }

    /// A server that sheds load has not done what it turns away: the same is sent again, a little later each time.
    async fn send(
        &self,
        ns: &Namespace,
        make: &(dyn Fn() -> RawDocumentBuf + Sync),
    ) -> Result<Reply, ServerError> {
        for wait_ms in SHED_WAITS_MS {
            match self.send_once(ns, make()).await {
                Err(error) if error.class == Class::Overloaded => {
                    self.shed.store(true, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(wait_ms / 2..=wait_ms))).await;
                }
                other => return other,
            }
        }
        self.send_once(ns, make()).await
    }

    async fn send_once(&self, ns: &Namespace, mut command: RawDocumentBuf) -> Result<Reply, ServerError> {
        command.append(bson::cstr!("writeConcern"), rawdoc! {"w": "majority"});
        let reply =
            answer("a write", self.client().await?.database(ns.db()).run_raw_command(command)).await?;
        if let Ok(concern) = reply.get_document("writeConcernError") {
            // Done, but perhaps not for good: as if we did not know.
            let message = without_values(concern.get_str("errmsg").unwrap_or("write concern not met"));
            let code = concern.get_i32("code").ok();
            return Err(ServerError { class: Class::Unknown, code, message });
        }
        Ok(read_reply(&reply))
    }

    /// The `_id`s, as `{_id: …}`, of at most `max` documents that match `filter`.
    pub async fn candidates(
        &self,
        ns: &Namespace,
        filter: &RawDocumentBuf,
        collation: Option<&RawDocumentBuf>,
        variables: Option<&RawDocumentBuf>,
        max: usize,
    ) -> Result<Vec<RawDocumentBuf>, ServerError> {
        let mut find = rawdoc! {"find": ns.coll(), "projection": {"_id": 1}, "batchSize": 10_000};
        find.append(bson::cstr!("filter"), filter.as_ref());
        find.append(bson::cstr!("limit"), i64::try_from(max).unwrap_or(i64::MAX));
        find.append(bson::cstr!("maxTimeMS"), CANDIDATES_MS_MAX);
        if let Some(collation) = collation {
            find.append(bson::cstr!("collation"), collation.as_ref());
        }
        if let Some(variables) = variables {
            find.append(bson::cstr!("let"), variables.as_ref());
        }
        let mut cursor = cursor(self.client().await?, ns.db(), find).await?;
        let mut ids = Vec::new();
        while let Some(id) = next(&mut cursor).await? {
            ids.push(id);
        }
        Ok(ids)
    }

    /// The `_id` of the document that holds these values of a unique index.
    pub async fn holder(
        &self,
        ns: &Namespace,
        values: &Document,
    ) -> Result<Option<RawDocumentBuf>, ServerError> {
        let filter = RawDocumentBuf::try_from(values).unwrap_or_default();
        Ok(self.candidates(ns, &filter, None, None, 1).await?.pop())
    }

    /// About how many documents it holds; 0 for none.
    pub async fn count(&self, ns: &Namespace) -> Result<u64, ServerError> {
        let database = self.client().await?.database(ns.db());
        let count = answer("count", database.run_command(doc! {"count": ns.coll()})).await?;
        Ok(u64::try_from(integer(count.get("n"))).unwrap_or(0))
    }

    /// The indexes but for that of `_id`.
    pub async fn indexes(&self, ns: &Namespace) -> Result<Vec<RawDocumentBuf>, ServerError> {
        crate::indexes::indexes(self.client().await?, ns).await
    }

    /// Drops an index; one that does not exist is none.
    pub async fn drop_index(&self, ns: &Namespace, name: &str) -> Result<(), ServerError> {
        const INDEX_NOT_FOUND: i32 = 27;
        let drop = rawdoc! {"dropIndexes": ns.coll(), "index": name, "writeConcern": {"w": "majority"}};
        match answer("dropIndexes", self.client().await?.database(ns.db()).run_raw_command(drop)).await {
            Err(error) if error.code == Some(INDEX_NOT_FOUND) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// The collection's kind and options; `None` when it does not exist.
    pub async fn collection(&self, ns: &Namespace) -> Result<Option<Collection>, ServerError> {
        source::collection(self.client().await?, ns).await
    }

    /// Its collections and views.
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, ServerError> {
        source::namespaces(self.client().await?, None).await
    }

    /// The collections and views of one database.
    pub async fn namespaces_of(&self, db: &str) -> Result<Vec<Namespace>, ServerError> {
        source::namespaces(self.client().await?, Some(db)).await
    }

    /// Drops a collection or view; one that does not exist is none.
    pub async fn drop(&self, ns: &Namespace) -> Result<(), ServerError> {
        const NAMESPACE_NOT_FOUND: i32 = 26;
        let drop = rawdoc! {"drop": ns.coll(), "writeConcern": {"w": "majority"}};
        match answer("drop", self.client().await?.database(ns.db()).run_raw_command(drop)).await {
            Err(error) if error.code == Some(NAMESPACE_NOT_FOUND) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Creates a collection with these options; one that exists is left as it is.
    pub async fn create(&self, ns: &Namespace, options: &RawDocumentBuf) -> Result<(), ServerError> {
        const NAMESPACE_EXISTS: i32 = 48;
        let mut create = rawdoc! {"create": ns.coll()};
        for option in options {
            let (name, value) = option.map_err(|e| ServerError::from_code(9, &e.to_string()))?;
            // A target that expires by itself loses what the application renews; what is measured is never renewed.
            if name.as_str() != EXPIRY || options.get_document("timeseries").is_ok() {
                create.append(name, value);
            }
        }
        create.append(bson::cstr!("writeConcern"), rawdoc! {"w": "majority"});
        match answer("create", self.client().await?.database(ns.db()).run_raw_command(create)).await {
            Err(error) if error.code == Some(NAMESPACE_EXISTS) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// One document of our own bookkeeping.
    pub async fn find_own(
        &self,
        ns: &Namespace,
        filter: &RawDocumentBuf,
    ) -> Result<Option<RawDocumentBuf>, ServerError> {
        let mut find = rawdoc! {"find": ns.coll(), "limit": 1};
        find.append(bson::cstr!("filter"), filter.as_ref());
        next(&mut cursor(self.client().await?, ns.db(), find).await?).await
    }
}

/// How connections of a log begin their application name.
fn name(log_id: &str) -> String {
    format!("dualsync {log_id}")
}

fn read_reply(reply: &Document) -> Reply {
    let number = |name| u64::try_from(integer(reply.get(name))).unwrap_or(0);
    let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
    Reply {
        n: number("n"),
        modified: number("nModified"),
        upserted: reply.get_array("upserted").map_or(0, |list| list.len() as u64),
        errors: errors.iter().filter_map(Bson::as_document).map(read_write_error).collect(),
    }
}

fn read_write_error(error: &Document) -> WriteError {
    WriteError {
        index: usize::try_from(integer(error.get("index"))).unwrap_or(0),
        code: i32::try_from(integer(error.get("code"))).unwrap_or(0),
        message: error.get_str("errmsg").unwrap_or_default().to_owned(),
        key_value: error.get_document("keyValue").ok().cloned(),
    }
}
