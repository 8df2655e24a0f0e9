//! Entries as Extended JSON lines, for other tools.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::Args;
use record::{Record, Show};
use synclog::LogView;

use super::read::Range;
use super::{Found, Problem, written};

/// `dualsync log export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    range: Range,
    /// Where to; made with mode 0600, and refused when it is there [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// With what users have stored: `_id`s, documents, filters, statements
    #[arg(long)]
    show_documents: bool,
}

impl Export {
    pub(super) fn run(&self, view: &LogView, out: &mut impl Write) -> Result<Found, Problem> {
        let Some(path) = &self.output else { return self.write(view, out, "standard output") };
        let name = path.display().to_string();
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = io::BufWriter::new(file.map_err(|source| written(&name, source))?);
        let found = self.write(view, &mut file, &name)?;
        file.flush().map_err(|source| written(&name, source))?;
        Ok(found)
    }

    fn write(&self, view: &LogView, out: &mut impl Write, to: &str) -> Result<Found, Problem> {
        let show = Show { documents: self.show_documents, salt: view.id };
        let mut found = Found::Whole;
        let read = self.range.read_to_end(view, |seen| match &seen.record {
            Ok(record @ Record::Entry(_)) => {
                writeln!(out, "{}", show.json(seen.lsn, record)).map_err(|source| written(to, source))
            }
            Ok(_) => Ok(()),
            Err(error) => {
                eprintln!("dualsync: record {}: {error}", seen.lsn);
                found = Found::Damaged;
                Ok(())
            }
        })?;
        Ok(if found == Found::Damaged { found } else { read })
    }
}
