//! What is wrong, whoever it comes from: the message says what, where and what would be right, and nothing is lost or left half done.
//!
//! - [`input`]: from a user at the command line;
//! - [`disks`]: a disk that is full.

mod disks;
mod input;

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
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
