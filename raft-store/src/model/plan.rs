//! What an update is to do, as the planner works it out, and what stands in its way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::{ApiName, ClassName, NodeName, PackageId, PackageName, Signature, Timestamp, UpdateId};

/// Why a plan leaves a node out. It is written down as the sentence that people read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum LeftOut {
    /// It is away.
    Away,
    /// It went back by itself.
    Apart,
    /// A user's decision took it out.
    ByDecision,
    /// A regress took it from its update.
    ByRegress,
    /// The update was called off, and the nodes it had changed cannot go back.
    CalledOff,
    /// Nothing would change there: why, as a sentence.
    Unchanged(String),
}

impl LeftOut {
    /// As a sentence.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Away => "it is away",
            Self::Apart => "it went back by itself, and was not released",
            Self::ByDecision => "a decision left it out",
            Self::ByRegress => "a regress took it out",
            Self::CalledOff => "the update was called off before it changed there",
            Self::Unchanged(why) => why,
        }
    }

    /// Whether the node would have changed: the update is then done in part only.
    pub fn would_have_changed(&self) -> bool {
        !matches!(self, Self::Unchanged(_))
    }

    /// Whether it was not there to take part: it comes to what the others got when it is.
    pub fn was_absent(&self) -> bool {
        matches!(self, Self::Away | Self::Apart)
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<String> for LeftOut {
    fn from(text: String) -> Self {
        let known = [Self::Away, Self::Apart, Self::ByDecision, Self::ByRegress, Self::CalledOff];
        known.into_iter().find(|why| why.as_str() == text).unwrap_or(Self::Unchanged(text))
    }
}

impl From<LeftOut> for String {
    fn from(why: LeftOut) -> Self {
        match why {
            LeftOut::Unchanged(why) => why,
            why => why.as_str().to_owned(),
        }
    }
}

/// What is to be done, worked out by the planner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Counts the plans of this update, from 1.
    pub revision: u32,
    /// What changes on each node.
    pub nodes: BTreeMap<NodeName, NodePlan>,
    /// Which nodes change over together, in order.
    pub waves: Vec<Vec<NodeName>>,
    /// Why it cannot be done.
    pub blockers: Vec<Blocker>,
    /// Discrepancies that the submitter accepted by name.
    pub accepted: Vec<Discrepancy>,
    /// Nodes left out, and why.
    pub left_out: BTreeMap<NodeName, LeftOut>,
    /// The version of everything that was read, by its key: made again if one has changed by commit time.
    pub read: BTreeMap<String, u64>,
    /// The APIs it touches: two updates that touch the same one go one after the other.
    #[serde(default)]
    pub apis: TouchedApis,
}

/// The APIs that a plan touches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TouchedApis {
    /// Those that it provides in other versions than before.
    pub changes: BTreeSet<ApiName>,
    /// Those that what it changes needs. Any number of updates may need the same one.
    pub needs: BTreeSet<ApiName>,
}

impl TouchedApis {
    /// Whether one changes an API that the other changes or needs.
    pub fn conflict(&self, other: &Self) -> bool {
        let touches = |api: &ApiName| other.changes.contains(api) || other.needs.contains(api);
        self.changes.iter().any(touches) || !self.needs.is_disjoint(&other.changes)
    }
}

/// What changes on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// The packages that change.
    pub changes: Vec<PackageChange>,
    /// The modules the node is to have of each package it is to have, changed or not: `package/module` to signature.
    pub modules: BTreeMap<String, PlannedModule>,
    /// Whether everything is expected to be in the node's local storage.
    pub local: bool,
}

/// From which version of a package to which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageChange {
    /// The package.
    pub name: PackageName,
    /// What the node has; `None`: nothing.
    pub from: Option<PackageId>,
    /// What it gets; `None`: it is removed.
    pub to: Option<PackageId>,
}

/// A module that a node is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedModule {
    /// Its package.
    pub package: PackageId,
    /// Its place in the package's manifest.
    pub index: u32,
    /// Its signature.
    pub signature: Signature,
    /// Its size in bytes.
    pub size: u64,
}

/// Why a plan cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "blocker")]
pub enum Blocker {
    /// A target is no node of the cluster.
    #[error("there is no node {node}; `tribune node list` shows those there are")]
    UnknownNode {
        /// The name given.
        node: NodeName,
    },
    /// A target is no class of the cluster.
    #[error("there is no class {class}; `tribune class list` shows those there are")]
    UnknownClass {
        /// The name given.
        class: ClassName,
    },
    /// A package is not in the store.
    #[error("package {package} is not in the package store; publish it first")]
    UnknownPackage {
        /// Its id.
        package: PackageId,
    },
    /// Who published a package may not publish any more.
    #[error(
        "{package} was published by {by}, who may not publish any more; let somebody who may publish it again (`tribune package publish`)"
    )]
    Revoked {
        /// The package, with its version.
        package: String,
        /// Who: a name, or a key that has none any more.
        by: String,
    },
    /// Two versions of one package for one node.
    #[error("node {node} would get two versions of package {package}; name one")]
    TwoVersions {
        /// The node.
        node: NodeName,
        /// The package.
        package: PackageName,
    },
    /// The modules of a package that suit a node cannot be told.
    #[error("{package} on node {node}: {problem}")]
    Selection {
        /// The node.
        node: NodeName,
        /// The package, with its version.
        package: String,
        /// A missing variant or a tie, as a sentence.
        problem: String,
    },
    /// A module's dependency on the same node would not be met.
    #[error("on node {node}, module {module} needs {needs}, which would not be there")]
    Dependency {
        /// The node.
        node: NodeName,
        /// The module, as `package/module`.
        module: String,
        /// What it needs.
        needs: String,
    },
    /// An API need would not be met.
    #[error("{0}; accept it with --accept-discrepancy {api}", api = .0.need_name())]
    Need(Discrepancy),
    /// The version that is installed may not be replaced by this one.
    #[error("on node {node}, {package} {to} may only replace versions {allowed}, and {from} is installed")]
    UpgradeFrom {
        /// The node.
        node: NodeName,
        /// The package.
        package: PackageName,
        /// The installed version.
        from: String,
        /// The new version.
        to: String,
        /// What the manifest allows.
        allowed: String,
    },
    /// It was regressed there before.
    #[error("{package} was regressed on node {node} by {}; use --again to install it all the same", by_whom(*update))]
    Tombstone {
        /// The node.
        node: NodeName,
        /// The package, with its version.
        package: String,
        /// The update that regressed it; none if the node went back by itself.
        update: Option<UpdateId>,
    },
    /// The node is not connected.
    #[error("node {node} is away; wait for it, or leave it out with --skip-away")]
    NodeAway {
        /// The node.
        node: NodeName,
    },
    /// It went back by itself, and nobody has released it.
    #[error(
        "node {node} went back by itself (`tribune local regress`) and stays as it is; \
         release it with `tribune node release {node}`, or leave it out with --skip-away"
    )]
    Apart {
        /// The node.
        node: NodeName,
    },
    /// One node of a class would differ from the others.
    #[error("node {node} is in class {class}; update the class, or use --allow-drift")]
    Drift {
        /// The node.
        node: NodeName,
        /// Its class.
        class: ClassName,
    },
    /// There is nothing to go back to.
    #[error("node {node} has nothing to go back to{what}")]
    NothingToRegress {
        /// The node.
        node: NodeName,
        /// Of what, beginning with a blank; may be empty.
        what: String,
    },
    /// What runs there is not installed, so there is nothing installed to go back from.
    #[error("on node {node}, {update} runs and is not installed; take it back with `tribune update cancel {update}`")]
    Ephemeral {
        /// The node.
        node: NodeName,
        /// The ephemeral update.
        update: UpdateId,
    },
    /// Nothing would change.
    #[error("nothing would change: {what}")]
    NothingToDo {
        /// Why.
        what: String,
    },
}

/// A need that what is installed does not meet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Discrepancy {
    /// The node whose module needs something.
    pub node: NodeName,
    /// The module, as `package/module`.
    pub module: String,
    /// What it needs.
    pub needs: String,
    /// What there is instead.
    pub found: String,
    /// Whether it lies within the node or between nodes.
    pub scope: Scope,
}

impl Discrepancy {
    /// The name by which it can be accepted: the API or module without its version.
    pub fn need_name(&self) -> &str {
        self.needs.split(['@', ' ']).next().unwrap_or(&self.needs)
    }
}

/// What tells a need of the cluster from every other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NeedKey {
    /// The node whose module needs something.
    pub node: NodeName,
    /// The module, as `package/module`.
    pub module: String,
    /// What it needs.
    pub needs: String,
}

impl From<&Discrepancy> for NeedKey {
    fn from(discrepancy: &Discrepancy) -> Self {
        let Discrepancy { node, module, needs, found: _, scope: _ } = discrepancy.clone();
        Self { node, module, needs }
    }
}

/// A need that is not met now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmet {
    /// The need, and what there is instead.
    pub discrepancy: Discrepancy,
    /// Since when that is known.
    pub since: Timestamp,
    /// The update after which it was found; `None`: no update of the cluster brought it about.
    pub update: Option<UpdateId>,
    /// Who accepted it by name.
    pub accepted_by: Option<String>,
}

impl fmt::Display for Discrepancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "on node {}, {} needs {} and there is {}", self.node, self.module, self.needs, self.found)
    }
}

/// Where a need is to be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// On the same node.
    WithinNode,
    /// Between nodes.
    BetweenNodes,
    /// In no module's need: it is what the plan said that the node would have.
    AsPlanned,
}

fn by_whom(update: Option<UpdateId>) -> String {
    update.map_or_else(|| "itself".to_owned(), |update| update.to_string())
}
