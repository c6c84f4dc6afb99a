//! What goes wrong in a run, drawn from its seed before it begins: most of it is aimed at a step of an update's life, and some runs have a scene.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::{Fault, Planned, STEPS, When, Who};

/// How often faults are aimed at steps that updates seldom come to, or soon leave; at the others once.
const OFTEN: [(&str, usize); 21] = [
    ("distributing", 3),
    ("pending", 4),
    ("ready", 4),
    ("go", 3),
    ("held", 3),
    ("paused", 7),
    ("verifying", 5),
    ("unpersisted", 4),
    ("persisting", 8),
    ("persisted", 10),
    ("regressing", 15),
    ("regressed", 2),
    ("planned", 2),
    ("asked", 2),
    ("started", 2),
    ("wave", 2),
    ("election", 5),
    ("deposed", 6),
    ("standby", 7),
    ("voter", 4),
    ("publishing", 4),
];

/// How often losses are aimed at these steps; at the others once.
const LOSSES_OFTEN: [(&str, usize); 20] = [
    ("vetoed", 3),
    ("distributing", 3),
    ("held", 5),
    ("paused", 7),
    ("verifying", 5),
    ("unpersisted", 7),
    ("persisting", 10),
    ("regressing", 16),
    ("planned", 3),
    ("pending", 4),
    ("ready", 4),
    ("go", 4),
    ("started", 4),
    ("persisted", 14),
    ("regressed", 4),
    ("election", 6),
    ("deposed", 6),
    ("standby", 6),
    ("voter", 6),
    ("publishing", 5),
];

/// Users who crowd around a master that is to have what nobody else has.
const CROWD: usize = 6;

/// Aimed faults of a run. Most of them wait for a step that does not come.
const AIMED: usize = 14;
/// How many a loss may hit: the first of them that has anything to lose.
const VICTIMS: usize = 4;
/// From one aim to the next, so that a run's are at different steps. It shares no divisor with how many there are.
const STRIDE: usize = 37;

/// Pairs of a step and a fault at which what is durable, or who is master, is in doubt for a moment: more often than by chance, and at once.
const NARROW: [(&str, &str); 13] = [
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
    ("standby", "power-cut"),
];

/// Steps that a run comes to once or twice, if at all: faults wait for them from the beginning.
const SELDOM: [&str; 9] =
    ["held", "paused", "verifying", "unpersisted", "persisting", "persisted", "regressing", "standby", "voter"];

fn how_often(often: &[(&str, usize)], step: &str) -> usize {
    often.iter().find(|(other, _)| *other == step).map_or(1, |(_, times)| *times)
}

/// Each step as often as this says.
fn aims(often: &[(&str, usize)]) -> Vec<&'static str> {
    STEPS.iter().flat_map(|step| std::iter::repeat_n(*step, how_often(often, step))).collect()
}

/// One pair of a step and a kind of fault after the other: all of them, before one comes again; and those that follow each other have neither
/// in common.
fn pair(steps: &[&'static str], at: usize) -> (&'static str, &'static str) {
    let lap = at / steps.len();
    (steps[at % steps.len() * STRIDE % steps.len()], Fault::KINDS[(at + lap) % Fault::KINDS.len()])
}

/// What some runs have beside the faults that are aimed by turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// One of the narrow pairs.
    Narrow(usize),
    /// Two nodes take themselves for the master.
    TwoMasters,
    /// A master has what nobody else has, again and again.
    Unreplicated,
    /// Processes are started anew, and veto, while a node waits for the word to go.
    Crossing,
}

impl Scene {
    /// The scene of a run.
    pub fn draw(rng: &mut StdRng) -> Self {
        match rng.random_range(0..NARROW.len() + 6) {
            pair if pair < NARROW.len() => Self::Narrow(pair),
            other => [Self::TwoMasters, Self::Unreplicated, Self::Crossing][other % 3],
        }
    }

    /// How many more users crowd around the master.
    pub fn crowd(self) -> usize {
        if self == Self::Unreplicated { CROWD } else { 0 }
    }

    fn faults(self, rng: &mut StdRng, nodes: usize, millis: u64) -> Vec<Planned> {
        match self {
            Self::Narrow(pair) => vec![narrow(rng, pair, nodes, millis)],
            Self::TwoMasters => two_masters(rng, nodes, millis),
            Self::Unreplicated => unreplicated(rng, millis),
            Self::Crossing => crossing(rng, nodes, millis),
        }
    }
}

/// The turn of a run's first aim.
fn first_aim(seed: u64) -> usize {
    usize::try_from(seed).unwrap_or_default().wrapping_mul(AIMED)
}

/// The steps at which faults of a run are aimed by turns.
pub fn steps_of(seed: u64) -> BTreeSet<&'static str> {
    let (steps, first) = (aims(&OFTEN), first_aim(seed));
    (0..AIMED).map(|at| pair(&steps, first.wrapping_add(at)).0).collect()
}

/// Draws the faults of a run over so much time. What is aimed goes through all pairs of a step and a kind of fault, from seed to seed.
pub fn draw(rng: &mut StdRng, seed: u64, scene: Scene, nodes: usize, load: Duration) -> Vec<Planned> {
    let millis = u64::try_from(load.as_millis()).unwrap_or(1);
    let steps = aims(&OFTEN);
    let first = first_aim(seed);
    let mut planned: Vec<Planned> = (0..AIMED)
        .map(|at| {
            let (step, kind) = pair(&steps, first.wrapping_add(at));
            let after = after(rng, step, millis);
            let at_once = if how_often(&OFTEN, step) > 1 { 0.8 } else { 0.5 };
            let then = if rng.random_bool(at_once) { Duration::ZERO } else { Duration::from_millis(rng.random_range(0..120)) };
            Planned { when: When::Step { after, step, then }, fault: one(rng, kind, nodes) }
        })
        .collect();
    // A master is deposed only where something parts it from the others; and nothing can be one-way where links are held.
    let deposed = |planned: &&Planned| matches!(planned.when, When::Step { step: "deposed" | "election", .. });
    let one_way = |planned: &Planned| matches!(planned.fault, Fault::OneWay { .. });
    if planned.iter().any(|planned| deposed(&planned)) {
        let at = Duration::from_millis(rng.random_range(millis / 3..millis / 2));
        let (who, for_) = (Who::Master, Duration::from_millis(rng.random_range(1_500..4_000)));
        let parted =
            if planned.iter().filter(deposed).any(one_way) { Fault::OneWay { who, for_ } } else { Fault::CutOff { who, for_ } };
        planned.push(Planned { when: When::At(at), fault: parted });
    }
    planned.extend(losses(rng, seed, nodes, millis));
    planned.extend(scene.faults(rng, nodes, millis));
    for _ in 0..rng.random_range(0..3) {
        let at = Duration::from_millis(rng.random_range(0..millis));
        let kind = Fault::KINDS[rng.random_range(0..Fault::KINDS.len())];
        planned.push(Planned { when: When::At(at), fault: one(rng, kind, nodes) });
    }
    planned.sort_by_key(|planned| match planned.when {
        When::At(at) | When::Step { after: at, .. } => at,
    });
    planned
}

/// From when on a fault waits for its step.
fn after(rng: &mut StdRng, step: &str, millis: u64) -> Duration {
    if SELDOM.contains(&step) { Duration::ZERO } else { Duration::from_millis(rng.random_range(0..millis / 3)) }
}

/// One step after the other, and at each one kind of loss after the other.
fn loss_at(steps: &[&'static str], turn: usize) -> (&'static str, &'static str) {
    (steps[turn / Fault::LOSSES.len() * STRIDE % steps.len()], Fault::LOSSES[turn % Fault::LOSSES.len()])
}

/// The step at which a run is to lose something for good, and what kind of loss it is.
pub fn loss_of(seed: u64) -> (&'static str, &'static str) {
    loss_at(&aims(&LOSSES_OFTEN), usize::try_from(seed).unwrap_or_default())
}

fn losses(rng: &mut StdRng, seed: u64, nodes: usize, millis: u64) -> Vec<Planned> {
    let (step, kind) = loss_of(seed);
    let after = after(rng, step, millis);
    let then = if rng.random_bool(0.8) { Duration::ZERO } else { Duration::from_millis(rng.random_range(0..20)) };
    let when = When::Step { after, step, then };
    (0..VICTIMS).map(|_| Planned { when: when.clone(), fault: one(rng, kind, nodes) }).collect()
}

fn narrow(rng: &mut StdRng, pair: usize, nodes: usize, millis: u64) -> Planned {
    let (step, kind) = NARROW[pair];
    // What a node that has just come into Raft writes first takes it a while.
    let (after, latest) = if step == "standby" { (0, 12) } else { (rng.random_range(0..millis / 2), 4) };
    let (after, then) = (Duration::from_millis(after), Duration::from_millis(rng.random_range(0..latest) * 10));
    let mut fault = one(rng, kind, nodes);
    if let Fault::Killed { who, .. } | Fault::PowerCut { who, .. } | Fault::BitTurned { who, .. } = &mut fault
        && let Who::Node(node) = *who
    {
        *who = Who::Mover(node);
    }
    Planned { when: When::Step { after, step, then }, fault }
}

/// Two nodes say that they are master, and one that has no part in Raft and reaches both is started anew again and again, and has to find out
/// which it is.
fn two_masters(rng: &mut StdRng, nodes: usize, millis: u64) -> Vec<Planned> {
    let mut at = rng.random_range(0..millis / 2);
    let for_ = Duration::from_millis(rng.random_range(14_000..20_000));
    let mut planned = vec![Planned { when: When::At(Duration::from_millis(at)), fault: Fault::Apart { for_ } }];
    let who = Who::Node(last(nodes));
    at += 1_500;
    for _ in 0..6 {
        at += rng.random_range(1_500..2_500);
        let after = Duration::from_millis(rng.random_range(50..500));
        planned.push(Planned { when: When::At(Duration::from_millis(at)), fault: Fault::Killed { who, after } });
    }
    planned
}

/// The node that stays out of Raft where two are master.
pub fn last(nodes: usize) -> usize {
    nodes - 1
}

/// The processes of a node that is ready are killed, and those that start in their place may veto; what it says and hears is late meanwhile.
fn crossing(rng: &mut StdRng, nodes: usize, millis: u64) -> Vec<Planned> {
    let mut planned = Vec::new();
    for _ in 0..4 {
        let after = Duration::from_millis(rng.random_range(0..millis * 2 / 3));
        let who = Who::Mover(rng.random_range(0..nodes));
        let when = When::Step { after, step: "ready", then: Duration::ZERO };
        let most = Duration::from_millis(rng.random_range(500..3_000));
        planned.push(Planned { when: when.clone(), fault: Fault::Lossy { who, most, for_: Duration::from_secs(5) } });
        planned.push(Planned { when, fault: Fault::ProcessesKilled { who } });
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
        "processes-killed" => Fault::ProcessesKilled { who },
        "power-cut" => Fault::PowerCut { who, after },
        "master-killed" => Fault::Killed { who: Who::Master, after },
        "master-power-cut" => Fault::PowerCut { who: Who::Master, after },
        "partition" => {
            let mut all: Vec<usize> = (0..nodes).collect();
            all.shuffle(rng);
            all.truncate(rng.random_range(1..=(nodes - 1).max(1)));
            Fault::Partition { side: all.into_iter().collect(), for_: after }
        }
        "one-way" => Fault::OneWay { who, for_: after },
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
    fn each_loss_comes_up_at_each_step_as_often_as_it_should() {
        let steps = aims(&LOSSES_OFTEN);
        let mut met: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for turn in 0..steps.len() * Fault::LOSSES.len() {
            *met.entry(loss_at(&steps, turn)).or_default() += 1;
        }
        for step in STEPS {
            for kind in Fault::LOSSES {
                assert_eq!(met.get(&(step, kind)), Some(&how_often(&LOSSES_OFTEN, step)), "{kind} at {step}");
            }
        }
    }

    #[test]
    fn each_pair_of_a_step_and_a_kind_of_fault_comes_up_as_often_as_it_should() {
        let steps = aims(&OFTEN);
        let mut met: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for at in 0..steps.len() * Fault::KINDS.len() {
            *met.entry(pair(&steps, at)).or_default() += 1;
        }
        for step in STEPS {
            for kind in Fault::KINDS {
                assert_eq!(met.get(&(step, kind)), Some(&how_often(&OFTEN, step)), "{kind} at {step}");
            }
        }
    }
}
