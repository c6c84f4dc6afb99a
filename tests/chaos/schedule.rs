//! Which faults come when, and how long each lasts.
//!
//! One idea: it is made before anything happens, from the seed alone. Only who is master, and which file of a folder is damaged, is seen
//! when it is time.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::random::Random;

/// Whom a fault befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The node of this number, from 0.
    Node(usize),
    /// Who is master then.
    Master,
}

/// What is killed of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its agent: the keeper starts another.
    Agent,
    /// Its keeper: the agent ends by itself, services go on.
    Keeper,
    /// Both: services go on.
    Both,
    /// And everything that the node has started, as when its power is cut.
    Everything,
}

/// Which connections are cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// These from all others.
    Halves(BTreeSet<usize>),
    /// One node from all others.
    Alone(Target),
    /// What one sends the other; not what the other sends.
    OneWay(usize, usize),
    /// One node from all others, on and off.
    Flapping(Target),
}

/// What bytes a bit is turned in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A blob of the package store.
    Packages,
    /// A module in local storage.
    Local,
    /// A file of Raft's RocksDB, whose node is killed first.
    Raft,
}

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill(Part, Target),
    /// SIGSTOP to an agent, and SIGCONT.
    Pause(Target),
    /// The network.
    Cut(Cut),
    /// The disk of a node is full.
    FullDisk(usize),
    /// A bit has turned on the disk of a node.
    TurnedBit(Place, usize),
}

impl Fault {
    /// Its kind, as it is counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Kill(Part::Agent, Target::Node(_)) => "kill an agent",
            Fault::Kill(Part::Agent, Target::Master) => "kill the master's agent",
            Fault::Kill(Part::Keeper, Target::Node(_)) => "kill a keeper",
            Fault::Kill(Part::Keeper, Target::Master) => "kill the master's keeper",
            Fault::Kill(Part::Both, Target::Node(_)) => "kill a node's agent and keeper",
            Fault::Kill(Part::Both, Target::Master) => "kill the master's agent and keeper",
            Fault::Kill(Part::Everything, Target::Node(_)) => "cut a node's power",
            Fault::Kill(Part::Everything, Target::Master) => "cut the master's power",
            Fault::Pause(Target::Node(_)) => "pause an agent",
            Fault::Pause(Target::Master) => "pause the master's agent",
            Fault::Cut(Cut::Halves(_)) => "cut the network in two",
            Fault::Cut(Cut::Alone(_)) => "cut off one node",
            Fault::Cut(Cut::OneWay(..)) => "cut one way",
            Fault::Cut(Cut::Flapping(_)) => "a flapping cable",
            Fault::FullDisk(_) => "fill a disk",
            Fault::TurnedBit(Place::Packages, _) => "turn a bit in a package store",
            Fault::TurnedBit(Place::Local, _) => "turn a bit in local storage",
            Fault::TurnedBit(Place::Raft, _) => "turn a bit in RocksDB",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |node: &usize| format!("n{}", node + 1);
        let target = |target: &Target| match target {
            Target::Node(node) => name(node),
            Target::Master => "the master".into(),
        };
        let on = match self {
            Fault::Kill(_, on) | Fault::Pause(on) | Fault::Cut(Cut::Alone(on) | Cut::Flapping(on)) => target(on),
            Fault::Cut(Cut::Halves(side)) => side.iter().map(name).collect::<Vec<_>>().join(" ") + " from the others",
            Fault::Cut(Cut::OneWay(from, to)) => format!("{} to {}", name(from), name(to)),
            Fault::FullDisk(node) | Fault::TurnedBit(_, node) => name(node),
        };
        write!(f, "{}: {on}", self.kind())
    }
}

/// A fault and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// When it begins, from the beginning of the storm.
    pub at: Duration,
    /// How long after that it is healed.
    pub lasting: Duration,
    /// What it is.
    pub fault: Fault,
}

/// What a storm may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Means {
    /// How many nodes there are.
    pub nodes: usize,
    /// Whether the network can be cut.
    pub network: Network,
    /// The nodes whose disks can be filled.
    pub disks: Vec<usize>,
}

/// What nodes are connected by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Cables that can be cut.
    Cables,
    /// The loopback of this machine.
    Loopback,
}

/// The faults of a storm of this length, by time.
pub fn schedule(mut random: Random, length: Duration, means: &Means) -> Vec<Planned> {
    let mut all = Vec::new();
    let mut at = Duration::from_secs(2);
    while at < length {
        let fault = fault(&mut random, means);
        let lasting = lasting(&mut random, &fault).min(length.saturating_sub(at));
        all.push(Planned { at, lasting, fault });
        at += random.millis(300, 4_000);
    }
    all
}

fn target(random: &mut Random, means: &Means) -> Target {
    if random.percent(40) { Target::Master } else { Target::Node(random.below(means.nodes)) }
}

fn fault(random: &mut Random, means: &Means) -> Fault {
    let node = random.below(means.nodes);
    match random.below(100) {
        0..16 => Fault::Kill(Part::Agent, target(random, means)),
        16..24 => Fault::Kill(Part::Keeper, target(random, means)),
        24..34 => Fault::Kill(Part::Both, target(random, means)),
        34..42 => Fault::Kill(Part::Everything, target(random, means)),
        42..54 => Fault::Pause(target(random, means)),
        54..60 if !means.disks.is_empty() => Fault::FullDisk(*random.pick(&means.disks)),
        60..64 => Fault::TurnedBit(Place::Packages, node),
        64..68 => Fault::TurnedBit(Place::Local, node),
        68..73 => Fault::TurnedBit(Place::Raft, node),
        73..100 if means.network == Network::Cables => Fault::Cut(cut(random, means)),
        _ => Fault::Kill(Part::Agent, Target::Node(node)),
    }
}

fn cut(random: &mut Random, means: &Means) -> Cut {
    match random.below(4) {
        0 => Cut::Halves(random.some(means.nodes / 2, means.nodes).into_iter().collect()),
        1 => Cut::Alone(target(random, means)),
        2 => {
            let two = random.some(2, means.nodes);
            if random.percent(50) { Cut::OneWay(two[0], two[1]) } else { Cut::OneWay(two[1], two[0]) }
        }
        _ => Cut::Flapping(target(random, means)),
    }
}

fn lasting(random: &mut Random, fault: &Fault) -> Duration {
    match fault {
        // Healed by its keeper.
        Fault::Kill(Part::Agent, _) => Duration::ZERO,
        Fault::Kill(..) => random.millis(200, 6_000),
        Fault::Pause(_) => random.millis(300, 15_000),
        Fault::Cut(_) => random.millis(500, 12_000),
        Fault::FullDisk(_) => random.millis(2_000, 12_000),
        Fault::TurnedBit(..) => random.millis(5_000, 20_000),
    }
}

#[test]
fn the_same_seed_makes_the_same_schedule_and_every_fault_is_healed_within_the_storm() {
    let means = Means { nodes: 5, network: Network::Cables, disks: vec![1, 3] };
    let length = Duration::from_secs(600);
    let of = |seed| schedule(Random::new(seed, 1), length, &means);
    assert_eq!(of(7), of(7));
    assert_ne!(of(7), of(8));
    assert!(of(7).iter().all(|planned| planned.at + planned.lasting <= length));
    let kinds: BTreeSet<_> = (0..20).flat_map(of).map(|planned| planned.fault.kind()).collect();
    assert_eq!(kinds.len(), 18, "every kind comes: {kinds:?}");
    let loopback = Means { network: Network::Loopback, disks: Vec::new(), ..means };
    let without = (0..20).flat_map(|seed| schedule(Random::new(seed, 1), length, &loopback));
    assert!(without.into_iter().all(|planned| !matches!(planned.fault, Fault::Cut(_) | Fault::FullDisk(_))));
}
