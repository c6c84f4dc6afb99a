//! No module starts that no committed plan or regress calls for (DESIGN, section 2: everything that matters is a Raft entry first).

use std::collections::{BTreeMap, BTreeSet};

use tribune_agent::launch::ChildLabel;
use tribune_raft_store::model::{Signature, Step};

use super::Invariant;
use crate::seen::Seen;

#[derive(Debug, Default)]
pub struct SoftwareCalledFor {
    /// By node: how many starts were looked at.
    looked: BTreeMap<String, usize>,
    /// By node: what was ever installed there, as its agent said.
    had: BTreeMap<String, BTreeSet<Signature>>,
}

impl Invariant for SoftwareCalledFor {
    fn name(&self) -> &'static str {
        "software-called-for"
    }

    fn sentence(&self) -> &'static str {
        "A module is started only where it is installed, or where an update's committed go calls for it."
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        let updates = seen.updates();
        for node in &seen.nodes {
            let had = self.had.entry(node.name.clone()).or_default();
            if let Some(standing) = &node.standing {
                had.extend(standing.current.modules.values());
                had.extend(standing.kept.values().flat_map(|kept| kept.modules.values()));
            }
            let inner = node.machine.lock();
            let looked = self.looked.entry(node.name.clone()).or_default();
            for started in &inner.started[*looked..] {
                let label: ChildLabel = started.label.parse().map_err(|error| format!("{}: {error}", node.name))?;
                let called = updates.values().filter(|update| {
                    update.nodes.iter().any(|(name, progress)| {
                        // The go of an update stays in its record as that something may have changed there.
                        name.as_str() == node.name && (progress.changed || progress.step >= Step::Go)
                    })
                });
                let planned = called
                    .filter_map(|update| update.plan.as_ref()?.nodes.iter().find(|(name, _)| name.as_str() == node.name))
                    .any(|(_, plan)| {
                        plan.modules.get(&started.child.key).is_some_and(|module| module.signature == label.signature)
                    });
                if !planned && !had.contains(&label.signature) {
                    return Err(format!(
                        "{} started {} {} at {:?}, and no update's go calls for it",
                        node.name, started.child, label.version, started.at
                    ));
                }
            }
            *looked = inner.started.len();
        }
        Ok(())
    }
}
