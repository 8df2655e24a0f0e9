//! Free ports, and a relay that makes a network fail on demand.
//!
//! Not here: delay and bandwidth (they come with the first benchmark of a distant target).

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

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
        let port = Port::free()?;
        let (wanted, wanted_now) = watch::channel(State::Flows);
        let (reached_now, reached) = watch::channel(State::Cut);
        let task = tokio::spawn(run(port.address(), target.into(), wanted_now, reached_now));
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

    /// Listens and forwards again. What was held by a stall goes on its way.
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
    Cut,
}

async fn run(
    address: SocketAddr,
    target: String,
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
                    connections.spawn(carry(client, target.clone(), wanted.clone()));
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

async fn carry(client: TcpStream, target: String, wanted: watch::Receiver<State>) {
    let mut flowing = wanted.clone();
    if flowing.wait_for(|state| *state == State::Flows).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, wanted.clone()) => {}
        () = pump(from_server, to_client, wanted) => {}
    }
}

/// Moves bytes until either side ends; what was read during a stall waits in this one buffer.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut wanted: watch::Receiver<State>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let flows = wanted.wait_for(|state| *state == State::Flows).await.is_ok();
        if !flows || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

const PORTS: std::ops::RangeInclusive<u16> = 20_000..=31_999;
const TRIES_MAX: usize = 200;
const TURN_MAX: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 64 * 1024;
