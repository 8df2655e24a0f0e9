//! Writes a document of nested ones into one buffer: nothing is written twice, as it is where each level is made by
//! itself and then added to the one above.

use bson::RawBsonRef;
use bson::raw::{CStr, RawDocument, RawDocumentBuf};

/// A document under way.
pub(crate) struct Writer(Vec<u8>);

/// Where a document began that is not ended yet.
#[must_use = "what was begun has to be ended"]
pub(crate) struct Begun(usize);

impl Writer {
    /// With room for so many bytes of what is large in it.
    pub(crate) fn new(bytes: usize) -> Writer {
        let mut out = Vec::with_capacity(bytes + ROOM_BYTES);
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        Writer(out)
    }

    /// A small value.
    pub(crate) fn value<'a>(&mut self, name: &CStr, value: impl Into<RawBsonRef<'a>>) {
        match value.into() {
            RawBsonRef::Int32(number) => self.plain(0x10, name, &number.to_le_bytes()),
            RawBsonRef::Int64(number) => self.plain(0x12, name, &number.to_le_bytes()),
            RawBsonRef::Boolean(flag) => self.plain(0x08, name, &[u8::from(flag)]),
            RawBsonRef::Timestamp(ts) => {
                let number = (u64::from(ts.time) << 32) | u64::from(ts.increment);
                self.plain(0x11, name, &number.to_le_bytes());
            }
            RawBsonRef::String(text) => {
                self.plain(0x02, name, &length(text.len() + 1));
                self.0.extend_from_slice(text.as_bytes());
                self.0.push(0);
            }
            // Nothing else is in a record; written as the library writes it.
            other => {
                let mut one = RawDocumentBuf::new();
                one.append(name, other);
                let bytes = one.as_bytes();
                self.0.extend_from_slice(&bytes[LENGTH_BYTES..bytes.len() - 1]);
            }
        }
    }

    /// A document that is there already.
    pub(crate) fn document(&mut self, name: &CStr, document: &RawDocument) {
        self.plain(TYPE_DOCUMENT, name, document.as_bytes());
    }

    /// A document or an array, whose fields follow.
    pub(crate) fn begin(&mut self, name: &CStr, kind: u8) -> Begun {
        self.plain(kind, name, &[]);
        self.begun()
    }

    /// The next document of an array.
    pub(crate) fn begin_nth(&mut self, nth: usize) -> Begun {
        self.0.push(TYPE_DOCUMENT);
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = nth;
        loop {
            at -= 1;
            // A digit.
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&digits[at..]);
        self.0.push(0);
        self.begun()
    }

    pub(crate) fn end(&mut self, begun: Begun) {
        self.0.push(0);
        let bytes = length(self.0.len() - begun.0);
        self.0[begun.0..begun.0 + LENGTH_BYTES].copy_from_slice(&bytes);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.end(Begun(0));
        self.0
    }

    fn begun(&mut self) -> Begun {
        let at = self.0.len();
        self.0.extend_from_slice(&[0; LENGTH_BYTES]);
        Begun(at)
    }

    fn plain(&mut self, kind: u8, name: &CStr, bytes: &[u8]) {
        self.0.push(kind);
        self.0.extend_from_slice(name.as_str().as_bytes());
        self.0.push(0);
        self.0.extend_from_slice(bytes);
    }
}

/// Records are far below 2 GiB.
fn length(bytes: usize) -> [u8; LENGTH_BYTES] {
    i32::try_from(bytes).unwrap_or(i32::MAX).to_le_bytes()
}

pub(crate) const TYPE_ARRAY: u8 = 0x04;
const TYPE_DOCUMENT: u8 = 0x03;
const LENGTH_BYTES: usize = 4;
/// For what is small.
const ROOM_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use bson::{Timestamp, cstr, rawdoc};

    use super::*;

    #[test]
    fn it_writes_what_the_library_writes() {
        let inner = rawdoc! { "a": [1, { "b": "c" }] };
        let mut out = Writer::new(0);
        out.value(cstr!("v"), 1);
        out.value(cstr!("m"), -5_i64);
        out.value(cstr!("x"), true);
        out.value(cstr!("c"), "127.0.0.1:1");
        out.value(cstr!("ts"), Timestamp { time: 7, increment: 9 });
        out.value(cstr!("f"), 0.5);
        let list = out.begin(cstr!("w"), TYPE_ARRAY);
        for nth in 0..12 {
            let each = out.begin_nth(nth);
            out.document(cstr!("k"), &inner);
            out.end(each);
        }
        out.end(list);
        let each = || rawdoc! { "k": inner.clone() };
        let expected = rawdoc! {
            "v": 1, "m": -5_i64, "x": true, "c": "127.0.0.1:1", "ts": Timestamp { time: 7, increment: 9 }, "f": 0.5,
            "w": [each(), each(), each(), each(), each(), each(), each(), each(), each(), each(), each(), each()],
        };
        assert_eq!(out.finish(), expected.as_bytes());
    }
}
