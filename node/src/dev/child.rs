//! One `heliograph serve` process of `dev`.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, ChildStdin, Command},
    sync::watch,
};

use super::layout::NodeLayout;

/// Sections of the configuration that belong to one node: an override of them in the environment
/// of `dev` would make all nodes the same.
const NODE_OVERRIDES: [&str; 4] =
    ["HELIOGRAPH_NODE__", "HELIOGRAPH_CLUSTER__", "HELIOGRAPH_PEER__", "HELIOGRAPH_CLIENT__"];
/// How much of a log is looked at for its last lines.
const TAIL_BYTES: u64 = 8 << 10;
/// How many last lines are shown.
const TAIL_LINES: usize = 8;

/// What is wanted of the children. It only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wanted {
    /// Run.
    Run,
    /// Shut down cleanly.
    Terminate,
    /// End at once.
    Kill,
}

/// A started process.
pub(super) struct NodeProcess {
    /// Which node.
    pub(super) id: u16,
    /// Its process id.
    pub(super) pid: u32,
    child: Child,
    /// The process reads it to its end: when we are gone, however that came, so is it.
    _stdin: Option<ChildStdin>,
}

impl NodeProcess {
    /// Starts `node` with `program`, output to its log.
    pub(super) fn start(program: &Path, node: &NodeLayout) -> io::Result<Self> {
        let log = node.open_log()?;
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg("--config")
            .arg(node.config())
            .arg("--until-stdin-ends")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in a terminal goes to the whole foreground group; the nodes shall hear it
            // from us.
            .process_group(0)
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            let is_override = |prefix| name.as_encoded_bytes().starts_with(str::as_bytes(prefix));
            if NODE_OVERRIDES.into_iter().any(is_override) {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        let pid = child.id().expect("the process was not waited for yet");
        Ok(Self { id: node.id, pid, child, _stdin: stdin })
    }

    /// Waits until the process has ended, and makes it end when that is wanted.
    pub(super) async fn run(
        mut self,
        mut wanted: watch::Receiver<Wanted>,
    ) -> (u16, io::Result<ExitStatus>) {
        loop {
            tokio::select! {
                // An end is an end, whatever is wanted.
                biased;
                status = self.child.wait() => return (self.id, status),
                changed = wanted.changed() => {
                    let wish = *wanted.borrow_and_update();
                    // The supervisor going away means the same as its last word.
                    if changed.is_err() || wish == Wanted::Kill {
                        // An error means that it has ended already.
                        let _ = self.child.start_kill();
                        return (self.id, self.child.wait().await);
                    }
                    if wish == Wanted::Terminate {
                        self.terminate();
                    }
                }
            }
        }
    }

    fn terminate(&self) {
        // `id` is none once the process was waited for: no other process is ever hit.
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// The last lines of a log, as many as help a person.
pub(super) fn tail(log: &Path) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_the_end_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert!(tail(&log).is_empty());
        let text: String = (0..5_000).map(|i| format!("line {i}\n")).collect();
        std::fs::write(&log, text).unwrap();
        let lines = tail(&log);
        assert_eq!(lines.len(), TAIL_LINES);
        assert_eq!(lines.last().unwrap(), "line 4999");
    }
}
