//! One process of a cluster, held by a pidfd.

use std::{
    fs,
    os::fd::OwnedFd,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, retry_on_intr},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::Serialize;

/// What a process uses, from `/proc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// User and system time since it started.
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Of that, memory that is not of files: heap and stacks.
    pub anonymous_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Bytes that it had written to disks since it started, in whole pages.
    pub written_bytes: u64,
}

/// A hold on a process that somebody else owns: for signals alone.
#[derive(Debug)]
pub struct Grip {
    pidfd: OwnedFd,
}

impl Grip {
    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        pidfd_send_signal(&self.pidfd, signal).context("the process has ended")
    }
}

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    pidfd: OwnedFd,
    /// Set when it is our own child: it is reaped by us, and ends when its stdin does.
    child: Option<(Child, Option<ChildStdin>)>,
}

impl Process {
    /// Starts a process with a piped stdin.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).spawn().context("cannot start a process")?;
        let stdin = child.stdin.take();
        // Not reaped yet, so the number is still its own.
        let pidfd = open(child.id())?;
        Ok(Self { pid: child.id(), pidfd, child: Some((child, stdin)) })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// A hold on it.
    pub(super) fn grip(&self) -> Result<Grip> {
        Ok(Grip { pidfd: self.pidfd.try_clone()? })
    }

    /// Sends a signal; a process that has ended takes none, and that is no error.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context("cannot signal a process"),
        }
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        match &mut self.child {
            Some((child, _)) => !matches!(child.try_wait(), Ok(None)),
            None => wait(&self.pidfd, Duration::ZERO).unwrap_or(true),
        }
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&mut self, deadline: Duration) -> Result<()> {
        let pidfd = self.pidfd.try_clone()?;
        let ended = tokio::task::spawn_blocking(move || wait(&pidfd, deadline)).await??;
        ensure!(ended, "process {} has not ended after {deadline:?}", self.pid);
        if let Some((child, _)) = &mut self.child {
            child.wait().context("cannot reap a process")?;
        }
        Ok(())
    }

    /// With which status a child of ours has ended; `None` for one that a signal ended, that has
    /// not ended, or that is not ours.
    pub(super) fn exit_code(&mut self) -> Option<i32> {
        let (child, _) = self.child.as_mut()?;
        child.try_wait().ok()??.code()
    }

    /// What it uses now.
    pub(super) fn usage(&self) -> Result<Usage> {
        usage_of(self.pid())
    }

    /// Kills it and what it started, and reaps it if it is ours.
    pub(super) fn destroy(&mut self) {
        for pid in children(self.pid) {
            // A child that ended meanwhile stays a zombie of its living parent at worst, so the
            // number is not reused before the parent reaps it; the parent is asked to end next.
            if let Ok(pidfd) = open(pid)
                && children(self.pid).contains(&pid)
            {
                // Nothing can be done about an error, and an ended process is what is wanted.
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
        let _ = self.signal(Signal::KILL);
        if let Some((child, _)) = &mut self.child {
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.destroy();
    }
}

/// Whether a process ends within `deadline`: then its pidfd becomes readable.
fn wait(pidfd: &OwnedFd, deadline: Duration) -> Result<bool> {
    let deadline = Timespec::try_from(deadline).context("a deadline of many years")?;
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    Ok(retry_on_intr(|| poll(&mut fds, Some(&deadline)))? > 0)
}

fn open(pid: u32) -> Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process id")?;
    pidfd_open(pid, PidfdFlags::NONBLOCK).context("no such process")
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// What process `pid` uses now.
///
/// # Errors
/// When there is no such process.
pub fn usage_of(pid: u32) -> Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mut usage = parse_usage(&stat, &status).context("/proc is not as expected")?;
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    usage.written_bytes = written_bytes(&io).context("/proc is not as expected")?;
    usage.descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
    Ok(usage)
}

fn parse_usage(stat: &str, status: &str) -> Option<Usage> {
    // proc(5): the name may contain anything, so count from its closing parenthesis; utime and
    // stime are fields 14 and 15, the state after the name is field 3.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let millis = ticks * 1000 / rustix::param::clock_ticks_per_second();
    let number = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Usage {
        cpu: Duration::from_millis(millis),
        resident_bytes: number("VmRSS:")? * 1024,
        anonymous_bytes: number("RssAnon:")? * 1024,
        threads: number("Threads:")?,
        descriptors: 0,
        written_bytes: 0,
    })
}

/// What storage was caused to take: proc(5), `write_bytes`.
fn written_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Process {
        Process::start(Command::new("sleep").arg("1000")).unwrap()
    }

    fn first_line(process: &mut Process) -> String {
        let mut line = String::new();
        let (child, _) = process.child.as_mut().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        line
    }

    #[tokio::test]
    async fn a_killed_process_is_seen_to_end() {
        let mut process = sleeper();
        assert!(!process.has_ended());
        assert!(process.ended(Duration::from_millis(20)).await.is_err());
        process.signal(Signal::KILL).unwrap();
        process.ended(Duration::from_secs(20)).await.unwrap();
        assert!(process.has_ended());
        process.signal(Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn dropping_a_process_kills_it_and_its_children() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!; wait"]).stdout(Stdio::piped());
        let mut process = Process::start(&mut command).unwrap();
        let line = first_line(&mut process);
        let mut grandchild =
            Process { pid: 0, pidfd: open(line.trim().parse().unwrap()).unwrap(), child: None };
        drop(process);
        grandchild.ended(Duration::from_secs(20)).await.unwrap();
    }

    #[test]
    fn usage_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 1 1 1";
        let status = "Name:\tx\nVmRSS:\t  2048 kB\nRssAnon:\t 1024 kB\nThreads:\t7\n";
        let usage = parse_usage(stat, status).unwrap();
        assert_eq!(usage.cpu.as_millis() as u64, 200_000 / rustix::param::clock_ticks_per_second());
        assert_eq!((usage.resident_bytes, usage.anonymous_bytes), (2 << 20, 1 << 20));
        assert_eq!(usage.threads, 7);
        let own = usage_of(std::process::id()).unwrap();
        assert!(own.resident_bytes > 0 && own.descriptors > 0);
        assert_eq!(parse_usage("nonsense", status), None);
        let io = "rchar: 1\nwchar: 7\nwrite_bytes: 8192\ncancelled_write_bytes: 5\n";
        assert_eq!((written_bytes(io), written_bytes("wchar: 7\n")), (Some(8192), None));
    }
}
