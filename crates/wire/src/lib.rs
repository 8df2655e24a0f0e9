//! Bytes to frames and back: framing, OP_MSG, OP_COMPRESSED, OP_QUERY and OP_REPLY, hello rewriting.
//!
//! - knows no sockets, no clock, no tokio: everything is a function of the bytes handed in
//! - bytes come from the network: they may be anything, and nothing here panics or allocates on their word
//! - what is not understood is an error value ("opaque frame"), never a reason to stop forwarding
//! - all integers on the wire are little endian (`wire-facts.md` 1)
//!
//! Not here: what a command means (`capture`), when bytes move (`proxy`).

mod address;
mod compressed;
mod document;
mod error;
mod frame;
pub mod hello;
mod msg;
mod query;

pub use address::Address;
pub use compressed::{inflate, inflated_bytes};
pub use document::{DocumentWriter, Element, Elements, elements};
pub use error::WireError;
pub use frame::{FRAME_BYTES_MAX, FrameReader, HEADER_BYTES, Head, Header, OpCode};
pub use msg::{
    COMMAND_NAME_BYTES_MAX, Documents, FirstKey, Flags, OpMsg, Section, Sequence, encode_msg, first_key,
    peek_flags,
};
pub use query::{OpQuery, OpReply};
