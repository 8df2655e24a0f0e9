//! Dead letters: keys that are not equal yet, because the target refuses their documents.

use bson::raw::RawDocumentBuf;
use record::{Key, Namespace};
use serde::{Deserialize, Serialize};

use super::State;

/// Dead letters kept; beyond that the key's namespace becomes dirty. About 300 bytes each.
pub const DEAD_LETTERS_MAX: usize = 10_000;

/// A key that is not equal yet, because the target refused its document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Counts up; names the letter in the API.
    pub id: u64,
    /// `db.coll`.
    pub namespace: String,
    /// `{_id: …}` as raw BSON, in hexadecimal.
    pub key_bson: String,
    /// `_id` for a person.
    pub key: String,
    /// The target's code.
    pub code: Option<i32>,
    /// The target's words.
    pub reason: String,
    /// Milliseconds since 1970.
    pub since_ms: u64,
}

impl DeadLetter {
    /// The key that is not equal yet.
    pub fn key(&self) -> Option<Key> {
        let bytes = from_hex(&self.key_bson)?;
        Key::of(&RawDocumentBuf::from_bytes(bytes).ok()?)
    }
}

impl State {
    /// The dead letters, oldest first.
    pub fn dead_letters(&self) -> &[DeadLetter] {
        &self.content.dead_letters
    }

    /// Keeps a dead letter for `key`, instead of an older one; `false` when the store is full.
    pub fn add_dead_letter(
        &mut self,
        ns: &Namespace,
        key: &Key,
        code: Option<i32>,
        reason: &str,
        now_ms: u64,
    ) -> bool {
        self.remove_dead_letter(ns, key);
        if self.content.dead_letters.len() >= DEAD_LETTERS_MAX {
            return false;
        }
        let letter = DeadLetter {
            id: self.content.next_letter,
            namespace: ns.as_str().to_owned(),
            key_bson: to_hex(key.filter().as_bytes()),
            key: bson::Bson::try_from(key.id())
                .map_or_else(|_| "?".to_owned(), |id| id.into_relaxed_extjson().to_string()),
            code,
            reason: reason.to_owned(),
            since_ms: now_ms,
        };
        self.content.next_letter += 1;
        self.content.dead_letters.push(letter);
        self.changed = true;
        true
    }

    /// Forgets the dead letters of a collection that is not there any more; yields their keys.
    pub fn remove_dead_letters_of(&mut self, ns: &Namespace) -> Vec<Key> {
        let gone = self.content.dead_letters.extract_if(.., |letter| letter.namespace == ns.as_str());
        let keys: Vec<Key> = gone.filter_map(|letter| letter.key()).collect();
        self.changed |= !keys.is_empty();
        keys
    }

    /// Forgets the dead letter of `key`.
    pub fn remove_dead_letter(&mut self, ns: &Namespace, key: &Key) {
        let before = self.content.dead_letters.len();
        let bson = to_hex(key.filter().as_bytes());
        self.content.dead_letters.retain(|letter| letter.namespace != ns.as_str() || letter.key_bson != bson);
        self.changed |= before != self.content.dead_letters.len();
    }
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    #[allow(clippy::cast_possible_truncation)]
    digits.map(|digits| digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}
