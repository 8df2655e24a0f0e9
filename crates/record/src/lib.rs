//! One captured write: what it touched, whether it is certain, and its versioned encoding.
//!
//! - a [`Mark`] says that a write is about to be forwarded and what it may touch
//! - an [`Entry`] says what a write did, or may have done; it names its mark
//! - a closing record says that a marked write did nothing
//! - a [`Touch`] covers at least what may have changed: a key, a predicate, a namespace or a database
//!
//! Payloads are BSON with a version number: an unknown version is refused, never guessed at.
//! Not here: where the bytes are kept (`synclog`), what a command means (`capture`).

mod codec;
mod entry;
mod json;
mod key;
mod namespace;
mod writer;

pub use codec::{DecodeError, Record, RecordKind};
pub use entry::{Doubt, Effect, Entry, Mark, Op, Over, Predicate, Raw, Target, Touch};
pub use json::{Show, json};
pub use key::Key;
pub use namespace::Namespace;
