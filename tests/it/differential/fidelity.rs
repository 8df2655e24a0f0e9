//! `docs/fidelity.md` is true: each of its commands is sent, and takes the way that the table says.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bson::{Document, doc};
use testkit::connection::Connection;

use crate::support::{DRAIN_MAX, NOT_COMPARED, Source, Stage};

/// One row of a table.
#[derive(Debug)]
struct Row {
    what: String,
    commands: Vec<Document>,
    class: String,
}

/// Entries by their way, and commands that were not replicated.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Counts {
    replayed: f64,
    converged: f64,
    dirty: f64,
    not_replicated: f64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_is_true() -> Result<()> {
    let rows =
        rows(&std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fidelity.md"))?)?;
    ensure!(rows.len() > 60, "only {} rows were found", rows.len());
    let stage = Stage::start_with(Source::replica_set().await?, |builder| {
        let (name, value) = NOT_COMPARED;
        builder.expect_warning("namespace is dirty").env("SYNC_WORKER_INTERVAL", "10").env(name, value)
    })
    .await?;
    let mut connection = Connection::open(&stage.dualsync.proxy_address()).await?;
    let mut wrong = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let class = class(&stage, &mut connection, number, row).await.with_context(|| row.what.clone())?;
        if class != row.class {
            wrong.push(format!("{}: {class}, not {}", row.what, row.class));
        }
    }
    ensure!(wrong.is_empty(), "the table is wrong:\n{}", wrong.join("\n"));
    Ok(())
}

/// Sends the row's commands and says by which way they went.
async fn class(stage: &Stage, connection: &mut Connection, number: usize, row: &Row) -> Result<String> {
    let three: Vec<Document> =
        (1..=3).map(|id| doc! {"_id": id, "n": id, "s": "text", "l": [1, 2]}).collect();
    // A retry is the row behind its first try, and of the same collection.
    let number = if row.what == "its retry" { number - 1 } else { number };
    let coll = format!("c{number}");
    if row.what != "its retry" {
        connection.send(&doc! {"insert": &coll, "documents": three, "$db": DB}, 0, false).await?;
        connection.reply().await?;
    }
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    let before = counts(stage).await?;
    for command in &row.commands {
        let command = renamed(command, &coll)?;
        connection.send(&command, 0, false).await?;
        connection.reply().await?;
    }
    stage.dualsync.wait_drained(DRAIN_MAX).await?;
    let after = counts(stage).await?;
    let taken = [
        ("exact", after.replayed - before.replayed),
        ("converged", after.converged - before.converged),
        ("reconciled", after.dirty - before.dirty),
        ("not replicated", after.not_replicated - before.not_replicated),
    ];
    // What prepares for a row may take another way: the last resort counts.
    let class = taken.iter().rev().find(|(_, count)| *count > 0.0).map_or("nothing", |(class, _)| class);
    Ok(class.to_owned())
}

async fn counts(stage: &Stage) -> Result<Counts> {
    let metrics: BTreeMap<String, f64> = stage.dualsync.metrics().await?;
    let way = |way: &str| metrics.get(&format!("dualsync_entries_total{{way=\"{way}\"}}")).copied();
    let named = metrics.iter().filter(|(name, _)| name.starts_with("dualsync_not_replicated_total"));
    Ok(Counts {
        replayed: way("replayed").context("no count of what was replayed")?,
        converged: way("converged").context("no count of what was converged")?,
        dirty: way("dirty").context("no count of what is dirty")?,
        not_replicated: named.map(|(_, count)| count).sum(),
    })
}

/// The command with `c` as this collection, also as the beginning of other names.
fn renamed(command: &Document, coll: &str) -> Result<Document> {
    let text = serde_json::to_string(command)?;
    // Values, not names of fields: an update has a field `c`.
    let text = text.replace(":\"c\"", &format!(":\"{coll}\"")).replace(":\"c_", &format!(":\"{coll}_"));
    let text = text.replace("fidelity.c", &format!("fidelity.{coll}"));
    let mut command: Document = serde_json::from_str(&text)?;
    if !command.contains_key("$db") {
        command.insert("$db", DB);
    }
    if let Ok(number) = command.get_i32("txnNumber") {
        command.insert("txnNumber", i64::from(number));
    }
    Ok(command)
}

/// The rows whose second column is a command, or a list of them.
fn rows(text: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let columns: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [what, command, class, ..] = columns[..] else { continue };
        let Some(command) = command.strip_prefix('`').and_then(|it| it.strip_suffix('`')) else { continue };
        let commands = match command.starts_with('[') {
            true => serde_json::from_str(command),
            false => serde_json::from_str(command).map(|one| vec![one]),
        };
        let commands = commands.with_context(|| format!("read the command of {what:?}"))?;
        if !["exact", "converged", "reconciled", "not replicated", "nothing"].contains(&class) {
            bail!("{what:?} has no class: {class:?}");
        }
        rows.push(Row { what: what.to_owned(), commands, class: class.to_owned() });
    }
    Ok(rows)
}

const DB: &str = "fidelity";
