//! Arguments about updates.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use tribune_package::PackageRef;
use tribune_raft_store::model::{ApiName, ClassName, NodeName, OnFailure, RolloutStrategy, Span, UpdateId, UpdateOptions};

use super::{some, span};

const SUBMIT_EXAMPLES: &str = "An image with a target list of its own needs no flags; --node, --class and --package narrow it. \
    An image or package file is published first.\n\n\
    Examples:\n  \
    tribune update submit fleet.timg\n  \
    tribune update submit fleet.timg --node n1 --node n2\n  \
    tribune update submit --package billing@2.3.1 --class edge --strategy rolling\n  \
    tribune update submit --package billing@2.3.1 --node n3 --detach\n\n\
    It is watched until it has ended or waits for a decision; the exit code says which.";

const DECIDE_EXAMPLES: &str = "Examples:\n  \
    tribune update decide u7 --force --seen 4 --why \"the backup was checked by hand\"\n  \
    tribune update decide u7 --only n1 n2\n  \
    tribune update decide u7 --without n3\n  \
    tribune update decide u7 --ask-again\n  \
    tribune update decide u7 --abort\n\n\
    --force overrules exactly the vetoes that you saw: `update show` gives the number of the ballots, and if they have changed since, the \
    decision is refused.";

/// What is done with updates.
#[derive(Debug, Subcommand)]
pub enum UpdateCommand {
    /// Show what an update would do, and do nothing
    Plan(PlanArgs),
    /// Begin an update
    #[command(after_long_help = SUBMIT_EXAMPLES)]
    Submit(SubmitArgs),
    /// List the updates, newest first
    List {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20, value_parser = some)]
        limit: u32,
    },
    /// Show an update: where it is, what it waits for and what can be done
    Show {
        /// The update, such as u7
        update: UpdateId,
    },
    /// Follow an update until it has ended or waits for a decision
    Watch {
        /// The update, such as u7
        update: UpdateId,
    },
    /// Decide about an update that was vetoed or is held
    #[command(after_long_help = DECIDE_EXAMPLES)]
    Decide(DecideArgs),
    /// Install what an ephemeral update runs
    Persist {
        /// The update, such as u7
        update: UpdateId,
        /// Follow the update afterwards, as `update watch` does
        #[arg(long)]
        watch: bool,
    },
    /// Let no further node begin to change over; those that have begun finish
    Pause {
        /// The update, such as u7
        update: UpdateId,
    },
    /// Let a paused update go on
    Resume {
        /// The update, such as u7
        update: UpdateId,
        /// Follow the update afterwards, as `update watch` does
        #[arg(long)]
        watch: bool,
    },
    /// Call an update off: what has changed goes back
    Cancel {
        /// The update, such as u7
        update: UpdateId,
    },
}

/// Which nodes get which packages.
#[derive(Debug, Clone, Default, Args)]
pub struct TargetArgs {
    /// An image (.timg) or package (.tpkg) file
    pub image: Option<PathBuf>,
    /// A package, as NAME@VERSION; of an image, NAME is enough
    #[arg(long, value_name = "NAME@VERSION", required_unless_present = "image")]
    pub package: Vec<PackageRef>,
    /// This node
    #[arg(long, value_name = "NODE")]
    pub node: Vec<NodeName>,
    /// All nodes of this class
    #[arg(long, value_name = "CLASS")]
    pub class: Vec<ClassName>,
}

/// How an update is carried out.
#[derive(Debug, Clone, Args)]
pub struct UpdateOptionArgs {
    /// In which order nodes change over: all at once, or one at a time within a class
    #[arg(long, value_enum, default_value_t)]
    pub strategy: StrategyArg,
    /// What happens when a node fails after the first changeover
    #[arg(long, value_enum, default_value_t)]
    pub on_failure: OnFailureArg,
    /// How long a vetoed, held or paused update waits for a user
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = span)]
    pub decide_within: Span,
    /// How long processes may defer, all in all
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = span)]
    pub max_defer: Span,
    /// Leave out nodes that are away
    #[arg(long)]
    pub skip_away: bool,
    /// Accept that this API's consumers are broken by the update
    #[arg(long, value_name = "API")]
    pub accept_discrepancy: Vec<ApiName>,
    /// Install again what was regressed
    #[arg(long)]
    pub again: bool,
    /// Change one node of a class and not the others
    #[arg(long)]
    pub allow_drift: bool,
    /// Install nothing: it runs until the node is restarted, `update cancel` or `update persist`
    #[arg(long)]
    pub ephemeral: bool,
}

impl From<&UpdateOptionArgs> for UpdateOptions {
    fn from(args: &UpdateOptionArgs) -> Self {
        let UpdateOptionArgs {
            strategy,
            on_failure,
            decide_within,
            max_defer,
            skip_away,
            accept_discrepancy,
            again,
            allow_drift,
            ephemeral,
        } = args;
        Self {
            strategy: (*strategy).into(),
            on_failure: (*on_failure).into(),
            decide_within: *decide_within,
            max_defer: *max_defer,
            skip_away: *skip_away,
            accept_discrepancies: accept_discrepancy.iter().cloned().collect(),
            again: *again,
            allow_drift: *allow_drift,
            force: None,
            ephemeral: *ephemeral,
        }
    }
}

/// In which order nodes change over.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum StrategyArg {
    /// All at once.
    Together,
    /// One node at a time within a class.
    #[default]
    Rolling,
}

impl From<StrategyArg> for RolloutStrategy {
    fn from(strategy: StrategyArg) -> Self {
        match strategy {
            StrategyArg::Together => RolloutStrategy::Together,
            StrategyArg::Rolling => RolloutStrategy::Rolling,
        }
    }
}

/// What happens when a node fails after the first changeover.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum OnFailureArg {
    /// Every node goes back.
    #[default]
    RegressAll,
    /// That node goes back, the others go on.
    RegressNode,
    /// Everything stops until you decide.
    Hold,
}

impl From<OnFailureArg> for OnFailure {
    fn from(on_failure: OnFailureArg) -> Self {
        match on_failure {
            OnFailureArg::RegressAll => OnFailure::RegressAll,
            OnFailureArg::RegressNode => OnFailure::RegressNode,
            OnFailureArg::Hold => OnFailure::Hold,
        }
    }
}

/// Shows what an update would do.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Which nodes get which packages.
    #[command(flatten)]
    pub targets: TargetArgs,
    /// How it is carried out.
    #[command(flatten)]
    pub options: UpdateOptionArgs,
}

/// Begins an update.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// Which nodes get which packages.
    #[command(flatten)]
    pub targets: TargetArgs,
    /// How it is carried out.
    #[command(flatten)]
    pub options: UpdateOptionArgs,
    /// Do not watch it
    #[arg(long)]
    pub detach: bool,
}

/// Decides about an update.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("decision").required(true).args(["force", "only", "without", "ask_again", "abort"])))]
pub struct DecideArgs {
    /// The update, such as u7
    pub update: UpdateId,
    /// Overrule the vetoes that you saw
    #[arg(long, requires_all = ["why", "seen"])]
    pub force: bool,
    /// Why; the processes are told
    #[arg(long, value_name = "TEXT", requires = "force")]
    pub why: Option<String>,
    /// Go on with these nodes only
    #[arg(long, value_name = "NODE", num_args = 1.., value_delimiter = ',')]
    pub only: Vec<NodeName>,
    /// Go on without these nodes
    #[arg(long, value_name = "NODE", num_args = 1.., value_delimiter = ',')]
    pub without: Vec<NodeName>,
    /// Ask those that vetoed again
    #[arg(long)]
    pub ask_again: bool,
    /// Change nothing; if something has changed, go back
    #[arg(long)]
    pub abort: bool,
    /// The ballots that you saw, by the number that `update show` gives; if they have changed since, nothing is decided
    #[arg(long, value_name = "NUMBER")]
    pub seen: Option<u64>,
    /// Follow the update afterwards, as `update watch` does
    #[arg(long)]
    pub watch: bool,
}

/// Takes nodes back.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("where").required(true).multiple(true).args(["node", "class"])))]
pub struct RegressArgs {
    /// This node
    #[arg(long, value_name = "NODE")]
    pub node: Vec<NodeName>,
    /// All nodes of this class
    #[arg(long, value_name = "CLASS")]
    pub class: Vec<ClassName>,
    /// Only this package; with a version, to that one
    #[arg(long, value_name = "NAME[@VERSION]")]
    pub package: Vec<PackageRef>,
    /// Go past vetoes
    #[arg(long, requires = "why")]
    pub force: bool,
    /// Why; the processes are told
    #[arg(long, value_name = "TEXT", requires = "force")]
    pub why: Option<String>,
    /// Leave out nodes that are away
    #[arg(long)]
    pub skip_away: bool,
    /// Accept that this API's consumers are broken by going back
    #[arg(long, value_name = "API")]
    pub accept_discrepancy: Vec<ApiName>,
    /// Go back also to what was regressed before
    #[arg(long)]
    pub again: bool,
    /// Take back one node of a class and not the others
    #[arg(long)]
    pub allow_drift: bool,
    /// Do not watch it
    #[arg(long)]
    pub detach: bool,
}
