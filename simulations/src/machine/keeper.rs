//! The keeper of a simulated machine: it starts, stops and restarts children as the real one does, by the real one's rules.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tribune_agent::keeper::{Children as AgentsChildren, ChildrenError};
use tribune_agent::processes::ProcessId;
use tribune_keeper::restart::{Decision, Ending, after_exit};
use tribune_keeper::{
    AfterExit, ChildId, ChildSpec, ChildState, ChildStatus, Event, Exit, Moment, OpenSocket, Refusal, SignalName, SocketAddress,
};

use super::script::Script;
use super::{Inner, Kid, Machine, Phase, Started, now, process};

/// The keeper as an agent has it.
#[derive(Debug, Clone)]
pub struct Children(pub(super) Machine);

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn theirs(process: ProcessId) -> tribune_keeper::ProcessId {
    tribune_keeper::ProcessId { pid: process.pid, start_time: process.start_time }
}

fn tell(inner: &Inner, event: Event) {
    if let Some(events) = &inner.events {
        // An agent that takes no events is one that is just ending.
        let _ = events.try_send(event);
    }
}

fn unknown(child: &ChildId) -> ChildrenError {
    ChildrenError::Refused { why: Refusal::UnknownChild, message: format!("there is no child {child}") }
}

impl Machine {
    /// Starts the process of a child that has a spec, and the task that brings its script on.
    pub(super) fn launch(&self, id: &ChildId) {
        let mut inner = self.lock();
        let process = Self::next_process(&mut inner);
        let Some(kid) = inner.kids.get_mut(id) else { return };
        let program = kid.spec.program.clone();
        let path = if program.starts_with('/') { program.into() } else { kid.spec.folder.join(program) };
        let bytes = std::fs::read(&path).ok();
        kid.script = bytes.as_deref().map(Script::parse).unwrap_or_default();
        let refused = kid.spec.file.as_ref().and_then(|file| file.verify().err());
        kid.phase = Phase::Running { process, since: now() };
        kid.killed = false;
        kid.changed.send_modify(|count| *count += 1);
        if let Some(why) = refused {
            drop(inner);
            return self.ended(id, process, Exit::NotStarted(why));
        }
        let started = Started {
            at: now(),
            child: id.clone(),
            label: kid.spec.label.clone(),
            bytes: bytes.map(|bytes| blake3::hash(&bytes)),
        };
        inner.started.push(started);
        tell(&inner, Event::Started { child: id.clone(), process: theirs(process) });
        drop(inner);
        tokio::spawn(process::live(self.clone(), id.clone()));
    }

    /// A child's process has ended.
    pub(super) fn ended(&self, id: &ChildId, process: ProcessId, exit: Exit) {
        let mut inner = self.lock();
        if inner.alive.remove(&process.pid).is_none() {
            return;
        }
        inner.exits.send_modify(|count| *count += 1);
        let Some(kid) = inner.kids.get_mut(id) else { return };
        let mut again = false;
        let then = match kid.phase.clone() {
            Phase::Stopping { again: starts, .. } => {
                again = starts;
                kid.phase = Phase::Stopped { last: Some(exit.clone()) };
                AfterExit::Stopped
            }
            Phase::Running { since, .. } => {
                kid.count += 1;
                kid.endings.push(Ending { at: Moment::from_millis(millis(now())), lived_ms: millis(now() - since) });
                match after_exit(&kid.spec.restart, &kid.endings, &exit) {
                    Decision::Stay => {
                        kid.phase = Phase::Stopped { last: Some(exit.clone()) };
                        AfterExit::Stopped
                    }
                    Decision::RestartAt(at) => {
                        let wait = at.since(Moment::from_millis(millis(now())));
                        kid.phase = Phase::Waiting { at: now() + wait, last: exit.clone() };
                        AfterExit::Restarts { in_ms: millis(wait) }
                    }
                    Decision::Broken(exits) => {
                        kid.phase = Phase::Broken { exits, last: exit.clone() };
                        AfterExit::Broken { exits }
                    }
                }
            }
            _ => return,
        };
        kid.changed.send_modify(|count| *count += 1);
        tell(&inner, Event::Exited { child: id.clone(), process: Some(theirs(process)), exit, then });
        drop(inner);
        if again {
            self.launch(id);
        }
    }

    fn start(&self, spec: ChildSpec) -> Result<(), ChildrenError> {
        let id = spec.id.clone();
        {
            let mut inner = self.lock();
            if let Some(kid) = inner.kids.get_mut(&id) {
                match &kid.phase {
                    Phase::Running { .. } if kid.spec == spec => return Ok(()),
                    Phase::Running { .. } | Phase::Stopping { .. } => {
                        let message = format!("{id} runs, with another spec");
                        return Err(ChildrenError::Refused { why: Refusal::Runs, message });
                    }
                    Phase::Waiting { .. } | Phase::Stopped { .. } | Phase::Broken { .. } => {}
                }
            }
            let kid = Kid {
                spec,
                phase: Phase::Stopped { last: None },
                endings: Vec::new(),
                count: 0,
                script: Script::default(),
                killed: false,
                changed: watch::Sender::new(0),
            };
            inner.kids.insert(id.clone(), kid);
        }
        self.launch(&id);
        Ok(())
    }

    fn stop(&self, id: &ChildId, within: Option<Duration>, again: bool) -> Result<(), ChildrenError> {
        let mut inner = self.lock();
        let kid = inner.kids.get_mut(id).ok_or_else(|| unknown(id))?;
        let within = within.unwrap_or(Duration::from_millis(kid.spec.stop.within_ms));
        match kid.phase.clone() {
            Phase::Running { process, .. } => kid.phase = Phase::Stopping { process, kill_at: now() + within, again },
            Phase::Stopping { process, kill_at, .. } => {
                kid.phase = Phase::Stopping { process, kill_at: kill_at.min(now() + within), again };
            }
            Phase::Waiting { last, .. } | Phase::Broken { last, .. } => kid.phase = Phase::Stopped { last: Some(last) },
            Phase::Stopped { .. } => {}
        }
        kid.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    fn status(&self) -> Vec<ChildStatus> {
        let inner = self.lock();
        let until = |at: Duration| millis(at.saturating_sub(now()));
        let status = |(id, kid): (&ChildId, &Kid)| {
            let state = match &kid.phase {
                Phase::Running { process, since } => {
                    ChildState::Running { process: theirs(*process), for_ms: millis(now().saturating_sub(*since)) }
                }
                Phase::Stopping { process, kill_at, .. } => {
                    ChildState::Stopping { process: theirs(*process), kill_in_ms: until(*kill_at) }
                }
                Phase::Waiting { at, last } => ChildState::Restarting { in_ms: until(*at), last: last.clone() },
                Phase::Stopped { last } => ChildState::Stopped { last: last.clone() },
                Phase::Broken { exits, last } => ChildState::Broken { exits: *exits, last: last.clone() },
            };
            ChildStatus {
                id: id.clone(),
                label: kid.spec.label.clone(),
                state,
                endings: kid.count,
                log: kid.spec.log.path.clone(),
            }
        };
        inner.kids.iter().map(status).collect()
    }
}

fn ready<T: Send + 'static>(answer: T) -> BoxFuture<'static, T> {
    futures::future::ready(answer).boxed()
}

impl AgentsChildren for Children {
    fn start(&self, spec: ChildSpec) -> BoxFuture<'_, Result<(), ChildrenError>> {
        ready(self.0.start(spec))
    }

    fn stop(&self, child: ChildId, within: Option<Duration>) -> BoxFuture<'_, Result<(), ChildrenError>> {
        ready(self.0.stop(&child, within, false))
    }

    fn restart(&self, child: ChildId) -> BoxFuture<'_, Result<(), ChildrenError>> {
        let runs = self.0.lock().kids.get(&child).map(|kid| matches!(kid.phase, Phase::Running { .. } | Phase::Stopping { .. }));
        match runs {
            None => ready(Err(unknown(&child))),
            Some(true) => ready(self.0.stop(&child, None, true)),
            Some(false) => {
                self.0.launch(&child);
                ready(Ok(()))
            }
        }
    }

    fn signal(&self, child: ChildId, signal: SignalName) -> BoxFuture<'_, Result<(), ChildrenError>> {
        let _ = (child, signal);
        ready(Ok(()))
    }

    fn remove(&self, child: ChildId) -> BoxFuture<'_, Result<(), ChildrenError>> {
        let mut inner = self.0.lock();
        let runs = inner.kids.get(&child).is_some_and(|kid| matches!(kid.phase, Phase::Running { .. } | Phase::Stopping { .. }));
        if runs {
            return ready(Err(ChildrenError::Refused { why: Refusal::Runs, message: format!("{child} runs") }));
        }
        inner.kids.remove(&child);
        ready(Ok(()))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ChildStatus>, ChildrenError>> {
        ready(Ok(self.0.status()))
    }

    fn open_socket(&self, address: SocketAddress) -> BoxFuture<'_, Result<OpenSocket, ChildrenError>> {
        ready(Ok(OpenSocket { bound: address.clone(), address }))
    }

    fn release_socket(&self, _address: SocketAddress) -> BoxFuture<'_, Result<(), ChildrenError>> {
        ready(Ok(()))
    }

    fn list_sockets(&self) -> BoxFuture<'_, Result<Vec<OpenSocket>, ChildrenError>> {
        ready(Ok(Vec::new()))
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), ChildrenError>> {
        let inner = self.0.lock();
        tell(&inner, Event::Stopping { within_ms: 10_000 });
        ready(Ok(()))
    }
}
