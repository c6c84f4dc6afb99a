//! What a node has done in one update, as it lies on disk. Its one idea: the journal is written before the step that it
//! tells of, so that whoever reads it after a crash knows what may have happened, and everything that the master hears
//! ([`Journal::reports`]) is worked out from it alone.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tribune_keeper::ChildId;
use tribune_messages::node::{Directive, Keep, Overruling};
use tribune_process::protocol::Role;
use tribune_raft_store::model::{
    Answer, BallotCast, Ephemeral, Generation, NodePlan, NodeReport, ProcessRef, Span, Step, UpdateId, UpdateKind,
};

use crate::local::Software;
use crate::processes::ProcessId;
use crate::processes::ballot::{self, Moment, Poll};
use crate::processes::outcome::Telling;

/// The journal's format that this build writes and reads.
pub const JOURNAL_FORMAT: u32 = 1;
/// Updates that this node makes by itself have numbers from here on; the cluster never gets there.
pub const FIRST_LOCAL_UPDATE: u64 = 1 << 52;

/// One update on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// [`JOURNAL_FORMAT`].
    pub format: u32,
    /// Which update.
    pub update: UpdateId,
    /// What processes call it.
    pub name: String,
    /// Whether it installs or goes back.
    pub kind: UpdateKind,
    /// The plan it is about.
    pub revision: u32,
    /// The round of asking it is about.
    pub round: u32,
    /// What changes.
    pub plan: NodePlan,
    /// The canonical manifests of the packages it changes to.
    pub manifests: Vec<String>,
    /// How long processes may defer, all in all.
    pub max_defer: Span,
    /// How long they did in rounds before the present one, in milliseconds.
    #[serde(default)]
    pub deferred_ms: u64,
    /// How long the node keeps what it changes to.
    #[serde(default)]
    pub keep: Keep,
    /// The order behind an update that this node makes by itself.
    pub local: Option<LocalOrder>,
    /// The generation that was current when it began.
    pub before: u64,
    /// When it began to be asked about.
    pub began: Moment,
    /// Counts the times it was asked about anew; processes see it as the revision.
    pub question: u64,
    /// Whether the present round of asking has begun.
    pub asking: Asking,
    /// The rounds of asking whose answers count.
    pub polls: Vec<Poll>,
    /// The answers as they were reported last; none while nobody has been heard out.
    pub voted: Option<Vec<BallotCast>>,
    /// Every process that was ever asked: it hears the outcome.
    #[serde(with = "pairs")]
    pub asked: BTreeMap<ProcessId, String>,
    /// Who was overruled, and has been told or is told on its next hello.
    #[serde(with = "pairs")]
    pub overruled: BTreeMap<ProcessId, Overruling>,
    /// How far it is.
    pub stage: Stage,
    /// The generation it changes to, once that is in local storage.
    pub staged: Option<u64>,
    /// Why what runs could not be installed.
    #[serde(default)]
    pub unpersistable: Option<String>,
    /// Counts the changeovers tried, the ways back included.
    pub tries: u32,
    /// What was reported of attempts to get ready: `Pending`, `Ready` and `Released`.
    pub attempts: Vec<NodeReport>,
    /// Running children that are restarted because something they depend on changes.
    pub restarted: BTreeSet<ChildId>,
    /// Processes that depend on what changes, and the reloaded ones: they hear that the changeover has happened.
    pub to_tell: BTreeSet<ProcessId>,
}

/// A change that is made on this node, without the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalOrder {
    /// The generation it goes back to.
    pub to: u64,
    /// Vetoes do not count, for this reason.
    pub force: Option<String>,
}

/// How far an update is on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "stage")]
pub enum Stage {
    /// Processes are asked, or all have answered ([`Journal::voted`]).
    Asking,
    /// What is needed is put into local storage.
    Staging,
    /// It is there.
    Staged,
    /// Processes come to their safe points.
    Pending {
        /// Who, and how far.
        processes: Vec<Readying>,
    },
    /// They are there.
    Ready {
        /// Who was told.
        processes: Vec<ProcessId>,
    },
    /// New modules may have been started.
    Changing,
    /// All new modules run, and have to hold.
    Started,
    /// They held, and run until the node is restarted.
    Running {
        /// What runs.
        software: Ephemeral,
    },
    /// They run until the node is restarted, and are put into local storage meanwhile.
    Persisting {
        /// What runs.
        software: Ephemeral,
        /// The generation that has it, once that is in local storage.
        staged: Option<u64>,
    },
    /// They held, and are what is installed.
    Settled {
        /// What is installed.
        current: Generation,
    },
    /// The old modules take over again.
    GoingBack {
        /// Why, if that was this node's own doing.
        why: Option<String>,
    },
    /// They run.
    Regressed {
        /// What is installed.
        current: Generation,
        /// Why, if that was this node's own doing.
        why: Option<String>,
    },
    /// The node was restarted, and what was not installed is gone.
    Restarted {
        /// What is installed.
        current: Generation,
    },
    /// It cannot go on.
    Failed {
        /// The step it had come to.
        step: Step,
        /// Why.
        why: String,
    },
    /// It is over; those who were asked are told so.
    Ended {
        /// What they hear, and who has not yet.
        telling: Telling,
    },
}

/// A process on its way to a safe point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readying {
    /// Which process.
    pub process: ProcessId,
    /// What an operator calls it.
    pub name: String,
    /// What the update does to it.
    pub role: Role,
    /// How long it may take.
    pub within: Span,
    /// How far it is.
    pub state: ReadyState,
}

/// How far a process is on its way to a safe point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum ReadyState {
    /// It was told, and has until then.
    Told {
        /// The moment.
        until: Moment,
    },
    /// It does not speak, so it is ready.
    DoesNotSpeak,
    /// It said so.
    Ready,
    /// It was overruled and its time ran out: it is changed over as it is.
    Overruled,
    /// It has ended.
    Gone,
}

/// What should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// The generation that was current when the update began: the node changes to it.
    Before,
    /// What the update changes to: the node changes to it.
    After,
    /// The same, and the node has come to it.
    UntilRestart,
}

/// Whether a round of asking has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asking {
    /// Nobody was asked in it yet.
    ToBegin,
    /// Everybody whose answer does not stand was asked.
    Begun,
}

impl Journal {
    /// The journal of an update that this node is told of for the first time.
    pub fn begin(directive: &Directive, before: u64, now: Moment) -> Self {
        Self {
            format: JOURNAL_FORMAT,
            update: directive.update,
            name: directive.update.to_string(),
            kind: directive.kind,
            revision: directive.revision,
            round: directive.round,
            plan: directive.plan.clone(),
            manifests: directive.manifests.clone(),
            max_defer: directive.max_defer,
            deferred_ms: 0,
            keep: directive.keep,
            local: None,
            before,
            began: now,
            question: 0,
            asking: Asking::ToBegin,
            polls: Vec::new(),
            voted: None,
            asked: BTreeMap::new(),
            overruled: BTreeMap::new(),
            stage: Stage::Asking,
            staged: None,
            unpersistable: None,
            tries: 0,
            attempts: Vec::new(),
            restarted: BTreeSet::new(),
            to_tell: BTreeSet::new(),
        }
    }

    /// Whether this is a change that the node makes by itself.
    pub fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// Whether it ran until a restart, and runs no more: a node restart or a user took it back.
    pub fn is_undone(&self) -> bool {
        self.keep == Keep::UntilRestart && matches!(self.stage, Stage::Regressed { .. } | Stage::Restarted { .. })
    }

    /// Whether it is over, and only its outcome is still told.
    pub fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended { .. })
    }

    /// Which generation should run; none: this update does not say, since it has changed nothing or is over.
    pub fn runs(&self) -> Option<Runs> {
        match &self.stage {
            Stage::Changing | Stage::Started => Some(Runs::After),
            Stage::Running { .. } | Stage::Persisting { .. } => Some(Runs::UntilRestart),
            Stage::GoingBack { .. } => Some(Runs::Before),
            Stage::Asking
            | Stage::Staging
            | Stage::Staged
            | Stage::Pending { .. }
            | Stage::Ready { .. }
            | Stage::Settled { .. }
            | Stage::Regressed { .. }
            | Stage::Restarted { .. }
            | Stage::Failed { .. }
            | Stage::Ended { .. } => None,
        }
    }

    /// What the update changes to; what there was before, while nothing is staged.
    pub fn after(&self) -> Software {
        match (self.staged, self.keep) {
            (Some(number), Keep::UntilRestart) => Software::Ephemeral(self.update, number),
            (Some(number), Keep::Installed) => Software::Generation(number),
            (None, _) => Software::Generation(self.before),
        }
    }

    /// What ran until a restart is installed: from here on the update is like any other, and its folder may go.
    pub fn persisted(&mut self, current: Generation) {
        self.keep = Keep::Installed;
        self.staged = Some(current.number);
        self.stage = Stage::Settled { current };
    }

    /// The number by which processes know the changeover that is under way, or was last: it counts from 0.
    pub fn attempt(&self) -> u32 {
        self.tries.saturating_sub(1)
    }

    /// Whether nothing can have been changed yet.
    pub fn is_early(&self) -> bool {
        matches!(self.stage, Stage::Asking | Stage::Staging | Stage::Staged | Stage::Pending { .. } | Stage::Ready { .. })
    }

    /// Whether all that were asked have answered, or their time has run out.
    pub fn all_answered(&self) -> bool {
        self.asking == Asking::Begun && self.polls.iter().all(Poll::is_over)
    }

    /// Notes how long deferrals have held the update up, before anybody is asked anew.
    pub fn note_deferred(&mut self, now: Moment) {
        let held_up = self.polls.iter().map(|poll| poll.held_up(now)).max().unwrap_or(0);
        self.deferred_ms = self.deferred_ms.max(held_up);
    }

    /// Whether a process that has not answered could not be found.
    pub fn awaits_stand_in(&self) -> bool {
        self.polls.iter().any(|poll| poll.processes().any(|process| process.is_stand_in() && poll.awaits(process)))
    }

    /// Whether this process was asked in a round that counts.
    pub fn was_asked(&self, process: ProcessId) -> bool {
        if process.is_stand_in() {
            // What stands for a process does so anew each time that it cannot be found.
            return self.polls.iter().any(|poll| poll.counts(process));
        }
        self.polls.iter().any(|poll| poll.processes().any(|asked| asked == process))
    }

    /// Leaves out the processes that have ended and had not objected, before others are asked: one that is restarted again and
    /// again must not fill the journal. A veto that lapsed stays, for the user to see.
    pub fn forget_ended(&mut self, has_ended: impl Fn(ProcessId) -> bool) {
        let vetoed = |process: ProcessId| {
            let veto = |cast: &ballot::BallotCast| cast.process == process && matches!(cast.answer, ballot::Answer::Veto { .. });
            self.polls.iter().flat_map(Poll::ballots).any(|cast| veto(&cast))
        };
        let asked = self.asked.keys().copied();
        let ended: Vec<_> = asked.filter(|process| !process.is_stand_in() && has_ended(*process) && !vetoed(*process)).collect();
        for process in ended {
            self.polls.iter_mut().for_each(|poll| poll.forget(process));
            self.asked.remove(&process);
        }
        self.polls.retain(|poll| poll.processes().next().is_some());
    }

    /// Every answer that counts, in the order of asking; of a process that was asked twice, the last.
    pub fn ballots(&self) -> Vec<BallotCast> {
        let mut ballots: Vec<BallotCast> = Vec::new();
        for cast in self.polls.iter().flat_map(Poll::ballots) {
            let ballot = BallotCast {
                process: process_ref(&cast.name, cast.process),
                answer: answer(&cast.answer),
                lapsed: cast.lapsed.is_some(),
                overruled: self.overruled.contains_key(&cast.process),
            };
            match ballots.iter_mut().find(|other| other.process == ballot.process) {
                Some(other) => *other = ballot,
                None => ballots.push(ballot),
            }
        }
        ballots
    }

    /// The vetoes that stand in the way, each as a sentence.
    pub fn standing_vetoes(&self) -> Vec<String> {
        let standing = |ballot: &BallotCast| Some(format!("{}: {}", ballot.process.name, ballot.standing_veto()?));
        self.ballots().iter().filter_map(standing).collect()
    }

    /// Notes the answers as they are now; says whether that is something new to report.
    pub fn count(&mut self) -> Counted {
        if !self.all_answered() {
            return Counted::Same;
        }
        let ballots = self.ballots();
        if self.voted.as_ref() == Some(&ballots) {
            return Counted::Same;
        }
        self.voted = Some(ballots);
        Counted::Changed
    }

    /// Where this node stands, in order: what the master should have heard. A report that is not as it was makes all
    /// that follow it worth saying again.
    pub fn reports(&self) -> Vec<NodeReport> {
        let mut reports = Vec::new();
        if self.question > 0 {
            let processes = self.polls.iter().flat_map(Poll::processes).collect::<BTreeSet<_>>();
            let named = |id: &ProcessId| process_ref(self.asked.get(id).map_or("", String::as_str), *id);
            reports.push(NodeReport::Asked { processes: processes.iter().map(named).collect() });
        }
        if let Some(ballots) = &self.voted {
            reports.push(NodeReport::Voted { ballots: ballots.clone() });
        }
        if self.staged.is_some() {
            reports.push(NodeReport::Staged);
        }
        reports.extend(self.attempts.iter().cloned());
        match &self.stage {
            Stage::Asking
            | Stage::Staging
            | Stage::Staged
            | Stage::Pending { .. }
            | Stage::Ready { .. }
            | Stage::Changing
            | Stage::GoingBack { .. }
            | Stage::Ended { .. } => {}
            Stage::Started => reports.push(NodeReport::Started),
            Stage::Running { software } | Stage::Persisting { software, .. } => {
                reports.extend([NodeReport::Started, NodeReport::Running { software: software.clone() }]);
            }
            Stage::Settled { current } => reports.extend([NodeReport::Started, NodeReport::Settled { current: current.clone() }]),
            Stage::Restarted { current } => reports.push(NodeReport::Restarted { current: current.clone() }),
            Stage::Regressed { current, why } => {
                reports.push(NodeReport::Regressed { current: current.clone(), why: why.clone().map(short) });
            }
            Stage::Failed { step, why } => reports.push(NodeReport::Failed { step: *step, why: short(why.clone()) }),
        }
        reports
    }

    /// Notes what is reported of an attempt to get ready.
    pub fn mark(&mut self, report: NodeReport) {
        // Enough to follow what happened; the record only needs the last ones.
        const KEPT: usize = 64;
        if self.attempts.len() >= KEPT {
            self.attempts.drain(..KEPT / 2);
        }
        self.attempts.push(report);
    }

    /// What the update is doing here, as a sentence for an operator.
    pub fn describe(&self) -> String {
        let waiting: Vec<String> =
            self.polls.iter().flat_map(Poll::waiting).map(|(name, what)| format!("{name} ({what})")).collect();
        if !waiting.is_empty() {
            return format!("waiting for the answer of {}", waiting.join(", "));
        }
        match &self.stage {
            Stage::Asking if self.voted.is_some() => match self.standing_vetoes() {
                vetoes if vetoes.is_empty() => "all processes have accepted; waiting for the master".into(),
                vetoes => format!("vetoed by {}", vetoes.join("; ")),
            },
            Stage::Asking => "about to ask".into(),
            Stage::Staging => "fetching and staging".into(),
            Stage::Staged => "staged; waiting for the master".into(),
            Stage::Pending { processes } => {
                let late = |one: &&Readying| matches!(one.state, ReadyState::Told { .. });
                let names: Vec<_> = processes.iter().filter(late).map(|one| one.name.clone()).collect();
                format!("waiting for {} to be ready", names.join(", "))
            }
            Stage::Ready { .. } => "ready; waiting for the master's go".into(),
            Stage::Changing => "starting the new modules".into(),
            Stage::Started => "the new modules run and have to hold".into(),
            Stage::Running { .. } => "runs until the node is restarted, or somebody persists it or takes it back".into(),
            Stage::Persisting { .. } => "runs, and is being put into local storage".into(),
            Stage::Restarted { current } => format!("undone by a restart of the node; back on generation {}", current.number),
            Stage::Settled { current } => format!("settled on generation {}; waiting for the other nodes", current.number),
            Stage::GoingBack { why: None } => "going back to the old modules".into(),
            Stage::GoingBack { why: Some(why) } => format!("going back to the old modules: {why}"),
            Stage::Regressed { current, .. } => format!("back on generation {}", current.number),
            Stage::Failed { step, why } => format!("failed after {step}: {why}"),
            Stage::Ended { telling } => format!("over; {} processes have not heard the outcome", telling.untold().len()),
        }
    }
}

/// Whether there is something new to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// There is.
    Changed,
    /// There is not.
    Same,
}

/// A process as the record names it.
pub fn process_ref(name: &str, process: ProcessId) -> ProcessRef {
    ProcessRef { name: name.to_owned(), pid: process.pid, start_time: process.start_time }
}

/// The process that the record names.
pub fn process_of(process: &ProcessRef) -> ProcessId {
    ProcessId { pid: process.pid, start_time: process.start_time }
}

fn answer(answer: &ballot::Answer) -> Answer {
    match answer {
        ballot::Answer::Accept(_) => Answer::Accept,
        ballot::Answer::Veto { reason, .. } => Answer::Veto { reason: reason.clone() },
        ballot::Answer::Abstain => Answer::Abstain,
    }
}

/// A reason as long as the record takes it.
fn short(mut why: String) -> String {
    let most = tribune_process::protocol::MAX_REASON;
    if why.len() > most {
        let end = (0..=most).rev().find(|at| why.is_char_boundary(*at)).unwrap_or(0);
        why.truncate(end);
    }
    why
}

/// A map as a list of pairs: JSON takes only texts as keys.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(map: &BTreeMap<K, V>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(super) fn deserialize<'de, K, V, D>(from: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(from)?.into_iter().collect())
    }
}
