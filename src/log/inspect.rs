//! Records for people, one a line; or as Extended JSON.

use std::io::Write;

use clap::Args;
use record::{Effect, Op, Record, Show, Target, Touch};
use synclog::LogView;

use super::read::{End, Range, Seen, time_of};
use super::{Found, Problem, line, written};

/// `dualsync log inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    range: Range,
    /// Extended JSON (canonical) instead of text
    #[arg(long)]
    json: bool,
    /// Show what users have stored: `_id`s, documents, filters, statements. Without it an `_id` is shown as its type and
    /// a short hash, which is the same for the same `_id` of this log
    #[arg(long)]
    show_documents: bool,
    /// Wait for more at the end, until it is interrupted
    #[arg(long)]
    follow: bool,
}

impl Inspect {
    pub(super) fn run(&self, view: &LogView, out: &mut impl Write) -> Result<Found, Problem> {
        let show = Show { documents: self.show_documents, salt: view.id };
        let end = if self.follow { End::Follow } else { End::Stop };
        self.range.read(view, end, |seen| {
            let Some(seen) = seen else {
                return out.flush().map_err(|source| written("standard output", source));
            };
            let text = match &seen.record {
                Ok(record) if self.json => show.json(seen.lsn, record),
                Ok(record) => text(&show, &seen, record),
                Err(error) if self.json => {
                    let error = serde_json::Value::from(error.to_string());
                    format!("{{\"lsn\":{},\"kind\":\"unreadable\",\"error\":{error}}}", seen.lsn)
                }
                Err(error) => format!("{:>12}  {:24}  unreadable: {error}", seen.lsn, ""),
            };
            line(out, text)
        })
    }
}

/// Effects or targets shown on one line; `--json` shows all.
const SHOWN: usize = 4;

fn text(show: &Show, seen: &Seen, record: &Record) -> String {
    let head = format!("{:>12}  {}", seen.lsn, time_of(record));
    match record {
        Record::Mark(mark) => {
            let targets = some(&mark.targets, |target| self::target(show, target));
            let transaction = if mark.in_transaction { ", in a transaction" } else { "" };
            format!("{head}  mark    {targets}  via {}{transaction}", mark.via)
        }
        Record::Entry(entry) => {
            let effects = some(&entry.effects, |effect| self::effect(show, effect));
            let doubt = entry
                .doubt
                .map_or_else(|| "certain".to_owned(), |doubt| format!("in doubt: {}", doubt.code()));
            format!("{head}  entry   {effects}  {doubt}, mark {}", entry.mark)
        }
        Record::Closed { mark } => format!("{head}  closed  mark {mark}: it changed nothing"),
    }
}

fn some<T>(items: &[T], one: impl Fn(&T) -> String) -> String {
    let shown: Vec<String> = items.iter().take(SHOWN).map(one).collect();
    let more = items.len() - shown.len();
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    if items.is_empty() { "nothing".to_owned() } else { shown.join("; ") + &more }
}

fn effect(show: &Show, effect: &Effect) -> String {
    let name = match &effect.op {
        Some(Op::Insert(_)) => "insert",
        Some(Op::Update(_)) => "update",
        Some(Op::Delete(_)) => "delete",
        Some(Op::Over(over)) => return format!("{} {}", record::json(over), target(show, &effect.target)),
        None => return target(show, &effect.target),
    };
    format!("{name} {} n={}/{}", target(show, &effect.target), effect.n, effect.modified)
}

fn target(show: &Show, target: &Target) -> String {
    match &target.touch {
        Touch::Key(key) => format!("{} {}", target.ns, show.key(key)),
        Touch::Predicate(predicate) if show.documents => {
            format!("{} where {}", target.ns, record::json(&predicate.filter.0))
        }
        Touch::Predicate(_) => format!("{} (by a filter)", target.ns),
        Touch::Namespace => format!("{} (anything)", target.ns),
        Touch::Database => format!("{}.* (anything)", target.ns),
    }
}
