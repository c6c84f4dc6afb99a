//! Arguments that make a node and bring it into a cluster.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use tribune_p2p::Multiaddr;
use tribune_raft_store::model::{IdError, NodeName, Platform, PrincipalName, Span, VoterPreference};

use super::span;

/// What a new node is like.
#[derive(Debug, Args)]
pub struct NewNodeArgs {
    /// Where the control network listens [default: /ip4/0.0.0.0/tcp/7400]
    #[arg(long, value_name = "ADDR")]
    pub control: Option<Multiaddr>,
    /// Where the data network listens [default: /ip4/0.0.0.0/tcp/7401]
    #[arg(long, value_name = "ADDR")]
    pub data_address: Option<Multiaddr>,
    /// The platform it declares, such as linux/arm64; else that of this machine
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<Platform>,
    /// A command that runs modules of another platform, such as "linux/arm64=qemu-aarch64-static -L /usr/aarch64-linux-gnu"
    #[arg(long, value_name = "OS/ARCH=COMMAND", value_parser = runner)]
    pub runner: Vec<(Platform, String)>,
    /// A group, by name or number, whose members may open the process socket, for services that run as other users
    #[arg(long, value_name = "GROUP")]
    pub process_group: Option<String>,
    /// Whether it may be one of the cluster's voters
    #[arg(long, value_enum, default_value_t)]
    pub voter: VoterArg,
}

/// Whether a node may be a voter.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum VoterArg {
    /// It is never one
    Never,
    /// It may be one
    #[default]
    May,
    /// It is one rather than others
    Prefer,
}

impl From<VoterArg> for VoterPreference {
    fn from(voter: VoterArg) -> Self {
        match voter {
            VoterArg::Never => VoterPreference::Never,
            VoterArg::May => VoterPreference::May,
            VoterArg::Prefer => VoterPreference::Prefer,
        }
    }
}

/// Makes a cluster.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The name of this node; unique in its cluster
    #[arg(long)]
    pub name: NodeName,
    /// What the node is like.
    #[command(flatten)]
    pub node: NewNodeArgs,
    /// The name of the first admin
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub admin: PrincipalName,
    /// Where the first admin's new key is written [default: DIR/admin.key]
    #[arg(long, value_name = "FILE")]
    pub admin_key: Option<PathBuf>,
}

/// Brings a node into a cluster.
#[derive(Debug, Args)]
#[command(
    after_help = "The token is read from --token-file, or else from TRIBUNE_TOKEN. It is never an argument: arguments can be seen by everyone.\n\n\
    Example:\n  tribune join --name n2 --peer /ip4/10.0.0.1/tcp/7400/p2p/12D3Koo… --token-file token"
)]
pub struct JoinArgs {
    /// The name of this node; unique in its cluster
    #[arg(long, required_unless_present = "replace")]
    pub name: Option<NodeName>,
    /// Take the place of this node, which is not connected: its name, class, labels and what it should have; the token must be made for it
    #[arg(long, value_name = "NAME", conflicts_with = "name")]
    pub replace: Option<NodeName>,
    /// What the node is like.
    #[command(flatten)]
    pub node: NewNodeArgs,
    /// The file with the join token; - for standard input
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// What is done with join tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token with which one node can join
    Create(TokenCreateArgs),
}

/// Makes a join token.
#[derive(Debug, Args)]
pub struct TokenCreateArgs {
    /// How long it is good
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = span)]
    pub valid: Span,
    /// The only node name it is good for
    #[arg(long, value_name = "NAME")]
    pub node: Option<NodeName>,
    /// Write it to this new file, readable for you only, instead of printing it
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Reads `OS/ARCH=COMMAND`.
fn runner(text: &str) -> Result<(Platform, String), String> {
    let (platform, command) = text.split_once('=').ok_or("use OS/ARCH=COMMAND")?;
    if command.trim().is_empty() {
        return Err("the command is empty".into());
    }
    Ok((platform.parse().map_err(|error: IdError| error.to_string())?, command.to_owned()))
}
