//! Drift: one node of a class that would differ from the others.

use std::collections::BTreeMap;

use tribune_raft_store::model::{Blocker, Class, ClassName, NodeName, NodePlan, UpdateKind};

use super::{Planner, Wanted};

impl Planner<'_> {
    /// A node that changes must change as its whole class does, or come to what its class should have.
    pub(super) fn drift(&mut self, wanted: &Wanted) {
        if self.request.options.allow_drift || self.request.kind == UpdateKind::Converge {
            return;
        }
        let mut classes: BTreeMap<ClassName, Vec<NodeName>> = BTreeMap::new();
        for name in self.plan.nodes.keys() {
            if let Some(class) = self.record.nodes().get(name).and_then(|node| node.class.clone()) {
                classes.entry(class).or_default().push(name.clone());
            }
        }
        for (class, nodes) in classes {
            let Some(class) = self.record.classes().get(&class) else { continue };
            self.plan.read.insert(format!("class/{}", class.name), class.version);
            let members = self.nodes_of(&class.name);
            let first = members.first().and_then(|name| wanted.get(name));
            if members.iter().all(|name| wanted.get(name) == first) {
                continue;
            }
            for node in nodes.into_iter().filter(|node| !self.plan.nodes.get(node).is_some_and(|plan| converges(plan, class))) {
                self.plan.blockers.push(Blocker::Drift { node, class: class.name.clone() });
            }
        }
    }
}

/// Whether everything that changes becomes what the class should have.
fn converges(plan: &NodePlan, class: &Class) -> bool {
    plan.changes.iter().all(|change| change.to.is_some() && class.should.get(&change.name) == change.to.as_ref())
}
