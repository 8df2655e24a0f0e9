//! Real drivers get the same answers through the proxy as from mongod itself.
//!
//! Each driver has a script that does what applications do and prints what came of it. It runs against a mongod and,
//! at the same time, through the proxy against another; what it prints must be the same, line by line, once addresses,
//! times and generated ids have been made equal ([`same`]). `cargo xtask drivers` runs more: PyMongo's own tests.

mod own_tests;
mod rust;
mod same;
mod shell;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Builder, Mongod, ReplicaSet, node, python};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{DRAIN_MAX, Source, Stage};
use same::Same;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_driver_on_a_standalone() -> Result<()> {
    every_driver(Kind::Standalone).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_driver_on_a_replica_set() -> Result<()> {
    every_driver(Kind::ReplicaSet).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_drivers_on_three_members() -> Result<()> {
    every_driver(Kind::ThreeMembers).await
}

/// What is behind the connection string.
#[derive(Clone, Copy)]
enum Kind {
    Standalone,
    ReplicaSet,
    /// With a listener before each of them.
    ThreeMembers,
}

impl Kind {
    /// As the scripts call it.
    fn name(self) -> &'static str {
        match self {
            Kind::Standalone => "standalone",
            Kind::ReplicaSet | Kind::ThreeMembers => "rs",
        }
    }

    /// Script, options of the connection string, size. Over the kinds, each driver speaks through each compressor that
    /// it has; without one, PyMongo's own tests do.
    fn runs(self) -> &'static [(&'static str, &'static str, &'static str)] {
        match self {
            Kind::Standalone => &[
                ("pymongo", "?compressors=snappy", "large"),
                ("node", "?compressors=snappy", "small"),
                ("mongoose", "", "small"),
            ],
            Kind::ReplicaSet => &[
                ("pymongo", "?compressors=zstd", "small"),
                ("node", "?compressors=zlib&replicaSet=rs", "small"),
                ("mongoose", "", "small"),
            ],
            Kind::ThreeMembers => &[
                ("pymongo", "?compressors=zlib&replicaSet=rs", "small"),
                ("node", "?compressors=zstd", "small"),
            ],
        }
    }

    fn options_of_rust(self) -> &'static str {
        match self {
            Kind::Standalone => "?compressors=zstd",
            Kind::ReplicaSet => "?compressors=snappy",
            Kind::ThreeMembers => "?compressors=zlib",
        }
    }

    async fn start(self) -> Result<Source> {
        match self {
            Kind::Standalone => Source::standalone().await,
            Kind::ReplicaSet => Source::replica_set().await,
            Kind::ThreeMembers => Ok(Source::ReplicaSet(ReplicaSet::start(3).await?)),
        }
    }
}

/// A mongod, and another one with the proxy before it.
struct Pair {
    kind: Kind,
    direct: Source,
    proxied: Stage,
}

impl Pair {
    async fn start(kind: Kind) -> Result<Pair> {
        let proxied = async {
            let source = kind.start().await?;
            let members = match (kind, &source) {
                (Kind::ThreeMembers, Source::ReplicaSet(set)) => Some((set.uri(), addresses(&source))),
                _ => None,
            };
            let change = |builder: Builder| {
                // Much of what the scripts do cannot be followed statement by statement; how it is made good, others
                // test.
                let quiet = EXPECTED.iter().fold(builder, |builder, line| builder.expect_warning(*line));
                match members {
                    Some((uri, members)) => quiet.local(uri).members(members),
                    None => quiet,
                }
            };
            Stage::start_with(source, change).await
        };
        let (direct, proxied) = tokio::try_join!(kind.start(), proxied)?;
        Ok(Pair { kind, direct, proxied })
    }

    /// Both connection strings, without options: what a driver finds behind them is its own business.
    fn uris(&self) -> [String; 2] {
        [format!("mongodb://{}/", addresses(&self.direct).join(",")), self.proxied.dualsync.uri()]
    }

    /// Runs a script on both sides at once and compares what it printed.
    async fn compare(&self, script: &Script, options: &str, size: &str) -> Result<()> {
        let [direct, proxied] = self.uris().map(|uri| uri + options);
        let database = format!("{}{}", script.name, options.replace(|c: char| !c.is_alphanumeric(), "_"));
        let told = tokio::try_join!(
            script.run([&direct, &database, self.kind.name(), size]),
            script.run([&proxied, &database, self.kind.name(), size]),
        );
        let (direct, proxied) = told.with_context(|| format!("{} {options}", script.name))?;
        self.same().check(&direct, &proxied).with_context(|| format!("{} {options}", script.name))
    }

    fn same(&self) -> Same {
        let servers = [addresses(&self.direct), addresses(&self.proxied.source)];
        Same::new(&[servers.concat(), self.proxied.dualsync.listeners()].concat())
    }
}

/// `127.0.0.1:PORT` of every server.
fn addresses(source: &Source) -> Vec<String> {
    match source {
        Source::Standalone(mongod) => vec![mongod.address()],
        Source::ReplicaSet(set) => set.members().iter().map(Mongod::address).collect(),
    }
}

async fn every_driver(kind: Kind) -> Result<()> {
    let scripts = tokio::task::spawn_blocking(Script::all).await.context("install the drivers")??;
    let pair = Pair::start(kind).await?;
    let mut failures = Vec::new();
    for (name, options, size) in kind.runs() {
        let script = scripts.iter().find(|script| script.name == *name).context("a script of this name")?;
        failures.extend(pair.compare(script, options, size).await.err());
    }
    failures.extend(rust::compare(&pair, kind.options_of_rust()).await.err());
    if !matches!(kind, Kind::ThreeMembers) {
        failures.extend(shell::compare(&pair).await.err());
    }
    let told: Vec<String> = failures.iter().map(|failure| format!("{failure:#}")).collect();
    ensure!(told.is_empty(), "through the proxy it is not the same:\n{}", told.join("\n\n"));
    // What the drivers wrote has also found its way.
    pair.proxied.dualsync.wait_drained(DRAIN_MAX).await
}

/// A driver's script: `program arguments URI DATABASE KIND SIZE`.
struct Script {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
}

impl Script {
    fn all() -> Result<Vec<Script>> {
        let node = node::install(&scripts())?;
        let of_node = |name, file| Script {
            name,
            program: node.program.clone(),
            arguments: vec![scripts().join(file).into()],
            environment: vec![("NODE_PATH", node.modules.clone().into())],
        };
        let of_python = Script {
            name: "pymongo",
            program: python::interpreter()?,
            arguments: vec!["-I".into(), scripts().join("pymongo_steps.py").into()],
            environment: Vec::new(),
        };
        Ok(vec![of_python, of_node("node", "node_steps.js"), of_node("mongoose", "mongoose_steps.js")])
    }

    /// What it printed. A failure of the script itself is an error; one of a step is something that it prints.
    async fn run(&self, arguments: [&str; 4]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let told = run(command, None).await?;
        ensure!(told.ends_with("end\n"), "it did not come to its end:\n{told}");
        ensure!(!told.contains("\traised"), "a step failed by itself:\n{told}");
        Ok(told)
    }
}

/// Runs a command to its end, with some input, and yields what it wrote to its standard output.
async fn run(mut command: Command, input: Option<Vec<u8>>) -> Result<String> {
    use tokio::io::AsyncWriteExt as _;

    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        tokio::spawn(async move { stdin.write_all(&input).await });
    }
    let output = timeout(SCRIPT_MAX, child.wait_with_output()).await.context("a script takes too long")??;
    let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it).into_owned());
    ensure!(output.status.success(), "{:?}: {}\n{err}\n{out}", command, output.status);
    Ok(out)
}

/// The folder of the scripts.
fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers")
}

const SCRIPT_MAX: Duration = Duration::from_secs(180);
/// What the proxy may say meanwhile.
const EXPECTED: [&str; 2] = ["namespace is dirty", "namespace stays dirty until somebody decides"];
