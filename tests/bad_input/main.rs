//! What is wrong, whoever it comes from: the message says what, where and what would be right, and nothing is lost or left half done.
//!
//! - [`input`]: from a user at the command line;
//! - [`images`]: packages and images, damaged or made to do harm;
//! - [`orders`]: orders that are late, repeated, for another cluster, or not for who gives them;
//! - [`processes`]: from a process on the node;
//! - [`peers`]: from a peer that has a member's key;
//! - [`disks`]: a disk that is full;
//! - [`bits`]: a bit that turned on a disk.

mod bits;
mod disks;
mod images;
mod input;
mod orders;
mod peers;
mod processes;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tribune_tests::Output;

/// That a command failed with this code, said all of these, printed no result and did not panic.
pub fn refused(output: Output, code: i32, said: &[&str]) -> Result<()> {
    let output = output.expect(code)?;
    for part in said {
        ensure!(output.stderr.contains(part), "tribune {}: {part:?} is not in\n{}", output.args.join(" "), output.stderr);
    }
    let quiet = output.stdout.is_empty() && !output.stderr.contains("panicked");
    ensure!(quiet, "tribune {}:\n{}{}", output.args.join(" "), output.stdout, output.stderr);
    Ok(())
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The names of what is in a folder; none if there is no folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The memory that a process has in use, in KiB.
pub fn memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
