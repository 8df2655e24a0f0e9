//! The variables of the Node.js original, and what they mean here.

use std::path::Path;

use super::kinds::{Text, truth};

/// One old variable.
pub(super) struct OldName {
    pub(super) name: &'static str,
    /// The key it sets.
    pub(super) key: &'static str,
    /// What it is allowed to be; follows "must be".
    pub(super) allowed: &'static str,
    pub(super) read: fn(&str) -> Meaning,
}

/// What the value of an old variable means for its key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Is(Text),
    /// It leaves the key as it is.
    Nothing,
    /// It is not allowed.
    Wrong,
}

/// All of them.
pub(super) const OLD_NAMES: &[OldName] = &[
    OldName { name: "MONGODB_LOCAL_URI", key: "local.uri", allowed: "a connection string", read: same },
    OldName { name: "MONGODB_URI", key: "local.uri", allowed: "a connection string", read: same },
    OldName { name: "MONGODB_ATLAS_URI", key: "atlas.uri", allowed: "a connection string", read: same },
    OldName {
        name: "SYNC_ENABLED",
        key: "sync.enabled",
        allowed: "true or false",
        read: |text| truth(text).map_or(Meaning::Wrong, |on| is(on.to_string())),
    },
    OldName {
        name: "SYNC_EXCLUDED_COLLECTIONS",
        key: "sync.exclude",
        allowed: "names of collections with commas between them; each is left out in every database",
        read: excluded_collections,
    },
    OldName {
        name: "SYNC_MAX_RETRIES",
        key: "sync.max_retries",
        allowed: "a whole number from 1 to 10",
        read: |text| number(text, 1, 10, ""),
    },
    OldName {
        name: "SYNC_BATCH_SIZE",
        key: "sync.batch_entries_max",
        allowed: "a whole number from 1 to 1000",
        read: |text| number(text, 1, 1000, ""),
    },
    OldName {
        name: "SYNC_WORKER_INTERVAL",
        key: "sync.idle_wait",
        allowed: "a whole number of milliseconds from 10 to 5000",
        read: |text| number(text, 10, 5000, "ms"),
    },
    OldName {
        name: "SYNC_QUEUE_WARNING_THRESHOLD",
        key: "sync.queue_warning",
        allowed: "a whole number from 1 to 1000000000000",
        read: |text| number(text, 1, 1_000_000_000_000, ""),
    },
    OldName {
        name: "SYNC_LAG_WARNING_THRESHOLD",
        key: "sync.lag_warning",
        allowed: "a whole number of milliseconds from 1 to 2592000000",
        read: |text| number(text, 1, 2_592_000_000, "ms"),
    },
    OldName {
        name: "SYNC_QUEUE_MAX_SIZE",
        key: "log.max_entries",
        allowed: "a whole number from 100 to 1000000000000",
        read: |text| number(text, 100, 1_000_000_000_000, ""),
    },
    OldName {
        name: "SYNC_QUEUE_PATH",
        key: "log.dir",
        allowed: "the path of a file; its folder becomes the log's",
        read: |text| is(folder_of(text)),
    },
    OldName {
        name: "SYNC_PERSIST_QUEUE",
        key: "log.durability",
        allowed: "true or false; false means process",
        read: |text| match truth(text) {
            Some(true) => Meaning::Nothing,
            Some(false) => is("process".to_owned()),
            None => Meaning::Wrong,
        },
    },
];

fn is(text: String) -> Meaning {
    Meaning::Is(Text::One(text))
}

fn same(text: &str) -> Meaning {
    is(text.to_owned())
}

fn number(text: &str, least: u64, most: u64, unit: &str) -> Meaning {
    match text.parse::<u64>() {
        Ok(value) if (least..=most).contains(&value) => is(format!("{value}{unit}")),
        _ => Meaning::Wrong,
    }
}

/// The original knew one database, so its names are collections. One with a dot may also be meant as
/// `db.collection`; both are left out then, for what was to stay at home must not leave.
fn excluded_collections(text: &str) -> Meaning {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let patterns = names.flat_map(|name| {
        let anywhere = Some(format!("*.{name}"));
        let qualified = name.contains('.').then(|| name.to_owned());
        anywhere.into_iter().chain(qualified)
    });
    Meaning::Is(Text::Many(patterns.collect()))
}

fn folder_of(file: &str) -> String {
    match Path::new(file).parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_string_lossy().into_owned(),
        _ => ".".to_owned(),
    }
}
