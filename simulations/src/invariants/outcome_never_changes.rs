//! What is over stays over, as it ended (DESIGN, section 2: only `apply` moves an update's phase).

use super::Invariant;
use crate::history::History;
use crate::seen::Seen;

#[derive(Debug)]
pub struct OutcomeNeverChanges;

impl Invariant for OutcomeNeverChanges {
    fn name(&self) -> &'static str {
        "outcome-never-changes"
    }

    fn sentence(&self) -> &'static str {
        "An update that has ended stays as it ended; what users read agrees with one order of all calls."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for (id, update) in seen.updates() {
            if let Some(was) = seen.was(id).filter(|was| was.phase.ended() && was.phase != update.phase) {
                return Err(format!("{id} had ended as {}, and is {}", was.phase, update.phase));
            }
        }
        Ok(())
    }

    fn at_rest(&mut self, _: &Seen, history: &History) -> Result<(), String> {
        history.contradiction().map_or(Ok(()), Err)
    }
}
