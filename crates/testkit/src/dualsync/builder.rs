//! How a run is set up.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Dualsync, LogWatch};
use crate::net::Port;

/// How the binary is to run; made by [`Dualsync::builder`].
#[derive(Debug, Default)]
pub struct Builder {
    pub(super) bin: PathBuf,
    pub(super) config: Option<PathBuf>,
    pub(super) local: Option<String>,
    pub(super) atlas: Option<String>,
    log_dir: Option<PathBuf>,
    proxy_port: Option<u16>,
    pub(super) members: Vec<String>,
    pub(super) env: Vec<(String, OsString)>,
    pub(super) args: Vec<String>,
    expected: Vec<String>,
}

impl Builder {
    pub(super) fn new(bin: PathBuf) -> Builder {
        Builder { bin, ..Builder::default() }
    }

    /// The local server, `local.uri`. Needed by everything but a test of its absence.
    pub fn local(mut self, uri: impl Into<String>) -> Builder {
        self.local = Some(uri.into());
        self
    }

    /// The target, `atlas.uri`. Without one nothing is synced.
    pub fn atlas(mut self, uri: impl Into<String>) -> Builder {
        self.atlas = Some(uri.into());
        self
    }

    /// The sync log's folder instead of one inside the temporary folder.
    pub fn log_dir(mut self, path: impl Into<PathBuf>) -> Builder {
        self.log_dir = Some(path.into());
        self
    }

    /// A port for the proxy instead of a free one.
    pub fn proxy_port(mut self, port: u16) -> Builder {
        self.proxy_port = Some(port);
        self
    }

    /// A listener of its own, on a free port, for each of these members of a replica set (`host:port` as it names
    /// them), instead of the one port. See [`Dualsync::listeners`].
    pub fn members(mut self, members: impl IntoIterator<Item = String>) -> Builder {
        self.members.extend(members);
        self
    }

    /// An existing `proxy.toml`; what the test needs to be different goes into the environment.
    pub fn config(mut self, path: impl Into<PathBuf>) -> Builder {
        self.config = Some(path.into());
        self
    }

    /// A variable of the binary's environment, such as `DUALSYNC_LOG_DURABILITY`.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Builder {
        self.env.push((name.into(), value.into()));
        self
    }

    /// An argument of its command line, after `--config`.
    pub fn arg(mut self, arg: impl Into<String>) -> Builder {
        self.args.push(arg.into());
        self
    }

    /// Declares a warning or error: lines that contain `substring` do not fail the test.
    pub fn expect_warning(mut self, substring: impl Into<String>) -> Builder {
        self.expected.push(substring.into());
        self
    }

    /// Starts it and waits until `/readyz` answers 200. An early end is an error that carries its output.
    pub async fn start(self) -> Result<Dualsync> {
        let mut dualsync = self.build()?;
        dualsync.spawn()?;
        dualsync.ready().await?;
        Ok(dualsync)
    }

    /// Runs it until it ends by itself, for tests of what it refuses and of subcommands. The log watch is off.
    pub async fn run_to_end(self, limit: Duration) -> Result<Ended> {
        let mut dualsync = self.build()?;
        dualsync.spawn()?;
        let mut process = dualsync.process.take().context("it was just started")?;
        let status =
            process.wait(limit).await.with_context(|| format!("its output ends:\n{}", dualsync.log.end()))?;
        dualsync.log.finish();
        dualsync.log.expect("");
        Ok(Ended { status, output: dualsync.log.lines().join("\n") })
    }

    fn build(self) -> Result<Dualsync> {
        let folder = tempfile::Builder::new().prefix("dualsync-").tempdir().context("make a folder")?;
        let proxy = self.proxy_port.map_or_else(Port::free, |port| Ok(Port::fixed(port)))?;
        let more = self.members.iter().skip(1).map(|_| Port::free()).collect::<Result<_>>()?;
        let admin = Port::free()?;
        let token = std::iter::repeat_with(fastrand::alphanumeric).take(24).collect();
        let log_dir = self.log_dir.clone().unwrap_or_else(|| folder.path().join("log"));
        let log = LogWatch::default();
        let expected = self.expected.iter().map(String::as_str).chain(OF_A_SLOW_MACHINE);
        expected.for_each(|substring| log.expect(substring));
        Ok(Dualsync { settings: self, process: None, log, folder, log_dir, proxy, more, admin, token })
    }
}

/// How far the target falls behind is a matter of what else the machine does, and of no test.
const OF_A_SLOW_MACHINE: [&str; 2] = ["Sync queue size is large", "Sync lag is"];

/// How a run ended that was meant to.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Everything that it wrote, on both streams.
    pub output: String,
}
