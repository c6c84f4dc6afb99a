//! Which nodes a request is for, and which packages each is to get.

use std::collections::BTreeSet;

use tribune_raft_store::model::{Blocker, ClassName, NodeName, PackageId};

use super::{Planner, Wanted};

impl Planner<'_> {
    /// The packages each node is to get: what is said of itself, and of its class. What is not known becomes a blocker.
    pub(super) fn targets(&mut self) -> Wanted {
        let targets = &self.request.targets;
        let mut wanted = Wanted::new();
        for (name, packages) in &targets.nodes {
            if self.record.nodes().contains(name) {
                wanted.entry(name.clone()).or_default().extend(packages);
            } else {
                self.plan.blockers.push(Blocker::UnknownNode { node: name.clone() });
            }
        }
        for (name, packages) in &targets.classes {
            let Some(class) = self.record.classes().get(name) else {
                self.plan.blockers.push(Blocker::UnknownClass { class: name.clone() });
                continue;
            };
            self.plan.read.insert(format!("class/{name}"), class.version);
            for node in self.nodes_of(name) {
                wanted.entry(node).or_default().extend(packages);
            }
        }
        let named: BTreeSet<PackageId> = targets.nodes.values().chain(targets.classes.values()).flatten().copied().collect();
        for package in named.into_iter().filter(|id| !self.record.packages().contains(id)) {
            self.plan.blockers.push(Blocker::UnknownPackage { package });
        }
        wanted
    }

    /// The nodes of a class.
    pub(super) fn nodes_of(&self, class: &ClassName) -> Vec<NodeName> {
        let nodes = self.record.nodes().values().filter(|node| node.class.as_ref() == Some(class));
        nodes.map(|node| node.name.clone()).collect()
    }
}
