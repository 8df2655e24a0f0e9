//! From texts with an origin to typed values, with every complaint kept.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::kinds::{Kind, Text};

/// Who said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File(PathBuf),
    DotEnv(String),
    Environment(String),
    /// A file that holds one secret, and the variable that named it.
    SecretFile(PathBuf, String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::DotEnv(name) => write!(f, "{name} in .env"),
            Origin::Environment(name) => write!(f, "{name} in the environment"),
            Origin::SecretFile(path, name) => write!(f, "{}, named by {name}", path.display()),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A value as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) text: Text,
    pub(super) origin: Origin,
}

/// What is written for each key. Several values of one key have the same rank and must agree.
pub(super) type Written = BTreeMap<String, Vec<Given>>;

/// One key as it counts, for people: TOML's writing, secrets masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    pub(crate) origin: Origin,
}

/// What is wrong with one key, or with one place that keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// The key, or the place.
    pub(super) about: String,
    /// Value (masked) and origin.
    pub(super) given: Option<(String, Origin)>,
    pub(super) problem: String,
}

impl Complaint {
    /// About a place: a file, a variable.
    pub(super) fn about(place: impl fmt::Display, problem: impl Into<String>) -> Complaint {
        Complaint { about: place.to_string(), given: None, problem: problem.into() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.given {
            Some((value, origin)) => write!(f, "{} = {value} ({origin}): {}", self.about, self.problem),
            None => write!(f, "{}: {}", self.about, self.problem),
        }
    }
}

/// Reads key after key.
pub(super) struct Reader {
    pub(super) written: Written,
    pub(super) complaints: Vec<Complaint>,
    pub(super) settings: Vec<Setting>,
}

impl Reader {
    /// The key's value. After a complaint it is the default, so that the other rules can still be looked at.
    pub(super) fn take<T: PartialEq + 'static>(
        &mut self,
        key: &'static str,
        default: &str,
        kind: &Kind<T>,
    ) -> Option<T> {
        let default = Given { text: Text::One(default.to_owned()), origin: Origin::Default };
        let given = self.written.remove(key).unwrap_or_default();
        let mut first: Option<(T, Given)> = None;
        for given in given {
            match (kind.read)(&given.text) {
                Ok(value) => match &first {
                    None => first = Some((value, given)),
                    Some((same, _)) if *same == value => {}
                    Some((_, other)) => {
                        let problem = format!("{} says otherwise: set one of them", other.origin);
                        self.complain(key, (kind.shown)(&given.text), given.origin, problem);
                    }
                },
                Err(refused) => {
                    let reason = refused.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                    let problem = format!("must be {}{reason}", kind.allowed);
                    self.complain(key, (kind.shown)(&given.text), given.origin, problem);
                }
            }
        }
        let (value, counts) = match first {
            Some(found) => found,
            None => ((kind.read)(&default.text).ok()?, default),
        };
        self.settings.push(Setting { key, value: (kind.shown)(&counts.text), origin: counts.origin });
        Some(value)
    }

    /// A rule over several keys; the first one is named as the wrong one. Says nothing when one of them has been
    /// complained about, since it is not known then what it was meant to be.
    pub(super) fn forbid(&mut self, broken: bool, keys: &[&str], problem: &str) {
        let known = !self.complaints.iter().any(|complaint| keys.contains(&complaint.about.as_str()));
        if broken && known {
            let setting = self.settings.iter().find(|setting| keys.first() == Some(&setting.key)).cloned();
            if let Some(Setting { key, value, origin }) = setting {
                self.complain(key, value, origin, problem.to_owned());
            }
        }
    }

    fn complain(&mut self, key: &str, value: String, origin: Origin, problem: String) {
        self.complaints.push(Complaint { about: key.to_owned(), given: Some((value, origin)), problem });
    }
}
