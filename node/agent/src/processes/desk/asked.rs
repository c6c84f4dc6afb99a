//! What was asked of one process, so that it answers only that. Its one idea: an answer to what nobody asked is refused
//! with a reason, never quietly dropped, so that whoever writes a client sees the mistake.

use std::collections::VecDeque;

use tribune_process::protocol::{NodeMessage, ProcessMessage};

use super::DeskEvent;
use crate::processes::ballot::Said;
use crate::processes::identity::ProcessId;

/// Updates remembered for one process, and as many whose outcome it has acknowledged. A node has one at a time.
const REMEMBERED: usize = 32;

/// What was asked of one process.
#[derive(Debug, Default)]
pub(super) struct Asked {
    updates: Vec<Update>,
    /// The updates whose outcome it has acknowledged, newest last: it acknowledges each time that it is told.
    seen: VecDeque<String>,
}

#[derive(Debug)]
struct Update {
    id: String,
    revision: Option<u64>,
    pending: Option<u32>,
    ready: Option<u32>,
    resumed: Option<u32>,
    hand_over: Option<u32>,
    overruled: bool,
    ended: bool,
}

impl Asked {
    /// Whether nothing was asked that could still be answered.
    pub(super) fn is_empty(&self) -> bool {
        self.updates.is_empty()
    }

    /// Remembers what the process is being told.
    pub(super) fn told(&mut self, message: &NodeMessage) {
        let Some(id) = message.update() else { return };
        let update = self.update(id);
        match message {
            NodeMessage::Proposal(proposal) => update.revision = update.revision.max(Some(proposal.revision)),
            NodeMessage::ChangeoverPending(pending) => update.pending = update.pending.max(Some(pending.attempt)),
            NodeMessage::HandOver(hand_over) => update.hand_over = update.hand_over.max(Some(hand_over.attempt)),
            NodeMessage::Resume(resume) => update.resumed = update.resumed.max(Some(resume.attempt)),
            NodeMessage::Overruled(_) => update.overruled = true,
            NodeMessage::Outcome(_) => update.ended = true,
            NodeMessage::Welcome(_) | NodeMessage::ChangeoverDone(_) | NodeMessage::Aborted(_) | NodeMessage::Error { .. } => {}
        }
    }

    fn update(&mut self, id: &str) -> &mut Update {
        let at = self.updates.iter().position(|update| update.id == id).unwrap_or_else(|| {
            if self.updates.len() >= REMEMBERED {
                self.updates.remove(0);
            }
            self.updates.push(Update {
                id: id.to_owned(),
                revision: None,
                pending: None,
                ready: None,
                resumed: None,
                hand_over: None,
                overruled: false,
                ended: false,
            });
            self.updates.len() - 1
        });
        &mut self.updates[at]
    }

    /// What a message says, if it answers what was asked; else why it is refused. `hello` is not an answer: the caller
    /// has dealt with it.
    pub(super) fn hear(&mut self, process: ProcessId, message: ProcessMessage) -> Result<Option<DeskEvent>, String> {
        let event = match message {
            ProcessMessage::Hello { .. } => return Ok(None),
            ProcessMessage::Accept { update, revision } => self.ballot(process, update, revision, Said::Accept)?,
            ProcessMessage::Veto { update, revision, reason } => self.ballot(process, update, revision, Said::Veto { reason })?,
            ProcessMessage::Defer { update, revision, for_ms, reason } => {
                self.ballot(process, update, revision, Said::Defer { for_ms, reason })?
            }
            ProcessMessage::Ready { update, attempt } => {
                let asked = self.find(&update)?;
                let newest = asked.pending.ok_or_else(|| format!("no changeover of update {update} is pending here"))?;
                let attempt = matching(&update, newest, attempt)?;
                asked.ready = Some(attempt);
                DeskEvent::Ready { process, update, attempt }
            }
            ProcessMessage::HandedOver { update, attempt, state } => {
                let newest = self.find(&update)?.hand_over;
                let newest = newest.ok_or_else(|| format!("this process was not told to hand over for update {update}"))?;
                let attempt = matching(&update, newest, attempt)?;
                DeskEvent::HandedOver { process, update, attempt, state }
            }
            ProcessMessage::Health { status, detail } => {
                DeskEvent::Health { process, status, detail: detail.map(|text| tribune_process::protocol::clean_reason(&text)) }
            }
            ProcessMessage::Seen { update } => {
                let asked = self.updates.iter().any(|asked| asked.id == update);
                if !asked && self.seen.contains(&update) {
                    return Ok(None);
                }
                if !self.find(&update)?.ended {
                    return Err(format!("update {update} has not ended"));
                }
                self.updates.retain(|asked| asked.id != update);
                self.acknowledged(&update);
                DeskEvent::Seen { process, update }
            }
        };
        Ok(Some(event))
    }

    fn acknowledged(&mut self, update: &str) {
        self.seen.retain(|seen| seen != update);
        if self.seen.len() >= REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back(update.to_owned());
    }

    fn find(&mut self, update: &str) -> Result<&mut Update, String> {
        let shown: String = update.chars().take(80).collect();
        let found = self.updates.iter_mut().find(|asked| asked.id == update);
        found.ok_or_else(|| format!("this process was not asked about update {shown:?}"))
    }

    fn ballot(&mut self, process: ProcessId, update: String, revision: u64, said: Said) -> Result<DeskEvent, String> {
        let asked = self.find(&update)?;
        match asked.revision {
            None => return Err(format!("update {update} was not proposed to this process")),
            Some(newest) if newest != revision => {
                return Err(format!("update {update} was proposed as revision {newest}; this answers revision {revision}"));
            }
            Some(_) => {}
        }
        if asked.ended {
            return Err(format!("update {update} has ended"));
        }
        if matches!(said, Said::Veto { .. } | Said::Defer { .. }) {
            if asked.overruled {
                return Err(format!("the user went past this process's veto of update {update}: it cannot object again"));
            }
            // One that was let go again may object until it is ready for the next attempt.
            if asked.ready > asked.resumed {
                return Err(format!("too late: this process has said that it is ready for update {update}"));
            }
        }
        Ok(DeskEvent::Ballot { process, update, revision, said })
    }
}

fn matching(update: &str, newest: u32, said: Option<u32>) -> Result<u32, String> {
    match said {
        Some(said) if said != newest => {
            Err(format!("attempt {newest} is the newest of update {update}; this answers attempt {said}"))
        }
        _ => Ok(newest),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tribune_process::protocol::{ChangeoverPending, Outcome, OutcomeTold, Overruled, Proposal, Role};

    const ME: ProcessId = ProcessId { pid: 7, start_time: 70 };

    fn proposed(revision: u64) -> Asked {
        let mut asked = Asked::default();
        asked.told(&NodeMessage::Proposal(Proposal {
            update: "u".into(),
            revision,
            packages: vec![],
            modules: vec![],
            left_out: 0,
            role: Role::Affected,
            within_ms: 1,
        }));
        asked
    }

    fn veto(revision: u64) -> ProcessMessage {
        ProcessMessage::Veto { update: "u".into(), revision, reason: "busy".into() }
    }

    #[test]
    fn answers_count_only_about_what_was_asked() {
        assert!(Asked::default().hear(ME, veto(1)).unwrap_err().contains("was not asked about update \"u\""));
        let mut asked = proposed(2);
        assert!(asked.hear(ME, veto(1)).unwrap_err().contains("revision 2"));
        assert!(asked.hear(ME, veto(2)).unwrap().is_some());
        let ready = ProcessMessage::Ready { update: "u".into(), attempt: None };
        assert!(asked.hear(ME, ready).unwrap_err().contains("pending"));
        let handed = ProcessMessage::HandedOver { update: "u".into(), attempt: None, state: None };
        assert!(asked.hear(ME, handed).unwrap_err().contains("not told to hand over"));
        assert!(asked.hear(ME, ProcessMessage::Seen { update: "u".into() }).unwrap_err().contains("not ended"));
    }

    #[test]
    fn an_objection_is_too_late_after_ready_and_after_being_overruled() {
        let mut asked = proposed(1);
        asked.told(&NodeMessage::ChangeoverPending(ChangeoverPending {
            update: "u".into(),
            attempt: 4,
            role: Role::Affected,
            within_ms: 1,
        }));
        assert!(asked.hear(ME, veto(1)).is_ok());
        let ready = |attempt| ProcessMessage::Ready { update: "u".into(), attempt };
        assert!(asked.hear(ME, ready(Some(3))).unwrap_err().contains("attempt 4"));
        let event = asked.hear(ME, ready(None)).unwrap();
        assert_eq!(event, Some(DeskEvent::Ready { process: ME, update: "u".into(), attempt: 4 }));
        assert!(asked.hear(ME, veto(1)).unwrap_err().contains("too late"));

        let mut asked = proposed(1);
        asked.told(&NodeMessage::Overruled(Overruled { update: "u".into(), by: "anna".into(), why: "leak".into() }));
        assert!(asked.hear(ME, veto(1)).unwrap_err().contains("cannot object again"));
    }

    #[test]
    fn an_outcome_that_was_told_twice_may_be_acknowledged_twice_and_no_other() {
        let mut asked = proposed(1);
        let told = || NodeMessage::Outcome(OutcomeTold { update: "u".into(), outcome: Outcome::Aborted, reason: None });
        let seen = |update: &str| ProcessMessage::Seen { update: update.into() };
        asked.told(&told());
        asked.told(&told());
        assert_eq!(asked.hear(ME, seen("u")).unwrap(), Some(DeskEvent::Seen { process: ME, update: "u".into() }));
        assert_eq!(asked.hear(ME, seen("u")).unwrap(), None);
        assert!(asked.hear(ME, seen("v")).unwrap_err().contains("was not asked about update \"v\""));
        assert!(asked.hear(ME, veto(1)).unwrap_err().contains("was not asked about update \"u\""));
        // It is told again when the node has not written down that it was.
        asked.told(&told());
        assert!(asked.hear(ME, seen("u")).unwrap().is_some());
        for n in 0..1000 {
            asked.told(&NodeMessage::Outcome(OutcomeTold { update: n.to_string(), outcome: Outcome::Aborted, reason: None }));
            assert!(asked.hear(ME, seen(&n.to_string())).unwrap().is_some());
        }
        assert_eq!(asked.seen.len(), REMEMBERED);
    }

    #[test]
    fn an_update_is_forgotten_when_its_outcome_was_seen_and_memory_is_bounded() {
        let mut asked = proposed(1);
        let told = OutcomeTold { update: "u".into(), outcome: Outcome::Aborted, reason: None };
        asked.told(&NodeMessage::Outcome(told));
        assert!(asked.hear(ME, veto(1)).unwrap_err().contains("has ended"));
        assert!(asked.hear(ME, ProcessMessage::Seen { update: "u".into() }).unwrap().is_some());
        assert!(asked.is_empty());
        for n in 0..1000 {
            asked.told(&NodeMessage::Outcome(OutcomeTold { update: n.to_string(), outcome: Outcome::Aborted, reason: None }));
        }
        assert_eq!(asked.updates.len(), REMEMBERED);
    }
}
