//! What capture makes of a real server's bytes: (request, reply) -> (mark, entry), for every case in `testdata`.
//!
//! `cargo xtask record-replies` records them again. `REGENERATE=1 cargo test -p capture --test recorded` writes what is
//! made of them today as what is expected: to be read before it is committed. `ObjectId`s that a server or capture made
//! up are shown as `ObjectId`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use capture::{Capture, Config, Session};
use common::*;
use record::{Record, RecordKind};

#[test]
fn of_a_standalone() {
    check("standalone.txt", 80);
}

#[test]
fn of_a_replica_set() {
    check("replica-set.txt", 40);
}

fn check(file: &str, cases_min: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let (made, cases) = play(&text);
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    assert!(cases >= cases_min, "{cases} cases in {file}");
    let mut case = "";
    for (expected, made) in text.lines().zip(made.lines()) {
        case = expected.strip_prefix("case ").unwrap_or(case);
        assert_eq!(made, expected, "{file}, case {case}");
    }
    assert_eq!(text.lines().count(), made.lines().count(), "{file}: something is expected that is not there");
}

/// The file with what is made of each request, and how many cases it has.
fn play(text: &str) -> (String, usize) {
    let (mut out, mut cases) = (String::new(), 0);
    let (mut session, mut request, mut lsn) = (fresh(), None, 0);
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if ["mark", "entry", "none"].contains(&word) {
            continue;
        }
        writeln!(out, "{line}").unwrap();
        match word {
            "case" => {
                (session, lsn, cases) = (fresh(), 0, cases + 1);
            }
            "sent" => request = Some(bytes(rest)),
            "reply" => {
                lsn += 1;
                out.push_str(&made(&session, &request.take().unwrap(), Some(&bytes(rest)), lsn));
            }
            "silent" => {
                lsn += 1;
                out.push_str(&made(&session, &request.take().unwrap(), None, lsn));
            }
            _ => {}
        }
    }
    (out, cases)
}

fn fresh() -> Session {
    let capture: Arc<Capture> = Capture::new(Config::default());
    session(&capture)
}

fn made(session: &Session, request: &[u8], reply: Option<&[u8]>, lsn: u64) -> String {
    let Some(mut write) = session.request(request) else { return "none\n".to_owned() };
    let mut lines = Vec::new();
    if let Some(mark) = write.mark(NOW) {
        let Ok(Record::Mark(mark)) = Record::decode(RecordKind::Mark as u8, &mark) else { panic!("a mark") };
        lines.extend(targets(&mark.targets).into_iter().map(|place| format!("mark {place}")));
        write.marked(lsn);
    }
    let ended = match reply {
        Some(reply) => write.outcome(reply, NOW),
        None => write.unacknowledged(NOW),
    };
    assert!(ended.orphans.is_empty());
    lines.extend(told(&ended).into_iter().map(|line| format!("entry {line}")));
    lines.iter().fold(String::new(), |all, line| all + &without_ids(line) + "\n")
}

/// `ObjectId(…)` as `ObjectId`.
fn without_ids(line: &str) -> String {
    let mut parts = line.split("ObjectId(");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + "ObjectId" + part.split_once(')').map_or("", |(_, rest)| rest))
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}
