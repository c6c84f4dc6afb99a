//! The round itself. See the module above for its rules.

use serde::{Deserialize, Serialize};
use tribune_planted::{Bug, planted};
use tribune_process::protocol::{Proposal, clean_reason};
use tribune_raft_store::model::Span;

use super::{
    Action, Answer, Ask, BallotCast, Consent, Event, How, Moment, Objection, Question, Refusal, SHORTEST_DEFERRAL, Said, Silent,
    Speech,
};
use crate::processes::identity::ProcessId;

/// A hook ends by its own limit; how much longer, in milliseconds, its answer may take to get here.
const HOOK_GRACE: u64 = 5_000;

/// One round of asking on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    question: Question,
    entries: Vec<Entry>,
    /// When somebody was last seen to hold the update up by deferring.
    #[serde(default)]
    deferred_at: Option<Moment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    ask: Ask,
    state: State,
}

/// Where one process is in the round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// Must say hello before it can be asked.
    AwaitingHello { until: Moment },
    /// Asked.
    Asked { until: Moment },
    /// Asked for more time.
    Deferred { until: Moment, reason: String },
    /// Answered.
    Done { answer: Answer, at: Moment, lapsed: Option<Moment> },
}

impl Poll {
    /// Begins a round: the poll, and what to do first. A process that is named twice is asked once.
    #[must_use]
    pub fn begin(question: Question, asks: Vec<Ask>, now: Moment) -> (Self, Vec<Action>) {
        let mut poll = Self { question, entries: Vec::with_capacity(asks.len()), deferred_at: None };
        let mut actions = Vec::new();
        for ask in asks {
            if poll.entries.iter().any(|entry| entry.ask.process == ask.process) {
                continue;
            }
            let (state, action) = first_step(&poll.question, &ask, now);
            poll.entries.push(Entry { ask, state });
            actions.extend(action);
        }
        (poll, actions)
    }

    /// What to do when this poll was read back from disk by a new agent: who has not answered is asked again and has its
    /// whole time anew, since nobody listened for a while.
    #[must_use]
    pub fn resume(&mut self, now: Moment) -> Vec<Action> {
        let question = &self.question;
        self.entries.iter_mut().filter_map(|entry| entry.resume(question, now)).collect()
    }

    /// Takes an event in, and says what to do.
    ///
    /// # Errors
    /// [`Refusal`] when what a process said does not count; nothing has changed then.
    pub fn handle(&mut self, now: Moment, event: Event) -> Result<Vec<Action>, Refusal> {
        let open = !self.is_over();
        if self.is_deferred() {
            self.deferred_at = Some(now);
        }
        match event {
            Event::Hello(process) => Ok(self.hello(process, open, now).into_iter().collect()),
            Event::Answer { process, revision, said } => {
                self.answer(process, revision, said, open, now)?;
                Ok(Vec::new())
            }
            Event::Gone(process) => {
                self.find(process).into_iter().for_each(|entry| entry.gone(now));
                Ok(Vec::new())
            }
            Event::Tick => {
                let question = &self.question;
                Ok(self.entries.iter_mut().filter_map(|entry| entry.tick(question, now)).collect())
            }
        }
    }

    /// When [`Event::Tick`] is due; none when nobody is waited for.
    #[must_use]
    pub fn next_wake(&self) -> Option<Moment> {
        let until = |entry: &Entry| match &entry.state {
            State::AwaitingHello { until } | State::Asked { until } | State::Deferred { until, .. } => Some(*until),
            State::Done { .. } => None,
        };
        self.entries.iter().filter_map(until).min()
    }

    fn is_deferred(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.state, State::Deferred { .. }))
    }

    /// For how long, in milliseconds, deferrals have held the update up, earlier rounds included. What came before and after
    /// them is not counted: a user's decision may take days.
    #[must_use]
    pub fn held_up(&self, now: Moment) -> u64 {
        let until = if self.is_deferred() { Some(now) } else { self.deferred_at };
        until.map_or(self.question.deferred_ms, |until| until.saturating_sub(self.question.began))
    }

    /// Whether all have answered, or their time has run out.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.state, State::Done { .. }))
    }

    /// The ballots cast so far, in the order of asking; all of them once [`Poll::is_over`]. A later veto, or the lapse of
    /// one, shows here too.
    #[must_use]
    pub fn ballots(&self) -> Vec<BallotCast> {
        self.entries.iter().filter_map(Entry::ballot).collect()
    }

    /// The processes still waited for, by the names operators know, with what each is waited for.
    #[must_use]
    pub fn waiting(&self) -> Vec<(String, String)> {
        self.entries.iter().filter_map(|entry| Some((entry.ask.name.clone(), entry.waits_for()?))).collect()
    }

    /// Every process of this round.
    pub fn processes(&self) -> impl Iterator<Item = ProcessId> + '_ {
        self.entries.iter().map(|entry| entry.ask.process)
    }

    /// Whether this process has not answered yet.
    #[must_use]
    pub fn awaits(&self, process: ProcessId) -> bool {
        self.entries.iter().any(|entry| entry.ask.process == process && !matches!(entry.state, State::Done { .. }))
    }

    /// Whether this process was asked, and neither abstained nor has what it said lapsed.
    #[must_use]
    pub fn counts(&self, process: ProcessId) -> bool {
        let lapsed =
            |state: &State| matches!(state, State::Done { answer: Answer::Abstain, .. } | State::Done { lapsed: Some(_), .. });
        self.entries.iter().any(|entry| entry.ask.process == process && !lapsed(&entry.state))
    }

    /// Asks a process in the place of what stood for it, which has not answered.
    #[must_use]
    pub fn put_in_place(&mut self, stand_in: ProcessId, ask: Ask, now: Moment) -> Vec<Action> {
        let (state, action) = first_step(&self.question, &ask, now);
        if let Some(entry) = self.find(stand_in) {
            *entry = Entry { ask, state };
        }
        action.into_iter().collect()
    }

    /// Takes a process out of this round: its answer does not count any more.
    pub fn forget(&mut self, process: ProcessId) {
        self.entries.retain(|entry| entry.ask.process != process);
    }

    /// What was proposed to this process, to be said again to one that may have to answer to another agent.
    #[must_use]
    pub fn proposal_to(&self, process: ProcessId) -> Option<Proposal> {
        let entry = self.entries.iter().find(|entry| entry.ask.process == process)?;
        Some(Proposal { role: entry.ask.role, within_ms: entry.ask.within_ms, ..self.question.proposal.clone() })
    }

    /// What this round asks.
    #[must_use]
    pub fn question(&self) -> &Question {
        &self.question
    }

    fn find(&mut self, process: ProcessId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.ask.process == process)
    }

    fn hello(&mut self, process: ProcessId, open: bool, now: Moment) -> Option<Action> {
        let question = self.question.clone();
        let entry = self.find(process)?;
        entry.ask.speech = Speech::SaidHello;
        let ask = match &entry.state {
            // It has not heard the proposal, or lost the connection since.
            State::Asked { until } => {
                let left = until.saturating_sub(now);
                return (entry.ask.how != How::Hook).then(|| propose(&question, &entry.ask, left));
            }
            State::AwaitingHello { .. } => true,
            State::Done { answer: Answer::Accept(Consent::DoesNotSpeak | Consent::NeverAsked), .. } => open,
            State::Deferred { .. } | State::Done { .. } => false,
        };
        ask.then(|| entry.ask_now(&question, now))
    }

    fn answer(&mut self, process: ProcessId, revision: u64, said: Said, open: bool, now: Moment) -> Result<(), Refusal> {
        let Question { proposal: Proposal { update, revision: asked, .. }, began: _, deferred_ms: _, max_defer_ms } =
            &self.question;
        let (update, asked, cap) = (update.clone(), *asked, *max_defer_ms);
        let last_call = self.question.began.saturating_add(cap);
        if asked != revision {
            return Err(Refusal::OtherRevision { update, asked, answered: revision });
        }
        let Some(entry) = self.find(process) else { return Err(Refusal::NotAsked { update }) };
        let before = match &entry.state {
            State::Done { answer, .. } => Some(answer),
            State::AwaitingHello { .. } | State::Asked { .. } | State::Deferred { .. } => None,
        };
        match (before, &said) {
            (None, _) => {}
            (Some(Answer::Accept(Consent::Said)), Said::Accept) => return Ok(()),
            (Some(Answer::Veto { kind: Objection::Said, reason }), Said::Veto { reason: again }) if reason == &worded(again) => {
                return Ok(());
            }
            // A process may object until its changeover, also after all have been counted.
            (Some(Answer::Accept(_)), Said::Veto { .. }) => {}
            // A real answer beats silence, as long as it is not reported.
            (Some(Answer::Veto { kind: Objection::NoAnswer, .. } | Answer::Accept(Consent::Silent)), _) if open => {}
            (Some(Answer::Veto { kind: Objection::NoAnswer, .. }), Said::Veto { .. }) => {}
            (Some(Answer::Veto { kind: Objection::NoAnswer, .. } | Answer::Accept(Consent::Silent)), _) => {
                return Err(Refusal::TooLate { update });
            }
            (Some(answer), _) => return Err(Refusal::AlreadyAnswered { update, answer: answer.word() }),
        }
        entry.take(said, (last_call, cap), now);
        Ok(())
    }
}

/// Where a process begins.
fn first_step(question: &Question, ask: &Ask, now: Moment) -> (State, Option<Action>) {
    let until = limit_of(ask, now);
    match (ask.how, ask.speech) {
        (How::Hook, _) => (State::Asked { until }, Some(run_hook(question, ask))),
        (How::Auto | How::Socket | How::Never, Speech::SaidHello) => {
            (State::Asked { until }, Some(propose(question, ask, ask.within_ms)))
        }
        (How::Socket, Speech::NeverSpoke) => (State::AwaitingHello { until }, None),
        (How::Auto, Speech::NeverSpoke) => (done(Answer::Accept(Consent::DoesNotSpeak), now), None),
        (How::Never, Speech::NeverSpoke) => (done(Answer::Accept(Consent::NeverAsked), now), None),
    }
}

/// By when a process that is asked now must have answered.
fn limit_of(ask: &Ask, now: Moment) -> Moment {
    let grace = if ask.how == How::Hook { HOOK_GRACE } else { 0 };
    now.saturating_add(ask.within_ms).saturating_add(grace)
}

fn done(answer: Answer, at: Moment) -> State {
    State::Done { answer, at, lapsed: None }
}

fn propose(question: &Question, ask: &Ask, within_ms: u64) -> Action {
    let proposal = Proposal { role: ask.role, within_ms, ..question.proposal.clone() };
    Action::Propose { process: ask.process, proposal }
}

fn run_hook(question: &Question, ask: &Ask) -> Action {
    let proposal = Proposal { role: ask.role, within_ms: ask.within_ms, ..question.proposal.clone() };
    Action::RunHook { process: ask.process, name: ask.name.clone(), proposal }
}

/// A reason as a user can read it; a process that gives none has objected all the same.
fn worded(reason: &str) -> String {
    let clean = clean_reason(reason);
    if clean.is_empty() { "(gave no reason)".to_owned() } else { clean }
}

impl Entry {
    fn ask_now(&mut self, question: &Question, now: Moment) -> Action {
        self.state = State::Asked { until: limit_of(&self.ask, now) };
        match self.ask.how {
            How::Hook => run_hook(question, &self.ask),
            How::Auto | How::Socket | How::Never => propose(question, &self.ask, self.ask.within_ms),
        }
    }

    fn resume(&mut self, question: &Question, now: Moment) -> Option<Action> {
        match self.state {
            State::AwaitingHello { .. } => {
                self.state = State::AwaitingHello { until: now.saturating_add(self.ask.within_ms) };
                None
            }
            State::Asked { .. } => Some(self.ask_now(question, now)),
            State::Deferred { .. } | State::Done { .. } => None,
        }
    }

    fn take(&mut self, said: Said, (last_call, cap): (Moment, u64), now: Moment) {
        self.state = match said {
            Said::Accept => done(Answer::Accept(Consent::Said), now),
            Said::Veto { reason } => done(Answer::Veto { kind: Objection::Said, reason: worded(&reason) }, now),
            Said::Defer { reason, .. } if now >= last_call => {
                let cap = Span::from_millis(cap);
                let reason = format!("deferred for longer than the update may wait ({cap}); last reason: {}", worded(&reason));
                done(Answer::Veto { kind: Objection::DeferredTooLong, reason }, now)
            }
            Said::Defer { for_ms, reason } => {
                // At the latest it is asked once more when the update can wait no longer.
                let until = now.saturating_add(for_ms.max(SHORTEST_DEFERRAL)).min(last_call);
                State::Deferred { until, reason: worded(&reason) }
            }
        };
    }

    fn gone(&mut self, now: Moment) {
        match &mut self.state {
            State::AwaitingHello { .. } | State::Asked { .. } | State::Deferred { .. } => self.state = done(Answer::Abstain, now),
            State::Done { answer: Answer::Veto { .. }, lapsed: lapsed @ None, .. } => *lapsed = Some(now),
            State::Done { .. } => {}
        }
    }

    fn tick(&mut self, question: &Question, now: Moment) -> Option<Action> {
        match &self.state {
            State::AwaitingHello { until } | State::Asked { until } if *until <= now => {
                self.state = done(self.silence(), now);
                None
            }
            State::Deferred { until, .. } if *until <= now => Some(self.ask_now(question, now)),
            State::AwaitingHello { .. } | State::Asked { .. } | State::Deferred { .. } | State::Done { .. } => None,
        }
    }

    /// What silence until the limit means.
    fn silence(&self) -> Answer {
        let limit = std::time::Duration::from_millis(self.ask.within_ms);
        let reason = match (&self.state, self.ask.how) {
            _ if let Some(why) = &self.ask.missing => worded(why),
            (State::AwaitingHello { .. }, _) => format!("no answer: it did not say hello within {limit:?}"),
            // The hook's runner has its own limit; this is for a runner that was lost.
            (_, How::Hook) => format!("hook did not end within {limit:?}"),
            (_, How::Auto | How::Socket | How::Never) => format!("no answer within {limit:?}"),
        };
        match self.ask.silent {
            Silent::Veto if planted(Bug::SilenceCountsAsAccept) => Answer::Accept(Consent::Said),
            Silent::Veto => Answer::Veto { kind: Objection::NoAnswer, reason },
            Silent::Accept => Answer::Accept(Consent::Silent),
        }
    }

    fn ballot(&self) -> Option<BallotCast> {
        let State::Done { answer, at, lapsed } = &self.state else { return None };
        let Ask { process, name, role, .. } = &self.ask;
        Some(BallotCast { process: *process, name: name.clone(), role: *role, answer: answer.clone(), at: *at, lapsed: *lapsed })
    }

    fn waits_for(&self) -> Option<String> {
        match (&self.state, self.ask.how) {
            (State::AwaitingHello { .. }, _) if self.ask.missing.is_some() => Some("its process to be found".to_owned()),
            (State::AwaitingHello { .. }, _) => Some("its hello".to_owned()),
            (State::Asked { .. }, How::Hook) => Some("its hook".to_owned()),
            (State::Asked { .. }, How::Auto | How::Socket | How::Never) => Some("its answer".to_owned()),
            (State::Deferred { reason, .. }, _) => Some(format!("more time: {reason}")),
            (State::Done { .. }, _) => None,
        }
    }
}

impl Answer {
    /// The answer as one word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Answer::Accept(_) => "accept",
            Answer::Veto { .. } => "veto",
            Answer::Abstain => "nothing, since it ended",
        }
    }
}
