//! The same seed makes the same run, to the last event, in two processes; and nothing is found in some seeds.

use std::collections::BTreeMap;
use std::path::Path;

use tribune_simulations::sweep::{Line, one, sweep_with};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tribune-simulations");

fn run(seed: u64) -> Line {
    one(Path::new(PROGRAM), seed, &[], None).expect("a run is started")
}

#[test]
fn the_same_seed_gives_the_same_trace_in_two_processes() {
    let seeds = 1..=2;
    let first: BTreeMap<u64, Line> = seeds.clone().map(|seed| (seed, run(seed))).collect();
    for seed in seeds {
        let (first, again) = (&first[&seed], run(seed));
        assert_eq!(first.violation, None, "seed {seed}");
        assert!(!first.hash.is_empty() && first.updates > 1, "seed {seed} did something: {first:?}");
        assert_eq!(first.hash, again.hash, "seed {seed}");
    }
}

#[test]
fn in_the_first_seeds_everything_holds() {
    let lines = sweep_with(Path::new(PROGRAM), 3..13, 2, None, |_| {}).expect("runs are started");
    let bad: Vec<_> = lines.iter().filter(|line| line.violation.is_some()).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}
