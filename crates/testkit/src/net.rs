//! Free ports, and a relay that makes a network slow, or fail, on demand.
//!
//! Not here: bandwidth. A delayed line carries as much as a short one.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

/// A port on 127.0.0.1 that no other user of this module has, in any process, until it is dropped.
///
/// It lies below the range that Linux takes for outgoing connections, so that nobody snatches it while a server
/// restarts on it. The claim is a locked file in the temporary folder; the kernel lifts it when a process dies.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: Option<File>,
}

impl Port {
    /// Claims a port that nothing listens on now.
    pub fn free() -> Result<Port> {
        let claims =
            std::env::temp_dir().join(format!("dualsync-ports-{}", rustix::process::getuid().as_raw()));
        fs::create_dir_all(&claims).with_context(|| format!("create {}", claims.display()))?;
        for _ in 0..TRIES_MAX {
            let number = fastrand::u16(PORTS);
            let claim = File::create(claims.join(number.to_string())).context("create a port's claim")?;
            if claim.try_lock().is_ok() && StdListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Port { number, _claim: Some(claim) });
            }
        }
        bail!("no free port between {} and {}", PORTS.start(), PORTS.end())
    }

    /// A port that the caller chose; nothing is claimed.
    pub fn fixed(number: u16) -> Port {
        Port { number, _claim: None }
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:NUMBER`
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

/// A TCP relay from a port of its own to a fixed address. It ends, with its connections, when it is dropped.
///
/// A driver that discovers a replica set goes round it, to the addresses that the members name: connect with
/// `directConnection=true`.
#[derive(Debug)]
pub struct Relay {
    port: Port,
    wanted: watch::Sender<State>,
    reached: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens and forwards every connection to `target` (`host:port`), which need not be up.
    pub async fn start(target: impl Into<String>) -> Result<Relay> {
        Relay::start_delayed(target, Duration::ZERO).await
    }

    /// The same over a line on which each byte takes `delay`, in either direction: the round trip is twice that.
    pub async fn start_delayed(target: impl Into<String>, delay: Duration) -> Result<Relay> {
        let port = Port::free()?;
        let (wanted, wanted_now) = watch::channel(State::Flows);
        let (reached_now, reached) = watch::channel(State::Cut);
        let task = tokio::spawn(run(port.address(), target.into(), delay, wanted_now, reached_now));
        let relay = Relay { port, wanted, reached, task };
        relay.turn(State::Flows).await?;
        Ok(relay)
    }

    /// `127.0.0.1:PORT`, where it listens.
    pub fn address(&self) -> String {
        self.port.address().to_string()
    }

    /// A connection string that leads through the relay to this one server.
    pub fn uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address())
    }

    /// Closes every connection and refuses new ones. Both have happened when this returns.
    pub async fn cut(&self) -> Result<()> {
        self.turn(State::Cut).await
    }

    /// Connections stay open, new ones are accepted, and no byte moves.
    pub async fn stall(&self) -> Result<()> {
        self.turn(State::Stalls).await
    }

    /// Connections stay open, and whatever is sent is lost: a line whose packets are dropped.
    pub async fn swallow(&self) -> Result<()> {
        self.turn(State::Swallows).await
    }

    /// Listens and forwards again. What was held by a stall goes on its way; a connection of which bytes were swallowed
    /// breaks.
    pub async fn resume(&self) -> Result<()> {
        self.turn(State::Flows).await
    }

    async fn turn(&self, state: State) -> Result<()> {
        self.wanted.send(state).map_err(|_| anyhow!("the relay has ended"))?;
        let mut reached = self.reached.clone();
        timeout(TURN_MAX, reached.wait_for(|now| *now == state))
            .await
            .with_context(|| format!("turn the relay to {state:?}"))?
            .context("the relay has ended")?;
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flows,
    Stalls,
    Swallows,
    Cut,
}

async fn run(
    address: SocketAddr,
    target: String,
    delay: Duration,
    mut wanted: watch::Receiver<State>,
    reached: watch::Sender<State>,
) {
    loop {
        if wanted.wait_for(|state| *state != State::Cut).await.is_err() {
            return;
        }
        // A port that cannot be had ends the task, which `turn` reports.
        let Ok(listener) = TcpListener::bind(address).await else { return };
        let mut connections = JoinSet::new();
        loop {
            let state = *wanted.borrow_and_update();
            if state == State::Cut {
                break;
            }
            reached.send_replace(state);
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                Ok((client, _)) = listener.accept() => {
                    connections.spawn(carry(client, target.clone(), delay, wanted.clone()));
                }
                // Reaps the ended ones; a test has a few hundred connections at most.
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        connections.shutdown().await;
        reached.send_replace(State::Cut);
    }
}

async fn carry(client: TcpStream, target: String, delay: Duration, wanted: watch::Receiver<State>) {
    let mut flowing = wanted.clone();
    if flowing.wait_for(|state| *state == State::Flows).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, delay, wanted.clone()) => {}
        () = pump(from_server, to_client, delay, wanted) => {}
    }
}

/// Moves bytes until either side ends. What is on the line is bounded: with a delay by more than any server here sends
/// within it, without one by a single buffer, where what was read during a stall waits.
async fn pump(from: OwnedReadHalf, to: OwnedWriteHalf, delay: Duration, wanted: watch::Receiver<State>) {
    let (line, arriving) = mpsc::channel(if delay.is_zero() { 1 } else { LINE_BUFFERS });
    tokio::join!(depart(from, line, delay, wanted.clone()), arrive(arriving, to, wanted));
}

async fn depart(
    mut from: OwnedReadHalf,
    line: mpsc::Sender<(Instant, Vec<u8>)>,
    delay: Duration,
    mut wanted: watch::Receiver<State>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut swallowed = false;
    loop {
        let count = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(count @ 1..) => count,
                _ => return,
            },
            () = line.closed() => return,
            // What is missing is missed: no later byte may pass for it.
            _ = wanted.wait_for(|state| *state == State::Flows), if swallowed => return,
        };
        swallowed |= *wanted.borrow() == State::Swallows;
        if !swallowed && line.send((Instant::now() + delay, buffer[..count].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn arrive(
    mut line: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    mut wanted: watch::Receiver<State>,
) {
    while let Some((due, bytes)) = line.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        let flows = wanted.wait_for(|state| *state == State::Flows).await.is_ok();
        if !flows || to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

const PORTS: std::ops::RangeInclusive<u16> = 20_000..=31_999;
const TRIES_MAX: usize = 200;
const TURN_MAX: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 64 * 1024;
/// 16 MiB on a line of 25 ms are 640 MB/s.
const LINE_BUFFERS: usize = 256;
