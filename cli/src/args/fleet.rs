//! Arguments about nodes, classes, processes, events, local storage and users.

use clap::{Args, Subcommand, ValueEnum};
use tribune_raft_store::model::{CharacteristicKey, ClassName, NodeName, PrincipalName, PublicKey, Role, Span, VoterPreference};

use super::{some, span};

/// What is done with nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the nodes
    List,
    /// Show a node
    Show {
        /// The node
        node: NodeName,
    },
    /// Let a node that went back by itself (`local regress`) take part in updates again
    Release {
        /// The node
        node: NodeName,
    },
    /// Take a node out of the cluster for good; what runs on it goes on
    #[command(
        after_help = "A voter leaves Raft first, when the others can do without it; the command waits for that as long as --timeout says."
    )]
    Remove {
        /// The node
        node: NodeName,
    },
    /// Say whether a node may be one of the cluster's voters
    SetVoter {
        /// The node
        node: NodeName,
        /// Whether it may be one; `own`: as its own settings say
        #[arg(value_enum)]
        voter: VoterWish,
    },
    /// Say what a node is to be like: these characteristics win over what it found out about itself
    #[command(after_help = "Examples:\n  tribune node label n1 role=edge site=oslo\n  tribune node label n1 --remove site")]
    Label {
        /// The node
        node: NodeName,
        /// What is set
        #[arg(value_name = "KEY=VALUE", value_parser = label, required_unless_present = "remove")]
        set: Vec<(CharacteristicKey, String)>,
        /// What is taken away
        #[arg(long, value_name = "KEY")]
        remove: Vec<CharacteristicKey>,
        /// Modules that do not name what is set are not for this node
        #[arg(long)]
        required: bool,
    },
}

/// What a user says of a node as voter.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum VoterWish {
    /// It is never one
    Never,
    /// It may be one
    May,
    /// It is one rather than others
    Prefer,
    /// As the node's own settings say
    Own,
}

impl From<VoterWish> for Option<VoterPreference> {
    fn from(wish: VoterWish) -> Self {
        match wish {
            VoterWish::Never => Some(VoterPreference::Never),
            VoterWish::May => Some(VoterPreference::May),
            VoterWish::Prefer => Some(VoterPreference::Prefer),
            VoterWish::Own => None,
        }
    }
}

/// What is done with the whole cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show or set what holds for the whole cluster
    Settings {
        /// How long a node may be silent before it counts as away
        #[arg(long, value_name = "TIME", value_parser = span)]
        away_after: Option<Span>,
        /// How many voters are kept at most: 1, 3 or 5
        #[arg(long, value_name = "NUMBER")]
        voters: Option<u32>,
        /// How many standbys are kept at most: 0, 1 or 2
        #[arg(long, value_name = "NUMBER")]
        standbys: Option<u32>,
    },
}

/// What is done with classes.
#[derive(Debug, Subcommand)]
pub enum ClassCommand {
    /// List the classes
    List,
    /// Show a class
    Show {
        /// The class
        class: ClassName,
    },
    /// Take a class away; its nodes keep what they have
    Remove {
        /// The class
        class: ClassName,
    },
    /// Put nodes into a class, or take them out; it is made if it is not there
    Set {
        /// The class
        class: ClassName,
        /// Put this node into it
        #[arg(long, value_name = "NODE")]
        add: Vec<NodeName>,
        /// Take this node out of it
        #[arg(long, value_name = "NODE")]
        remove: Vec<NodeName>,
    },
}

/// Shows events.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on as they happen
    #[arg(short, long)]
    pub follow: bool,
    /// Begin after the event with this number; else with the last ones
    #[arg(long, value_name = "NUMBER")]
    pub after: Option<u64>,
    /// How many at first
    #[arg(short = 'n', long, default_value_t = 50, value_parser = some)]
    pub limit: u32,
}

/// What is done with this node's own storage.
#[derive(Debug, Subcommand)]
pub enum LocalCommand {
    /// Show what is installed here and what it can go back to
    Show,
    /// Take this node back, also when it is cut off from the cluster
    Regress(LocalRegressArgs),
}

/// Takes this node back.
#[derive(Debug, Args)]
pub struct LocalRegressArgs {
    /// To this generation; else to the one before
    #[arg(long, value_name = "NUMBER")]
    pub generation: Option<u64>,
    /// Go past vetoes
    #[arg(long, requires = "why")]
    pub force: bool,
    /// Why; the processes are told
    #[arg(long, value_name = "TEXT", requires = "force")]
    pub why: Option<String>,
}

/// What is done with users.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// List who may do what
    List,
    /// Take a key away
    Remove {
        /// The name of who has it, or the public key
        who: String,
    },
    /// Let a key in, or change its role
    Add {
        /// The name of who has it
        name: PrincipalName,
        /// The public key, as `tribune admin key` prints it
        #[arg(long, value_name = "PUBLIC-KEY")]
        public_key: PublicKey,
        /// What it may do
        #[arg(long, value_enum)]
        role: RoleArg,
    },
    /// Print the public key of a key file, which is made if it is not there
    Key {
        /// The key file
        file: std::path::PathBuf,
    },
}

/// What a user may do; each may do what those before it may.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleArg {
    /// Look
    Viewer,
    /// Publish packages
    Publisher,
    /// Submit and decide updates, label nodes, set classes
    Operator,
    /// Everything
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Role::Viewer,
            RoleArg::Publisher => Role::Publisher,
            RoleArg::Operator => Role::Operator,
            RoleArg::Admin => Role::Admin,
        }
    }
}

/// Reads `KEY=VALUE`.
fn label(text: &str) -> Result<(CharacteristicKey, String), String> {
    let (key, value) = text.split_once('=').ok_or("use KEY=VALUE, such as role=edge")?;
    if value.is_empty() {
        return Err("the value is empty; to take a label away use --remove KEY".into());
    }
    Ok((key.parse().map_err(|error: tribune_raft_store::model::IdError| error.to_string())?, value.to_owned()))
}
