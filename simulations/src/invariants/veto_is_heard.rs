//! A veto that a node has heard stops its own changeover, also where the go was committed before the master could hear of it (claim 17).

use std::time::Duration;

use super::Invariant;
use crate::seen::Seen;

/// What crosses on a connection in this time could not have been heard before.
const CROSSES: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct VetoIsHeard;

impl Invariant for VetoIsHeard {
    fn name(&self) -> &'static str {
        "veto-is-heard"
    }

    fn sentence(&self) -> &'static str {
        "No process that vetoed, and was not overruled, is told to hand over."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        for node in &seen.nodes {
            for ((process, update), told) in &node.machine.lock().told {
                let (Some(vetoed), Some(told_at)) = (told.vetoed_at, told.handed_over_at) else { continue };
                if !told.overruled && told_at >= vetoed + CROSSES {
                    return Err(format!(
                        "{process} on {} vetoed {update} at {vetoed:?}, and was told to hand over at {told_at:?}",
                        node.name
                    ));
                }
            }
        }
        Ok(())
    }
}
