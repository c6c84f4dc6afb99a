//! What must hold, whatever happens: one file for each, with its sentence and where it comes from.
//!
//! One idea: an invariant sees the cluster from outside of time, each step, and says what is wrong in words.

mod all_asked;
mod all_or_nothing;
mod applied_only_grows;
mod ballots_are_true;
mod barrier;
mod bytes_match;
mod carried_out_once;
mod committed_stays;
mod copies_agree;
mod decided_as_seen;
mod ephemeral_is_not_kept;
mod fence_only_rises;
mod left_behind;
mod logs_match;
mod nothing_lost;
mod one_master_a_term;
mod one_outcome;
mod one_update_a_node;
mod outcome_never_changes;
mod persistent_runs;
mod published_on_majority;
mod regress_is_complete;
mod regress_needs_no_network;
mod restart_runs_what_held;
mod should_have;
mod software_called_for;
mod staged_is_sound;
mod term_only_rises;
mod tombstones_hold;
mod veto_is_heard;
mod veto_stops_all;
mod voters_hold_store;

use crate::history::History;
use crate::seen::Seen;

/// One thing that must hold.
pub trait Invariant {
    /// Its name, as tables have it.
    fn name(&self) -> &'static str;

    /// Its sentence.
    fn sentence(&self) -> &'static str;

    /// Whether it need be looked at only when the record has moved.
    fn only_of_record(&self) -> bool {
        false
    }

    /// Looks at each step.
    ///
    /// # Errors
    /// What is wrong.
    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        let _ = seen;
        Ok(())
    }

    /// Looks once more when all is healed and quiet.
    ///
    /// # Errors
    /// What is wrong.
    fn at_rest(&mut self, seen: &Seen, history: &History) -> Result<(), String> {
        let _ = (seen, history);
        Ok(())
    }
}

/// All of them.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(one_master_a_term::OneMasterATerm::default()),
        Box::new(copies_agree::CopiesAgree::default()),
        Box::new(committed_stays::CommittedStays::default()),
        Box::new(applied_only_grows::AppliedOnlyGrows::default()),
        Box::new(term_only_rises::TermOnlyRises::default()),
        Box::new(one_update_a_node::OneUpdateANode),
        Box::new(barrier::Barrier),
        Box::new(veto_stops_all::VetoStopsAll),
        Box::new(veto_is_heard::VetoIsHeard),
        Box::new(software_called_for::SoftwareCalledFor::default()),
        Box::new(bytes_match::BytesMatch::default()),
        Box::new(ballots_are_true::BallotsAreTrue),
        Box::new(all_asked::AllAsked),
        Box::new(one_outcome::OneOutcome),
        Box::new(outcome_never_changes::OutcomeNeverChanges),
        Box::new(all_or_nothing::AllOrNothing),
        Box::new(regress_is_complete::RegressIsComplete),
        Box::new(ephemeral_is_not_kept::EphemeralIsNotKept),
        Box::new(left_behind::LeftBehind),
        Box::new(tombstones_hold::TombstonesHold),
        Box::new(should_have::ShouldHave),
        Box::new(nothing_lost::NothingLost),
        Box::new(published_on_majority::PublishedOnMajority),
        Box::new(voters_hold_store::VotersHoldStore),
        Box::new(carried_out_once::CarriedOutOnce),
        Box::new(fence_only_rises::FenceOnlyRises::default()),
        Box::new(decided_as_seen::DecidedAsSeen),
        Box::new(restart_runs_what_held::RestartRunsWhatHeld::default()),
        Box::new(staged_is_sound::StagedIsSound::default()),
        Box::new(logs_match::LogsMatch::default()),
        Box::new(regress_needs_no_network::RegressNeedsNoNetwork::default()),
        Box::new(persistent_runs::PersistentRuns),
    ]
}
