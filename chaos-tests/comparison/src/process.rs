//! Server processes: started by us, killed by us, with all that they started.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::measure::descendants;

/// How long killed processes may take to be gone: the kernel frees their memory first.
const GONE: Duration = Duration::from_secs(20);

/// A running server.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it; what it says goes to the end of `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        command
            // Heliograph's nodes end with their standard input; the others do not read it.
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C ends us, and we end them.
            .process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child })
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// `kill -9` to it and to all that it started; returns when they are gone.
    ///
    /// # Errors
    /// When one is still there after a while.
    pub fn kill(&mut self) -> Result<()> {
        // Not waited for yet, so the number is still its own.
        if let Ok(None) = self.child.try_wait() {
            kill_tree(self.child.id())?;
        }
        self.child.wait().context("cannot reap a process")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("process {}: {error:#}", self.pid());
        }
    }
}

/// `kill -9` to a process and its descendants, parents first; returns when all are gone.
///
/// # Errors
/// When one is still there after a while.
pub fn kill_tree(root: u32) -> Result<()> {
    // All are held before the first is killed: an orphan could not be found any more.
    let held: Vec<OwnedFd> =
        std::iter::once(root).chain(descendants(root)).flat_map(hold).collect();
    for pidfd in &held {
        // One that has ended takes no signal, and that is what is wanted.
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
    let deadline = Timespec::try_from(GONE)?;
    for pidfd in &held {
        let mut ended = [PollFd::new(pidfd, PollFlags::IN)];
        let ready = retry_on_intr(|| poll(&mut ended, Some(&deadline)))?;
        ensure!(ready > 0, "a killed process is not gone after {GONE:?}");
    }
    Ok(())
}

fn hold(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::NONBLOCK).ok()
}

/// Runs a command to its end and gives its output.
///
/// # Errors
/// When it fails; with what it said.
pub async fn output(command: Command) -> Result<String> {
    let name = format!("{:?}", command.get_program());
    let mut command = tokio::process::Command::from(command);
    let output = command.kill_on_drop(true).output().await.with_context(|| name.clone())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {said}{errors}");
    Ok(said)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    #[test]
    fn killing_takes_those_that_it_started_along() {
        let mut root = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(root.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let sleeper = hold(line.trim().parse().unwrap()).unwrap();
        kill_tree(root.id()).unwrap();
        let mut ended = [PollFd::new(&sleeper, PollFlags::IN)];
        assert_eq!(poll(&mut ended, Some(&Timespec::default())).unwrap(), 1);
        root.wait().unwrap();
    }

    #[test]
    fn a_process_that_ended_by_itself_is_seen_and_reaped() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo said; read line; exit 3"]);
        let mut process = Process::start(&mut command, &log).unwrap();
        assert!(!process.has_ended());
        // Its input ends.
        drop(process.child.stdin.take());
        process.child.wait().unwrap();
        assert!(process.has_ended());
        process.kill().unwrap();
        assert_eq!(std::fs::read_to_string(log).unwrap(), "said\n");
    }
}
