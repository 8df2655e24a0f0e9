//! `dualsync log` over a log that is written to meanwhile, and over copies of it, whole and damaged.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use bson::doc;
use serde_json::Value;

use super::pause;
use crate::support::{BIN, Source, Stage};

/// Runs it without a terminal; its status, standard output and standard error.
fn look(dir: &Path, args: &[&str]) -> Result<(i32, String, String)> {
    let output: Output = Command::new(BIN).arg("log").args(args).arg("--dir").arg(dir).output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let status = output.status.code().context("it has ended by itself")?;
    Ok((status, text(&output.stdout), text(&output.stderr)))
}

fn ok(dir: &Path, args: &[&str]) -> Result<String> {
    let (status, out, err) = look(dir, args)?;
    ensure!(status == 0 && err.is_empty(), "{args:?} ends with {status}:\n{out}\n{err}");
    Ok(out)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for file in fs::read_dir(from)? {
        let file = file?;
        fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

fn kinds(lines: &str, kind: &str) -> Result<Vec<Value>> {
    let parsed: Result<Vec<Value>, _> = lines.lines().map(serde_json::from_str).collect();
    Ok(parsed?.into_iter().filter(|line: &Value| line["kind"] == kind).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_log_and_copies_of_it_can_be_looked_into() -> Result<()> {
    let mut stage = Stage::start(Source::standalone().await?).await?;
    pause(&stage.dualsync).await?;
    let client = stage.dualsync.client().await?;
    let orders = client.database("shop").collection("orders");
    orders.insert_many((0..50).map(|id| doc! {"_id": id, "name": "Quetzalcoatl"})).await?;
    orders.update_one(doc! {"_id": 7}, doc! {"$set": {"z": 1, "a": 2}}).await?;
    orders.update_many(doc! {"name": "Quetzalcoatl"}, doc! {"$currentDate": {"at": true}}).await?;
    orders.delete_one(doc! {"_id": "not there"}).await?;
    let other = client.database("other").collection("things");
    other.insert_one(doc! {"_id": "Popocatepetl"}).await?;
    let dir = stage.dualsync.log_dir().to_owned();

    // Live: while somebody writes.
    let writer = {
        let busy = client.database("busy").collection("items");
        tokio::spawn(async move {
            for n in 0..200 {
                busy.insert_one(doc! {"n": n}).await?;
            }
            Ok::<_, anyhow::Error>(())
        })
    };
    let live = tokio::task::spawn_blocking({
        let dir = dir.clone();
        move || -> Result<()> {
            for _ in 0..3 {
                let ls = ok(&dir, &["ls"])?;
                ensure!(ls.contains(".seg") && ls.contains("pending"), "{ls}");
                ensure!(ok(&dir, &["verify"])?.contains("0 damaged places"));
                let stats = ok(&dir, &["stats"])?;
                ensure!(stats.contains("shop.orders") && stats.contains("non_deterministic"), "{stats}");
            }
            Ok(())
        }
    });
    live.await??;
    writer.await??;

    let text = ok(&dir, &["inspect", "--ns", "shop.*"])?;
    ensure!(text.contains("insert shop.orders") && text.contains("it changed nothing"), "{text}");
    ensure!(text.contains("in doubt: non_deterministic"), "{text}");
    ensure!(!text.contains("busy") && !text.contains("Popocatepetl"), "{text}");
    let all = ok(&dir, &["inspect", "--json"])?;
    ensure!(!all.contains("Quetzalcoatl") && !all.contains("Popocatepetl"), "users' data is shown unasked");
    let shown = ok(&dir, &["inspect", "--json", "--show-documents", "--ns", "shop.orders"])?;
    ensure!(shown.contains(r#""$set":{"z":{"$numberInt":"1"},"a":{"$numberInt":"2"}}"#), "in their order");
    let first = kinds(&shown, "entry")?.remove(0);
    ensure!(first["effects"].as_array().is_some_and(|list| list.len() == 50), "{first:#}");
    // A part of it.
    let lsn = first["lsn"].as_u64().context("a position")?.to_string();
    let one = ok(&dir, &["inspect", "--json", "--from", &lsn, "--to", &lsn])?;
    ensure!(one.lines().count() == 1 && kinds(&one, "entry")?[0]["lsn"] == first["lsn"], "{one}");

    let exported = ok(&dir, &["export"])?;
    ensure!(exported.lines().count() == 204 && !exported.contains("Quetzalcoatl"), "{exported}");
    let to = tempfile::tempdir()?;
    let file = to.path().join("entries.json").display().to_string();
    ok(&dir, &["export", "--show-documents", "-o", &file])?;
    ensure!(fs::read_to_string(&file)?.contains("Popocatepetl"));
    let (status, _, err) = look(&dir, &["export", "-o", &file])?;
    ensure!(status == 1 && err.contains("entries.json"), "{status}: {err}");

    // Who has seen enough closes the pipe.
    let mut child = Command::new(BIN)
        .args(["log", "inspect", "--json", "--follow", "--dir"])
        .arg(&dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdout = BufReader::new(child.stdout.take().context("its output")?);
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    ensure!(serde_json::from_str::<Value>(&line)?["lsn"] == 1, "{line}");
    let followed = client.database("followed").collection("x");
    followed.insert_one(doc! {"x": 1}).await?;
    while !line.contains("followed") {
        line.clear();
        ensure!(stdout.read_line(&mut line)? > 0, "it follows");
    }
    drop(stdout);
    followed.insert_one(doc! {"x": 2}).await?;
    let mut said = String::new();
    child.stderr.take().context("its errors")?.read_to_string(&mut said)?;
    ensure!(child.wait()?.code() == Some(0) && said.is_empty(), "a closed pipe is no error: {said}");

    // A copy, without the program; then damaged.
    stage.dualsync.terminate().await?;
    let copied = to.path().join("copy");
    copy(&dir, &copied)?;
    ensure!(ok(&copied, &["ls"])?.contains("in order"));
    ensure!(ok(&copied, &["export"])?.lines().count() >= 206);
    let segment = fs::read_dir(&copied)?
        .filter_map(Result::ok)
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|it| it == "seg"))
        .max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len()))
        .context("a segment")?;
    let mut bytes = fs::read(&segment)?;
    bytes[3_000] ^= 1;
    fs::write(&segment, &bytes)?;
    let (status, out, _) = look(&copied, &["verify"])?;
    ensure!(
        status == 1 && out.contains("1 damaged places") && out.contains("readable again"),
        "{status}: {out}"
    );
    let (status, out, err) = look(&copied, &["export"])?;
    ensure!(status == 1 && out.lines().count() > 100 && err.contains("damaged"), "{status}: {err}");
    Ok(())
}

#[test]
fn what_is_no_log_is_called_that() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let check = |dir: &Path, words: &[&str]| {
        for command in ["ls", "stats", "inspect", "verify", "export"] {
            let (status, out, err) = look(dir, &[command])?;
            ensure!(
                status == 2 && out.is_empty(),
                "{command} of {} ends with {status}: {out}",
                dir.display()
            );
            ensure!(words.iter().all(|word| err.contains(word)), "{command}: {err}");
        }
        Ok(())
    };
    check(&folder.path().join("nowhere"), &["nowhere"])?;
    fs::write(folder.path().join("notes.txt"), "not a log")?;
    check(folder.path(), &["no sync log"])?;
    check(&folder.path().join("notes.txt"), &["notes.txt"])?;
    // Garbage under a segment's name: it is looked at, and told.
    let garbage = folder.path().join("garbage");
    fs::create_dir(&garbage)?;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for name in ["0000000000000001.seg", "0000000000000009.seg", "cursor", "reserve"] {
        let bytes: Vec<u8> = (0..3_000).map(|_| random.u8(..)).collect();
        fs::write(garbage.join(name), bytes)?;
    }
    for command in ["ls", "stats", "inspect", "verify", "export"] {
        let (status, out, err) = look(&garbage, &[command])?;
        ensure!(status == 1 && !err.contains("panicked"), "seed {seed}, {command}: {status}: {out}\n{err}");
    }
    let (status, _, err) = look(folder.path(), &["inspect", "--ns", "no name"])?;
    ensure!(status == 2 && err.contains("names no namespace"), "{status}: {err}");
    Ok(())
}
