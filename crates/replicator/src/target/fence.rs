//! Late commands: one whose connection broke may still run on the target, and land after its successor (scenario D1).

use std::time::Duration;

use bson::{Document, doc, rawdoc};
use tracing::{info, warn};

use super::Target;
use crate::error::{Class, ServerError};
use crate::server::{answer, cursor, next};

/// Between two looks at the target's connections.
const FENCE_INTERVAL: Duration = Duration::from_millis(100);
/// Looks until that is said: half a minute.
const FENCE_LOOKS_QUIET: u32 = 300;
/// Where the server does not show its connections: how long a late command may take.
const FENCE_BLIND_WAIT: Duration = Duration::from_secs(10);

impl Target {
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
}

/// How connections of a log begin their application name.
pub(super) fn name(log_id: &str) -> String {
    format!("dualsync {log_id}")
}
