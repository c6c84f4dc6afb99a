//! The fleet as the record knows it: the cluster, its nodes and classes, packages, principals, join tokens, events.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;
use serde::{Deserialize, Serialize};

use super::ids::{
    CharacteristicKey, ClassName, ClusterId, NodeName, PackageId, PackageName, PeerId, PrincipalName, PublicKey, Signature, Span,
    Timestamp, UpdateId,
};
use super::manifest::{Manifest, ManifestError};
use super::notation::Platform;
use super::recovery::SignedRecovery;

/// The record's format level that this build writes. No binary older than a record's level opens it.
pub const RECORD_LEVEL: u32 = 1;

/// What is said once of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// What tells it from every other.
    pub id: ClusterId,
    /// How often it was recovered from a lost majority.
    pub epoch: u64,
    /// The format level in force.
    pub level: u32,
    /// When it was made.
    pub created: Timestamp,
    /// Record time: the greatest time seen.
    pub time: Timestamp,
    /// What can be set for the whole cluster.
    pub settings: Settings,
    /// The number of the next update.
    pub next_update: u64,
    /// The number of the next event.
    pub next_event: u64,
    /// The log index of the last change of what any node has or runs.
    #[serde(default)]
    pub installed: u64,
    /// The [`installed`](Self::installed) of which the list of unmet needs was made.
    #[serde(default)]
    pub checked: u64,
    /// How many unmet needs that check found beyond those that are kept.
    #[serde(default)]
    pub unmet_left_out: u64,
    /// The recovery with which the present epoch began; none: the cluster was never recovered.
    #[serde(default)]
    pub recovery: Option<SignedRecovery>,
}

/// What can be set for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// How long a node may be silent before it counts as away.
    pub away_after: Span,
    /// How many voters are kept at most: 1, 3 or 5.
    pub voters: u32,
    /// How many standbys are kept at most.
    pub standbys: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { away_after: Span::from_secs(600), voters: 5, standbys: 2 }
    }
}

/// A characteristic that a user set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Its value.
    pub value: String,
    /// Whether modules that do not name it are excluded.
    pub required: bool,
}

/// Whether a node may be a Raft voter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VoterPreference {
    /// It is never one.
    Never,
    /// It may be one.
    #[default]
    May,
    /// It is one rather than others.
    Prefer,
}

/// A node's part in Raft.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "role")]
pub enum RaftRole {
    /// Not in Raft: it watches the master.
    #[default]
    Member,
    /// A learner, ready to be promoted.
    Standby {
        /// Its Raft id; none is used twice.
        raft_id: u64,
    },
    /// A voter.
    Voter {
        /// Its Raft id; none is used twice.
        raft_id: u64,
    },
}

impl RaftRole {
    /// The node's Raft id, if it is in Raft.
    pub fn raft_id(self) -> Option<u64> {
        match self {
            RaftRole::Member => None,
            RaftRole::Standby { raft_id } | RaftRole::Voter { raft_id } => Some(raft_id),
        }
    }
}

/// What a node found out about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The platform it declares (a node with a runner may declare another than its machine's).
    pub platform: Platform,
    /// Such as `cpus` and `memory-mib`.
    pub discovered: BTreeMap<CharacteristicKey, String>,
    /// Where its control network listens, as multiaddresses.
    pub control_addresses: Vec<String>,
    /// Where its data network listens, as multiaddresses.
    pub data_addresses: Vec<String>,
    /// Whether it may be a voter.
    pub voter: VoterPreference,
    /// The version of Tribune it runs.
    pub version: String,
}

/// What is installed on a node, as the node itself said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number on this node; 0: nothing was ever installed.
    pub number: u64,
    /// The generation that was current before it, to which `regress` goes back.
    pub replaced: Option<u64>,
    /// The version of each package.
    pub packages: BTreeMap<PackageName, PackageId>,
    /// The signature of each installed module, by `package/module`.
    pub modules: BTreeMap<String, Signature>,
}

/// What runs on a node until it is restarted, and is not installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ephemeral {
    /// The update that started it.
    pub update: UpdateId,
    /// The version of each package, those that are installed among them.
    pub packages: BTreeMap<PackageName, PackageId>,
    /// The signature of each module, by `package/module`.
    pub modules: BTreeMap<String, Signature>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its identity on the network.
    pub peer: PeerId,
    /// Its public key, with which it signs what comes by its own socket.
    pub key: PublicKey,
    /// The class it is in.
    pub class: Option<ClassName>,
    /// What a user wants it to be like.
    pub desired: BTreeMap<CharacteristicKey, Desired>,
    /// What it found out about itself.
    pub facts: Facts,
    /// Its part in Raft.
    pub raft: RaftRole,
    /// What is installed there.
    pub current: Generation,
    /// What runs there in the place of what is installed.
    #[serde(default)]
    pub ephemeral: Option<Ephemeral>,
    /// The other generations it keeps, by number: what it can regress to without any network.
    pub kept: BTreeMap<u64, Generation>,
    /// What it should have: changes at an update's completion, a user's regress, or when it joins a class.
    pub should: BTreeMap<PackageName, PackageId>,
    /// That it went back by itself.
    #[serde(default)]
    pub apart: Option<Apart>,
    /// Its last attempts to come to what it should have, if they failed.
    #[serde(default)]
    pub converging: Option<Attempts>,
    /// What the orders that come by its own socket may do.
    pub local_commands: Role,
    /// When it joined.
    pub joined: Timestamp,
    /// Whether it may be a voter, where a user said so; else it is what the node says of itself.
    #[serde(default)]
    pub voter: Option<VoterPreference>,
    /// It is to leave the cluster, as soon as Raft can do without it.
    #[serde(default)]
    pub leaving: Option<Leaving>,
    /// The log index of the last change that a plan could depend on.
    pub version: u64,
}

/// That a node went back by itself, without the cluster: until a user releases it, no update touches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apart {
    /// What the node calls that change: tells one from the next.
    pub change: String,
    /// When the cluster heard of it.
    pub since: Timestamp,
    /// Whether a user released it since.
    pub released: bool,
}

/// Attempts that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    /// How many in a row.
    pub count: u32,
    /// When the last one ended.
    pub since: Timestamp,
    /// Why it did.
    pub why: String,
}

impl Attempts {
    /// The first pause between two attempts.
    const FIRST_PAUSE: Span = Span::from_secs(60);
    /// The longest.
    const LONGEST_PAUSE: Span = Span::from_secs(3600);

    /// How long the next one waits: a minute after the first, then twice as long each time, an hour at most.
    pub fn pause(&self) -> Span {
        let doubled = Self::FIRST_PAUSE.as_millis() << self.count.saturating_sub(1).min(10);
        Span::from_millis(doubled).min(Self::LONGEST_PAUSE)
    }
}

/// A node was told to leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Who said so.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// A node that is in the cluster no more. Its identity never comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its name.
    pub name: NodeName,
    /// Its identity on the network.
    pub peer: PeerId,
    /// Its public key.
    pub key: PublicKey,
    /// When it was removed, or replaced.
    pub at: Timestamp,
    /// By whom.
    pub by: String,
    /// The class it was in.
    pub class: Option<ClassName>,
    /// What a user wanted it to be like.
    pub desired: BTreeMap<CharacteristicKey, Desired>,
    /// Whether it might be a voter, where a user said so.
    pub voter: Option<VoterPreference>,
    /// What it should have had.
    pub should: BTreeMap<PackageName, PackageId>,
}

impl Node {
    /// Whether it may be a voter: as a user said, else as it says of itself. One that is to leave is none.
    pub fn may_vote(&self) -> VoterPreference {
        match &self.leaving {
            Some(_) => VoterPreference::Never,
            None => self.voter.unwrap_or(self.facts.voter),
        }
    }

    /// Whether it went back by itself and was not released since.
    pub fn is_apart(&self) -> bool {
        self.apart.as_ref().is_some_and(|apart| !apart.released)
    }

    /// Whether what is installed is exactly what the record says it should have, whatever of that suits it.
    pub fn has_what_it_should(&self) -> bool {
        self.current.packages == self.should
    }

    /// The version of each package that runs there, installed or not.
    pub fn packages(&self) -> &BTreeMap<PackageName, PackageId> {
        self.ephemeral.as_ref().map_or(&self.current.packages, |ephemeral| &ephemeral.packages)
    }

    /// The signature of each module that runs there or is at hand to what runs, by `package/module`.
    pub fn modules(&self) -> &BTreeMap<String, Signature> {
        self.ephemeral.as_ref().map_or(&self.current.modules, |ephemeral| &ephemeral.modules)
    }
}

/// Nodes that have the same software configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// Its name.
    pub name: ClassName,
    /// What its nodes should have.
    pub should: BTreeMap<PackageName, PackageId>,
    /// The log index of the last change that a plan could depend on.
    pub version: u64,
}

/// A package in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredPackage", into = "StoredPackage")]
pub struct Package {
    /// The canonical manifest, verbatim.
    pub text: String,
    /// The manifest, read.
    pub manifest: Manifest,
    /// Who published it.
    pub published_by: PublicKey,
    /// When.
    pub published: Timestamp,
    /// On how many voters its modules were on disk when it was acknowledged.
    pub copies: u32,
}

/// A package as it is written down: the manifest only as its text.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredPackage {
    text: String,
    published_by: PublicKey,
    published: Timestamp,
    copies: u32,
}

impl TryFrom<StoredPackage> for Package {
    type Error = ManifestError;
    fn try_from(stored: StoredPackage) -> Result<Self, ManifestError> {
        let manifest = Manifest::parse(&stored.text)?;
        let StoredPackage { text, published_by, published, copies } = stored;
        Ok(Self { text, manifest, published_by, published, copies })
    }
}

impl From<Package> for StoredPackage {
    fn from(package: Package) -> Self {
        let Package { text, manifest: _, published_by, published, copies } = package;
        Self { text, published_by, published, copies }
    }
}

/// A package that was taken out of the store. Its name and version stand for it for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Its name.
    pub name: PackageName,
    /// Its version.
    pub version: Version,
    /// When it was taken out.
    pub at: Timestamp,
}

/// What a principal may do; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Publish packages.
    Publisher,
    /// Submit and decide updates, label nodes, set classes.
    Operator,
    /// Everything, such as making tokens and principals.
    Admin,
}

/// A person or program with a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Its name.
    pub name: PrincipalName,
    /// What it may do.
    pub role: Role,
    /// When it was added.
    pub added: Timestamp,
}

/// A join token. Only its hash is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// When it stops being good.
    pub expires: Timestamp,
    /// The only node name it is good for, if one was given.
    pub node: Option<NodeName>,
    /// Who used it.
    pub used_by: Option<NodeName>,
}

/// What a package may not be installed on again without someone saying so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TombstoneKey {
    /// The package that was regressed.
    pub package: PackageId,
    /// The node it was regressed on.
    pub node: NodeName,
}

/// Why a package may not be installed on a node again without someone saying so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The update that regressed it; none if the node went back by itself.
    pub update: Option<UpdateId>,
    /// When.
    pub at: Timestamp,
}

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The cluster was made.
    ClusterCreated,
    /// One node alone became the cluster, at a higher recovery epoch.
    ClusterRecovered,
    /// A node joined.
    NodeJoined,
    /// A node is to leave, or has left.
    NodeRemoved,
    /// A second node with the identity of one that is connected was turned away: a cloned disk.
    CloneRefused,
    /// What holds for the whole cluster was set.
    SettingsChanged,
    /// A node's labels or class changed.
    NodeChanged,
    /// A node's part in Raft changed.
    RaftRoleChanged,
    /// A package was published.
    PackagePublished,
    /// A package was taken out of the store.
    PackageRemoved,
    /// A class changed.
    ClassChanged,
    /// An update was submitted.
    UpdateSubmitted,
    /// An update's phase changed.
    UpdatePhase,
    /// A process vetoed.
    Veto,
    /// A user decided.
    Decision,
    /// A node's changeover failed.
    NodeFailed,
    /// A node went away.
    NodeAway,
    /// A node went back by itself.
    NodeApart,
    /// A node was restarted, and what was not installed there is gone.
    NodeRestarted,
    /// A discrepancy was found.
    Discrepancy,
    /// A discrepancy is there no more.
    DiscrepancyRepaired,
    /// A principal or token was added.
    AccessChanged,
}

/// Something that happened, for people and programs that follow along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number; one more than the one before.
    pub seq: u64,
    /// Record time.
    pub at: Timestamp,
    /// What kind of thing happened.
    pub kind: EventKind,
    /// The update it belongs to.
    pub update: Option<UpdateId>,
    /// The node it happened on.
    pub node: Option<NodeName>,
    /// One sentence for people.
    pub text: String,
}

/// The blobs that a voter has on disk, fsynced, under one membership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The voter.
    pub peer: PeerId,
    /// What it has.
    pub blobs: BTreeSet<Signature>,
}
