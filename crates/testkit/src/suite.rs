//! PyMongo's own tests, run against a server: what becomes of each of them.
//!
//! They come from PyMongo's source package and are taken as they are. The server must take test commands
//! (`--setParameter enableTestCommands=1`), or many of them skip themselves; nothing else may talk to it meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process::Process;
use crate::{python, wait_for};

/// The tests, and what runs them.
#[derive(Debug)]
pub struct Suite {
    python: PathBuf,
    folder: PathBuf,
}

/// What became of one test.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// `passed`, `skipped` or `failed`.
    pub outcome: String,
    /// Why it failed or was skipped.
    pub says: String,
    /// How long it took, with what it prepared and cleared away.
    pub seconds: f64,
}

/// By the name of the test.
pub type Outcomes = BTreeMap<String, Outcome>;

/// A test that came out differently: its name, directly, and through the proxy (`None`: it did not run).
pub type Difference = (String, Option<Outcome>, Option<Outcome>);

impl Suite {
    /// Installs them into the cache where they are missing. Blocks.
    pub fn pymongo() -> Result<Suite> {
        Ok(Suite { python: python::interpreter()?, folder: python::own_tests()? })
    }

    /// Runs the chosen tests (`test/test_bulk.py`, `test/test_bulk.py::TestBulk::test_empty`, …) against a server at
    /// `127.0.0.1:PORT`, with a compressor if one is named. Tests that fail are no error; one that hangs is, at `limit`.
    pub async fn run(
        &self,
        address: &str,
        compressor: Option<&str>,
        chosen: &[String],
        limit: Duration,
    ) -> Result<Outcomes> {
        let (host, port) = address.rsplit_once(':').context("an address is host:port")?;
        let scratch = tempfile::tempdir().context("make a folder")?;
        let in_scratch = |name| scratch.path().join(name);
        fs::write(in_scratch("outcomes.py"), include_str!("../outcomes.py")).context("write the plugin")?;
        let log = fs::File::create(in_scratch("log")).context("make a log")?;

        let mut command = Process::command(&self.python);
        command.args([
            "-m",
            "pytest",
            "-p",
            "outcomes",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            "-m",
            "default",
        ]);
        command.arg("--override-ini=addopts=").args(chosen).current_dir(&self.folder);
        // The tests of handshakes look at the environment, so it is a bare one.
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", scratch.path());
        command.env("LANG", "C.UTF-8").env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONPATH", scratch.path());
        command.env("OUTCOMES", in_scratch("outcomes")).env("DB_IP", host).env("DB_PORT", port);
        if let Some(compressor) = compressor {
            command.env("COMPRESSORS", compressor);
        }
        command.stdout(log.try_clone().context("share the log")?).stderr(log);
        let mut process = Process::spawn(command)?;
        let ended = wait_for("PyMongo's tests to end", limit, async || process.poll()).await;
        let said = || {
            let log = fs::read(in_scratch("log")).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            log.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        let status = ended.with_context(said)?;
        // 0: all passed; 1: some failed. Anything else: they did not run.
        ensure!(matches!(status.code(), Some(0 | 1)), "pytest ended with {status}:\n{}", said());
        let outcomes = fs::read_to_string(in_scratch("outcomes")).unwrap_or_default();
        outcomes.lines().map(outcome).collect()
    }
}

/// The tests whose outcome is not the same on both sides.
pub fn differences(direct: &Outcomes, proxied: &Outcomes) -> Vec<Difference> {
    let mut names: Vec<&String> = direct.keys().chain(proxied.keys()).collect();
    names.sort();
    names.dedup();
    let differ = |name: &&&String| {
        let outcome = |side: &Outcomes| side.get(**name).map(|it| it.outcome.clone());
        outcome(direct) != outcome(proxied)
    };
    let both = |name: &String| (name.clone(), direct.get(name).cloned(), proxied.get(name).cloned());
    names.iter().filter(differ).map(|name| both(name)).collect()
}

fn outcome(line: &str) -> Result<(String, Outcome)> {
    let read: Value = serde_json::from_str(line).context("read an outcome")?;
    let (Some(test), Some(outcome)) = (read["test"].as_str(), read["outcome"].as_str()) else {
        bail!("not an outcome: {line}");
    };
    let says = read["says"].as_str().unwrap_or_default().to_owned();
    let seconds = read["seconds"].as_f64().unwrap_or_default();
    Ok((test.to_owned(), Outcome { outcome: outcome.to_owned(), says, seconds }))
}
