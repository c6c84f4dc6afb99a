//! Updates whose software runs until a node restart, or until a user persists it or takes it back.
//!
//! One idea: once it runs, nothing holds its nodes together any more. What a restart or a user takes back on one of them is over
//! there, and the others go on.

use super::Record;
use super::apply::{About, At};
use crate::command::{Accepted, Rejection, Response};
use crate::model::{Author, Ephemeral, EventKind, NodeName, Phase, Step, UpdateId, WayBack};

impl Record {
    /// What an ephemeral update runs is to be installed.
    pub(super) fn persist(&mut self, at: At, id: UpdateId, by: &Author) -> Response {
        let update = self.update(id)?;
        if update.phase != Phase::Unpersisted {
            let why = match (&update.phase, update.request.options.ephemeral) {
                (Phase::Ended { .. } | Phase::Persisting, _) => "there is nothing to persist",
                (_, false) => "it is installed by itself when it completes",
                (_, true) => "it can be persisted once it runs on all its nodes",
            };
            return Err(Rejection::Phase { update: id, phase: update.phase.to_string(), why: why.into() });
        }
        self.note(at, EventKind::Decision, About::update(id), format!("{} persisted {id}", by.name));
        self.enter(at, id, Phase::Persisting)?;
        Ok(Accepted::Update { update: id })
    }

    /// An ephemeral update runs on a node.
    pub(super) fn running(&mut self, at: At, id: UpdateId, name: &NodeName, software: &Ephemeral) -> Result<(), Rejection> {
        if !self.update(id)?.request.options.ephemeral || software.update != id {
            return Err(Rejection::Outdated);
        }
        self.step(at, id, name, &[Step::Go, Step::Started], Step::Settled)?;
        let mut node = self.node(name)?.clone();
        node.ephemeral = Some(software.clone());
        node.version = at.index;
        self.nodes.put(name.clone(), node);
        self.software_changed(at);
        self.when_wave_done(at, id)
    }

    /// A restart of a node undid what was not installed there.
    pub(super) fn restarted(&mut self, at: At, id: UpdateId, name: &NodeName) -> Result<(), Rejection> {
        if !self.update(id)?.request.options.ephemeral {
            return Err(Rejection::Outdated);
        }
        let why = format!("node {name} was restarted, which undid {id} there");
        self.change_progress(id, name, |progress| {
            if matches!(progress.step, Step::Regressed | Step::Persisted) {
                return Err(Rejection::Outdated);
            }
            progress.step = Step::Regressed;
            progress.since = at.time;
            progress.failure = Some(why.clone());
            progress.restarted = true;
            Ok(())
        })?;
        self.undone(at, id, name);
        self.note(at, EventKind::NodeRestarted, About::both(id, name), why.clone());
        let went_back = self.update(id)?.phase == Phase::Regressing;
        self.after_failure(at, id, &why)?;
        let mut update = self.update(id)?.clone();
        if !went_back && update.phase == Phase::Regressing {
            update.way_back = WayBack::Restart;
            self.updates.put(id, update);
        }
        Ok(())
    }

    /// What an update ran on a node beside what is installed runs no more. What is installed the node says of itself, and may have
    /// said anew since it sent its report.
    pub(super) fn undone(&mut self, at: At, id: UpdateId, name: &NodeName) {
        let Some(mut node) = self.nodes.get(name).cloned() else { return };
        if node.ephemeral.take_if(|runs| runs.update == id).is_some() {
            node.version = at.index;
            self.nodes.put(name.clone(), node);
            self.software_changed(at);
        }
    }

    /// An ephemeral update ends when nothing of it runs any more that is not installed.
    pub(super) fn when_nothing_runs(&mut self, at: At, id: UpdateId, why: &str) -> Result<(), Rejection> {
        if self.update(id)?.nodes.values().any(|node| node.step == Step::Settled) {
            return Ok(());
        }
        self.go_back(at, id, why)
    }

    /// When every node that still ran it has installed it, or has failed to, what is installed is checked.
    pub(super) fn when_all_persisted(&mut self, at: At, id: UpdateId) -> Result<(), Rejection> {
        let steps: Vec<Step> = self.update(id)?.nodes.values().map(|node| node.step).collect();
        if steps.contains(&Step::Settled) {
            return Ok(());
        }
        if !steps.contains(&Step::Persisted) {
            return self.go_back(at, id, "no node could install it");
        }
        self.enter(at, id, Phase::Verifying)
    }
}
