//! Who is connected to the source, and what it runs: until a connection is gone, what was sent by it may still be at work.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::rawdoc;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{APP_NAME, Source};
use crate::error::{Class, ServerError};
use crate::server::next;

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

impl Source {
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
