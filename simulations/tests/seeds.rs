//! Three hundred seeds, in which everything holds; and the same seed makes the same run, to the last event, in two processes.
//! They are the longest tests by far: in parts, so that no core is without one in the end.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use tribune_simulations::sweep::{Line, sweep_with};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tribune-simulations");

/// One after the other: the tests of this file run side by side.
fn play(seeds: Range<u64>) -> Vec<Line> {
    sweep_with(Path::new(PROGRAM), seeds, 1, None, |_| {}).expect("runs are started")
}

fn hold(seeds: Range<u64>) -> Vec<Line> {
    let lines = play(seeds);
    let bad: Vec<_> = lines.iter().filter(|line| line.violation.is_some()).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let idle: Vec<_> = lines.iter().filter(|line| line.hash.is_empty() || line.updates < 2).map(|line| line.seed).collect();
    assert!(idle.is_empty(), "nothing happened with seeds {idle:?}");
    lines
}

fn hold_and_come_out_the_same(seeds: Range<u64>) {
    let hashes = |lines: Vec<Line>| lines.into_iter().map(|line| (line.seed, line.hash)).collect::<BTreeMap<_, _>>();
    assert_eq!(hashes(hold(seeds.clone())), hashes(play(seeds)));
}

#[test]
fn seeds_1_to_25_hold_and_come_out_the_same_in_another_process() {
    hold_and_come_out_the_same(1..26);
}

#[test]
fn seeds_26_to_50_hold_and_come_out_the_same_in_another_process() {
    hold_and_come_out_the_same(26..51);
}

#[test]
fn seeds_51_to_100_hold() {
    hold(51..101);
}

#[test]
fn seeds_101_to_150_hold() {
    hold(101..151);
}

#[test]
fn seeds_151_to_200_hold() {
    hold(151..201);
}

#[test]
fn seeds_201_to_250_hold() {
    hold(201..251);
}

#[test]
fn seeds_251_to_275_hold() {
    hold(251..276);
}

#[test]
fn seeds_276_to_300_hold() {
    hold(276..301);
}
