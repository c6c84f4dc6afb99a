//! `plan`: what an update does or would do.

use std::collections::BTreeMap;

use serde::Serialize;
use tribune_raft_store::model::{Blocker, Discrepancy, NodePlan, Plan, Unmet};

use super::fleet::texts;
use super::word;
use crate::names::Names;

/// A plan.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct PlanView {
    revision: u32,
    nodes: BTreeMap<String, NodePlanView>,
    waves: Vec<Vec<String>>,
    blockers: Vec<BlockerView>,
    accepted_discrepancies: Vec<DiscrepancyView>,
    left_out: BTreeMap<String, String>,
}

/// What changes on a node.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct NodePlanView {
    changes: Vec<ChangeView>,
    modules: BTreeMap<String, String>,
    from_local_storage: bool,
}

/// From which version of a package to which.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub(super) struct ChangeView {
    package: String,
    from: Option<String>,
    to: Option<String>,
}

/// Why a plan cannot be carried out.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct BlockerView {
    kind: String,
    text: String,
}

/// A need that is not met.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct DiscrepancyView {
    node: String,
    module: String,
    needs: String,
    found: String,
    scope: String,
}

/// A need that is not met now, in `unmet`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct UnmetView {
    #[serde(flatten)]
    need: DiscrepancyView,
    since_at: u64,
    update: Option<String>,
    accepted_by: Option<String>,
}

impl UnmetView {
    /// The view of an unmet need.
    pub fn of(unmet: &Unmet) -> Self {
        let Unmet { discrepancy, since, update, accepted_by } = unmet;
        Self {
            need: DiscrepancyView::of(discrepancy),
            since_at: since.0,
            update: update.as_ref().map(ToString::to_string),
            accepted_by: accepted_by.clone(),
        }
    }
}

impl PlanView {
    /// The view of a plan.
    pub fn of(plan: &Plan, names: &Names) -> Self {
        let Plan { revision, nodes, waves, blockers, accepted, left_out, read: _, apis: _ } = plan;
        let node = |plan: &NodePlan| NodePlanView {
            changes: changes(plan, names),
            modules: plan.modules.iter().map(|(name, module)| (name.clone(), module.signature.to_string())).collect(),
            from_local_storage: plan.local,
        };
        Self {
            revision: *revision,
            nodes: nodes.iter().map(|(name, plan)| (name.to_string(), node(plan))).collect(),
            waves: waves.iter().map(|wave| wave.iter().map(ToString::to_string).collect()).collect(),
            blockers: blockers.iter().map(blocker).collect(),
            accepted_discrepancies: accepted.iter().map(DiscrepancyView::of).collect(),
            left_out: texts(left_out),
        }
    }
}

/// What changes on a node, with versions for ids.
pub(super) fn changes(plan: &NodePlan, names: &Names) -> Vec<ChangeView> {
    let change = |change: &tribune_raft_store::model::PackageChange| ChangeView {
        package: change.name.to_string(),
        from: change.from.map(|id| names.version(&id)),
        to: change.to.map(|id| names.version(&id)),
    };
    plan.changes.iter().map(change).collect()
}

fn blocker(blocker: &Blocker) -> BlockerView {
    let kind = match blocker {
        Blocker::UnknownNode { .. } => "unknown_node",
        Blocker::UnknownClass { .. } => "unknown_class",
        Blocker::UnknownPackage { .. } => "unknown_package",
        Blocker::Revoked { .. } => "revoked",
        Blocker::TwoVersions { .. } => "two_versions",
        Blocker::Selection { .. } => "selection",
        Blocker::Dependency { .. } => "dependency",
        Blocker::Need(_) => "need",
        Blocker::UpgradeFrom { .. } => "upgrade_from",
        Blocker::Tombstone { .. } => "tombstone",
        Blocker::NodeAway { .. } => "node_away",
        Blocker::Apart { .. } => "apart",
        Blocker::Drift { .. } => "drift",
        Blocker::NothingToRegress { .. } => "nothing_to_regress",
        Blocker::Ephemeral { .. } => "ephemeral",
        Blocker::NothingToDo { .. } => "nothing_to_do",
    };
    BlockerView { kind: kind.into(), text: blocker.to_string() }
}

impl DiscrepancyView {
    /// The view of a discrepancy.
    pub fn of(discrepancy: &Discrepancy) -> Self {
        let Discrepancy { node, module, needs, found, scope } = discrepancy;
        Self { node: node.to_string(), module: module.clone(), needs: needs.clone(), found: found.clone(), scope: word(scope) }
    }
}
