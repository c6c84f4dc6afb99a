//! A node that is at rest runs exactly what is installed, or what an ephemeral update runs in its place (claims 8, 11 and 14).

use std::collections::BTreeSet;

use tribune_agent::launch::ChildLabel;

use super::Invariant;
use crate::history::History;
use crate::machine::Phase;
use crate::seen::Seen;

#[derive(Debug)]
pub struct PersistentRuns;

impl Invariant for PersistentRuns {
    fn name(&self) -> &'static str {
        "persistent-runs"
    }

    fn sentence(&self) -> &'static str {
        "At rest, a node runs exactly the modules of its generation, or of the ephemeral update in its place."
    }

    fn at_rest(&mut self, seen: &Seen, _: &History) -> Result<(), String> {
        for node in seen.nodes.iter().filter(|node| seen.is_member(&node.name)) {
            let Some(standing) = &node.standing else { return Err(format!("{} does not run", node.name)) };
            if !standing.updates.is_empty() {
                continue;
            }
            let should = standing.ephemeral.as_ref().map_or(&standing.current.modules, |ephemeral| &ephemeral.modules);
            let should: BTreeSet<(String, String)> =
                should.iter().map(|(key, signature)| (key.clone(), signature.to_string())).collect();
            let mut runs = BTreeSet::new();
            for (id, kid) in &node.machine.lock().kids {
                let gone = matches!(kid.phase, Phase::Stopped { .. });
                if let (false, Ok(label)) = (gone, kid.spec.label.parse::<ChildLabel>()) {
                    runs.insert((id.key.clone(), label.signature.to_string()));
                }
            }
            if should != runs {
                return Err(format!("{} should run {should:?} and runs {runs:?}", node.name));
            }
        }
        Ok(())
    }
}
