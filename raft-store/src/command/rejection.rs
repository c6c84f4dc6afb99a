//! Why the record says no, in words that say what would be right.

use serde::{Deserialize, Serialize};

use super::{MAX_ORDER_LIFE, MAX_TOKEN_LIFE, OrderError};
use crate::model::{
    ClassName, ClusterId, IdError, MAX_EPOCH, NodeName, PackageId, PackageName, Plan, PublicKey, RecoveryError, Role, Span,
    UpdateId,
};

/// Why an entry was not carried out. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "rejected")]
pub enum Rejection {
    /// The cluster was made before.
    #[error("the cluster exists already")]
    AlreadyCreated,
    /// The cluster was not made yet.
    #[error("the cluster does not exist yet")]
    NotCreated,
    /// The order's signature or text is wrong.
    #[error("{error}")]
    Order {
        /// What is wrong.
        error: OrderError,
    },
    /// The recovery's signature or text is wrong.
    #[error("{error}")]
    Recovery {
        /// What is wrong.
        error: RecoveryError,
    },
    /// The recovery begins no later epoch.
    #[error("the recovery begins epoch {given}, and the cluster is at {here}: it takes a higher one, up to {MAX_EPOCH}")]
    Epoch {
        /// The epoch it begins.
        given: u64,
        /// The epoch of the cluster.
        here: u64,
    },
    /// The recovery is for another place of the log.
    #[error("the recovery gives node {node} Raft id {given}, and its place in the log gives it {here}")]
    RecoveryPlace {
        /// The only voter.
        node: NodeName,
        /// What was signed.
        given: u64,
        /// What is right.
        here: u64,
    },
    /// The order is for another cluster.
    #[error("the order is for cluster {given}; this is cluster {here}")]
    OtherCluster {
        /// The cluster it is for.
        given: ClusterId,
        /// This one.
        here: ClusterId,
    },
    /// The order's time has passed.
    #[error("the order expired {ago} ago; check the clock, and send it again")]
    Expired {
        /// How long ago.
        ago: Span,
    },
    /// The order would be good for too long.
    #[error("the order expires more than {MAX_ORDER_LIFE} ahead; check the clock")]
    TooFarAhead,
    /// The key is not known.
    #[error("key {key} is no principal of this cluster; an admin adds it with `tribune admin add`")]
    UnknownKey {
        /// The key.
        key: PublicKey,
    },
    /// The role does not suffice.
    #[error("{name} is {has:?} and this needs {needs:?}")]
    Role {
        /// Who asked.
        name: String,
        /// What they may do.
        has: Role,
        /// What it takes.
        needs: Role,
    },
    /// The token is not known.
    #[error("the join token is wrong; make one with `tribune token create`")]
    UnknownToken,
    /// The token was used.
    #[error("the join token was used by node {node}; make another with `tribune token create`")]
    TokenUsed {
        /// By whom.
        node: NodeName,
    },
    /// The token's time has passed.
    #[error("the join token expired; make another with `tribune token create`")]
    TokenExpired,
    /// The token is for another node.
    #[error("the join token is for node {node}; join under that name, or make another with `tribune token create`")]
    TokenForOther {
        /// For whom.
        node: NodeName,
    },
    /// The token exists.
    #[error("this join token exists already")]
    TokenExists,
    /// The token would be good for no time, or for too long.
    #[error("a join token cannot be good for {valid}; choose a time between 1ms and {MAX_TOKEN_LIFE}")]
    TokenLife {
        /// The time that was asked for.
        valid: Span,
    },
    /// The name is taken.
    #[error("there is a node {node} already; choose another name")]
    NameTaken {
        /// The name.
        node: NodeName,
    },
    /// The identity is in the cluster.
    #[error("this identity is node {node} of the cluster already")]
    PeerTaken {
        /// Which node has it.
        node: NodeName,
    },
    /// The identity was one of the cluster's, and is not any more.
    #[error("this identity was that of node {node}, which was removed from the cluster for good; join with an empty data folder")]
    PeerRemoved {
        /// Which node had it.
        node: NodeName,
    },
    /// Only a token that was made for a node replaces it.
    #[error("to replace node {node} takes a join token that was made for it: `tribune token create --node {node}`")]
    TokenNotFor {
        /// The node.
        node: NodeName,
    },
    /// The node to be replaced is there.
    #[error("node {node} is connected: stop it, or take it out with `tribune node remove {node}`, then do it")]
    StillConnected {
        /// Which.
        node: NodeName,
    },
    /// There is nothing to be replaced.
    #[error("there is no node {node} that could be replaced; leave out --replace to join as a further one")]
    NothingToReplace {
        /// The name given.
        node: NodeName,
    },
    /// Nobody would be left to vote.
    #[error(
        "no other node may be a voter instead of {node}; let another join, or let one vote with `tribune node set-voter`, then do it"
    )]
    LastVoter {
        /// Who.
        node: NodeName,
    },
    /// A setting of the cluster is not possible.
    #[error("{what}")]
    Setting {
        /// What is wrong and what would be right.
        what: String,
    },
    /// There is no such node.
    #[error("there is no node {node}; `tribune node list` shows those there are")]
    UnknownNode {
        /// The name given.
        node: NodeName,
    },
    /// There is no such class.
    #[error("there is no class {class}; `tribune class list` shows those there are")]
    UnknownClass {
        /// The name given.
        class: ClassName,
    },
    /// An update that is open is for the class.
    #[error("{update} is for class {class} and has not ended; wait for it, or cancel it")]
    ClassInUse {
        /// The class.
        class: ClassName,
        /// The update.
        update: UpdateId,
    },
    /// A node that is to be released takes part already.
    #[error("node {node} takes part in updates: there is nothing to release it from")]
    NotApart {
        /// The node.
        node: NodeName,
    },
    /// Nobody would be left to let others in.
    #[error("{name} is the only admin; make another with `tribune admin add`, then do it")]
    LastAdmin {
        /// Who.
        name: String,
    },
    /// There is no such update.
    #[error("there is no update {update}; `tribune update list` shows those there are")]
    UnknownUpdate {
        /// The number given.
        update: UpdateId,
    },
    /// A package is not in the store.
    #[error("package {package} is not in the package store; publish it first")]
    UnknownPackage {
        /// Its id.
        package: PackageId,
    },
    /// A package is needed.
    #[error("{package} stays in the package store: {}", needed_by.join("; "))]
    Pinned {
        /// Its name and version.
        package: String,
        /// By what, one sentence each.
        needed_by: Vec<String>,
    },
    /// What came with the order does not fit it.
    #[error("{what}")]
    Evidence {
        /// What is wrong.
        what: String,
    },
    /// The manifest is not good.
    #[error("{what}")]
    Manifest {
        /// What is wrong.
        what: String,
    },
    /// The version stands for something else.
    #[error("{name} {version} was published with other contents ({id}), and stands for them for ever; raise the version")]
    VersionTaken {
        /// The package.
        name: PackageName,
        /// Its version.
        version: String,
        /// What it stands for.
        id: PackageId,
    },
    /// Too few voters have the modules.
    #[error("{have} of {needed} voters have the modules on disk")]
    TooFewCopies {
        /// How many have.
        have: u32,
        /// How many must.
        needed: u32,
    },
    /// Who votes has changed since the copies were counted.
    #[error("who votes has changed since the modules' copies were counted; send it again")]
    MembershipChanged,
    /// What the plan was made from has changed: it is to be made again.
    #[error("{key} changed since the plan was made")]
    PlanOutdated {
        /// What changed.
        key: String,
    },
    /// The plan cannot be carried out.
    #[error("the plan has {} blockers", .plan.blockers.len())]
    Blocked {
        /// The plan, with its blockers.
        plan: Box<Plan>,
    },
    /// The ballots changed since the user looked.
    #[error("the ballots changed since you looked (revision {seen}, now {now}); look again with `tribune update show`")]
    BallotsChanged {
        /// What the user saw.
        seen: u64,
        /// What there is.
        now: u64,
    },
    /// The update is somewhere else in its life.
    #[error("update {update} is {phase}: {why}")]
    Phase {
        /// Which.
        update: UpdateId,
        /// Where it is.
        phase: String,
        /// Why that does not go.
        why: String,
    },
    /// The report is about something that is over. It can be dropped.
    #[error("the report is about something that is over")]
    Outdated,
    /// The node's part in Raft is another.
    #[error("node {node} has another part in Raft")]
    RaftRole {
        /// Which.
        node: NodeName,
    },
    /// There is no room for more.
    #[error("there are {count} {what} already; that is the limit")]
    Limit {
        /// Of what.
        what: String,
        /// How many.
        count: u64,
    },
}

impl Rejection {
    /// Whether it is only that what the master found out for the order has changed meanwhile: found out anew, it may go.
    pub fn is_outdated(&self) -> bool {
        matches!(self, Self::PlanOutdated { .. } | Self::TooFewCopies { .. } | Self::MembershipChanged)
    }
}

impl From<OrderError> for Rejection {
    fn from(error: OrderError) -> Self {
        Rejection::Order { error }
    }
}

impl From<RecoveryError> for Rejection {
    fn from(error: RecoveryError) -> Self {
        Rejection::Recovery { error }
    }
}

impl From<IdError> for Rejection {
    fn from(error: IdError) -> Self {
        Rejection::Evidence { what: error.to_string() }
    }
}
