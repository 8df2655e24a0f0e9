//! What can go wrong with a server, by what we do about it. Decided by code and label, never by message text.

use std::fmt;

use mongodb::error::{Error, ErrorKind};

/// "Ingress request rate limit exceeded": turned away at the door (`wire-facts.md` 5.3).
const TURNED_AWAY: i32 = 462;
/// Codes of a server that is not able to serve right now (`wire-facts.md` 5.3 and 6).
const TRANSIENT: &[i32] = &[
    6, 7, 24, 43, 46, 50, 64, 89, 91, 100, 112, 134, 133, 175, 189, 202, 237, 246, 251, 262, 365, 371, 384,
    9001, 10107, 11600, 11601, 11602, 13435, 13436, 13388, 14031,
];
/// "Not authorized": a right is missing.
pub const UNAUTHORIZED: i32 = 13;
/// Codes of a missing or wrong identity: the whole target refuses us, so nothing is gained by going on.
const IDENTITY: &[i32] = &[UNAUTHORIZED, 18, 8000, 31, 11];

/// A server's trouble.
#[derive(Debug, Clone)]
pub struct ServerError {
    /// What to do.
    pub class: Class,
    /// The server's code, if it answered.
    pub code: Option<i32>,
    /// For a person: without credentials, which drivers never put in, and without documents.
    pub message: String,
}

/// What an error means for the work that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It was not sent: try again later.
    NotSent,
    /// The server sheds load, and has not done it: try again, more slowly.
    Overloaded,
    /// It may have been done, or still be running: find out first, then try again.
    Unknown,
    /// The server refuses this command for good.
    Refused,
    /// The server refuses us: someone must mend the credentials or rights. Tried again for ever.
    Identity,
}

impl ServerError {
    /// The command took longer than our limit; it may still run.
    pub fn timed_out(what: &str, after: std::time::Duration) -> ServerError {
        let message = format!("{what} has not been answered for {} s", after.as_secs());
        ServerError { class: Class::Unknown, code: None, message }
    }

    /// Whether what was sent may have been done, or may be done yet.
    pub fn may_land(&self) -> bool {
        !matches!(self.class, Class::NotSent | Class::Overloaded)
    }

    /// Whether a right is missing. Nothing was done.
    pub fn is_forbidden(&self) -> bool {
        self.code == Some(UNAUTHORIZED)
    }

    /// From a reply's code.
    pub fn from_code(code: i32, message: &str) -> ServerError {
        let class = if code == TURNED_AWAY {
            Class::Overloaded
        } else if IDENTITY.contains(&code) {
            Class::Identity
        } else if TRANSIENT.contains(&code) {
            Class::Unknown
        } else {
            Class::Refused
        };
        ServerError { class, code: Some(code), message: without_values(message) }
    }
}

impl From<Error> for ServerError {
    fn from(error: Error) -> ServerError {
        let overloaded = error.contains_label("SystemOverloadedError");
        let transient = error.contains_label("RetryableWriteError")
            || overloaded
            || error.contains_label("TransientTransactionError");
        let from_code = |code, message: &str| ServerError::from_code(code, message);
        let mut out = match error.kind.as_ref() {
            ErrorKind::Command(command) => from_code(command.code, &command.message),
            ErrorKind::ServerSelection { message, .. } => {
                ServerError { class: Class::NotSent, code: None, message: first_sentence(message) }
            }
            ErrorKind::Authentication { message, .. } => {
                ServerError { class: Class::Identity, code: Some(18), message: message.clone() }
            }
            ErrorKind::DnsResolve { message, .. } => {
                ServerError { class: Class::NotSent, code: None, message: message.clone() }
            }
            ErrorKind::InvalidArgument { message, .. } => {
                ServerError { class: Class::Refused, code: None, message: message.clone() }
            }
            kind => ServerError { class: Class::Unknown, code: None, message: kind.to_string() },
        };
        if transient && out.class == Class::Refused {
            out.class = Class::Unknown;
        }
        // Both labels together: it was turned away before it began.
        if overloaded && error.contains_label("RetryableError") {
            out.class = Class::Overloaded;
        }
        out
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} (code {code})", self.message),
            None => f.write_str(&self.message),
        }
    }
}
impl std::error::Error for ServerError {}

/// Servers quote commands and keys in their messages, always in braces: what stands before says what happened.
pub fn without_values(message: &str) -> String {
    let end = message.find('{').unwrap_or(message.len());
    message[..end].trim_end().trim_end_matches(" dup key:").to_owned()
}

/// The driver appends its whole view of the topology; the first sentence says what happened.
fn first_sentence(message: &str) -> String {
    message.split(". Topology").next().unwrap_or(message).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_no_documents() {
        let cases = [
            (
                "not authorized on shop to execute command { insert: \"c\", documents: [ { secret: 1 } ] }",
                "not authorized on shop to execute command",
            ),
            (
                "E11000 duplicate key error collection: d.c index: mail_1 dup key: { mail: \"a@b\" }",
                "E11000 duplicate key error collection: d.c index: mail_1",
            ),
            ("not primary", "not primary"),
        ];
        for (said, kept) in cases {
            assert_eq!(without_values(said), kept);
        }
    }
}
