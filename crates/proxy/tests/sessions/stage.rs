//! A proxy between a test's own two ends: a client, and a peer in mongod's place that says what the test wants.
//!
//! The peer is no database: it plays back bytes. What mongod makes of requests is for the integration tests.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bson::raw::RawDocument;
use bson::rawdoc;
use capture::{Capture, Orphan};
use prometheus::Registry;
use proxy::{Bypass, Config, Listener, Metrics, Upstream, Watch};
use record::{Namespace, Record};
use synclog::{Call, Faults, Level, Lsn, SyncLog, Verdict};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use wire::{Flags, OpMsg, Section, Sequence, encode_msg};

pub(crate) struct Stage {
    pub(crate) address: String,
    /// The address of the port beside it, see [`beside`].
    pub(crate) second: Option<String>,
    pub(crate) registry: Registry,
    pub(crate) stop: CancellationToken,
    pub(crate) running: JoinHandle<()>,
    peer: TcpListener,
    seen: Option<Seen>,
}

/// What a capturing proxy leaves behind.
struct Seen {
    capture: Arc<Capture>,
    log: SyncLog,
    orphans: mpsc::Receiver<Orphan>,
    knobs: Arc<Knobs>,
    bypass: Arc<Bypass>,
    _folder: TempDir,
}

/// What a test turns, and what it sees.
#[derive(Default)]
struct Knobs {
    level: Mutex<Level>,
    disk_full: AtomicBool,
    disk_hangs: AtomicBool,
    disk_has_hung: AtomicBool,
    noted: Mutex<Vec<String>>,
}

impl Drop for Seen {
    /// A test that fails while the disk hangs must end all the same.
    fn drop(&mut self) {
        self.knobs.disk_hangs.store(false, Ordering::SeqCst);
    }
}

const ENOSPC: i32 = 28;

/// A proxy that captures nothing.
pub(crate) async fn passing(change: impl FnOnce(&mut Config)) -> Stage {
    stage(change, None).await
}

/// A proxy that captures into a log of its own.
pub(crate) async fn capturing(change: impl FnOnce(&mut Config)) -> Stage {
    let folder = TempDir::new().unwrap();
    let knobs = Arc::new(Knobs::default());
    let (disk, notes, level) = (knobs.clone(), knobs.clone(), knobs.clone());
    let mut config = synclog::Config::new(folder.path().join("log"));
    config.hang_after = Duration::from_millis(200);
    config.faults = Some(Faults::new(move |call| {
        while call == Call::Write && disk.disk_hangs.load(Ordering::SeqCst) {
            disk.disk_has_hung.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
        }
        let full = call == Call::Write && disk.disk_full.load(Ordering::SeqCst);
        if full { Verdict::Fail(ENOSPC) } else { Verdict::Pass }
    }));
    let (log, _) = SyncLog::open(config).unwrap();
    let (sender, orphans) = mpsc::channel(10);
    let note = move |ns: Option<&Namespace>| {
        notes.noted.lock().unwrap().push(ns.map_or("*".to_owned(), ToString::to_string));
        true
    };
    let capture = Capture::noting(capture::Config::default(), Box::new(note));
    let bypass = Arc::new(Bypass::default());
    let watch = Watch {
        capture: capture.clone(),
        log: log.clone(),
        orphans: sender,
        entries: Arc::default(),
        level: Arc::new(move || *level.level.lock().unwrap()),
        bypass: bypass.clone(),
    };
    stage(change, Some((watch, Seen { capture, log, orphans, knobs, bypass, _folder: folder }))).await
}

/// A proxy with two ports, which captures nothing; the peer is behind both.
pub(crate) async fn beside(change: impl FnOnce(&mut Config)) -> Stage {
    build(change, None, true).await
}

async fn stage(change: impl FnOnce(&mut Config), watch: Option<(Watch, Seen)>) -> Stage {
    build(change, watch, false).await
}

async fn build(change: impl FnOnce(&mut Config), watch: Option<(Watch, Seen)>, two: bool) -> Stage {
    let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = Config::new();
    config.listen = "127.0.0.1:0".into();
    config.upstream = Upstream::plain(peer.local_addr().unwrap().to_string());
    change(&mut config);
    let (watch, seen) = watch.unzip();
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    let listener = Listener::bind(config.clone(), watch, metrics).await.unwrap();
    let address = listener.place().to_string();
    let stop = CancellationToken::new();
    let mut second = None;
    if two {
        let other = listener.beside(config).await.unwrap();
        second = Some(other.place().to_string());
        tokio::spawn(other.run(stop.clone()));
    }
    let running = tokio::spawn(listener.run(stop.clone()));
    Stage { address, second, registry, stop, running, peer, seen }
}

impl Stage {
    /// A client, and the peer's end of the connection that the proxy made for it.
    pub(crate) async fn connect(&self) -> (End, End) {
        self.connect_to(&self.address).await
    }

    /// The same over one of the ports.
    pub(crate) async fn connect_to(&self, address: &str) -> (End, End) {
        let client = End(within(TcpStream::connect(address)).await.unwrap());
        (client, self.accept().await)
    }

    /// The peer's end of the next connection that the proxy makes.
    pub(crate) async fn accept(&self) -> End {
        End(within(self.peer.accept()).await.unwrap().0)
    }

    pub(crate) fn log(&self) -> &SyncLog {
        &self.seen.as_ref().unwrap().log
    }

    /// From now on the log counts as this full.
    pub(crate) fn set_level(&self, level: Level) {
        *self.knobs().level.lock().unwrap() = level;
    }

    /// From now on the log's disk takes nothing, or everything.
    pub(crate) fn set_disk_full(&self, full: bool) {
        self.knobs().disk_full.store(full, Ordering::SeqCst);
    }

    /// From now on a write to the log's disk does not return, or does.
    pub(crate) fn set_disk_hangs(&self, hangs: bool) {
        self.knobs().disk_hangs.store(hangs, Ordering::SeqCst);
    }

    /// Whether a write to it has been held up.
    pub(crate) fn disk_has_hung(&self) -> bool {
        self.knobs().disk_has_hung.load(Ordering::SeqCst)
    }

    /// The namespaces that were noted so far.
    pub(crate) fn noted(&self) -> Vec<String> {
        self.knobs().noted.lock().unwrap().clone()
    }

    fn knobs(&self) -> &Knobs {
        &self.seen.as_ref().unwrap().knobs
    }

    pub(crate) fn bypass(&self) -> &Bypass {
        &self.seen.as_ref().unwrap().bypass
    }

    pub(crate) fn capture(&self) -> &Capture {
        &self.seen.as_ref().unwrap().capture
    }

    pub(crate) async fn orphan(&mut self) -> Orphan {
        within(self.seen.as_mut().unwrap().orphans.recv()).await.unwrap()
    }

    /// Whether a write was handed on that nobody has taken yet.
    pub(crate) fn has_orphan(&mut self) -> bool {
        self.seen.as_mut().unwrap().orphans.try_recv().is_ok()
    }

    /// All records of the log.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut reader = self.log().reader(Lsn(1)).unwrap();
        std::iter::from_fn(|| reader.next().unwrap())
            .map(|record| Record::decode(record.kind, &record.payload).unwrap())
            .collect()
    }

    /// The kinds of all records of the log, as `mark`, `entry` and `closed`.
    pub(crate) fn kinds(&self) -> Vec<&'static str> {
        let name = |record: &Record| match record {
            Record::Mark(_) => "mark",
            Record::Entry(_) => "entry",
            Record::Closed { .. } => "closed",
        };
        self.records().iter().map(name).collect()
    }

    /// Waits until the log has `count` records.
    pub(crate) async fn records_reach(&self, count: u64) {
        within(self.log().wait_appended(Lsn(count))).await;
    }

    /// The value of a metric, the sum over its labels.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let values =
            family.get_metric().iter().map(|m| m.get_counter().get_value() + m.get_gauge().get_value());
        values.sum::<f64>() as u64
    }
}

/// One end of a connection.
pub(crate) struct End(pub(crate) TcpStream);

impl End {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        within(self.0.write_all(bytes)).await.unwrap();
    }

    /// Reads exactly these bytes.
    pub(crate) async fn gets(&mut self, expected: &[u8]) {
        let got = self.reads(expected.len()).await;
        assert!(got == expected, "got {:?}, expected {:?}", Bytes(&got), Bytes(expected));
    }

    pub(crate) async fn reads(&mut self, count: usize) -> Vec<u8> {
        let mut got = vec![0; count];
        within(self.0.read_exact(&mut got)).await.unwrap();
        got
    }

    /// Reads one whole frame.
    pub(crate) async fn frame(&mut self) -> Vec<u8> {
        let mut frame = self.reads(4).await;
        let length = i32::from_le_bytes(frame[..4].try_into().unwrap());
        frame.extend(self.reads(usize::try_from(length).unwrap() - 4).await);
        frame
    }

    /// Reads the proxy's own command, before or behind writes that get no reply.
    pub(crate) async fn fence(&mut self) -> Vec<u8> {
        let frame = self.frame().await;
        let body = OpMsg::parse(&frame).unwrap().body().to_owned();
        assert!(body.get_array("refreshSessions").is_ok(), "{body:?} is no fence");
        frame
    }

    /// The same, answered as mongod does whoever may write.
    pub(crate) async fn fenced(&mut self) {
        let fence = self.fence().await;
        self.send(&reply(&fence, &rawdoc! { "ok": 1.0 })).await;
    }

    /// Reads to the end; the other side has closed cleanly.
    pub(crate) async fn ends(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        within(self.0.read_to_end(&mut rest)).await.unwrap();
        rest
    }

    /// Nothing comes for a while. Only an absence is worth a fixed wait.
    pub(crate) async fn gets_nothing(&mut self) {
        let mut byte = [0];
        let got = timeout(Duration::from_millis(100), self.0.read(&mut byte)).await;
        assert!(got.is_err(), "nothing should have come: {got:?}");
    }

    pub(crate) async fn half_close(&mut self) {
        self.0.shutdown().await.unwrap();
    }
}

struct Bytes<'a>(&'a [u8]);

impl std::fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes: {}", self.0.len(), self.0[..self.0.len().min(200)].escape_ascii())
    }
}

/// Fails the test rather than hang.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

/// Waits for a condition.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    within(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

pub(crate) fn next_id() -> i32 {
    static NEXT: AtomicU32 = AtomicU32::new(1000);
    NEXT.fetch_add(1, Ordering::Relaxed).cast_signed()
}

/// An OP_MSG request with a fresh id.
pub(crate) fn request(body: &RawDocument) -> Vec<u8> {
    request_with(body, Flags::default())
}

pub(crate) fn request_with(body: &RawDocument, flags: Flags) -> Vec<u8> {
    encode_msg(next_id(), 0, flags, &[Section::Body(body)]).unwrap()
}

/// An OP_MSG request whose body is followed, or preceded, by a document sequence.
pub(crate) fn request_with_sequence(
    body: &RawDocument,
    name: &str,
    documents: &[u8],
    first: bool,
) -> Vec<u8> {
    let sequence = Section::Sequence(Sequence::new(name, documents).unwrap());
    let body = Section::Body(body);
    let sections = if first { [sequence, body] } else { [body, sequence] };
    encode_msg(next_id(), 0, Flags::default(), &sections).unwrap()
}

/// An OP_MSG reply to `request`.
pub(crate) fn reply(request: &[u8], body: &RawDocument) -> Vec<u8> {
    reply_to(id(request), body, Flags::default())
}

pub(crate) fn reply_to(response_to: i32, body: &RawDocument, flags: Flags) -> Vec<u8> {
    encode_msg(next_id(), response_to, flags, &[Section::Body(body)]).unwrap()
}

/// The frame as OP_COMPRESSED, with zstd.
pub(crate) fn compressed(frame: &[u8]) -> Vec<u8> {
    let payload = zstd::bulk::compress(&frame[16..], 3).unwrap();
    let number = |n: usize| i32::try_from(n).unwrap().to_le_bytes();
    let head = [&number(25 + payload.len()), &frame[4..12], &number(2012), &frame[12..16]].concat();
    [head, number(frame.len() - 16).to_vec(), vec![3], payload].concat()
}

pub(crate) fn id(frame: &[u8]) -> i32 {
    wire::Header::of(frame).unwrap().request_id
}
