//! Plain bulk writes, by the same driver, over as many connections as the replicator has lanes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bson::raw::{RawArrayBuf, RawDocumentBuf};
use bson::rawdoc;
use futures_util::future::try_join_all;
use mongodb::Client;

use crate::backlog;

/// What the commands carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bulk {
    Inserts,
    Updates,
    Replacements(i32),
}

/// Sends them for these documents as ordered commands of `batch` statements, `w: "majority"`.
pub(crate) async fn bulk(
    client: &Client,
    bulk: Bulk,
    ids: std::ops::Range<i64>,
    batch: i64,
    connections: i64,
) -> Result<Duration> {
    let ns = backlog::namespace();
    let database = client.database(ns.db());
    let began = Instant::now();
    try_join_all((0..connections).map(|connection| {
        let (database, ns, ids) = (database.clone(), ns.clone(), ids.clone());
        let work = async move {
            let mut from = ids.start + connection * batch;
            while from < ids.end {
                let part = from..(from + batch).min(ids.end);
                let count = part.end - part.start;
                let command = command(ns.coll(), bulk, part);
                let reply = database.run_raw_command(command).await?;
                ensure!(
                    !reply.contains_key("writeErrors")
                        && reply.get_i32("n").ok() == i32::try_from(count).ok(),
                    "{reply}"
                );
                from += batch * connections;
            }
            Ok(())
        };
        async move { tokio::spawn(work).await.context("a peer's task")? }
    }))
    .await?;
    Ok(began.elapsed())
}

fn command(coll: &str, bulk: Bulk, ids: std::ops::Range<i64>) -> RawDocumentBuf {
    let mut statements = RawArrayBuf::new();
    for id in ids {
        statements.push(match bulk {
            Bulk::Inserts => backlog::document(id, 0),
            Bulk::Updates => backlog::update(id),
            Bulk::Replacements(n) => backlog::replacement(id, n),
        });
    }
    let mut command = match bulk {
        Bulk::Inserts => rawdoc! {"insert": coll, "documents": statements},
        Bulk::Updates | Bulk::Replacements(_) => rawdoc! {"update": coll, "updates": statements},
    };
    command.append(bson::cstr!("ordered"), true);
    command.append(bson::cstr!("writeConcern"), rawdoc! {"w": "majority"});
    command
}
