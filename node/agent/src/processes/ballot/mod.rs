//! One round of asking on this node: who is asked, what each said, and when it is over. Its one idea: [`Poll`] is plain
//! data that events move, without a clock, a socket or a process in it, so that whoever drives it can write it to disk
//! before acting, and a restarted agent goes on where the last one was.
//!
//! | how | said hello | what happens |
//! | --- | --- | --- |
//! | `Auto`, `Never` | yes | it is asked through the socket |
//! | `Auto`, `Never` | no | accepts at once; is asked after all if it says hello while the round is open |
//! | `Socket` | yes | it is asked through the socket |
//! | `Socket` | no | waited for; the silence rule at its limit |
//! | `Hook` | either | the hook answers for it |
//!
//! A real answer always beats silence while the round is open. A process may veto after it accepted; whether that is
//! still in time is for the update to say. One that ends abstains, and a veto or deferral it gave lapses with it. What
//! only stands for a process that cannot be found never answers: the silence rule holds for it, unless the process is
//! found first and asked in its place.

mod poll;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tribune_process::protocol::{Proposal, Role};

use super::hooks::HookAnswer;
use super::identity::ProcessId;

pub use poll::Poll;

/// A moment, in milliseconds on a clock of the caller's that never goes back and outlives the agent (the time since boot).
pub type Moment = u64;

/// The shortest time after which a deferring process is asked again, in milliseconds.
pub const SHORTEST_DEFERRAL: u64 = 1_000;

/// What one round asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The proposal; its `role` and `within_ms` are those of each process.
    pub proposal: Proposal,
    /// When this round began, less [`Question::deferred_ms`].
    pub began: Moment,
    /// For how long deferrals held the update up in earlier rounds, in milliseconds.
    #[serde(default)]
    pub deferred_ms: u64,
    /// How long, in milliseconds since `began`, all deferrals together may hold the update up.
    pub max_defer_ms: u64,
}

/// One process to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Which process.
    pub process: ProcessId,
    /// What an operator calls it: its module, or the name it registered.
    pub name: String,
    /// What the update does to it.
    pub role: Role,
    /// How it is asked.
    pub how: How,
    /// Whether it has said hello since it started, to this agent or one before.
    pub speech: Speech,
    /// How long it has to answer, in milliseconds.
    pub within_ms: u64,
    /// What its silence means.
    pub silent: Silent,
    /// Why it cannot be told which process it is, as a sentence; `process` only stands for it then, and cannot answer.
    #[serde(default)]
    pub missing: Option<String>,
}

/// How a process is asked (`ask.how` of its module).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Through the socket if it said hello.
    Auto,
    /// Through the socket; one that has not said hello is waited for.
    Socket,
    /// By its hook.
    Hook,
    /// Not at all, unless it said hello.
    Never,
}

/// Whether a process has said hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speech {
    /// It has.
    SaidHello,
    /// It has not.
    NeverSpoke,
}

/// What silence until the limit means (`ask.silent` of its module).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Silent {
    /// A veto, "no answer".
    Veto,
    /// Consent.
    Accept,
}

/// What a process said, or its hook for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// It accepts.
    Accept,
    /// It objects.
    Veto {
        /// In its own words.
        reason: String,
    },
    /// Ask again.
    Defer {
        /// After how long, in milliseconds.
        for_ms: u64,
        /// In its own words.
        reason: String,
    },
}

impl From<HookAnswer> for Said {
    fn from(answer: HookAnswer) -> Self {
        match answer {
            HookAnswer::Accept => Said::Accept,
            HookAnswer::Defer { for_ms, reason } => Said::Defer { for_ms, reason },
            HookAnswer::Veto { reason } => Said::Veto { reason },
        }
    }
}

/// What happened, as far as a round of asking is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A process said hello (again).
    Hello(ProcessId),
    /// A process, or its hook, answered.
    Answer {
        /// Which process.
        process: ProcessId,
        /// The revision it answers.
        revision: u64,
        /// Its answer.
        said: Said,
    },
    /// A process ended.
    Gone(ProcessId),
    /// Time has passed: [`Poll::next_wake`] has come.
    Tick,
}

/// What to do now. Each may be done twice without harm, after a restart of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this process the proposal; if it is not connected, its next hello asks for it again.
    Propose {
        /// Which process.
        process: ProcessId,
        /// What to send.
        proposal: Proposal,
    },
    /// Run the process's hook, and bring its answer back as [`Event::Answer`].
    RunHook {
        /// Which process.
        process: ProcessId,
        /// What an operator calls it.
        name: String,
        /// What to ask; its `within_ms` is the hook's limit.
        proposal: Proposal,
    },
}

/// Why an event was not taken. The text is for the process that spoke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not one of those asked.
    #[error("this process was not asked about update {update}")]
    NotAsked {
        /// The update of this round.
        update: String,
    },
    /// It answers another revision.
    #[error("update {update} is asked about as revision {asked}, and this answers revision {answered}")]
    OtherRevision {
        /// The update of this round.
        update: String,
        /// The revision asked about.
        asked: u64,
        /// The revision answered.
        answered: u64,
    },
    /// It has answered differently before.
    #[error("this process has already answered update {update} with {answer}; it is asked again if the user wishes so")]
    AlreadyAnswered {
        /// The update of this round.
        update: String,
        /// Its first answer, as a word.
        answer: &'static str,
    },
    /// All have answered, or their time has run out.
    #[error("too late: the answers to update {update} have been reported; only a veto is heard now")]
    TooLate {
        /// The update of this round.
        update: String,
    },
}

/// Why a process counts as accepting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consent {
    /// It said so.
    Said,
    /// It does not speak the socket.
    DoesNotSpeak,
    /// Its module says that it is never asked.
    NeverAsked,
    /// It was silent, which its module says is consent.
    Silent,
}

/// Why a process counts as objecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objection {
    /// It said so.
    Said,
    /// It was silent.
    NoAnswer,
    /// It went on deferring when the update could wait no longer.
    DeferredTooLong,
}

/// One process's answer, as it counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The update may go on.
    Accept(Consent),
    /// It may not.
    Veto {
        /// What kind of objection.
        kind: Objection,
        /// For the user: what the process said word for word, or what became of the question.
        reason: String,
    },
    /// It ended before it answered.
    Abstain,
}

/// One process's ballot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BallotCast {
    /// Which process.
    pub process: ProcessId,
    /// What an operator calls it.
    pub name: String,
    /// What the update does to it.
    pub role: Role,
    /// Its answer.
    pub answer: Answer,
    /// When it was given.
    pub at: Moment,
    /// When the process ended, after it had vetoed: the veto has lapsed.
    pub lapsed: Option<Moment>,
}

impl BallotCast {
    /// Whether it stands in the update's way: a veto that has not lapsed.
    #[must_use]
    pub fn blocks(&self) -> bool {
        matches!(self.answer, Answer::Veto { .. }) && self.lapsed.is_none()
    }
}
