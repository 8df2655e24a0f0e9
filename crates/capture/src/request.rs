//! A client's requests: which are to be captured, and what they may touch.

use std::collections::BTreeSet;
use std::sync::Arc;

use bson::raw::{RawBsonRef, RawDocument};
use record::{Namespace, Op};
use wire::{Flags, Header, OpCode, OpMsg};

use crate::bulk::{self, Bulk};
use crate::coarse::{self, Gathered, Place};
use crate::commands::{Coarse, Command, End};
use crate::counters::Kind;
use crate::outcome::{Batch, Job, Refusals};
use crate::read::{array, document, field, integer, number, text};
use crate::statement::{FindAndModify, Statement, Variables};
use crate::transactions::TransactionId;
use crate::write::{Answer, Detail, Write};
use crate::{Capture, insert, weight};

/// How a request is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// As it comes, unseen.
    Pass,
    /// As it comes, but its last byte waits for [`Session::request`] and the mark.
    Watch,
    /// Nothing of it leaves before [`Session::request`] has seen it whole: it may be changed.
    Hold,
}

/// The largest document that a server stores which has not told (`wire-facts.md` 1.3).
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// Watches the requests of one client.
pub struct Session {
    capture: Arc<Capture>,
    via: String,
    document_bytes_max: usize,
}

impl Session {
    pub(crate) fn new(capture: Arc<Capture>, via: String) -> Session {
        Session { capture, via, document_bytes_max: DOCUMENT_BYTES_MAX }
    }

    /// The largest document that the server stores, in bytes, as its hello says (`maxBsonObjectSize`).
    pub fn set_document_bytes_max(&mut self, bytes: usize) {
        self.document_bytes_max = bytes;
    }

    /// How a request with this command (the first key of its body) is forwarded.
    pub fn classify(&self, command: &str) -> Class {
        match Command::named(command) {
            Command::Insert => Class::Hold,
            Command::Reads => Class::Pass,
            Command::GetMore if !self.capture.cursors.any() => Class::Pass,
            _ => Class::Watch,
        }
    }

    /// Looks at a whole request frame. `None`: there is nothing to capture. The write is in flight from here on.
    ///
    /// A compressed frame is looked at inflated; it goes on as it came, unless an `_id` is added.
    pub fn request(&self, frame: &[u8]) -> Option<Write> {
        let header = Header::of(frame).ok()?;
        let inflated = match header.opcode {
            OpCode::Compressed => match wire::inflate(frame) {
                Ok(inner) => Some(inner),
                Err(_) => return Some(self.write(&header, Flags::default(), None, Job::Packed)),
            },
            _ => None,
        };
        let frame = inflated.as_deref().unwrap_or(frame);
        let header = Header::of(frame).ok()?;
        if header.opcode != OpCode::Msg {
            return None;
        }
        //= unknown required flags, a wrong checksum: closed without a reply, nothing is run (wire-facts.md 1.2)
        let message = OpMsg::parse(frame).ok().filter(|message| message.checksum_holds(frame));
        let Some(message) = message else {
            return Some(self.write(&header, flags(frame), None, Job::Unreadable));
        };
        self.command(&message)
    }

    fn command(&self, message: &OpMsg<'_>) -> Option<Write> {
        let body = message.body();
        let first = body.iter_elements().next()?.ok()?;
        let (name, value) = (first.key().as_str(), first.value().ok());
        let command = Command::named(name);
        let db = match body.get("$db") {
            Ok(Some(RawBsonRef::String(db))) => db,
            //= `$db` missing: 40571 (wire-facts.md 1.2); no string: 13111 (seen on 6.0.5)
            Ok(_) => return None,
            Err(_) if matches!(command, Command::Reads | Command::NotReplicated) => return None,
            Err(_) => {
                // The server takes names that are not UTF-8, but refuses a body that is no BSON.
                let is_bson = body.iter_elements().all(|element| element.is_ok());
                let job = if is_bson { Job::Anywhere(refusals(command)) } else { Job::Unreadable };
                return Some(self.write(&message.header, message.flags, Some(body), job));
            }
        };
        let mut replacement = None;
        let job = match command {
            Command::Reads => return None,
            Command::NotReplicated => {
                if !self.captures_some_of(db) {
                    return None;
                }
                Job::NotReplicated(name.to_owned())
            }
            Command::Unknown => {
                if self.captures_some_of(db) {
                    self.capture.counting.unknown.add(name);
                }
                self.by_places(command, db, body, value)?
            }
            Command::End(_) | Command::GetMore | Command::Aggregate | Command::Coarse(_) => {
                self.by_places(command, db, body, value)?
            }
            Command::BulkWrite if weight::too_many(command, message) => Job::Anywhere(refusals(command)),
            Command::BulkWrite => match Bulk::read(message, &self.capture.rules()) {
                Some(bulk::Read::Operations(bulk)) if bulk.is_captured() => Job::Bulk(bulk),
                Some(bulk::Read::Operations(_)) => {
                    self.capture.counting.excluded.add();
                    return None;
                }
                Some(bulk::Read::Places(places)) => self.coarse(places, refusals(command))?,
                None => Job::Anywhere(refusals(command)),
            },
            Command::FindAndModify | Command::Insert | Command::Update | Command::Delete => {
                match value.and_then(crate::read::name) {
                    None => self.coarse([Place::named(db, "")], refusals(command))?,
                    Some(coll) if coarse::stands_for_another(coll) => {
                        self.coarse([Place::named(db, coll)], refusals(command))?
                    }
                    Some(coll) if coarse::is_encrypted(body) => {
                        let mut places = Gathered::default();
                        places.add(Place::named(db, coll));
                        coarse::add_encryption(&mut places, db, body);
                        match places.places() {
                            Some(places) => self.coarse(places, Refusals::Several)?,
                            None => Job::Anywhere(Refusals::Several),
                        }
                    }
                    Some(coll) if command == Command::FindAndModify => {
                        let ns = self.captured(db, coll)?;
                        Job::FindAndModify { ns, find: FindAndModify::read(body, &Variables::of(body)) }
                    }
                    Some(coll) if weight::too_many(command, message) => {
                        self.coarse([Place::named(db, coll)], refusals(command))?
                    }
                    Some(coll) => {
                        let ns = self.captured(db, coll)?;
                        if command == Command::Insert {
                            replacement = insert::with_ids(message, self.document_bytes_max);
                        }
                        let changed = replacement.as_deref().and_then(|frame| OpMsg::parse(frame).ok());
                        Job::Batch(batch(command, ns, changed.as_ref().unwrap_or(message)))
                    }
                }
            }
        };
        Some(Write { replacement, ..self.write(&message.header, message.flags, Some(body), job) })
    }

    /// Looks at the first bytes of a request that is too large to hold and goes on unseen: its namespace is all that
    /// is known of it, if the whole body is among them. `None` when there is nothing to capture.
    pub fn unscanned(&self, head: &[u8]) -> Option<Write> {
        let header = Header::parse(head, usize::MAX).ok()??;
        let body = head.get(BODY_AT..).and_then(|rest| {
            let length = i32::from_le_bytes(*rest.first_chunk::<4>()?);
            RawDocument::from_bytes(rest.get(..usize::try_from(length).ok()?)?).ok()
        });
        let is_body = header.opcode == OpCode::Msg && head.get(BODY_AT - 1) == Some(&0);
        let body = body.filter(|_| is_body);
        let job = match body.and_then(|body| self.without_statements(body)) {
            Some(job) => job?,
            // It may be compressed, or any command.
            None => Job::Anywhere(Refusals::Aggregate),
        };
        Some(self.write(&header, flags(head), body, job))
    }

    /// What a command does of which only the body is known, and the statements may stand in a sequence. `Some(None)`:
    /// there is nothing to capture.
    fn without_statements(&self, body: &RawDocument) -> Option<Option<Job>> {
        let first = body.iter_elements().next()?.ok()?;
        let (value, db) = (first.value().ok(), text(body, "$db")?);
        let command = Command::named(first.key().as_str());
        Some(match command {
            Command::Insert | Command::Update | Command::Delete | Command::FindAndModify => {
                let coll = value.and_then(crate::read::name).unwrap_or_default();
                self.coarse([Place::named(db, coll)], refusals(command))
            }
            Command::BulkWrite => return None,
            _ => self.by_places(command, db, body, value),
        })
    }

    /// The collection, when it is captured.
    fn captured(&self, db: &str, coll: &str) -> Option<Namespace> {
        if self.capture.rules().captures(db, coll) {
            return Some(Namespace::new(db, coll));
        }
        self.capture.counting.excluded.add();
        None
    }

    /// Whether a command in this database, or in `admin`, is worth counting.
    fn captures_some_of(&self, db: &str) -> bool {
        db == "admin" || self.capture.rules().captures_some_of(db)
    }

    /// What a command does that says all in its body, and is no write of documents one by one.
    fn by_places(
        &self,
        command: Command,
        db: &str,
        body: &RawDocument,
        value: Option<RawBsonRef<'_>>,
    ) -> Option<Job> {
        let places = match command {
            Command::End(end) => return self.end(body, end),
            Command::GetMore => {
                let refusals = refusals(command);
                return Some(match self.capture.cursors.target(number(value?)?)? {
                    Some(target) => Job::Coarse { targets: vec![target], refusals, over: None },
                    None => Job::Anywhere(refusals),
                });
            }
            Command::Coarse(command) => coarse::places(command, db, body),
            Command::Aggregate => coarse::aggregate(db, body),
            // Those over several databases are sent there.
            Command::Unknown if db == "admin" => None,
            Command::Unknown => Some(BTreeSet::from([Place::named(db, "")])),
            _ => return None,
        };
        match places {
            Some(places) => {
                let named = match command {
                    Command::Coarse(command) => coarse::over(command, &places, body),
                    _ => None,
                };
                let mut job = self.coarse(places, refusals(command))?;
                if let Job::Coarse { targets, over, .. } = &mut job {
                    // What comes from an excluded collection is not known: only that another one may be gone.
                    let named = named.filter(|(ns, _)| targets.iter().any(|target| target.ns == *ns));
                    *over = named.map(|(ns, over)| (ns, Op::Over(over.statement())));
                }
                Some(job)
            }
            None => Some(Job::Anywhere(refusals(command))),
        }
    }

    /// A job that is followed by these places, as far as they are captured.
    fn coarse(&self, places: impl IntoIterator<Item = Place>, refusals: Refusals) -> Option<Job> {
        let config = self.capture.rules();
        let captured = |place: &Place| match place {
            Place::Collection(ns) => config.captures(ns.db(), ns.coll()),
            Place::Database(ns) => config.captures_some_of(ns.db()),
        };
        let (captured, excluded): (Vec<Place>, Vec<Place>) = places.into_iter().partition(captured);
        if captured.is_empty() {
            if !excluded.is_empty() {
                self.capture.counting.excluded.add();
            }
            return None;
        }
        let targets = captured.into_iter().map(Place::target).collect();
        Some(Job::Coarse { targets, refusals, over: None })
    }

    /// A commit or an abort; of interest when the transaction has captured writes, or may have.
    fn end(&self, body: &RawDocument, end: End) -> Option<Job> {
        let transactions = &self.capture.transactions;
        let id = transaction(body)?;
        let meant = transactions.knows(&id) || transactions.any_strays(&id);
        transactions.end_asked(&id);
        meant.then_some(Job::End(end))
    }

    fn write(&self, header: &Header, flags: Flags, body: Option<&RawDocument>, job: Job) -> Write {
        let concern = body.and_then(|body| document(body, "writeConcern"));
        let w = concern.and_then(|concern| field(concern, "w"));
        let journaled = concern.is_some_and(|concern| crate::read::flag(concern, "j"));
        let answer = if flags.more_to_come() {
            Answer::NoReply
        } else if w.and_then(number) == Some(0) {
            Answer::Nothing
        } else {
            Answer::Outcome
        };
        Write {
            ticket: self.capture.table.enter(&job.targets()),
            capture: Arc::clone(&self.capture),
            via: self.via.clone(),
            request_id: header.request_id,
            replacement: None,
            answer,
            waits_for_durable: journaled || w.and_then(RawBsonRef::as_str) == Some("majority"),
            transaction: body.and_then(transaction),
            in_transaction: body.is_none_or(is_in_transaction),
            job,
            mark: None,
            unmarked: None,
            marked_ms: 0,
            detail: Detail::default(),
        }
    }
}

/// Which replies say that a command did nothing, when it is followed by namespace.
fn refusals(command: Command) -> Refusals {
    match command {
        Command::Aggregate | Command::GetMore => Refusals::Aggregate,
        Command::Insert | Command::Update | Command::Delete | Command::FindAndModify | Command::BulkWrite => {
            Refusals::Single
        }
        Command::Coarse(
            Coarse::Drop
            | Coarse::Collection
            | Coarse::DropDatabase
            | Coarse::Rename
            | Coarse::InternalRename,
        ) => Refusals::Drop,
        Command::Coarse(Coarse::Shape) => Refusals::Shape,
        _ => Refusals::Several,
    }
}

fn batch(command: Command, ns: Namespace, message: &OpMsg<'_>) -> Batch {
    let body = message.body();
    let variables = Variables::of(body);
    let (kind, statements) = match command {
        Command::Insert => (Kind::Insert, statements(message, "documents", Statement::insert)),
        Command::Update => {
            (Kind::Update, statements(message, "updates", |entry| Statement::update(entry, &variables)))
        }
        _ => (Kind::Delete, statements(message, "deletes", |entry| Statement::delete(entry, &variables))),
    };
    let ordered = field(body, "ordered").and_then(number) != Some(0);
    Batch { kind, ns, statements, ordered }
}

/// The statements of a batch, from its body or its sequences.
fn statements<'a>(
    message: &OpMsg<'a>,
    name: &str,
    read: impl Fn(&'a RawDocument) -> Statement,
) -> Vec<Statement> {
    let in_body = array(message.body(), name).into_iter().flatten();
    let in_body = in_body.map(|value| value.ok().and_then(RawBsonRef::as_document));
    let sequences = message.sequences().filter(|sequence| sequence.identifier == name);
    let in_sequences = sequences.flat_map(|sequence| sequence.documents().map(Some));
    let all = in_body.chain(in_sequences).map(|doc| doc.map_or_else(Statement::unreadable, &read));
    let all: Vec<Statement> = all.collect();
    // The server refuses a batch of nothing; one that does not has found what we did not.
    if all.is_empty() { vec![Statement::unreadable()] } else { all }
}

/// Session and number of a transaction or a retryable write (`wire-facts.md` sections 6 and 7).
fn transaction(body: &RawDocument) -> Option<TransactionId> {
    let session = document(body, "lsid").and_then(|lsid| field(lsid, "id"))?.as_binary()?.bytes.to_vec();
    Some(TransactionId { session, number: integer(body, "txnNumber")? })
}

fn is_in_transaction(body: &RawDocument) -> bool {
    field(body, "autocommit").and_then(number) == Some(0)
}

/// The flag bits of an OP_MSG, of which the rest may be unreadable.
fn flags(frame: &[u8]) -> Flags {
    let bits = frame.get(FLAGS_AT..).and_then(|rest| rest.first_chunk::<4>());
    Flags(bits.map_or(0, |bits| u32::from_le_bytes(*bits)))
}

const FLAGS_AT: usize = wire::HEADER_BYTES;
/// Where the body's document starts, when it is the first section.
const BODY_AT: usize = FLAGS_AT + 4 + 1;
