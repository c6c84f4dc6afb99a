//! Nodes that are not what they should be: each comes to it by an update of its own, when it is there.
//!
//! One idea: what a node should have is in the record and what it has is too, so nothing needs to be remembered of why they
//! differ: it was away, it joined a class, or it could not go back at the time.

use std::collections::BTreeSet;

use tribune_raft_store::command::MasterCommand;
use tribune_raft_store::model::{
    ApiName, Blocker, ClassName, Node, NodeName, Plan, Targets, Update, UpdateKind, UpdateOptions, UpdateRequest,
};
use tribune_raft_store::record::{MAX_OPEN_UPDATES, Record};

use crate::due::command_would_move;
use crate::liveness::{Liveness, MasterClock};
use crate::plan::plan;
use crate::should::has_what_it_should;

/// How many nodes come to what they should have at a time. An update of each is open meanwhile, and of the thousand that may be
/// open most are for what users want.
const AT_ONCE: usize = 50;
/// How many there may be with those that wait for a user, as one does whose data cannot go back.
const MOST_OPEN: usize = MAX_OPEN_UPDATES / 2;

/// The nodes that may begin to come to what they should have now. Of a class one at a time, so that it goes on working. Those go
/// first that were not tried yet, then those whose last attempt is the longest ago.
pub(crate) fn converge(record: &Record, liveness: &Liveness, now: MasterClock, master: Option<&NodeName>) -> Vec<MasterCommand> {
    let open: Vec<&Update> = record.updates().values().filter(|update| !update.phase.ended()).collect();
    let converging = || open.iter().filter(|update| update.request.kind == UpdateKind::Converge);
    let on_their_way = converging().filter(|update| !update.phase.waits_for_user()).count();
    let room = AT_ONCE.saturating_sub(on_their_way).min(MOST_OPEN.saturating_sub(converging().count()));
    if room == 0 {
        return Vec::new();
    }
    let mut strayed: Vec<&Node> = record.nodes().values().filter(|node| may_begin(record, liveness, node, now)).collect();
    strayed.sort_by_key(|node| node.converging.as_ref().map(|attempts| attempts.since));
    let mut busy: BTreeSet<&ClassName> = classes_on_their_way(record, &open);
    let mut commands = Vec::new();
    for node in strayed {
        if commands.len() == room {
            break;
        }
        let class_is_busy = node.class.as_ref().is_some_and(|class| busy.contains(class));
        if class_is_busy || open.iter().any(|update| update.holds(&node.name)) {
            continue;
        }
        let plan = plan_for(record, node, liveness, master);
        let command = MasterCommand::Converge { node: node.name.clone(), plan };
        // One that is blocked, or would have to wait, takes nobody's place.
        if command_would_move(record, &command) {
            busy.extend(&node.class);
            commands.push(command);
        }
    }
    commands
}

/// When a node may try again that could not come to what it should have.
pub(crate) fn next_attempts(record: &Record, liveness: &Liveness) -> Vec<MasterClock> {
    let waits = |node: &Node| Some(liveness.converging.get(&node.name)?.began.after(node.converging.as_ref()?.pause()));
    record.nodes().values().filter(|node| strays(record, node)).filter_map(waits).collect()
}

/// Why a node that is not what it should be does not come to it, one sentence each; none if it is, or will.
pub fn stays_because(record: &Record, node: &Node, liveness: &Liveness, master: Option<&NodeName>) -> Vec<String> {
    if has_what_it_should(record, node) {
        return Vec::new();
    }
    let blockers = plan_for(record, node, liveness, master).blockers;
    let blockers = blockers.into_iter().filter(|blocker| !matches!(blocker, Blocker::NothingToDo { .. }));
    blockers.map(|blocker| blocker.to_string()).collect()
}

fn may_begin(record: &Record, liveness: &Liveness, node: &Node, now: MasterClock) -> bool {
    let rests = node.converging.as_ref().is_some_and(|attempts| {
        let began = liveness.converging.get(&node.name).map(|clock| clock.began);
        began.is_none_or(|began| now.since(began) < attempts.pause())
    });
    !rests && liveness.is_connected(&node.name) && strays(record, node)
}

/// Whether a node is not what it should be, and free to come to it.
fn strays(record: &Record, node: &Node) -> bool {
    !node.is_apart() && node.leaving.is_none() && node.ephemeral.is_none() && !has_what_it_should(record, node)
}

/// The classes of which a node is coming to what it should have.
fn classes_on_their_way<'a>(record: &'a Record, open: &[&Update]) -> BTreeSet<&'a ClassName> {
    let converging = open.iter().filter(|update| update.request.kind == UpdateKind::Converge);
    let nodes = converging.flat_map(|update| update.request.targets.nodes.keys().filter(|name| !update.over_for(name)));
    nodes.filter_map(|name| record.nodes().get(name)?.class.as_ref()).collect()
}

fn plan_for(record: &Record, node: &Node, liveness: &Liveness, master: Option<&NodeName>) -> Plan {
    let targets = Targets { nodes: [(node.name.clone(), node.should.values().copied().collect())].into(), ..Targets::default() };
    let accept_discrepancies = accepted(record);
    let options = UpdateOptions { accept_discrepancies, ..UpdateOptions::default() };
    plan(record, &UpdateRequest { kind: UpdateKind::Converge, targets, options }, liveness, master)
}

/// The needs that users accepted by name and that are unmet still: who comes late need not be accepted again.
fn accepted(record: &Record) -> BTreeSet<ApiName> {
    let accepted = record.unmet().values().filter(|unmet| unmet.accepted_by.is_some());
    accepted.filter_map(|unmet| unmet.discrepancy.need_name().parse().ok()).collect()
}
