//! What goes wrong in a run, and when: drawn from the seed before it begins, or aimed at a step of an update's life.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A node's agent is killed, and started again after this time.
    AgentKilled { node: usize, after: Duration },
    /// A node's power is cut, and comes back after this time. What was not fsynced is lost.
    PowerCut { node: usize, after: Duration },
    /// The master's agent is killed.
    MasterKilled { after: Duration },
    /// The master's power is cut.
    MasterPowerCut { after: Duration },
    /// These nodes and the others cannot speak with each other.
    Partition { side: BTreeSet<usize>, for_: Duration },
    /// What this node sends reaches nobody, and it hears all.
    OneWay { node: usize, for_: Duration },
    /// The master is cut off, goes on believing that it is one, and comes back.
    MasterCutOff { for_: Duration },
    /// A node comes and goes.
    Flapping { node: usize, times: u32, each: Duration },
    /// Messages take up to so long.
    Slow { most: Duration, for_: Duration },
    /// A bit is turned in a blob of a node's package store or local storage.
    BitTurned { node: usize },
}

impl Fault {
    /// What kind it is, as tables have it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AgentKilled { .. } => "agent-killed",
            Self::PowerCut { .. } => "power-cut",
            Self::MasterKilled { .. } => "master-killed",
            Self::MasterPowerCut { .. } => "master-power-cut",
            Self::Partition { .. } => "partition",
            Self::OneWay { .. } => "one-way",
            Self::MasterCutOff { .. } => "master-cut-off",
            Self::Flapping { .. } => "flapping",
            Self::Slow { .. } => "slow",
            Self::BitTurned { .. } => "bit-turned",
        }
    }

    /// All kinds.
    pub const KINDS: [&'static str; 10] = [
        "agent-killed",
        "power-cut",
        "master-killed",
        "master-power-cut",
        "partition",
        "one-way",
        "master-cut-off",
        "flapping",
        "slow",
        "bit-turned",
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = |node: &usize| format!("n{}", node + 1);
        match self {
            Self::AgentKilled { node: n, after } => write!(f, "the agent of {} is killed, for {after:?}", node(n)),
            Self::PowerCut { node: n, after } => write!(f, "the power of {} is cut, for {after:?}", node(n)),
            Self::MasterKilled { after } => write!(f, "the master's agent is killed, for {after:?}"),
            Self::MasterPowerCut { after } => write!(f, "the master's power is cut, for {after:?}"),
            Self::Partition { side, for_ } => {
                let side: Vec<String> = side.iter().map(node).collect();
                write!(f, "{} are apart from the others, for {for_:?}", side.join(" "))
            }
            Self::OneWay { node: n, for_ } => write!(f, "what {} says reaches nobody, for {for_:?}", node(n)),
            Self::MasterCutOff { for_ } => write!(f, "the master is cut off, for {for_:?}"),
            Self::Flapping { node: n, times, each } => write!(f, "{} comes and goes, {times} times, each {each:?}", node(n)),
            Self::Slow { most, for_ } => write!(f, "messages take up to {most:?}, for {for_:?}"),
            Self::BitTurned { node: n } => write!(f, "a bit is turned on {}", node(n)),
        }
    }
}

/// When a fault comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// So long after the load began.
    At(Duration),
    /// So long after any update first came to a step of this name after that.
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

/// The states of an update's life, and the steps of its nodes, at which faults are aimed.
pub const STEPS: [&str; 17] = [
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
    "asked",
    "staged",
    "pending",
    "ready",
    "go",
    "started",
];

/// Draws the faults of a run over so much time.
pub fn draw(rng: &mut StdRng, nodes: usize, load: Duration) -> Vec<Planned> {
    let count = rng.random_range(3..9);
    let mut planned: Vec<Planned> = (0..count)
        .map(|_| {
            let at = Duration::from_millis(rng.random_range(0..u64::try_from(load.as_millis()).unwrap_or(1)));
            let when = match STEPS.choose(rng) {
                Some(step) if rng.random_bool(0.7) => {
                    When::Step { after: at, step, then: Duration::from_millis(rng.random_range(0..120)) }
                }
                _ => When::At(at),
            };
            Planned { when, fault: one(rng, nodes) }
        })
        .collect();
    planned.sort_by_key(|planned| match planned.when {
        When::At(at) | When::Step { after: at, .. } => at,
    });
    planned
}

fn one(rng: &mut StdRng, nodes: usize) -> Fault {
    let node = rng.random_range(0..nodes);
    let short = rng.random_bool(0.5);
    let after = Duration::from_millis(if short { rng.random_range(50..1_500) } else { rng.random_range(1_500..20_000) });
    match rng.random_range(0..14) {
        0 | 1 => Fault::AgentKilled { node, after },
        2 | 3 => Fault::PowerCut { node, after },
        4 | 5 => Fault::MasterKilled { after },
        6 => Fault::MasterPowerCut { after },
        7 | 8 => {
            let mut all: Vec<usize> = (0..nodes).collect();
            all.shuffle(rng);
            all.truncate(rng.random_range(1..=(nodes - 1).max(1)));
            Fault::Partition { side: all.into_iter().collect(), for_: after }
        }
        9 => Fault::OneWay { node, for_: after },
        10 => Fault::MasterCutOff { for_: after },
        11 => Fault::Flapping { node, times: rng.random_range(2..6), each: Duration::from_millis(rng.random_range(200..3_000)) },
        12 => Fault::Slow { most: Duration::from_millis(rng.random_range(50..800)), for_: after },
        _ => Fault::BitTurned { node },
    }
}
