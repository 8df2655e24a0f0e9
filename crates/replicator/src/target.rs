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

mod collections;
mod fence;
mod holder;
mod reply;
mod transaction;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{Document, doc, rawdoc};
use mongodb::Client;
use record::Namespace;
use tokio::sync::OnceCell;
use tracing::info;

use crate::error::{Class, ServerError, UNAUTHORIZED, without_values};
use crate::server::{self, answer, connect, cursor, next};

use fence::name;
use reply::read_reply;
pub use reply::{Reply, WriteError};
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
        server::version(self.client().await?).await
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
