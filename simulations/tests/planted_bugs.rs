//! The simulation finds bugs that are planted: some of them, with the first seeds. All of them take `make hunt`.

use std::path::Path;

use tribune_planted::Bug;
use tribune_simulations::sweep::one;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tribune-simulations");

fn finds(bug: Bug, seed: u64) -> (String, String) {
    let line = one(Path::new(PROGRAM), seed, &[], Some(bug)).expect("a run is started");
    line.violation.unwrap_or_else(|| panic!("seed {seed} does not find {}", bug.name()))
}

#[test]
fn an_apply_that_follows_a_hash_map_is_found_by_comparing_records() {
    assert_eq!(finds(Bug::HashMapOrder, 1).0, "copies-agree");
}

#[test]
fn two_updates_on_one_node_are_found() {
    assert_eq!(finds(Bug::TwoUpdatesOnANode, 1).0, "one-update-a-node");
}

#[test]
fn processes_that_are_not_asked_are_found() {
    assert_eq!(finds(Bug::DependantsNotTransitive, 1).0, "all-asked");
}
