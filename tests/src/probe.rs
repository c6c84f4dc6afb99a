//! What a probe writes to its log, and how a test tells it what to do.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// One line of a probe's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in nanoseconds of the machine's monotonic clock: comparable between processes.
    pub at: u64,
    /// The process that wrote it.
    pub pid: u32,
    /// What it did or heard.
    #[serde(flatten)]
    pub said: Said,
}

impl Entry {
    /// An entry of this process, now.
    pub fn now(said: Said) -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let at = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0);
        Self { at, pid: std::process::id(), said }
    }
}

/// What a probe did or heard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is the message of that name in the process protocol")]
pub enum Said {
    Started { module: String, version: String, args: Vec<String> },
    Listening,
    Proposal { proposal: serde_json::Value },
    Answered { answer: String },
    Overruled { update: String, by: String, why: String },
    Pending { update: String },
    Ready { update: String },
    HandOver { update: String },
    Resume { update: String },
    Done { update: String },
    Aborted { update: String },
    Outcome { update: String, outcome: String },
    Error { message: String },
}

/// Reads a probe's log. Lines that are not a probe's are passed over.
pub fn read_log(file: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The file that the probe of a module writes with `--also FOLDER`: one for each process.
pub fn own_log(folder: &Path, node: &str, module: &str, (pid, start_time): (u32, u64)) -> PathBuf {
    folder.join(node).join(format!("{}.{pid}.{start_time}", module.replace('/', ".")))
}

/// Tells the probe behind a control socket what to do; returns when it has understood.
pub fn tell(socket: &Path, order: &str) -> Result<()> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connecting to the probe at {}", socket.display()))?;
    stream.write_all(format!("{order}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    ensure!(answer == "ok\n" || order.starts_with("exit"), "the probe answered {answer:?} to {order:?}");
    Ok(())
}
