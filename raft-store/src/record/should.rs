//! What nodes and classes should have, and how a node comes to it by itself.
//!
//! One idea: what should be is written down only when an update has ended well (or a node joins a class), so whatever
//! differs from it afterwards is drift; a node that drifted comes back by an update of its own, which asks as every other.

use std::collections::{BTreeMap, BTreeSet};

use super::Record;
use super::apply::At;
use crate::command::{Accepted, Rejection, Response};
use crate::model::{
    Attempts, Author, ClassName, Generation, LeftOut, NodeName, Outcome, PackageChange, PackageId, PackageName, Phase, Plan,
    RequestId, Step, Targets, Tombstone, TombstoneKey, Update, UpdateId, UpdateKind, UpdateOptions, UpdateRequest, WayBack,
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
        // Whoever came in the place of one that is there no more has had nothing of the update.
        for (name, progress) in update.nodes.iter().filter(|(_, progress)| !progress.gone) {
            match progress.step {
                Step::Settled | Step::Persisted if given => self.was_given(at, update, name),
                // A user went past it as away: it comes to what the others got when it is there. While others only ran that, it
                // was free for something else.
                Step::Away if given && !update.request.options.ephemeral => self.was_given(at, update, name),
                // It was taken for lost, and stays on what it changed to: that cannot go back.
                Step::Failed if given && progress.changed && self.cannot_go_back_on(update, name) => {
                    self.was_given(at, update, name)
                }
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
    fn was_given(&mut self, at: At, update: &Update, name: &NodeName) {
        let plan = update.plan.as_ref().and_then(|plan| plan.nodes.get(name));
        let changes = plan.map_or_else(Vec::new, |plan| plan.changes.clone());
        self.should_have(at, update, name, &changes);
        self.exhume(update, name, &changes);
    }

    /// What a node should have is what these changes come to.
    fn should_have(&mut self, at: At, update: &Update, name: &NodeName, changes: &[PackageChange]) {
        let Some(mut node) = self.nodes.get(name).cloned() else { return };
        for change in changes {
            match change.to {
                Some(id) => node.should.insert(change.name.clone(), id),
                None => node.should.remove(&change.name),
            };
            if let (UpdateKind::Regress, Some(package)) = (update.request.kind, change.from) {
                let key = TombstoneKey { package, node: name.clone() };
                self.tombstones.put(key, Tombstone { update: Some(update.id), at: at.time });
            }
        }
        node.converging = None;
        node.version = at.index;
        self.nodes.put(name.clone(), node);
    }

    /// What somebody wants on a node is not kept from it any more.
    fn exhume(&mut self, update: &Update, name: &NodeName, changes: &[PackageChange]) {
        let goes_back = |change: &&PackageChange| update.request.kind == UpdateKind::Regress && change.from.is_some();
        for package in changes.iter().filter(|change| !goes_back(change)).filter_map(|change| change.to) {
            self.tombstones.remove(&TombstoneKey { package, node: name.clone() });
        }
    }

    /// The same for a node that was not there to get it: it comes to it later, and does not cross a tombstone unless a user said so.
    fn will_come_to(&mut self, at: At, update: &Update, name: &NodeName, changes: &[PackageChange]) {
        self.should_have(at, update, name, changes);
        if update.request.options.again {
            self.exhume(update, name, changes);
        }
    }

    /// A node that was left out because it was away or apart should have what the others got: it comes to it when it is there.
    fn absent_should_have(&mut self, at: At, update: &Update) {
        let Some(plan) = update.plan.as_ref().filter(|_| update.request.kind == UpdateKind::Install) else { return };
        for name in plan.left_out.keys().filter(|name| was_absent(update, name)) {
            let Some(node) = self.nodes.get(name) else { continue };
            let targets = &update.request.targets;
            let by_class = node.class.as_ref().and_then(|class| targets.classes.get(class));
            let changes = self.to_these(targets.nodes.get(name).into_iter().chain(by_class).flatten());
            self.will_come_to(at, update, name, &changes);
        }
    }

    /// What was regressed on a node is not installed there again unless someone says so.
    pub(super) fn bury(&mut self, at: At, update: &Update, name: &NodeName) {
        let Some(plan) = update.plan.as_ref().filter(|_| update.way_back == WayBack::Meant) else { return };
        let packages = plan.nodes.get(name).into_iter().flat_map(|plan| &plan.changes).filter_map(|change| change.to);
        self.bury_all(at, name, packages.collect(), Some(update.id));
    }

    fn bury_all(&mut self, at: At, name: &NodeName, packages: BTreeSet<PackageId>, update: Option<UpdateId>) {
        if packages.is_empty() {
            return;
        }
        for package in packages {
            self.tombstones.put(TombstoneKey { package, node: name.clone() }, Tombstone { update, at: at.time });
        }
        // A plan that was made before knows nothing of them.
        if let Some(mut node) = self.nodes.get(name).cloned() {
            node.version = at.index;
            self.nodes.put(name.clone(), node);
        }
    }

    /// The same for what a node had, should have, and went back from by itself.
    pub(super) fn bury_what_it_left(&mut self, at: At, before: &Generation, name: &NodeName) {
        let Some(node) = self.nodes.get(name) else { return };
        let had = |package: &PackageName, id: &PackageId| {
            [before].into_iter().chain(node.kept.values()).any(|generation| generation.packages.get(package) == Some(id))
        };
        let left = node.should.iter().filter(|(package, id)| node.current.packages.get(*package) != Some(id) && had(package, id));
        let left = left.map(|(_, id)| *id).collect();
        self.bury_all(at, name, left, None);
    }

    fn classes_should_have(&mut self, at: At, update: &Update) {
        for (name, packages) in &update.request.targets.classes {
            let Some(mut class) = self.classes.get(name).cloned() else { continue };
            let members: Vec<NodeName> =
                self.nodes.values().filter(|node| node.class.as_ref() == Some(name)).map(|node| node.name.clone()).collect();
            let mut changes = match update.request.kind {
                UpdateKind::Install => self.to_these(packages),
                UpdateKind::Regress | UpdateKind::Converge => went_back_to(update, &members),
            };
            for change in &mut changes {
                change.from = class.should.get(&change.name).copied();
                match change.to {
                    Some(id) => class.should.insert(change.name.clone(), id),
                    None => class.should.remove(&change.name),
                };
            }
            for member in members.iter().filter(|member| follows_class(update, member)) {
                self.follow_class(at, update, member, &changes);
            }
            class.version = at.index;
            self.classes.put(name.clone(), class);
        }
    }

    /// A node that had no part in an update of its class goes on with the class, where it should have had what the class had.
    fn follow_class(&mut self, at: At, update: &Update, name: &NodeName, of_class: &[PackageChange]) {
        let Some(node) = self.nodes.get(name) else { return };
        let same = |change: &&PackageChange| change.from != change.to && node.should.get(&change.name) == change.from.as_ref();
        let changes: Vec<PackageChange> = of_class.iter().filter(same).cloned().collect();
        if !changes.is_empty() {
            self.will_come_to(at, update, name, &changes);
        }
    }

    /// The changes that come to these packages, from whatever there is.
    fn to_these<'a>(&self, ids: impl IntoIterator<Item = &'a PackageId>) -> Vec<PackageChange> {
        let known = ids.into_iter().filter_map(|id| Some((self.packages.get(id)?.manifest.name.clone(), *id)));
        known.map(|(name, id)| PackageChange { name, from: None, to: Some(id) }).collect()
    }

    /// Counts the failed attempts of a node to come to what it should have.
    fn remember_attempt(&mut self, at: At, update: &Update, done: bool) {
        // Whoever came in the place of one that is there no more has not tried.
        let has_tried = |name: &&NodeName| update.nodes.get(*name).is_none_or(|progress| !progress.gone);
        for name in update.request.targets.nodes.keys().filter(has_tried) {
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

/// Whether a plan leaves a node out that would have a part in the update if it were there.
fn was_absent(update: &Update, name: &NodeName) -> bool {
    update.plan.as_ref().and_then(|plan| plan.left_out.get(name)).is_some_and(LeftOut::was_absent)
}

/// Whether a member of a class had no part in an update of it, and nobody wanted that: it came to the class, or in the place of another,
/// after the plan was made; or it was away.
fn follows_class(update: &Update, name: &NodeName) -> bool {
    match update.nodes.get(name) {
        Some(progress) => progress.gone || (progress.step == Step::Away && update.request.options.ephemeral),
        None => was_absent(update, name) || update.plan.as_ref().is_some_and(|plan| !plan.left_out.contains_key(name)),
    }
}

/// What the members of a class went back to, where they agree.
fn went_back_to(update: &Update, members: &[NodeName]) -> Vec<PackageChange> {
    let mut to: BTreeMap<PackageName, BTreeSet<Option<PackageId>>> = BTreeMap::new();
    for name in members {
        let settled = update.nodes.get(name).is_some_and(|progress| progress.step == Step::Settled);
        let plan = update.plan.as_ref().and_then(|plan| plan.nodes.get(name)).filter(|_| settled);
        for change in plan.into_iter().flat_map(|plan| &plan.changes) {
            to.entry(change.name.clone()).or_default().insert(change.to);
        }
    }
    let agreed = |(name, to): (PackageName, BTreeSet<Option<PackageId>>)| {
        (to.len() == 1).then(|| to.first().map(|to| PackageChange { name, from: None, to: *to }))?
    };
    to.into_iter().filter_map(agreed).collect()
}
