//! What in a filter or an update does not follow from the document and the command alone (`wire-facts.md` 9.2).
//!
//! Found by name, anywhere in the BSON; literal data that looks like an operator costs certainty, never truth.

use bson::raw::{RawBsonRef, RawDocument, RawIter};

/// What was found in a piece of a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The server's clock, chance, code, or an index decides.
    pub(crate) impure: bool,
    /// A `$$variable` that the command may define (`let`, `c`).
    pub(crate) variables: bool,
}

impl Found {
    pub(crate) fn and(self, other: Found) -> Found {
        Found { impure: self.impure || other.impure, variables: self.variables || other.variables }
    }
}

/// Looks through a filter: there, expressions stand under `$expr` only.
pub(crate) fn in_filter(filter: &RawDocument) -> Found {
    let mut found = Found::default();
    walk(filter.iter_elements(), Place::Filter, DEPTH_MAX, &mut found);
    found
}

/// Looks through an aggregation expression, a pipeline, or the values of `let`.
pub(crate) fn in_expression(value: RawBsonRef<'_>) -> Found {
    let mut found = Found::default();
    look(value, Place::Expression, DEPTH_MAX, &mut found);
    found
}

#[derive(Clone, Copy)]
enum Place {
    Filter,
    Expression,
}

fn walk(elements: RawIter<'_>, place: Place, left: usize, found: &mut Found) {
    if left == 0 {
        found.impure = true;
        return;
    }
    for element in elements {
        // What cannot be read is refused by the server; if it is not, it is nothing that we know.
        let Ok(element) = element else { return found.impure = true };
        let name = element.key().as_str();
        found.impure |= IMPURE.contains(&name);
        let place = if name == "$expr" { Place::Expression } else { place };
        match element.value() {
            Ok(value) => look(value, place, left - 1, found),
            Err(_) => found.impure = true,
        }
    }
}

fn look(value: RawBsonRef<'_>, place: Place, left: usize, found: &mut Found) {
    match (value, place) {
        (RawBsonRef::Document(doc), _) => walk(doc.iter_elements(), place, left, found),
        (RawBsonRef::Array(array), _) => walk(array.iter_elements(), place, left, found),
        (RawBsonRef::String(text), Place::Expression) => {
            if let Some(variable) = text.strip_prefix("$$") {
                let name = variable.split('.').next().unwrap_or_default();
                found.impure |= IMPURE_VARIABLES.contains(&name);
                found.variables |= !SYSTEM_VARIABLES.contains(&name);
            }
        }
        _ => {}
    }
}

/// Values nested deeper than the server stores (180 levels) are not walked: the stack is ours.
const DEPTH_MAX: usize = 200;

const IMPURE: &[&str] = &[
    "$currentDate",
    "$rand",
    "$sampleRate",
    "$sample",
    "$where",
    "$function",
    "$accumulator",
    "$text",
    "$near",
    "$nearSphere",
    "$geoNear",
    "$meta",
];
const IMPURE_VARIABLES: &[&str] = &["NOW", "CLUSTER_TIME", "USER_ROLES", "SEARCH_META"];
/// Variables that no `let` can define.
const SYSTEM_VARIABLES: &[&str] = &[
    "NOW",
    "CLUSTER_TIME",
    "USER_ROLES",
    "SEARCH_META",
    "ROOT",
    "CURRENT",
    "REMOVE",
    "DESCEND",
    "PRUNE",
    "KEEP",
];

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{rawbson, rawdoc};

    const PURE: Found = Found { impure: false, variables: false };
    const IMPURE: Found = Found { impure: true, variables: false };
    const VARIABLES: Found = Found { impure: false, variables: true };

    #[test]
    fn filters() {
        let cases = [
            (rawdoc! {"a": 1, "b": {"$gt": 2}, "$or": [{"c": {"$in": [1, 2]}}]}, PURE),
            (rawdoc! {"name": "$$NOW"}, PURE), // a literal
            (rawdoc! {"$expr": {"$gt": ["$lockUntil", "$$NOW"]}}, IMPURE), // D15
            (rawdoc! {"$expr": {"$gt": ["$a", "$$NOW.x"]}}, IMPURE),
            (rawdoc! {"$and": [{"x": 1}, {"$expr": {"$lt": [{"$rand": {}}, 0.5]}}]}, IMPURE),
            (rawdoc! {"$expr": {"$eq": ["$$NOWHERE", "$a"]}}, VARIABLES),
            (rawdoc! {"$expr": {"$eq": ["$$ROOT.a", "$b"]}}, PURE),
            (rawdoc! {"$where": "true"}, IMPURE),
            (rawdoc! {"$sampleRate": 0.5}, IMPURE),
            (rawdoc! {"$text": {"$search": "x"}}, IMPURE),
            (rawdoc! {"at": {"$near": [1, 2]}}, IMPURE),
            (rawdoc! {"at": {"$geoWithin": {"$center": [[1, 2], 3]}}}, PURE),
            (rawdoc! {"$expr": {"$function": {"body": "f", "args": [], "lang": "js"}}}, IMPURE),
        ];
        for (filter, expected) in cases {
            assert_eq!(in_filter(&filter), expected, "{filter:?}");
        }
    }

    #[test]
    fn expressions() {
        let stage = rawbson!([{"$set": {"at": "$$NOW"}}]);
        assert_eq!(in_expression(stage.as_raw_bson_ref()), IMPURE);
        let stage = rawbson!([{"$set": {"a": {"$add": ["$a", "$$step"]}}}]);
        assert_eq!(in_expression(stage.as_raw_bson_ref()), VARIABLES);
    }

    #[test]
    fn depth_is_bounded() {
        let mut deep = rawdoc! {"a": 1};
        for _ in 0..1_000 {
            deep = rawdoc! {"a": deep};
        }
        assert_eq!(in_filter(&deep), IMPURE);
    }
}
