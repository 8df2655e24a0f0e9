//! What is captured, and the bounds of what capture remembers.

use std::fmt;
use std::str::FromStr;

use record::Namespace;

/// How a [`crate::Capture`] behaves. `Config::default()` captures every database but the server's own.
#[derive(Debug, Clone)]
pub struct Config {
    /// Namespaces to capture; empty: all.
    pub include: Vec<Pattern>,
    /// Namespaces to leave out, also where `include` names them.
    pub exclude: Vec<Pattern>,
    /// Keys in flight that are told apart, over all namespaces; a write beyond that counts as touching its whole
    /// namespace while it is in flight. 1 M keys take about 50 MB, ten of the largest batches.
    pub keys_in_flight_max: usize,
    /// Writes of open transactions that are held; one more is handed on as an orphan. About 0.5 kB each without
    /// its statements.
    pub held_writes_max: usize,
    /// Bytes of statements and keys in held writes; beyond it only their namespaces are held.
    pub held_bytes_max: usize,
    /// A transaction nobody has added to for this long is given up, in milliseconds: its writes go on as orphans. More
    /// than the server's `transactionLifetimeLimitSeconds` (60 s), so that by then it is nearly always over there.
    pub transaction_ms_max: u64,
    /// For how long any commit may bring the writes of a transaction of which only its writes are known, in
    /// milliseconds. The server ends transactions every half `transactionLifetimeLimitSeconds`; this is twice that limit
    /// and more.
    pub strays_ms_max: u64,
    /// Namespaces that commits may still bring writes to: of transactions that were given up, and of others as many.
    pub strays_max: usize,
    /// Cursors of `$out` and `$merge` that have not written yet; the oldest is forgotten and its namespace missed.
    pub cursors_max: usize,
    /// Namespaces in [`crate::Missed`]; beyond that it says *everything*.
    pub missed_max: usize,
    /// Command names that are counted apart; further ones are counted together as `(other)`.
    pub command_names_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            include: Vec::new(),
            exclude: Vec::new(),
            keys_in_flight_max: 1_000_000,
            held_writes_max: 100_000,
            held_bytes_max: 128 << 20,
            transaction_ms_max: 70_000,
            strays_ms_max: 180_000,
            strays_max: 1_000,
            cursors_max: 10_000,
            missed_max: 1_000,
            command_names_max: 200,
        }
    }
}

impl Config {
    /// Whether writes to this collection are captured.
    ///
    /// Never: `admin`, `config`, `local`, our own `__dualsync`, and collections named `system.*`.
    pub fn captures(&self, db: &str, coll: &str) -> bool {
        !coll.is_empty()
            && !coll.starts_with("system.")
            && !is_internal(db)
            && (self.include.is_empty() || self.include.iter().any(|pattern| pattern.matches(db, coll)))
            && !self.exclude.iter().any(|pattern| pattern.matches(db, coll))
    }

    /// Whether any collection of this database may be captured.
    pub fn captures_some_of(&self, db: &str) -> bool {
        !db.is_empty()
            && !is_internal(db)
            && (self.include.is_empty() || self.include.iter().any(|pattern| glob(&pattern.db, db)))
            && !self.exclude.iter().any(|pattern| pattern.covers_database(db))
    }
}

fn is_internal(db: &str) -> bool {
    matches!(db, "admin" | "config" | "local" | "__dualsync")
}

/// `db` or `db.coll`, each part with `*` for any characters, dots of a collection's name included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    db: String,
    /// `None`: all of the database.
    coll: Option<String>,
}

impl Pattern {
    /// Reads `db` (all of its collections) or `db.coll`; the first dot ends the database's name, which has none.
    ///
    /// Errors when a part is empty or holds what no such name can: then it would match nothing.
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        let (db, coll) = match text.split_once('.') {
            Some((db, coll)) => (db, Some(coll)),
            None => (text, None),
        };
        let impossible = db.is_empty()
            || db.contains(['/', '\\', ' ', '"', '$'])
            || coll.is_some_and(str::is_empty)
            || text.contains(char::is_control);
        if impossible {
            return Err(PatternError(text.to_owned()));
        }
        Ok(Pattern { db: db.to_owned(), coll: coll.map(str::to_owned) })
    }

    /// Whether it names this database, letter by letter.
    pub fn is_database(&self, name: &str) -> bool {
        self.db == name
    }

    /// Whether it matches `ns`, or, for a whole database, may match one of its collections.
    pub fn may_match(&self, ns: &Namespace) -> bool {
        if ns.coll().is_empty() { glob(&self.db, ns.db()) } else { self.matches(ns.db(), ns.coll()) }
    }

    fn matches(&self, db: &str, coll: &str) -> bool {
        glob(&self.db, db) && self.coll.as_deref().is_none_or(|pattern| glob(pattern, coll))
    }

    fn covers_database(&self, db: &str) -> bool {
        glob(&self.db, db) && matches!(self.coll.as_deref(), None | Some("*"))
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Pattern, PatternError> {
        Pattern::parse(text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.db)?;
        self.coll.iter().try_for_each(|coll| write!(f, ".{coll}"))
    }
}

/// A text that is no [`Pattern`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternError(String);

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` names no namespace: write `db`, `db.coll`, or either with `*`", self.0)
    }
}
impl std::error::Error for PatternError {}

/// Whether `text` is `pattern`, where each `*` stands for any characters.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    // Leftmost matches of the middle parts leave the most room for the last one.
    let mut parts = rest.split('*');
    let last = parts.next_back().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::parse(text).unwrap()).collect()
    }

    #[test]
    fn include_and_exclude_decide_by_name() {
        /// Include, exclude, database, collection, captured.
        type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a str, &'a str, bool);
        let cases: &[Case<'_>] = &[
            (&[], &[], "shop", "orders", true),
            (&[], &[], "shop", "orders.2024", true),
            (&[], &[], "shop", "", false),
            (&[], &[], "shop", "system.views", false),
            (&[], &[], "shop", "system.buckets.t", false),
            (&[], &[], "admin", "x", false),
            (&["admin", "local.x"], &[], "admin", "x", false),
            (&[], &[], "__dualsync", "x", false),
            (&["shop"], &[], "shop", "orders", true),
            (&["shop"], &[], "shop2", "orders", false),
            (&["shop*"], &[], "shop2", "orders", true),
            (&["shop.orders"], &[], "shop", "orders", true),
            (&["shop.orders"], &[], "shop", "orders.old", false),
            (&["shop.orders*"], &[], "shop", "orders.old", true),
            (&["*.logs"], &[], "a", "logs", true),
            (&["*.l*g*s"], &[], "a", "llogs", true),
            (&["*.l*g*s"], &[], "a", "gols", false),
            (&["a.b*b"], &[], "a", "b", false),
            (&["shop"], &["shop.tmp*"], "shop", "tmp1", false),
            (&[], &["shop"], "shop", "orders", false),
        ];
        for (include, exclude, db, coll, captured) in cases {
            let config =
                Config { include: patterns(include), exclude: patterns(exclude), ..Config::default() };
            assert_eq!(config.captures(db, coll), *captured, "{include:?} {exclude:?} {db} {coll}");
        }
    }

    #[test]
    fn a_database_counts_when_some_of_it_is_captured() {
        let config = Config {
            include: patterns(&["shop.orders", "b*"]),
            exclude: patterns(&["blog", "books.x"]),
            ..Config::default()
        };
        let captured = |db| config.captures_some_of(db);
        assert!(captured("shop") && captured("books") && captured("b"));
        assert!(!captured("blog") && !captured("x") && !captured("") && !captured("admin"));
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in ["", ".", "a.", ".b", "a b", "a.\n", "a/b.c", "$x", "a\0"] {
            let error = Pattern::parse(text).unwrap_err();
            assert!(error.to_string().contains("db.coll"), "{error}");
        }
    }
}
