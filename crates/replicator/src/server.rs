//! What is asked of either server in the same way: connections, answers within a time, cursors, collections.

use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{Timestamp, cstr, doc, rawdoc};
use futures_util::StreamExt as _;
use mongodb::options::ClientOptions;
use mongodb::{Client, Cursor};
use record::Namespace;

use crate::error::ServerError;

/// Longest wait for one answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);

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

/// What a server has, as far as our user may look.
#[derive(Debug)]
pub(crate) struct Listing<T> {
    pub(crate) found: T,
    /// Databases that it may not list, and the server's words.
    pub(crate) forbidden: Vec<(Namespace, ServerError)>,
}

/// A read concern, or none on a standalone.
#[derive(Debug)]
pub struct Concern(pub(crate) Option<RawDocumentBuf>);

impl Concern {
    /// As the server reads by itself.
    pub(crate) fn none() -> Concern {
        Concern(None)
    }

    /// Adds it to a command that reads.
    pub fn add_to(&self, command: &mut RawDocumentBuf) {
        if let Some(concern) = &self.0 {
            command.append(cstr!("readConcern"), concern.as_ref());
        }
    }
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

/// The server's version.
pub(crate) async fn version(client: &Client) -> Result<String, ServerError> {
    let info = answer("buildInfo", client.database("admin").run_command(doc! {"buildInfo": 1})).await?;
    Ok(info.get_str("version").unwrap_or_default().to_owned())
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

/// The collection's kind and options on this server; `None` when it does not exist.
pub async fn collection(client: &Client, ns: &Namespace) -> Result<Option<Collection>, ServerError> {
    let command = rawdoc! {"listCollections": 1, "filter": {"name": ns.coll()}, "cursor": {}};
    let mut cursor = cursor(client, ns.db(), command).await?;
    let Some(info) = next(&mut cursor).await? else { return Ok(None) };
    let options = info.get_document("options").map(ToOwned::to_owned).unwrap_or_default();
    let kind = info.get_str("type").unwrap_or("collection").to_owned();
    Ok(Some(Collection { kind, options, uuid: uuid(&info) }))
}

/// The collections and views of this server; not the server's own, not ours.
pub(crate) async fn namespaces(client: &Client) -> Result<Listing<Vec<Namespace>>, ServerError> {
    let mut listing = Listing { found: Vec::new(), forbidden: Vec::new() };
    for db in databases(client).await? {
        match namespaces_of(client, &db).await {
            Ok(namespaces) => listing.found.extend(namespaces),
            Err(error) if error.is_forbidden() => listing.forbidden.push((Namespace::new(&db, ""), error)),
            Err(error) => return Err(error),
        }
    }
    Ok(listing)
}

/// Those of one database.
pub(crate) async fn namespaces_of(client: &Client, db: &str) -> Result<Vec<Namespace>, ServerError> {
    let command = rawdoc! {"listCollections": 1, "nameOnly": true, "cursor": {}};
    let mut names = cursor(client, db, command).await?;
    let mut found = Vec::new();
    while let Some(info) = next(&mut names).await? {
        let Ok(name) = info.get_str("name") else { continue };
        if !name.starts_with("system.") {
            found.push(Namespace::new(db, name));
        }
    }
    Ok(found)
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

/// All databases but the server's own, and ours.
pub(crate) async fn databases(client: &Client) -> Result<Vec<String>, ServerError> {
    let mut names = answer("listDatabases", client.list_database_names()).await?;
    names.retain(|db| !matches!(db.as_str(), "admin" | "config" | "local" | crate::target::OWN_DATABASE));
    Ok(names)
}

pub(crate) fn uuid(info: &RawDocumentBuf) -> Option<String> {
    let uuid = info.get_document("info").and_then(|info| info.get_binary("uuid")).ok()?;
    Some(uuid.bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
