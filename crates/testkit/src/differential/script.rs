//! Who sends what, in which order: made from a seed alone, whatever is answered.

use std::fmt;

use bson::spec::BinarySubtype;
use bson::{Binary, Document, doc};
use fastrand::Rng;

use super::commands::{Commands, Shape, weighted};
use super::{Kinds, Traffic};

/// The commands of all clients. Each client sends its own turns in their order; clients run side by side.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// In the order in which they were drawn, client after client.
    pub turns: Vec<Turn>,
}

/// What belongs together: a command, a retried one, a transaction. Shrinking takes away whole turns.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Whose it is.
    pub client: usize,
    /// Sent one after the other.
    pub steps: Vec<Step>,
}

/// One command.
#[derive(Debug, Clone)]
pub struct Step {
    /// On which of its client's two connections.
    pub socket: usize,
    /// What becomes of the reply.
    pub way: Way,
    /// Whether the statements travel in a sequence of their own, as drivers send them.
    pub sequence: bool,
    /// With `$db`.
    pub body: Document,
}

/// What becomes of the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is read.
    Ask,
    /// None is wanted: moreToCome.
    Silent,
    /// It is read, and its cursor is asked for more.
    More,
    /// The client hangs up instead.
    HangUp,
}

impl Script {
    /// The script of `traffic` in `database`: the same for the same settings, whatever the database is called.
    pub(super) fn new(traffic: &Traffic, database: &str) -> Script {
        let share = |client: usize| {
            traffic.commands / traffic.clients + usize::from(client < traffic.commands % traffic.clients)
        };
        let turns = (0..traffic.clients).flat_map(|client| {
            let mut author = Author::new(traffic, client, database);
            let mut left = share(client);
            std::iter::from_fn(move || {
                let turn = (left > 0).then(|| author.turn())?;
                left = left.saturating_sub(turn.steps.len());
                Some(turn)
            })
        });
        Script { turns: turns.collect() }
    }

    /// How many commands it has.
    pub fn commands(&self) -> usize {
        self.turns.iter().map(|turn| turn.steps.len()).sum()
    }

    /// The turns for which `keep` says so, by their place in the script.
    #[must_use]
    pub fn only(&self, keep: impl Fn(usize) -> bool) -> Script {
        let turns = self.turns.iter().enumerate().filter(|(at, _)| keep(*at));
        Script { turns: turns.map(|(_, turn)| turn.clone()).collect() }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for turn in &self.turns {
            for Step { socket, way, sequence, body } in &turn.steps {
                let form = if *sequence { " (sequence)" } else { "" };
                writeln!(f, "client {} connection {socket} {way:?}{form} {body}", turn.client)?;
            }
        }
        Ok(())
    }
}

/// Draws one client's turns.
struct Author {
    rng: Rng,
    client: usize,
    traffic: Traffic,
    commands: Commands,
    /// Of this client and this database: a second run of the script must not look like a retry of the first.
    session: [u8; 16],
    number: i64,
}

impl Author {
    fn new(traffic: &Traffic, client: usize, database: &str) -> Author {
        let rng = Rng::with_seed(traffic.seed.wrapping_mul(1_000).wrapping_add(client as u64));
        let mut session = [0; 16];
        session[..8].copy_from_slice(&name_hash(database).to_le_bytes());
        session[8..].copy_from_slice(&(client as u64).to_le_bytes());
        let commands = Commands::new(database);
        Author { rng, client, traffic: traffic.clone(), commands, session, number: 0 }
    }

    fn turn(&mut self) -> Turn {
        let shares = [
            (Draw::Write, 70),
            (Draw::Quiet, 3),
            (Draw::Silent, 3),
            (Draw::Retried, if self.traffic.sessions { 8 } else { 0 }),
            (Draw::Transaction, if self.traffic.sessions { 8 } else { 0 }),
            (Draw::HangUp, if self.traffic.hang_ups { 3 } else { 0 }),
            (Draw::Slow, if self.traffic.slow { 2 } else { 0 }),
            (Draw::Compared, if self.traffic.kinds == Kinds::All { 6 } else { 0 }),
            (Draw::Collections, if self.traffic.kinds == Kinds::Collections { 200 } else { 0 }),
        ];
        let steps = match weighted(&mut self.rng, &shares) {
            Draw::Write => vec![self.write(Way::Ask)],
            Draw::Quiet => vec![self.without_concern(Way::Ask)],
            Draw::Silent => vec![self.without_concern(Way::Silent)],
            Draw::HangUp => vec![self.write(Way::HangUp)],
            Draw::Slow => vec![self.step(Way::Ask, Shape::Slow)],
            Draw::Retried => self.retried(),
            Draw::Transaction => self.transaction(),
            Draw::Compared | Draw::Collections => {
                let (body, later) = match self.traffic.kinds {
                    Kinds::Collections => (self.commands.collections(&mut self.rng), false),
                    _ => self.commands.compared(&mut self.rng),
                };
                let way = if later { Way::More } else { Way::Ask };
                vec![Step { socket: 0, way, sequence: false, body }]
            }
        };
        Turn { client: self.client, steps }
    }

    fn write(&mut self, way: Way) -> Step {
        let mut step = self.step(way, Shape::Any);
        step.body = Commands::spelled(&mut self.rng, step.body);
        match self.rng.u8(0..20) {
            0 => _ = step.body.insert("writeConcern", doc! {"w": 1, "j": true}),
            1 => _ = step.body.insert("writeConcern", doc! {"w": "majority"}),
            2 => _ = step.body.insert("writeConcern", doc! {"w": 1}),
            _ => {}
        }
        step
    }

    /// `w: 0`. An upsert that nobody names is left to a comparison, so it has no place among what is followed.
    fn without_concern(&mut self, way: Way) -> Step {
        let mut step = self.step(way, Shape::Named);
        step.body.insert("writeConcern", doc! {"w": 0});
        step
    }

    fn step(&mut self, way: Way, shape: Shape) -> Step {
        let body = self.commands.write(&mut self.rng, shape);
        let sequence = self.rng.u8(0..3) == 0;
        Step { socket: usize::from(self.rng.u8(0..8) == 0), way, sequence, body }
    }

    /// One write, sent again with the same number, as a driver does when it has lost the reply.
    fn retried(&mut self) -> Vec<Step> {
        self.number += 1;
        let mut first = self.step(Way::Ask, Shape::One);
        first.body.insert("lsid", self.lsid());
        first.body.insert("txnNumber", self.number);
        let mut again = Step { socket: 1 - first.socket, ..first.clone() };
        if self.traffic.hang_ups && self.rng.bool() {
            first.way = Way::HangUp;
        }
        if self.rng.u8(0..5) == 0 {
            self.commands.extend(&mut self.rng, &mut again.body);
        }
        let times = 1 + usize::from(self.rng.u8(0..4) == 0);
        std::iter::once(first).chain(std::iter::repeat_n(again, times)).collect()
    }

    fn transaction(&mut self) -> Vec<Step> {
        let mut steps = self.statements();
        if self.rng.u8(0..6) == 0 {
            // Left for another one.
            steps.extend(self.statements());
        }
        let end = match self.rng.u8(0..4) {
            0 => "abortTransaction",
            _ => "commitTransaction",
        };
        let mut body = doc! {end: 1, "$db": "admin"};
        self.in_transaction(&mut body);
        let socket = usize::from(self.rng.u8(0..4) == 0);
        let end = Step { socket, way: Way::Ask, sequence: false, body };
        if self.rng.u8(0..6) == 0 {
            steps.push(Step { socket: 1 - socket, ..end.clone() });
        }
        steps.push(end);
        steps
    }

    fn statements(&mut self) -> Vec<Step> {
        self.number += 1;
        let count = self.rng.usize(1..4);
        (0..count)
            .map(|at| {
                let mut step = self.step(Way::Ask, Shape::Any);
                if self.traffic.kinds == Kinds::All && self.rng.u8(0..10) == 0 {
                    step.body = self.commands.in_transaction(&mut self.rng);
                }
                if at == 0 {
                    step.body.insert("startTransaction", true);
                }
                self.in_transaction(&mut step.body);
                step
            })
            .collect()
    }

    fn in_transaction(&self, body: &mut Document) {
        body.insert("lsid", self.lsid());
        body.insert("txnNumber", self.number);
        body.insert("autocommit", false);
    }

    fn lsid(&self) -> Document {
        doc! {"id": Binary { subtype: BinarySubtype::Uuid, bytes: self.session.to_vec() }}
    }
}

#[derive(Debug, Clone, Copy)]
enum Draw {
    Write,
    Quiet,
    Silent,
    HangUp,
    Slow,
    Retried,
    Transaction,
    Compared,
    Collections,
}

/// FNV-1a.
fn name_hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
