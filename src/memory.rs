//! What large buffers took goes back to the system when they are freed.
//!
//! glibc's allocator gives buffers above a threshold a mapping of their own, which ends with them; but it raises that
//! threshold, up to 32 MiB, to the largest buffer that was freed. From then on such buffers come from its arenas, some
//! sixteen on two processors, and each of them keeps what it once had: a few requests of 16 MB at a time leave several
//! hundred MiB (`tests/it/memory/flood.rs`: 457 MB instead of 176 MB). A threshold from the environment is not raised,
//! and is read only at a process's start.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Begins again, in this same process, with the threshold in the environment, unless there is one. Where it cannot, as
/// when the binary was replaced meanwhile, it goes on without.
pub(crate) fn give_back_large_buffers() {
    let glibc = cfg!(all(target_os = "linux", target_env = "gnu"));
    if !glibc || env::var_os(THRESHOLD).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut again = Command::new(program);
    let mut args = env::args_os();
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    // Returns only an error.
    let _ = again.args(args).env(THRESHOLD, THRESHOLD_BYTES).exec();
}

const THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";
/// Larger than what most requests and batches need, which are to come cheaply.
const THRESHOLD_BYTES: &str = "1048576";
