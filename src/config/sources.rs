//! Where values come from: `proxy.toml`, then `.env`, then the environment, then flags; the later one counts.
//!
//! An empty variable counts as not set. A variable whose name ends in `_FILE` names a file that holds the secret.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::dotenv;
use super::kinds::Text;
use super::old_names::{Meaning, OLD_NAMES};
use super::read::{Complaint, Given, Origin, Written};
use super::settings::SECTIONS;

/// All that the world says about the configuration.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// Key, flag, value.
    pub(crate) flags: Vec<(&'static str, &'static str, String)>,
    /// The process's environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// The file of `--config`; without it `proxy.toml` of the working directory, if there is one.
    pub(crate) config: Option<PathBuf>,
    /// The working directory.
    pub(crate) directory: PathBuf,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) written: Written,
    pub(super) complaints: Vec<Complaint>,
    pub(super) warnings: Vec<String>,
}

/// Reads all sources.
pub(super) fn gather(inputs: &Inputs) -> Found {
    let mut found = Found::default();
    found.file(inputs);
    found.variables(inputs);
    for (key, flag, value) in &inputs.flags {
        let given = Given { text: Text::One(value.clone()), origin: Origin::Flag(flag) };
        found.written.insert((*key).to_owned(), vec![given]);
    }
    found
}

/// The variable that sets a key.
pub(super) fn variable(section: &str, key: &str) -> String {
    format!("DUALSYNC_{section}_{key}").to_uppercase()
}

/// Keys whose value may also come from a file of its own.
pub(super) const SECRET_KEYS: &[&str] = &["local.uri", "atlas.uri", "admin.token", "admin.read_token"];

impl Found {
    fn complain(&mut self, place: impl std::fmt::Display, problem: impl Into<String>) {
        self.complaints.push(Complaint::about(place, problem));
    }

    fn file(&mut self, inputs: &Inputs) {
        let path = inputs.config.clone().unwrap_or_else(|| PathBuf::from("proxy.toml"));
        let text = match std::fs::read_to_string(inputs.directory.join(&path)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && inputs.config.is_none() => return,
            Err(error) => return self.complain(path.display(), format!("cannot be read ({error})")),
        };
        // The error's own text would quote the line, and with it perhaps a secret.
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count()) + 1;
                return self
                    .complain(path.display(), format!("line {line} is not TOML: {}", error.message()));
            }
        };
        for (section, value) in table {
            let known = SECTIONS.iter().find(|(name, _)| *name == section);
            match (known, value) {
                (Some((_, keys)), toml::Value::Table(values)) => self.section(&path, &section, keys, values),
                (Some(_), _) => {
                    self.complain(path.display(), format!("{section} must be a section: [{section}]"))
                }
                (None, _) => {
                    let sections: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
                    let problem = format!("{section} is not known; there are: {}", sections.join(", "));
                    self.complain(path.display(), problem);
                }
            }
        }
    }

    fn section(&mut self, path: &Path, section: &str, keys: &[&str], values: toml::Table) {
        for (key, value) in flat(values, keys) {
            if !keys.contains(&key.as_str()) {
                let problem = format!("{section}.{key} is not known; [{section}] has: {}", keys.join(", "));
                self.complain(path.display(), problem);
                continue;
            }
            match text(value) {
                Some(text) => {
                    let given = Given { text, origin: Origin::File(path.to_owned()) };
                    self.written.insert(format!("{section}.{key}"), vec![given]);
                }
                None => self.complain(
                    path.display(),
                    format!("{section}.{key} must be a text, a number, true, false or a list of texts"),
                ),
            }
        }
    }

    fn variables(&mut self, inputs: &Inputs) {
        let variables = self.merged(inputs);
        let set = |name: &str| variables.get(name).filter(|(value, _)| !value.is_empty());
        for (section, keys) in SECTIONS {
            for key in *keys {
                let full = format!("{section}.{key}");
                let name = variable(section, key);
                let mut given = Vec::new();
                if let Some((value, origin)) = set(&name) {
                    given.push(Given { text: Text::One(value.clone()), origin: origin.clone() });
                }
                let from_file = format!("{name}_FILE");
                if let Some((file, _)) = set(&from_file).filter(|_| SECRET_KEYS.contains(&full.as_str())) {
                    given.extend(self.secret_file(&inputs.directory, file, from_file));
                }
                for old in OLD_NAMES.iter().filter(|old| old.key == full) {
                    let Some((value, origin)) = set(old.name) else { continue };
                    match (old.read)(value) {
                        Meaning::Is(text) => given.push(Given { text, origin: origin.clone() }),
                        Meaning::Nothing => {}
                        Meaning::Wrong => self.complaints.push(Complaint {
                            about: old.key.to_owned(),
                            given: Some((format!("{value:?}"), origin.clone())),
                            problem: format!("must be {}", old.allowed),
                        }),
                    }
                }
                if !given.is_empty() {
                    self.written.insert(full, given);
                }
            }
        }
        self.warn_of_unknown(&variables);
    }

    /// Name, value and origin of every variable, the environment's before those of `.env`.
    fn merged(&mut self, inputs: &Inputs) -> BTreeMap<String, (String, Origin)> {
        let mut variables = BTreeMap::new();
        match std::fs::read(inputs.directory.join(".env")) {
            Ok(bytes) => {
                for (name, value) in dotenv::parse(&String::from_utf8_lossy(&bytes)) {
                    variables.insert(name.clone(), (value, Origin::DotEnv(name)));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => self.complain(".env", format!("cannot be read ({error})")),
        }
        for (name, value) in &inputs.environment {
            let Some(name) = name.to_str() else { continue };
            match value.to_str() {
                Some(value) => {
                    variables
                        .insert(name.to_owned(), (value.to_owned(), Origin::Environment(name.to_owned())));
                }
                None if is_ours(name) => self.complain(name, "must be UTF-8"),
                None => {}
            }
        }
        variables
    }

    fn secret_file(&mut self, directory: &Path, file: &str, variable: String) -> Option<Given> {
        match std::fs::read_to_string(directory.join(file)) {
            Ok(text) if text.trim().is_empty() => {
                self.complain(variable, format!("the file {file} is empty"));
                None
            }
            Ok(text) => {
                let text = Text::One(text.trim_end_matches(['\r', '\n']).to_owned());
                Some(Given { text, origin: Origin::SecretFile(PathBuf::from(file), variable) })
            }
            Err(error) => {
                self.complain(variable, format!("the file {file} cannot be read ({error})"));
                None
            }
        }
    }

    /// A warning only: a host may set such variables for its own ends, as Kubernetes does for a service's name.
    fn warn_of_unknown(&mut self, variables: &BTreeMap<String, (String, Origin)>) {
        for name in variables.keys().filter(|name| name.starts_with("DUALSYNC_") && !is_ours(name)) {
            self.warnings.push(format!("the variable {name} is not known, it changes nothing"));
        }
    }
}

/// Keys of a table within a section with the table's name before them: `[proxy.tls] cert_file` is `proxy.tls_cert_file`.
fn flat(values: toml::Table, keys: &[&str]) -> Vec<(String, toml::Value)> {
    let has_group =
        |name: &str| keys.iter().any(|key| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('_')));
    let mut all = Vec::new();
    for (key, value) in values {
        match value {
            toml::Value::Table(group) if has_group(&key) => {
                all.extend(group.into_iter().map(|(name, value)| (format!("{key}_{name}"), value)))
            }
            value => all.push((key, value)),
        }
    }
    all
}

fn is_ours(name: &str) -> bool {
    let is_new = |(section, keys): &(&str, &[&str])| {
        keys.iter().any(|key| {
            let own = variable(section, key);
            let is_secret = SECRET_KEYS.contains(&format!("{section}.{key}").as_str());
            name == own || (is_secret && name.strip_suffix("_FILE") == Some(&own))
        })
    };
    SECTIONS.iter().any(is_new) || OLD_NAMES.iter().any(|old| old.name == name)
}

fn text(value: toml::Value) -> Option<Text> {
    match value {
        toml::Value::String(text) => Some(Text::One(text)),
        toml::Value::Integer(number) => Some(Text::One(number.to_string())),
        toml::Value::Float(number) => Some(Text::One(number.to_string())),
        toml::Value::Boolean(truth) => Some(Text::One(truth.to_string())),
        toml::Value::Array(items) => {
            let texts = items.into_iter().map(|item| match item {
                toml::Value::String(text) => Some(text),
                toml::Value::Table(pairs) => pairs_in_one_text(pairs),
                _ => None,
            });
            texts.collect::<Option<Vec<_>>>().map(Text::Many)
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// A table of short texts, as one would write it into a variable: `key=value key=value`.
fn pairs_in_one_text(pairs: toml::Table) -> Option<String> {
    let pair = |(key, value)| match value {
        toml::Value::String(text) if !text.contains([' ', ',']) => Some(format!("{key}={text}")),
        _ => None,
    };
    let pairs: Option<Vec<String>> = pairs.into_iter().map(pair).collect();
    Some(pairs?.join(" "))
}
