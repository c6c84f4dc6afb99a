//! What users order of updates: submit, decide, cancel; and the plan the master makes for them.

use tribune_planted::{Bug, planted};

use std::collections::{BTreeMap, BTreeSet};

use super::apply::{About, At};
use super::progress::open_wave;
use super::queue::leave_out;
use super::{KEPT_UPDATES, Record};
use crate::command::{Accepted, Evidence, Rejection, Response};
use crate::model::{
    Answer, Author, Decision, DecisionTaken, EventKind, LeftOut, NodeName, NodeProgress, Outcome, Phase, Plan, RequestId, Span,
    Step, Update, UpdateId, UpdateKind, UpdateRequest, WayBack,
};

/// The most updates that are open at a time.
pub const MAX_OPEN_UPDATES: usize = 1000;
/// How many ended updates that nobody submitted are kept when there are too many: a node may try one every hour for ever.
const KEPT_CONVERGENCES: usize = 100;

impl Record {
    pub(super) fn submit(
        &mut self,
        at: At,
        request_id: RequestId,
        request: UpdateRequest,
        evidence: Option<&Evidence>,
        by: Author,
    ) -> Response {
        let Some(Evidence::Plan(plan)) = evidence else {
            return Err(Rejection::Evidence { what: "the plan is missing".into() });
        };
        if request.kind == UpdateKind::Converge {
            return Err(Rejection::Evidence {
                what: "nodes come to what they should have by themselves; install or regress".into(),
            });
        }
        self.check_current(plan)?;
        if !plan.blockers.is_empty() {
            return Err(Rejection::Blocked { plan: Box::new(plan.clone()) });
        }
        let (who, count) = (by.name.clone(), plan.nodes.len());
        let text = |id| format!("{who} submitted {id} for {count} nodes");
        self.open(at, request_id, request, plan.clone(), by, text).map(|update| Accepted::Update { update })
    }

    /// A new update: it begins, or waits for those before it.
    pub(super) fn open(
        &mut self,
        at: At,
        request_id: RequestId,
        request: UpdateRequest,
        plan: Plan,
        by: Author,
        text: impl FnOnce(UpdateId) -> String,
    ) -> Result<UpdateId, Rejection> {
        if self.updates.values().filter(|update| !update.phase.ended()).count() >= MAX_OPEN_UPDATES {
            return Err(Rejection::Limit { what: "open updates".into(), count: MAX_OPEN_UPDATES as u64 });
        }
        self.check_current(&plan)?;
        let mut cluster = self.cluster().cloned().ok_or(Rejection::NotCreated)?;
        let id = UpdateId(cluster.next_update);
        cluster.next_update += 1;
        self.clusters.put(0, cluster);
        let mut update = Update {
            id,
            request_id,
            request,
            by,
            submitted: at.time,
            phase: Phase::Planned,
            since: at.time,
            plan: Some(plan),
            ballot_revision: 0,
            nodes: BTreeMap::new(),
            decisions: Vec::new(),
            reason: None,
            discrepancies: Vec::new(),
            way_back: WayBack::Meant,
            paused_by: None,
        };
        let behind = self.in_front_of(&update);
        let queued = !behind.is_empty();
        if queued {
            update.phase = Phase::Queued { behind };
        }
        self.forget_old_updates();
        self.note(at, EventKind::UpdateSubmitted, About::update(id), text(id));
        self.updates.put(id, update);
        if !queued {
            self.begin(at, id)?;
        }
        Ok(id)
    }

    pub(super) fn set_plan(&mut self, at: At, id: UpdateId, plan: &Plan) -> Response {
        let mut update = self.update(id)?.clone();
        if !matches!(update.phase, Phase::Queued { .. }) {
            return Err(Rejection::Outdated);
        }
        self.check_current(plan)?;
        update.plan = Some(plan.clone());
        if !plan.blockers.is_empty() {
            let reason = plan.blockers.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            self.updates.put(id, update);
            self.end(at, id, Outcome::Rejected, Some(reason))?;
            return Ok(Accepted::Done);
        }
        let behind = self.in_front_of(&update);
        if behind.is_empty() {
            self.updates.put(id, update);
            self.begin(at, id)?;
        } else {
            update.phase = Phase::Queued { behind };
            self.updates.put(id, update);
        }
        Ok(Accepted::Done)
    }

    /// Nothing a plan was made from has changed since.
    fn check_current(&self, plan: &Plan) -> Result<(), Rejection> {
        for (key, seen) in &plan.read {
            if self.version_of(key) != Some(*seen) {
                return Err(Rejection::PlanOutdated { key: key.clone() });
            }
        }
        let installs = plan.nodes.values().flat_map(|node| &node.changes).filter_map(|change| change.to);
        match installs.into_iter().find(|id| !self.packages.contains(id)) {
            // It was taken out of the store meanwhile.
            Some(id) => Err(Rejection::PlanOutdated { key: format!("package/{id}") }),
            None => Ok(()),
        }
    }

    /// The version of what a plan read: `node/NAME` or `class/NAME`.
    pub fn version_of(&self, key: &str) -> Option<u64> {
        match key.split_once('/')? {
            ("node", name) => Some(self.nodes.get(&name.parse().ok()?)?.version),
            ("class", name) => Some(self.classes.get(&name.parse().ok()?)?.version),
            _ => None,
        }
    }

    /// A planned update begins to ask.
    fn begin(&mut self, at: At, id: UpdateId) -> Result<(), Rejection> {
        let mut update = self.update(id)?.clone();
        let Some(plan) = &update.plan else { return Err(Rejection::Outdated) };
        let regress = update.request.kind == UpdateKind::Regress;
        update.nodes = plan.nodes.keys().map(|name| (name.clone(), self.fresh_progress(at, name))).collect();
        self.updates.put(id, update);
        if regress {
            self.take_nodes(at, id)?;
        }
        self.enter(at, id, Phase::Asking)
    }

    fn fresh_progress(&self, at: At, name: &NodeName) -> NodeProgress {
        NodeProgress {
            step: Step::Planned,
            since: at.time,
            round: 1,
            asked: Vec::new(),
            ballots: Vec::new(),
            changed: false,
            failure: None,
            before: self.nodes.get(name).map_or(0, |node| node.current.number),
            restarted: false,
            gone: false,
            left_behind: false,
        }
    }

    pub(super) fn decide(
        &mut self,
        at: At,
        id: UpdateId,
        seen: u64,
        decision: Decision,
        evidence: Option<&Evidence>,
        by: Author,
    ) -> Response {
        let mut update = self.update(id)?.clone();
        let phase = |why: &str| Rejection::Phase { update: id, phase: update.phase.to_string(), why: why.to_owned() };
        match (&update.phase, &decision) {
            (Phase::Vetoed, _) | (Phase::Held { .. }, Decision::Abort | Decision::Force { .. }) => {}
            (Phase::Paused { .. }, _) => return Err(phase("it can be resumed or cancelled")),
            (Phase::Held { .. }, Decision::AskAgain) if update.nodes.values().any(can_be_asked_again) => {}
            (Phase::Held { .. }, Decision::AskAgain) => {
                return Err(phase(
                    "no process that is not changed over has vetoed it: it can go on (--force) or go back (--abort)",
                ));
            }
            (Phase::Held { .. }, Decision::Only { .. }) => {
                return Err(phase(
                    "some nodes have changed over: it can go on (--force), ask again (--ask-again) or go back (--abort)",
                ));
            }
            _ => return Err(phase("there is nothing to decide")),
        }
        if seen != update.ballot_revision && !planted(Bug::DecisionAgainstOtherBallots) {
            return Err(Rejection::BallotsChanged { seen, now: update.ballot_revision });
        }
        let text = format!("{} decided on {id}: {}", by.name, decision_words(&decision));
        let overruled = if matches!(decision, Decision::Force { .. }) { overrule(&mut update) } else { Vec::new() };
        update.decisions.push(DecisionTaken { decision: decision.clone(), by, at: at.time, ballot_revision: seen, overruled });
        let held = matches!(update.phase, Phase::Held { .. });
        match &decision {
            Decision::AskAgain => ask_again(at, &mut update),
            Decision::Only { nodes } => {
                if let Some(Evidence::Plan(plan)) = evidence {
                    self.check_current(plan)?;
                }
                narrow(&mut update, nodes, evidence)?;
            }
            Decision::Force { .. } | Decision::Abort => {}
        }
        self.updates.put(id, update);
        self.note(at, EventKind::Decision, About::update(id), text);
        match decision {
            Decision::Abort => self.call_off(at, id, "a user decided so")?,
            Decision::Force { .. } if held => self.go_on(at, id)?,
            Decision::AskAgain => {
                self.enter(at, id, Phase::Asking)?;
                self.count_ballots(at, id)?;
            }
            Decision::Force { .. } | Decision::Only { .. } => self.count_ballots(at, id)?,
        }
        Ok(Accepted::Update { update: id })
    }

    pub(super) fn decide_expired(&mut self, at: At, id: UpdateId, waited: Span) -> Response {
        let update = self.update(id)?;
        if waited < update.request.options.decide_within {
            return Err(Rejection::Outdated);
        }
        let why = format!("nobody decided within {}", update.request.options.decide_within);
        match update.phase {
            Phase::Vetoed | Phase::Held { .. } | Phase::Paused { .. } => self.call_off(at, id, &why)?,
            _ => return Err(Rejection::Outdated),
        }
        Ok(Accepted::Done)
    }

    /// An update is given up: what it changed goes back, or stays where it cannot go back.
    fn call_off(&mut self, at: At, id: UpdateId, why: &str) -> Result<(), Rejection> {
        let update = self.update(id)?;
        if !update.nodes.values().any(|node| node.changed) {
            return self.end(at, id, Outcome::Aborted, Some(why.to_owned()));
        }
        let stays = update.nodes.values().any(|node| matches!(node.step, Step::Go | Step::Started | Step::Settled));
        if stays && !update.request.options.ephemeral && self.cannot_go_back(update) {
            let wave = open_wave(update);
            return self.stop_there(at, id, wave, why);
        }
        self.go_back(at, id, why)
    }

    /// The data of what was changed cannot go back: the nodes that were not changed are left out, and the others stay.
    fn stop_there(&mut self, at: At, id: UpdateId, wave: u32, why: &str) -> Result<(), Rejection> {
        let mut update = self.update(id)?.clone();
        let unchanged: Vec<NodeName> =
            update.nodes.iter().filter(|(_, node)| !node.changed).map(|(name, _)| name.clone()).collect();
        leave_out(&mut update, &unchanged, &LeftOut::CalledOff);
        update.paused_by = None;
        update.reason = Some(format!("{why}; what it changed stays, as its data cannot go back"));
        self.updates.put(id, update);
        self.enter(at, id, Phase::Wave { wave })?;
        self.work_out(at, id)
    }

    pub(super) fn cancel(&mut self, at: At, id: UpdateId, by: &Author) -> Response {
        let update = self.update(id)?;
        if let Phase::Ended { .. } | Phase::Regressing = update.phase {
            let phase = update.phase.to_string();
            return Err(Rejection::Phase { update: id, phase, why: "there is nothing to cancel".into() });
        }
        self.call_off(at, id, &format!("{} cancelled it", by.name))?;
        Ok(Accepted::Update { update: id })
    }

    /// No further node is to begin its changeover.
    pub(super) fn pause(&mut self, at: At, id: UpdateId, by: &Author) -> Response {
        let update = self.update(id)?;
        let why = match update.phase {
            Phase::Wave { wave } => {
                self.note(at, EventKind::Decision, About::update(id), format!("{} paused {id}", by.name));
                self.enter(at, id, Phase::Paused { wave, by: by.name.clone() })?;
                return Ok(Accepted::Update { update: id });
            }
            Phase::Paused { .. } => "it is paused already",
            Phase::Held { .. } => "nothing goes on until somebody decides",
            Phase::Queued { .. } | Phase::Planned | Phase::Asking | Phase::Vetoed | Phase::Distributing => {
                "no node changes over yet; it can be paused while nodes do, and cancelled at any time"
            }
            Phase::Verifying | Phase::Unpersisted | Phase::Persisting => "every node has changed over",
            Phase::Regressing | Phase::Ended { .. } => "there is nothing to pause",
        };
        Err(Rejection::Phase { update: id, phase: update.phase.to_string(), why: why.into() })
    }

    /// A paused update goes on.
    pub(super) fn resume(&mut self, at: At, id: UpdateId, by: &Author) -> Response {
        let update = self.update(id)?;
        if !matches!(update.phase, Phase::Paused { .. }) {
            let phase = update.phase.to_string();
            return Err(Rejection::Phase { update: id, phase, why: "only a paused update can be resumed".into() });
        }
        self.note(at, EventKind::Decision, About::update(id), format!("{} resumed {id}", by.name));
        self.go_on(at, id)?;
        Ok(Accepted::Update { update: id })
    }

    /// Ended updates beyond the last thousand are dropped; those that nobody submitted first, but for the last hundred.
    fn forget_old_updates(&mut self) {
        while self.updates.len() >= KEPT_UPDATES + MAX_OPEN_UPDATES {
            let ended = self.updates.values().filter(|update| update.phase.ended());
            let (by_itself, submitted): (Vec<&Update>, Vec<&Update>) =
                ended.partition(|update| update.request.kind == UpdateKind::Converge);
            let first = |updates: &[&Update]| updates.first().map(|update| update.id);
            let surplus = first(&by_itself).filter(|_| by_itself.len() > KEPT_CONVERGENCES);
            let Some(oldest) = surplus.or(first(&submitted)).or(first(&by_itself)) else { return };
            self.updates.remove(&oldest);
        }
    }

    pub(super) fn update(&self, id: UpdateId) -> Result<&Update, Rejection> {
        self.updates.get(&id).ok_or(Rejection::UnknownUpdate { update: id })
    }
}

fn decision_words(decision: &Decision) -> String {
    match decision {
        Decision::Force { why } => format!("force ({why})"),
        Decision::Only { nodes } => {
            format!("only {}", nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
        Decision::AskAgain => "ask again".into(),
        Decision::Abort => "abort".into(),
    }
}

/// Marks every standing veto as overruled and returns whose they were.
fn overrule(update: &mut Update) -> Vec<(NodeName, crate::model::ProcessRef)> {
    let mut overruled = Vec::new();
    for (name, node) in &mut update.nodes {
        for ballot in node.ballots.iter_mut().filter(|ballot| ballot.standing_veto().is_some()) {
            ballot.overruled = true;
            overruled.push((name.clone(), ballot.process.clone()));
        }
    }
    update.ballot_revision += u64::from(!overruled.is_empty());
    overruled
}

/// Whether a process there has vetoed, its veto has perhaps lapsed, and nobody went past it.
pub(super) fn can_be_asked_again(node: &NodeProgress) -> bool {
    let vetoed = |ballot: &crate::model::BallotCast| matches!(ballot.answer, Answer::Veto { .. }) && !ballot.overruled;
    // One that was removed has nobody to ask.
    let may = !node.changed && !node.gone && (node.step <= Step::Ready || node.step == Step::Away);
    may && node.ballots.iter().any(vetoed)
}

/// The nodes where a veto was cast ask again.
fn ask_again(at: At, update: &mut Update) {
    for node in update.nodes.values_mut().filter(|node| can_be_asked_again(node)) {
        node.step = Step::Planned;
        node.since = at.time;
        node.failure = None;
        node.round += 1;
        node.asked.clear();
        // Who was overruled cannot veto this update again.
        node.ballots.retain(|ballot| ballot.overruled);
    }
    update.ballot_revision += 1;
}

/// Goes on with some nodes: a new plan without the others.
fn narrow(update: &mut Update, nodes: &BTreeSet<NodeName>, evidence: Option<&Evidence>) -> Result<(), Rejection> {
    if let Some(node) = nodes.iter().find(|node| !update.nodes.contains_key(*node)) {
        return Err(Rejection::Evidence { what: format!("node {node} is not in {}", update.id) });
    }
    if nodes.is_empty() {
        return Err(Rejection::Evidence { what: "no node would be left; use --abort to change nothing".into() });
    }
    let Some(Evidence::Plan(plan)) = evidence else {
        return Err(Rejection::Evidence { what: "the plan is missing".into() });
    };
    if !plan.blockers.is_empty() {
        return Err(Rejection::Blocked { plan: Box::new(plan.clone()) });
    }
    if plan.nodes.keys().ne(nodes) {
        return Err(Rejection::Evidence { what: "the plan is for other nodes".into() });
    }
    let revision = update.plan.as_ref().map_or(1, |old| old.revision + 1);
    let mut plan = Plan { revision, ..plan.clone() };
    // Who joined a class meanwhile was never in it, so nobody decided about that one.
    let had = |name: &NodeName| {
        update.nodes.contains_key(name) || update.plan.as_ref().is_some_and(|old| old.left_out.contains_key(name))
    };
    plan.left_out.retain(|name, why| *why != LeftOut::ByDecision || had(name));
    update.plan = Some(plan);
    update.nodes.retain(|name, _| nodes.contains(name));
    update.ballot_revision += 1;
    Ok(())
}
