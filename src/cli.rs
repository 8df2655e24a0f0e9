//! The command line. Usage errors end with status 2, as wrong settings do.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::Inputs;
use crate::log::LogArgs;

/// A transparent MongoDB proxy that keeps an exact copy of a local mongod in Atlas.
#[derive(Debug, Parser)]
#[command(version, after_help = "Settings: proxy.toml, .env and the environment; see docs/configuration.md.")]
pub(crate) struct Cli {
    /// Without a command: run the proxy
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// The local mongod is gone for good: bring what the sync log has to Atlas, as far as it can be known, say what cannot
    /// be, and end. Refused while that mongod answers
    #[arg(long)]
    pub(crate) source_lost: bool,
    /// Configuration file [default: proxy.toml, if there is one]
    #[arg(long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Address and port that the application connects to (proxy.listen)
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The local mongod, without a password (local.uri)
    #[arg(long, global = true, value_name = "URI")]
    local_uri: Option<String>,
}

/// What to do instead of running the proxy.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check the settings and what dualsync's users may do on either server, print the settings as they count, and end
    CheckConfig,
    /// Look into the sync log: nothing is changed, and dualsync may run meanwhile
    Log(LogArgs),
}

impl Cli {
    /// This command line, the process's environment and its working directory.
    pub(crate) fn inputs(&self) -> Inputs {
        let flags =
            [("proxy.listen", "--listen", &self.listen), ("local.uri", "--local-uri", &self.local_uri)];
        let given = flags.into_iter().filter_map(|(key, flag, value)| Some((key, flag, value.clone()?)));
        Inputs {
            flags: given.collect(),
            environment: std::env::vars_os().collect(),
            config: self.config.clone(),
            directory: PathBuf::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_may_stand_on_either_side_of_the_command() {
        let inputs = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.inputs());
        for line in ["dualsync --listen [::]:1 check-config", "dualsync check-config --listen [::]:1"] {
            assert_eq!(inputs(line).unwrap().flags, [("proxy.listen", "--listen", "[::]:1".to_owned())]);
        }
        assert_eq!(inputs("dualsync --config a.toml").unwrap().config, Some("a.toml".into()));
        assert_eq!(inputs("dualsync --nonsense").unwrap_err().exit_code(), 2);
        assert_eq!(inputs("dualsync --version").unwrap_err().exit_code(), 0);
    }
}
