//! What the master should now propose, and when it should ask again.
//!
//! One idea: nothing here waits. What time brings is computed from the record, from who is there, and from the time that is
//! passed in; [`next_wake`] tells when the answer could be another without anything else having happened.

use std::collections::{BTreeMap, BTreeSet};

use tribune_raft_store::command::{Body, Entry, MasterCommand};
use tribune_raft_store::model::{Blocker, NodeName, NodeProgress, Phase, Span, Step, Timestamp, Update};
use tribune_raft_store::record::{LogPlace, MAX_UNMET, Record};

use crate::converge::{converge, next_attempts};
use crate::liveness::{GRACE, Liveness, MasterClock};
use crate::plan::plan_again;
use crate::verify::{discrepancies, verdict};

/// What the master should now propose. [`Liveness::observe`] has to be called before. Each command would be accepted by the
/// record as it is; after one was applied, ask again.
pub fn due(record: &Record, liveness: &Liveness, now: MasterClock, master: Option<&NodeName>) -> Vec<MasterCommand> {
    let mut commands = Vec::new();
    for update in record.updates().values().filter(|update| !update.phase.ended()) {
        if let Some(command) = away(record, update, liveness, now) {
            // After it, the update may be somewhere else.
            commands.push(command);
            continue;
        }
        commands.extend(match &update.phase {
            Phase::Queued { .. } => its_turn(record, update, liveness, now, master),
            Phase::Wave { wave } => go(update, *wave, liveness, now),
            phase if phase.waits_for_user() => undecided(update, liveness, now),
            Phase::Verifying => Some(MasterCommand::Verified { update: update.id, discrepancies: verdict(record, update) }),
            _ => None,
        });
    }
    commands.extend(converge(record, liveness, now, master));
    commands.extend(check(record));
    commands.retain(|command| command_would_move(record, command));
    commands
}

/// The check of what the fleet has, when that has changed since the last. While nodes change over, old and new live side by
/// side for a moment: what they need is not looked at then.
fn check(record: &Record) -> Option<MasterCommand> {
    let cluster = record.cluster().filter(|cluster| cluster.checked < cluster.installed)?;
    let moving =
        |update: &Update| matches!(update.phase, Phase::Wave { .. } | Phase::Verifying | Phase::Persisting | Phase::Regressing);
    if record.updates().values().any(moving) {
        return None;
    }
    let mut discrepancies = discrepancies(record);
    let left_out = discrepancies.len().saturating_sub(MAX_UNMET) as u64;
    discrepancies.truncate(MAX_UNMET);
    Some(MasterCommand::Checked { installed: cluster.installed, discrepancies, left_out })
}

/// When [`due`] could have another answer just because time passed; `None`: not before something else happens.
pub fn next_wake(record: &Record, liveness: &Liveness, now: MasterClock) -> Option<MasterClock> {
    let mut times = Vec::new();
    let away_after = away_after(record);
    for update in record.updates().values().filter(|update| !update.phase.ended()) {
        if let Phase::Queued { .. } = update.phase {
            times.push(liveness.began.after(GRACE));
        }
        if let Some(clock) = liveness.phases.get(&update.id).filter(|_| update.phase.waits_for_user()) {
            times.push(clock.began.after(update.request.options.decide_within));
        }
        let open = update.nodes.iter().filter(|(_, node)| can_go_away(update, node));
        times.extend(open.filter_map(|(name, _)| Some(liveness.away_since(name, update)?.after(away_after))));
    }
    times.extend(next_attempts(record, liveness));
    times.into_iter().filter(|time| *time > now).min()
}

/// Whether an entry would be accepted and change anything. The master need not propose what would not.
pub fn would_move(record: &Record, entry: &Entry) -> bool {
    let mut copy = record.clone();
    copy.take_changes();
    // No log has this index, so a version that is set by it differs from every other.
    let place = LogPlace { index: u64::MAX >> 17, membership: 0 };
    copy.apply(place, entry).is_ok() && !copy.take_changes().is_empty()
}

/// [`would_move`] for a command of the master's own, at the record's time.
pub fn command_would_move(record: &Record, command: &MasterCommand) -> bool {
    let time = record.cluster().map_or(Timestamp(0), |cluster| cluster.time);
    would_move(record, &Entry { time, body: Body::Master(Box::new(command.clone())) })
}

/// How long a node may be silent before it counts as away.
pub fn away_after(record: &Record) -> Span {
    record.cluster().map(|cluster| cluster.settings.clone()).unwrap_or_default().away_after
}

/// The nodes of an update that have been away for too long.
fn away(record: &Record, update: &Update, liveness: &Liveness, now: MasterClock) -> Option<MasterCommand> {
    let limit = away_after(record);
    let mut open = update.nodes.iter().filter(|(_, node)| can_go_away(update, node));
    let (name, _) = open.find(|(name, _)| liveness.away_since(name, update).is_some_and(|since| now >= since.after(limit)))?;
    Some(MasterCommand::Away { update: update.id, node: name.clone() })
}

/// The nodes that an update waits for and that are not there, with how long.
pub fn missing(update: &Update, liveness: &Liveness, now: MasterClock) -> BTreeMap<NodeName, Span> {
    let open = update.nodes.iter().filter(|(_, node)| !update.phase.ended() && can_go_away(update, node));
    let away = open.filter(|(name, _)| !liveness.is_connected(name));
    away.map(|(name, _)| (name.clone(), liveness.away_for(name, now))).collect()
}

/// Whether it matters to the update that this node is away.
fn can_go_away(update: &Update, node: &NodeProgress) -> bool {
    match update.phase {
        Phase::Regressing => node.changed && !matches!(node.step, Step::Regressed | Step::Failed),
        Phase::Persisting => node.step <= Step::Settled,
        _ => node.step < Step::Settled,
    }
}

/// A queued update that waits for no other any more gets a new plan.
fn its_turn(
    record: &Record,
    update: &Update,
    liveness: &Liveness,
    now: MasterClock,
    master: Option<&NodeName>,
) -> Option<MasterCommand> {
    if !record.waits_for(update).is_empty() {
        return None;
    }
    let plan = plan_again(record, update, None, liveness, master);
    let is_missing = |blocker: &Blocker| matches!(blocker, Blocker::NodeAway { .. });
    if !liveness.settled(now) && (update.request.options.skip_away || plan.blockers.iter().any(is_missing)) {
        return None;
    }
    Some(MasterCommand::SetPlan { update: update.id, plan })
}

/// The nodes of the wave that have not begun may begin: all of them at once, when all are ready.
fn go(update: &Update, wave: u32, liveness: &Liveness, now: MasterClock) -> Option<MasterCommand> {
    let in_wave = update.plan.as_ref()?.waves.get(wave as usize)?;
    let waiting =
        in_wave.iter().filter_map(|name| Some((name, update.nodes.get(name)?))).filter(|(_, node)| node.step < Step::Go);
    let waiting: Vec<_> = waiting.collect();
    let ready = |(name, node): &(&NodeName, &NodeProgress)| node.step == Step::Ready && liveness.is_ready(update.id, name, now);
    if waiting.is_empty() || !waiting.iter().all(ready) {
        return None;
    }
    let nodes: BTreeSet<NodeName> = waiting.into_iter().map(|(name, _)| name.clone()).collect();
    Some(MasterCommand::Go { update: update.id, nodes })
}

/// An update that nobody decided on in time.
fn undecided(update: &Update, liveness: &Liveness, now: MasterClock) -> Option<MasterCommand> {
    let clock = liveness.phases.get(&update.id).filter(|clock| clock.since == update.since)?;
    let waited = now.since(clock.began);
    (waited >= update.request.options.decide_within).then_some(MasterCommand::DecideExpired { update: update.id, waited })
}
