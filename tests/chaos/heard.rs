//! What the processes of modules did and heard, by what they wrote down themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tribune_tests::probe::{Entry, Said};

/// A process: its node, its module, its number, and when it began: numbers come again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// The node's name.
    pub node: String,
    /// The module, as `package/module`.
    pub module: String,
    /// Its process id.
    pub pid: u32,
    /// When it began, in ticks since the machine started.
    pub start_time: u64,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {}) on {}", self.module, self.pid, self.node)
    }
}

/// What all processes wrote so far.
#[derive(Debug, Default)]
pub struct Heard {
    read: BTreeMap<PathBuf, u64>,
    /// By process, in order.
    pub said: BTreeMap<Who, Vec<Entry>>,
    /// By node and update: the outcomes that the node's agents had to tell.
    pub over: BTreeMap<(String, String), BTreeSet<String>>,
}

impl Heard {
    /// Reads what is new below the folder of [`tribune_tests::probe::own_log`].
    pub fn look(&mut self, folder: &Path) -> Result<()> {
        for node in fs::read_dir(folder).into_iter().flatten() {
            let node = node?;
            for file in fs::read_dir(node.path())? {
                let name = file?.file_name().to_string_lossy().into_owned();
                let (rest, start_time) = name.rsplit_once('.').context("a log without the time of a start")?;
                let (module, pid) = rest.rsplit_once('.').context("a log without a pid")?;
                let node_name = node.file_name().to_string_lossy().into_owned();
                let (module, start_time) = (module.replacen('.', "/", 1), start_time.parse()?);
                let who = Who { node: node_name, module, pid: pid.parse()?, start_time };
                self.read_on(&node.path().join(&name), who)?;
            }
        }
        Ok(())
    }

    fn read_on(&mut self, path: &Path, who: Who) -> Result<()> {
        let text = self.new_lines(path)?;
        let entries = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        self.said.entry(who).or_default().extend(entries);
        Ok(())
    }

    /// Reads what is new in the log of a node's own processes.
    pub fn look_at_agent(&mut self, node: &str, log: &Path) -> Result<()> {
        for line in self.new_lines(log)?.lines() {
            let Some((_, fields)) = line.split_once("the update is over update=") else { continue };
            let Some((update, outcome)) = fields.split_once(" outcome=") else { continue };
            let outcome = outcome.split(" reason=").next().unwrap_or(outcome);
            self.over.entry((node.into(), update.into())).or_default().insert(outcome.into());
        }
        Ok(())
    }

    /// What was added to a file since the last look. The rest of a line that is being written comes the next time.
    fn new_lines(&mut self, path: &Path) -> Result<String> {
        let at = self.read.entry(path.to_owned()).or_default();
        let mut file = File::open(path)?;
        let mut bytes = Vec::new();
        if file.metadata()?.len() > *at {
            file.seek(SeekFrom::Start(*at))?;
            file.read_to_end(&mut bytes)?;
            bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
            *at += bytes.len() as u64;
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What has to be added to an entry's time, in milliseconds, for that of the clock on the wall.
pub fn to_wall_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let monotonic = Entry::now(Said::Listening).at / 1_000_000;
    i64::try_from(since.as_millis()).unwrap_or(0) - i64::try_from(monotonic).unwrap_or(0)
}
