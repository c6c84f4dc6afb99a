//! One child: its spec, what its process does, and the steps from one phase to the next. The table of children (`children`)
//! decides when to take a step; here is what the step is.

use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::process::Signal;

use crate::clock::{Moment, millis};
use crate::launch::{Launch, Launched, launch};
use crate::logs::Output;
use crate::process::{Process, ProcessId};
use crate::protocol::{AfterExit, ChildState, ChildStatus, Event, Exit};
use crate::restart::{Decision, Ending, after_exit, remember};
use crate::sockets::Sockets;
use crate::spec::ChildSpec;

/// How long a shim may take to become its program; an exec from a hung file system takes longer.
const LAUNCH_WITHIN: Duration = Duration::from_secs(20);

/// What a child does.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The shim is there. It is told what to become once it is written down.
    Starting { process: Process, launch: Launch, told: Told, until: Moment },
    /// Its program runs.
    Running { process: Process, since: Moment },
    /// It was asked to stop; `kill_at` is none once the group has been killed.
    Stopping { process: Process, kill_at: Option<Moment>, then: AfterStop },
    /// It ended, or could not be started, and starts at this moment.
    Waiting { at: Moment, last: Exit },
    /// It does not run.
    Stopped { last: Option<Exit> },
    /// It ended too often.
    Broken { exits: u32, last: Exit },
}

/// Whether a shim has been told what to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Yes,
    No,
}

/// What a child that was asked to stop does then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AfterStop {
    Stay,
    Start,
}

/// One child.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) spec: ChildSpec,
    /// Grows with each start: the node stops its children from the highest down.
    pub(crate) order: u64,
    pub(crate) endings: Vec<Ending>,
    pub(crate) count: u32,
    pub(crate) output: Output,
    pub(crate) phase: Phase,
    /// Why its program could not be run, from then until its process has ended.
    failure: Option<String>,
}

impl Child {
    /// A child that does not run.
    pub(crate) fn new(spec: ChildSpec, output: Output) -> Self {
        Self::restored(spec, output, Phase::Stopped { last: None })
    }

    /// A child in a phase that another keeper left it in.
    pub(crate) fn restored(spec: ChildSpec, output: Output, phase: Phase) -> Self {
        Self { spec, order: 0, endings: Vec::new(), count: 0, output, phase, failure: None }
    }

    /// Its process, alive or not yet waited for.
    pub(crate) fn process(&self) -> Option<&Process> {
        match &self.phase {
            Phase::Starting { process, .. } | Phase::Running { process, .. } | Phase::Stopping { process, .. } => Some(process),
            Phase::Waiting { .. } | Phase::Stopped { .. } | Phase::Broken { .. } => None,
        }
    }

    pub(crate) fn process_mut(&mut self) -> Option<&mut Process> {
        match &mut self.phase {
            Phase::Starting { process, .. } | Phase::Running { process, .. } | Phase::Stopping { process, .. } => Some(process),
            Phase::Waiting { .. } | Phase::Stopped { .. } | Phase::Broken { .. } => None,
        }
    }

    /// Whether it runs or will by itself.
    pub(crate) fn is_active(&self) -> bool {
        !matches!(self.phase, Phase::Stopped { .. } | Phase::Broken { .. })
    }

    /// Makes its process, with its sockets open. The phase changes only if that succeeds.
    pub(crate) fn launch(&mut self, shim: &[OsString], sockets: &mut Sockets, order: u64, now: Moment) -> Result<(), String> {
        sockets.open_all(self.spec.sockets.iter().map(|socket| &socket.address)).map_err(|error| error.to_string())?;
        let (process, launch) = launch(shim, &self.output).map_err(|error| format!("no process could be made: {error}"))?;
        self.failure = None;
        self.order = order;
        self.phase = Phase::Starting { process, launch, told: Told::No, until: now.after(LAUNCH_WITHIN) };
        Ok(())
    }

    /// Tells a process that was just made, and is written down by now, what to become.
    pub(crate) fn instruct(&mut self, sockets: &Sockets) {
        let Phase::Starting { process, launch, told: told @ Told::No, .. } = &mut self.phase else { return };
        *told = Told::Yes;
        if let Err(reason) = launch.instruct(&self.spec, sockets) {
            self.failure = Some(reason);
            log_failure(&self.spec, process.signal_group(Signal::KILL));
        }
    }

    /// Gives up a process that was just made, since it could not be written down: a service that the next keeper does not know
    /// would run twice.
    pub(crate) fn give_up(&mut self, reason: String) {
        let Phase::Starting { process, told: told @ Told::No, .. } = &mut self.phase else { return };
        *told = Told::Yes;
        self.failure = Some(reason);
        log_failure(&self.spec, process.signal_group(Signal::KILL));
    }

    /// Readable when there is something to hear of its launch.
    pub(crate) fn launch_descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.phase {
            // After a failure the socket says nothing but that it is closed.
            Phase::Starting { launch, .. } if self.failure.is_none() => Some(launch.descriptor()),
            _ => None,
        }
    }

    /// Hears what came of a launch.
    pub(crate) fn hear_launch(&mut self, now: Moment) -> Option<Event> {
        let Phase::Starting { launch, .. } = &self.phase else { return None };
        match launch.hear() {
            Launched::NotYet => None,
            Launched::Failed(reason) => {
                // It ends by itself, and is dealt with then.
                self.failure.get_or_insert(reason);
                None
            }
            Launched::Runs => self.now_runs(now),
        }
    }

    fn now_runs(&mut self, now: Moment) -> Option<Event> {
        // After a failure the socket closes as well; and a shim that was killed never ran anything.
        let ended = self.process().is_none_or(|process| process.has_ended().unwrap_or(false));
        if self.failure.is_some() || ended {
            return None;
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Stopped { last: None });
        let Phase::Starting { process, .. } = phase else {
            self.phase = phase;
            return None;
        };
        let event = Event::Started { child: self.spec.id.clone(), process: process.id() };
        tracing::info!(child = %self.spec.id, pid = process.id().pid, "service started");
        self.phase = Phase::Running { process, since: now };
        Some(event)
    }

    /// Asks it to stop; a wait for a restart ends. `then` is what happens afterwards.
    pub(crate) fn stop(&mut self, within: Duration, then: AfterStop, now: Moment) -> io::Result<()> {
        let deadline = now.after(within);
        match &mut self.phase {
            Phase::Starting { .. } | Phase::Running { .. } => {}
            Phase::Stopping { kill_at, then: planned, .. } => {
                *kill_at = kill_at.map(|at| at.min(deadline));
                *planned = then;
                return Ok(());
            }
            Phase::Waiting { last, .. } | Phase::Broken { last, .. } => {
                self.phase = Phase::Stopped { last: Some(last.clone()) };
                return Ok(());
            }
            Phase::Stopped { .. } => return Ok(()),
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Stopped { last: None });
        let (Phase::Starting { process, .. } | Phase::Running { process, .. }) = phase else { return Ok(()) };
        tracing::info!(child = %self.spec.id, pid = process.id().pid, "service is asked to stop");
        let sent = process.signal_group(self.spec.stop.signal.into());
        self.phase = Phase::Stopping { process, kill_at: Some(deadline), then };
        sent
    }

    /// Kills its group now, if it has not been.
    pub(crate) fn kill(&mut self) {
        let result = match &mut self.phase {
            Phase::Stopping { process, kill_at: kill_at @ Some(_), .. } => {
                tracing::warn!(child = %self.spec.id, pid = process.id().pid, "service did not stop in time and is killed");
                *kill_at = None;
                process.signal_group(Signal::KILL)
            }
            Phase::Starting { process, until, .. } => {
                *until = Moment::from_millis(u64::MAX);
                self.failure.get_or_insert_with(|| format!("it did not run within {} s", LAUNCH_WITHIN.as_secs()));
                process.signal_group(Signal::KILL)
            }
            _ => Ok(()),
        };
        log_failure(&self.spec, result);
    }

    /// When [`Child::on_time`] has something to do.
    pub(crate) fn next_moment(&self) -> Option<Moment> {
        match &self.phase {
            Phase::Starting { until, .. } => Some(*until),
            Phase::Stopping { kill_at, .. } => *kill_at,
            Phase::Waiting { at, .. } => Some(*at),
            Phase::Running { .. } | Phase::Stopped { .. } | Phase::Broken { .. } => None,
        }
    }

    /// Takes the end of its process, if it has ended: what came of it, as an event, and whether it is to be started at once.
    pub(crate) fn take_end(&mut self, now: Moment) -> io::Result<Option<(Event, AfterStop)>> {
        if let Some(event) = self.hear_launch(now) {
            // Cannot be: only a process that lives is said to run. Kept so that no event could be lost.
            return Ok(Some((event, AfterStop::Stay)));
        }
        let Some(process) = self.process_mut() else { return Ok(None) };
        let id = process.id();
        let Some(exit) = process.take_exit()? else { return Ok(None) };
        let exit = self.failure.take().map_or(exit, Exit::NotStarted);
        let (then, after) = match &self.phase {
            Phase::Stopping { then, .. } => {
                let then = *then;
                self.phase = Phase::Stopped { last: Some(exit.clone()) };
                (AfterExit::Stopped, then)
            }
            Phase::Running { since, .. } => {
                let lived = now.since(*since);
                (self.ended(exit.clone(), lived, now), AfterStop::Stay)
            }
            _ => (self.ended(exit.clone(), Duration::ZERO, now), AfterStop::Stay),
        };
        tracing::info!(child = %self.spec.id, pid = id.pid, ?then, "service {exit}");
        Ok(Some((self.exited(Some(id), exit, then), after)))
    }

    /// Notes an ending that nobody asked for, and decides what comes of it.
    pub(crate) fn ended(&mut self, exit: Exit, lived: Duration, now: Moment) -> AfterExit {
        remember(&mut self.endings, Ending { at: now, lived_ms: millis(lived) });
        self.count = self.count.saturating_add(1);
        match after_exit(&self.spec.restart, &self.endings, &exit) {
            Decision::Stay => {
                self.phase = Phase::Stopped { last: Some(exit) };
                AfterExit::Stopped
            }
            Decision::RestartAt(at) => {
                self.phase = Phase::Waiting { at, last: exit };
                AfterExit::Restarts { in_ms: millis(at.since(now)) }
            }
            Decision::Broken(exits) => {
                self.phase = Phase::Broken { exits, last: exit };
                AfterExit::Broken { exits }
            }
        }
    }

    /// The event of an ending.
    pub(crate) fn exited(&self, process: Option<ProcessId>, exit: Exit, then: AfterExit) -> Event {
        Event::Exited { child: self.spec.id.clone(), process, exit, then }
    }

    /// Forgets how often it ended.
    pub(crate) fn forget_endings(&mut self) {
        self.endings.clear();
        self.count = 0;
    }

    /// What the agent is told about it.
    pub(crate) fn status(&self, now: Moment) -> ChildStatus {
        let until = |at: Moment| millis(at.since(now));
        let state = match &self.phase {
            Phase::Starting { process, .. } => ChildState::Starting(process.id()),
            Phase::Running { process, since } => ChildState::Running { process: process.id(), for_ms: millis(now.since(*since)) },
            Phase::Stopping { process, kill_at, .. } => {
                ChildState::Stopping { process: process.id(), kill_in_ms: kill_at.map_or(0, until) }
            }
            Phase::Waiting { at, last } => ChildState::Restarting { in_ms: until(*at), last: last.clone() },
            Phase::Stopped { last } => ChildState::Stopped { last: last.clone() },
            Phase::Broken { exits, last } => ChildState::Broken { exits: *exits, last: last.clone() },
        };
        let spec = &self.spec;
        ChildStatus { id: spec.id.clone(), label: spec.label.clone(), state, endings: self.count, log: spec.log.path.clone() }
    }
}

fn log_failure(spec: &ChildSpec, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(child = %spec.id, %error, "a service could not be signalled");
    }
}
