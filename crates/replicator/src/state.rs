//! What the replicator must remember beside the log: dirty namespaces, dead letters, what it was told.
//!
//! One small JSON file beside the segments, replaced as a whole (written aside, synced, renamed, folder synced)
//! before the cursor passes the entries that made it change. Lost or unreadable: everything is dirty.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bson::raw::RawDocumentBuf;
use record::{Key, Namespace};
use serde::{Deserialize, Serialize};

use crate::feeds::Tokens;
use crate::tuning::Retuned;

/// The file's name in the log's folder.
const FILE: &str = "replicator.json";
/// Dead letters kept; beyond that the key's namespace becomes dirty. About 300 bytes each.
pub const DEAD_LETTERS_MAX: usize = 10_000;

/// What the worker was told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Follow.
    #[default]
    Running,
    /// Keep connections, apply nothing.
    Paused,
    /// Close the target.
    Stopped,
}

/// Whether writes pass without being captured, because somebody wants it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Bypass {
    /// No.
    #[default]
    Off,
    /// By an order, which holds over restarts.
    On,
    /// Capture is back, and what passed before may still be at work on the source.
    Ending,
    /// By the configuration.
    Configured,
}

/// Which namespaces are captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Filter {
    /// `sync.include`.
    pub include: Vec<String>,
    /// `sync.exclude`.
    pub exclude: Vec<String>,
}

/// What made a namespace dirty, as far as it tells whether documents may be missing on the source by intention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// A captured command over options or indexes: documents are followed, and need no comparison.
    Shape,
    /// Nothing: a comparison was asked for. Any other cause replaces it.
    Asked,
    /// A captured write: what is missing was deleted by it, or may have been.
    Written,
    /// Nothing that we saw: what is missing on the source may have been lost there. A write that comes as well explains
    /// no more than itself.
    #[default]
    Unknown,
    /// A captured command that may have dropped or renamed the collection.
    Dropped,
}

/// Whether documents may have been lost on the source, so that none is deleted by following.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// No.
    #[default]
    No,
    /// As long as no captured command explains that the collection is gone, or is another one.
    Unexplained,
    /// Until a person confirms it, or a captured command drops the collection.
    Lost,
}

/// Why a namespace needs a full comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dirty {
    /// For a person.
    pub reason: String,
    /// Milliseconds since 1970.
    pub since_ms: u64,
    /// It had documents before dualsync came, or the target had.
    pub not_copied_yet: bool,
    /// The most telling of all that made it dirty.
    #[serde(default)]
    pub cause: Cause,
    /// Whether its documents may have been lost on the source.
    #[serde(default)]
    pub keep: Keep,
}

impl Dirty {
    /// Dirty from now on.
    pub fn new(reason: &str, cause: Cause, now_ms: u64) -> Dirty {
        Dirty { reason: reason.to_owned(), since_ms: now_ms, not_copied_yet: false, cause, keep: Keep::No }
    }
}

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

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Content {
    version: u32,
    log_id: String,
    desired: Desired,
    #[serde(default)]
    bypass: Bypass,
    source_seen: bool,
    target_seen: bool,
    #[serde(default)]
    filter: Filter,
    everything_dirty: Option<Dirty>,
    dirty: BTreeMap<String, Dirty>,
    dead_letters: Vec<DeadLetter>,
    next_letter: u64,
    #[serde(default)]
    retuned: Retuned,
    /// Which collections of the source are followed, by name.
    #[serde(default)]
    uuids: BTreeMap<String, String>,
    /// By which the target knows this log; `None`: the file that knew them was lost.
    #[serde(default)]
    tokens: Option<Tokens>,
    /// Which process, by which election, answered for the source; `None`: none yet.
    #[serde(default)]
    source_process: Option<String>,
    /// Which data it had.
    #[serde(default)]
    source_data: Option<String>,
}

/// The remembered state; changes reach the disk with [`State::save`].
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    content: Content,
    changed: bool,
}

/// A state on its way to the disk.
pub struct Unsaved {
    path: PathBuf,
    content: Content,
}

impl Unsaved {
    /// Writes it, so that it survives a crash of the host.
    /// On a full disk the old one stays as it is, and what there is of the new one is given back.
    pub fn write(&self) -> io::Result<()> {
        let aside = self.path.with_extension("json.new");
        self.write_aside(&aside).inspect_err(|_| drop(fs::remove_file(&aside)))?;
        fs::rename(&aside, &self.path)?;
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }

    fn write_aside(&self, aside: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(aside)?;
        file.write_all(&serde_json::to_vec_pretty(&self.content)?)?;
        file.sync_all()
    }
}

impl State {
    /// Reads the state of the log `log_id` in `dir`. A missing one is new when the log is; else, like one that
    /// cannot be read, it means that everything is dirty.
    pub fn open(dir: &Path, log_id: &str, log_is_new: bool, now_ms: u64) -> State {
        let path = dir.join(FILE);
        let new = Content { version: 1, log_id: log_id.to_owned(), next_letter: 1, ..Content::default() };
        let mut state = State { path, content: new, changed: true };
        let lost = match fs::read(&state.path) {
            Ok(bytes) => match serde_json::from_slice::<Content>(&bytes) {
                Ok(content) if content.version == 1 && content.log_id == log_id => {
                    state.content = content;
                    state.changed = false;
                    None
                }
                Ok(_) => Some("the replicator's state belongs to another log or version".to_owned()),
                Err(error) => Some(format!("the replicator's state cannot be read: {error}")),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound && log_is_new => {
                state.content.tokens = Some(Tokens::default());
                None
            }
            Err(error) => Some(format!("the replicator's state is missing: {error}")),
        };
        if let Some(reason) = lost {
            state.set_everything_dirty(Dirty::new(&reason, Cause::Unknown, now_ms));
        }
        state
    }

    /// Makes everything dirty in the state that `dir` holds; nothing to do when it holds none.
    pub fn note_capture_off(dir: &Path, now_ms: u64) -> io::Result<()> {
        let path = dir.join(FILE);
        let Ok(bytes) = fs::read(&path) else { return Ok(()) };
        let content = serde_json::from_slice(&bytes)?;
        let mut state = State { path, content, changed: false };
        let reason = "syncing was switched off for a time";
        state.set_everything_dirty(Dirty::new(reason, Cause::Unknown, now_ms));
        state.save()
    }

    /// What has to be written, if something has changed since it was last taken.
    pub fn take_unsaved(&mut self) -> Option<Unsaved> {
        std::mem::replace(&mut self.changed, false)
            .then(|| Unsaved { path: self.path.clone(), content: self.content.clone() })
    }

    /// What was taken could not be written.
    pub fn not_saved(&mut self) {
        self.changed = true;
    }

    /// Writes what has changed, so that it survives a crash of the host.
    pub fn save(&mut self) -> io::Result<()> {
        let saved = self.take_unsaved().map_or(Ok(()), |unsaved| unsaved.write());
        self.changed |= saved.is_err();
        saved
    }

    /// What the worker was told.
    pub fn desired(&self) -> Desired {
        self.content.desired
    }

    /// Remembers what the worker is told.
    pub fn set_desired(&mut self, desired: Desired) {
        self.changed |= self.content.desired != desired;
        self.content.desired = desired;
    }

    /// What was ordered beside the configuration.
    pub fn retuned(&self) -> Retuned {
        self.content.retuned
    }

    /// Remembers what was ordered beside the configuration.
    pub fn set_retuned(&mut self, retuned: Retuned) {
        self.changed |= self.content.retuned != retuned;
        self.content.retuned = retuned;
    }

    /// Whether capture is out of the way.
    pub fn bypass(&self) -> Bypass {
        self.content.bypass
    }

    /// Remembers whether capture is out of the way.
    pub fn set_bypass(&mut self, bypass: Bypass) {
        self.changed |= self.content.bypass != bypass;
        self.content.bypass = bypass;
    }

    /// Whether the source has been looked at for documents from before.
    pub fn source_seen(&self) -> bool {
        self.content.source_seen
    }

    /// The source has been looked at.
    pub fn set_source_seen(&mut self) {
        self.content.source_seen = true;
        self.changed = true;
    }

    /// What was captured before.
    pub fn filter(&self) -> &Filter {
        &self.content.filter
    }

    /// Remembers what is captured from now on.
    pub fn set_filter(&mut self, filter: &Filter) {
        self.changed |= self.content.filter != *filter;
        self.content.filter.clone_from(filter);
    }

    /// Whether the target has been looked at for documents from before.
    pub fn target_seen(&self) -> bool {
        self.content.target_seen
    }

    /// The target has been looked at.
    pub fn set_target_seen(&mut self) {
        self.content.target_seen = true;
        self.changed = true;
    }

    /// The dirty namespaces.
    pub fn dirty(&self) -> impl Iterator<Item = (Namespace, &Dirty)> {
        self.content.dirty.iter().map(|(name, dirty)| (Namespace::parse(name), dirty))
    }

    /// Set when nothing can be trusted without a full comparison.
    pub fn everything_dirty(&self) -> Option<&Dirty> {
        self.content.everything_dirty.as_ref()
    }

    /// Makes `ns` dirty; says whether it was not before. What it was dirty for already stays the reason, but the
    /// more telling cause counts.
    pub fn set_dirty(&mut self, ns: &Namespace, dirty: Dirty) -> bool {
        if let Some(known) = self.content.dirty.get_mut(ns.as_str()) {
            self.changed |= known.cause < dirty.cause || known.keep != dirty.keep;
            let keep = if dirty.cause == Cause::Dropped { Keep::No } else { known.keep.max(dirty.keep) };
            let first = known.cause == Cause::Shape && dirty.cause > Cause::Shape;
            if known.cause <= Cause::Asked && known.cause < dirty.cause {
                *known = dirty;
            } else {
                known.cause = known.cause.max(dirty.cause);
            }
            known.keep = keep;
            return first;
        }
        self.content.dirty.insert(ns.as_str().to_owned(), dirty);
        self.changed = true;
        true
    }

    /// `ns` has been compared as a whole, or was expanded into its collections.
    pub fn clear_dirty(&mut self, ns: &Namespace) {
        self.changed |= self.content.dirty.remove(ns.as_str()).is_some();
    }

    /// Each namespace has been made dirty by itself.
    pub fn clear_everything_dirty(&mut self) {
        self.changed |= self.content.everything_dirty.take().is_some();
    }

    /// Makes everything dirty; says whether it was not before.
    pub fn set_everything_dirty(&mut self, dirty: Dirty) -> bool {
        let known = self.content.everything_dirty.as_ref();
        let new = known.is_none_or(|known| known.cause < dirty.cause);
        if new {
            self.content.everything_dirty = Some(dirty);
            self.changed = true;
        }
        new
    }

    /// The source's collection of this name that is followed; `None` before it was first met.
    pub fn uuid(&self, ns: &Namespace) -> Option<&str> {
        self.content.uuids.get(ns.as_str()).map(String::as_str)
    }

    /// Follows this collection under its name from now on; `None`: there is none.
    pub fn set_uuid(&mut self, ns: &Namespace, uuid: Option<&str>) {
        if self.uuid(ns) == uuid {
            return;
        }
        self.changed = true;
        match uuid {
            Some(uuid) => drop(self.content.uuids.insert(ns.as_str().to_owned(), uuid.to_owned())),
            None => drop(self.content.uuids.remove(ns.as_str())),
        }
    }

    /// The followed collections and their uuids.
    pub fn uuids(&self) -> impl Iterator<Item = (Namespace, &str)> {
        self.content.uuids.iter().map(|(name, uuid)| (Namespace::parse(name), uuid.as_str()))
    }

    /// What has made `ns` dirty by itself, if it is.
    pub fn cause(&self, ns: &Namespace) -> Option<Cause> {
        self.content.dirty.get(ns.as_str()).map(|dirty| dirty.cause)
    }

    /// Whether no document of `ns` may be deleted by following.
    pub fn keeps(&self, ns: &Namespace) -> bool {
        self.content.dirty.get(ns.as_str()).is_some_and(|dirty| dirty.keep != Keep::No)
    }

    /// A captured command may have made the source's collection of this name anew, or those of this database: which ones
    /// they are now is not known, and that they are others is no wonder any more.
    pub fn may_be_anew(&mut self, ns: &Namespace) {
        let content = &mut self.content;
        let before = content.uuids.len();
        if ns.coll().is_empty() {
            content.uuids.retain(|name, _| Namespace::parse(name).db() != ns.db());
        } else {
            content.uuids.remove(ns.as_str());
        }
        self.changed |= content.uuids.len() != before;
        for (name, dirty) in &mut content.dirty {
            let name = Namespace::parse(name);
            let meant = name == *ns || (ns.coll().is_empty() && name.db() == ns.db());
            if meant && dirty.keep == Keep::Unexplained {
                dirty.keep = Keep::No;
                self.changed = true;
            }
        }
    }

    /// Which process, by which election, answered for the source; `None`: none yet.
    pub fn source_process(&self) -> Option<&str> {
        self.content.source_process.as_deref()
    }

    /// Which data the source had then; `None`: not known.
    pub fn source_data(&self) -> Option<&str> {
        self.content.source_data.as_deref()
    }

    /// All that it may have taken back when it was started is dealt with.
    pub fn set_source(&mut self, process: &str, data: Option<String>) {
        self.content.source_process = Some(process.to_owned());
        self.content.source_data = data;
        self.changed = true;
    }

    /// By which the target knows this log; `None`: the file that knew them was lost.
    pub fn tokens(&self) -> Option<&Tokens> {
        self.content.tokens.as_ref()
    }

    /// Remembers them.
    pub fn set_tokens(&mut self, tokens: Option<Tokens>) {
        self.changed |= self.content.tokens != tokens;
        self.content.tokens = tokens;
    }

    /// Whether `ns`, its database or everything is dirty.
    pub fn is_dirty(&self, ns: &Namespace) -> bool {
        let dirty = &self.content.dirty;
        dirty.get(ns.as_str()).is_some_and(|dirty| dirty.cause > Cause::Shape)
            || dirty.contains_key(ns.db())
            || self.content.everything_dirty.is_some()
    }

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

impl DeadLetter {
    /// The key that is not equal yet.
    pub fn key(&self) -> Option<Key> {
        let bytes = from_hex(&self.key_bson)?;
        Key::of(&RawDocumentBuf::from_bytes(bytes).ok()?)
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    #[allow(clippy::cast_possible_truncation)]
    digits.map(|digits| digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn what_is_saved_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let ns = Namespace::new("d", "c");
        let key = Key::of(&rawdoc! {"_id": {"a": "ü"}}).unwrap();
        let mut state = State::open(dir.path(), "id", true, 1);
        state.set_desired(Desired::Paused);
        state.set_dirty(&ns, Dirty { not_copied_yet: true, ..Dirty::new("because", Cause::Unknown, 7) });
        assert!(!state.set_dirty(&ns, Dirty::new("another", Cause::Dropped, 8)));
        assert!(state.add_dead_letter(&ns, &key, Some(121), "refused", 8));
        state.save().unwrap();

        let state = State::open(dir.path(), "id", false, 9);
        assert_eq!(state.desired(), Desired::Paused);
        assert!(state.dirty().any(|(name, dirty)| name == ns && dirty.reason == "because"));
        assert!(state.dirty().all(|(_, dirty)| dirty.not_copied_yet && dirty.cause == Cause::Dropped));
        assert_eq!(state.dead_letters()[0].key(), Some(key));
        assert!(state.everything_dirty().is_none());
    }

    #[test]
    fn what_is_kept_is_let_go_by_what_explains_it() {
        let dir = tempfile::tempdir().unwrap();
        let ns = Namespace::new("d", "c");
        let keep = |keep| Dirty { keep, ..Dirty::new("because", Cause::Written, 7) };
        let mut state = State::open(dir.path(), "id", true, 1);
        for (first, explained) in [(Keep::Unexplained, true), (Keep::Lost, false)] {
            state.set_uuid(&ns, Some("before"));
            state.set_dirty(&ns, keep(first));
            state.set_dirty(&ns, Dirty::new("written to", Cause::Written, 8));
            assert!(state.keeps(&ns));
            state.may_be_anew(&ns);
            assert_eq!((state.keeps(&ns), state.uuid(&ns)), (!explained, None));
            state.set_dirty(&ns, Dirty::new("dropped", Cause::Dropped, 9));
            assert!(!state.keeps(&ns));
            state.clear_dirty(&ns);
        }
    }

    #[test]
    fn a_lost_or_damaged_state_makes_everything_dirty() {
        let dir = tempfile::tempdir().unwrap();
        assert!(State::open(dir.path(), "id", true, 1).everything_dirty().is_none());
        assert!(State::open(dir.path(), "id", false, 1).everything_dirty().is_some());
        fs::write(dir.path().join(FILE), b"{ not json").unwrap();
        assert!(State::open(dir.path(), "id", true, 1).everything_dirty().is_some());
    }
}
