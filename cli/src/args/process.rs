//! Arguments about processes.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use tribune_messages::registration::{FoundBy, Registration};
use tribune_raft_store::model::{ApiConsumed, ModuleDependency, NodeName, ProcessName, Silent, Span};

use super::{some, span};

/// What is done with processes.
#[derive(Debug, Subcommand)]
pub enum ProcessCommand {
    /// List the processes of a node
    List {
        /// The node; else the one that answers
        #[arg(long)]
        node: Option<NodeName>,
    },
    /// Show a process, and how it is registered
    Show {
        /// The process: `package/module`, or the name it was registered by
        process: String,
        /// The node; else the one that answers
        #[arg(long)]
        node: Option<NodeName>,
    },
    /// Show the end of a process's log
    Logs(LogsArgs),
    /// Register a process of this node that Tribune did not start, so that it is asked before what it needs is changed
    Register(RegisterArgs),
    /// Forget a registered process of this node
    Unregister {
        /// The name it was registered by
        name: ProcessName,
    },
}

/// Shows a log.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The process, as `package/module`
    pub process: String,
    /// The node; else the one that answers
    #[arg(long)]
    pub node: Option<NodeName>,
    /// How many lines
    #[arg(short = 'n', long, default_value_t = 100, value_parser = some)]
    pub lines: u32,
}

/// Registers a process.
#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("found").required(true).args(["pid_file", "unit"])),
    after_help = "A process that says hello on the process socket answers for itself. For any other its hook does: it gets the proposal on its standard input and in TRIBUNE_… variables; \
    exit code 0 accepts, 75 defers for a minute, any other vetoes, and the last line it prints is the reason. \
    Without a hook it is silent, which is a veto unless you say --silent accept. To change how a process is registered, register it again.\n\n\
    Example:\n  tribune process register backup --unit backup.service --hook /usr/local/bin/backup-idle --depends-on billing/billingd"
)]
pub struct RegisterArgs {
    /// What operators call it
    pub name: ProcessName,
    /// The file that holds its pid
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// The unit of systemd whose main process it is
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<String>,
    /// The command that answers for it: the absolute path of a program, and arguments. No shell reads it
    #[arg(long, value_name = "COMMAND", value_parser = hook)]
    pub hook: Option<Hook>,
    /// A module that it depends on, such as billing/billingd or billing/billingd@^2
    #[arg(long, value_name = "PACKAGE/MODULE")]
    pub depends_on: Vec<ModuleDependency>,
    /// An API that it consumes from this node's modules, such as ledger.api@^1.4
    #[arg(long, value_name = "API")]
    pub consumes: Vec<ApiConsumed>,
    /// What its silence means
    #[arg(long, value_enum, default_value_t)]
    pub silent: SilentArg,
    /// How long it has to answer
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = span)]
    pub within: Span,
    /// How long it may take to a safe point, if it says hello
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    pub ready_within: Span,
}

/// A command, as words.
#[derive(Debug, Clone)]
pub struct Hook(Vec<String>);

/// What silence means.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum SilentArg {
    /// A process that does not answer has vetoed
    #[default]
    Veto,
    /// A process that does not answer has accepted
    Accept,
}

impl RegisterArgs {
    /// What is registered; none: it was not said how the process is found.
    pub fn registration(self) -> Option<Registration> {
        let Self { name, pid_file, unit, hook, depends_on, consumes, silent, within, ready_within } = self;
        Some(Registration {
            name,
            found_by: pid_file.map(FoundBy::PidFile).or(unit.map(FoundBy::Unit))?,
            hook: hook.map(|Hook(words)| words),
            depends_on,
            consumes,
            silent: match silent {
                SilentArg::Veto => Silent::Veto,
                SilentArg::Accept => Silent::Accept,
            },
            within,
            ready_within,
        })
    }
}

/// Reads a command. A quote would be part of a word, which nobody means.
fn hook(text: &str) -> Result<Hook, String> {
    if text.contains(['"', '\'', '\\']) {
        return Err("no shell reads it, so leave out quotes and backslashes; put the command into a script and name that".into());
    }
    match text.split_whitespace().map(str::to_owned).collect::<Vec<_>>() {
        words if words.first().is_some_and(|program| program.starts_with('/')) => Ok(Hook(words)),
        _ => Err("begin it with the absolute path of a program".into()),
    }
}
