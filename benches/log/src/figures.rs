//! Medians, their noise, and tables.

use std::time::Duration;

/// Rows of figures, several rounds each.
pub(crate) struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<Vec<f64>>)>,
}

impl Table {
    pub(crate) fn new(title: &str, columns: &[&'static str]) -> Table {
        Table { title: title.to_owned(), columns: columns.to_vec(), rows: Vec::new() }
    }

    /// One round's figures.
    pub(crate) fn add(&mut self, name: &str, figures: &[f64]) {
        let at = self.rows.iter().position(|(row, _)| row == name).unwrap_or_else(|| {
            self.rows.push((name.to_owned(), vec![Vec::new(); figures.len()]));
            self.rows.len() - 1
        });
        for (column, figure) in self.rows[at].1.iter_mut().zip(figures) {
            column.push(*figure);
        }
    }

    /// Each figure, and its ratio to the same round's figure of `base`.
    pub(crate) fn print(mut self, base: &str) {
        self.rows.sort_by_key(|(name, _)| (name != base, name.clone()));
        let base: Vec<Vec<f64>> = self
            .rows
            .iter()
            .find(|(name, _)| name == base)
            .map(|(_, columns)| columns.clone())
            .unwrap_or_default();
        println!("\n{}", self.title);
        for (name, columns) in &self.rows {
            print!("  {name:<20}");
            for (nth, (title, rounds)) in self.columns.iter().zip(columns).enumerate() {
                let ratios: Vec<f64> =
                    base.get(nth).into_iter().flatten().zip(rounds).map(|(base, own)| own / base).collect();
                print!("  {title} {:<28} / bare {:<22}", spread(rounds), spread(&ratios));
            }
            println!();
        }
    }
}

/// The median, and the middle half around it.
pub(crate) fn spread(rounds: &[f64]) -> String {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        sorted.get(((sorted.len() - 1) as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
    };
    if sorted.is_empty() {
        "-".to_owned()
    } else {
        format!("{:.2} ({:.2} to {:.2})", at(0.5), at(0.25), at(0.75))
    }
}

pub(crate) fn percentile(sorted: &[Duration], percent: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * percent / 100.0).round() as usize]
}

/// Processor, cores and kernel.
pub(crate) fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}, {cores} cores, Linux {}", model.trim_start_matches([':', ' ', '\t']), kernel.trim())
}
