//! Which update goes before which: an update takes its nodes, its classes and the APIs it changes or needs.
//!
//! One idea: whether an update must wait follows from what is open now, so nothing is kept of a queue but the updates
//! themselves. They go in the order they came, but for a regress: it takes its nodes out of whatever holds them.

use tribune_planted::{Bug, planted};

use super::Record;
use super::apply::{About, At};
use crate::command::Rejection;
use crate::model::{ClassName, EventKind, LeftOut, NodeName, NodeProgress, Outcome, Phase, Step, Update, UpdateId, UpdateKind};

impl Record {
    /// The updates a queued one waits for now.
    pub fn waits_for(&self, update: &Update) -> Vec<UpdateId> {
        self.in_front_of(update)
    }

    /// The open updates that have to end before this one can begin.
    pub(super) fn in_front_of(&self, update: &Update) -> Vec<UpdateId> {
        if planted(Bug::TwoUpdatesOnANode) {
            return Vec::new();
        }
        let open = self.updates.values().filter(|other| other.id != update.id && !other.phase.ended());
        open.filter(|other| goes_before(other, update)).map(|other| other.id).collect()
    }

    /// A regress begins: it takes its nodes out of the updates that hold them.
    pub(super) fn take_nodes(&mut self, at: At, regress: UpdateId) -> Result<(), Rejection> {
        let update = self.update(regress)?;
        let wanted: Vec<NodeName> = update.plan.iter().flat_map(|plan| plan.nodes.keys().cloned()).collect();
        let others = self.updates.values().filter(|other| other.id != regress && has_begun(other));
        let held = |other: &Update| wanted.iter().filter(|name| other.holds(name)).cloned().collect::<Vec<_>>();
        let holders: Vec<_> = others.map(|other| (other.id, held(other))).filter(|(_, held)| !held.is_empty()).collect();
        for (holder, held) in holders {
            self.lose_nodes(at, holder, &held, regress)?;
        }
        Ok(())
    }

    fn lose_nodes(&mut self, at: At, holder: UpdateId, wanted: &[NodeName], regress: UpdateId) -> Result<(), Rejection> {
        let mut update = self.update(holder)?.clone();
        let taken = leave_out(&mut update, wanted, &LeftOut::ByRegress);
        let (phase, empty) = (update.phase.clone(), update.nodes.is_empty());
        let changed = taken.iter().any(|(_, progress)| progress.changed);
        self.updates.put(holder, update);
        for (name, progress) in &taken {
            let kind = if progress.changed { EventKind::NodeFailed } else { EventKind::Decision };
            self.note(at, kind, About::both(holder, name), format!("{regress} goes back on node {name}, which leaves {holder}"));
        }
        let why = || format!("{regress} took its last node");
        match phase {
            _ if empty && changed => self.end(at, holder, Outcome::Regressed, Some(why())),
            _ if empty => self.end(at, holder, Outcome::Aborted, Some(why())),
            // Its changeover there was for nothing: a user decides what becomes of the rest.
            Phase::Wave { wave } | Phase::Paused { wave, .. } if changed => self.hold(at, holder, wave),
            _ => self.work_out(at, holder),
        }
    }
}

/// Takes nodes out of an update that has begun, for this reason; gives what they had come to.
pub(super) fn leave_out<'a>(update: &mut Update, nodes: &'a [NodeName], why: &LeftOut) -> Vec<(&'a NodeName, NodeProgress)> {
    let taken: Vec<_> = nodes.iter().filter_map(|name| Some((name, update.nodes.remove(name)?))).collect();
    if let Some(plan) = &mut update.plan {
        plan.revision += 1;
        for (name, _) in &taken {
            plan.nodes.remove(*name);
            plan.left_out.insert((*name).clone(), why.clone());
            // A wave may become empty: the others keep their numbers.
            plan.waves.iter_mut().for_each(|wave| wave.retain(|other| other != *name));
        }
    }
    update.ballot_revision += 1;
    taken
}

/// Whether an update has begun and holds its nodes.
fn has_begun(update: &Update) -> bool {
    !matches!(update.phase, Phase::Queued { .. } | Phase::Planned | Phase::Ended { .. })
}

/// Whether an open update has to end, or another node of it to get on, before this one can begin.
fn goes_before(other: &Update, update: &Update) -> bool {
    let (back, other_back) = (is_regress(update), is_regress(other));
    match (back, other_back) {
        // A regress waits for an ordinary update only where that is in the middle of its changeover.
        (true, false) => other
            .nodes
            .iter()
            .any(|(name, progress)| is_changing(other, progress) && !other.over_for(name) && has_node(update, name)),
        (false, true) => share(other, update),
        _ => (other.id < update.id || has_begun(other)) && share(other, update),
    }
}

fn is_regress(update: &Update) -> bool {
    update.request.kind == UpdateKind::Regress
}

fn has_node(update: &Update, name: &NodeName) -> bool {
    update.plan.as_ref().is_some_and(|plan| plan.nodes.contains_key(name))
}

/// Whether a node is in the middle of its changeover, or of its way back: nobody can take it then.
fn is_changing(update: &Update, progress: &NodeProgress) -> bool {
    match update.phase {
        Phase::Regressing => progress.changed && !matches!(progress.step, Step::Regressed | Step::Failed),
        // What is not installed is taken back or persisted first.
        _ if update.request.options.ephemeral => progress.changed,
        _ => matches!(progress.step, Step::Go | Step::Started),
    }
}

/// Whether an update has its classes for itself. One that is not kept may run for days, and changes nothing that a class should have.
fn takes_classes(update: &Update) -> bool {
    !update.request.options.ephemeral
}

/// Whether two updates want a node or a class that only one may have, or an API that one of them changes.
fn share(a: &Update, b: &Update) -> bool {
    let both_class = |class: &ClassName| b.request.targets.classes.contains_key(class);
    if [a, b].into_iter().all(takes_classes) && a.request.targets.classes.keys().any(both_class) {
        return true;
    }
    let (Some(of_a), Some(of_b)) = (&a.plan, &b.plan) else { return false };
    let both = |name: &NodeName| of_b.nodes.contains_key(name) && !a.over_for(name) && !b.over_for(name);
    of_a.nodes.keys().any(both) || of_a.apis.conflict(&of_b.apis)
}
