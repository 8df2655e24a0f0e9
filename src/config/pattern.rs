//! Which namespaces are meant: `db`, `db.collection`, with `*` for any run of characters.

use std::fmt;

/// One pattern of `sync.include` or `sync.exclude`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    database: String,
    /// `None`: all of the database.
    collection: Option<String>,
}

impl Pattern {
    /// Reads a pattern; `None` when it can match nothing. The first dot ends the database's name, which has none.
    pub(super) fn parse(text: &str) -> Option<Pattern> {
        let (database, collection) = match text.split_once('.') {
            Some((database, collection)) => (database, Some(collection)),
            None => (text, None),
        };
        let impossible = database.is_empty()
            || collection.is_some_and(str::is_empty)
            || database.contains(['/', '\\', ' ', '"', '$'])
            || text.contains('\0');
        (!impossible)
            .then(|| Pattern { database: database.to_owned(), collection: collection.map(str::to_owned) })
    }

    /// Whether it names this database, letter by letter.
    pub(super) fn is_database(&self, name: &str) -> bool {
        self.database == name
    }

    /// Whether the namespace is meant.
    pub(crate) fn matches(&self, database: &str, collection: &str) -> bool {
        matches(&self.database, database)
            && self.collection.as_deref().is_none_or(|pattern| matches(pattern, collection))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.database)?;
        self.collection.iter().try_for_each(|collection| write!(f, ".{collection}"))
    }
}

/// Pieces between the stars must come in order, the first at the start and the last at the end. Taking each
/// piece at its first place is enough: what a later place could match, the next star can skip.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match name.split_once(piece) {
            Some((_, behind)) => name = behind,
            None => return false,
        }
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, database, collection, expected) in [
            ("*", "shop", "orders", true),
            ("shop", "shop", "orders", true),
            ("shop", "shop2", "orders", false),
            ("shop.orders", "shop", "orders", true),
            ("shop.orders", "shop", "orders.old", false),
            ("shop.orders.old", "shop", "orders.old", true),
            ("shop.*", "shop", "a.b", true),
            ("*.sessions", "any", "sessions", true),
            ("*.sessions", "any", "my_sessions", false),
            ("tenant_*.log*", "tenant_7", "logs", true),
            ("tenant_*.log*", "tenant", "logs", false),
            ("a*b*c", "aXbYbZc", "x", true),
            ("a*b*c", "abXcX", "x", false),
            ("ab*ba", "aba", "x", false),
            ("**", "x", "y", true),
        ] {
            let read = Pattern::parse(pattern).unwrap();
            assert_eq!(read.matches(database, collection), expected, "{pattern} on {database}.{collection}");
            assert_eq!(read.to_string(), pattern);
        }
    }

    #[test]
    fn patterns_that_match_nothing_are_refused() {
        for pattern in ["", ".x", "x.", "a b", "a/b.c", "$x", "a\0"] {
            assert_eq!(Pattern::parse(pattern), None, "{pattern:?}");
        }
    }
}
