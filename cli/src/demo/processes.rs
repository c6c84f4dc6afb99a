//! The processes of the demo's nodes, as `/proc` has them.

use std::fs;
use std::path::Path;

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};

/// The agent of a keeper.
pub(super) fn agents(keeper: u32) -> Result<Vec<Pid>> {
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"))?;
    let is_agent = |pid: &&str| {
        let args = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        args.split(|byte| *byte == 0).nth(1) == Some(b"agent")
    };
    Ok(children.split_whitespace().filter(is_agent).filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect())
}

/// Kills with SIGKILL what runs for a node, whose keeper has gone. What was just being started is found in the next round.
pub(super) fn kill_all(data: &Path) -> Result<()> {
    loop {
        let left = of_node(data)?;
        if left.is_empty() {
            return Ok(());
        }
        for pid in left {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// What has a node's folder among its arguments or in its environment. The dead have neither.
fn of_node(data: &Path) -> Result<Vec<Pid>> {
    let data = data.display().to_string();
    let (whole, inside) = (data.clone().into_bytes(), format!("{data}/").into_bytes());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| Pid::from_raw(name.to_str()?.parse().ok()?)) else { continue };
        let read = |file: &str| fs::read(path.join(file)).unwrap_or_default();
        let named = read("cmdline").split(|byte| *byte == 0).any(|argument| argument == whole);
        if named || read("environ").windows(inside.len()).any(|part| part == inside) {
            found.push(pid);
        }
    }
    Ok(found)
}
