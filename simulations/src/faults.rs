//! What can go wrong in a run, and when.

pub mod draw;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// Whom a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// This node.
    Node(usize),
    /// Whoever is master then.
    Master,
    /// The node whose step it was that the fault was aimed at; this one, if it was no single node's.
    Mover(usize),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "n{}", node + 1),
            Self::Master => f.write_str("the master"),
            Self::Mover(_) => f.write_str("the node that moved"),
        }
    }
}

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// An agent is killed, and started again after this time.
    Killed { who: Who, after: Duration },
    /// The processes on a node are killed; its keeper starts them again.
    ProcessesKilled { who: Who },
    /// A node's power is cut, and comes back after this time. What was not fsynced is lost.
    PowerCut { who: Who, after: Duration },
    /// These nodes and the others cannot speak with each other.
    Partition { side: BTreeSet<usize>, for_: Duration },
    /// What this node sends reaches nobody, and it hears all.
    OneWay { who: Who, for_: Duration },
    /// A node is cut off and comes back; a master goes on believing that it is one.
    CutOff { who: Who, for_: Duration },
    /// A node comes and goes.
    Flapping { node: usize, times: u32, each: Duration },
    /// Messages take up to so long.
    Slow { most: Duration, for_: Duration },
    /// Messages to and from one node take up to so long, as where many are lost and sent again.
    Lossy { who: Who, most: Duration, for_: Duration },
    /// All connections of users break; what was on its way to them is lost.
    Dropped,
    /// A bit is turned in a blob of a node: of its local storage, or of its package store.
    BitTurned { who: Who, local: bool },
    /// An agent hangs: nobody hears of it, users neither, and its connections stay.
    Hung { who: Who, for_: Duration },
    /// The master is apart from all others in Raft: members and users reach it and them.
    Apart { for_: Duration },
    /// Whatever Raft writes on a node takes so long to be durable.
    SlowDisk { who: Who, takes: Duration, for_: Duration },
    /// Nothing more can be written on a node.
    DiskFull { who: Who, for_: Duration },
    /// What a node sends of modules is other than it should be.
    Liar { who: Who, for_: Duration },
    /// A node's disk is lost for good; it comes back with an empty one, and somebody lets it take its own place.
    DiskLost { who: Who, after: Duration },
}

impl Fault {
    /// What kind it is, as tables have it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Killed { who: Who::Master, .. } => "master-killed",
            Self::Killed { .. } => "agent-killed",
            Self::ProcessesKilled { .. } => "processes-killed",
            Self::PowerCut { who: Who::Master, .. } => "master-power-cut",
            Self::PowerCut { .. } => "power-cut",
            Self::Partition { .. } => "partition",
            Self::OneWay { .. } => "one-way",
            Self::CutOff { who: Who::Master, .. } => "master-cut-off",
            Self::CutOff { .. } => "cut-off",
            Self::Flapping { .. } => "flapping",
            Self::Slow { .. } => "slow",
            Self::Lossy { .. } => "lossy",
            Self::Dropped => "users-dropped",
            Self::BitTurned { .. } => "bit-turned",
            Self::Hung { .. } => "hung",
            Self::Apart { .. } => "master-apart",
            Self::SlowDisk { .. } => "slow-disk",
            Self::DiskFull { .. } => "disk-full",
            Self::Liar { .. } => "liar",
            Self::DiskLost { .. } => "disk-lost",
        }
    }

    /// Kinds by which something is lost for good, which is so once in a run at most.
    pub const LOSSES: [&'static str; 2] = ["bit-turned", "disk-lost"];

    /// All other kinds.
    pub const KINDS: [&'static str; 18] = [
        "agent-killed",
        "processes-killed",
        "power-cut",
        "master-killed",
        "master-power-cut",
        "partition",
        "one-way",
        "cut-off",
        "master-cut-off",
        "flapping",
        "slow",
        "lossy",
        "users-dropped",
        "hung",
        "master-apart",
        "slow-disk",
        "disk-full",
        "liar",
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = |node: &usize| format!("n{}", node + 1);
        match self {
            Self::Killed { who, after } => write!(f, "the agent of {who} is killed, for {after:?}"),
            Self::ProcessesKilled { who } => write!(f, "the processes of {who} are killed"),
            Self::PowerCut { who, after } => write!(f, "the power of {who} is cut, for {after:?}"),
            Self::Partition { side, for_ } => {
                let side: Vec<String> = side.iter().map(node).collect();
                write!(f, "{} are apart from the others, for {for_:?}", side.join(" "))
            }
            Self::OneWay { who, for_ } => write!(f, "what {who} says reaches nobody, for {for_:?}"),
            Self::CutOff { who, for_ } => write!(f, "{who} is cut off, for {for_:?}"),
            Self::Flapping { node: n, times, each } => write!(f, "{} comes and goes, {times} times, each {each:?}", node(n)),
            Self::Slow { most, for_ } => write!(f, "messages take up to {most:?}, for {for_:?}"),
            Self::Lossy { who, most, for_ } => write!(f, "messages of {who} take up to {most:?}, for {for_:?}"),
            Self::Dropped => f.write_str("all connections of users break"),
            Self::BitTurned { who, local: true } => write!(f, "a bit is turned in the local storage of {who}"),
            Self::BitTurned { who, local: false } => write!(f, "a bit is turned in the package store of {who}"),
            Self::Hung { who, for_ } => write!(f, "the agent of {who} hangs, for {for_:?}"),
            Self::Apart { for_ } => write!(f, "the master is apart from all others in Raft, for {for_:?}"),
            Self::SlowDisk { who, takes, for_ } => write!(f, "the disk of {who} takes {takes:?}, for {for_:?}"),
            Self::DiskFull { who, for_ } => write!(f, "the disk of {who} is full, for {for_:?}"),
            Self::DiskLost { who, after } => write!(f, "the disk of {who} is lost, and it is off for {after:?}"),
            Self::Liar { who, for_ } => write!(f, "{who} sends other modules than it is asked for, for {for_:?}"),
        }
    }
}

/// When a fault comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// So long after the load began.
    At(Duration),
    /// So long after this step was first come to after that.
    Step { after: Duration, step: &'static str, then: Duration },
}

/// A fault with its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub when: When,
    pub fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.when {
            When::At(at) => write!(f, "at {at:?}: {}", self.fault),
            When::Step { after, step, then } => write!(f, "{then:?} after the first {step} from {after:?} on: {}", self.fault),
        }
    }
}

/// What faults are aimed at: where an update comes to, where one of its nodes comes to, and what becomes of masters.
pub const STEPS: [&str; 27] = [
    // An update's life.
    "queued",
    "asking",
    "vetoed",
    "distributing",
    "wave",
    "held",
    "paused",
    "verifying",
    "unpersisted",
    "persisting",
    "regressing",
    // A node's part in it.
    "planned",
    "asked",
    "voted",
    "staged",
    "pending",
    "ready",
    "go",
    "started",
    "settled",
    "persisted",
    "regressed",
    // A node has voted for a new master, or asks to be one.
    "election",
    // A master is none any more.
    "deposed",
    // A node has just come into Raft, or becomes a voter.
    "standby",
    "voter",
    // A user publishes a package.
    "publishing",
];
