//! An acknowledged submission is never lost while at most a minority of the voters is (DESIGN, section 3).

use super::Invariant;
use crate::history::History;
use crate::seen::Seen;

#[derive(Debug)]
pub struct NothingLost;

impl Invariant for NothingLost {
    fn name(&self) -> &'static str {
        "nothing-lost"
    }

    fn sentence(&self) -> &'static str {
        "Whatever was acknowledged to a user is in the record, and every package in it is in the store of a majority."
    }

    fn at_rest(&mut self, seen: &Seen, history: &History) -> Result<(), String> {
        let Some(truth) = &seen.truth else { return Err("there is no record".into()) };
        for update in history.acknowledged() {
            if !truth.state.updates().contains(&update) {
                return Err(format!("{update} was acknowledged, and is not in the record"));
            }
        }
        let voters = seen.voters();
        for package in history.published() {
            let Some(kept) = truth.state.packages().get(&package) else {
                return Err(format!("package {} was acknowledged, and is not in the record", package.short()));
            };
            for module in &kept.manifest.modules {
                let have = voters.iter().filter(|voter| seen.holds(voter, &module.signature)).count();
                if have * 2 <= voters.len() {
                    let title = format!("{} {}", kept.manifest.name, kept.manifest.version);
                    return Err(format!("{title} was acknowledged, and {have} of {} voters have it", voters.len()));
                }
            }
        }
        Ok(())
    }
}
