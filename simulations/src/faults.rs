//! What goes wrong in a run, and when: drawn from the seed before it begins, most of it aimed at a step of an update's life.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

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
    /// A node's power is cut, and comes back after this time. What was not fsynced is lost.
    PowerCut { who: Who, after: Duration },
    /// These nodes and the others cannot speak with each other.
    Partition { side: BTreeSet<usize>, for_: Duration },
    /// What this node sends reaches nobody, and it hears all.
    OneWay { node: usize, for_: Duration },
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
    /// The master is apart from the other voters only: its members and users reach it and them.
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

    /// All kinds.
    pub const KINDS: [&'static str; 19] = [
        "agent-killed",
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
        "bit-turned",
        "hung",
        "master-apart",
        "slow-disk",
        "disk-full",
        "liar",
        "disk-lost",
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = |node: &usize| format!("n{}", node + 1);
        match self {
            Self::Killed { who, after } => write!(f, "the agent of {who} is killed, for {after:?}"),
            Self::PowerCut { who, after } => write!(f, "the power of {who} is cut, for {after:?}"),
            Self::Partition { side, for_ } => {
                let side: Vec<String> = side.iter().map(node).collect();
                write!(f, "{} are apart from the others, for {for_:?}", side.join(" "))
            }
            Self::OneWay { node: n, for_ } => write!(f, "what {} says reaches nobody, for {for_:?}", node(n)),
            Self::CutOff { who, for_ } => write!(f, "{who} is cut off, for {for_:?}"),
            Self::Flapping { node: n, times, each } => write!(f, "{} comes and goes, {times} times, each {each:?}", node(n)),
            Self::Slow { most, for_ } => write!(f, "messages take up to {most:?}, for {for_:?}"),
            Self::Lossy { who, most, for_ } => write!(f, "messages of {who} take up to {most:?}, for {for_:?}"),
            Self::Dropped => f.write_str("all connections of users break"),
            Self::BitTurned { who, local: true } => write!(f, "a bit is turned in the local storage of {who}"),
            Self::BitTurned { who, local: false } => write!(f, "a bit is turned in the package store of {who}"),
            Self::Hung { who, for_ } => write!(f, "the agent of {who} hangs, for {for_:?}"),
            Self::Apart { for_ } => write!(f, "the master is apart from the other voters, for {for_:?}"),
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
pub const STEPS: [&str; 25] = [
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
    // A user publishes a package.
    "publishing",
];

/// How often faults are aimed at steps that updates seldom come to, or soon leave; at the others once.
const OFTEN: [(&str, usize); 19] = [
    ("distributing", 4),
    ("pending", 4),
    ("ready", 4),
    ("go", 4),
    ("held", 4),
    ("paused", 6),
    ("verifying", 4),
    ("unpersisted", 4),
    ("persisting", 6),
    ("persisted", 8),
    ("regressing", 8),
    ("regressed", 3),
    ("planned", 3),
    ("asked", 2),
    ("started", 2),
    ("wave", 2),
    ("election", 4),
    ("deposed", 5),
    ("publishing", 4),
];

/// Users who crowd around a master that is to have what nobody else has.
const CROWD: usize = 6;

/// Aimed faults of a run. Most of them wait for a step that does not come.
const AIMED: usize = 9;
/// From one aim to the next, so that a run's are at different steps. It shares no divisor with how many there are.
const STRIDE: usize = 37;

/// Pairs of a step and a fault at which what is durable, or who is master, is in doubt for a moment: more often than by chance, and at once.
const NARROW: [(&str, &str); 12] = [
    ("election", "power-cut"),
    ("election", "power-cut"),
    ("election", "agent-killed"),
    ("deposed", "agent-killed"),
    ("deposed", "power-cut"),
    ("queued", "master-killed"),
    ("asking", "users-dropped"),
    ("asking", "users-dropped"),
    ("asking", "master-killed"),
    ("started", "power-cut"),
    ("asked", "bit-turned"),
    ("publishing", "cut-off"),
];

fn how_often(step: &str) -> usize {
    OFTEN.iter().find(|(often, _)| *often == step).map_or(1, |(_, times)| *times)
}

/// Each step as often as faults are aimed at it.
fn aims() -> Vec<&'static str> {
    STEPS.iter().flat_map(|step| std::iter::repeat_n(*step, how_often(step))).collect()
}

/// One pair of a step and a kind of fault after the other: all of them, before one comes again; and those that follow each other have neither
/// in common.
fn pair(steps: &[&'static str], at: usize) -> (&'static str, &'static str) {
    let lap = at / steps.len();
    (steps[at % steps.len() * STRIDE % steps.len()], Fault::KINDS[(at + lap) % Fault::KINDS.len()])
}

/// Draws the faults of a run over so much time. What is aimed goes through all pairs of a step and a kind of fault, from seed to seed.
/// With it comes how many more users crowd around the master.
pub fn draw(rng: &mut StdRng, seed: u64, nodes: usize, load: Duration) -> (Vec<Planned>, usize) {
    let millis = u64::try_from(load.as_millis()).unwrap_or(1);
    let steps = aims();
    let first = usize::try_from(seed).unwrap_or_default().wrapping_mul(AIMED);
    let mut planned: Vec<Planned> = (0..AIMED)
        .map(|at| {
            let (step, kind) = pair(&steps, first.wrapping_add(at));
            let after = Duration::from_millis(rng.random_range(0..millis / 3));
            let at_once = if how_often(step) > 1 { 0.8 } else { 0.5 };
            let then = if rng.random_bool(at_once) { Duration::ZERO } else { Duration::from_millis(rng.random_range(0..120)) };
            Planned { when: When::Step { after, step, then }, fault: one(rng, kind, nodes) }
        })
        .collect();
    // A master is deposed only where something parts it from the others.
    let deposed = |planned: &Planned| matches!(planned.when, When::Step { step: "deposed" | "election", .. });
    if planned.iter().any(deposed) {
        let at = Duration::from_millis(rng.random_range(millis / 3..millis / 2));
        let for_ = Duration::from_millis(rng.random_range(1_500..4_000));
        planned.push(Planned { when: When::At(at), fault: Fault::CutOff { who: Who::Master, for_ } });
    }
    let mut crowd = 0;
    match rng.random_range(0..NARROW.len() + 4) {
        pair if pair < NARROW.len() => planned.push(narrow(rng, pair, nodes, millis)),
        scene if scene % 2 == 0 => planned.extend(two_masters(rng, nodes, millis)),
        _ => {
            planned.extend(unreplicated(rng, millis));
            crowd = CROWD;
        }
    }
    for _ in 0..rng.random_range(0..3) {
        let at = Duration::from_millis(rng.random_range(0..millis));
        let kind = Fault::KINDS[rng.random_range(0..Fault::KINDS.len())];
        planned.push(Planned { when: When::At(at), fault: one(rng, kind, nodes) });
    }
    planned.sort_by_key(|planned| match planned.when {
        When::At(at) | When::Step { after: at, .. } => at,
    });
    (planned, crowd)
}

fn narrow(rng: &mut StdRng, pair: usize, nodes: usize, millis: u64) -> Planned {
    let (step, kind) = NARROW[pair];
    let after = Duration::from_millis(rng.random_range(0..millis / 2));
    let then = Duration::from_millis(rng.random_range(0..4) * 10);
    let mut fault = one(rng, kind, nodes);
    if let Fault::Killed { who, .. } | Fault::PowerCut { who, .. } | Fault::BitTurned { who, .. } = &mut fault
        && let Who::Node(node) = *who
    {
        *who = Who::Mover(node);
    }
    Planned { when: When::Step { after, step, then }, fault }
}

/// Two nodes say that they are master, and a third, which reaches both, is started anew again and again, and has to find out which it is.
fn two_masters(rng: &mut StdRng, nodes: usize, millis: u64) -> Vec<Planned> {
    let mut at = rng.random_range(0..millis / 2);
    let for_ = Duration::from_millis(rng.random_range(12_000..20_000));
    let mut planned = vec![Planned { when: When::At(Duration::from_millis(at)), fault: Fault::Apart { for_ } }];
    // The first are voters.
    let who = Who::Node(rng.random_range(nodes.min(4) - 1..nodes));
    at += 1_500;
    for _ in 0..4 {
        at += rng.random_range(1_500..2_500);
        let after = Duration::from_millis(rng.random_range(50..500));
        planned.push(Planned { when: When::At(Duration::from_millis(at)), fault: Fault::Killed { who, after } });
    }
    planned
}

/// A master goes on for as long as it takes to elect another, and comes back with what nobody else has.
fn unreplicated(rng: &mut StdRng, millis: u64) -> Vec<Planned> {
    let cut = |rng: &mut StdRng| Fault::CutOff { who: Who::Master, for_: Duration::from_millis(rng.random_range(500..1_500)) };
    (0..4).map(|_| Planned { when: When::At(Duration::from_millis(rng.random_range(0..millis))), fault: cut(rng) }).collect()
}

/// A fault of this kind.
fn one(rng: &mut StdRng, kind: &str, nodes: usize) -> Fault {
    let node = rng.random_range(0..nodes);
    let who = if rng.random_bool(0.5) { Who::Mover(node) } else { Who::Node(node) };
    let short = rng.random_bool(0.5);
    let after = Duration::from_millis(if short { rng.random_range(50..1_500) } else { rng.random_range(1_500..20_000) });
    match kind {
        "agent-killed" => Fault::Killed { who, after },
        "power-cut" => Fault::PowerCut { who, after },
        "master-killed" => Fault::Killed { who: Who::Master, after },
        "master-power-cut" => Fault::PowerCut { who: Who::Master, after },
        "partition" => {
            let mut all: Vec<usize> = (0..nodes).collect();
            all.shuffle(rng);
            all.truncate(rng.random_range(1..=(nodes - 1).max(1)));
            Fault::Partition { side: all.into_iter().collect(), for_: after }
        }
        "one-way" => Fault::OneWay { node, for_: after },
        "cut-off" => Fault::CutOff { who, for_: after },
        "master-cut-off" => Fault::CutOff { who: Who::Master, for_: after },
        "flapping" => {
            Fault::Flapping { node, times: rng.random_range(2..6), each: Duration::from_millis(rng.random_range(200..3_000)) }
        }
        "slow" => Fault::Slow { most: Duration::from_millis(rng.random_range(50..800)), for_: after },
        "lossy" => Fault::Lossy { who, most: Duration::from_millis(rng.random_range(200..3_000)), for_: after },
        "users-dropped" => Fault::Dropped,
        "hung" => Fault::Hung { who, for_: after },
        "master-apart" => Fault::Apart { for_: after },
        "slow-disk" => Fault::SlowDisk { who, takes: Duration::from_millis(rng.random_range(20..1_500)), for_: after },
        "disk-full" => Fault::DiskFull { who, for_: after },
        "liar" => Fault::Liar { who, for_: after },
        "disk-lost" => Fault::DiskLost { who, after },
        _ => Fault::BitTurned { who, local: rng.random_bool(0.7) },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_pair_of_a_step_and_a_kind_of_fault_comes_up_as_often_as_it_should() {
        let steps = aims();
        let mut met: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for at in 0..steps.len() * Fault::KINDS.len() {
            *met.entry(pair(&steps, at)).or_default() += 1;
        }
        for step in STEPS {
            for kind in Fault::KINDS {
                assert_eq!(met.get(&(step, kind)), Some(&how_often(step)), "{kind} at {step}");
            }
        }
    }
}
