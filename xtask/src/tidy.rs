//! `cargo xtask tidy`: what no compiler checks.
//!
//! - every `` `path.rs: name` `` in ARCHITECTURE.md and crates/capture/README.md exists: `proxy/listener.rs:
//!   Listener::run` names the function `run` (beside a `Listener`) in crates/proxy/src/listener.rs; a bare file name
//!   belongs to the folder last named in its line
//! - no source file has more than 600 lines without its tests (a warning from 400)
//! - no forgotten notes to ourselves
//! - the README's commands exist: chores and their flags, scripts, benches, subcommands of the program

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Prints every complaint and fails if there is one.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut complaints = Vec::new();
    let mut sources = Vec::new();
    for folder in ["src", "crates", "xtask", "tests", "benches", "fuzz"] {
        collect(&root.join(folder), &mut sources)?;
    }
    for path in &sources {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let shown = path.strip_prefix(root).unwrap_or(path).display().to_string();
        complaints.extend(notes(&shown, &text));
        complaints.extend(too_long(&shown, &text));
    }
    for page in ["ARCHITECTURE.md", "crates/capture/README.md"] {
        match fs::read_to_string(root.join(page)) {
            Ok(text) => complaints.extend(mentions(root, page, &text)),
            Err(error) => complaints.push(format!("{page}: {error}")),
        }
    }
    match fs::read_to_string(root.join("README.md")) {
        Ok(text) => complaints.extend(commands(root, &text)),
        Err(error) => complaints.push(format!("README.md: {error}")),
    }
    complaints.iter().for_each(|complaint| println!("tidy: {complaint}"));
    match complaints.len() {
        0 => Ok(()),
        count => bail!("{count} complaints"),
    }
}

/// Every `.rs` file below the folder, in order.
fn collect(folder: &Path, sources: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(items) = fs::read_dir(folder) else { return Ok(()) };
    let mut paths = items.map(|item| Ok(item?.path())).collect::<Result<Vec<PathBuf>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
    Ok(())
}

fn notes(shown: &str, text: &str) -> Vec<String> {
    let mark = |word: &str| NOTES.contains(&word);
    let words = |line: &str| line.split(|c: char| !c.is_alphanumeric()).any(mark);
    let lines = text.lines().zip(1..).filter(|(line, _)| words(line));
    lines.map(|(line, number)| format!("{shown}:{number}: an open note: {}", line.trim())).collect()
}

fn too_long(shown: &str, text: &str) -> Option<String> {
    let of_tests = shown.split('/').any(|part| part == "tests" || part == "tests.rs");
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    if !of_tests && lines > LINES_WARN {
        println!("tidy: warning: {shown} has {lines} lines without its tests: look for a second idea inside");
    }
    (!of_tests && lines > LINES_MAX)
        .then(|| format!("{shown}: {lines} lines without tests, at most {LINES_MAX}"))
}

/// The mentions that lead nowhere.
fn mentions(root: &Path, page: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let mut folder = "";
        for mention in line.split('`').skip(1).step_by(2) {
            let (path, name) = mention.split_once(": ").unwrap_or((mention, ""));
            if !path.ends_with(".rs") || path.contains(' ') {
                continue;
            }
            let path = match path.split_once('/') {
                Some((first, _)) => {
                    folder = first;
                    path.to_owned()
                }
                None => format!("{folder}/{path}"),
            };
            if let Err(reason) = look_up(root, &path, name) {
                complaints.push(format!("{page}:{number}: `{mention}`: {reason}"));
            }
        }
    }
    complaints
}

fn look_up(root: &Path, path: &str, name: &str) -> std::result::Result<(), String> {
    let in_crate =
        path.split_once('/').map(|(first, rest)| root.join("crates").join(first).join("src").join(rest));
    let places = [Some(root.join(path)), in_crate];
    let Some(text) = places.iter().flatten().find_map(|place| fs::read_to_string(place).ok()) else {
        return Err("no such file".to_owned());
    };
    for (index, part) in name.trim_end_matches("()").rsplit("::").enumerate() {
        // The last part of a path is what is meant; those before it are where it lives.
        let kinds: &[&str] = if index == 0 { &KINDS } else { &KINDS[1..] };
        let defines = |line: &str| {
            let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            words.windows(2).any(|pair| kinds.contains(&pair[0]) && pair[1] == part)
        };
        if !part.is_empty() && !text.lines().any(defines) {
            return Err(format!("no {part} in that file"));
        }
    }
    Ok(())
}

/// The commands in code blocks that cannot be run.
fn commands(root: &Path, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut in_block = false;
    for (line, number) in text.lines().zip(1..) {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if in_block && let Err(reason) = command(root, line) {
            complaints.push(format!("README.md:{number}: {}: {reason}", line.trim()));
        }
    }
    complaints
}

fn command(root: &Path, line: &str) -> std::result::Result<(), String> {
    let line = line.split(" #").next().unwrap_or_default().trim().trim_start_matches("$ ");
    // Assignments in front of a command.
    let words: Vec<&str> = line.split_whitespace().skip_while(|word| word.contains('=')).collect();
    match words.as_slice() {
        ["cargo", "xtask", rest @ ..] => match crate::Cli::try_parse_from(["xtask"].iter().chain(rest)) {
            Err(error) if error.use_stderr() => Err("no such chore".to_owned()),
            _ => Ok(()),
        },
        ["cargo", "bench", rest @ ..] => match rest.iter().skip_while(|word| **word != "--bench").nth(1) {
            Some(name) if !root.join("benches").join(format!("{name}.rs")).is_file() => {
                Err("no such bench".to_owned())
            }
            _ => Ok(()),
        },
        ["dualsync" | "./target/release/dualsync" | "target/release/dualsync", rest @ ..] => {
            subcommand(root, rest)
        }
        ["cargo", "run", rest @ ..] => {
            subcommand(root, rest.split(|word| *word == "--").nth(1).unwrap_or_default())
        }
        [script, ..] if script.starts_with("./") || script.starts_with(".ci/") => {
            if root.join(script).is_file() { Ok(()) } else { Err("no such file".to_owned()) }
        }
        _ => Ok(()),
    }
}

/// The program's own subcommands, by their name in its command line's source: `check-config` is `CheckConfig` there.
fn subcommand(root: &Path, words: &[&str]) -> std::result::Result<(), String> {
    let Some(name) = words.first().filter(|word| !word.starts_with('-')) else { return Ok(()) };
    let upper = |part: &str| {
        part.chars().next().map(|first| first.to_uppercase().chain(part.chars().skip(1)).collect())
    };
    let variant: String = name.split('-').filter_map(upper).collect::<Vec<String>>().concat();
    let source =
        fs::read_to_string(root.join("src/cli.rs")).map_err(|error| format!("src/cli.rs: {error}"))?;
    let known = source.split(|c: char| !c.is_alphanumeric()).any(|word| word == variant);
    if known { Ok(()) } else { Err("no such subcommand".to_owned()) }
}

const KINDS: [&str; 7] = ["fn", "struct", "enum", "trait", "type", "mod", "const"];
const NOTES: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
const LINES_WARN: usize = 400;
const LINES_MAX: usize = 600;

#[cfg(test)]
mod tests;
