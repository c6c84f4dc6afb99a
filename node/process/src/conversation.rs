//! What a process remembers of each update, so that repeats are harmless. Its one idea: no sockets and no handler
//! here. [`Conversation::hear`] says what a message calls for, and the client carries it out.

use std::collections::VecDeque;

use crate::client::SessionError;
use crate::handler::Ballot;
use crate::protocol::{
    ChangeoverPending, HandOver, MAX_STATE, NodeMessage, Overruled, ProcessMessage, Proposal, TooLong, clean_reason, encode,
};

/// Updates remembered. A node has one at a time; the rest is for outcomes that come late.
const REMEMBERED: usize = 32;

/// What a message from the node calls for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is an old repeat.
    Nothing,
    /// It is a repeat that wants the same answer as before.
    Say(ProcessMessage),
    /// It is news: the handler hears it.
    Handle,
}

/// One update as this process has seen it.
#[derive(Debug)]
struct Memory {
    update: String,
    revision: u64,
    answer: Option<ProcessMessage>,
    late_veto: Option<String>,
    overruled: Option<Overruled>,
    ready: Option<u32>,
    handed_over: Option<(u32, ProcessMessage)>,
    resumed: Option<u32>,
    done: Option<u32>,
    aborted: bool,
    ended: bool,
}

/// Everything this process remembers.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    updates: VecDeque<Memory>,
}

impl Conversation {
    fn find(&mut self, update: &str) -> Option<&mut Memory> {
        self.updates.iter_mut().find(|memory| memory.update == update)
    }

    fn memory(&mut self, update: &str) -> &mut Memory {
        let at = self.updates.iter().position(|memory| memory.update == update).unwrap_or_else(|| {
            if self.updates.len() >= REMEMBERED {
                self.updates.pop_front();
            }
            self.updates.push_back(Memory {
                update: update.to_owned(),
                revision: 0,
                answer: None,
                late_veto: None,
                overruled: None,
                ready: None,
                handed_over: None,
                resumed: None,
                done: None,
                aborted: false,
                ended: false,
            });
            self.updates.len() - 1
        });
        &mut self.updates[at]
    }

    /// What this message calls for; remembers that it was heard.
    pub(crate) fn hear(&mut self, message: &NodeMessage) -> Step {
        match message {
            NodeMessage::Welcome(_) | NodeMessage::Error { .. } => Step::Handle,
            NodeMessage::Proposal(proposal) => self.memory(&proposal.update).proposed(proposal),
            NodeMessage::Overruled(overruled) => {
                let memory = self.memory(&overruled.update);
                memory.late_veto = None;
                if memory.overruled.replace(overruled.clone()).as_ref() == Some(overruled) { Step::Nothing } else { Step::Handle }
            }
            NodeMessage::ChangeoverPending(pending) => self.memory(&pending.update).pending(pending),
            NodeMessage::HandOver(hand_over) => match &self.memory(&hand_over.update).handed_over {
                Some((attempt, said)) if *attempt == hand_over.attempt => Step::Say(said.clone()),
                Some((attempt, _)) if *attempt > hand_over.attempt => Step::Nothing,
                _ => Step::Handle,
            },
            NodeMessage::Resume(resume) => first_of(&mut self.memory(&resume.update).resumed, resume.attempt),
            NodeMessage::ChangeoverDone(done) => first_of(&mut self.memory(&done.update).done, done.attempt),
            NodeMessage::Aborted(aborted) => {
                let memory = self.memory(&aborted.update);
                if std::mem::replace(&mut memory.aborted, true) { Step::Nothing } else { Step::Handle }
            }
            NodeMessage::Outcome(told) => {
                let memory = self.memory(&told.update);
                let seen = ProcessMessage::Seen { update: told.update.clone() };
                if std::mem::replace(&mut memory.ended, true) { Step::Say(seen) } else { Step::Handle }
            }
        }
    }

    /// The handler has answered a proposal.
    pub(crate) fn answered(&mut self, proposal: &Proposal, ballot: Ballot) -> ProcessMessage {
        let (update, revision) = (proposal.update.clone(), proposal.revision);
        let memory = self.memory(&update);
        let answer = match (memory.late_veto.clone(), ballot) {
            // Said from another thread while the handler was thinking: the objection counts.
            (Some(reason), _) => ProcessMessage::Veto { update, revision, reason },
            (None, Ballot::Accept) => ProcessMessage::Accept { update, revision },
            (None, Ballot::Veto(reason)) => ProcessMessage::Veto { update, revision, reason: clean_reason(&reason) },
            (None, Ballot::Defer(time, reason)) => {
                let for_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                // Not remembered: when the node asks again, it wants a new answer.
                return ProcessMessage::Defer { update, revision, for_ms, reason: clean_reason(&reason) };
            }
        };
        memory.answer = Some(answer.clone());
        answer
    }

    /// The handler has brought the process to a safe point; or a veto came in the meantime, which then is the answer.
    pub(crate) fn became_ready(&mut self, pending: &ChangeoverPending) -> ProcessMessage {
        let memory = self.memory(&pending.update);
        if let Some(veto) = memory.standing_veto() {
            return veto;
        }
        memory.ready = Some(pending.attempt);
        ProcessMessage::Ready { update: pending.update.clone(), attempt: Some(pending.attempt) }
    }

    /// The handler has handed over.
    pub(crate) fn handed_over(&mut self, hand_over: &HandOver, state: Option<String>) -> Result<ProcessMessage, TooLong> {
        if let Some(state) = state.as_ref().filter(|state| state.len() > MAX_STATE) {
            return Err(TooLong { bytes: state.len() });
        }
        let update = hand_over.update.clone();
        let said = ProcessMessage::HandedOver { update, attempt: Some(hand_over.attempt), state };
        encode(&said)?;
        self.memory(&hand_over.update).handed_over = Some((hand_over.attempt, said.clone()));
        Ok(said)
    }

    /// The process objects after it was asked.
    pub(crate) fn veto(&mut self, update: &str, reason: &str) -> Result<ProcessMessage, SessionError> {
        let memory = self.find(update).filter(|memory| !memory.ended && !memory.aborted);
        let memory = memory.ok_or_else(|| SessionError::NotAsked { update: update.to_owned() })?;
        // One that was let go again may object until it is ready for the next attempt.
        if memory.ready > memory.resumed {
            return Err(SessionError::AlreadyReady { update: update.to_owned() });
        }
        if memory.overruled.is_some() {
            return Err(SessionError::Overruled { update: update.to_owned() });
        }
        let reason = clean_reason(reason);
        let veto = ProcessMessage::Veto { update: update.to_owned(), revision: memory.revision, reason: reason.clone() };
        memory.late_veto = Some(reason);
        memory.answer = Some(veto.clone());
        Ok(veto)
    }
}

impl Memory {
    fn proposed(&mut self, proposal: &Proposal) -> Step {
        if self.ended || proposal.revision < self.revision {
            return Step::Nothing;
        }
        if proposal.revision > self.revision {
            self.revision = proposal.revision;
            self.answer = None;
            self.late_veto = None;
            self.overruled = None;
            self.aborted = false;
        }
        self.answer.clone().map_or(Step::Handle, Step::Say)
    }

    fn pending(&mut self, pending: &ChangeoverPending) -> Step {
        match self.ready {
            Some(attempt) if attempt > pending.attempt => Step::Nothing,
            Some(attempt) if attempt == pending.attempt => {
                Step::Say(ProcessMessage::Ready { update: self.update.clone(), attempt: Some(attempt) })
            }
            _ => self.standing_veto().map_or(Step::Handle, Step::Say),
        }
    }

    fn standing_veto(&self) -> Option<ProcessMessage> {
        let reason = self.late_veto.clone()?;
        Some(ProcessMessage::Veto { update: self.update.clone(), revision: self.revision, reason })
    }
}

/// Whether an attempt is heard of for the first time.
fn first_of(heard: &mut Option<u32>, attempt: u32) -> Step {
    if heard.is_some_and(|heard| heard >= attempt) {
        return Step::Nothing;
    }
    *heard = Some(attempt);
    Step::Handle
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::protocol::{Outcome, OutcomeTold, Resume, Role};
    use std::time::Duration;

    fn proposal(revision: u64) -> Proposal {
        Proposal {
            update: "u".into(),
            revision,
            packages: vec![],
            modules: vec![],
            left_out: 0,
            role: Role::Replaced,
            within_ms: 5000,
        }
    }

    fn pending(attempt: u32) -> ChangeoverPending {
        ChangeoverPending { update: "u".into(), attempt, role: Role::Replaced, within_ms: 5000 }
    }

    #[test]
    fn a_repeated_proposal_gets_the_first_answer_and_a_new_revision_is_asked_anew() {
        let mut talk = Conversation::default();
        assert_eq!(talk.hear(&NodeMessage::Proposal(proposal(1))), Step::Handle);
        let veto = talk.answered(&proposal(1), Ballot::Veto("busy".into()));
        assert_eq!(talk.hear(&NodeMessage::Proposal(proposal(1))), Step::Say(veto));
        assert_eq!(talk.hear(&NodeMessage::Proposal(proposal(2))), Step::Handle);
        assert_eq!(talk.hear(&NodeMessage::Proposal(proposal(1))), Step::Nothing);
    }

    #[test]
    fn a_deferral_is_not_remembered_since_asking_again_wants_a_new_answer() {
        let mut talk = Conversation::default();
        talk.hear(&NodeMessage::Proposal(proposal(1)));
        talk.answered(&proposal(1), Ballot::Defer(Duration::from_secs(1), "later".into()));
        assert_eq!(talk.hear(&NodeMessage::Proposal(proposal(1))), Step::Handle);
    }

    #[test]
    fn ready_is_said_again_for_a_repeat_and_decided_anew_for_a_new_attempt() {
        let mut talk = Conversation::default();
        assert_eq!(talk.hear(&NodeMessage::ChangeoverPending(pending(0))), Step::Handle);
        let ready = talk.became_ready(&pending(0));
        assert_eq!(talk.hear(&NodeMessage::ChangeoverPending(pending(0))), Step::Say(ready));
        let resume = NodeMessage::Resume(Resume { update: "u".into(), attempt: 0 });
        assert_eq!(talk.hear(&resume), Step::Handle);
        assert_eq!(talk.hear(&resume), Step::Nothing);
        assert_eq!(talk.hear(&NodeMessage::ChangeoverPending(pending(1))), Step::Handle);
    }

    #[test]
    fn a_late_veto_stands_in_for_ready_and_is_refused_after_it() {
        let mut talk = Conversation::default();
        assert!(matches!(talk.veto("u", "no"), Err(SessionError::NotAsked { .. })));
        talk.hear(&NodeMessage::Proposal(proposal(3)));
        talk.answered(&proposal(3), Ballot::Accept);
        let veto = talk.veto("u", "a call came in").unwrap();
        assert_eq!(veto, ProcessMessage::Veto { update: "u".into(), revision: 3, reason: "a call came in".into() });
        assert_eq!(talk.hear(&NodeMessage::ChangeoverPending(pending(0))), Step::Say(veto.clone()));
        assert_eq!(talk.became_ready(&pending(0)), veto);

        talk.hear(&NodeMessage::Proposal(proposal(4)));
        talk.became_ready(&pending(1));
        assert!(matches!(talk.veto("u", "no"), Err(SessionError::AlreadyReady { .. })));
        talk.hear(&NodeMessage::Resume(Resume { update: "u".into(), attempt: 1 }));
        assert!(talk.veto("u", "no").is_ok(), "it was let go again, and is not ready for the next attempt");
    }

    #[test]
    fn one_that_was_overruled_is_ready_like_any_other() {
        let mut talk = Conversation::default();
        talk.hear(&NodeMessage::Proposal(proposal(1)));
        talk.veto("u", "no").unwrap();
        let overruled = NodeMessage::Overruled(Overruled { update: "u".into(), by: "anna".into(), why: "leak".into() });
        assert_eq!(talk.hear(&overruled), Step::Handle);
        assert_eq!(talk.hear(&overruled), Step::Nothing);
        assert!(matches!(talk.veto("u", "no"), Err(SessionError::Overruled { .. })));
        assert_eq!(talk.hear(&NodeMessage::ChangeoverPending(pending(0))), Step::Handle);
        assert!(matches!(talk.became_ready(&pending(0)), ProcessMessage::Ready { .. }));
    }

    #[test]
    fn an_outcome_is_handled_once_and_acknowledged_each_time() {
        let mut talk = Conversation::default();
        let told = NodeMessage::Outcome(OutcomeTold { update: "u".into(), outcome: Outcome::Completed, reason: None });
        assert_eq!(talk.hear(&told), Step::Handle);
        assert_eq!(talk.hear(&told), Step::Say(ProcessMessage::Seen { update: "u".into() }));
        assert_eq!(talk.hear(&NodeMessage::Proposal(proposal(9))), Step::Nothing);
    }

    #[test]
    fn a_state_that_does_not_fit_a_line_is_refused_rather_than_lost() {
        let mut talk = Conversation::default();
        let hand_over = HandOver { update: "u".into(), attempt: 0 };
        assert!(talk.handed_over(&hand_over, Some("x".repeat(MAX_STATE + 1))).is_err());
        assert!(talk.handed_over(&hand_over, Some("\u{1}".repeat(MAX_STATE))).is_err(), "JSON makes six bytes of each");
        assert!(talk.handed_over(&hand_over, Some("x".repeat(MAX_STATE))).is_ok());
    }

    #[test]
    fn memory_is_bounded() {
        let mut talk = Conversation::default();
        for n in 0..1000 {
            talk.hear(&NodeMessage::Aborted(crate::Aborted { update: n.to_string(), reason: String::new() }));
        }
        assert_eq!(talk.updates.len(), REMEMBERED);
    }
}
