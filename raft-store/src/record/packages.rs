//! Packages that leave the store, and what keeps them there.
//!
//! One idea: what anybody may need to go on or to go back stays. What left is remembered by name and version, which stand for it for
//! ever.

use super::Record;
use super::apply::{About, At};
use crate::command::{Accepted, Rejection, Response};
use crate::model::{Author, EventKind, PackageId, Retired, Update};

/// The most that is named of what needs a package.
const MAX_NAMED: usize = 10;

impl Record {
    pub(super) fn remove_package(&mut self, at: At, id: PackageId, by: &Author) -> Response {
        let package = self.packages.get(&id).ok_or(Rejection::UnknownPackage { package: id })?;
        let (name, version) = (package.manifest.name.clone(), package.manifest.version.clone());
        let mut needed_by = self.needed_by(&id);
        if !needed_by.is_empty() {
            let more = needed_by.len().saturating_sub(MAX_NAMED);
            needed_by.truncate(MAX_NAMED);
            if more > 0 {
                needed_by.push(format!("and {more} more"));
            }
            return Err(Rejection::Pinned { package: format!("{name} {version}"), needed_by });
        }
        self.packages.remove(&id);
        let text = format!("{} removed {name} {version} from the package store", by.name);
        self.retired.put(id, Retired { name, version, at: at.time });
        self.note(at, EventKind::PackageRemoved, About::default(), text);
        Ok(Accepted::Done)
    }

    /// What needs a package to stay in the store, one sentence each; nothing: it may leave.
    pub fn needed_by(&self, id: &PackageId) -> Vec<String> {
        let mut found = Vec::new();
        for (name, node) in self.nodes.iter() {
            let has = |packages: &std::collections::BTreeMap<_, PackageId>| packages.values().any(|other| other == id);
            if has(&node.current.packages) || has(node.packages()) {
                found.push(format!("node {name} has it"));
            } else if node.kept.values().any(|generation| has(&generation.packages)) {
                found.push(format!("node {name} can go back to it"));
            } else if has(&node.should) {
                found.push(format!("node {name} should have it"));
            }
        }
        let classes = self.classes.iter().filter(|(_, class)| class.should.values().any(|other| other == id));
        found.extend(classes.map(|(name, _)| format!("nodes of class {name} should have it")));
        let open = self.updates.values().filter(|update| !update.phase.ended() && names(update, id));
        found.extend(open.map(|update| format!("{} is open and changes it", update.id)));
        found
    }
}

/// Whether an update installs, replaces or was asked for a package.
fn names(update: &Update, id: &PackageId) -> bool {
    let targets = &update.request.targets;
    let mut asked = targets.nodes.values().chain(targets.classes.values()).flatten();
    let mut changes = update.plan.iter().flat_map(|plan| plan.nodes.values()).flat_map(|node| &node.changes);
    asked.any(|other| other == id) || changes.any(|change| change.to == Some(*id) || change.from == Some(*id))
}
