//! Precedence, complaints, old names, masking.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::read::Origin;
use super::settings::{LogFormat, SECTIONS};
use super::*;

/// A working directory with these files.
struct Place(PathBuf);

impl Place {
    fn new(name: &str, files: &[(&str, &str)]) -> Place {
        let directory = std::env::temp_dir().join(format!("dualsync-config-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        for (file, text) in files {
            std::fs::write(directory.join(file), text).unwrap();
        }
        Place(directory)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn load(variables: &[(&str, &str)]) -> Result<Config, Complaints> {
    let nowhere = PathBuf::from("/nonexistent");
    Config::load(&Inputs { environment: environment(variables), directory: nowhere, ..Inputs::default() })
}

fn load_in(place: &Place, variables: &[(&str, &str)]) -> Result<Config, Complaints> {
    Config::load(&Inputs {
        environment: environment(variables),
        directory: place.0.clone(),
        ..Inputs::default()
    })
}

/// The complaints, one a line, without the head line.
fn complaints(loaded: Result<Config, Complaints>) -> Vec<String> {
    match loaded {
        Ok(config) => panic!("no complaint: {config}"),
        Err(complaints) => {
            complaints.to_string().lines().skip(1).map(|line| line.trim().to_owned()).collect()
        }
    }
}

fn captures(config: &Config, database: &str, collection: &str) -> bool {
    let (include, exclude) = (config.sync.include.clone(), config.sync.exclude.clone());
    capture::Config { include, exclude, ..capture::Config::default() }.captures(database, collection)
}

#[test]
fn defaults_are_sound() {
    let config = load(&[]).unwrap();
    assert_eq!(config.proxy.listen.to_string(), "127.0.0.1:27018");
    assert_eq!(config.proxy.held_bytes_max, 256 << 20);
    assert_eq!(config.local.uri.expose(), "mongodb://localhost:27017/");
    assert_eq!((config.sync.idle_wait, config.sync.max_retries), (Duration::from_millis(100), 5));
    assert!((config.sync.failure_rate_warning - 0.05).abs() < 1e-9);
    assert!(captures(&config, "shop", "orders") && !config.sync_enabled());
    assert_eq!(config.warnings.len(), 1, "only the missing token: {:?}", config.warnings);
    let keys: usize = SECTIONS.iter().map(|(_, keys)| keys.len()).sum();
    assert_eq!(config.settings.len(), keys);
}

#[test]
fn the_shipped_file_is_the_defaults() {
    let inputs = Inputs {
        config: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/proxy.toml").into()),
        directory: "/nonexistent".into(),
        ..Inputs::default()
    };
    let (shipped, default) = (Config::load(&inputs).unwrap(), load(&[]).unwrap());
    let values = |config: &Config| -> Vec<(&str, String)> {
        config.settings.iter().map(|setting| (setting.key, setting.value.clone())).collect()
    };
    assert_eq!(values(&shipped), values(&default));
    // Listeners are tables, which an empty list would stand in the way of.
    let from_file =
        |setting: &Setting| matches!(setting.origin, Origin::File(_)) || setting.key == "proxy.listeners";
    assert!(shipped.settings.iter().all(from_file), "every key stands in the file");
}

#[test]
fn later_sources_count_more() {
    let place = Place::new(
        "order",
        &[
            (
                "proxy.toml",
                "[proxy]\nlisten = \"127.0.0.1:1\"\n[sync]\nmax_retries = 1\nqueue_warning = 1\nidle_wait = \"1s\"\n",
            ),
            (
                ".env",
                "DUALSYNC_PROXY_LISTEN=127.0.0.1:2\nSYNC_MAX_RETRIES=2\nDUALSYNC_SYNC_QUEUE_WARNING=2\n",
            ),
        ],
    );
    let variables = environment(&[
        ("DUALSYNC_PROXY_LISTEN", "127.0.0.1:3"),
        ("SYNC_MAX_RETRIES", "3"),
        ("DUALSYNC_SYNC_IDLE_WAIT", ""),
    ]);
    let flags = vec![("proxy.listen", "--listen", "127.0.0.1:4".to_owned())];
    let inputs = Inputs { flags, environment: variables, directory: place.0.clone(), config: None };
    let config = Config::load(&inputs).unwrap();
    let listen = config.proxy.listen.to_string();
    assert_eq!((listen.as_str(), config.sync.max_retries, config.sync.queue_warning), ("127.0.0.1:4", 3, 2));
    assert_eq!(config.sync.idle_wait, Duration::from_secs(1), "an empty variable counts as not set");
    let shown = config.to_string();
    for line in [
        "listen = \"127.0.0.1:4\"                           # --listen",
        "max_retries = 3                                   # SYNC_MAX_RETRIES in the environment",
        "queue_warning = 2                                 # DUALSYNC_SYNC_QUEUE_WARNING in .env",
        "idle_wait = \"1s\"                                 # proxy.toml",
        "batch_entries_max = 50000",
    ] {
        assert!(shown.lines().any(|it| it.split_whitespace().eq(line.split_whitespace())), "{line}\n{shown}");
    }
}

#[test]
fn all_complaints_come_at_once() {
    let place = Place::new(
        "complaints",
        &[(
            "bad.toml",
            "[proxy]\nlisten = \"localhost\"\nlisen = 1\n[sync]\nmax_retries = 50\ninclude = [\"shop\", \".x\"]\nidle_wait = 100\n\
         [log]\nmax_bytes = [\"1GiB\"]\nmax_entries = { a = 1 }\n[nonsense]\nx = 1\n[admin]\nlisten = \"0.0.0.0:80\"\n",
        )],
    );
    let variables =
        environment(&[("SYNC_BATCH_SIZE", "5000"), ("SYNC_ENABLED", "true"), ("MONGODB_ATLAS_URI", "")]);
    let config = Some(PathBuf::from("bad.toml"));
    let inputs = Inputs { environment: variables, config, directory: place.0.clone(), ..Inputs::default() };
    let mut found = complaints(Config::load(&inputs));
    let mut expected = [
        "bad.toml: proxy.lisen is not known; [proxy] has: listen, socket_mode, advertise, connections_max, \
         tls_cert_file, tls_key_file, tls_client_ca_file, handshake_timeout, frame_timeout, idle_timeout, \
         drain_timeout, held_bytes_max, allow_unauthenticated_remote, listeners",
        "bad.toml: nonsense is not known; there are: proxy, local, atlas, sync, log, admin, telemetry",
        "bad.toml: log.max_entries must be a text, a number, true, false or a list of texts",
        "proxy.listen = \"localhost\" (bad.toml): must be an IP address and a port, such as 127.0.0.1:27018 or \
         [::1]:27018, or the path of a Unix socket, such as unix:/run/dualsync.sock",
        "sync.max_retries = 50 (bad.toml): must be a whole number from 1 to 10",
        "sync.include = [\"shop\", \".x\"] (bad.toml): must be a list of db, db.collection or patterns with *, such as \
         [\"shop\", \"*.sessions\"]: \".x\" is none",
        "sync.idle_wait = 100 (bad.toml): must be a time from 10ms to 5000ms (units: ms, s, m, h, d)",
        "sync.batch_entries_max = \"5000\" (SYNC_BATCH_SIZE in the environment): must be a whole number from 1 to 1000",
        "log.max_bytes = [\"1GiB\"] (bad.toml): must be a size from 1MiB to 1024TiB (units: KiB, MiB, GiB, TiB, KB, MB, \
         GB, TB; none: bytes): it is a list",
        "admin.listen = \"0.0.0.0:80\" (bad.toml): is reachable from other hosts, which needs a token: set \
         DUALSYNC_ADMIN_TOKEN, or listen on 127.0.0.1",
        "sync.enabled = true (SYNC_ENABLED in the environment): needs a target: set MONGODB_ATLAS_URI, or switch \
         syncing off",
    ];
    found.sort();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn one_wrong_variable_is_one_complaint() {
    for (variables, expected) in [
        (&[("DUALSYNC_PROXY_CONNECTIONS_MAX", "0")][..], "must be a whole number from 1 to 1000000"),
        (&[("DUALSYNC_PROXY_ADVERTISE", "host")], "must be a host and a port, such as db.internal:27018"),
        (&[("DUALSYNC_PROXY_DRAIN_TIMEOUT", "1h")], "must be a time from 0s to 10m"),
        (&[("DUALSYNC_PROXY_ALLOW_UNAUTHENTICATED_REMOTE", "yes")], "must be true or false"),
        (&[("DUALSYNC_LOG_DURABILITY", "none")], "must be one of process, journal, strict"),
        (&[("DUALSYNC_SYNC_FAILURE_RATE_WARNING", "5")], "must be a percentage from 0% to 100%"),
        (
            &[("DUALSYNC_ADMIN_TOKEN", "two words")],
            "admin.token = \"***\" (DUALSYNC_ADMIN_TOKEN in the environment): must be printable",
        ),
        (&[("DUALSYNC_TELEMETRY_LEVEL", "loud")], "must be one of off, error, warn, info, debug, trace"),
        (
            &[("MONGODB_URI", "localhost:27017")],
            "local.uri = \"***\" (MONGODB_URI in the environment): must be a connection string that names its servers: mongodb://host:port/ or mongodb://%2Ftmp%2Fmongodb-27017.sock: connection string contains no scheme",
        ),
        (
            &[("MONGODB_URI", "mongodb+srv://cluster.example.com")],
            "must be a connection string that names its servers: mongodb://host:port/ or mongodb://%2Ftmp%2Fmongodb-27017.sock: it names none",
        ),
        (&[("MONGODB_URI", "mongodb://a,b")], "names several servers, and proxy.listen leads to one server"),
        (&[("MONGODB_URI", "mongodb://127.0.0.1:27018/shop")], "is dualsync's own address (proxy.listen)"),
        (&[("MONGODB_ATLAS_URI", "mongodb://127.0.0.1")], "is the local server (local.uri)"),
        (&[("MONGODB_ATLAS_URI", "mongodb://localhost:27018")], "is dualsync's own address (proxy.listen)"),
        (&[("DUALSYNC_ADMIN_LISTEN", "127.0.0.1:27018")], "is the proxy's own address (proxy.listen)"),
        (
            &[
                ("DUALSYNC_ADMIN_TOKEN", "same-same-same-same"),
                ("DUALSYNC_ADMIN_READ_TOKEN", "same-same-same-same"),
            ],
            "is the same as admin.token",
        ),
        (
            &[("DUALSYNC_ADMIN_TOKEN_FILE", "/nonexistent/token")],
            "DUALSYNC_ADMIN_TOKEN_FILE: the file /nonexistent/token cannot be read",
        ),
        (
            &[("DUALSYNC_ADMIN_TOKEN_FILE", "/dev/null")],
            "DUALSYNC_ADMIN_TOKEN_FILE: the file /dev/null is empty",
        ),
        (
            &[("SYNC_ENABLED", "maybe")],
            "sync.enabled = \"maybe\" (SYNC_ENABLED in the environment): must be true or false",
        ),
        (&[("SYNC_MAX_RETRIES", "11")], "must be a whole number from 1 to 10"),
        (&[("SYNC_WORKER_INTERVAL", "9")], "must be a whole number of milliseconds from 10 to 5000"),
        (
            &[("SYNC_QUEUE_MAX_SIZE", "99")],
            "log.max_entries = \"99\" (SYNC_QUEUE_MAX_SIZE in the environment): must be a whole number from 100 to 1000000000000",
        ),
        (&[("SYNC_PERSIST_QUEUE", "no")], "must be true or false; false means process"),
    ] {
        let found = complaints(load(variables));
        assert!(found.len() == 1 && found[0].contains(expected), "{variables:?}: {found:#?}");
    }
}

#[test]
fn listeners_are_tables_or_a_variable() {
    let file = "[proxy]\nconnections_max = 7\n\n[[proxy.listeners]]\nlisten = \"127.0.0.1:1\"\nmember = \"DB1\"\n\n\
                [[proxy.listeners]]\nlisten = \"[::]:2\"\nmember = \"[::1]:5\"\nadvertise = \"p.example:2\"\n\n\
                [local]\nuri = \"mongodb://db1,db2/?replicaSet=rs\"\n";
    let place = Place::new("listeners", &[("proxy.toml", file)]);
    let variable = "listen=127.0.0.1:1 member=db1:27017, listen=[::]:2 member=[0::1]:5 advertise=p.example:2";
    let from_file = load_in(&place, &[]).unwrap();
    let from_variable =
        load(&[("DUALSYNC_PROXY_LISTENERS", variable), ("MONGODB_LOCAL_URI", "mongodb://db1,db2/")]).unwrap();
    for config in [from_file, from_variable] {
        let shown: Vec<String> = config
            .proxy
            .listeners
            .iter()
            .map(|it| format!("{} {} {:?}", it.listen, it.member, it.advertise))
            .collect();
        assert_eq!(shown, ["127.0.0.1:1 db1:27017 None", "[::]:2 [::1]:5 Some(\"p.example:2\")"]);
        let listens: Vec<String> = config.listens().iter().map(ToString::to_string).collect();
        assert_eq!(listens, ["127.0.0.1:1", "[::]:2"]);
    }
}

#[test]
fn listeners_that_cannot_work_are_refused() {
    let two = "listen=127.0.0.1:1 member=a, listen=127.0.0.1:2 member=b";
    for (listeners, more, expected) in [
        ("listen=127.0.0.1:1", None, "\"listen=127.0.0.1:1\" lacks member"),
        ("member=a", None, "\"member=a\" lacks listen"),
        ("listen=127.0.0.1:0 member=a", None, "listen = \"127.0.0.1:0\" is none"),
        ("listen=localhost:1 member=a", None, "listen = \"localhost:1\" is none"),
        ("listen=127.0.0.1:1 member=a:x", None, "member = \"a:x\" is none"),
        ("listen=127.0.0.1:1 member=a advertise=b", None, "advertise = \"b\" is none"),
        ("lisen=127.0.0.1:1", None, "lisen is not known; there are: listen, member, advertise"),
        ("127.0.0.1:1", None, "\"127.0.0.1:1\" is no key=value"),
        ("listen=127.0.0.1:1 member=a, listen=127.0.0.1:2 member=A:27017", None, "twice"),
        ("listen=127.0.0.1:1 member=a, listen=127.0.0.1:1 member=b", None, "twice"),
        (
            "listen=127.0.0.1:1 member=a advertise=p:1, listen=127.0.0.1:2 member=b advertise=p:1",
            None,
            "twice",
        ),
        ("listen=127.0.0.1:1 member=localhost:1", None, "one of dualsync's own addresses"),
        (two, Some(("DUALSYNC_PROXY_LISTEN", "127.0.0.1:5")), "does not go together with proxy.listeners"),
        (two, Some(("DUALSYNC_PROXY_ADVERTISE", "p:5")), "does not go together with proxy.listeners"),
        (two, Some(("DUALSYNC_ADMIN_LISTEN", "127.0.0.1:2")), "is the proxy's own address"),
        (
            two,
            Some(("MONGODB_LOCAL_URI", "mongodb://a/?directConnection=true")),
            "will not always be the primary",
        ),
        (two, Some(("MONGODB_LOCAL_URI", "mongodb://a,127.0.0.1:2/")), "is dualsync's own address"),
    ] {
        let variables: Vec<_> = [("DUALSYNC_PROXY_LISTENERS", listeners)].into_iter().chain(more).collect();
        let found = complaints(load(&variables));
        assert!(found.len() == 1 && found[0].contains(expected), "{variables:?}: {found:#?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_complaint_without_its_lines() {
    let place = Place::new("unreadable", &[("proxy.toml", "[admin]\n\ntoken = \"hunter2\n")]);
    let found = complaints(load_in(&place, &[]));
    assert!(found.len() == 1 && found[0].starts_with("proxy.toml: line 3 is not TOML"), "{found:?}");
    assert!(!found[0].contains("hunter2"), "{found:?}");
    let inputs = Inputs { config: Some("gone.toml".into()), directory: place.0.clone(), ..Inputs::default() };
    let found = complaints(Config::load(&inputs));
    assert!(found.len() == 1 && found[0].starts_with("gone.toml: cannot be read"), "{found:?}");
}

#[test]
fn old_names_mean_what_they_meant() {
    let config = load(&[
        ("SYNC_ENABLED", "true"),
        ("MONGODB_URI", "mongodb://db:1/shop"),
        ("MONGODB_ATLAS_URI", "mongodb+srv://user:hunter2@cluster.example.com/shop"),
        ("SYNC_QUEUE_MAX_SIZE", "20000"),
        ("SYNC_WORKER_INTERVAL", "50"),
        ("SYNC_MAX_RETRIES", "7"),
        ("SYNC_PERSIST_QUEUE", "false"),
        ("SYNC_QUEUE_PATH", "./data/sync-queue.json"),
        ("SYNC_EXCLUDED_COLLECTIONS", "sessions, a.b"),
        ("SYNC_BATCH_SIZE", "200"),
        ("SYNC_QUEUE_WARNING_THRESHOLD", "900"),
        ("SYNC_LAG_WARNING_THRESHOLD", "90000"),
    ])
    .unwrap();
    assert!(config.sync_enabled());
    assert_eq!(config.local.uri.hosts(), [("db".to_owned(), 1)]);
    assert_eq!((config.log.max_entries, config.log.durability), (20_000, Durability::Process));
    assert_eq!((config.sync.idle_wait, config.sync.max_retries), (Duration::from_millis(50), 7));
    assert_eq!(config.log.dir, PathBuf::from("./data"));
    for (database, collection, selected) in [
        ("shop", "orders", true),
        ("x", "sessions", false),
        ("a", "b", false),
        ("x", "a.b", false),
        ("a", "c", true),
    ] {
        assert_eq!(captures(&config, database, collection), selected, "{database}.{collection}");
    }
    assert_eq!((config.sync.batch_entries_max, config.sync.queue_warning), (200, 900));
    assert_eq!(config.sync.lag_warning, Duration::from_secs(90));
    assert_eq!(load(&[("SYNC_PERSIST_QUEUE", "true")]).unwrap().log.durability, Durability::Journal);
    assert!(
        !load(&[("SYNC_ENABLED", "false"), ("MONGODB_ATLAS_URI", "mongodb://far")]).unwrap().sync_enabled()
    );
    assert!(load(&[("MONGODB_ATLAS_URI", "mongodb://far")]).unwrap().sync_enabled());
}

#[test]
fn an_old_and_a_new_name_must_agree() {
    let agree = [("DUALSYNC_SYNC_IDLE_WAIT", "1s"), ("SYNC_WORKER_INTERVAL", "1000")];
    assert_eq!(load(&agree).unwrap().sync.idle_wait, Duration::from_secs(1));
    let differ = [("MONGODB_LOCAL_URI", "mongodb://u:hunter2@a"), ("MONGODB_URI", "mongodb://u:hunter2@b")];
    assert_eq!(
        complaints(load(&differ)),
        [
            "local.uri = \"mongodb://***:***@b\" (MONGODB_URI in the environment): MONGODB_LOCAL_URI in the environment \
          says otherwise: set one of them"
        ]
    );
    let place = Place::new("differ", &[(".env", "SYNC_PERSIST_QUEUE=false\n")]);
    let found = complaints(load_in(&place, &[("DUALSYNC_LOG_DURABILITY", "strict")]));
    assert!(found.len() == 1 && found[0].contains("SYNC_PERSIST_QUEUE in .env"), "{found:?}");
}

#[test]
fn secrets_come_from_files_and_never_show() {
    let place = Place::new(
        "secrets",
        &[
            ("token", "hunter2-hunter2-hunter2\r\n"),
            (
                "proxy.toml",
                "[atlas]\nuri = \"mongodb://user:hunter2@far/?authMechanismProperties=X:hunter2\"\n",
            ),
        ],
    );
    let config = load_in(
        &place,
        &[
            ("DUALSYNC_ADMIN_TOKEN_FILE", "token"),
            ("DUALSYNC_ADMIN_READ_TOKEN", "hunter2"),
            ("MONGODB_LOCAL_URI", "mongodb://user:hunter2@near"),
        ],
    )
    .unwrap();
    assert_eq!(config.admin.token.as_ref().map(Secret::expose), Some("hunter2-hunter2-hunter2"));
    assert_eq!(config.local.uri.expose(), "mongodb://user:hunter2@near");
    let everything = format!("{config} {config:?} {}", config.to_json());
    assert!(!everything.contains("hunter2"), "{everything}");
    assert_eq!(config.to_json()["atlas"]["uri"], "mongodb://***:***@far/?authMechanismProperties=***");
    assert_eq!(config.to_json()["admin"]["token"], "***");
    assert_eq!(config.to_json()["sync"]["enabled"], true);
    assert_eq!(config.to_json()["sync"]["max_retries"], 5);
    let warned = |about: &str| config.warnings.iter().any(|warning| warning.starts_with(about));
    assert!(warned("atlas.uri: a secret stands in the configuration file"), "{:?}", config.warnings);
    assert!(warned("admin.read_token: shorter"), "{:?}", config.warnings);
    assert!(!warned("local.uri") && !warned("admin.token"), "{:?}", config.warnings);
}

#[test]
fn a_password_on_the_command_line_is_refused() {
    let flags = |uri: &str| Inputs {
        flags: vec![("local.uri", "--local-uri", uri.to_owned())],
        directory: "/nonexistent".into(),
        ..Inputs::default()
    };
    assert!(Config::load(&flags("mongodb://near:1")).is_ok());
    let found = complaints(Config::load(&flags("mongodb://u:hunter2@near:1")));
    assert!(found.len() == 1 && found[0].contains("set MONGODB_LOCAL_URI instead"), "{found:?}");
    assert!(!found[0].contains("hunter2"), "{found:?}");
}

#[test]
fn unknown_variables_are_warned_of() {
    let config = load(&[
        ("DUALSYNC_PROXY_LISEN", "x"),
        ("DUALSYNC_ADMIN_TOKEN", "0123456789abcdef"),
        ("SYNC_SOMETHING", "x"),
        ("DUALSYNC_TELEMETRY_FORMAT", "JSON"),
    ])
    .unwrap();
    assert_eq!(config.warnings, ["the variable DUALSYNC_PROXY_LISEN is not known, it changes nothing"]);
    assert_eq!(config.telemetry.format, LogFormat::Json);
}
