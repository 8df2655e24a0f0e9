//! Every line that the binary writes is kept, and those of a warning or worse must have been declared.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Result, bail};

/// How bad a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Anything below a warning.
    Fine,
    /// `WARN`.
    Warn,
    /// `ERROR`, or a panic's message, which no logger formats.
    Error,
}

impl Level {
    /// The level of a line, in the text form (`TIME LEVEL …`) or as JSON.
    pub fn of(line: &str) -> Level {
        let second = line.split_whitespace().nth(1);
        if second == Some("ERROR") || line.contains(r#""level":"ERROR""#) || line.contains("panicked at") {
            Level::Error
        } else if second == Some("WARN") || line.contains(r#""level":"WARN""#) {
            Level::Warn
        } else {
            Level::Fine
        }
    }
}

/// The lines of all runs so far, and what was declared.
#[derive(Debug, Default)]
pub(crate) struct LogWatch {
    kept: Arc<Mutex<Kept>>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: Vec<String>,
    expected: Vec<String>,
}

impl LogWatch {
    /// Keeps what comes out of a pipe until it is closed.
    pub(crate) fn follow(&mut self, pipe: impl Read + Send + 'static) {
        let kept = Arc::clone(&self.kept);
        self.readers.push(std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n') {
                let Ok(line) = line else { return };
                lock(&kept).lines.push(String::from_utf8_lossy(&line).into_owned());
            }
        }));
    }

    /// Waits until all pipes are closed: the process that writes to them must have ended.
    pub(crate) fn finish(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }

    pub(crate) fn expect(&self, substring: &str) {
        lock(&self.kept).expected.push(substring.to_owned());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        lock(&self.kept).lines.clone()
    }

    /// The last lines, for an error message.
    pub(crate) fn end(&self) -> String {
        let kept = lock(&self.kept);
        kept.lines[kept.lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
    }

    /// An error that names the lines of a warning or worse that nobody declared.
    pub(crate) fn check(&self) -> Result<()> {
        let kept = lock(&self.kept);
        let declared = |line: &str| kept.expected.iter().any(|expected| line.contains(expected.as_str()));
        let undeclared = |line: &&String| Level::of(line) > Level::Fine && !declared(line);
        let found: Vec<&str> = kept.lines.iter().filter(undeclared).map(String::as_str).collect();
        if !found.is_empty() {
            let first = &found[..found.len().min(LINES_SHOWN)];
            bail!("dualsync wrote {} undeclared warnings or errors:\n{}", found.len(), first.join("\n"));
        }
        Ok(())
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

const LINES_SHOWN: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        let check = |line: &str, expected| assert_eq!(Level::of(line), expected, "{line}");
        check("2025-11-22T10:00:00.000000Z  INFO dualsync: WARN is a word here", Level::Fine);
        check("2025-11-22T10:00:00.000000Z  WARN replicator: target away", Level::Warn);
        check("2025-11-22T10:00:00.000000Z ERROR synclog: disk full", Level::Error);
        check(r#"{"timestamp":"2025","level":"WARN","fields":{}}"#, Level::Warn);
        check(r#"{"timestamp":"2025","level":"ERROR","fields":{}}"#, Level::Error);
        check("thread 'main' panicked at src/main.rs:1:1:", Level::Error);
        check("", Level::Fine);
    }

    #[test]
    fn a_warning_must_be_declared() {
        let mut watch = LogWatch::default();
        watch.follow(&b"T INFO a: fine\nT  WARN b: target away, error=x\nT  WARN c: odd\n"[..]);
        watch.finish();
        assert_eq!(watch.lines().len(), 3);
        watch.expect("target away");
        let error = watch.check().unwrap_err().to_string();
        assert!(error.contains("c: odd") && !error.contains("target away"), "{error}");
        watch.expect("odd");
        watch.check().unwrap();
    }
}
