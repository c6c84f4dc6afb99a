//! What can be asked of the record: the entries of the replicated log.
//!
//! One idea: what a user wants is signed by the user and carried verbatim, so that a peer that forwards it cannot
//! change it; what the master adds (time, a plan, receipts) lies beside it, outside the signature.

mod rejection;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ed25519_dalek::{Signer, SigningKey, Verifier, VerifyingKey};
use serde::{Deserialize, Serialize};

pub use rejection::Rejection;

use crate::model::{
    CharacteristicKey, ClassName, ClusterId, Decision, Desired, Discrepancy, Ephemeral, Facts, Generation, KeySignature,
    NodeName, NodeReport, PackageId, PeerId, Plan, PrincipalName, PublicKey, Receipt, RequestId, Role, Signature, SignedRecovery,
    Span, Timestamp, UpdateId, UpdateRequest, VoterPreference,
};

/// The longest signed order, in bytes of its JSON.
pub const MAX_ORDER_BYTES: usize = 4 << 20;
/// How far ahead an order may expire.
pub const MAX_ORDER_LIFE: Span = Span::from_secs(12 * 3600);
/// The longest time that a join token may be good for.
pub const MAX_TOKEN_LIFE: Span = Span::from_secs(30 * 24 * 3600);

/// One entry of the replicated log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The master's time when it proposed it.
    pub time: Timestamp,
    /// What it says.
    pub body: Body,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            Body::User { order, .. } => write!(f, "order of {}", order.key.short()),
            Body::Master(command) => write!(f, "{}", command.kind()),
        }
    }
}

/// Who an entry comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Body {
    /// A user's signed order.
    User {
        /// What the user signed.
        order: SignedOrder,
        /// What the master found out for it.
        evidence: Option<Box<Evidence>>,
    },
    /// The master's own.
    Master(Box<MasterCommand>),
}

/// What the master adds to a user's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// For `publish`: the manifests, and which voters have their modules.
    Stored {
        /// The canonical manifests, verbatim.
        manifests: Vec<String>,
        /// What the voters have on disk.
        receipts: Vec<Receipt>,
        /// The log index of the membership they were collected under.
        membership: u64,
    },
    /// For `submit` and `decide`: the plan.
    Plan(Plan),
}

/// A user's order with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedOrder {
    /// Who signed.
    pub key: PublicKey,
    /// The JSON of an [`Order`], verbatim as it was signed.
    pub content: String,
    /// The ed25519 signature over [`SIGNING_CONTEXT`] and the content.
    pub signature: KeySignature,
}

/// What is put before an order's text when it is signed, so that its signature fits nothing else.
pub const SIGNING_CONTEXT: &[u8] = b"tribune order 1\n";

/// What a user signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The cluster it is for.
    pub cluster: ClusterId,
    /// What makes a repeat known.
    pub request: RequestId,
    /// When it stops being good.
    pub expires: Timestamp,
    /// What is ordered.
    pub command: UserCommand,
}

/// Why an order's signature was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum OrderError {
    /// The text is too long.
    #[error("the order has more than {MAX_ORDER_BYTES} bytes")]
    TooLong,
    /// The signature does not fit.
    #[error("the order's signature is wrong: it was changed on its way, or signed with another key than {0}")]
    Signature(PublicKey),
    /// The text is not an order.
    #[error("the order cannot be read: {0}")]
    Malformed(String),
}

impl SignedOrder {
    /// Signs an order with a secret key.
    pub fn sign(order: &Order, key: &SigningKey) -> Result<Self, OrderError> {
        let content = serde_json::to_string(order).map_err(|e| OrderError::Malformed(e.to_string()))?;
        let signature = key.sign(&Self::signed_bytes(&content));
        Ok(Self {
            key: PublicKey::new(key.verifying_key().to_bytes()),
            content,
            signature: KeySignature::new(signature.to_bytes()),
        })
    }

    fn signed_bytes(content: &str) -> Vec<u8> {
        [SIGNING_CONTEXT, content.as_bytes()].concat()
    }

    /// Checks the signature and reads the order.
    pub fn open(&self) -> Result<Order, OrderError> {
        if self.content.len() > MAX_ORDER_BYTES {
            return Err(OrderError::TooLong);
        }
        let wrong = || OrderError::Signature(self.key);
        let key = VerifyingKey::from_bytes(self.key.as_bytes()).map_err(|_| wrong())?;
        let signature = ed25519_dalek::Signature::from_bytes(self.signature.as_bytes());
        // Strict: all voters must agree on which signatures are good.
        key.verify_strict(&Self::signed_bytes(&self.content), &signature).map_err(|_| wrong())?;
        serde_json::from_str(&self.content).map_err(|e| OrderError::Malformed(e.to_string()))
    }
}

/// Whether these bytes were signed with this key.
pub fn verify(key: &PublicKey, bytes: &[u8], signature: &KeySignature) -> bool {
    VerifyingKey::from_bytes(key.as_bytes())
        .and_then(|key| key.verify(bytes, &ed25519_dalek::Signature::from_bytes(signature.as_bytes())))
        .is_ok()
}

/// What a user can order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "order")]
pub enum UserCommand {
    /// Make a join token.
    CreateToken {
        /// The BLAKE3 of the token.
        hash: Signature,
        /// How long it is good.
        valid: Span,
        /// The only node name it is good for.
        node: Option<NodeName>,
    },
    /// Change what a node is wanted to be like.
    LabelNode {
        /// The node.
        node: NodeName,
        /// What is set.
        set: BTreeMap<CharacteristicKey, Desired>,
        /// What is taken away.
        unset: BTreeSet<CharacteristicKey>,
    },
    /// Let a node that went back by itself take part again.
    ReleaseNode {
        /// The node.
        node: NodeName,
    },
    /// Say which nodes are in a class; it is made if it is not there.
    SetClass {
        /// The class.
        class: ClassName,
        /// Nodes that are put into it.
        add: BTreeSet<NodeName>,
        /// Nodes that are taken out of it.
        remove: BTreeSet<NodeName>,
    },
    /// Take a node out of the cluster, for good. Its services go on.
    RemoveNode {
        /// Which.
        node: NodeName,
    },
    /// Say whether a node may be a voter.
    SetVoter {
        /// Which.
        node: NodeName,
        /// What it may be; none: what the node says of itself.
        voter: Option<VoterPreference>,
    },
    /// Set what holds for the whole cluster; what is not named stays.
    SetSettings {
        /// How long a node may be silent before it counts as away.
        away_after: Option<Span>,
        /// How many voters are kept at most.
        voters: Option<u32>,
        /// How many standbys are kept at most.
        standbys: Option<u32>,
    },
    /// Take a class away. Its nodes are in none then, and keep what they have.
    RemoveClass {
        /// The class.
        class: ClassName,
    },
    /// Put packages into the store.
    Publish {
        /// Which.
        packages: BTreeSet<PackageId>,
    },
    /// Take a package out of the store that nothing needs.
    RemovePackage {
        /// Which.
        package: PackageId,
    },
    /// Begin an update.
    Submit {
        /// What is wanted.
        request: UpdateRequest,
    },
    /// Decide about an update that waits for a user.
    Decide {
        /// Which.
        update: UpdateId,
        /// The ballots the user saw.
        ballot_revision: u64,
        /// What is decided.
        decision: Decision,
    },
    /// Call an update off.
    Cancel {
        /// Which.
        update: UpdateId,
    },
    /// Install what an ephemeral update runs.
    Persist {
        /// Which.
        update: UpdateId,
    },
    /// Let no further node begin to change over.
    Pause {
        /// Which.
        update: UpdateId,
    },
    /// Let a paused update go on.
    Resume {
        /// Which.
        update: UpdateId,
    },
    /// Add a principal, or change its role.
    SetPrincipal {
        /// Its key.
        key: PublicKey,
        /// Its name.
        name: PrincipalName,
        /// What it may do.
        role: Role,
    },
    /// Take a principal away.
    RemovePrincipal {
        /// Its key.
        key: PublicKey,
    },
}

impl UserCommand {
    /// The role that may order it.
    pub fn needs(&self) -> Role {
        match self {
            UserCommand::CreateToken { .. }
            | UserCommand::RemoveNode { .. }
            | UserCommand::SetVoter { .. }
            | UserCommand::SetSettings { .. }
            | UserCommand::SetPrincipal { .. }
            | UserCommand::RemovePrincipal { .. } => Role::Admin,
            UserCommand::Publish { .. } => Role::Publisher,
            UserCommand::LabelNode { .. }
            | UserCommand::ReleaseNode { .. }
            | UserCommand::SetClass { .. }
            | UserCommand::RemoveClass { .. }
            | UserCommand::RemovePackage { .. }
            | UserCommand::Submit { .. }
            | UserCommand::Decide { .. }
            | UserCommand::Cancel { .. }
            | UserCommand::Persist { .. }
            | UserCommand::Pause { .. }
            | UserCommand::Resume { .. } => Role::Operator,
        }
    }
}

/// What makes a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its first node.
    pub node: NewNode,
    /// Its first admin's name.
    pub admin: PrincipalName,
    /// Its first admin's key.
    pub admin_key: PublicKey,
}

/// A node that comes into the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewNode {
    /// Its name.
    pub name: NodeName,
    /// Its identity on the network.
    pub peer: PeerId,
    /// Its public key.
    pub key: PublicKey,
    /// What it says of itself.
    pub facts: Facts,
}

/// In whose place a node comes into the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinAs {
    /// It is a further one.
    #[default]
    New,
    /// It is the node of its name anew, on an empty disk: it takes that one's place.
    Replacement,
}

/// What only the master's own code proposes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum MasterCommand {
    /// The first entry of a cluster.
    Create(Birth),
    /// One node alone is the cluster from here on. Written into the log of a stopped node, and proposed by nobody.
    Recover {
        /// What an admin signed.
        recovery: SignedRecovery,
    },
    /// A node joins with a token.
    Join {
        /// The BLAKE3 of the token.
        token: Signature,
        /// The node.
        node: NewNode,
        /// Whether it is a further node.
        #[serde(default)]
        place: JoinAs,
    },
    /// A second node with the identity of one that is connected was turned away.
    CloneRefused {
        /// Which.
        node: NodeName,
        /// From where it came.
        from: String,
    },
    /// A node said what it is like and what is installed there.
    NodeState {
        /// Which.
        node: NodeName,
        /// What it is like.
        facts: Facts,
        /// What is installed.
        current: Generation,
        /// What runs in its place.
        #[serde(default)]
        ephemeral: Option<Ephemeral>,
        /// What it could regress to.
        kept: BTreeMap<u64, Generation>,
        /// What it calls its last change that was of its own making.
        #[serde(default)]
        apart: Option<String>,
    },
    /// A member becomes a standby; its Raft id is made of the epoch and this entry's index.
    MakeStandby {
        /// Which.
        node: NodeName,
    },
    /// A standby was promoted: it is a voter in Raft's membership.
    MakeVoter {
        /// Which.
        node: NodeName,
    },
    /// A voter or standby is out of Raft's membership.
    MakeMember {
        /// Which.
        node: NodeName,
    },
    /// A node is not what it should be, and begins to come to it.
    Converge {
        /// Which.
        node: NodeName,
        /// What changes there.
        plan: Plan,
    },
    /// A queued update got its plan, or a planned one a new one.
    SetPlan {
        /// Which.
        update: UpdateId,
        /// The plan.
        plan: Plan,
    },
    /// What a node says of its part in an update.
    Report {
        /// Which update.
        update: UpdateId,
        /// Which node.
        node: NodeName,
        /// Which plan it is about.
        revision: u32,
        /// Which round of asking it is about.
        round: u32,
        /// What it says.
        report: NodeReport,
    },
    /// These nodes may start their new modules.
    Go {
        /// Which update.
        update: UpdateId,
        /// Which nodes.
        nodes: BTreeSet<NodeName>,
    },
    /// A node has been away for too long.
    Away {
        /// Which update.
        update: UpdateId,
        /// Which node.
        node: NodeName,
    },
    /// Nobody decided in time.
    DecideExpired {
        /// Which update.
        update: UpdateId,
        /// How long it waited, by the master's own clock.
        waited: Span,
    },
    /// What is really installed was checked.
    Verified {
        /// Which update.
        update: UpdateId,
        /// What is not met.
        discrepancies: Vec<Discrepancy>,
    },
    /// What the whole fleet has was checked.
    Checked {
        /// Which: the cluster's `installed` when it was looked at.
        installed: u64,
        /// Every need that is not met.
        discrepancies: Vec<Discrepancy>,
        /// How many there are beside these: no more than [`MAX_UNMET`](crate::record::MAX_UNMET) are kept.
        #[serde(default)]
        left_out: u64,
    },
}

impl MasterCommand {
    /// A word for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            MasterCommand::Create(_) => "create",
            MasterCommand::Recover { .. } => "recover",
            MasterCommand::Join { .. } => "join",
            MasterCommand::CloneRefused { .. } => "clone refused",
            MasterCommand::NodeState { .. } => "node state",
            MasterCommand::MakeStandby { .. } => "make standby",
            MasterCommand::MakeVoter { .. } => "make voter",
            MasterCommand::MakeMember { .. } => "make member",
            MasterCommand::Converge { .. } => "converge",
            MasterCommand::SetPlan { .. } => "set plan",
            MasterCommand::Report { .. } => "report",
            MasterCommand::Go { .. } => "go",
            MasterCommand::Away { .. } => "away",
            MasterCommand::DecideExpired { .. } => "decide expired",
            MasterCommand::Verified { .. } => "verified",
            MasterCommand::Checked { .. } => "checked",
        }
    }
}

/// The answer to an entry.
pub type Response = Result<Accepted, Rejection>;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "accepted")]
pub enum Accepted {
    /// It was done.
    Done,
    /// A node is to leave, and will when Raft can do without it.
    Leaving {
        /// Which.
        node: NodeName,
    },
    /// An update was made, or moved.
    Update {
        /// Which.
        update: UpdateId,
    },
    /// Packages are in the store.
    Published {
        /// Which.
        packages: BTreeSet<PackageId>,
        /// On how many voters their modules are.
        copies: u32,
    },
    /// A node is in the cluster.
    Joined {
        /// The cluster.
        cluster: ClusterId,
    },
    /// A node became a standby.
    Standby {
        /// Its Raft id.
        raft_id: u64,
    },
}
