//! Nodes that leave: removed by a user, or replaced by themselves on a new disk.
//!
//! One idea: a node leaves the record only once Raft can do without it. Until then it is *leaving*: the choice of voters passes it
//! over, and when Raft has it no more, it is taken out. Its identity is remembered, and never let in again.

use super::Record;
use super::apply::{About, At};
use super::fleet::new_node;
use crate::command::{Accepted, NewNode, Rejection, Response};
use crate::model::{
    Answer, Author, BallotCast, EventKind, Leaving, Node, NodeName, NodeProgress, Outcome, Phase, ProcessRef, RaftRole, Removed,
    Signature, Span, Step, TombstoneKey, Update, UpdateId, VoterPreference,
};

/// The most removed identities that are remembered; the oldest go first.
pub const MAX_REMOVED: usize = 10_000;
/// How soon a node may be set to count as away. Sooner, a failover alone would make it so.
pub const LEAST_AWAY_AFTER: Span = Span::from_secs(3);
/// The longest address that is noted.
const LONGEST_ADDRESS: usize = 256;

impl Record {
    pub(super) fn remove_node(&mut self, at: At, name: &NodeName, by: &Author) -> Response {
        let mut node = self.node(name)?.clone();
        let others = self.nodes.values().filter(|other| other.name != *name);
        if !others.into_iter().any(|other| other.may_vote() != VoterPreference::Never) {
            return Err(Rejection::LastVoter { node: name.clone() });
        }
        if node.raft == RaftRole::Member {
            self.take_out(at, name, &by.name);
            return Ok(Accepted::Done);
        }
        if node.leaving.is_none() {
            node.leaving = Some(Leaving { by: by.name.clone(), at: at.time });
            self.nodes.put(name.clone(), node);
            let text = format!("{} removed node {name}: it leaves Raft first", by.name);
            self.note(at, EventKind::NodeRemoved, About::node(name), text);
        }
        Ok(Accepted::Leaving { node: name.clone() })
    }

    /// Takes a node out that is not in Raft any more.
    pub(super) fn take_out(&mut self, at: At, name: &NodeName, by: &str) {
        let Some(node) = self.nodes.get(name).cloned() else { return };
        self.nodes.remove(name);
        self.bury_identity(at, node, by);
        let tombstones: Vec<TombstoneKey> =
            self.tombstones.iter().filter(|(key, _)| key.node == *name).map(|(key, _)| key.clone()).collect();
        for key in tombstones {
            self.tombstones.remove(&key);
        }
        self.software_changed(at);
        self.note(at, EventKind::NodeRemoved, About::node(name), format!("{by} removed node {name}; its services go on"));
        self.updates_without(at, name, "was removed from the cluster");
    }

    /// Its identity is never let in again, and no token that was made for it is good any more.
    pub(super) fn bury_identity(&mut self, at: At, node: Node, by: &str) {
        let Node { name, peer, key, class, desired, voter, should, .. } = node;
        let tokens: Vec<Signature> = self
            .tokens
            .iter()
            .filter(|(_, token)| token.used_by.is_none() && token.node.as_ref() == Some(&name))
            .map(|(hash, _)| *hash)
            .collect();
        for hash in tokens {
            self.tokens.remove(&hash);
        }
        let row = Removed { name, peer: peer.clone(), key, at: at.time, by: by.to_owned(), class, desired, voter, should };
        self.removed.put(peer, row);
        while self.removed.len() > MAX_REMOVED {
            let oldest = self.removed.values().min_by(|a, b| (a.at, &a.peer).cmp(&(b.at, &b.peer))).map(|row| row.peer.clone());
            let Some(oldest) = oldest else { return };
            self.removed.remove(&oldest);
        }
    }

    /// A node comes anew, on an empty disk: it takes the name, class, labels and what it should have of the one before. Its class
    /// and the store may have gone on since that one was removed.
    pub(super) fn replace_node(&mut self, at: At, new: &NewNode) -> Result<String, Rejection> {
        let name = &new.name;
        let before = self.nodes.get(name).cloned();
        let there = before.is_some();
        if let Some(old) = before {
            if self.nodes.values().filter(|other| other.name != *name).count() == 0 {
                return Err(Rejection::LastVoter { node: name.clone() });
            }
            self.nodes.remove(name);
            self.bury_identity(at, old, "a replacement");
        }
        let last = self.removed.values().filter(|row| row.name == *name).max_by(|a, b| (a.at, &a.peer).cmp(&(b.at, &b.peer)));
        let Removed { class, desired, voter, mut should, .. } =
            last.cloned().ok_or_else(|| Rejection::NothingToReplace { node: name.clone() })?;
        let class = class.filter(|class| self.classes.contains(class));
        if !there {
            should.retain(|_, id| self.packages.contains(id));
            should.extend(class.iter().flat_map(|class| self.should_have_of_class(class)));
        }
        self.nodes.put(name.clone(), Node { class, desired, voter, should, ..new_node(at, new) });
        self.software_changed(at);
        if there {
            self.updates_without(at, name, "was replaced by itself on a new disk");
        }
        Ok(format!("node {name} joined anew, in the place of the one before"))
    }

    /// What it means for the open updates that a node is there no more: a veto before its changeover, a failure after.
    fn updates_without(&mut self, at: At, name: &NodeName, what: &str) {
        let has_it = |update: &&Update| !update.phase.ended() && update.nodes.get(name).is_some_and(|node| !node.gone);
        let open: Vec<UpdateId> = self.updates.values().filter(has_it).map(|update| update.id).collect();
        for id in open {
            // An update that is open and has the node: there is nothing that could be refused.
            let _ = self.update_without(at, id, name, &format!("node {name} {what}"));
        }
    }

    fn update_without(&mut self, at: At, id: UpdateId, name: &NodeName, why: &str) -> Result<(), Rejection> {
        let mut update = self.update(id)?.clone();
        let progress = update.nodes.get_mut(name).ok_or(Rejection::Outdated)?;
        let before = progress.step;
        if progress.left_behind {
            // It was over there: whoever comes in its place never heard of it.
            progress.gone = true;
            self.updates.put(id, update);
            return Ok(());
        }
        leave(at, progress, name, why);
        let changed = progress.changed;
        let phase = update.phase.clone();
        let nobody_left = update.nodes.values().all(|node| node.gone);
        update.ballot_revision += 1;
        self.updates.put(id, update);
        if changed {
            self.note(at, EventKind::NodeFailed, About::both(id, name), format!("{why}, after {before} of {id}"));
            return match phase {
                // It had settled: the others do not need it to go on.
                Phase::Asking | Phase::Wave { .. } | Phase::Paused { .. } | Phase::Held { .. } | Phase::Verifying
                    if before >= Step::Settled =>
                {
                    Ok(())
                }
                _ => self.after_failure(at, id, why),
            };
        }
        self.note(at, EventKind::Veto, About::both(id, name), format!("{why}, which counts as a veto of {id}"));
        match phase {
            Phase::Asking | Phase::Vetoed | Phase::Distributing | Phase::Wave { .. } | Phase::Paused { .. } => {
                // When nobody is left there is nothing to decide on.
                if nobody_left { self.end(at, id, Outcome::Aborted, Some(why.to_owned())) } else { self.count_again(at, id) }
            }
            _ => Ok(()),
        }
    }

    pub(super) fn set_voter(&mut self, at: At, name: &NodeName, voter: Option<VoterPreference>, by: &Author) -> Response {
        let mut node = self.node(name)?.clone();
        node.voter = voter;
        let never = |node: &Node| node.may_vote() == VoterPreference::Never;
        if never(&node) && self.nodes.values().filter(|other| other.name != *name).all(never) {
            return Err(Rejection::LastVoter { node: name.clone() });
        }
        self.nodes.put(name.clone(), node);
        let what = match voter {
            Some(VoterPreference::Never) => "is never a voter",
            Some(VoterPreference::May) => "may be a voter",
            Some(VoterPreference::Prefer) => "is a voter rather than others",
            None => "is a voter as its own settings say",
        };
        self.note(at, EventKind::NodeChanged, About::node(name), format!("{} said that node {name} {what}", by.name));
        Ok(Accepted::Done)
    }

    pub(super) fn set_settings(
        &mut self,
        at: At,
        (away_after, voters, standbys): (Option<Span>, Option<u32>, Option<u32>),
        by: &Author,
    ) -> Response {
        let wrong = |what: String| Err(Rejection::Setting { what });
        if let Some(span) = away_after.filter(|span| *span < LEAST_AWAY_AFTER) {
            return wrong(format!("a node cannot count as away after {span}; use {LEAST_AWAY_AFTER} or more"));
        }
        if let Some(count) = voters.filter(|count| ![1, 3, 5].contains(count)) {
            return wrong(format!("there cannot be {count} voters; use 1, 3 or 5"));
        }
        if let Some(count) = standbys.filter(|count| *count > 2) {
            return wrong(format!("there cannot be {count} standbys; use 0, 1 or 2"));
        }
        let mut cluster = self.cluster().cloned().ok_or(Rejection::NotCreated)?;
        let settings = &mut cluster.settings;
        settings.away_after = away_after.unwrap_or(settings.away_after);
        settings.voters = voters.unwrap_or(settings.voters);
        settings.standbys = standbys.unwrap_or(settings.standbys);
        let now = format!("away after {}, {} voters, {} standbys", settings.away_after, settings.voters, settings.standbys);
        self.clusters.put(0, cluster);
        self.note(at, EventKind::SettingsChanged, About::default(), format!("{} set the cluster to: {now}", by.name));
        Ok(Accepted::Done)
    }

    pub(super) fn clone_refused(&mut self, at: At, name: &NodeName, from: &str) -> Response {
        self.node(name)?;
        let from: String = from.chars().filter(|c| !c.is_control()).take(LONGEST_ADDRESS).collect();
        let text = format!(
            "a second node with the identity of {name} was turned away ({from}): is it a copy of its disk? \
             A new machine in its place joins with `tribune join --replace {name}`"
        );
        self.note(at, EventKind::CloneRefused, About::node(name), text);
        Ok(Accepted::Done)
    }
}

/// The node is there no more: what it had of the update went with it.
fn leave(at: At, progress: &mut NodeProgress, name: &NodeName, why: &str) {
    progress.gone = true;
    progress.since = at.time;
    if progress.changed {
        if !matches!(progress.step, Step::Regressed | Step::Failed) {
            progress.step = Step::Failed;
            progress.failure = Some(why.to_owned());
        }
        return;
    }
    // It counted as a veto already, and a user may have gone past that.
    if progress.step == Step::Away {
        return;
    }
    // What its processes said went with it as well. A user goes on without it, by any decision but to ask again.
    miss(at, progress, name, why);
}

/// A node is not there, and has not begun to change over: that counts as its veto.
pub(super) fn miss(at: At, progress: &mut NodeProgress, name: &NodeName, why: &str) {
    progress.step = Step::Away;
    progress.since = at.time;
    progress.failure = Some(why.to_owned());
    let process = ProcessRef { name: format!("node {name}"), pid: 0, start_time: 0 };
    progress.ballots =
        vec![BallotCast { process, answer: Answer::Veto { reason: why.to_owned() }, lapsed: false, overruled: false }];
}
