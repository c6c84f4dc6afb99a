//! A decision is about the ballots that its user saw (DESIGN, section 5: a decision names the revision of the ballots).

use super::Invariant;
use crate::seen::{Seen, index};

#[derive(Debug)]
pub struct DecidedAsSeen;

impl Invariant for DecidedAsSeen {
    fn name(&self) -> &'static str {
        "decided-as-seen"
    }

    fn sentence(&self) -> &'static str {
        "A decision is taken only while the ballots are those that its user saw."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        let (Some(before), Some(now)) = (&seen.before, &seen.truth) else { return Ok(()) };
        // With more than one entry between two looks, the ballots may have changed in between.
        if index(now) != index(before) + 1 {
            return Ok(());
        }
        for (id, update) in seen.updates() {
            let Some(was) = seen.was(id) else { continue };
            for decision in update.decisions.iter().skip(was.decisions.len()) {
                if decision.ballot_revision != was.ballot_revision {
                    return Err(format!(
                        "{id} was decided by ballots of revision {}, and they are at {}",
                        decision.ballot_revision, was.ballot_revision
                    ));
                }
            }
        }
        Ok(())
    }
}
