//! A standby is promoted only when it holds every blob that the store keeps (DESIGN, section 3).

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug)]
pub struct VotersHoldStore;

impl Invariant for VotersHoldStore {
    fn name(&self) -> &'static str {
        "voters-hold-store"
    }

    fn sentence(&self) -> &'static str {
        "A node that becomes a voter has every module of the package store on disk."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        let Some(before) = &seen.before else { return Ok(()) };
        for name in seen.new_voters() {
            // What it had is gone with its disk, and nobody can know yet.
            if seen.has_lost_disk(&name) {
                continue;
            }
            for package in before.state.packages().values() {
                if let Some(module) = package.manifest.modules.iter().find(|module| !seen.holds(&name, &module.signature)) {
                    return Err(format!("{name} is a voter, and lacks {} of {}", module.name, package.manifest.name));
                }
            }
        }
        Ok(())
    }
}
