//! An upload is acknowledged when its blobs are on disk in the package store of a majority of the voters (DESIGN, section 3).

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug)]
pub struct PublishedOnMajority;

impl Invariant for PublishedOnMajority {
    fn name(&self) -> &'static str {
        "published-on-majority"
    }

    fn sentence(&self) -> &'static str {
        "When a package is published, a majority of the voters has its modules on disk, or had it before a disk was lost."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        let (Some(before), Some(now)) = (&seen.before, &seen.truth) else { return Ok(()) };
        if before.state.packages().len() == now.state.packages().len() {
            return Ok(());
        }
        let voters = seen.voters();
        for (id, package) in now.state.packages().iter().filter(|(id, _)| !before.state.packages().contains(id)) {
            for module in &package.manifest.modules {
                // One that has lost its disk since had it when the order was given.
                let had = |voter: &&String| seen.holds(voter, &module.signature) || seen.has_lost_disk(voter);
                let have = voters.iter().filter(had).count();
                if have * 2 <= voters.len() {
                    let title = format!("{} {}", package.manifest.name, package.manifest.version);
                    return Err(format!("{title} ({}) is published, and {have} of {} voters have it", id.short(), voters.len()));
                }
            }
        }
        Ok(())
    }
}
