//! Options and indexes: what the target's collection must have beside its documents.
//!
//! - a missing collection or view is created with the source's options, before its documents
//! - what `collMod` can change is changed; what only a new collection can have (collation, clustering) is given to
//!   an empty one, or one that was dropped on the source too, which is made anew; else it is held
//! - indexes: those that the source does not have are dropped, those that are missing are created, after the
//!   documents; expiry is switched off on the target (it would delete what the application still renews; not that of a
//!   time-series collection), and the true value noted in `__dualsync.expiry`
//!
//! These commands change no document, so they need no turn of the worker's (but for making a collection anew).
//!
//! Not here: users and roles.

use std::collections::BTreeMap;

use bson::raw::{RawArrayBuf, RawBson, RawDocumentBuf};
use bson::{cstr, rawdoc};
use record::Namespace;
use replicator::{
    Class, Collection, Documents, EXPIRY, Expiry, Made, NotNow, ServerError, Shared, by_name, fields,
    unwanted,
};
use tracing::info;

use crate::side::Side;

/// Why options could not be made equal.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// A person has to decide: why.
    Held(String),
    /// A server is away, or refuses.
    Server(ServerError),
    /// The worker cannot do it now.
    Worker,
}

impl From<ServerError> for Trouble {
    fn from(error: ServerError) -> Trouble {
        Trouble::Server(error)
    }
}

impl From<NotNow> for Trouble {
    fn from(reason: NotNow) -> Trouble {
        match reason {
            NotNow::Away => Trouble::Worker,
            NotNow::Forbidden(error) => Trouble::Server(error),
        }
    }
}

/// Makes kind and options of the target's collection those of the source's. `documents`: whether they may go for it.
pub(crate) async fn options(
    target: &Side,
    ns: &Namespace,
    here: &Collection,
    there: Option<&Collection>,
    shared: &Shared,
    documents: Documents,
) -> Result<(), Trouble> {
    let Some(there) = there else {
        return match shared.make_anew(ns, documents).await? {
            Made::Refused(why) => Err(Trouble::Held(format!("the target refuses its options: {why}"))),
            Made::Anew | Made::HasDocuments => Ok(()),
        };
    };
    let (wanted, has) = (fields(&here.options), fields(&there.options));
    let fixed_differ =
        FIXED.iter().any(|name| wanted.get(*name) != has.get(*name)) || measures_others(here, there);
    if here.kind != there.kind || fixed_differ {
        // A view has no documents; the worker looks whether a collection has any.
        return match shared.make_anew(ns, documents).await? {
            Made::Anew => Ok(()),
            Made::Refused(why) => Err(Trouble::Held(format!("the target refuses its options: {why}"))),
            Made::HasDocuments => Err(Trouble::Held(format!(
                "the target's {} has another kind, collation or clustering than the source's {}, and documents: \
                 drop or rename it on the target, or empty it",
                there.kind, here.kind
            ))),
        };
    }
    let changes = [collection_change(ns, here, &wanted, &has), bounds(ns, here, there)];
    for change in changes.into_iter().flatten() {
        target.change(ns.db(), change).await?;
        info!(%ns, "the target's options were changed to the source's");
    }
    Ok(())
}

/// The `collMod` that makes the changeable options equal; `None` when they are.
fn collection_change(
    ns: &Namespace,
    here: &Collection,
    wanted: &BTreeMap<String, RawBson>,
    has: &BTreeMap<String, RawBson>,
) -> Option<RawDocumentBuf> {
    if here.kind == "view" {
        let same = ["viewOn", "pipeline"].iter().all(|name| wanted.get(*name) == has.get(*name));
        let mut change = rawdoc! {"collMod": ns.coll()};
        for name in [cstr!("viewOn"), cstr!("pipeline")] {
            change.append(name, wanted.get(name.as_str())?.clone());
        }
        return (!same).then_some(change);
    }
    let defaults = [
        (cstr!("validator"), RawBson::Document(RawDocumentBuf::new())),
        (cstr!("validationLevel"), RawBson::String("strict".to_owned())),
        (cstr!("validationAction"), RawBson::String("error".to_owned())),
        (cstr!("changeStreamPreAndPostImages"), RawBson::Document(rawdoc! {"enabled": false})),
    ];
    let mut change = rawdoc! {"collMod": ns.coll()};
    let mut differs = false;
    for (name, default) in defaults {
        let value = wanted.get(name.as_str()).unwrap_or(&default);
        if value != has.get(name.as_str()).unwrap_or(&default) {
            change.append(name, value.clone());
            differs = true;
        }
    }
    differs.then_some(change)
}

/// The `collMod` that gives the target the source's bounds: size and number of a capped collection (from 6.0 on), or how
/// long and how coarsely a time-series collection keeps measurements.
fn bounds(ns: &Namespace, here: &Collection, there: &Collection) -> Option<RawDocumentBuf> {
    let value = |of: &Collection, name: &str| of.options.get(name).ok().flatten().map(RawBson::from);
    let mut change = rawdoc! {"collMod": ns.coll()};
    let mut differs = false;
    let capped = [(cstr!("cappedSize"), "size"), (cstr!("cappedMax"), "max")];
    for (option, name) in capped.into_iter().filter(|_| here.is_capped()) {
        if value(here, name) != value(there, name) {
            change.append(option, value(here, name).unwrap_or(RawBson::Int64(0)));
            differs = true;
        }
    }
    if here.kind == "timeseries" {
        if value(here, EXPIRY) != value(there, EXPIRY) {
            let off = || RawBson::String("off".to_owned());
            change.append(cstr!("expireAfterSeconds"), value(here, EXPIRY).unwrap_or_else(off));
            differs = true;
        }
        let granularity = |of: &Collection| {
            let of = of.options.get_document("timeseries").ok()?;
            of.get_str("granularity").ok().map(ToOwned::to_owned)
        };
        if let (Some(granularity), true) = (granularity(here), granularity(here) != granularity(there)) {
            change.append(cstr!("timeseries"), rawdoc! {"granularity": granularity});
            differs = true;
        }
    }
    differs.then_some(change)
}

/// Whether the measurements' fields are others, which no `collMod` can change.
fn measures_others(here: &Collection, there: &Collection) -> bool {
    let field = |of: &Collection, name: &str| {
        let of = of.options.get_document("timeseries").ok()?;
        of.get_str(name).ok().map(ToOwned::to_owned)
    };
    ["timeField", "metaField"].iter().any(|name| field(here, name) != field(there, name))
}

/// Drops the target's indexes that the source does not have, or not so.
pub(crate) async fn drop_indexes(source: &Side, target: &Side, ns: &Namespace) -> Result<(), ServerError> {
    for name in unwanted(&source.indexes(ns).await?, &target.indexes(ns).await?) {
        target.change(ns.db(), rawdoc! {"dropIndexes": ns.coll(), "index": name.as_str()}).await?;
        info!(%ns, index = name, "an index that the source does not have was dropped on the target");
    }
    Ok(())
}

/// Creates the indexes that are missing on the target.
pub(crate) async fn create_indexes(source: &Side, target: &Side, ns: &Namespace) -> Result<(), ServerError> {
    let has = by_name(&target.indexes(ns).await?);
    let mut refused = None;
    for (name, spec) in by_name(&source.indexes(ns).await?) {
        if has.contains_key(&name) {
            continue;
        }
        match create(target, ns, &spec).await {
            Ok(()) => info!(%ns, index = name, "an index of the source was created on the target"),
            // The others all the same.
            Err(error) if error.class == Class::Refused => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    refused.map_or(Ok(()), Err)
}

/// Notes on the target what expires on the source.
pub(crate) async fn note_expiry(
    target: &Side,
    ns: &Namespace,
    expiry: Option<&Expiry>,
) -> Result<(), ServerError> {
    let (db, command) = Expiry::command(ns, expiry)?;
    target.change(db, command).await
}

async fn create(target: &Side, ns: &Namespace, spec: &RawDocumentBuf) -> Result<(), ServerError> {
    let mut without_expiry = RawDocumentBuf::new();
    for field in spec {
        let (field, value) = field.map_err(|error| ServerError::from_code(9, &error.to_string()))?;
        if !["v", "ns", "background", EXPIRY].contains(&field.as_str()) {
            without_expiry.append(field, value);
        }
    }
    let mut list = RawArrayBuf::new();
    list.push(without_expiry);
    let mut command = rawdoc! {"createIndexes": ns.coll()};
    command.append(cstr!("indexes"), list);
    target.change(ns.db(), command).await
}

/// What only a new collection can have.
const FIXED: [&str; 3] = ["collation", "clusteredIndex", "capped"];
