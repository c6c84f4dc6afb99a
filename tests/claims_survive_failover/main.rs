//! The claims hold also when the master dies in the middle: the updates of claims 1, 5, 8, 9, 17 and 19, each once without a failure,
//! and once for each step at which the master is killed with SIGKILL. The new master brings them to the same end, and users and
//! processes are told the same.
//!
//! A step is held, not hit by chance: a process does not answer or is not ready until it is told to, a new version is not healthy
//! until a file is gone, a node's agent is stopped, the master holds back what it would say of its check. *Planned* is no step to be
//! killed at: an update leaves it in the entry of the log that brings it there. *Go* and *ready* of the whole update need every
//! node, so they are held on one node while the other waits. A regress is always rolled, so there no two are ready at once.

mod account;
mod claim;
mod story;

use anyhow::{Context, Result, ensure};

use crate::claim::Claim;
use crate::story::{Moment, Story};

/// Plays the claim's update without a failure, then with the master killed at each of these moments: each comes to the same.
fn survives(claim: Claim, moments: &[Moment]) -> Result<()> {
    let mut story = Story::begin(claim, moments)?;
    let expected = story.play(None).context("without a failure")?;
    claim.check(&expected).with_context(|| format!("without a failure: {expected:#?}"))?;
    for moment in moments {
        let with = || format!("the master killed at {moment:?}");
        let found = story.play(Some(*moment)).with_context(with)?;
        ensure!(found == expected, "{}: {}", with(), expected.difference(&found));
    }
    Ok(())
}

#[test]
fn claim_01_a_regress_to_a_version_that_no_node_holds_survives_the_master() -> Result<()> {
    use Moment::*;
    survives(Claim::Regress, &[Queued, Asked, Distributing, Pending, Go, Started, Settled, Verifying])
}

#[test]
fn claim_05_a_veto_and_its_reason_survive_the_master() -> Result<()> {
    use Moment::*;
    survives(Claim::Veto, &[Queued, Asked, Vetoed, Decided])
}

#[test]
fn claim_08_an_ephemeral_update_and_its_ready_barrier_survive_the_master() -> Result<()> {
    use Moment::*;
    let moments = [Queued, Asked, Distributing, Pending, Ready, Go, Started, Settled, Verifying, Unpersisted, Regressing];
    survives(Claim::Ephemeral, &moments)
}

#[test]
fn claim_09_the_checks_within_and_between_nodes_survive_the_master() -> Result<()> {
    use Moment::*;
    survives(Claim::Check, &[Queued, Asked, Distributing, Pending, Ready, Go, Started, Settled, Verifying])
}

#[test]
fn claim_17_one_veto_on_five_nodes_survives_the_master() -> Result<()> {
    use Moment::*;
    survives(Claim::VetoOfFive, &[Queued, Asked, Vetoed, Decided])
}

#[test]
fn claim_19_a_forced_update_and_what_the_overruled_is_told_survive_the_master() -> Result<()> {
    use Moment::*;
    survives(Claim::Force, &[Queued, Asked, Vetoed, Decided, Pending, Ready, Go, Started, Settled, Verifying])
}
