//! Every key: what it means, its default, what is allowed. `proxy.toml` and the reference page are made from this.
//!
//! A doc line is the key's description everywhere. A default is what one would write in `proxy.toml`; an empty one
//! means that nothing is set.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use capture::Pattern;
use proxy::Address;
use replicator::Drops;
use tracing::level_filters::LevelFilter;

use super::kinds::{
    Listen, address, bearer_token, bytes, choice, connection_string, count, duration, file, flag, folder,
    host_and_port, listen, listeners, log_id, mode, patterns, percent, servers,
};
use super::read::Reader;
use super::secret::{Secret, Uri};

/// Makes, from one description of each section: its struct, its reading, and the lists of keys.
macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])*
        $Section:ident = $section:literal {
            $( $(#[doc = $doc:literal])* $field:ident: $type:ty = $default:literal, $kind:expr; )*
        }
    )*) => {
        $(
            $(#[doc = $section_doc])*
            #[derive(Debug, Clone, PartialEq)]
            pub(crate) struct $Section {
                $( $(#[doc = $doc])* pub(crate) $field: $type, )*
            }

            impl $Section {
                /// `None` only if a default is wrong, which a test rules out.
                pub(super) fn read(reader: &mut Reader) -> Option<$Section> {
                    $( let $field = reader.take(concat!($section, ".", stringify!($field)), $default, &$kind); )*
                    Some($Section { $( $field: $field?, )* })
                }
            }
        )*

        /// Sections and their keys, in the order of the page.
        pub(super) const SECTIONS: &[(&str, &[&str])] = &[$( ($section, &[$( stringify!($field), )*]), )*];

        /// Sections with their description, and their keys with everything about them.
        #[cfg(test)]
        pub(super) fn reference() -> Vec<(&'static str, String, Vec<super::reference::Entry>)> {
            vec![$( (
                $section,
                [$($section_doc),*].concat(),
                vec![$( {
                    let kind: super::kinds::Kind<$type> = $kind;
                    super::reference::Entry {
                        name: stringify!($field),
                        default: (kind.shown)(&super::kinds::Text::One($default.to_owned())),
                        allowed: kind.allowed,
                        doc: [$($doc),*].concat(),
                    }
                }, )*],
            ), )*]
        }
    };
}

settings! {
    /// The port that the application connects to, in front of the local mongod.
    ProxyConfig = "proxy" {
        /// Where to listen: address and port, or a Unix socket. Port 0 takes a free one.
        listen: Listen = "127.0.0.1:27018", listen();
        /// Who may connect to a Unix socket: the mode of its file.
        socket_mode: u32 = "0700", mode();
        /// Host and port that clients are told to dial, when the local mongod is a member of a replica set.
        /// Empty: the address that the client has dialled.
        advertise: Option<String> = "", host_and_port().optional();
        /// Client connections at a time. Each has a connection to mongod and uses two file descriptors.
        connections_max: usize = "10000", count(1, 1_000_000);
        /// Certificate that clients are shown, with those between it and its CA, as PEM; with it the port takes TLS
        /// 1.2 and 1.3 only. Read again on SIGHUP. Empty: no TLS.
        tls_cert_file: Option<PathBuf> = "", file().optional();
        /// Its key as PEM, not encrypted. Empty: it stands in tls_cert_file.
        tls_key_file: Option<PathBuf> = "", file().optional();
        /// CAs as PEM: only clients with a certificate of theirs are let in. Empty: clients need none.
        tls_client_ca_file: Option<PathBuf> = "", file().optional();
        /// Time that a client has for its TLS handshake and its first request.
        handshake_timeout: Duration = "10s", duration("100ms", "10m");
        /// Time in which a client must go on by 4 KiB with a request that it has begun, or end it; 0s: any.
        frame_timeout: Duration = "60s", duration("0s", "1h");
        /// Time that a client may be silent while nothing is owed to it; 0s: any, as with mongod.
        idle_timeout: Duration = "0s", duration("0s", "30d");
        /// Time that open connections get at shutdown, to reach a point where no reply is owed.
        drain_timeout: Duration = "10s", duration("0s", "10m");
        /// Memory, over all connections, for requests and replies that must be seen whole, and for what is made of
        /// them. Who finds no room waits; what alone is too much passes unseen, and its namespace is compared later.
        held_bytes_max: u64 = "256MiB", bytes("1MiB", "64GiB");
        /// Listen beyond loopback although the local mongod takes commands without authentication.
        allow_unauthenticated_remote: bool = "false", flag();
        /// One listener for each member of the local replica set, instead of listen and advertise. Clients are led to
        /// the member that is primary, as without the proxy; members without a listener are hidden from them.
        listeners: Vec<ListenerConfig> = "", listeners();
    }

    /// The local mongod, the source.
    LocalConfig = "local" {
        /// The one server that the proxy forwards to; with proxy.listeners, the replica set of which dualsync reads
        /// the primary. User, password and tlsCertificateKeyFile serve only dualsync's own reads; the other options for
        /// TLS (tls, tlsCAFile, tlsAllowInvalidCertificates) count for all connections.
        uri: Uri = "mongodb://localhost:27017/", servers();
        /// Certificate with its key, as PEM, that mongod is shown for clients' connections, where it asks for one. It
        /// should be no user of mongod: every client could log in as that one. Empty: none is shown.
        clients_cert_key_file: Option<PathBuf> = "", file().optional();
    }

    /// The remote cluster, the target.
    AtlasConfig = "atlas" {
        /// Its connection string; belongs into the environment (MONGODB_ATLAS_URI) or into a file
        /// (DUALSYNC_ATLAS_URI_FILE), for its password's sake. Empty: nothing is replicated.
        uri: Option<Uri> = "", connection_string().optional();
    }

    /// What is replicated, and how eagerly.
    SyncConfig = "sync" {
        /// Whether writes are captured and replicated; auto: when atlas.uri is set.
        enabled: Enabled = "auto", choice(ENABLED);
        /// Take capture out of the way: writes pass unseen, and everything is compared once they are captured again. For
        /// trouble with capture itself; POST /api/sync/capture/control does the same without a restart.
        bypass: bool = "false", flag();
        /// Let several dualsyncs, in front of one source and all of them told so, feed one target. Each then copies
        /// documents instead of sending statements again, which is slower.
        join: bool = "false", flag();
        /// Take the place of the log with this id, which feeds the target and is gone for good; where this log.dir is
        /// an older copy, its own id. Everything is compared then. The log line that asks for it names the id.
        take_over: Option<String> = "", log_id().optional();
        /// Namespaces to replicate.
        include: Vec<Pattern> = "*", patterns();
        /// Namespaces to leave out, also when they are included.
        exclude: Vec<Pattern> = "", patterns();
        /// What becomes of a collection on Atlas that was dropped, or renamed away, here. replicate: it goes as well;
        /// hold: it stays until POST /api/sync/deletes/confirm; ignore: it stays.
        drops: Drops = "replicate", choice(DROPS);
        /// Tries of a write that the target refuses, before it goes to the dead letters. While the target is
        /// away, nothing is given up.
        max_retries: u32 = "5", count(1, 10);
        /// Commands under way to the target at a time, at most.
        lanes: usize = "8", count(1, 64);
        /// Entries in one batch to the target, at most: as many as it takes in about a second, fewer after a failure.
        batch_entries_max: usize = "50000", count(1, 100_000);
        /// Entries that are applied in a second, at most; 0: as many as the target takes.
        rate_max: u64 = "0", count(0, 10_000_000);
        /// Longest wait for new entries before looking again.
        idle_wait: Duration = "100ms", duration("10ms", "5000ms");
        /// Between two looks for documents that have expired on the source (TTL indexes): on Atlas nothing expires by
        /// itself, so that nothing is lost there that the application has renewed.
        expiry_interval: Duration = "60s", duration("100ms", "1d");
        /// Between two looks for writes that went past dualsync, to mongod's own port: their collections are compared.
        past_interval: Duration = "10s", duration("100ms", "1d");
        /// Documents that are compared in a second, at most, to make dirty collections good. 0: none are compared,
        /// and what is dirty stays so.
        compare_rate_max: u64 = "50000", count(0, 10_000_000);
        /// Waiting entries from which health warns.
        queue_warning: u64 = "5000", count(1, ENTRIES_MOST);
        /// Age of the oldest waiting entry from which health warns.
        lag_warning: Duration = "60s", duration("1ms", "30d");
        /// Share of entries refused by the target from which health warns.
        failure_rate_warning: f64 = "5%", percent();
    }

    /// The sync log: what is captured and not yet replicated, on disk.
    LogConfig = "log" {
        /// Its folder, readable by nobody else; made when it is not there.
        dir: PathBuf = "./data/dualsync-log", folder();
        /// What a crash of the host may cost. process: what the kernel had not written; journal: at most 100 ms,
        /// as with mongod's own journal, and nothing of writes that ask for j or majority; strict: nothing.
        durability: Durability = "journal", choice(DURABILITY);
        /// Size of one file of the log; less where log.max_bytes, or the disk, has no room for eight of them.
        segment_bytes_max: u64 = "64MiB", bytes("64KiB", "16GiB");
        /// Size of the log from which it is full. From 80 % on health warns, from 90 % on entries keep what was
        /// touched and no statements, at 100 % writes are not recorded and their collections become dirty. The
        /// application goes on at every level, and the level falls as Atlas catches up.
        max_bytes: u64 = "16GiB", bytes("1MiB", "1024TiB");
        /// Waiting entries from which it is full; likewise.
        max_entries: u64 = "100000000", count(100, ENTRIES_MOST);
        /// Space on its disk that is left to others: what is free beyond it is the log's; likewise.
        min_free_bytes: u64 = "1GiB", bytes("0", "1024TiB");
    }

    /// The sidecar HTTP port: health, metrics, reports, orders.
    AdminConfig = "admin" {
        /// Address and port to listen on. Beyond loopback it needs a token. Port 0 takes a free one.
        listen: SocketAddr = "127.0.0.1:27080", address();
        /// The token that may do everything; belongs into the environment (DUALSYNC_ADMIN_TOKEN) or a file
        /// (DUALSYNC_ADMIN_TOKEN_FILE).
        token: Option<Secret> = "", bearer_token().optional();
        /// A token that may only read; likewise (DUALSYNC_ADMIN_READ_TOKEN).
        read_token: Option<Secret> = "", bearer_token().optional();
    }

    /// What dualsync says about itself, on standard error.
    TelemetryConfig = "telemetry" {
        /// Lines for people or for machines.
        format: LogFormat = "text", choice(LOG_FORMAT);
        /// The least important level that is written.
        level: LevelFilter = "info", choice(LEVEL);
    }
}

/// A listener that leads to one member of a replica set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListenerConfig {
    /// Not port 0.
    pub(crate) listen: SocketAddr,
    /// As the set's configuration names it; it is dialled under this name as well.
    pub(crate) member: Address,
    /// What clients are told to dial.
    pub(crate) advertise: Option<String>,
}

/// Whether syncing is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enabled {
    /// When there is a target.
    Auto,
    /// Yes; a target must be given.
    On,
    /// No: the proxy only forwards.
    Off,
}

/// What a crash of the host may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Survives the end of the process only.
    Process,
    /// As mongod's journal.
    Journal,
    /// Every acknowledgement waits for the disk.
    Strict,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Far beyond any disk, and easy to read.
const ENTRIES_MOST: u64 = 1_000_000_000_000;
const ENABLED: &[(&str, Enabled)] =
    &[("auto", Enabled::Auto), ("true", Enabled::On), ("false", Enabled::Off)];
const DURABILITY: &[(&str, Durability)] =
    &[("process", Durability::Process), ("journal", Durability::Journal), ("strict", Durability::Strict)];
const DROPS: &[(&str, Drops)] =
    &[("replicate", Drops::Replicate), ("hold", Drops::Hold), ("ignore", Drops::Ignore)];
const LOG_FORMAT: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
const LEVEL: &[(&str, LevelFilter)] = &[
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];
