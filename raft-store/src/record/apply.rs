//! `apply`: an entry of the log changes the record, or is rejected.

use tribune_planted::{Bug, planted};

use super::{Answered, KEPT_EVENTS, LogPlace, Record};
use crate::command::{Accepted, Body, Entry, Evidence, MasterCommand, Order, Rejection, Response, SignedOrder, UserCommand};
use crate::model::{Author, Event, EventKind, NodeName, RequestId, Span, Timestamp, UpdateId};

/// How long an answer is kept for a repeat of its request.
pub const ANSWERS_KEPT: Span = Span::from_secs(24 * 3600);
/// The most answers that are kept; the oldest go first.
pub const MAX_ANSWERS: usize = 100_000;

/// What an apply knows beside the entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    /// The entry's index in the log.
    pub index: u64,
    /// The log index of the membership of Raft.
    pub membership: u64,
    /// Record time.
    pub time: Timestamp,
}

/// The words of a text in the order of a hash set: what a planted bug makes of it.
fn in_any_order(text: &str) -> String {
    let words: std::collections::HashSet<&str> = text.split(' ').collect();
    words.into_iter().collect::<Vec<_>>().join(" ")
}

impl Record {
    /// Applies the entry at this place of the log. It changes the record whole or not at all.
    pub fn apply(&mut self, place: LogPlace, entry: &Entry) -> Response {
        let before = self.clone();
        let LogPlace { index, membership } = place;
        let at = At { index, membership, time: self.advance_time(entry.time) };
        let response = match &entry.body {
            Body::User { order, evidence } => self.apply_user(at, order, evidence.as_deref()),
            Body::Master(command) => self.apply_master(at, command),
        };
        if response.is_err() {
            let answers = (self.answers.clone(), self.answer_ages.clone());
            *self = before;
            (self.answers, self.answer_ages) = answers;
            self.advance_time(entry.time);
        }
        response
    }

    /// Record time is the greatest seen.
    fn advance_time(&mut self, time: Timestamp) -> Timestamp {
        let Some(cluster) = self.cluster() else { return time };
        if time > cluster.time {
            let mut cluster = cluster.clone();
            cluster.time = time;
            self.clusters.put(0, cluster);
            return time;
        }
        cluster.time
    }

    fn apply_user(&mut self, at: At, order: &SignedOrder, evidence: Option<&Evidence>) -> Response {
        self.forget_old_answers(at.time);
        // A repeat is answered only to who can sign for it.
        let opened = order.open()?;
        if let Some(answered) = self.answers.get(&opened.request).filter(|_| !planted(Bug::RetriedOrderAppliedTwice)) {
            return answered.response.clone();
        }
        let (opened, author) = self.authorised(order, at.time)?;
        let before = self.clone();
        let request = opened.request;
        let response = self.apply_order(at, opened, author, evidence);
        if response.is_err() {
            *self = before;
        }
        // What the master found out for it is outdated: it finds it out anew and sends the same request.
        if !response.as_ref().is_err_and(Rejection::is_outdated) {
            self.remember_answer(at.time, request, response.clone());
        }
        response
    }

    fn apply_order(&mut self, at: At, order: Order, author: Author, evidence: Option<&Evidence>) -> Response {
        match order.command {
            UserCommand::CreateToken { hash, valid, node } => self.create_token(at, hash, valid, node, &author),
            UserCommand::LabelNode { node, set, unset } => self.label_node(at, &node, set, &unset, &author),
            UserCommand::ReleaseNode { node } => self.release_node(at, &node, &author),
            UserCommand::SetClass { class, add, remove } => self.set_class(at, class, &add, &remove, &author),
            UserCommand::RemoveNode { node } => self.remove_node(at, &node, &author),
            UserCommand::SetVoter { node, voter } => self.set_voter(at, &node, voter, &author),
            UserCommand::SetSettings { away_after, voters, standbys } => {
                self.set_settings(at, (away_after, voters, standbys), &author)
            }
            UserCommand::RemoveClass { class } => self.remove_class(at, &class, &author),
            UserCommand::RemovePrincipal { key } => self.remove_principal(at, key, &author),
            UserCommand::SetPrincipal { key, name, role } => self.set_principal(at, key, name, role, &author),
            UserCommand::Publish { packages } => self.publish(at, &packages, evidence, &author),
            UserCommand::RemovePackage { package } => self.remove_package(at, package, &author),
            UserCommand::Submit { request } => self.submit(at, order.request, request, evidence, author),
            UserCommand::Decide { update, ballot_revision, decision } => {
                self.decide(at, update, ballot_revision, decision, evidence, author)
            }
            UserCommand::Cancel { update } => self.cancel(at, update, &author),
            UserCommand::Persist { update } => self.persist(at, update, &author),
            UserCommand::Pause { update } => self.pause(at, update, &author),
            UserCommand::Resume { update } => self.resume(at, update, &author),
        }
    }

    fn apply_master(&mut self, at: At, command: &MasterCommand) -> Response {
        if !matches!(command, MasterCommand::Create(_)) && self.cluster().is_none() {
            return Err(Rejection::NotCreated);
        }
        match command {
            MasterCommand::Create(birth) => self.create(at, birth),
            MasterCommand::Recover { recovery } => self.recover(at, recovery),
            MasterCommand::NodeState { node, facts, current, ephemeral, kept, apart } => {
                self.node_state(at, node, facts, (current, ephemeral.as_ref(), kept), apart.as_deref())
            }
            MasterCommand::Join { token, node, place } => self.join(at, token, node, *place),
            MasterCommand::CloneRefused { node, from } => self.clone_refused(at, node, from),
            MasterCommand::MakeStandby { node } => self.make_standby(at, node),
            MasterCommand::MakeVoter { node } => self.make_voter(at, node),
            MasterCommand::MakeMember { node } => self.make_member(at, node),
            MasterCommand::Converge { node, plan } => self.converge(at, node, plan),
            MasterCommand::SetPlan { update, plan } => self.set_plan(at, *update, plan),
            MasterCommand::Report { update, node, revision, round, report } => {
                self.report(at, *update, node, (*revision, *round), report)
            }
            MasterCommand::Go { update, nodes } => self.go(at, *update, nodes),
            MasterCommand::Away { update, node } => self.away(at, *update, node),
            MasterCommand::DecideExpired { update, waited } => self.decide_expired(at, *update, *waited),
            MasterCommand::Verified { update, discrepancies } => self.verified(at, *update, discrepancies),
            MasterCommand::Checked { installed, discrepancies, left_out } => {
                self.checked(at, *installed, discrepancies, *left_out)
            }
        }
    }

    fn remember_answer(&mut self, now: Timestamp, request: RequestId, response: Response) {
        self.answers.put(request, Answered { at: now, response });
        self.answer_ages.insert_mut((now, request), ());
    }

    fn forget_old_answers(&mut self, now: Timestamp) {
        while let Some(((time, request), ())) = self.answer_ages.first() {
            let (time, request) = (*time, *request);
            if now.since(time) <= ANSWERS_KEPT.as_millis() && self.answers.len() < MAX_ANSWERS {
                return;
            }
            self.answers.remove(&request);
            self.answer_ages.remove_mut(&(time, request));
        }
    }

    /// Writes an event down.
    pub(super) fn note(&mut self, at: At, kind: EventKind, about: About<'_>, text: String) {
        let Some(cluster) = self.cluster() else { return };
        let mut cluster = cluster.clone();
        let seq = cluster.next_event;
        cluster.next_event += 1;
        self.clusters.put(0, cluster);
        let text = if planted(Bug::HashMapOrder) { in_any_order(&text) } else { text };
        let event = Event { seq, at: at.time, kind, update: about.update, node: about.node.cloned(), text };
        self.events.put(seq, event);
        while self.events.len() > KEPT_EVENTS {
            let Some(oldest) = self.events.first().map(|(seq, _)| *seq) else { break };
            self.events.remove(&oldest);
        }
    }

    /// The answer to an entry that has nothing to say.
    pub fn blank() -> Response {
        Ok(Accepted::Done)
    }
}

/// What an event is about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct About<'a> {
    pub update: Option<UpdateId>,
    pub node: Option<&'a NodeName>,
}

impl<'a> About<'a> {
    pub fn node(node: &'a NodeName) -> Self {
        Self { update: None, node: Some(node) }
    }

    pub fn update(update: UpdateId) -> Self {
        Self { update: Some(update), node: None }
    }

    pub fn both(update: UpdateId, node: &'a NodeName) -> Self {
        Self { update: Some(update), node: Some(node) }
    }
}
