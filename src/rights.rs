//! What dualsync's own users may do on either server, and what they lack: each right with what needs it and the role
//! that gives it.
//!
//! A server says what a user may do (`connectionStatus` with `showPrivileges`); nothing is tried.

mod needs;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use replicator::{Class, Desired, OWN_DATABASE, ServerError, Shared, answer, connect};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, Uri};
use needs::{Needed, SOURCE, TARGET, Weight};

/// Between two looks while dualsync runs.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// A server that takes no connection by then is not asked.
const REACH_MAX: Duration = Duration::from_secs(2);

/// A right that a user lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    /// The setting that names the user.
    pub(crate) key: &'static str,
    /// The actions, as the server calls them, or that nobody is logged in.
    pub(crate) what: String,
    /// What does not work without.
    pub(crate) for_what: &'static str,
    /// The role that gives them.
    pub(crate) role: &'static str,
    weight: Weight,
}

impl Missing {
    /// Whether nothing can be kept equal without it.
    pub(crate) fn is_needed(&self) -> bool {
        self.weight == Weight::Needed
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Missing { key, what, for_what, role, weight: _ } = self;
        write!(f, "{key}: its user lacks {what}, which dualsync needs {for_what}: grant the role {role}")
    }
}

/// What the users of both servers lack; servers that cannot be asked are in the second list, with the reason.
pub(crate) async fn look(config: &Config) -> (Vec<Missing>, Vec<String>) {
    let databases = databases(config);
    let own = |mut list: Vec<String>| {
        list.push(OWN_DATABASE.to_owned());
        list
    };
    let target = config.atlas.uri.as_ref().filter(|_| config.sync_enabled());
    let source = target.map(|_| ("local.uri", &config.local.uri, SOURCE, databases.clone()));
    let target = target.map(|uri| ("atlas.uri", uri, TARGET, databases.map(own)));
    let (mut missing, mut unknown) = (Vec::new(), Vec::new());
    for (key, uri, needed, databases) in source.into_iter().chain(target) {
        match look_at(key, uri, needed, databases.as_deref()).await {
            Ok(found) => missing.extend(found),
            Err(why) => unknown.push(format!("{key}: cannot be asked what its user may do: {why}")),
        }
    }
    (missing, unknown)
}

/// The databases of `sync.include`, where it names them; `None`: any.
fn databases(config: &Config) -> Option<Vec<String>> {
    let database = |pattern: &capture::Pattern| {
        let text = pattern.to_string();
        let database = text.split('.').next().unwrap_or_default().to_owned();
        (!database.contains('*')).then_some(database)
    };
    let named: Option<BTreeSet<String>> = config.sync.include.iter().map(database).collect();
    named.map(|named| named.into_iter().collect())
}

async fn look_at(
    key: &'static str,
    uri: &Uri,
    needed: &'static [Needed],
    databases: Option<&[String]>,
) -> Result<Vec<Missing>, String> {
    if !reached(uri).await {
        return Err("it takes no connection".to_owned());
    }
    let client = connect(uri.expose(), "dualsync rights", 1).await.map_err(|error| error.to_string())?;
    let looked = ask(&client).await;
    client.shutdown().immediate(true).await;
    match looked.map_err(|error| error.to_string())? {
        User::Anybody => Ok(Vec::new()),
        User::Nobody => Ok(vec![Missing {
            key,
            what: "everything: nobody is logged in, and the server wants authentication".to_owned(),
            for_what: "for everything",
            role: if key == "local.uri" { "readAnyDatabase" } else { "readWriteAnyDatabase" },
            weight: Weight::Needed,
        }]),
        User::May(privileges) => {
            let lacks = |needed: &Needed| {
                let what = needed.lacking(&privileges, databases);
                let Needed { for_what, role, weight, .. } = *needed;
                (!what.is_empty()).then(|| Missing { key, what: what.join(", "), for_what, role, weight })
            };
            Ok(needed.iter().filter_map(lacks).collect())
        }
    }
}

/// Whether any of its servers takes a connection; one that cannot be tried this way is taken to.
async fn reached(uri: &Uri) -> bool {
    for (host, port) in uri.hosts() {
        if let Ok(Ok(_)) = timeout(REACH_MAX, TcpStream::connect((host.as_str(), *port))).await {
            return true;
        }
    }
    uri.hosts().is_empty()
}

enum User {
    /// The server asks for no authentication.
    Anybody,
    /// The connection string has no user, and the server wants one.
    Nobody,
    /// What it may do.
    May(Vec<Document>),
}

async fn ask(client: &Client) -> Result<User, ServerError> {
    let admin = client.database("admin");
    let status =
        answer("connectionStatus", admin.run_command(doc! {"connectionStatus": 1, "showPrivileges": true}))
            .await?;
    let Ok(info) = status.get_document("authInfo") else { return Ok(User::Anybody) };
    if info.get_array("authenticatedUsers").is_ok_and(|users| !users.is_empty()) {
        let list = info.get_array("authenticatedUserPrivileges").map(Vec::as_slice).unwrap_or_default();
        return Ok(User::May(list.iter().filter_map(Bson::as_document).cloned().collect()));
    }
    match answer("listDatabases", client.list_database_names()).await {
        Ok(_) => Ok(User::Anybody),
        Err(error) if error.class == Class::Identity => Ok(User::Nobody),
        Err(error) => Err(error),
    }
}

/// What was found last, while dualsync runs.
#[derive(Debug, Default)]
pub(crate) struct Rights(Mutex<Vec<Missing>>);

impl Rights {
    /// What is missing.
    pub(crate) fn missing(&self) -> Vec<Missing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks from time to time, as long as the worker may have connections, and says what is new.
    pub(crate) async fn watch(&self, config: &Config, shared: &Shared, stop: CancellationToken) {
        loop {
            if shared.desired() != Desired::Stopped {
                let (found, _) = tokio::select! {
                    found = look(config) => found,
                    () = stop.cancelled() => return,
                };
                let before = std::mem::replace(
                    &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner),
                    found.clone(),
                );
                for missing in found.iter().filter(|it| !before.contains(it)) {
                    match missing.weight {
                        Weight::Needed => warn!("{missing}"),
                        Weight::Better => info!("{missing}"),
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}
