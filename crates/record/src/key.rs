//! The key of a document: its `_id`, compared as the server compares it.
//!
//! - numbers are equal by value, whatever their type, nested ones too (`5`, `5.0`, `NumberLong(5)`)
//! - strings are equal by bytes: where a collation decides, the caller must not use a key (see [`Key::has_text`])
//! - values may come from anybody: one nested deeper than the server takes is no key, and costs no stack
//! - the stored bytes stay as they came: only the comparison is normalised

use std::fmt;
use std::hash::{Hash, Hasher};

use bson::raw::{RawArray, RawBsonRef, RawDocument, RawDocumentBuf};
use bson::{Decimal128, cstr};

/// The `_id` of one document.
#[derive(Clone)]
pub struct Key {
    /// `{_id: value}`, ready to be used as a filter.
    filter: RawDocumentBuf,
    /// Equal for two keys exactly when the server takes their values for one `_id`.
    canonical: Box<[u8]>,
    has_text: bool,
}

impl Key {
    /// The key with this `_id`. `None` for values that cannot be an `_id`, whose bytes are not well formed, or that
    /// are nested deeper than 200 levels.
    pub fn new(id: RawBsonRef<'_>) -> Option<Key> {
        if matches!(id, RawBsonRef::RegularExpression(_) | RawBsonRef::Array(_) | RawBsonRef::Undefined) {
            return None;
        }
        let mut form = Form { bytes: Vec::with_capacity(16), has_text: false };
        form.value(id, DEPTH_MAX)?;
        let mut filter = RawDocumentBuf::new();
        filter.append(cstr!("_id"), id);
        Some(Key { filter, canonical: form.bytes.into(), has_text: form.has_text })
    }

    /// The key of a whole document. `None` when it has no usable `_id`.
    pub fn of(doc: &RawDocument) -> Option<Key> {
        Key::new(doc.get("_id").ok()??)
    }

    /// `{_id: value}`.
    pub fn filter(&self) -> &RawDocument {
        &self.filter
    }

    /// The value as it came.
    pub fn id(&self) -> RawBsonRef<'_> {
        match self.filter.get("_id") {
            Ok(Some(id)) => id,
            _ => RawBsonRef::Null, // `filter` is only ever made by `new`, with an `_id`
        }
    }

    /// Bytes that are equal exactly when the keys are.
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// Whether the value holds a string, so that a collation could make it equal to another key.
    pub fn has_text(&self) -> bool {
        self.has_text
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.canonical == other.canonical
    }
}
impl Eq for Key {}
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical.hash(state);
    }
}
impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Key {
    fn cmp(&self, other: &Key) -> std::cmp::Ordering {
        self.canonical.cmp(&other.canonical)
    }
}
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.filter)
    }
}

struct Form {
    bytes: Vec<u8>,
    has_text: bool,
}

impl Form {
    /// Writes a value that may hold `left` levels of others.
    fn value(&mut self, value: RawBsonRef<'_>, left: usize) -> Option<()> {
        match value {
            RawBsonRef::Int32(n) => self.integer(n.into()),
            RawBsonRef::Int64(n) => self.integer(n),
            RawBsonRef::Double(x) => self.double(x),
            RawBsonRef::Decimal128(d) => self.decimal(d),
            RawBsonRef::String(text) | RawBsonRef::Symbol(text) => {
                self.has_text = true;
                self.tagged(b's', text.as_bytes());
            }
            RawBsonRef::Document(doc) => self.document(doc, left)?,
            RawBsonRef::Array(array) => self.array(array, left)?,
            RawBsonRef::ObjectId(id) => self.bytes.extend([b'o'].iter().chain(&id.bytes())),
            RawBsonRef::Binary(binary) => {
                self.bytes.extend([b'b', u8::from(binary.subtype)]);
                self.tagged(b'b', binary.bytes);
            }
            RawBsonRef::Boolean(b) => self.bytes.extend([b'?', u8::from(b)]),
            RawBsonRef::DateTime(at) => self.tagged(b't', &at.timestamp_millis().to_le_bytes()),
            RawBsonRef::Timestamp(ts) => {
                self.tagged(b'T', &((u64::from(ts.time) << 32) | u64::from(ts.increment)).to_le_bytes());
            }
            RawBsonRef::Null => self.bytes.push(b'0'),
            RawBsonRef::Undefined => self.bytes.push(b'u'),
            RawBsonRef::MinKey => self.bytes.push(b'<'),
            RawBsonRef::MaxKey => self.bytes.push(b'>'),
            RawBsonRef::JavaScriptCode(code) => self.tagged(b'j', code.as_bytes()),
            RawBsonRef::JavaScriptCodeWithScope(code) => {
                self.tagged(b'J', code.code.as_bytes());
                self.document(code.scope, left)?;
            }
            RawBsonRef::RegularExpression(regex) => {
                self.tagged(b'r', regex.pattern.as_str().as_bytes());
                self.tagged(b'r', regex.options.as_str().as_bytes());
            }
            // No accessor for its parts; the debug form holds them all.
            RawBsonRef::DbPointer(pointer) => self.tagged(b'p', format!("{pointer:?}").as_bytes()),
        }
        Some(())
    }

    fn tagged(&mut self, tag: u8, bytes: &[u8]) {
        self.bytes.push(tag);
        self.bytes.extend((bytes.len() as u64).to_le_bytes());
        self.bytes.extend(bytes);
    }

    fn document(&mut self, doc: &RawDocument, left: usize) -> Option<()> {
        let left = left.checked_sub(1)?;
        self.bytes.push(b'{');
        for element in doc.iter_elements() {
            let element = element.ok()?;
            self.tagged(b'k', element.key().as_str().as_bytes());
            self.value(element.value().ok()?, left)?;
        }
        self.bytes.push(b'}');
        Some(())
    }

    fn array(&mut self, array: &RawArray, left: usize) -> Option<()> {
        let left = left.checked_sub(1)?;
        self.bytes.push(b'[');
        for value in array {
            self.value(value.ok()?, left)?;
        }
        self.bytes.push(b']');
        Some(())
    }

    fn integer(&mut self, n: i64) {
        self.bytes.push(b'n');
        self.bytes.extend(n.to_le_bytes());
    }

    fn double(&mut self, x: f64) {
        // The bounds are exact doubles; within them the cast of an integral value is exact.
        if x.fract() == 0.0 && (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&x) {
            #[allow(clippy::cast_possible_truncation)]
            return self.integer(x as i64);
        }
        if x.is_nan() {
            return self.bytes.push(b'N');
        }
        if x.is_infinite() {
            return self.bytes.extend([b'I', u8::from(x > 0.0)]);
        }
        // The exact decimal expansion of a double, so that it meets an equal Decimal128.
        self.digits(&format!("{x:.1074}"));
    }

    fn decimal(&mut self, d: Decimal128) {
        let text = d.to_string();
        match text.trim_start_matches('-') {
            "NaN" => self.bytes.push(b'N'),
            "Infinity" => self.bytes.extend([b'I', u8::from(!text.starts_with('-'))]),
            _ => self.digits(&text),
        }
    }

    /// `[-]digits[.digits][E±digits]` as sign, significant digits, exponent; small integers as such.
    fn digits(&mut self, text: &str) {
        let (sign, text) = text.strip_prefix('-').map_or((b'+', text), |rest| (b'-', rest));
        let (mantissa, exponent) = text.split_once(['E', 'e']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let significant = all.trim_start_matches('0').trim_end_matches('0');
        let trailing = all.len() - all.trim_end_matches('0').len();
        let exponent = exponent.parse::<i64>().unwrap_or(0) + trailing as i64 - fraction.len() as i64;
        if significant.is_empty() {
            return self.integer(0);
        }
        if (0..=18).contains(&exponent) {
            let minus = if sign == b'-' { "-" } else { "" };
            let zeros = "0".repeat(usize::try_from(exponent).unwrap_or(0));
            if let Ok(n) = format!("{minus}{significant}{zeros}").parse::<i64>() {
                return self.integer(n);
            }
        }
        self.bytes.extend([b'd', sign]);
        self.tagged(b'd', significant.as_bytes());
        self.bytes.extend(exponent.to_le_bytes());
    }
}

/// Levels of a document that the server takes; it stores fewer (180).
const DEPTH_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Bson, bson, doc, oid::ObjectId};
    use std::str::FromStr;

    fn key(value: impl Into<Bson>) -> Key {
        let raw = RawDocumentBuf::try_from(&doc! {"_id": value.into()}).unwrap();
        Key::of(&raw).unwrap()
    }
    fn dec(text: &str) -> Bson {
        Bson::Decimal128(Decimal128::from_str(text).unwrap())
    }

    /// wire-facts 9.1 (numeric types) and scenario D16: one `_id` in several types.
    #[test]
    fn keys_are_equal_as_the_server_compares_them() {
        let same: &[(Bson, Bson)] = &[
            (Bson::Int32(5), Bson::Int64(5)),
            (Bson::Int32(5), Bson::Double(5.0)),
            (Bson::Int64(5), dec("5.00")),
            (Bson::Int64(-700), dec("-7E+2")),
            (Bson::Double(0.5), dec("0.50")),
            (Bson::Double(-0.0), Bson::Int32(0)),
            (dec("0E-10"), Bson::Int32(0)),
            (Bson::Double(1e20), dec("1E+20")),
            (Bson::Double(f64::NAN), dec("NaN")),
            (Bson::Double(f64::NEG_INFINITY), dec("-Infinity")),
            (bson!({"a": [1, {"b": 2.0}]}), bson!({"a": [1.0, {"b": 2_i64}]})),
            (Bson::Symbol("x".into()), Bson::String("x".into())),
        ];
        for (a, b) in same {
            assert_eq!(key(a.clone()), key(b.clone()), "{a:?} is {b:?}");
        }
    }

    #[test]
    fn keys_differ_as_the_server_tells_them_apart() {
        let id = ObjectId::new();
        let different: &[(Bson, Bson)] = &[
            (Bson::Int32(5), Bson::Int32(6)),
            (Bson::Int32(5), Bson::String("5".into())),
            (Bson::Double(0.1), dec("0.1")), // the double is 0.1000000000000000055…
            (Bson::Int64(9_007_199_254_740_993), Bson::Double(9_007_199_254_740_992.0)),
            (Bson::Int64(i64::MAX), Bson::Double(9_223_372_036_854_775_808.0)),
            (bson!({"a": 1, "b": 2}), bson!({"b": 2, "a": 1})),
            (bson!({"a": 1}), bson!({"a": 1, "b": 1})),
            (Bson::Null, Bson::Boolean(false)),
            (Bson::ObjectId(id), Bson::String(id.to_hex())),
            (Bson::Double(1.5), Bson::Double(-1.5)),
        ];
        for (a, b) in different {
            assert_ne!(key(a.clone()), key(b.clone()), "{a:?} is not {b:?}");
        }
    }

    #[test]
    fn text_anywhere_in_a_key_is_seen() {
        assert!(key("ann").has_text());
        assert!(key(bson!({"a": ["x"]})).has_text());
        assert!(!key(bson!({"a": [1]})).has_text());
    }

    #[test]
    fn the_value_stays_as_it_came() {
        assert_eq!(key(Bson::Double(5.0)).id(), RawBsonRef::Double(5.0));
    }

    /// `{a: {a: … {}}}`, so many documents in each other.
    fn nested(levels: usize) -> RawDocumentBuf {
        let mut bytes = Vec::new();
        for inner in (0..levels).rev() {
            bytes.extend_from_slice(&i32::try_from(5 + 8 * inner).unwrap().to_le_bytes());
            bytes.extend_from_slice(if inner == 0 { b"" } else { b"\x03a\0" });
        }
        bytes.resize(bytes.len() + levels, 0);
        RawDocumentBuf::from_bytes(bytes).unwrap()
    }

    #[test]
    fn depth_is_bounded() {
        for (levels, is_key) in [(1, true), (200, true), (201, false), (100_000, false)] {
            assert_eq!(Key::new(RawBsonRef::Document(&nested(levels))).is_some(), is_key, "{levels}");
        }
    }
}
