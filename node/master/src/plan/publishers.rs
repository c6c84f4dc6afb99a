//! Whether what a plan brings to a node may come there: whoever published it may publish still.

use std::collections::BTreeSet;

use tribune_raft_store::model::{Blocker, Node, NodePlan, PackageId, UpdateKind};

use super::Planner;

impl Planner<'_> {
    /// The packages that come to a node and that it never had, of somebody who may not publish any more. Taking a publisher's right
    /// away stops nothing that runs, so it stands in no way of going back, nor of a node that comes back to what it had.
    pub(super) fn check_publishers(&mut self, node: &Node, plan: &NodePlan) {
        if self.request.kind == UpdateKind::Regress {
            return;
        }
        let had: BTreeSet<&PackageId> = match self.request.kind {
            UpdateKind::Converge => node.kept.values().flat_map(|kept| kept.packages.values()).collect(),
            UpdateKind::Install | UpdateKind::Regress => BTreeSet::new(),
        };
        let comes = plan.changes.iter().filter(|change| change.to != change.from).filter_map(|change| change.to);
        for id in comes.filter(|id| !had.contains(id)) {
            if let Some(blocker) = self.revoked(id).filter(|blocker| !self.plan.blockers.contains(blocker)) {
                self.plan.blockers.push(blocker);
            }
        }
    }

    fn revoked(&self, id: PackageId) -> Option<Blocker> {
        let key = &self.record.packages().get(&id)?.published_by;
        self.record.authorise(key).err()?;
        let by = self.record.role_of(key).map_or_else(|| format!("key {}", key.short()), |(_, name)| name);
        Some(Blocker::Revoked { package: self.title(&id), by })
    }
}
