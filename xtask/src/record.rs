//! `cargo xtask record-replies`: sends the commands of `record/cases.rs` to real servers and writes what they answer,
//! byte for byte, into `crates/capture/testdata`, for `crates/capture/tests/recorded.rs`.
//!
//! One file for a standalone, one for a replica set. What the test expects of a case stays in the file, by the case's
//! name; for a new case, `REGENERATE=1 cargo test -p capture --test recorded` writes what capture makes of it today, to
//! be read before it is committed.

mod cases;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use testkit::connection::{self, Connection, MORE_TO_COME};
use testkit::{Mongod, ReplicaSet};

use cases::{Case, Servers};

pub(crate) fn run(root: &Path) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let folder = root.join("crates/capture/testdata");
    runtime.block_on(Box::pin(async {
        let (standalone, set) = tokio::try_join!(Mongod::standalone(), ReplicaSet::start(1))?;
        record(&folder.join("standalone.txt"), &standalone.address(), Servers::Standalone).await?;
        record(&folder.join("replica-set.txt"), &set.members()[0].address(), Servers::ReplicaSet).await
    }))
}

async fn record(path: &Path, address: &str, servers: Servers) -> Result<()> {
    let old = expectations(&fs::read_to_string(path).unwrap_or_default());
    let mut text = String::from(HEAD);
    let wanted =
        cases::all().into_iter().filter(|case| case.servers == Servers::Both || case.servers == servers);
    for case in wanted {
        let name = case.name;
        record_case(&case, address, old.get(name), &mut text).await.with_context(|| name.to_owned())?;
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

async fn record_case(
    case: &Case,
    address: &str,
    expected: Option<&Vec<Vec<String>>>,
    text: &mut String,
) -> Result<()> {
    writeln!(text, "\ncase {}", case.name)?;
    let mut connection = Connection::open(address).await?;
    for command in [doc! {"dropDatabase": 1}].iter().chain(&case.before) {
        let reply = ask(&mut connection, with_db(command)).await?;
        ensure!(reply.get_f64("ok").ok() == Some(1.0), "{command} was answered by {reply}");
    }
    let mut cursor = 0_i64;
    for (at, command) in case.commands.iter().enumerate() {
        let mut command = with_db(command);
        if command.contains_key("getMore") {
            command.insert("getMore", cursor);
        }
        let is_silent = command.remove("silent").is_some();
        let flags = if is_silent { MORE_TO_COME } else { 0 };
        writeln!(text, "request {command}\nsent {}", hex(&connection::frame(7, &command, flags, false)?))?;
        connection.send(&command, flags, false).await?;
        if is_silent {
            connection.fence().await?;
            writeln!(text, "silent")?;
        } else {
            let frame = connection.reply_frame().await?;
            let body: Document = bson::RawDocument::from_bytes(&frame[21..])?.try_into()?;
            if let Ok(of_reply) = body.get_document("cursor") {
                cursor = of_reply.get_i64("id").unwrap_or_default();
            }
            let body = body.to_string().replace('\n', "\\n");
            writeln!(text, "reads {body}\nreply {}", hex(&frame))?;
        }
        for line in expected.and_then(|all| all.get(at)).into_iter().flatten() {
            writeln!(text, "{line}")?;
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

async fn ask(connection: &mut Connection, command: Document) -> Result<Document> {
    connection.send(&command, 0, false).await?;
    connection.reply().await
}

fn with_db(command: &Document) -> Document {
    let mut command = command.clone();
    if !command.contains_key("$db") {
        command.insert("$db", "shop");
    }
    command
}

/// What is expected, by case, of each of its requests.
fn expectations(text: &str) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut all: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    let mut case = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("case ") {
            name.clone_into(&mut case);
        } else if line.starts_with("request ") {
            all.entry(case.clone()).or_default().push(Vec::new());
        } else if EXPECTED.iter().any(|word| line.starts_with(word))
            && let Some(last) = all.get_mut(&case).and_then(|requests| requests.last_mut())
        {
            last.push(line.to_owned());
        }
    }
    all
}

const EXPECTED: [&str; 3] = ["mark ", "entry ", "none"];
const HEAD: &str = "\
# What a real server answers, byte for byte, and what capture makes of it. Written by `cargo xtask record-replies`.
#
# case NAME
# request COMMAND      for people
# sent BYTES           the same, as a frame
# reads REPLY          for people; `silent`: there is none
# reply BYTES          the same, as a frame
# mark PLACE           what the mark names; `none`: nothing is captured
# entry LINE           the entry, its doubt first; nothing: it is held, or none is written yet
";
