//! Medians and their noise.

/// The median, and the middle half around it.
pub(crate) fn spread(rounds: &[f64]) -> String {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        sorted.get(((sorted.len().max(1) - 1) as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
    };
    let digits = usize::from(at(0.5).abs() < 100.0) * 2;
    format!("{:.digits$} ({:.digits$} to {:.digits$})", at(0.5), at(0.25), at(0.75))
}

/// `percent` of these are not greater.
pub(crate) fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len().max(1) - 1) * percent as usize / 100).copied().unwrap_or(f64::NAN)
}

/// Round by round.
pub(crate) fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}

/// Processor, cores and kernel.
pub(crate) fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}, {cores} cores, Linux {}", model.trim_start_matches([':', ' ', '\t']), kernel.trim())
}

/// From here on, [`memory_peak_mib`] tells what this process takes at most.
pub(crate) fn reset_memory_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5"); // without it the figure is too high, never too low
}

/// Processor time that this process has taken, in seconds.
pub(crate) fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = |nth: usize| {
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(nth)?.parse::<f64>().ok())
    };
    (ticks(11).unwrap_or(f64::NAN) + ticks(12).unwrap_or(f64::NAN)) / 100.0
}

/// The most that was resident.
pub(crate) fn memory_peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN) / 1024.0
}
