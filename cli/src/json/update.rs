//! Documents about updates.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tribune_messages::api::{UpdateInfo, UpdateSummary};
use tribune_raft_store::model::{
    Answer, BallotCast, Decision, DecisionTaken, Discrepancy, NeedKey, NodeName, NodeProgress, Phase, ProcessRef, Span, Targets,
    Update, UpdateOptions,
};
use tribune_raft_store::record::{Waiting, WaitingFor};

use super::plan::{ChangeView, DiscrepancyView, PlanView, changes};
use super::word;
use crate::exit::Exit;
use crate::names::Names;
use crate::output::words;

/// An update in `updates`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct SummaryView {
    update: String,
    kind: String,
    phase: String,
    wave: Option<u32>,
    outcome: Option<String>,
    submitted_by: String,
    submitted_at: u64,
    since_at: u64,
    node_count: u32,
    packages: Vec<String>,
    reason: Option<String>,
}

impl SummaryView {
    /// The view of an update in a list.
    pub fn of(summary: &UpdateSummary) -> Self {
        let UpdateSummary { update, nodes, packages } = summary;
        let (phase, wave, outcome) = phase(&update.phase);
        Self {
            update: update.id.to_string(),
            kind: word(&update.request.kind),
            phase,
            wave,
            outcome,
            submitted_by: update.by.name.clone(),
            submitted_at: update.submitted.0,
            since_at: update.since.0,
            node_count: *nodes,
            packages: packages.clone(),
            reason: update.reason.clone(),
        }
    }
}

/// The phase's name, its wave counted from 1, and the outcome of an ended one.
fn phase(phase: &Phase) -> (String, Option<u32>, Option<String>) {
    let (name, wave, outcome) = match phase {
        Phase::Queued { .. } => ("queued", None, None),
        Phase::Planned => ("planned", None, None),
        Phase::Asking => ("asking", None, None),
        Phase::Vetoed => ("vetoed", None, None),
        Phase::Distributing => ("distributing", None, None),
        Phase::Wave { wave } => ("wave", Some(wave + 1), None),
        Phase::Held { wave } => ("held", Some(wave + 1), None),
        Phase::Paused { wave, .. } => ("paused", Some(wave + 1), None),
        Phase::Verifying => ("verifying", None, None),
        Phase::Unpersisted => ("unpersisted", None, None),
        Phase::Persisting => ("persisting", None, None),
        Phase::Regressing => ("regressing", None, None),
        Phase::Ended { outcome } => ("ended", None, Some(words::outcome(*outcome))),
    };
    (name.to_owned(), wave, outcome.map(str::to_owned))
}

/// `update`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct UpdateView {
    update: String,
    kind: String,
    phase: String,
    wave: Option<u32>,
    outcome: Option<String>,
    exit: Option<u8>,
    submitted_by: String,
    submitted_at: u64,
    since_at: u64,
    now_at: u64,
    ballot_revision: u64,
    targets: TargetsView,
    options: OptionsView,
    waiting: Option<WaitingView>,
    nodes: BTreeMap<String, ProgressView>,
    vetoes: Vec<VetoView>,
    decisions: Vec<DecisionView>,
    discrepancies: Vec<FoundView>,
    plan: Option<PlanView>,
    reason: Option<String>,
}

impl UpdateView {
    /// The view of an update.
    pub fn of(info: &UpdateInfo) -> Self {
        let UpdateInfo { update, waiting, away, away_after, repaired, packages, index: _, now } = info;
        let names = Names::of(packages);
        let (phase, wave, outcome) = phase(&update.phase);
        let progress =
            |(name, node): (&NodeName, &NodeProgress)| (name.to_string(), ProgressView::of(update, name, node, &names));
        Self {
            update: update.id.to_string(),
            kind: word(&update.request.kind),
            phase,
            wave,
            outcome,
            exit: Exit::at(update).map(Exit::number),
            submitted_by: update.by.name.clone(),
            submitted_at: update.submitted.0,
            since_at: update.since.0,
            now_at: now.0,
            ballot_revision: update.ballot_revision,
            targets: TargetsView::of(&update.request.targets, &names),
            options: OptionsView::of(&update.request.options),
            waiting: waiting.as_ref().map(|waiting| WaitingView::of(waiting, away, *away_after)),
            nodes: update.nodes.iter().map(progress).collect(),
            vetoes: vetoes(update),
            decisions: update.decisions.iter().map(DecisionView::of).collect(),
            discrepancies: update.discrepancies.iter().map(|found| FoundView::of(found, repaired)).collect(),
            plan: update.plan.as_ref().map(|plan| PlanView::of(plan, &names)),
            reason: update.reason.clone(),
        }
    }
}

/// A need that was not met when the update was done.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct FoundView {
    #[serde(flatten)]
    need: DiscrepancyView,
    repaired: bool,
}

impl FoundView {
    fn of(found: &Discrepancy, repaired: &BTreeSet<NeedKey>) -> Self {
        Self { need: DiscrepancyView::of(found), repaired: repaired.contains(&NeedKey::from(found)) }
    }
}

/// Which nodes and classes get which packages.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct TargetsView {
    nodes: BTreeMap<String, Vec<String>>,
    classes: BTreeMap<String, Vec<String>>,
}

impl TargetsView {
    fn of(targets: &Targets, names: &Names) -> Self {
        let packages = |ids: &std::collections::BTreeSet<_>| ids.iter().map(|id| names.full(id)).collect();
        Self {
            nodes: targets.nodes.iter().map(|(node, ids)| (node.to_string(), packages(ids))).collect(),
            classes: targets.classes.iter().map(|(class, ids)| (class.to_string(), packages(ids))).collect(),
        }
    }
}

/// How an update is carried out.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct OptionsView {
    strategy: String,
    on_failure: String,
    decide_within_ms: u64,
    max_defer_ms: u64,
    skip_away: bool,
    accept_discrepancies: Vec<String>,
    again: bool,
    allow_drift: bool,
    force: Option<String>,
    ephemeral: bool,
}

impl OptionsView {
    fn of(options: &UpdateOptions) -> Self {
        let UpdateOptions {
            strategy,
            on_failure,
            decide_within,
            max_defer,
            skip_away,
            accept_discrepancies,
            again,
            allow_drift,
            force,
            ephemeral,
        } = options;
        Self {
            strategy: word(strategy),
            on_failure: word(on_failure),
            decide_within_ms: decide_within.as_millis(),
            max_defer_ms: max_defer.as_millis(),
            skip_away: *skip_away,
            accept_discrepancies: accept_discrepancies.iter().map(ToString::to_string).collect(),
            again: *again,
            allow_drift: *allow_drift,
            force: force.clone(),
            ephemeral: *ephemeral,
        }
    }
}

/// What an update waits for.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct WaitingView {
    waiting_for: String,
    since_at: u64,
    updates: Vec<String>,
    nodes: Vec<String>,
    processes: Vec<AskedView>,
    about: Vec<String>,
    away: Vec<AwayView>,
    can: Vec<String>,
}

/// A process that is being asked.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct AskedView {
    node: String,
    process: String,
    pid: u32,
}

/// A node that is waited for and is not there.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct AwayView {
    node: String,
    for_ms: u64,
    counts_after_ms: u64,
}

impl WaitingView {
    fn of(waiting: &Waiting, away: &BTreeMap<NodeName, Span>, away_after: Span) -> Self {
        let Waiting { waiting_for, since, can } = waiting;
        let names = |nodes: &[NodeName]| nodes.iter().map(ToString::to_string).collect();
        let (kind, updates, nodes, about) = match waiting_for {
            WaitingFor::Updates { updates } => ("updates", updates.iter().map(ToString::to_string).collect(), vec![], vec![]),
            WaitingFor::Answers { nodes, .. } => ("answers", vec![], names(nodes), vec![]),
            WaitingFor::Decision { about } => ("decision", vec![], vec![], about.clone()),
            WaitingFor::Staging { nodes } => ("staging", vec![], names(nodes), vec![]),
            WaitingFor::Changeover { nodes } => {
                ("changeover", vec![], nodes.iter().map(|(name, _)| name.to_string()).collect(), vec![])
            }
            WaitingFor::Resume { left, .. } => ("resume", vec![], names(left), vec![]),
            WaitingFor::Check => ("check", vec![], vec![], vec![]),
            WaitingFor::Persist { nodes } => ("persist", vec![], names(nodes), vec![]),
            WaitingFor::Installing { nodes } => ("installing", vec![], names(nodes), vec![]),
            WaitingFor::Regress { nodes } => ("regress", vec![], names(nodes), vec![]),
            WaitingFor::Master => ("master", vec![], vec![], vec![]),
        };
        let asked = match waiting_for {
            WaitingFor::Answers { asked, .. } => &asked[..],
            _ => &[],
        };
        let asked = asked.iter().map(|(node, process)| AskedView {
            node: node.to_string(),
            process: process.name.clone(),
            pid: process.pid,
        });
        let away = away.iter().map(|(node, time)| AwayView {
            node: node.to_string(),
            for_ms: time.as_millis(),
            counts_after_ms: away_after.as_millis(),
        });
        Self {
            waiting_for: kind.into(),
            since_at: since.0,
            updates,
            nodes,
            processes: asked.collect(),
            about,
            away: away.collect(),
            can: can.clone(),
        }
    }
}

/// How far a node is.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct ProgressView {
    step: String,
    since_at: u64,
    round: u32,
    changed: bool,
    generation_before: u64,
    failure: Option<String>,
    restarted: bool,
    gone: bool,
    left_behind: bool,
    changes: Vec<ChangeView>,
    ballots: Vec<BallotView>,
}

impl ProgressView {
    fn of(update: &Update, name: &NodeName, node: &NodeProgress, names: &Names) -> Self {
        let NodeProgress { step, since, round, asked: _, ballots, changed, failure, before, restarted, gone, left_behind } = node;
        let plan = update.plan.as_ref().and_then(|plan| plan.nodes.get(name));
        Self {
            step: word(step),
            since_at: since.0,
            round: *round,
            changed: *changed,
            generation_before: *before,
            failure: failure.clone(),
            restarted: *restarted,
            gone: *gone,
            left_behind: *left_behind,
            changes: plan.map(|plan| changes(plan, names)).unwrap_or_default(),
            ballots: ballots.iter().map(BallotView::of).collect(),
        }
    }
}

/// What a process answered.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct BallotView {
    process: String,
    pid: u32,
    answer: String,
    reason: Option<String>,
    lapsed: bool,
    overruled: bool,
}

impl BallotView {
    fn of(ballot: &BallotCast) -> Self {
        let BallotCast { process, answer, lapsed, overruled } = ballot;
        let (answer, reason) = match answer {
            Answer::Accept => ("accept", None),
            Answer::Veto { reason } => ("veto", Some(reason.clone())),
            Answer::Abstain => ("abstain", None),
        };
        Self {
            process: process.name.clone(),
            pid: process.pid,
            answer: answer.into(),
            reason,
            lapsed: *lapsed,
            overruled: *overruled,
        }
    }
}

/// A veto, wherever it is.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct VetoView {
    node: String,
    process: String,
    pid: u32,
    reason: String,
    lapsed: bool,
    overruled: bool,
}

fn vetoes(update: &Update) -> Vec<VetoView> {
    let mut all = Vec::new();
    for (name, node) in &update.nodes {
        for BallotCast { process, answer, lapsed, overruled } in &node.ballots {
            if let Answer::Veto { reason } = answer {
                all.push(VetoView {
                    node: name.to_string(),
                    process: process.name.clone(),
                    pid: process.pid,
                    reason: reason.clone(),
                    lapsed: *lapsed,
                    overruled: *overruled,
                });
            }
        }
    }
    all
}

/// A decision that was taken.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct DecisionView {
    decision: String,
    why: Option<String>,
    nodes: Vec<String>,
    by: String,
    at: u64,
    ballot_revision: u64,
    overruled: Vec<OverruledView>,
}

/// A veto that a decision went past.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct OverruledView {
    node: String,
    process: String,
    pid: u32,
}

impl DecisionView {
    fn of(taken: &DecisionTaken) -> Self {
        let DecisionTaken { decision, by, at, ballot_revision, overruled } = taken;
        let (decision, why, nodes) = match decision {
            Decision::Force { why } => ("force", Some(why.clone()), vec![]),
            Decision::Only { nodes } => ("only", None, nodes.iter().map(ToString::to_string).collect()),
            Decision::AskAgain => ("ask_again", None, vec![]),
            Decision::Abort => ("abort", None, vec![]),
        };
        let over = |(node, process): &(NodeName, ProcessRef)| OverruledView {
            node: node.to_string(),
            process: process.name.clone(),
            pid: process.pid,
        };
        Self {
            decision: decision.into(),
            why,
            nodes,
            by: by.name.clone(),
            at: at.0,
            ballot_revision: *ballot_revision,
            overruled: overruled.iter().map(over).collect(),
        }
    }
}
