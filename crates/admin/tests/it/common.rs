//! A program of the test's own behind the port, and a client that shows every byte of an answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use admin::*;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const ADMIN: &str = "an-admin-token";
pub(crate) const READER: &str = "a-read-token";
pub(crate) const NOBODY: &str = "";

/// Answers fixed data and remembers its orders. It stands for the program, not for a database.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) paused: AtomicBool,
    pub(crate) local_down: AtomicBool,
    pub(crate) log_closed: AtomicBool,
    pub(crate) scrapes: AtomicU64,
    pub(crate) orders: Mutex<Vec<String>>,
    /// When set, an order to the worker waits for `gate` before it counts, and says so in `at_gate`.
    pub(crate) gated: AtomicBool,
    pub(crate) at_gate: AtomicBool,
    pub(crate) gate: Notify,
}

impl Program {
    fn noted(&self, order: String) {
        self.orders.lock().unwrap().push(order);
    }

    pub(crate) fn orders(&self) -> Vec<String> {
        self.orders.lock().unwrap().clone()
    }
}

pub(crate) fn at(seconds: u64) -> At {
    At(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

pub(crate) const POSITIONS: Positions = Positions { appended: 40, durable: 30, applied: 20, trimmed: 10 };

pub(crate) fn worker(state: WorkerState) -> Worker {
    Worker {
        state,
        since: at(0),
        attempt: 0,
        next_try_ms: None,
        lanes: 8,
        batch_entries_max: 1000,
        rate_max: 0,
    }
}

fn stats() -> Stats {
    Stats {
        since: at(0),
        succeeded: 20,
        failed: 1,
        retried: 2,
        average_sync_ms: Some(12.5),
        success_rate: Some(0.95),
        last_sync: Some(at(5)),
    }
}

fn log_fill() -> LogFill {
    LogFill {
        level: FillLevel::KeysOnly,
        since: at(3),
        fill: 0.93,
        bound: FillBound::Disk,
        entries_without_statements: 4,
        unrecorded_writes: 0,
        noted: Noted { everything: false, namespaces: vec!["shop.orders".into()] },
    }
}

impl System for Program {
    fn not_ready(&self) -> Vec<&'static str> {
        if self.log_closed.load(Ordering::SeqCst) { vec!["proxy", "log"] } else { Vec::new() }
    }

    fn before_scrape(&self) {
        self.scrapes.fetch_add(1, Ordering::SeqCst);
    }

    fn config(&self) -> Value {
        json!({ "admin": { "token": "***" } })
    }

    async fn health(&self) -> Health {
        let local = if self.local_down.load(Ordering::SeqCst) { Check::fail("refused") } else { Check::PASS };
        let checks = Checks {
            sync_enabled: Check::PASS,
            local_database: local,
            atlas_database: Check::warn("away"),
            worker: Check::PASS,
            queue_size: Measured::up_to(7, 5000),
            sync_lag: Measured::up_to(90_000, 60_000),
            failure_rate: Measured::up_to(0.0, 0.05),
        };
        Health::judge(checks, Vec::new(), Vec::new())
    }

    async fn report(&self) -> Report {
        let orders = NamespaceState {
            namespace: "shop.orders".into(),
            reason: "had documents before".into(),
            since: at(1),
            state: CompareState::Waiting,
            held: None,
            progress: None,
        };
        Report {
            positions: POSITIONS,
            lag: Lag { entries: 3, bytes: 400, seconds: 1.5 },
            log: Some(log_fill()),
            counts: Counts {
                captured: 30,
                replayed: 18,
                converged: 2,
                dirty: 0,
                failed: 1,
                dead_letters: 1,
                in_doubt: BTreeMap::from([("contention".into(), 2)]),
            },
            namespaces: Namespaces { not_copied_yet: vec![orders], dirty: Vec::new(), compared: Vec::new() },
            not_replicated: BTreeMap::from([("createIndexes".into(), 4)]),
            worker: worker(WorkerState::BackingOff),
            capture: CaptureState { state: CaptureMode::On, passing: 0 },
            last_sync: None,
            average_sync_ms: None,
            success_rate: None,
            last_target_error: Some(TargetError {
                at: at(2),
                code: Some(13),
                message: "not allowed".into(),
                namespace: Some("shop.orders".into()),
            }),
            warnings: vec!["a warning".into()],
            recommendations: vec![Recommendation {
                code: "COPY_NAMESPACES".into(),
                text: "one namespace is not copied".into(),
                action: "copy it".into(),
            }],
        }
    }

    async fn stats(&self) -> Stats {
        stats()
    }

    async fn queue(&self) -> Queue {
        Queue {
            positions: POSITIONS,
            size: 3,
            bytes: 4096,
            oldest_age_ms: Some(1500),
            level: FillLevel::KeysOnly,
            log: Some(log_fill()),
            limits: QueueLimits {
                max_bytes: 1 << 30,
                max_entries: 10_000,
                min_free_bytes: 1 << 20,
                warning: 5000,
            },
        }
    }

    async fn worker(&self) -> Worker {
        worker(WorkerState::Running)
    }

    async fn connections(&self) -> Connections {
        let connection = |state| Connection {
            uri: "mongodb://***:***@host/".into(),
            state,
            since: at(3),
            last_error: None,
            server_version: Some("6.0.5".into()),
            topology: Some("standalone".into()),
        };
        Connections {
            local: connection(ConnectionState::Connected),
            atlas: connection(ConnectionState::Disconnected),
        }
    }

    async fn dead_letters(&self, limit: usize) -> DeadLetters {
        let letter = |id: usize| DeadLetter {
            id: id.to_string(),
            namespace: "shop.orders".into(),
            key: json!({ "$oid": "5f0000000000000000000000" }),
            reason: "too large".into(),
            attempts: 5,
            since: at(4),
        };
        DeadLetters { total: 3, letters: (0..limit.min(3)).map(letter).collect() }
    }

    async fn capture(&self) -> CaptureState {
        CaptureState { state: CaptureMode::On, passing: 0 }
    }

    async fn set_pace(&self, pace: Pace) -> Result<Worker, Refusal> {
        let configured = worker(WorkerState::Running);
        let lanes = pace.lanes.map_or(configured.lanes, |lanes| lanes as u64);
        Ok(Worker { lanes, ..configured })
    }

    async fn filters(&self) -> Filters {
        Filters { include: vec!["*".to_owned()], exclude: Vec::new(), ordered: false }
    }

    async fn set_filters(&self, to: SetFilters) -> Result<Filters, Refusal> {
        let exclude = to.exclude.unwrap_or_default();
        Ok(Filters { include: to.include.unwrap_or_default(), exclude, ordered: true })
    }

    async fn control_capture(&self, action: CaptureAction) -> Result<CaptureState, Refusal> {
        match action {
            CaptureAction::Bypass => Ok(CaptureState { state: CaptureMode::Bypassed, passing: 3 }),
            CaptureAction::Resume => Err(Refusal::WrongState {
                message: "capture is not bypassed".to_owned(),
                action: "nothing to do".to_owned(),
            }),
        }
    }

    async fn control(&self, action: Action) -> Result<Worker, Refusal> {
        if self.gated.load(Ordering::SeqCst) {
            self.at_gate.store(true, Ordering::SeqCst);
            self.gate.notified().await;
        }
        match action {
            Action::Resume if !self.paused.swap(false, Ordering::SeqCst) => Err(Refusal::WrongState {
                message: "the worker is not paused".into(),
                action: "look at /api/sync/worker".into(),
            }),
            Action::Start => panic!("the test wants to see an order die"),
            Action::Pause => {
                self.paused.store(true, Ordering::SeqCst);
                self.noted("pause".into());
                Ok(worker(WorkerState::Paused))
            }
            Action::Resume | Action::Stop => {
                self.noted(format!("{action:?}").to_lowercase());
                Ok(worker(WorkerState::Running))
            }
        }
    }

    async fn clear_queue(&self) -> Result<Cleared, Refusal> {
        self.noted("clear".into());
        Ok(Cleared { cleared: 3, dirty: vec!["shop.orders".into()] })
    }

    async fn reset_stats(&self) -> Stats {
        self.noted("reset".into());
        stats()
    }

    async fn retry(&self, letters: Letters) -> Result<Affected, Refusal> {
        if letters == Letters::Ids(vec!["missing".into()]) {
            return Err(Refusal::Unknown {
                message: "no dead letter missing".into(),
                action: "GET /api/sync/dead-letters lists them".into(),
            });
        }
        self.noted(format!("retry {letters:?}"));
        Ok(Affected { affected: 1 })
    }

    async fn full(&self) -> Full {
        Full { state: FullState::Idle, since: None, left: Some(0), held: 0, compared: 0, now: None }
    }

    async fn start_full(&self) -> Result<Full, Refusal> {
        self.noted("full".into());
        Ok(self.full().await)
    }

    async fn stop_full(&self) -> Result<Full, Refusal> {
        let (message, action) = ("no full comparison runs".into(), "GET /api/sync/full".into());
        Err(Refusal::WrongState { message, action })
    }

    async fn confirm_deletes(&self, namespaces: Vec<String>) -> Result<Affected, Refusal> {
        self.noted(format!("confirm {namespaces:?}"));
        Ok(Affected { affected: 1 })
    }

    async fn discard(&self, letters: Letters) -> Result<Affected, Refusal> {
        self.noted(format!("discard {letters:?}"));
        Ok(Affected { affected: 1 })
    }
}

/// A port that runs, with its program.
pub(crate) struct Running {
    pub(crate) program: Arc<Program>,
    pub(crate) addr: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) fn loopback() -> Config {
    Config {
        token: Some(Token::new(ADMIN.into())),
        read_token: Some(Token::new(READER.into())),
        ..Config::new(([127, 0, 0, 1], 0).into())
    }
}

pub(crate) async fn start(config: Config) -> Running {
    let program = Arc::new(Program::default());
    let registry = Registry::new();
    let ways =
        prometheus::IntCounterVec::new(prometheus::Opts::new("entries_total", "Entries."), &["way"]).unwrap();
    ways.with_label_values(&["replayed"]).inc_by(18);
    registry.register(Box::new(ways)).unwrap();
    let delays =
        prometheus::Histogram::with_opts(prometheus::HistogramOpts::new("delay_seconds", "Delay.")).unwrap();
    delays.observe(0.5);
    registry.register(Box::new(delays)).unwrap();
    let admin = Admin::bind(config, program.clone(), registry).await.unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], admin.local_addr().port()));
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(admin.run(shutdown.clone()));
    Running { program, addr, shutdown, task }
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Running {
    pub(crate) async fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> Reply {
        let mut stream = self.send(&request(method, path, token, body)).await;
        read_reply(&mut stream).await
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Reply {
        self.ask("GET", path, token, "").await
    }

    pub(crate) async fn send(&self, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }
}

pub(crate) fn request(method: &str, path: &str, token: &str, body: &str) -> String {
    let auth = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{auth}Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Reads to the end of the stream, which `Connection: close` brings.
pub(crate) async fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // A reset after the answer is the server's right when it has not read the whole request.
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    let _ = read.expect("the server ends the connection");
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer in {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}
