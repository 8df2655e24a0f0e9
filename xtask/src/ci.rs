//! `cargo xtask ci`: one step after the other, each with its time; the first failure stops.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{cargo, fuzz, tidy};

/// Runs all steps and prints a summary.
pub(crate) fn run(root: &Path) -> Result<()> {
    let steps: [(&str, &dyn Fn() -> Result<()>); 10] = [
        ("format", &|| {
            call(root, &["fmt", "--all", "--check"])?;
            call(root, &["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"])
        }),
        ("clippy", &|| {
            call(root, &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
        }),
        ("docs", &|| {
            let mut command = command(root, &["doc", "--workspace", "--no-deps", "--locked"]);
            finish(command.env("RUSTDOCFLAGS", "-Dwarnings"))
        }),
        ("deny", &|| call(root, &["deny", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"])),
        ("advisories", &|| advisories(root)),
        ("tests", &|| call(root, &["test", "--workspace", "--locked"])),
        ("orders", &|| {
            call(root, &["test", "-p", "synclog", "--features", "shuttle", "--test", "shuttle", "--locked"])
        }),
        ("fuzz", &|| fuzz::run(root, &fuzz::Options::short())),
        ("tidy", &|| tidy::run(root)),
        ("demo", &|| call(root, &["xtask", "demo", "--once"])),
    ];
    let mut summary: Vec<(&str, &str, Duration)> = Vec::new();
    let mut outcome = Ok(());
    for (name, step) in steps {
        println!("\n== {name}");
        let start = Instant::now();
        outcome = step().with_context(|| format!("ci step {name:?}"));
        summary.push((name, if outcome.is_ok() { "ok" } else { "FAILED" }, start.elapsed()));
        if outcome.is_err() {
            break;
        }
    }
    println!();
    for (name, result, time) in summary {
        println!("{name:<12}{result:<8}{:>7.1} s", time.as_secs_f64());
    }
    outcome
}

/// Known holes in our dependencies. The database lives on GitHub; a machine that cannot fetch it says so and goes on.
fn advisories(root: &Path) -> Result<()> {
    let output = command(root, &["deny", "check", "--hide-inclusion-graph", "advisories"])
        .output()
        .context("run cargo deny")?;
    let said = String::from_utf8_lossy(&output.stderr);
    print!("{}{said}", String::from_utf8_lossy(&output.stdout));
    match output.status.success() {
        true => Ok(()),
        false if said.contains("failed to fetch advisory database") => {
            println!("the advisory database cannot be fetched from here: advisories are NOT checked");
            Ok(())
        }
        false => bail!("cargo deny check advisories: {}", output.status),
    }
}

fn call(root: &Path, args: &[&str]) -> Result<()> {
    finish(&mut command(root, args))
}

fn command(root: &Path, args: &[&str]) -> Command {
    let mut command = cargo(root);
    command.args(args);
    command
}

fn finish(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
