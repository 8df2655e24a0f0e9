//! One real mongod on a free port in a temporary folder.
//!
//! - small caches and `127.0.0.1` only; its own log goes to a file, whose end is part of every failed start
//! - [`Mongod::stop`] and [`Mongod::kill`] keep port and data, [`Mongod::start`] goes on with both
//! - ends by pid when dropped; the folder goes too, unless the caller named it
//!
//! - with `--auth` among its arguments it has no users until [`Mongod::create_root`] makes one

mod find;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bson::doc;
use mongodb::Client;
use mongodb::error::ErrorKind;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::TcpStream;

pub use find::find;

use crate::net::Port;
use crate::process::Process;
use crate::wait_for;

/// How a mongod is to run. The default is a standalone on a free port in a temporary folder.
#[derive(Debug, Default)]
pub struct Options {
    /// A fixed port instead of a free one.
    pub port: Option<u16>,
    /// A folder to keep instead of a temporary one; it is created when it is not there.
    pub dbpath: Option<PathBuf>,
    /// The replica set that it belongs to; someone must initiate it, see [`ReplicaSet`](crate::ReplicaSet).
    pub repl_set: Option<String>,
    /// More arguments for its command line.
    pub args: Vec<String>,
    /// Options of connection strings that lead to it, such as those for TLS: `tls=true&tlsCAFile=…`.
    pub uri_options: String,
    /// Whether it also listens on a Unix socket, in its folder.
    pub unix_socket: bool,
}

/// A mongod of ours, running or stopped.
#[derive(Debug)]
pub struct Mongod {
    process: Option<Process>,
    program: PathBuf,
    port: Port,
    args: Vec<String>,
    uri_options: String,
    credentials: String,
    dbpath: PathBuf,
    _temporary: Option<TempDir>,
}

impl Mongod {
    /// A fresh standalone, answering.
    pub async fn standalone() -> Result<Mongod> {
        Mongod::launch(Options::default()).await
    }

    /// A mongod that answers pings.
    pub async fn launch(options: Options) -> Result<Mongod> {
        let program = tokio::task::spawn_blocking(find).await.context("look for a mongod")??;
        let port = match options.port {
            Some(number) => Port::fixed(number),
            None => Port::free()?,
        };
        let (dbpath, temporary) = match options.dbpath {
            Some(path) => (path, None),
            None => {
                let folder =
                    tempfile::Builder::new().prefix("dualsync-mongod-").tempdir().context("make a folder")?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        fs::create_dir_all(&dbpath).with_context(|| format!("create {}", dbpath.display()))?;
        let mut args = options.args;
        if let Some(name) = options.repl_set {
            // A stopped primary otherwise lingers for 15 s, for the sake of drivers that have other members to go to.
            let swift = "shutdownTimeoutMillisForSignaledShutdown=100".to_owned();
            args.extend(["--replSet".to_owned(), name, "--oplogSize".to_owned(), "64".to_owned()]);
            args.extend(["--setParameter".to_owned(), swift]);
        }
        if options.unix_socket {
            args.extend(["--unixSocketPrefix".to_owned(), dbpath.display().to_string()]);
        } else {
            args.push("--nounixsocket".to_owned());
        }
        let (uri_options, credentials) = (options.uri_options, String::new());
        let mut mongod = Mongod {
            process: None,
            program,
            port,
            args,
            uri_options,
            credentials,
            dbpath,
            _temporary: temporary,
        };
        mongod.start().await?;
        Ok(mongod)
    }

    /// Starts it again on the same port and folder and waits until it answers. Nothing happens when it runs.
    pub async fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        let mut command = Process::command(&self.program);
        command
            .args(["--bind_ip", "127.0.0.1", "--port", &self.port.number().to_string()])
            .arg("--dbpath")
            .arg(&self.dbpath)
            .arg("--logpath")
            .arg(self.log_file())
            .args(["--logappend", "--wiredTigerCacheSizeGB", "0.25"])
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = Process::spawn(command)?;
        self.answers(&mut process)
            .await
            .with_context(|| format!("start mongod; its log says:\n{}", self.log_end()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it in order (SIGTERM) and keeps its data. A paused one is resumed first.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::CONT)?;
            process.signal(Signal::TERM)?;
            process.wait(STOP_MAX).await.context("stop mongod")?;
        }
        Ok(())
    }

    /// Kills it (SIGKILL) and keeps its data as a crash would leave them.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// Freezes it (SIGSTOP): connections stay open and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.running()?.signal(Signal::STOP)
    }

    /// Lets a paused one go on.
    pub fn resume(&self) -> Result<()> {
        self.running()?.signal(Signal::CONT)
    }

    /// How it ended, if it did so without being asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.as_mut().map_or(Ok(None), Process::poll)
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// A connection string that leads to this server alone, whatever it says about its replica set.
    pub fn uri(&self) -> String {
        self.uri_at(&self.address())
    }

    /// The same, user and options included, to another address: that of a proxy before it, or its own Unix socket
    /// (`%2F` for each slash).
    pub fn uri_at(&self, address: &str) -> String {
        let Mongod { credentials, uri_options, .. } = self;
        let and = if uri_options.is_empty() { "" } else { "&" };
        format!("mongodb://{credentials}{address}/?directConnection=true{and}{uri_options}")
    }

    /// The file of its Unix socket, if it was told to have one.
    pub fn unix_socket(&self) -> PathBuf {
        self.dbpath.join(format!("mongodb-{}.sock", self.port.number()))
    }

    /// Creates the user `root`, who may do everything, by the localhost exception; [`Mongod::uri`] names it from now on.
    pub async fn create_root(&mut self, password: &str) -> Result<()> {
        let admin = self.client().await?.database("admin");
        let create = doc! { "createUser": "root", "pwd": password, "roles": ["root"] };
        admin.run_command(create).await.context("create the first user")?;
        self.credentials = format!("root:{password}@");
        Ok(())
    }

    /// A new client, directly connected. It belongs to the calling runtime.
    pub async fn client(&self) -> Result<Client> {
        Client::with_uri_str(self.uri()).await.context("make a client")
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Where its data are.
    pub fn dbpath(&self) -> &Path {
        &self.dbpath
    }

    /// Where its own log is.
    pub fn log_file(&self) -> PathBuf {
        self.dbpath.join("mongod.log")
    }

    async fn answers(&self, process: &mut Process) -> Result<()> {
        // First plain TCP: a driver that finds no server at once sleeps half a second before it looks again.
        let address = self.address();
        wait_for("mongod to listen", START_MAX, async || {
            still_runs(process)?;
            Ok(TcpStream::connect(&address).await.ok().map(drop))
        })
        .await?;
        // Then by its pid: on a port that is taken, somebody else would answer a ping.
        let client = self.client().await?;
        let pid = i64::from(process.pid());
        wait_for("mongod to answer", START_MAX, async || {
            still_runs(process)?;
            let status = client.database("admin").run_command(doc! { "serverStatus": 1 }).await;
            if let Err(error) = &status
                && matches!(&*error.kind, ErrorKind::Command(error) if error.code == UNAUTHORIZED)
            {
                // With `--auth` it does not tell strangers its pid.
                return Ok(Some(()));
            }
            Ok(status.ok().filter(|status| status.get_i64("pid").ok() == Some(pid)).map(drop))
        })
        .await?;
        client.shutdown().immediate(true).await;
        Ok(())
    }

    fn running(&self) -> Result<&Process> {
        self.process.as_ref().context("this mongod is stopped")
    }

    /// The errors in its log, or where there are none, the end of it: an orderly exit buries its reason.
    fn log_end(&self) -> String {
        let log = fs::read(self.log_file()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let severe = |line: &&str| line.contains(r#""s":"E""#) || line.contains(r#""s":"F""#);
        let mut lines: Vec<&str> = log.lines().filter(severe).collect();
        if lines.is_empty() {
            lines = log.lines().collect();
        }
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

fn still_runs(process: &mut Process) -> Result<()> {
    process.poll()?.map_or(Ok(()), |status| bail!("mongod ended with {status}"))
}

/// A first start formats its files; on a busy machine with slow disks that has taken 10 s.
const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(60);
const UNAUTHORIZED: i32 = 13;
const LOG_LINES_SHOWN: usize = 15;
