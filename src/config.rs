//! The configuration: read from everywhere, checked at once, typed for the rest of the program.
//!
//! - `settings.rs` is the list of keys; `proxy.toml` and `docs/configuration.md` are made from it
//! - flags beat the environment, the environment beats `.env`, that beats `proxy.toml`
//! - every complaint names the key, the value (masked), where it came from and what is allowed
//!
//! Not here: what only a running server can tell (rights, loops behind other names, open access).

mod dotenv;
mod kinds;
mod old_names;
mod read;
#[cfg(test)]
mod reference;
mod rules;
mod secret;
mod settings;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

pub(crate) use kinds::Listen;
use read::Reader;
pub(crate) use read::{Complaint, Setting};
pub(crate) use secret::{Secret, Uri};
pub(crate) use settings::{
    AdminConfig, AtlasConfig, Durability, Enabled, ListenerConfig, LocalConfig, LogConfig, LogFormat,
    ProxyConfig, SyncConfig, TelemetryConfig,
};
pub(crate) use sources::Inputs;

/// The checked configuration.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) proxy: ProxyConfig,
    pub(crate) local: LocalConfig,
    pub(crate) atlas: AtlasConfig,
    pub(crate) sync: SyncConfig,
    pub(crate) log: LogConfig,
    pub(crate) admin: AdminConfig,
    pub(crate) telemetry: TelemetryConfig,
    /// Every key as it counts, and where it came from. Secrets are masked.
    pub(crate) settings: Vec<Setting>,
    /// What works and deserves a second look.
    pub(crate) warnings: Vec<String>,
}

impl Config {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// All complaints at once.
    pub(crate) fn load(inputs: &Inputs) -> Result<Config, Complaints> {
        let found = sources::gather(inputs);
        let mut reader =
            Reader { written: found.written, complaints: found.complaints, settings: Vec::new() };
        let config = Config::read(&mut reader);
        if let Some(config) = &config {
            rules::refuse(config, &mut reader);
        }
        match config {
            Some(mut config) if reader.complaints.is_empty() => {
                config.settings = reader.settings;
                config.resolve_enabled();
                config.warnings = found.warnings;
                config.warnings.extend(rules::warnings(&config));
                Ok(config)
            }
            _ => Err(Complaints(reader.complaints)),
        }
    }

    fn read(reader: &mut Reader) -> Option<Config> {
        Some(Config {
            proxy: ProxyConfig::read(reader)?,
            local: LocalConfig::read(reader)?,
            atlas: AtlasConfig::read(reader)?,
            sync: SyncConfig::read(reader)?,
            log: LogConfig::read(reader)?,
            admin: AdminConfig::read(reader)?,
            telemetry: TelemetryConfig::read(reader)?,
            settings: Vec::new(),
            warnings: Vec::new(),
        })
    }

    /// People want to see what `auto` has come to.
    fn resolve_enabled(&mut self) {
        let enabled = self.sync_enabled().to_string();
        if let Some(setting) = self.settings.iter_mut().find(|setting| setting.key == "sync.enabled") {
            setting.value = enabled;
        }
    }

    /// Whether writes are captured and replicated.
    pub(crate) fn sync_enabled(&self) -> bool {
        match self.sync.enabled {
            Enabled::Auto => self.atlas.uri.is_some(),
            Enabled::On => true,
            Enabled::Off => false,
        }
    }

    /// Every place where clients connect.
    pub(crate) fn listens(&self) -> Vec<Listen> {
        match self.proxy.listeners.as_slice() {
            [] => vec![self.proxy.listen.clone()],
            several => several.iter().map(|listener| Listen::Port(listener.listen)).collect(),
        }
    }

    /// Whether somebody has set a key.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        let is_default = |setting: &Setting| matches!(setting.origin, read::Origin::Default);
        self.settings.iter().any(|setting| setting.key == key && !is_default(setting))
    }

    /// The effective configuration as `{section: {key: value}}`, secrets masked.
    pub(crate) fn to_json(&self) -> Value {
        let mut sections: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
        for setting in &self.settings {
            let (section, key) = setting.key.split_once('.').unwrap_or(("", setting.key));
            // TOML's texts, numbers, truths and lists of texts are also JSON's.
            let value = serde_json::from_str(&setting.value).unwrap_or_else(|_| setting.value.clone().into());
            sections.entry(section).or_default().insert(key.to_owned(), value);
        }
        serde_json::json!(sections)
    }
}

/// The effective configuration as `check-config` prints it: TOML, with the origin of what is not a default.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last_section = "";
        for Setting { key, value, origin } in &self.settings {
            let (section, name) = key.split_once('.').unwrap_or(("", key));
            if section != last_section {
                let gap = if last_section.is_empty() { "" } else { "\n" };
                writeln!(f, "{gap}[{section}]")?;
                last_section = section;
            }
            let line = format!("{name} = {value}");
            match origin {
                read::Origin::Default => writeln!(f, "{line}")?,
                origin => writeln!(f, "{line:COMMENT_COLUMN$}  # {origin}")?,
            }
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaints(Vec<Complaint>);

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => writeln!(f, "the configuration has an error:")?,
            n => writeln!(f, "the configuration has {n} errors:")?,
        }
        self.0.iter().try_for_each(|complaint| writeln!(f, "  {complaint}"))
    }
}

const COMMENT_COLUMN: usize = 48;
