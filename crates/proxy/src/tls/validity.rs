//! Until when a certificate is valid: the one field that rustls does not tell.
//!
//! A certificate is `SEQUENCE { SEQUENCE { [0] version?, serial, algorithm, issuer, SEQUENCE { from, to }, … } … }`
//! (RFC 5280, 4.1); a time is `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (4.1.2.5). What does not look like that has no end.

use std::time::{Duration, SystemTime};

/// The end of a DER certificate's validity.
pub(super) fn ends(certificate: &[u8]) -> Option<SystemTime> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    for _serial_algorithm_issuer in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, validity, _) = element(fields)?;
    let (_, _, to) = element(validity)?;
    let (tag, text, _) = element(to)?;
    time(tag, std::str::from_utf8(text).ok()?)
}

/// Tag, content, and what follows, of the element at the front.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk()?;
    let (length, rest) = match length {
        ..=0x7f => (usize::from(length), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn time(tag: u8, text: &str) -> Option<SystemTime> {
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    let (hour, minute, second) = (part(4)?, part(6)?, part(8)?);
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// Days since 1970-01-01, counting years from March so that the leap day comes last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(tag: u8, text: &str) -> Option<u64> {
        Some(time(tag, text)?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
    }

    #[test]
    fn times_are_read() {
        // date -u -d '2026-11-22 20:44:33' +%s
        assert_eq!(seconds(UTC_TIME, "261122204433Z"), Some(1_795_380_273));
        assert_eq!(seconds(GENERALIZED_TIME, "20261122204433Z"), Some(1_795_380_273));
        // date -u -d '2000-02-29 00:00:00' +%s
        assert_eq!(seconds(UTC_TIME, "000229000000Z"), Some(951_782_400));
        assert_eq!(seconds(UTC_TIME, "700101000000Z"), Some(0));
        for nonsense in ["", "26112220443", "ab1122204433Z", "500101000000Z", "é61122204433Z"] {
            assert_eq!(seconds(UTC_TIME, nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        for der in [
            &b""[..],
            b"\x30",
            b"\x30\x80",
            b"\x30\x03\x30\x01\x00",
            b"\x30\x84\xff\xff\xff\xff",
            &[0x30; 64],
        ] {
            assert_eq!(ends(der), None, "{der:?}");
        }
    }
}
