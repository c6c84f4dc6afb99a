//! What processes say on the process socket. Its one idea: a hello is the moment at which a process hears everything that
//! it may have missed, so nothing that is told to a process can be lost.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use tribune_keeper::ChildId;
use tribune_process::protocol::{NodeMessage, Overruled};
use tribune_raft_store::model::UpdateId;

use super::journal::{ReadyState, Stage};
use super::modules::state_folder;
use super::task::{Open, Task};
use super::watch;
use crate::processes::ProcessId;
use crate::processes::ballot::Event;
use crate::processes::desk::{ConnectedProcess, DeskEvent};
use crate::processes::system::System;

/// The process group of a process. One that has ended already says no more.
pub(super) fn group_of(system: &dyn System, process: ProcessId) -> u32 {
    system.look_up(process.pid).map_or(process.pid, |seen| seen.group)
}

impl Task {
    /// The update that processes call so.
    pub(super) fn named(&mut self, name: &str) -> Option<&mut Open> {
        self.state.updates.values_mut().find(|open| open.journal.name == name)
    }

    fn id_of(&self, name: &str) -> Option<UpdateId> {
        self.state.updates.values().find(|open| open.journal.name == name).map(|open| open.journal.update)
    }

    /// Notes what a process said.
    pub(super) async fn desk_event(&mut self, event: DeskEvent) {
        match event {
            DeskEvent::Hello(info) => self.hello(info).await,
            DeskEvent::Ballot { process, update, revision, said } => match self.id_of(&update) {
                Some(id) => self.note_ballot(process, id, revision, said).await,
                None => tracing::debug!(%process, update, "an answer about an update that is over"),
            },
            DeskEvent::Ready { process, update, attempt } => self.note_ready(process, &update, attempt),
            DeskEvent::HandedOver { process, update, attempt, state } => {
                self.handed_over(process, &update, attempt, state);
            }
            DeskEvent::Health { process, status, detail } => self.state.watch.health(process, status, detail),
            DeskEvent::Seen { process, update } => {
                if let Some(id) = self.id_of(&update) {
                    self.settle_telling(id, process);
                }
            }
            DeskEvent::Disconnected(process) => {
                self.state.connected.remove(&process);
            }
            DeskEvent::Gone(process) => self.gone(process),
        }
    }

    async fn hello(&mut self, info: ConnectedProcess) {
        let process = info.process;
        self.state.connected.insert(process, info);
        self.state.watch.hello(process);
        if self.state.spoke.insert(process, group_of(self.config.system.as_ref(), process)).is_none() {
            self.desk.watch(process).await;
            self.save_spoke().await;
        }
        self.remind_hand_over(process).await;
        for id in self.state.updates.keys().copied().collect::<Vec<_>>() {
            self.catch_up(id, process).await;
        }
    }

    /// Remembers who said hello, so that an agent after this one waits for them.
    async fn save_spoke(&mut self) {
        let spoke: BTreeSet<_> = self.state.spoke.keys().collect();
        if let Err(error) = self.storage.save(super::start::SPOKE, &spoke).await {
            tracing::warn!(%error, "who said hello is not remembered; an agent after this one may take a process for one that does not speak");
        }
    }

    /// Says to a process what it may have missed of one update.
    async fn catch_up(&mut self, id: UpdateId, process: ProcessId) {
        let now = self.now();
        let Some(open) = self.state.updates.get_mut(&id) else { return };
        if !open.journal.asked.contains_key(&process) && !open.journal.to_tell.contains(&process) {
            return;
        }
        let early = open.journal.is_early();
        let mut actions = Vec::new();
        if early {
            for poll in &mut open.note().polls {
                // A hello is never refused.
                actions.extend(poll.handle(now, Event::Hello(process)).unwrap_or_default());
            }
            if actions.is_empty() && open.reminded.insert(process) {
                // This agent's socket takes a late objection only from those who were asked by it.
                let told = open.journal.polls.iter().rev().find_map(|poll| poll.proposal_to(process));
                if let Some(proposal) = told {
                    self.tell(process, NodeMessage::Proposal(proposal)).await;
                }
            }
        }
        self.perform(id, actions).await;
        let Some(journal) = self.journal(id) else { return };
        if let Some(overruling) = journal.overruled.get(&process).filter(|_| early) {
            let (by, why) = (overruling.by.clone(), overruling.why.clone());
            self.tell(process, NodeMessage::Overruled(Overruled { update: journal.name.clone(), by, why })).await;
        }
        self.remind_pending(&journal, process).await;
        if journal.to_tell.contains(&process)
            && matches!(journal.stage, Stage::Started | Stage::Settled { .. } | Stage::Regressed { .. })
        {
            self.tell_done(&journal, process).await;
        }
        self.tell_outcome(id, process).await;
    }

    /// A process has ended.
    fn gone(&mut self, process: ProcessId) {
        let now = self.now();
        self.state.connected.remove(&process);
        self.state.spoke.remove(&process);
        self.state.register.gone(process);
        for handing in self.state.handing_over.values_mut() {
            handing.waiting.remove(&process);
        }
        for id in self.state.updates.keys().copied().collect::<Vec<_>>() {
            self.settle_telling(id, process);
            let Some(open) = self.state.updates.get_mut(&id).filter(|open| open.journal.is_early()) else { continue };
            if open.journal.was_asked(process) {
                for poll in &mut open.note().polls {
                    // An end is never refused.
                    let _ = poll.handle(now, Event::Gone(process));
                }
            }
            let name = open.journal.name.clone();
            self.move_readying(process, &name, ReadyState::Gone);
        }
    }

    fn handed_over(&mut self, process: ProcessId, update: &str, attempt: u32, state: Option<String>) {
        let Some(open) = self.named(update) else { return };
        if open.journal.attempt() != attempt {
            return;
        }
        let handing = self.state.handing_over.iter_mut().find(|(_, handing)| handing.waiting.contains(&process));
        let Some((child, handing)) = handing else { return };
        handing.waiting.remove(&process);
        let child = child.clone();
        tracing::info!(%child, %process, "handed over");
        if let Some(state) = state {
            self.keep_state(&child, &state);
        }
    }

    /// Puts what a process handed over where its successor finds it (`$TRIBUNE_STATE`).
    fn keep_state(&self, child: &ChildId, state: &str) {
        let path = self.state_file(&child.key);
        let keep = || {
            let mut file = tempfile::NamedTempFile::new_in(state_folder(&self.config.data))?;
            file.write_all(state.as_bytes())?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok::<_, std::io::Error>(())
        };
        if let Err(error) = keep() {
            tracing::warn!(%child, %error, path = %path.display(), "what a process handed over is lost to its successor");
        }
    }

    /// Removes what was handed over in an earlier changeover.
    pub(super) fn clear_state(&self, key: &str) {
        let path = self.state_file(key);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "an old state cannot be removed");
            }
            _ => {}
        }
    }

    /// Where a module's process finds what the one before it handed over.
    pub(super) fn state_file(&self, key: &str) -> PathBuf {
        state_folder(&self.config.data).join(key.replace('/', "."))
    }

    /// The processes of the node's children.
    pub(super) fn child_processes(&self) -> BTreeSet<ProcessId> {
        self.state.kids.iter().filter_map(watch::process).collect()
    }
}
