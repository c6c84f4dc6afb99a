//! The processes of this machine, as `/proc` has them: whose they are, and what they were started with.
//!
//! One idea: what a node says of its processes is one thing, what runs is another; tests look at both.

use std::fs;
use std::path::Path;

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};

/// A process that has not ended.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// That of its parent.
    pub parent: u32,
    /// When it started, in clock ticks since boot: with the pid, one process only.
    pub start_time: u64,
    /// Its words.
    pub args: Vec<String>,
    environment: String,
}

impl Process {
    /// Whether it is a node's agent.
    pub fn is_agent(&self) -> bool {
        self.args.get(1).is_some_and(|argument| argument == "agent")
    }

    /// Whether a node with this data folder started it, or it is that node.
    pub fn belongs_to(&self, data: &Path) -> bool {
        let data = data.display().to_string();
        self.args.contains(&data) || self.environment.contains(&format!("{data}/"))
    }

    /// A variable of its environment, as it was started.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.split('\0').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// All that run now.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn all() -> Result<Vec<Process>> {
    those(|_| true)
}

/// Those that run now with such words; of the others nothing more is read.
///
/// # Errors
/// As [`all`].
pub fn those(wanted: impl Fn(&[String]) -> bool) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        found.extend(read(pid, &path, &wanted));
    }
    Ok(found)
}

/// When this process began, in ticks since the machine started: with the pid, which comes again once all are used, one process only.
pub fn own_start_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    start_time(&fields(&stat)?)
}

/// The fields of `/proc/PID/stat` from the third on. The name before them may have spaces; these have none.
fn fields(stat: &str) -> Option<Vec<&str>> {
    stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect())
}

fn start_time(fields: &[&str]) -> Option<u64> {
    fields.get(19)?.parse().ok()
}

/// One that has ended meanwhile has no files.
fn read(pid: u32, path: &Path, wanted: impl Fn(&[String]) -> bool) -> Option<Process> {
    let args = fs::read(path.join("cmdline")).ok()?;
    let args: Vec<_> = args.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
    if !wanted(&args) {
        return None;
    }
    let stat = fs::read_to_string(path.join("stat")).ok()?;
    let fields = fields(&stat)?;
    if *fields.first()? == "Z" {
        return None;
    }
    let parent = fields.get(1).and_then(|parent| parent.parse().ok()).unwrap_or(0);
    let start_time = start_time(&fields).unwrap_or(0);
    let environment = String::from_utf8_lossy(&fs::read(path.join("environ")).unwrap_or_default()).into_owned();
    Some(Process { pid, parent, start_time, args, environment })
}

/// Sends a signal. It may have ended meanwhile: then nothing happens.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // So it is.
        let _ = kill_process(pid, signal);
    }
}

/// Kills it with SIGKILL.
pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}
