//! `cargo xtask fuzz`: builds the targets of `fuzz/` with coverage and lets libFuzzer run them, one after the other.
//!
//! - on the stable toolchain: coverage needs no nightly flag, only sanitizers do; allocations are capped by the
//!   targets' own allocator
//! - begins with the committed corpus; what is new goes to `target/fuzz/corpus`, an input that fails to `target/fuzz/found`
//! - `--keep` puts the smallest inputs that reach everything into the committed corpus

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cargo;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// One target; all of them without.
    target: Option<String>,
    /// Seconds for each.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the random choices begin; another one each time without.
    #[arg(long)]
    seed: Option<u32>,
    /// Keep the finds: merge them into fuzz/corpus.
    #[arg(long)]
    keep: bool,
}

impl Options {
    /// As the server runs it.
    pub(crate) fn short() -> Options {
        Options { target: None, seconds: 5, seed: None, keep: false }
    }
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let build = build_folder(root);
    let targets = targets(root)?;
    if let Some(unknown) = options.target.as_ref().filter(|name| !targets.contains(name)) {
        bail!("no fuzz target {unknown:?}; there are {}", targets.join(", "));
    }
    compile(root, &build)?;
    let seed = options.seed.unwrap_or_else(a_seed);
    for target in targets.iter().filter(|name| options.target.as_ref().is_none_or(|only| only == *name)) {
        println!("-- {target}: {} s, seed {seed}", options.seconds);
        fuzz(root, &build, target, options, seed)?;
    }
    Ok(())
}

fn fuzz(root: &Path, build: &Path, target: &str, options: &Options, seed: u32) -> Result<()> {
    let corpus = root.join("fuzz/corpus").join(target);
    let (new, found) = (build.join("corpus").join(target), build.join("found").join(target));
    for folder in [&corpus, &new, &found] {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let program = build.join(triple()?).join("release").join(target);
    let mut command = Command::new(&program);
    command.current_dir(root);
    command.args([format!("-max_total_time={}", options.seconds), format!("-seed={seed}")]);
    command.arg(format!("-artifact_prefix={}/", found.display()));
    // One input at a time: 25 s are a hang; memory is bounded for the run as a whole.
    command.args([
        "-timeout=25",
        "-rss_limit_mb=2048",
        "-max_len=8192",
        "-print_final_stats=1",
        "-verbosity=0",
    ]);
    let status =
        command.arg(&new).arg(&corpus).status().with_context(|| format!("run {}", program.display()))?;
    if !status.success() {
        bail!(
            "fuzz target {target} failed (seed {seed}); the input is in {}: run {} with its path to see it again",
            found.display(),
            program.display()
        );
    }
    if options.keep {
        // One input per edge of the code is enough to begin with, and few enough to keep.
        let merge = ["-merge=1", "-use_counters=0", "-verbosity=0", "-max_len=8192"];
        let status = Command::new(&program).args(merge).arg(&corpus).arg(&new).status().context("merge")?;
        if !status.success() {
            bail!("the corpus of {target} could not be merged");
        }
    }
    Ok(())
}

fn compile(root: &Path, build: &Path) -> Result<()> {
    let flags = [
        "--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
        "-Cllvm-args=-sanitizer-coverage-trace-compares",
        "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    ];
    let mut command = cargo(root);
    command.args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--locked"]);
    // A target of its own: build scripts and macros are not to be counted.
    command.args(["--target", &triple()?]).arg("--target-dir").arg(build).env("RUSTFLAGS", flags.join(" "));
    let status = command.status().context("run cargo build")?;
    if !status.success() {
        bail!("the fuzz targets do not build: {status}");
    }
    Ok(())
}

/// Beside everything else that is built.
fn build_folder(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    root.join(target).join("fuzz")
}

/// The files of `fuzz/targets`, without their ending.
fn targets(root: &Path) -> Result<Vec<String>> {
    let files = fs::read_dir(root.join("fuzz/targets")).context("list fuzz/targets")?;
    let stems = files.flatten().filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned()));
    let mut targets: Vec<String> = stems.collect();
    targets.sort();
    Ok(targets)
}

fn triple() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("run rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

fn a_seed() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.subsec_nanos().max(1)
}
