//! Whether children do their work. Its one idea: a child is up when its check passes; without a check, when it says so
//! (`READY=1`, or a hello on the process socket), and one that says nothing when it has run for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tribune_keeper::{ChildId, ChildState, ChildStatus};
use tribune_process::protocol::HealthStatus;

use crate::processes::ProcessId;
use crate::processes::ballot::Moment;
use crate::processes::health::{HealthCheck, check_once};
use crate::processes::notify::Note;

/// How long, in milliseconds, a child that says nothing must have run to count as up.
const STEADY: u64 = 1_000;
/// How often a child that is not up yet is checked at least.
const WHILE_STARTING: Duration = Duration::from_millis(200);
/// How often in a row a check must fail for a child that was up to count as unhealthy.
const FAILURES: u32 = 3;
/// Results of checks that may wait.
const WAITING: usize = 64;

/// A check of one child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    /// What is checked.
    pub(super) check: HealthCheck,
    /// How often.
    pub(super) every: Duration,
}

/// A check's result.
#[derive(Debug)]
pub(super) struct Checked {
    child: ChildId,
    process: ProcessId,
    result: Result<(), String>,
}

/// All children, as far as it is known how they are.
#[derive(Debug)]
pub(super) struct Watch {
    kids: BTreeMap<ChildId, Kid>,
    results: mpsc::Sender<Checked>,
}

#[derive(Debug)]
struct Kid {
    process: ProcessId,
    /// Since when it runs.
    since: Moment,
    /// It said that it is ready, or hello.
    said_ready: bool,
    /// It said something else by `sd_notify`: it will say when it is ready.
    notifies: bool,
    /// What it says is wrong with it.
    complaint: Option<String>,
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    check: Check,
    passed: bool,
    failures: u32,
    last: Option<String>,
    task: AbortHandle,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Nothing yet, and where results of checks will come.
    pub(super) fn new() -> (Self, mpsc::Receiver<Checked>) {
        let (results, checked) = mpsc::channel(WAITING);
        (Self { kids: BTreeMap::new(), results }, checked)
    }

    /// Takes in what the keeper has. A child that runs another process is a new one.
    pub(super) fn see(&mut self, children: &[ChildStatus], now: Moment) {
        let mut seen = BTreeMap::new();
        for child in children {
            let Some((process, for_ms)) = running(child) else { continue };
            let kept = self.kids.remove(&child.id).filter(|kid| kid.process == process);
            let kid = kept.unwrap_or_else(|| Kid {
                process,
                since: now.saturating_sub(for_ms),
                said_ready: false,
                notifies: false,
                complaint: None,
                probe: None,
            });
            seen.insert(child.id.clone(), kid);
        }
        self.kids = seen;
    }

    /// Checks these children from now on, and no others.
    pub(super) fn check(&mut self, wanted: &BTreeMap<ChildId, Check>) {
        for (id, kid) in &mut self.kids {
            let check = wanted.get(id);
            if kid.probe.as_ref().map(|probe| &probe.check) == check {
                continue;
            }
            kid.probe = check.map(|check| {
                let run = run(id.clone(), kid.process, check.clone(), self.results.clone());
                let task = tokio::spawn(run).abort_handle();
                Probe { check: check.clone(), passed: false, failures: 0, last: None, task }
            });
        }
    }

    /// A check has a result.
    pub(super) fn checked(&mut self, checked: Checked) {
        let Checked { child, process, result } = checked;
        let kid = self.kids.get_mut(&child).filter(|kid| kid.process == process);
        let Some(probe) = kid.and_then(|kid| kid.probe.as_mut()) else { return };
        match result {
            Ok(()) => {
                probe.passed = true;
                probe.failures = 0;
                probe.last = None;
            }
            Err(why) => {
                probe.failures = probe.failures.saturating_add(1);
                probe.last = Some(why);
            }
        }
    }

    /// The main process of a module said something by `sd_notify`.
    pub(super) fn noted(&mut self, main: ProcessId, notes: &[Note]) {
        let Some(kid) = self.kids.values_mut().find(|kid| kid.process == main) else { return };
        for note in notes {
            match note {
                Note::Ready => kid.said_ready = true,
                Note::Reloading | Note::Stopping => {}
                Note::Watchdog => kid.complaint = None,
                Note::WatchdogTrigger => kid.complaint = Some("it asked to be treated as dead (WATCHDOG=trigger)".into()),
                Note::Status(_) => kid.notifies = true,
            }
        }
    }

    /// A process said how it is on the process socket.
    pub(super) fn health(&mut self, process: ProcessId, status: HealthStatus, detail: Option<String>) {
        let Some(kid) = self.kids.values_mut().find(|kid| kid.process == process) else { return };
        kid.said_ready |= status == HealthStatus::Healthy;
        kid.complaint = match status {
            HealthStatus::Healthy => None,
            HealthStatus::Unhealthy => Some(detail.unwrap_or_else(|| "it says that it is unhealthy".into())),
        };
    }

    /// A process said hello.
    pub(super) fn hello(&mut self, process: ProcessId) {
        if let Some(kid) = self.kids.values_mut().find(|kid| kid.process == process) {
            kid.said_ready = true;
        }
    }

    /// The children that do their work.
    pub(super) fn up(&self, now: Moment) -> BTreeSet<ChildId> {
        self.kids.iter().filter(|(_, kid)| kid.is_up(now)).map(|(id, _)| id.clone()).collect()
    }

    /// What is wrong with a child that was up; none when nothing is.
    pub(super) fn unhealthy(&self, child: &ChildId) -> Option<String> {
        let kid = self.kids.get(child)?;
        let failing = kid.probe.as_ref().filter(|probe| probe.passed && probe.failures >= FAILURES);
        kid.complaint.clone().or_else(|| failing.and_then(|probe| probe.last.clone()))
    }

    /// Why a child is not up yet, as far as it is known.
    pub(super) fn complaint(&self, child: &ChildId) -> String {
        let Some(kid) = self.kids.get(child) else { return "it does not run".into() };
        let last = kid.probe.as_ref().and_then(|probe| probe.last.clone());
        kid.complaint.clone().or(last).unwrap_or_else(|| "it did not say that it is ready".into())
    }

    /// When each child may have come up without anything being said.
    pub(super) fn wakes(&self) -> impl Iterator<Item = Moment> + '_ {
        self.kids.values().map(|kid| kid.since.saturating_add(STEADY))
    }
}

impl Kid {
    fn is_up(&self, now: Moment) -> bool {
        if self.complaint.is_some() {
            return false;
        }
        match &self.probe {
            Some(probe) => probe.passed && probe.failures < FAILURES,
            None => self.said_ready || (!self.notifies && now >= self.since.saturating_add(STEADY)),
        }
    }
}

/// The process of a child that runs its program, and for how long it has, in milliseconds.
pub(super) fn running(child: &ChildStatus) -> Option<(ProcessId, u64)> {
    match &child.state {
        ChildState::Running { process, for_ms } => Some((ours(*process), *for_ms)),
        ChildState::Starting(_)
        | ChildState::Stopping { .. }
        | ChildState::Restarting { .. }
        | ChildState::Stopped { .. }
        | ChildState::Broken { .. } => None,
    }
}

/// The process of a child, while there is one.
pub(super) fn process(child: &ChildStatus) -> Option<ProcessId> {
    match &child.state {
        ChildState::Starting(process) | ChildState::Running { process, .. } | ChildState::Stopping { process, .. } => {
            Some(ours(*process))
        }
        ChildState::Restarting { .. } | ChildState::Stopped { .. } | ChildState::Broken { .. } => None,
    }
}

/// The keeper's name of a process as the process socket has it.
pub(super) fn ours(process: tribune_keeper::ProcessId) -> ProcessId {
    ProcessId { pid: process.pid, start_time: process.start_time }
}

/// Checks one child again and again, faster until it first passes.
async fn run(child: ChildId, process: ProcessId, check: Check, results: mpsc::Sender<Checked>) {
    let mut every = check.every.min(WHILE_STARTING);
    loop {
        let result = check_once(&check.check).await.map_err(|unhealthy| unhealthy.why);
        if result.is_ok() {
            every = check.every;
        }
        if results.send(Checked { child: child.clone(), process, result }).await.is_err() {
            return;
        }
        tokio::time::sleep(every).await;
    }
}
