//! The binary as an operator runs it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::net::Host;

/// A program of this workspace, beside the running test's own folder.
pub fn program(name: &str) -> PathBuf {
    let here = std::env::current_exe().expect("a running program has a path");
    let folder = here.ancestors().find(|folder| folder.join(name).is_file());
    folder.map(|folder| folder.join(name)).unwrap_or_else(|| panic!("{name} is not built; run `cargo build --workspace`"))
}

/// What a command said, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The arguments.
    pub args: Vec<String>,
    /// The exit code; -1 if it was killed.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Output {
    /// This, if it ended with that code.
    pub fn expect(self, code: i32) -> Result<Self> {
        ensure!(
            self.code == code,
            "tribune {}: exit code {}, not {code}\n{}{}",
            self.args.join(" "),
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// The last JSON document that was printed.
    pub fn json(&self) -> Result<Value> {
        let line = self.stdout.lines().rev().find(|line| !line.trim().is_empty());
        let Some(line) = line else { bail!("tribune {}: nothing was printed\n{}", self.args.join(" "), self.stderr) };
        serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))
    }
}

/// Runs `tribune` with these arguments, and this on its standard input.
pub fn tribune(args: &[&str], input: &str) -> Result<Output> {
    tribune_on(None, args, input)
}

/// The same on a host of a network; `None`: on this machine.
pub fn tribune_on(host: Option<&Host>, args: &[&str], input: &str) -> Result<Output> {
    let mut command = command_on(host, &program("tribune"));
    command.args(args).env_remove("TRIBUNE_DATA").env_remove("TRIBUNE_PEER").env_remove("TRIBUNE_KEY");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that reads nothing may have ended.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    Ok(Output {
        args: args.iter().map(ToString::to_string).collect(),
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A command that runs a program on a host of a network, or on this machine.
pub fn command_on(host: Option<&Host>, program: &Path) -> Command {
    host.map_or_else(|| Command::new(program), |host| host.command(program))
}
