//! One transaction on the target, from its first statement to its commit.

use std::sync::atomic::Ordering;

use bson::raw::RawDocumentBuf;
use mongodb::error::{Error, ErrorKind, TRANSIENT_TRANSACTION_ERROR};
use mongodb::options::WriteConcern;
use mongodb::{Client, ClientSession};
use record::Namespace;

use super::{Reply, Target, Validation, read_reply};
use crate::error::{Class, ServerError};
use crate::server::answered;

/// What became of a part of it.
#[derive(Debug)]
pub enum Tried<T> {
    /// It is done, or will be with the commit.
    Done(T),
    /// The server says no: nothing of the transaction is done, nor will be.
    Undone(ServerError),
}

/// A transaction that is under way. One that is dropped is undone: by the driver, or when the next generation of connections
/// begins ([`Target::fence`]).
pub struct Transaction<'a> {
    target: &'a Target,
    client: &'a Client,
    session: ClientSession,
}

impl Target {
    /// Begins a transaction. Nothing is sent yet.
    pub async fn transaction(&self) -> Result<Transaction<'_>, ServerError> {
        let client = self.client().await?;
        let mut session = client.start_session().await?;
        session.start_transaction().write_concern(WriteConcern::majority()).await?;
        Ok(Transaction { target: self, client, session })
    }
}

impl Transaction<'_> {
    /// Sends a write command (made without its write concern). The error: the connection is gone.
    pub async fn write(
        &mut self,
        ns: &Namespace,
        mut command: RawDocumentBuf,
        validation: Validation,
    ) -> Result<Tried<Reply>, ServerError> {
        if validation == Validation::Bypassed && self.target.bypass.load(Ordering::Relaxed) {
            command.append(bson::cstr!("bypassDocumentValidation"), true);
        }
        let db = self.client.database(ns.db());
        let sent = db.run_raw_command(command).session(&mut self.session);
        match answered("a statement of a transaction", sent).await? {
            Ok(reply) => Ok(Tried::Done(read_reply(&reply))),
            Err(error) if is_answer(&error) => Ok(Tried::Undone(error.into())),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives it up.
    pub async fn abort(mut self) {
        // Where that fails the server does it by itself.
        let _ = answered("an abort", self.session.abort_transaction()).await;
    }

    /// Commits with `w: "majority"`. The error: it may be done, or not.
    pub async fn commit(mut self) -> Result<Tried<()>, ServerError> {
        match answered("a commit", self.session.commit_transaction()).await? {
            Ok(()) => Ok(Tried::Done(())),
            //= commit, answered with this label: not committed
            Err(error) if is_answer(&error) && error.contains_label(TRANSIENT_TRANSACTION_ERROR) => {
                Ok(Tried::Undone(error.into()))
            }
            Err(error) => Err(ServerError { class: Class::Unknown, ..error.into() }),
        }
    }
}

/// Whether the server has answered.
fn is_answer(error: &Error) -> bool {
    matches!(error.kind.as_ref(), ErrorKind::Command(_))
}
