//! The plan: what a request would change, and everything that stands in its way.
//!
//! One idea: a plan is computed whole, with all its blockers at once, and lists the version of exactly what it read; so it
//! can be shown without doing anything, and committed only if it is still true.

mod boundaries;
mod change;
mod converge;
mod drift;
mod install;
mod publishers;
mod regress;
mod targets;
mod waves;

use std::collections::{BTreeMap, BTreeSet};

use tribune_raft_store::model::{
    Blocker, Discrepancy, LeftOut, NeedKey, Node, NodeName, PackageId, Plan, Update, UpdateKind, UpdateRequest,
};
use tribune_raft_store::record::Record;

use crate::installed::Installed;
use crate::liveness::Liveness;
use crate::needs::{self, Kind};
use change::Fate;

/// The most nodes that a sentence names.
const NAMED: usize = 5;

/// What a request would change. `master` is the node that is master now, which changes over last.
pub fn plan(record: &Record, request: &UpdateRequest, liveness: &Liveness, master: Option<&NodeName>) -> Plan {
    Planner::new(record, request, liveness).plan(None, None, master)
}

/// A new plan for an update: for a queued one whose turn has come, or with these nodes only (`Decision::Only`). Its
/// revision is one more than the one before.
pub fn plan_again(
    record: &Record,
    update: &Update,
    only: Option<&BTreeSet<NodeName>>,
    liveness: &Liveness,
    master: Option<&NodeName>,
) -> Plan {
    let mut plan = Planner::new(record, &update.request, liveness).plan(Some(update), only, master);
    plan.revision = update.plan.as_ref().map_or(1, |old| old.revision.saturating_add(1));
    plan
}

/// The packages that each node is to get.
type Wanted = BTreeMap<NodeName, BTreeSet<PackageId>>;

/// Where needs are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum World {
    /// What nodes have and run now.
    Now,
    /// What they have when all were restarted: only what is installed.
    AfterRestarts,
}

/// A plan while it is made.
struct Planner<'a> {
    record: &'a Record,
    request: &'a UpdateRequest,
    liveness: &'a Liveness,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn new(record: &'a Record, request: &'a UpdateRequest, liveness: &'a Liveness) -> Self {
        Self { record, request, liveness, plan: Plan { revision: 1, ..Plan::default() } }
    }

    fn plan(mut self, update: Option<&Update>, only: Option<&BTreeSet<NodeName>>, master: Option<&NodeName>) -> Plan {
        let wanted = self.targets();
        only.into_iter().for_each(|only| self.leave_out_unknown(only));
        let mut whole = self.plan.blockers.is_empty();
        for (name, packages) in &wanted {
            let Some(node) = self.record.nodes().get(name) else { continue };
            if let Some(why) = stays_out(update, only, name) {
                self.plan.left_out.insert(name.clone(), why);
                continue;
            }
            self.read_node(node);
            whole &= self.node(node, packages);
        }
        self.drift(&wanted);
        self.plan.waves = waves::waves(self.record, self.request.options.strategy, self.plan.nodes.keys(), master);
        if whole && !self.plan.nodes.is_empty() {
            self.check_needs();
        }
        if self.plan.nodes.is_empty() && self.plan.blockers.is_empty() {
            let what = self.why_nothing();
            self.plan.blockers.push(Blocker::NothingToDo { what });
        }
        self.plan
    }

    /// A node that was removed meanwhile, and that a decision leaves out, stands in no way.
    fn leave_out_unknown(&mut self, only: &BTreeSet<NodeName>) {
        let Plan { blockers, left_out, .. } = &mut self.plan;
        blockers.retain(|blocker| match blocker {
            Blocker::UnknownNode { node } if !only.contains(node) => {
                left_out.insert(node.clone(), LeftOut::ByDecision);
                false
            }
            _ => true,
        });
    }

    /// Plans one node; false if that could not be done.
    fn node(&mut self, node: &Node, packages: &BTreeSet<PackageId>) -> bool {
        let away = !self.liveness.is_connected(&node.name);
        if away && self.request.options.skip_away {
            self.plan.left_out.insert(node.name.clone(), LeftOut::Away);
            return true;
        }
        if node.is_apart() {
            if self.request.options.skip_away {
                self.plan.left_out.insert(node.name.clone(), LeftOut::Apart);
                return true;
            }
            self.plan.blockers.push(Blocker::Apart { node: node.name.clone() });
            return false;
        }
        let fate = match self.request.kind {
            UpdateKind::Install => self.install(node, packages),
            UpdateKind::Regress => self.regress(node, packages),
            UpdateKind::Converge => self.converge(node),
        };
        match fate {
            Ok(Fate::Changes(plan)) => {
                self.check_publishers(node, &plan);
                if away {
                    self.plan.blockers.push(Blocker::NodeAway { node: node.name.clone() });
                }
                self.plan.nodes.insert(node.name.clone(), plan);
                true
            }
            Ok(Fate::Nothing(why)) => {
                self.plan.left_out.insert(node.name.clone(), LeftOut::Unchanged(why));
                true
            }
            Err(blockers) => {
                self.plan.blockers.extend(blockers);
                false
            }
        }
    }

    fn read_node(&mut self, node: &Node) {
        self.plan.read.insert(format!("node/{}", node.name), node.version);
    }

    /// Needs that the plan breaks, on any node. What it installs counts on nothing that only runs until a restart.
    fn check_needs(&mut self) {
        let running = self.check_needs_of(World::Now, &BTreeSet::new());
        self.check_boundaries(&running);
        if !self.request.options.ephemeral {
            self.check_needs_of(World::AfterRestarts, &running);
        }
    }

    /// The same for one of the two. Those that are unmet already are not the plan's doing, and `known` ones were found before. Gives
    /// all that is unmet before or after.
    fn check_needs_of(&mut self, world: World, known: &BTreeSet<NeedKey>) -> BTreeSet<NeedKey> {
        let before = match world {
            World::Now => Installed::now(self.record),
            World::AfterRestarts => Installed::after_restarts(self.record),
        };
        let plans = self.plan.nodes.clone();
        let after = before.after(self.record, &plans);
        let was: BTreeSet<NeedKey> = needs::unmet(&before).iter().map(|(need, _)| NeedKey::from(need)).collect();
        let mut found = BTreeSet::new();
        for (mut need, kind) in needs::unmet(&after) {
            let key = NeedKey::from(&need);
            if was.contains(&key) || known.contains(&key) {
                continue;
            }
            found.insert(key);
            if world == World::AfterRestarts {
                need.found.push_str(" once nodes were restarted");
            }
            self.breaks(need, kind);
        }
        let touched = needs::touched_apis(&before, &after, plans.keys());
        if world == World::Now {
            self.plan.apis = needs::take(&before, &after, plans.keys());
        }
        for (name, modules) in &before.nodes {
            if modules.iter().any(|has| needs::apis_of(has).any(|api| touched.contains(api)))
                && let Some(node) = self.record.nodes().get(*name)
            {
                self.read_node(node);
            }
        }
        found.extend(was);
        found
    }

    /// The plan breaks a need: a blocker, unless the submitter accepts it by name.
    fn breaks(&mut self, need: Discrepancy, kind: Kind) {
        if kind == Kind::Module {
            let (node, module, needs) = (need.node, need.module, need.needs);
            self.plan.blockers.push(Blocker::Dependency { node, module, needs });
        } else if self.request.options.accept_discrepancies.iter().any(|api| api.as_str() == need.need_name()) {
            self.plan.accepted.push(need);
        } else {
            self.plan.blockers.push(Blocker::Need(need));
        }
    }

    fn why_nothing(&self) -> String {
        if self.plan.left_out.is_empty() {
            return "no node is named, or the classes have no nodes".to_owned();
        }
        let mut reasons: BTreeMap<&str, Vec<&NodeName>> = BTreeMap::new();
        for (node, why) in &self.plan.left_out {
            reasons.entry(why.as_str()).or_default().push(node);
        }
        let words = reasons.iter().map(|(why, nodes)| format!("{}: {why}", name_some(nodes)));
        words.collect::<Vec<_>>().join("; ")
    }
}

/// Why a node has no part in a new plan of an update, if it has none.
fn stays_out(update: Option<&Update>, only: Option<&BTreeSet<NodeName>>, name: &NodeName) -> Option<LeftOut> {
    let before = update.and_then(|update| update.plan.as_ref()?.left_out.get(name).cloned());
    if only.is_some_and(|only| !only.contains(name)) {
        // A decision is about who is in the update: whoever was left out before still is, for the same reason.
        return Some(before.unwrap_or(LeftOut::ByDecision));
    }
    // Whom a regress took does not come back into the update.
    before.filter(|why| *why == LeftOut::ByRegress)
}

fn name_some(nodes: &[&NodeName]) -> String {
    let named = nodes.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match nodes.len() {
        1 => format!("node {named}"),
        count if count > NAMED => format!("nodes {named} and {} more", count - NAMED),
        _ => format!("nodes {named}"),
    }
}
