//! The clients of a script: each sends its turns, over two connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Bson, Document};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::script::{Script, Step, Way};
use crate::connection::{Connection, MORE_TO_COME};

/// What became of the commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sent.
    pub sent: u64,
    /// Refused, wholly or in part: by `ok: 0` or in `writeErrors`.
    pub refused: u64,
    /// Without a reply, because the connection broke.
    pub broken: u64,
}

/// Plays the script. `done` counts what was sent, for whoever disturbs it meanwhile.
pub(super) async fn play(
    script: &Script,
    address: &str,
    faults: bool,
    done: &Arc<AtomicU64>,
) -> Result<Tally> {
    let clients = script.turns.iter().map(|turn| turn.client).max().map_or(0, |last| last + 1);
    let mut players = JoinSet::new();
    for client in 0..clients {
        let own = script.turns.iter().filter(|turn| turn.client == client);
        let steps: Vec<Step> = own.flat_map(|turn| turn.steps.clone()).collect();
        let mut player = Player {
            address: address.to_owned(),
            connections: [None, None],
            faults,
            done: Arc::clone(done),
            tally: Tally::default(),
        };
        players.spawn(async move {
            for step in &steps {
                let played = player.step(step).await;
                played.with_context(|| format!("client {client} sent {}", step.body))?;
            }
            player.end().await?;
            Ok::<Tally, anyhow::Error>(player.tally)
        });
    }
    let mut total = Tally::default();
    while let Some(ended) = players.join_next().await {
        let tally = ended.context("a client's task")??;
        total.sent += tally.sent;
        total.refused += tally.refused;
        total.broken += tally.broken;
    }
    Ok(total)
}

/// Sends what has to succeed before the script begins.
pub(super) async fn prepare(commands: &[Document], address: &str) -> Result<()> {
    let mut connection = Connection::open(address).await?;
    for command in commands {
        connection.send(command, 0, false).await?;
        let reply = connection.reply().await?;
        ensure!(is_ok(&reply), "{command} was answered by {reply}");
    }
    Ok(())
}

struct Player {
    address: String,
    connections: [Option<Connection>; 2],
    faults: bool,
    done: Arc<AtomicU64>,
    tally: Tally,
}

impl Player {
    /// A broken connection is an error unless somebody breaks them on purpose.
    async fn step(&mut self, step: &Step) -> Result<()> {
        self.tally.sent += 1;
        self.done.fetch_add(1, Ordering::Relaxed);
        match self.try_step(step).await {
            Ok(()) => {}
            Err(_) if self.faults => {
                self.tally.broken += 1;
                self.connections[step.socket] = None;
                // Else the script would be over before what went down is up again.
                sleep(REST).await;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn try_step(&mut self, step: &Step) -> Result<()> {
        let flags = if step.way == Way::Silent { MORE_TO_COME } else { 0 };
        let connection = self.connection(step.socket).await?;
        connection.send(&step.body, flags, step.sequence).await?;
        match step.way {
            Way::Silent => return Ok(()),
            Way::HangUp => {
                self.connections[step.socket] = None;
                return Ok(());
            }
            Way::Ask | Way::More => {}
        }
        let reply = connection.reply().await?;
        if step.way == Way::More {
            connection.more(step.body.get_str("$db")?, &reply).await?;
        }
        if reply.get_i32("code").is_ok_and(|code| NOT_NOW.contains(&code)) {
            sleep(REST).await;
        }
        self.tally.refused += u64::from(!is_ok(&reply) || reply.contains_key("writeErrors"));
        Ok(())
    }

    async fn connection(&mut self, socket: usize) -> Result<&mut Connection> {
        let open = &mut self.connections[socket];
        if open.is_none() {
            let deadline = Instant::now() + CONNECT_MAX;
            *open = loop {
                match Connection::open(&self.address).await {
                    Ok(connection) => break Some(connection),
                    Err(error) if Instant::now() > deadline => return Err(error),
                    Err(_) => sleep(BETWEEN_TRIES).await,
                }
            };
        }
        open.as_mut().context("a connection")
    }

    /// What was sent without a reply has run as well, if its connection has lived.
    async fn end(&mut self) -> Result<()> {
        for connection in self.connections.iter_mut().flatten() {
            let fenced = connection.fence().await;
            if !self.faults {
                fenced?;
            }
        }
        Ok(())
    }
}

fn is_ok(reply: &Document) -> bool {
    match reply.get("ok") {
        Some(Bson::Double(ok)) => *ok == 1.0,
        Some(Bson::Int32(ok)) => *ok == 1,
        _ => false,
    }
}

/// Longer than a restart of the proxy, or an election, takes on a busy machine.
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// Not primary, stepping down, shutting down.
const NOT_NOW: [i32; 7] = [91, 189, 10_107, 11_600, 11_602, 13_435, 13_436];
const REST: Duration = Duration::from_millis(200);
const BETWEEN_TRIES: Duration = Duration::from_millis(20);
