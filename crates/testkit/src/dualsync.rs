//! The real binary between two servers, in a folder of its own, on ports of its own.
//!
//! - settings go into a `proxy.toml` in that folder (or, over a given file, into the environment); nothing is taken
//!   from the environment of the test: `DUALSYNC_*`, `SYNC_*`, `MONGODB_*` and `RUST_LOG` are not passed on
//! - its output is kept; a line of a warning or worse that was not declared fails the test when the handle is dropped,
//!   and so does a death that nobody asked for
//! - folder and ports stay the same over [`Dualsync::kill`], [`Dualsync::terminate`] and [`Dualsync::restart`]

mod builder;
mod http;
mod log_watch;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mongodb::Client;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

pub use builder::{Builder, Ended};
pub use http::Response;
pub use log_watch::Level;

use crate::net::Port;
use crate::process::Process;
use crate::wait_for;
use log_watch::LogWatch;

/// The running binary. Dropping it kills it and then checks its log, unless the test is failing already.
#[derive(Debug)]
pub struct Dualsync {
    settings: Builder,
    process: Option<Process>,
    log: LogWatch,
    folder: TempDir,
    log_dir: PathBuf,
    proxy: Port,
    /// Of the second listener and those after it.
    more: Vec<Port>,
    admin: Port,
    token: String,
}

impl Dualsync {
    /// Integration tests pass `env!("CARGO_BIN_EXE_dualsync")`, the demo the release binary.
    pub fn builder(bin: impl Into<PathBuf>) -> Builder {
        Builder::new(bin.into())
    }

    /// A connection string through the proxy; a driver discovers by itself what is behind it.
    pub fn uri(&self) -> String {
        format!("mongodb://{}/", self.listeners().join(","))
    }

    /// `127.0.0.1:PORT` of every listener, in the order of [`Builder::members`]; without members, of the only one.
    pub fn listeners(&self) -> Vec<String> {
        std::iter::once(&self.proxy).chain(&self.more).map(|port| port.address().to_string()).collect()
    }

    /// A new client through the proxy. It belongs to the calling runtime.
    pub async fn client(&self) -> Result<Client> {
        Client::with_uri_str(self.uri()).await.context("make a client")
    }

    /// `127.0.0.1:PORT` of the proxy.
    pub fn proxy_address(&self) -> String {
        self.proxy.address().to_string()
    }

    /// `http://127.0.0.1:PORT` of the admin port.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin.address())
    }

    /// The admin token of this run.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The sync log's folder.
    pub fn log_dir(&self) -> &Path {
        &self.log_dir
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// One request to the admin port with a token of the caller's choice, for tests of the port itself.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&str>,
    ) -> Result<Response> {
        http::request(self.admin.address(), method, path, token, body).await
    }

    /// The `data` of the envelope that a GET with the admin token yields, also under a status such as 503.
    pub async fn admin_get(&self, path: &str) -> Result<Value> {
        self.request("GET", path, Some(&self.token), None).await?.data()
    }

    /// The `data` of the envelope that a POST of JSON with the admin token yields.
    pub async fn admin_post(&self, path: &str, body: &Value) -> Result<Value> {
        self.request("POST", path, Some(&self.token), Some(&body.to_string())).await?.data()
    }

    /// `/api/sync/report`.
    pub async fn report(&self) -> Result<Value> {
        self.admin_get("/api/sync/report").await
    }

    /// Every sample of `/metrics`, by its name and labels as they are written there.
    pub async fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        let text = self.request("GET", "/metrics", Some(&self.token), None).await?;
        if text.status != 200 {
            bail!("/metrics answers {}: {}", text.status, text.body);
        }
        let samples = text.body.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        samples
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').with_context(|| format!("not a sample: {line}"))?;
                Ok((name.to_owned(), value.parse().with_context(|| format!("not a number: {line}"))?))
            })
            .collect()
    }

    /// Waits until every entry is on the target: a lag of 0 entries, marks not counted.
    ///
    /// An entry is counted before its write is acknowledged, so when this is called after the last acknowledgement,
    /// nothing is missed.
    pub async fn wait_drained(&self, limit: Duration) -> Result<()> {
        let mut last = Value::Null;
        let drained = wait_for("the sync log to drain", limit, async || {
            last = self.report().await?;
            Ok((last["lag"]["entries"] == 0).then_some(()))
        });
        drained.await.with_context(|| format!("last report: {last}\nits output ends:\n{}", self.log.end()))
    }

    /// Kills it (SIGKILL): what a crash of the process leaves behind. That it had ended already is an error.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        // Looked at before and after: a process that is just ending cannot be told from one that runs.
        let ended = process.poll()?;
        let status = process.kill()?;
        self.log.finish();
        if ended.is_some() || status.signal() != Some(Signal::KILL.as_raw()) {
            bail!("dualsync had ended by itself with {status}; its output ends:\n{}", self.log.end());
        }
        Ok(())
    }

    /// Asks it to end (SIGTERM), waits for that and says how it ended.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("dualsync does not run")?;
        if let Some(status) = process.poll()? {
            bail!("dualsync had ended by itself with {status}; its output ends:\n{}", self.log.end());
        }
        process.signal(Signal::TERM)?;
        let status = process.wait(TERMINATE_MAX).await.context("end dualsync")?;
        self.log.finish();
        Ok(status)
    }

    /// Starts it again in the same folder on the same ports and waits until it is ready; a running one is terminated
    /// first.
    pub async fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            self.terminate().await?;
        }
        self.spawn()?;
        self.ready().await
    }

    /// Sets a variable of its environment from the next start on.
    pub fn set_env(&mut self, name: impl Into<String>, value: impl Into<OsString>) {
        self.settings.env.push((name.into(), value.into()));
    }

    /// Declares a warning or error, before or after it is written.
    pub fn expect_warning(&self, substring: &str) {
        self.log.expect(substring);
    }

    /// Everything that it wrote so far, over all runs.
    pub fn log_lines(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Waits for a line that contains `substring`.
    pub async fn wait_for_log(&self, substring: &str, limit: Duration) -> Result<String> {
        let what = format!("{substring:?} in the log");
        wait_for(&what, limit, async || {
            Ok(self.log.lines().into_iter().find(|line| line.contains(substring)))
        })
        .await
    }

    /// An error that shows the warnings and errors which nobody declared. Dropping the handle does the same.
    pub fn check_log(&self) -> Result<()> {
        self.log.check()
    }

    fn spawn(&mut self) -> Result<()> {
        let mut command = Process::command(&self.settings.bin);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["DUALSYNC_", "SYNC_", "MONGODB_"].iter().any(|prefix| text.starts_with(prefix))
                || text == "RUST_LOG"
            {
                command.env_remove(&name);
            }
        }
        let file = match &self.settings.config {
            Some(given) => {
                for (section, key, value) in self.own_settings() {
                    command.env(format!("DUALSYNC_{section}_{key}").to_uppercase(), value);
                }
                given.clone()
            }
            None => self.write_config()?,
        };
        command
            .arg("--config")
            .arg(file)
            .args(&self.settings.args)
            .env("DUALSYNC_ADMIN_TOKEN", &self.token)
            // How full this machine's disk is by other things is no matter of a test.
            .env("DUALSYNC_LOG_MIN_FREE_BYTES", "0")
            .envs(self.settings.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::spawn(command)?;
        if let Some(stdout) = process.child().stdout.take() {
            self.log.follow(stdout);
        }
        if let Some(stderr) = process.child().stderr.take() {
            self.log.follow(stderr);
        }
        self.process = Some(process);
        Ok(())
    }

    async fn ready(&mut self) -> Result<()> {
        let admin = self.admin.address();
        let process = self.process.as_mut().context("dualsync does not run")?;
        let ready = wait_for("dualsync to be ready", READY_MAX, async || {
            if let Some(status) = process.poll()? {
                bail!("it ended with {status}");
            }
            let answer = http::request(admin, "GET", "/readyz", None, None).await;
            Ok(answer.ok().filter(|answer| answer.status == 200).map(drop))
        });
        let Err(error) = ready.await else { return Ok(()) };
        // The caller learns of this failure by the error; the log watch must not speak of it a second time.
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        self.log.finish();
        self.log.expect("");
        Err(error.context(format!("start dualsync; its output ends:\n{}", self.log.end())))
    }

    /// Section, key and value of what every run sets.
    fn own_settings(&self) -> Vec<(&'static str, &'static str, String)> {
        let mut settings = vec![
            self.proxy_setting(),
            ("admin", "listen", self.admin.address().to_string()),
            ("log", "dir", self.log_dir.display().to_string()),
        ];
        settings.extend(self.settings.local.iter().map(|uri| ("local", "uri", uri.clone())));
        settings.extend(self.settings.atlas.iter().map(|uri| ("atlas", "uri", uri.clone())));
        settings
    }

    fn proxy_setting(&self) -> (&'static str, &'static str, String) {
        if self.settings.members.is_empty() {
            return ("proxy", "listen", self.proxy.address().to_string());
        }
        let each = self.listeners().into_iter().zip(&self.settings.members);
        let each = each.map(|(listen, member)| format!("listen={listen} member={member}"));
        ("proxy", "listeners", each.collect::<Vec<_>>().join(","))
    }

    fn write_config(&self) -> Result<PathBuf> {
        let mut text = String::new();
        for (section, key, value) in self.own_settings() {
            writeln!(text, "[{section}]\n{key} = {value:?}")?;
        }
        let path = self.folder.path().join("proxy.toml");
        fs::write(&path, text).context("write proxy.toml")?;
        Ok(path)
    }
}

impl Drop for Dualsync {
    fn drop(&mut self) {
        let ended = self.kill();
        if std::thread::panicking() {
            return;
        }
        if let Err(error) = ended.and_then(|()| self.check_log()) {
            fail(&error);
        }
    }
}

#[expect(clippy::panic, reason = "a drop can fail a test in no other way")]
fn fail(error: &anyhow::Error) {
    panic!("{error:#}");
}

const READY_MAX: Duration = Duration::from_secs(60);
/// Longer than the binary's own deadline for an orderly end.
const TERMINATE_MAX: Duration = Duration::from_secs(60);
