//! What it takes to look at a request, told before it is taken.
//!
//! A message of a few KiB can inflate to a million statements of five bytes, and one `let` is kept with each statement
//! that it is for: bytes alone do not tell.

use bson::raw::{RawBsonRef, RawDocument};
use wire::OpMsg;

use crate::Session;
use crate::commands::Command;
use crate::read::{array, document};

impl Session {
    /// About how many bytes [`request`](Self::request), and the write that it makes of this uncompressed frame, take until
    /// the write's outcome is encoded, besides the frame itself.
    pub fn weigh(&self, frame: &[u8]) -> usize {
        let Ok(message) = OpMsg::parse(frame) else { return 0 };
        let body = message.body();
        let first = body.iter_elements().next().and_then(Result::ok);
        let command = first.map_or(Command::Unknown, |first| Command::named(first.key().as_str()));
        let Some(list) = list(command) else {
            let copies = if command == Command::FindAndModify { 1 + KEY_COPIES } else { 1 };
            return copies * frame.len();
        };
        let each = STATEMENT_BYTES + LET_COPIES * document(body, "let").map_or(0, |it| it.as_bytes().len());
        let mut weight = frame.len();
        let mut without_id = false;
        for (nth, statement) in documents(&message, list).enumerate() {
            if nth == STATEMENTS_MAX {
                // No server takes so many, and nobody looks at them.
                return 0;
            }
            let key = statement.map_or(Some(0), |statement| key_bytes(command, statement));
            without_id |= key.is_none();
            weight = weight.saturating_add(each + KEY_COPIES * key.unwrap_or_default());
        }
        // The frame with the missing `_id`s, and its sections until it is whole.
        weight + if without_id { 2 * frame.len() } else { 0 }
    }
}

/// Whether a batch has more statements than any server takes: 16, InvalidLength, and nothing is run (`wire-facts.md` 1.3).
pub(crate) fn too_many(command: Command, message: &OpMsg<'_>) -> bool {
    list(command).is_some_and(|list| documents(message, list).nth(STATEMENTS_MAX).is_some())
}

/// The field that holds a command's statements.
fn list(command: Command) -> Option<&'static str> {
    match command {
        Command::Insert => Some("documents"),
        Command::Update => Some("updates"),
        Command::Delete => Some("deletes"),
        Command::BulkWrite => Some("ops"),
        _ => None,
    }
}

/// What is in a list, in the body and in sequences; `None` among them: what is no document.
fn documents<'a>(
    message: &'a OpMsg<'_>,
    list: &'static str,
) -> impl Iterator<Item = Option<&'a RawDocument>> {
    let in_body = array(message.body(), list).into_iter().flatten();
    let in_body = in_body.map(|value| value.ok().and_then(RawBsonRef::as_document));
    let in_sequences = message.sequences().filter(move |sequence| sequence.identifier == list);
    in_body.chain(in_sequences.flat_map(|sequence| sequence.documents().map(Some)))
}

/// How much of a statement becomes its touch; `None`: an inserted document without an `_id`.
fn key_bytes(command: Command, statement: &RawDocument) -> Option<usize> {
    let of = |document: &RawDocument, name: &str| {
        let mut elements = document.iter_elements().flatten();
        elements.find(|element| element.key().as_str() == name).map(|element| element.size())
    };
    let but = |name: &str| statement.as_bytes().len() - of(statement, name).unwrap_or_default();
    match (command, document(statement, "document")) {
        (Command::Insert, _) => of(statement, "_id"),
        (Command::BulkWrite, Some(inserted)) => Some(of(inserted, "_id").unwrap_or_default()),
        (Command::BulkWrite, None) => Some(but("updateMods")),
        _ => Some(but("u")),
    }
}

/// `maxWriteBatchSize` of every server.
const STATEMENTS_MAX: usize = 100_000;
/// A statement, its place among those in flight, its effect.
const STATEMENT_BYTES: usize = 768;
/// A key, or a filter, stands in the touch twice, in the mark's touches twice, and in the entry.
const KEY_COPIES: usize = 5;
/// In the touch, the mark's and the entry.
const LET_COPIES: usize = 3;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed setup fails the test")]
mod tests {
    use bson::raw::RawDocumentBuf;
    use bson::rawdoc;
    use wire::{Flags, Section, Sequence, encode_msg};

    use super::*;
    use crate::{Capture, Config};

    fn frame(command: &RawDocument, list: &str, documents: &[RawDocumentBuf]) -> Vec<u8> {
        let bytes: Vec<u8> = documents.iter().flat_map(|document| document.as_bytes().to_vec()).collect();
        let sequence = Section::Sequence(Sequence::new(list, &bytes).unwrap());
        encode_msg(1, 0, Flags::default(), &[Section::Body(command), sequence]).unwrap()
    }

    /// Bytes besides the frame and a copy of it, in tenths of the frame.
    fn tenths_more(frame: &[u8]) -> usize {
        let session = Capture::new(Config::default()).session(String::new());
        10 * session.weigh(frame).saturating_sub(frame.len()) / frame.len()
    }

    #[test]
    fn what_is_small_on_the_wire_and_large_to_keep_is_heavy() {
        let insert = rawdoc! { "insert": "c", "$db": "d" };
        let check = |documents: &[RawDocumentBuf], tenths| {
            assert_eq!(tenths_more(&frame(&insert, "documents", documents)), tenths);
        };
        let long = "x".repeat(100_000);
        check(&[rawdoc! { "_id": 1, "x": &long[..] }], 0);
        // Once more, and the parts of which it is made.
        check(&[rawdoc! { "x": &long[..] }], 20);
        check(&[rawdoc! { "_id": &long[..] }], 50);
        check(&vec![rawdoc! { "_id": 1 }; 1_000], 560);

        let delete = rawdoc! { "delete": "c", "let": { "x": &long[..] }, "$db": "d" };
        let deletes = vec![rawdoc! { "q": {}, "limit": 0 }; 100];
        assert_eq!(
            tenths_more(&frame(&delete, "deletes", &deletes)) / 100,
            29,
            "let goes with each statement"
        );

        let update = rawdoc! { "update": "c", "$db": "d" };
        let change = rawdoc! { "q": { "_id": 1 }, "u": { "$set": { "x": &long[..] } } };
        assert_eq!(tenths_more(&frame(&update, "updates", &[change])), 0);
        let find = rawdoc! { "q": { "x": &long[..] }, "u": { "$set": { "x": 1 } } };
        assert_eq!(tenths_more(&frame(&update, "updates", &[find])), 50);
    }

    //= maxWriteBatchSize: 100,001 are refused with 16, nothing applied (wire-facts.md 1.3)
    #[test]
    fn what_no_server_takes_is_not_kept() {
        let session = Capture::new(Config::default()).session(String::new());
        for (command, list) in [("insert", "documents"), ("update", "updates"), ("delete", "deletes")] {
            let command = RawDocumentBuf::try_from(&bson::doc! { command: "c", "$db": "d" }).unwrap();
            let frame = frame(&command, list, &vec![RawDocumentBuf::new(); STATEMENTS_MAX + 1]);
            assert_eq!(session.weigh(&frame), 0);
            let write = session.request(&frame).unwrap();
            assert!(matches!(&write.job, crate::outcome::Job::Coarse { targets, .. } if targets.len() == 1));
            let ended = write.never_sent(0);
            assert!(ended.appends.is_empty());
        }
    }
}
