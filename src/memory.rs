//! What large buffers took goes back to the system when they are freed.
//!
//! glibc's allocator gives buffers above a threshold a mapping of their own, which ends with them; but it raises that
//! threshold, up to 32 MiB, to the largest buffer that was freed. From then on such buffers come from its arenas, some
//! sixteen on two processors, and each of them keeps what it once had: a few requests of 16 MB at a time leave several
//! hundred MiB (`tests/it/memory/flood.rs`: 457 MB instead of 176 MB). A threshold from the environment is not raised,
//! and is read only at a process's start.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// Begins again, in this same process, with the threshold in the environment, unless there is one. It does so once:
/// where the loader takes the threshold out of the environment, as it does for a program that runs with more rights than
/// its caller, and where the binary was replaced meanwhile, it goes on without.
pub(crate) fn give_back_large_buffers() {
    let glibc = cfg!(all(target_os = "linux", target_env = "gnu"));
    let is_set = [THRESHOLD, BEGAN_AGAIN].into_iter().any(|name| env::var_os(name).is_some());
    if !glibc || is_set {
        return;
    }
    let Some(program) = env::current_exe().ok().filter(|program| !is_loader(program)) else { return };
    let mut again = Command::new(program);
    let mut args = env::args_os();
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    // Returns only an error.
    let _ = again.args(args).env(THRESHOLD, THRESHOLD_BYTES).env(BEGAN_AGAIN, "1").exec();
}

/// Started as `ld-linux-x86-64.so.2 ./dualsync`, the process is the loader's: to begin again would be to begin that,
/// without us.
fn is_loader(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("ld") && name.contains(".so")
}

const THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";
/// Larger than what most requests and batches need, which are to come cheaply.
const THRESHOLD_BYTES: &str = "1048576";
/// That it has tried, for itself.
const BEGAN_AGAIN: &str = "_DUALSYNC_BEGAN_AGAIN";
