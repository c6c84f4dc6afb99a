//! What nodes and classes should have, and how a node comes to it by itself.
//!
//! One idea: what should be is written down only when an update has ended well (or a node joins a class), so whatever
//! differs from it afterwards is drift; a node that drifted comes back by an update of its own, which asks as every other.

use std::collections::{BTreeMap, BTreeSet};

use super::Record;
use super::apply::At;
use crate::command::{Accepted, Rejection, Response};
use crate::model::{
    Attempts, Author, ClassName, LEFT_OUT_APART, LEFT_OUT_AWAY, NodeName, Outcome, PackageId, PackageName, Phase, Plan,
    RequestId, Step, Targets, Tombstone, TombstoneKey, Update, UpdateKind, UpdateOptions, UpdateRequest, WayBack,
};

/// Who begins an update that brings a node to what it should have.
const ITSELF: &str = "tribune";

impl Record {
    /// A node that is not what it should be begins to come to it.
    pub(super) fn converge(&mut self, at: At, name: &NodeName, plan: &Plan) -> Response {
        let node = self.node(name)?;
        let held = self.updates.values().any(|update| !update.phase.ended() && update.holds(name));
        if held || node.is_apart() || node.has_what_it_should() || !plan.blockers.is_empty() || plan.nodes.keys().ne([name]) {
            return Err(Rejection::Outdated);
        }
        let packages = node.should.values().copied().collect();
        let accepted = plan.accepted.iter().filter_map(|need| need.need_name().parse().ok()).collect();
        let request = UpdateRequest {
            kind: UpdateKind::Converge,
            targets: Targets { nodes: BTreeMap::from([(name.clone(), packages)]), ..Targets::default() },
            options: UpdateOptions { accept_discrepancies: accepted, ..UpdateOptions::default() },
        };
        let by = Author { key: node.key, name: ITSELF.to_owned() };
        // Users choose theirs at random; this one follows from the log.
        let request_id = RequestId::new(u128::from(at.index).to_be_bytes());
        let text = |id| format!("{id} brings node {name} to what it should have");
        let update = self.open(at, request_id, request, plan.clone(), by, text)?;
        // One that waits would hold up what users want of the node: it is begun when nothing is in its way.
        if matches!(self.update(update)?.phase, Phase::Queued { .. }) {
            return Err(Rejection::Outdated);
        }
        Ok(Accepted::Update { update })
    }

    /// What an update that ended means for what its nodes and classes should have.
    pub(super) fn should_have_after(&mut self, at: At, update: &Update, outcome: Outcome) {
        let done = matches!(outcome, Outcome::Completed | Outcome::CompletedInPart | Outcome::CompletedWithDiscrepancies);
        // What a node should have is why it converges, and may have changed since it began to.
        let given = done && update.request.kind != UpdateKind::Converge;
        for (name, progress) in &update.nodes {
            match progress.step {
                Step::Settled | Step::Persisted if given => self.should_have(at, update, name),
                Step::Regressed if !update.request.options.ephemeral => self.bury(at, update, name),
                _ => {}
            }
        }
        if update.request.kind == UpdateKind::Converge {
            self.remember_attempt(at, update, done);
        } else if done {
            self.absent_should_have(at, update);
            self.classes_should_have(at, update);
        }
    }

    /// What a node that joins a class should have from then on.
    pub(super) fn should_have_of_class(&self, class: &ClassName) -> BTreeMap<PackageName, PackageId> {
        self.classes.get(class).map(|class| class.should.clone()).unwrap_or_default()
    }

    /// What a node should have is what it was given.
    fn should_have(&mut self, at: At, update: &Update, name: &NodeName) {
        let (Some(mut node), Some(plan)) = (self.nodes.get(name).cloned(), update.plan.as_ref()) else { return };
        for change in plan.nodes.get(name).into_iter().flat_map(|plan| &plan.changes) {
            match change.to {
                Some(id) => node.should.insert(change.name.clone(), id),
                None => node.should.remove(&change.name),
            };
            if let (UpdateKind::Regress, Some(package)) = (update.request.kind, change.from) {
                let key = TombstoneKey { package, node: name.clone() };
                self.tombstones.put(key, Tombstone { update: update.id, at: at.time });
            } else if let Some(package) = change.to {
                self.tombstones.remove(&TombstoneKey { package, node: name.clone() });
            }
        }
        node.converging = None;
        node.version = at.index;
        self.nodes.put(name.clone(), node);
    }

    /// A node that was left out because it was away or apart should have what the others got: it comes to it when it is there.
    fn absent_should_have(&mut self, at: At, update: &Update) {
        let Some(plan) = update.plan.as_ref().filter(|_| update.request.kind == UpdateKind::Install) else { return };
        for (name, why) in &plan.left_out {
            let Some(mut node) =
                self.nodes.get(name).filter(|_| [LEFT_OUT_AWAY, LEFT_OUT_APART].contains(&why.as_str())).cloned()
            else {
                continue;
            };
            let targets = &update.request.targets;
            let by_class = node.class.as_ref().and_then(|class| targets.classes.get(class));
            node.should.extend(self.by_name(targets.nodes.get(name).into_iter().chain(by_class).flatten()));
            node.converging = None;
            node.version = at.index;
            self.nodes.put(name.clone(), node);
        }
    }

    /// What was regressed on a node is not installed there again unless someone says so.
    pub(super) fn bury(&mut self, at: At, update: &Update, name: &NodeName) {
        let Some(plan) = update.plan.as_ref().filter(|_| update.way_back == WayBack::Meant) else { return };
        for package in plan.nodes.get(name).into_iter().flat_map(|plan| &plan.changes).filter_map(|change| change.to) {
            let key = TombstoneKey { package, node: name.clone() };
            self.tombstones.put(key, Tombstone { update: update.id, at: at.time });
        }
    }

    fn classes_should_have(&mut self, at: At, update: &Update) {
        for (name, packages) in &update.request.targets.classes {
            let Some(mut class) = self.classes.get(name).cloned() else { continue };
            let members: Vec<NodeName> =
                self.nodes.values().filter(|node| node.class.as_ref() == Some(name)).map(|node| node.name.clone()).collect();
            if update.request.kind == UpdateKind::Install {
                let new = self.by_name(packages);
                for member in members.iter().filter(|member| came_later(update, member)) {
                    self.follow_class(at, member, &class.should, &new);
                }
                class.should.extend(new);
            } else {
                for (package, to) in went_back_to(update, &members) {
                    match to {
                        Some(id) => class.should.insert(package, id),
                        None => class.should.remove(&package),
                    };
                }
            }
            class.version = at.index;
            self.classes.put(name.clone(), class);
        }
    }

    /// A node that should have what its class should have had so far goes on with its class.
    fn follow_class(
        &mut self,
        at: At,
        name: &NodeName,
        old: &BTreeMap<PackageName, PackageId>,
        new: &BTreeMap<PackageName, PackageId>,
    ) {
        let Some(mut node) = self.nodes.get(name).cloned() else { return };
        for (package, id) in new {
            if node.should.get(package) == old.get(package) {
                node.should.insert(package.clone(), *id);
            }
        }
        node.converging = None;
        node.version = at.index;
        self.nodes.put(name.clone(), node);
    }

    fn by_name<'a>(&self, ids: impl IntoIterator<Item = &'a PackageId>) -> BTreeMap<PackageName, PackageId> {
        let named = ids.into_iter().filter_map(|id| Some((self.packages.get(id)?.manifest.name.clone(), *id)));
        named.collect()
    }

    /// Counts the failed attempts of a node to come to what it should have.
    fn remember_attempt(&mut self, at: At, update: &Update, done: bool) {
        for name in update.request.targets.nodes.keys() {
            let Some(mut node) = self.nodes.get(name).cloned() else { continue };
            node.converging = (!done).then(|| Attempts {
                count: node.converging.as_ref().map_or(0, |attempts| attempts.count).saturating_add(1),
                since: at.time,
                why: update.reason.clone().unwrap_or_else(|| "it was called off".to_owned()),
            });
            node.version = at.index;
            self.nodes.put(name.clone(), node);
        }
    }
}

/// Whether a member of a class came to it after the update was planned, or in the place of one that was in it.
fn came_later(update: &Update, name: &NodeName) -> bool {
    let left_out = update.plan.as_ref().is_some_and(|plan| plan.left_out.contains_key(name));
    !left_out && update.nodes.get(name).is_none_or(|progress| progress.gone)
}

/// What the members of a class went back to, where they agree.
fn went_back_to(update: &Update, members: &[NodeName]) -> BTreeMap<PackageName, Option<PackageId>> {
    let mut to: BTreeMap<PackageName, BTreeSet<Option<PackageId>>> = BTreeMap::new();
    for name in members {
        let settled = update.nodes.get(name).is_some_and(|progress| progress.step == Step::Settled);
        let plan = update.plan.as_ref().and_then(|plan| plan.nodes.get(name)).filter(|_| settled);
        for change in plan.into_iter().flat_map(|plan| &plan.changes) {
            to.entry(change.name.clone()).or_default().insert(change.to);
        }
    }
    let agreed =
        |(name, to): (PackageName, BTreeSet<Option<PackageId>>)| (to.len() == 1).then(|| to.first().map(|to| (name, *to)))?;
    to.into_iter().filter_map(agreed).collect()
}
