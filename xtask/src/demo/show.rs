//! How entries flow, live: bars on a terminal, a line each second elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

/// The display of one run.
pub(super) enum Show {
    Bars { all: MultiProgress, writes: ProgressBar, log: ProgressBar, sync: ProgressBar },
    Lines { writes: u64 },
}

impl Show {
    /// A display for a run of so many writes.
    pub(super) fn new(writes: u64) -> Show {
        if !std::io::stderr().is_terminal() {
            return Show::Lines { writes };
        }
        let all = MultiProgress::new();
        let line = |template: &str, length| {
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            all.add(ProgressBar::new(length).with_style(style))
        };
        let writes = line("  writes  [{bar:40}] {pos}/{len}", writes);
        let (log, sync) = (line("  log     {msg}", 0), line("  target  {msg}", 0));
        Show::Bars { all, writes, log, sync }
    }

    /// Shows the writes that the shop has done and what the report says.
    pub(super) fn update(&self, done: u64, report: &Value) {
        let (positions, lag, counts) = (&report["positions"], &report["lag"], &report["counts"]);
        let flow = format!(
            "appended {}  durable {}  applied {}  lag {} entries, {}, {:.1} s",
            positions["appended"],
            positions["durable"],
            positions["applied"],
            lag["entries"],
            HumanBytes(lag["bytes"].as_u64().unwrap_or_default()),
            lag["seconds"].as_f64().unwrap_or_default(),
        );
        let state = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let target = format!(
            "{}, worker {}  replayed {}  converged {}  dirty {}",
            state(&report["connections"]["atlas"]["state"]),
            state(&report["worker"]["state"]),
            counts["replayed"],
            counts["converged"],
            counts["dirty"],
        );
        match self {
            Show::Bars { writes, log, sync, .. } => {
                writes.set_position(done);
                log.set_message(flow);
                sync.set_message(target);
            }
            Show::Lines { writes } => println!("writes {done}/{writes}  {flow}  target {target}"),
        }
    }

    /// Says something that stays.
    pub(super) fn note(&self, text: &str) {
        match self {
            // On a terminal that is gone there is nobody to tell.
            Show::Bars { all, .. } => drop(all.println(format!("  {text}"))),
            Show::Lines { .. } => println!("{text}"),
        }
    }

    /// How often to look.
    pub(super) fn pace(&self) -> Duration {
        match self {
            Show::Bars { .. } => Duration::from_millis(150),
            Show::Lines { .. } => Duration::from_secs(1),
        }
    }

    /// Leaves the last state standing.
    pub(super) fn end(&self) {
        if let Show::Bars { writes, log, sync, .. } = self {
            [writes, log, sync].iter().for_each(|bar| bar.abandon());
        }
    }
}
