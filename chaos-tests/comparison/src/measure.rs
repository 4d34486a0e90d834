//! What processes use, from `/proc`, and what the disk takes.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::counts::{Latency, Times};

/// What is written before each sync: one page.
const WRITE_BYTES: usize = 4096;

/// What the processes of a node have used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time, that of ended children that were waited for included.
    pub cpu: Duration,
    /// Resident memory.
    pub resident_bytes: u64,
}

/// What the process `root` and all that descend from it have used.
///
/// # Errors
/// When the process has ended.
pub fn usage_of_tree(root: u32) -> Result<Usage> {
    let mut total = usage_of(root)?;
    for pid in descendants(root) {
        // One that ended meanwhile counts with its parent from then on.
        if let Ok(usage) = usage_of(pid) {
            total.cpu += usage.cpu;
            total.resident_bytes += usage.resident_bytes;
        }
    }
    Ok(total)
}

/// What a process alone has used.
///
/// # Errors
/// When it has ended.
pub fn usage_of(pid: u32) -> Result<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    parse(&stat, &status).context("/proc is not as expected")
}

/// The processes that descend from `root`, parents first.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut found = children(root);
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children(*pid));
        next += 1;
    }
    found
}

/// A process belongs to the thread that made it: all threads are asked.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("children")));
    let texts: Vec<String> = lists.flatten().collect();
    texts.iter().flat_map(|text| text.split_whitespace()).flat_map(str::parse).collect()
}

fn parse(stat: &str, status: &str) -> Option<Usage> {
    // proc(5): the name may contain anything, so count from its closing parenthesis, after which
    // comes field 3; utime, stime, cutime and cstime are fields 14 to 17.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: Vec<u64> = fields.get(11..15)?.iter().flat_map(|text| text.parse()).collect();
    if ticks.len() != 4 {
        return None;
    }
    let millis = ticks.iter().sum::<u64>() * 1000 / rustix::param::clock_ticks_per_second();
    // A process that has ended and was not waited for has no memory.
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Some(Usage {
        cpu: Duration::from_millis(millis),
        resident_bytes: kib.unwrap_or_default() * 1024,
    })
}

/// How long the processors of the machine have worked since it started, for whomever.
///
/// # Errors
/// When the kernel does not tell.
pub fn machine_busy() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    parse_busy(&text).context("/proc/stat is not as expected")
}

fn parse_busy(text: &str) -> Option<Duration> {
    // proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in the first two.
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
    let idle: u64 = ticks.get(3..5)?.iter().sum();
    let busy = ticks.get(..8)?.iter().sum::<u64>() - idle;
    Some(Duration::from_millis(busy * 1000 / rustix::param::clock_ticks_per_second()))
}

/// Writes a page into a preallocated file in `directory` and syncs it, `writes` times.
///
/// # Errors
/// When the disk does not take it.
pub fn syncs(directory: &Path, writes: u32) -> Result<Latency> {
    let mut file: File = tempfile::tempfile_in(directory)?;
    fallocate(&file, FallocateFlags::empty(), 0, u64::from(writes) * WRITE_BYTES as u64)?;
    file.sync_all()?;
    let times = Times::default();
    for _ in 0..writes {
        let began = Instant::now();
        file.write_all(&[0x5a; WRITE_BYTES])?;
        fdatasync(&file)?;
        times.record(began.elapsed().max(Duration::from_micros(1)));
    }
    Ok(times.summary())
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many cores this process may use.
    pub cores: usize,
    /// Memory.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Load average of the last minute.
    pub load_average: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib = memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kib.unwrap_or_default() * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: read("/proc/loadavg").split_whitespace().next().unwrap_or("").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn usage_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 100 50 30 20 20 0 1 0 1 1 1";
        let status = "Name:\tx\nVmRSS:\t  2048 kB\nThreads:\t7\n";
        let usage = parse(stat, status).unwrap();
        assert_eq!(usage.cpu.as_millis() as u64, 200_000 / rustix::param::clock_ticks_per_second());
        assert_eq!(usage.resident_bytes, 2 << 20);
        assert_eq!(parse(stat, "Name:\tzombie\n").unwrap().resident_bytes, 0);
        assert_eq!(parse("nonsense", status), None);
        assert_eq!(parse("7 (a) S 1 2", status), None);
    }

    #[test]
    fn busy_is_all_but_idle_and_waiting() {
        let text = "cpu  10 20 30 1000 500 1 2 37 5 5\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        let ticks = 10 + 20 + 30 + 1 + 2 + 37;
        let expected = ticks * 1000 / rustix::param::clock_ticks_per_second();
        assert_eq!(parse_busy(text), Some(Duration::from_millis(expected)));
        assert_eq!(parse_busy("cpu  1 2 3\n"), None);
        assert!(machine_busy().unwrap() > Duration::ZERO);
    }

    #[test]
    fn a_tree_is_more_than_its_root() {
        let mut root = Command::new("sh")
            .args(["-c", "sh -c 'sleep 1000 & echo $!; wait' & wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(root.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let sleeper: u32 = line.trim().parse().unwrap();
        let found = descendants(root.id());
        assert_eq!(found.last(), Some(&sleeper), "{found:?}");
        let alone = usage_of(root.id()).unwrap().resident_bytes;
        assert!(usage_of_tree(root.id()).unwrap().resident_bytes > alone);
        crate::process::kill_tree(root.id()).unwrap();
        root.wait().unwrap();
        assert!(usage_of_tree(root.id()).is_err());
    }

    #[test]
    fn syncs_are_timed() {
        let directory = tempfile::tempdir().unwrap();
        assert!(syncs(directory.path(), 3).unwrap().max_ms > 0.0);
    }
}
