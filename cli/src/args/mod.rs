//! The arguments of `tribune`. One idea: a value is checked where it is read, so a command gets names, ids and times, never text.

mod disaster;
mod fleet;
mod node;
mod package;
mod process;
mod update;
mod wrong;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use tribune_node::client::Peer;
use tribune_raft_store::model::Span;

pub use disaster::{BackupArgs, RecoverArgs, RestoreArgs};
pub use fleet::{AdminCommand, ClassCommand, ClusterCommand, EventsArgs, LocalCommand, NodeCommand};
pub use node::{InitArgs, JoinArgs, TokenCommand, TokenCreateArgs};
pub use package::{ImageCommand, PackageCommand};
pub use process::{ProcessCommand, RegisterArgs};
pub use update::{DecideArgs, PlanArgs, RegressArgs, SubmitArgs, TargetArgs, UpdateCommand};

/// Where a node keeps its data if nothing else is said.
pub const DEFAULT_DATA: &str = "/var/lib/tribune";

const AFTER: &str = "Exit codes: 0 done, 1 error, 2 wrong arguments, 3 vetoed, held or paused and waiting for a user, \
    4 completed with discrepancies, 5 regressed, 6 aborted, 7 no master or no answer in time, 8 blocked by the plan, 9 regress failed.";

/// Rolls new software out over a fleet of nodes while it keeps working. Every running process may object first.
#[derive(Debug, Parser)]
#[command(name = "tribune", version, after_help = AFTER, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// The node's data folder
    #[arg(long, global = true, value_name = "DIR", env = "TRIBUNE_DATA", default_value = DEFAULT_DATA, help_heading = "Global options")]
    pub data: PathBuf,
    /// Speak to this peer over the network instead of to the node on this machine; several are tried in turn
    #[arg(long, global = true, value_name = "ADDR", env = "TRIBUNE_PEER", value_delimiter = ',', value_parser = peer, help_heading = "Global options")]
    pub peer: Vec<Peer>,
    /// The file with your key; needed with --peer
    #[arg(long, global = true, value_name = "FILE", env = "TRIBUNE_KEY", help_heading = "Global options")]
    pub key: Option<PathBuf>,
    /// How to print: table or json (one document a line); for `build` also the file to write
    #[arg(short, long, global = true, value_name = "table|json", value_parser = out, help_heading = "Global options")]
    pub output: Vec<Out>,
    /// How long to wait for an answer, such as 30s
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = patience, help_heading = "Global options")]
    pub timeout: Span,
}

impl Global {
    /// How long to wait for an answer.
    pub fn patience(&self) -> Duration {
        self.timeout.as_duration()
    }

    /// How to print.
    pub fn format(&self) -> Format {
        let format = self.output.iter().rev().find_map(|out| match out {
            Out::Format(format) => Some(*format),
            Out::File(_) => None,
        });
        format.unwrap_or_default()
    }

    /// The file to write, for those commands that write one.
    pub fn file(&self) -> Option<&Path> {
        self.output.iter().rev().find_map(|out| match out {
            Out::Format(_) => None,
            Out::File(file) => Some(file.as_path()),
        })
    }
}

/// What `-o` says: a format, or the file that is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Out {
    /// How to print.
    Format(Format),
    /// The file to write.
    File(PathBuf),
}

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON document a line.
    Json,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new cluster with this node as its first
    Init(InitArgs),
    /// Make join tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Bring this node into a cluster
    Join(JoinArgs),
    /// Run this node
    Run,
    /// Show how this node and its cluster are
    Status,
    /// Look at nodes and say what they should be like
    #[command(subcommand)]
    Node(NodeCommand),
    /// Show and set what holds for the whole cluster
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Look at classes and say which nodes are in them
    #[command(subcommand)]
    Class(ClassCommand),
    /// Build, publish, look at and remove packages
    #[command(subcommand)]
    Package(PackageCommand),
    /// Build and look at images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Change the software of nodes
    #[command(subcommand)]
    Update(UpdateCommand),
    /// Take nodes back to what they had before
    Regress(RegressArgs),
    /// Look at the processes of a node, and register others
    #[command(subcommand)]
    Process(ProcessCommand),
    /// Check the needs of everything that runs, within nodes and between them
    #[command(after_help = "Exit code 4 if a need is not met.")]
    Check,
    /// Show what happened
    Events(EventsArgs),
    /// Look at this node's own storage, and take it back, without the cluster
    #[command(subcommand)]
    Local(LocalCommand),
    /// Write everything that the cluster can be made again from into one file
    #[command(after_help = disaster::BACKUP)]
    Backup(BackupArgs),
    /// Make a node from a backup: it becomes the only voter of the cluster that the backup is of
    #[command(after_help = disaster::RESTORE)]
    Restore(Box<RestoreArgs>),
    /// Read everything on this node's disk that it goes by, and say what is not as it was written; nothing is changed
    #[command(after_help = disaster::FSCK)]
    Fsck,
    /// Make a stopped voter or standby the only voter of its cluster, after a majority was lost for good
    #[command(after_help = disaster::RECOVER)]
    Recover(RecoverArgs),
    /// Say who may do what
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Show the life of some updates on five nodes, started on this machine for it; needs the build of the whole workspace
    #[command(
        after_help = "The demo's services must lie beside this program, where `make build` puts them: a copy of the binary alone cannot show it."
    )]
    Demo,
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write a manual page for each command into a folder
    #[command(after_help = "Example:\n  tribune man /usr/local/share/man/man1")]
    Man {
        /// The folder; it is made if it is not there
        folder: PathBuf,
    },
    /// Print docs/CLI.md
    #[command(hide = true)]
    Markdown,
    /// The agent of a node; started by `tribune run`
    #[command(hide = true)]
    Agent,
    /// The first moments of a child; started by the keeper
    #[command(hide = true)]
    Shim,
}

impl Cli {
    /// Reads the arguments of this process; ends it with a message if they are wrong.
    pub fn read() -> Self {
        let args: Vec<_> = std::env::args_os().collect();
        Self::try_read(args.clone()).unwrap_or_else(|error| wrong::end(&error, &args))
    }

    /// Reads arguments.
    ///
    /// # Errors
    /// What is wrong with them, or the help that was asked for.
    pub fn try_read(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(args)?;
        let must_name = match cli.command {
            Command::Image(ImageCommand::Build { .. }) => Some(".timg"),
            Command::Package(PackageCommand::Merge { .. }) => Some(".tpkg"),
            _ => None,
        };
        let builds = must_name.is_some() || matches!(cli.command, Command::Package(PackageCommand::Build { .. }));
        match cli.global.file() {
            Some(file) if !builds => {
                let wrong = format!("\"{}\" is no way to print; use -o table or -o json", file.display());
                Err(Self::command().error(ErrorKind::InvalidValue, wrong))
            }
            None => match must_name {
                Some(ending) => {
                    let wrong = format!("name the file to write with -o FILE{ending}");
                    Err(Self::command().error(ErrorKind::MissingRequiredArgument, wrong))
                }
                None => Ok(cli),
            },
            Some(_) => Ok(cli),
        }
    }
}

/// Reads what `-o` says.
fn out(text: &str) -> Result<Out, String> {
    match text {
        "table" => Ok(Out::Format(Format::Table)),
        "json" => Ok(Out::Format(Format::Json)),
        "" => Err("use table or json, or the name of a file".into()),
        file => Ok(Out::File(file.into())),
    }
}

/// Reads a time such as `10s`.
fn span(text: &str) -> Result<Span, String> {
    text.parse().map_err(|error: tribune_raft_store::model::IdError| error.rule.to_owned())
}

/// Reads how long to wait: no time at all is no time to answer in.
fn patience(text: &str) -> Result<Span, String> {
    match span(text)? {
        span if span.as_millis() == 0 => Err("an answer takes some time; use a longer one, such as 30s".into()),
        span => Ok(span),
    }
}

/// Reads how many are asked for.
fn some(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("use 1 or more".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("use a number of 1 or more: {error}")),
    }
}

/// Reads the address of a peer.
fn peer(text: &str) -> Result<Peer, String> {
    text.parse().map_err(|error: tribune_node::client::ClientError| error.to_string())
}

#[cfg(test)]
mod tests;
