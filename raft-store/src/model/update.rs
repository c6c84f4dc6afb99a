//! An update: one request to change the software of some nodes, with a life of its own.
//!
//! One idea: the whole story of an update (what was asked for, the plan, every ballot and decision, each node's step)
//! is in the record before it is acted on, so whoever is master next knows what may have happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::fleet::{Ephemeral, Generation};
use super::ids::{ApiName, ClassName, NodeName, PackageId, PublicKey, RequestId, Span, Timestamp, UpdateId};
use super::plan::{Discrepancy, Plan};

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRequest {
    /// Install or go back.
    pub kind: UpdateKind,
    /// Which nodes get which packages.
    pub targets: Targets,
    /// How it is to be carried out.
    pub options: UpdateOptions,
}

/// Whether an update goes forward or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateKind {
    /// The packages named in the targets are installed.
    Install,
    /// The nodes go back: to the packages named, or to what they had before if none is named.
    Regress,
    /// A node comes to exactly what the record says it should have. Nobody submits it: the master begins it by itself.
    Converge,
}

/// Which nodes get which packages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// By node.
    pub nodes: BTreeMap<NodeName, BTreeSet<PackageId>>,
    /// By class: all nodes of it.
    pub classes: BTreeMap<ClassName, BTreeSet<PackageId>>,
}

/// How an update is carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateOptions {
    /// In which order nodes change over.
    pub strategy: RolloutStrategy,
    /// What happens when a node fails after the first changeover.
    pub on_failure: OnFailure,
    /// How long a veto waits for a user.
    pub decide_within: Span,
    /// How long processes may defer, all in all.
    pub max_defer: Span,
    /// Nodes that are away are left out instead of blocking.
    pub skip_away: bool,
    /// Needs the update itself breaks, accepted by name.
    pub accept_discrepancies: BTreeSet<ApiName>,
    /// Installs again what was regressed.
    pub again: bool,
    /// Changes one node of a class.
    pub allow_drift: bool,
    /// A regress that overrules vetoes from the start.
    pub force: Option<String>,
    /// What is installed is not kept: it runs until the node is restarted, or a user takes it back.
    pub ephemeral: bool,
}

impl Default for UpdateOptions {
    fn default() -> Self {
        Self {
            strategy: RolloutStrategy::default(),
            on_failure: OnFailure::default(),
            decide_within: Span::from_secs(7 * 86_400),
            max_defer: Span::from_secs(600),
            skip_away: false,
            accept_discrepancies: BTreeSet::new(),
            again: false,
            allow_drift: false,
            force: None,
            ephemeral: false,
        }
    }
}

/// In which order nodes change over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutStrategy {
    /// All at once.
    Together,
    /// One node at a time within a class, voters last, the master last of all.
    #[default]
    Rolling,
}

/// What happens when a node fails after the first changeover.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Every node goes back.
    #[default]
    RegressAll,
    /// That node goes back, the others go on.
    RegressNode,
    /// Everything stops until a user decides.
    Hold,
}

/// An update's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Its number.
    pub id: UpdateId,
    /// The request that made it.
    pub request_id: RequestId,
    /// What was asked for.
    pub request: UpdateRequest,
    /// Who asked.
    pub by: Author,
    /// When.
    pub submitted: Timestamp,
    /// Where it is.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// What is to be done; `None` while queued.
    pub plan: Option<Plan>,
    /// Counts every change of a ballot; a decision names the one its user saw.
    pub ballot_revision: u64,
    /// How far each node is.
    pub nodes: BTreeMap<NodeName, NodeProgress>,
    /// What users decided.
    pub decisions: Vec<DecisionTaken>,
    /// Why it is going back or ended as it did.
    pub reason: Option<String>,
    /// Needs that are not met now that it is done.
    pub discrepancies: Vec<Discrepancy>,
    /// What made it go back, if it does.
    #[serde(default)]
    pub way_back: WayBack,
    /// Who paused it, while a veto or a failure that came after that waits for a decision: then it is paused again.
    #[serde(default)]
    pub paused_by: Option<String>,
}

/// What makes an update go back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WayBack {
    /// A failure, or somebody's wish: what goes back is not installed again unless someone says so.
    #[default]
    Meant,
    /// A node restart undid it on one node, and the others follow: nobody has anything against what goes back.
    Restart,
}

impl Update {
    /// Whether it is over for a node, though not yet everywhere. So it is for one that is there no more: whoever came in its place
    /// never heard of it. And for one with an end of its own.
    pub fn over_for(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|progress| progress.gone || self.own_end(progress).is_some())
    }

    /// The end of an ephemeral update on a node where nothing of it runs or will, once it holds nothing together any more: the same
    /// whether the node hears it now or only when the others have come to their end. One that never began, and was not left behind before
    /// the others go back, ends with them.
    pub fn own_end(&self, progress: &NodeProgress) -> Option<Outcome> {
        let apart = matches!(self.phase, Phase::Verifying | Phase::Unpersisted | Phase::Persisting | Phase::Regressing);
        match progress.step {
            _ if !self.request.options.ephemeral => None,
            _ if progress.left_behind => Some(Outcome::Aborted),
            Step::Regressed if apart || self.phase.ended() => {
                Some(if progress.changed { Outcome::Regressed } else { Outcome::Aborted })
            }
            _ => None,
        }
    }

    /// Whether it has or wants a node.
    pub fn holds(&self, node: &NodeName) -> bool {
        let wants = self.plan.as_ref().is_some_and(|plan| plan.nodes.contains_key(node));
        (wants || self.nodes.contains_key(node)) && !self.over_for(node)
    }
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// The key that signed.
    pub key: PublicKey,
    /// Its name: a principal's, or `node NAME` for a node's own socket.
    pub name: String,
}

/// Where an update is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase")]
pub enum Phase {
    /// It waits for other updates.
    Queued {
        /// The updates it waits for.
        behind: Vec<UpdateId>,
    },
    /// It has a plan, and its nodes have not been told yet.
    Planned,
    /// Affected processes are being asked.
    Asking,
    /// A process vetoed: it waits for a user.
    Vetoed,
    /// Nodes fetch and stage.
    Distributing,
    /// Nodes of this wave (from 0) change over.
    Wave {
        /// Which.
        wave: u32,
    },
    /// A node failed: it waits for a user.
    Held {
        /// The wave it stopped in.
        wave: u32,
    },
    /// A user stopped it in the middle: no further node begins to change over until somebody resumes it.
    Paused {
        /// The wave it stopped in.
        wave: u32,
        /// Who stopped it.
        by: String,
    },
    /// All changed over: the master checks what is installed.
    Verifying,
    /// Everything runs, and nothing of it is installed: it waits for a user who persists it or takes it back.
    Unpersisted,
    /// Nodes install what runs.
    Persisting,
    /// Nodes that changed go back.
    Regressing,
    /// It is over.
    Ended {
        /// How.
        outcome: Outcome,
    },
}

impl Phase {
    /// Whether it is over.
    pub fn ended(&self) -> bool {
        matches!(self, Phase::Ended { .. })
    }

    /// Whether it waits for a user, and not for longer than was said when it was submitted.
    pub fn waits_for_user(&self) -> bool {
        matches!(self, Phase::Vetoed | Phase::Held { .. } | Phase::Paused { .. })
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Phase::Queued { .. } => "queued",
            Phase::Planned => "planned",
            Phase::Asking => "asking",
            Phase::Vetoed => "vetoed",
            Phase::Distributing => "distributing",
            Phase::Wave { wave } => return f.pad(&format!("wave {}", wave + 1)),
            Phase::Held { .. } => "held",
            Phase::Paused { .. } => "paused",
            Phase::Verifying => "verifying",
            Phase::Unpersisted => "unpersisted",
            Phase::Persisting => "persisting",
            Phase::Regressing => "regressing",
            Phase::Ended { outcome } => return fmt::Display::fmt(outcome, f),
        };
        f.pad(text)
    }
}

/// How an update ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every node is on the new versions.
    Completed,
    /// The nodes a decision kept are, the others were left out.
    CompletedInPart,
    /// Done, but needs are not met.
    CompletedWithDiscrepancies,
    /// Nothing was changed.
    Aborted,
    /// Everything that was changed went back.
    Regressed,
    /// Something could not go back; a person must look.
    RegressFailed,
    /// It was not begun: the plan has blockers.
    Rejected,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Completed => "completed",
            Outcome::CompletedInPart => "completed in part",
            Outcome::CompletedWithDiscrepancies => "completed with discrepancies",
            Outcome::Aborted => "aborted",
            Outcome::Regressed => "regressed",
            Outcome::RegressFailed => "regress failed",
            Outcome::Rejected => "rejected",
        })
    }
}

/// How far a node is in an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProgress {
    /// The step it has reached.
    pub step: Step,
    /// Since when.
    pub since: Timestamp,
    /// Which round of asking counts; one more with every `ask-again`.
    pub round: u32,
    /// Who is being asked there and has perhaps not answered; nobody once all have.
    #[serde(default)]
    pub asked: Vec<ProcessRef>,
    /// What its processes answered.
    pub ballots: Vec<BallotCast>,
    /// Whether new modules may have been started there.
    pub changed: bool,
    /// What went wrong.
    pub failure: Option<String>,
    /// The generation it was on when the update began.
    pub before: u64,
    /// Whether it was a restart of the node that took it back, and nobody's wish.
    #[serde(default)]
    pub restarted: bool,
    /// Whether the node was removed from the cluster, or re-imaged, meanwhile. What it had of the update is not there any more.
    #[serde(default)]
    pub gone: bool,
    /// Whether an ephemeral update went on without the node, which had not begun: it ended there as aborted, whatever comes of the others.
    #[serde(default)]
    pub left_behind: bool,
}

/// A node's step. Later ones compare greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// It has not been told yet, or not answered.
    Planned,
    /// Its processes have been asked.
    Asked,
    /// All have answered.
    Voted,
    /// Everything is in local storage, verified.
    Staged,
    /// Its processes are coming to a safe point.
    Pending,
    /// They are there.
    Ready,
    /// It may start the new modules.
    Go,
    /// The new modules run.
    Started,
    /// They held for the settle time.
    Settled,
    /// What ran for a while is installed.
    Persisted,
    /// It went back.
    Regressed,
    /// It failed.
    Failed,
    /// It is not there.
    Away,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Step::Planned => "planned",
            Step::Asked => "asked",
            Step::Voted => "voted",
            Step::Staged => "staged",
            Step::Pending => "pending",
            Step::Ready => "ready",
            Step::Go => "go",
            Step::Started => "started",
            Step::Settled => "settled",
            Step::Persisted => "persisted",
            Step::Regressed => "regressed",
            Step::Failed => "failed",
            Step::Away => "away",
        })
    }
}

/// A process on a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessRef {
    /// `package/module` of a managed process, or the name a registered one gave.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`): with the pid, one process only.
    pub start_time: u64,
}

/// What a process answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BallotCast {
    /// Who.
    pub process: ProcessRef,
    /// What.
    pub answer: Answer,
    /// Whether the process is gone since, so that its answer counts no more.
    pub lapsed: bool,
    /// Whether a user overruled it.
    pub overruled: bool,
}

/// A process's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// It agrees.
    Accept,
    /// It objects.
    Veto {
        /// Why, word for word.
        reason: String,
    },
    /// It went before it answered.
    Abstain,
}

impl BallotCast {
    /// The reason of a veto that counts: neither overruled nor lapsed.
    pub fn standing_veto(&self) -> Option<&str> {
        match &self.answer {
            Answer::Veto { reason } if !self.lapsed && !self.overruled => Some(reason),
            _ => None,
        }
    }
}

/// What a user decides about a vetoed or held update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "decision")]
pub enum Decision {
    /// Overrule the vetoes that were seen.
    Force {
        /// Why; the processes are told.
        why: String,
    },
    /// Go on with these nodes only.
    Only {
        /// Which.
        nodes: BTreeSet<NodeName>,
    },
    /// Ask those that vetoed again.
    AskAgain,
    /// Change nothing.
    Abort,
}

/// A decision, as it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionTaken {
    /// What was decided.
    pub decision: Decision,
    /// By whom.
    pub by: Author,
    /// When.
    pub at: Timestamp,
    /// The ballots that were seen.
    pub ballot_revision: u64,
    /// The vetoes that were overruled.
    pub overruled: Vec<(NodeName, ProcessRef)>,
}

/// What a node says of its part in an update. It counts only from the node it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "report")]
pub enum NodeReport {
    /// These processes were asked.
    Asked {
        /// Which.
        processes: Vec<ProcessRef>,
    },
    /// All have answered, or one changed its mind: the whole list.
    Voted {
        /// The answers.
        ballots: Vec<BallotCast>,
    },
    /// Everything is in local storage, verified and fsynced.
    Staged,
    /// It let go of its processes again (its lease ran out, or the attempt was called off).
    Released,
    /// Its processes are coming to a safe point.
    Pending,
    /// They are there.
    Ready,
    /// The new modules run.
    Started,
    /// They held, and run until the node is restarted: nothing was installed.
    Running {
        /// What runs.
        software: Ephemeral,
    },
    /// They held, or what ran was installed; this generation is current.
    Settled {
        /// What is installed now.
        current: Generation,
    },
    /// The node was restarted, which undid what was not installed.
    Restarted {
        /// What is installed.
        current: Generation,
    },
    /// It went back; this generation is current.
    Regressed {
        /// What is installed now.
        current: Generation,
        /// Why, if it was by itself.
        why: Option<String>,
    },
    /// It could not do its step. Nothing was changed, or it went back already if `Regressed` came before.
    Failed {
        /// At which step.
        step: Step,
        /// Why.
        why: String,
    },
}
