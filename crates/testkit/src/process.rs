//! A child process that never outlives us.
//!
//! - dropping the handle kills it (SIGKILL) and reaps it, so a panic ends it too
//! - when this process is killed, the kernel kills the child: it is started through `setpriv --pdeathsig KILL` (a part
//!   of util-linux; setting it ourselves would need unsafe code). Where that is missing, a SIGKILL of the test process
//!   leaves the child running; everything else holds
//! - signals go to the child's own pid and to nothing else; it has a process group of its own, so a Ctrl-C on our
//!   terminal reaches us and not the child

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait_for;

/// A running child, or one that has ended and was reaped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// A command for `program` that ends with us; the caller adds arguments and hands it to [`Process::spawn`].
    pub(crate) fn command(program: &Path) -> Command {
        let mut command = match SETPRIV.as_ref() {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.process_group(0);
        command
    }

    pub(crate) fn spawn(command: Command) -> Result<Process> {
        Ok(Process { child: spawn(command)?, ended: None })
    }

    /// Runs a command to its end and yields what it wrote.
    pub(crate) fn output(mut command: Command) -> Result<Output> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        spawn(command)?.wait_with_output().context("wait for a command")
    }

    /// The child's pipes are taken from here.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; does nothing to a child that has been reaped.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        kill_process(Pid::from_child(&self.child), signal).with_context(|| format!("send {signal:?}"))
    }

    /// How it ended, if it has.
    pub(crate) fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().context("wait for a child")?;
        }
        Ok(self.ended)
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("process {} to end", self.pid());
        wait_for(&what, limit, async || self.poll()).await
    }

    /// SIGKILL, then reap. A killed process ends at once, stopped ones too, so this blocks only briefly.
    pub(crate) fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        self.child.kill().context("kill a child")?;
        let status = self.child.wait().context("wait for a killed child")?;
        self.ended = Some(status);
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn spawn(command: Command) -> Result<Child> {
    let shown = format!("{command:?}");
    let (answer, child) = mpsc::channel();
    SPAWNER.send((command, answer)).map_err(|_| anyhow!("the spawning thread is gone"))?;
    child.recv().context("ask the spawning thread")?.with_context(|| format!("start {shown}"))
}

/// The program `name` on the PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

static SETPRIV: LazyLock<Option<PathBuf>> = LazyLock::new(|| on_path("setpriv"));

type Job = (Command, mpsc::Sender<std::io::Result<Child>>);

/// One thread starts all children and lives as long as the process: the kernel sends the death signal when the
/// *thread* that started a child ends, and threads of tests and of runtimes come and go.
static SPAWNER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (jobs, incoming) = mpsc::channel::<Job>();
    std::thread::spawn(move || {
        for (mut command, answer) in incoming {
            let _ = answer.send(command.spawn());
        }
    });
    jobs
});
