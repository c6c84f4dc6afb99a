//! What each node should have come to, in every update it has a part in.
//!
//! One idea: a directive follows from the record alone, so it states only what is committed, and whoever is master says the
//! same.

use std::collections::BTreeSet;

use tribune_messages::node::{Directive, Keep, Overruling, Want};
use tribune_raft_store::model::{
    Decision, NodeName, NodePlan, NodeProgress, OnFailure, Outcome, Phase, Span, Step, Update, UpdateId, UpdateKind,
};
use tribune_raft_store::record::Record;

/// What a node should have come to: one directive for each update that is open for it, and one for each of `known_open` (the
/// updates whose end it has not heard of) that is over for it. In order of their numbers.
pub fn directives(record: &Record, node: &NodeName, known_open: &BTreeSet<UpdateId>) -> Vec<Directive> {
    let has_part = |update: &Update| update.nodes.get(node).is_some_and(|progress| !progress.gone);
    let open = record.updates().values().filter(|update| !update.phase.ended() && has_part(update));
    let ids: BTreeSet<UpdateId> = open.map(|update| update.id).chain(known_open.iter().copied()).collect();
    ids.into_iter().filter_map(|id| directive(record, node, id)).collect()
}

fn directive(record: &Record, node: &NodeName, id: UpdateId) -> Option<Directive> {
    let over = |outcome, why: &str| Want::Ended { outcome, reason: Some(why.to_owned()) };
    let Some(update) = record.updates().get(&id) else {
        return Some(ending(id, over(Outcome::Aborted, "the cluster does not know this update any more")));
    };
    if let Phase::Queued { .. } | Phase::Planned = update.phase {
        return None;
    }
    if update.nodes.get(node).is_some_and(|progress| progress.gone && progress.changed) {
        // It left after its changeover: what runs there goes on.
        return None;
    }
    let Some(progress) = update.nodes.get(node).filter(|progress| !progress.gone) else {
        return Some(ending(id, over(Outcome::Aborted, "this node was left out")));
    };
    let plan = update.plan.as_ref().and_then(|plan| plan.nodes.get(node)).cloned().unwrap_or_default();
    let manifests = match update.phase {
        Phase::Ended { .. } => Vec::new(),
        _ => manifests(record, &plan),
    };
    Some(Directive {
        update: id,
        revision: update.plan.as_ref().map_or(0, |plan| plan.revision),
        round: progress.round,
        kind: update.request.kind,
        want: want(record, update, node, progress),
        plan,
        manifests,
        max_defer: update.request.options.max_defer,
        keep: if update.request.options.ephemeral { Keep::UntilRestart } else { Keep::Installed },
        overruled: overruled(update, node, progress),
    })
}

/// What a node that was removed should make of an update that is open there and has come to its end on it.
pub fn over_for_removed(update: UpdateId, outcome: Outcome, why: &str) -> Directive {
    ending(update, Want::Ended { outcome, reason: Some(why.to_owned()) })
}

/// The directive of an update that the node has no part in any more.
fn ending(update: UpdateId, want: Want) -> Directive {
    Directive {
        update,
        revision: 0,
        round: 0,
        kind: UpdateKind::Install,
        want,
        plan: NodePlan::default(),
        manifests: Vec::new(),
        max_defer: Span::from_millis(0),
        keep: Keep::Installed,
        overruled: Vec::new(),
    }
}

/// The manifests of the packages that a node changes to.
fn manifests(record: &Record, plan: &NodePlan) -> Vec<String> {
    let ids: BTreeSet<_> = plan.changes.iter().filter_map(|change| change.to).collect();
    ids.iter().filter_map(|id| record.packages().get(id)).map(|package| package.text.clone()).collect()
}

/// What a node should have come to, by where the update is and how far the node.
fn want(record: &Record, update: &Update, name: &NodeName, node: &NodeProgress) -> Want {
    if let Some(outcome) = update.own_end(node) {
        return Want::Ended { outcome, reason: node.failure.clone().or_else(|| update.reason.clone()) };
    }
    match &update.phase {
        Phase::Queued { .. } | Phase::Planned => Want::Hold,
        Phase::Asking | Phase::Vetoed if node.step < Step::Voted => Want::Voted,
        // After a late veto the rest is asked again, and what has changed over stays.
        Phase::Asking | Phase::Vetoed => has_begun(node),
        Phase::Distributing if node.step < Step::Staged => Want::Staged,
        Phase::Distributing => Want::Hold,
        Phase::Paused { .. } if node.step < Step::Go => Want::Hold,
        Phase::Wave { wave } | Phase::Paused { wave, .. } => in_wave(record, update, *wave, name, node),
        Phase::Ended { outcome } => Want::Ended { outcome: *outcome, reason: update.reason.clone() },
        Phase::Verifying | Phase::Unpersisted | Phase::Persisting if node.step == Step::Failed && node.changed => {
            back_from_lost(record, update, name, node)
        }
        Phase::Held { .. } | Phase::Verifying | Phase::Unpersisted => has_begun(node),
        Phase::Persisting if node.step == Step::Settled => Want::Persisted,
        Phase::Persisting => Want::Hold,
        Phase::Regressing if node.changed && node.step != Step::Regressed => regress(update, node),
        Phase::Regressing => Want::Hold,
    }
}

/// A node that may have begun goes through with it; any other waits.
fn has_begun(node: &NodeProgress) -> Want {
    match node.step {
        Step::Go | Step::Started | Step::Settled => Want::Settled,
        _ => Want::Hold,
    }
}

fn in_wave(record: &Record, update: &Update, wave: u32, name: &NodeName, node: &NodeProgress) -> Want {
    let waves = update.plan.iter().flat_map(|plan| &plan.waves);
    let has_come = waves.take(wave as usize + 1).any(|nodes| nodes.contains(name));
    match node.step {
        Step::Go | Step::Started | Step::Settled | Step::Persisted => Want::Settled,
        Step::Failed if node.changed && update.request.options.on_failure == OnFailure::RegressNode => {
            back_from_lost(record, update, name, node)
        }
        Step::Regressed | Step::Failed | Step::Away => Want::Hold,
        _ if !has_come => Want::Hold,
        Step::Planned | Step::Asked => Want::Voted,
        Step::Voted => Want::Staged,
        Step::Staged | Step::Pending | Step::Ready => Want::Ready,
    }
}

/// A node that was taken for lost after its go, and without which the others went on: when it is back, it goes back. Where
/// its data cannot, it stays as it is.
fn back_from_lost(record: &Record, update: &Update, name: &NodeName, node: &NodeProgress) -> Want {
    if record.cannot_go_back_on(update, name) { Want::Hold } else { regress(update, node) }
}

fn regress(update: &Update, node: &NodeProgress) -> Want {
    let why = update.reason.clone().or_else(|| node.failure.clone());
    Want::Regressed { why: why.unwrap_or_else(|| "the update is taken back".to_owned()) }
}

/// The vetoes on a node that a user went past, by a decision or from the start.
fn overruled(update: &Update, node: &NodeName, progress: &NodeProgress) -> Vec<Overruling> {
    let mut all: Vec<Overruling> = Vec::new();
    for taken in &update.decisions {
        let Decision::Force { why } = &taken.decision else { continue };
        for (_, process) in taken.overruled.iter().filter(|(name, _)| name == node) {
            all.push(Overruling { process: process.clone(), by: taken.by.name.clone(), why: why.clone() });
        }
    }
    if let Some(why) = &update.request.options.force {
        for ballot in progress.ballots.iter().filter(|ballot| ballot.overruled) {
            if !all.iter().any(|other| other.process == ballot.process) {
                all.push(Overruling { process: ballot.process.clone(), by: update.by.name.clone(), why: why.clone() });
            }
        }
    }
    all
}
