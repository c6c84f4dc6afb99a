//! The simulation finds bugs that are planted: some of them, with the first seeds. All of them take `make hunt`.

use std::path::Path;

use tribune_planted::Bug;
use tribune_simulations::sweep::one;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tribune-simulations");
/// With how many seeds each must be found here.
const SEEDS: u64 = 8;

/// The invariant that finds a bug first.
fn found_by(bug: Bug) -> String {
    for seed in 1..=SEEDS {
        let line = one(Path::new(PROGRAM), seed, &[], Some(bug)).expect("a run is started");
        if let Some((invariant, _)) = line.violation {
            return invariant;
        }
    }
    panic!("{SEEDS} seeds do not find {}", bug.name());
}

#[test]
fn an_apply_that_follows_a_hash_map_is_found_by_comparing_records() {
    assert_eq!(found_by(Bug::HashMapOrder), "copies-agree");
}

#[test]
fn two_updates_on_one_node_are_found() {
    assert_eq!(found_by(Bug::TwoUpdatesOnANode), "one-update-a-node");
}

#[test]
fn a_silence_that_is_written_down_as_consent_is_found() {
    assert_eq!(found_by(Bug::SilenceCountsAsAccept), "ballots-are-true");
}

#[test]
fn a_dependant_of_a_dependant_that_is_not_asked_is_found() {
    assert_eq!(found_by(Bug::DependantsNotTransitive), "all-asked");
}

#[test]
fn processes_that_never_hear_how_it_ended_are_found() {
    assert_eq!(found_by(Bug::OutcomeNotTold), "one-outcome");
}
