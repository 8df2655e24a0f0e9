//! The name of a collection, or of a whole database.

use std::fmt;
use std::sync::Arc;

/// `db.coll`, or `db` alone for a whole database. Cheap to clone.
///
/// The database's name ends at the first dot: a database's name has none, a collection's may.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// The namespace of `coll` in `db`; an empty `coll` names the whole database.
    pub fn new(db: &str, coll: &str) -> Namespace {
        if coll.is_empty() { Namespace(db.into()) } else { Namespace(format!("{db}.{coll}").into()) }
    }

    /// Reads `db.coll` or `db`.
    pub fn parse(name: &str) -> Namespace {
        Namespace(name.into())
    }

    /// The database.
    pub fn db(&self) -> &str {
        self.0.split_once('.').map_or(&self.0, |(db, _)| db)
    }

    /// The collection; empty for a whole database.
    pub fn coll(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, coll)| coll)
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_ends_at_the_first_dot() {
        let ns = Namespace::new("shop", "orders.2024");
        assert_eq!((ns.db(), ns.coll(), ns.as_str()), ("shop", "orders.2024", "shop.orders.2024"));
        let db = Namespace::new("shop", "");
        assert_eq!((db.db(), db.coll(), db.as_str()), ("shop", "", "shop"));
    }
}
