//! Whether two runs of a script printed the same, but for what must differ.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use regex_lite::{Captures, Regex};

/// What is made equal before two runs are compared: nothing else may differ.
pub struct Same {
    /// Ports of this pair's servers and of its proxy.
    ports: Regex,
    /// What is of the moment, and what stands for it.
    moments: Vec<(Regex, &'static str)>,
    /// Ids that a driver, a server or the shell made up; the order in which they appear is compared.
    made_up: Regex,
}

impl Same {
    /// For servers and a proxy under these addresses (`127.0.0.1:PORT`).
    pub fn new(addresses: &[String]) -> Same {
        let ports: Vec<&str> = addresses.iter().filter_map(|it| it.split(':').nth(1)).collect();
        let moments = [
            (r"20[2-9][0-9]-[01][0-9]-[0-3][0-9]T[0-9:.]+(Z|\+00:00)", "<date>"),
            (r#""\$date": ?\{"\$numberLong": ?"1[6-9][0-9]{11}"\}"#, "<date>"),
            (r#""?\$timestamp"?: ?\{"?t"?: ?[1-9][0-9]{9}, ?"?i"?: ?[0-9]+\}"#, "<time>"),
            (r"Timestamp\((\{ t: )?[1-9][0-9]{9}, (i: )?[0-9]+( \})?\)", "<time>"),
        ];
        Same {
            ports: regex(&format!(r"\b({})\b", ports.join("|"))),
            moments: moments.into_iter().map(|(pattern, name)| (regex(pattern), name)).collect(),
            // An ObjectId; a UUID; a cursor's number.
            made_up: regex(
                r"\b([0-9a-f]{24}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|cursor id [0-9]+)\b",
            ),
        }
    }

    /// An error that shows the first lines that differ.
    pub fn check(&self, direct: &str, proxied: &str) -> Result<()> {
        let (direct, proxied) = (self.plain(direct), self.plain(proxied));
        let (left, right): (Vec<&str>, Vec<&str>) = (direct.lines().collect(), proxied.lines().collect());
        ensure!(left.len() >= LINES_MIN, "there is next to nothing to compare:\n{direct}");
        let differences: Vec<String> = (0..left.len().max(right.len()))
            .filter(|&line| left.get(line) != right.get(line))
            .map(|line| difference(left.get(line), right.get(line)))
            .collect();
        let shown = &differences[..differences.len().min(SHOWN_MAX)];
        ensure!(shown.is_empty(), "{} lines differ:\n{}", differences.len(), shown.join("\n"));
        Ok(())
    }

    fn plain(&self, told: &str) -> String {
        let mut plain = self.ports.replace_all(told, "<port>").into_owned();
        for (pattern, name) in &self.moments {
            plain = pattern.replace_all(&plain, *name).into_owned();
        }
        let mut seen = HashMap::new();
        let numbered = |found: &Captures<'_>| {
            let next = seen.len();
            format!("<made up {}>", seen.entry(found[0].to_owned()).or_insert(next))
        };
        self.made_up.replace_all(&plain, numbered).into_owned()
    }
}

/// Both lines from shortly before the place where they part.
fn difference(left: Option<&&str>, right: Option<&&str>) -> String {
    let (left, right) = (left.map_or("<nothing>", |it| it), right.map_or("<nothing>", |it| it));
    let step = left.split('\t').next().unwrap_or_default();
    let same = left.chars().zip(right.chars()).take_while(|(a, b)| a == b).count();
    let part = |line: &str| line.chars().skip(same.saturating_sub(80)).take(400).collect::<String>();
    format!("{step}\n  direct : {}\n  proxied: {}", part(left), part(right))
}

/// The patterns are constants and numbers.
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|error| unreachable!("{pattern}: {error}"))
}

const LINES_MIN: usize = 15;
const SHOWN_MAX: usize = 8;

#[test]
fn what_differs_is_seen_and_what_must_differ_is_not() {
    let same = Same::new(&["127.0.0.1:41000".to_owned(), "127.0.0.1:41001".to_owned()]);
    let run = |last: &str| format!("{}{last}\n", "step\t[1, 2]\n".repeat(LINES_MIN));
    let check = |left: &str, right: &str| same.check(&run(left), &run(right));
    check(r#""host": "127.0.0.1:41000""#, r#""host": "127.0.0.1:41001""#).unwrap();
    check("6b03597a259a82df9f1f3cc1", "6b03597e5e1c36be83c43a9c").unwrap();
    check("2026-11-22T21:00:14.000Z", "2026-11-22T21:00:15.001Z").unwrap();
    check(r#"{"$timestamp": {"t": 1795381155, "i": 2}}"#, r#"{"$timestamp": {"t": 1795381156, "i": 1}}"#)
        .unwrap();
    check("Timestamp({ t: 1795382151, i: 5 })", "Timestamp({ t: 1795382138, i: 10 })").unwrap();
    check("127.0.0.1:41000", "127.0.0.1:41002").unwrap_err();
    check(
        "6b03597a259a82df9f1f3cc1 6b03597a259a82df9f1f3cc1",
        "6b03597e5e1c36be83c43a9c 6b03597e5e1c36be83c43a9d",
    )
    .unwrap_err();
    check("2001-02-03T04:05:06.000Z", "2001-02-03T04:05:07.000Z").unwrap_err();
    check(r#"{"code": 11000}"#, r#"{"code": 11001}"#).unwrap_err();
    same.check(&run("more"), &run("more\nmore")).unwrap_err();
    same.check("", "").unwrap_err();
}
