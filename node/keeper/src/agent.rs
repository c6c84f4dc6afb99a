//! The agent's process and the socket to it. Its one idea: an agent is alone. The next one is started only when the one before
//! has ended, whoever started that, since two would write to one store.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::clock::{Moment, millis};
use crate::process::{Process, ProcessId};
use crate::protocol::{Exit, FromKeeper, MOST_MESSAGE};
use crate::restart::{Ending, RestartPolicy, RestartWhen, remember, wait};
use crate::wire::{self, Patience, Received};

/// How long an agent may live on once its socket is closed; it has a store to close.
pub(crate) const END_WITHIN: Duration = Duration::from_secs(10);
/// Messages that wait for an agent that does not read; beyond that it is taken to hang.
const MOST_UNSENT: usize = 4096;
/// Messages that are taken from the agent before children have their turn.
const TURN: usize = 32;
/// How an agent that ended starts again: always, since without it a node cannot be told anything.
const RESTARTS: RestartPolicy =
    RestartPolicy { when: RestartWhen::Always, first_wait_ms: 100, most_wait_ms: 30_000, loop_exits: 0, loop_within_ms: 60_000 };

/// The agent.
#[derive(Debug)]
pub(crate) struct Agent {
    command: Vec<OsString>,
    /// How many this keeper has started.
    pub(crate) starts: u64,
    endings: Vec<Ending>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// It starts at this moment.
    Waiting { at: Moment },
    /// It lives. Without a link, nobody hears it any more. At `kill_at` it is killed.
    Alive { process: Process, since: Moment, link: Option<Link>, kill_at: Option<Moment> },
    /// It ended, and the node stops.
    Gone,
}

/// The socket to an agent.
#[derive(Debug)]
struct Link {
    socket: OwnedFd,
    unsent: VecDeque<Vec<u8>>,
    greeting: Greeting,
}

/// Whether an agent has said hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Greeting {
    Said,
    Awaited,
}

/// Whether another agent follows one that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Start,
    None,
}

impl Agent {
    /// An agent that starts at once; or, when the one of a keeper that died still lives, once that has ended.
    pub(crate) fn new(command: Vec<OsString>, before: Option<Process>, now: Moment) -> Self {
        let phase = match before {
            Some(process) => Phase::Alive { process, since: now, link: None, kill_at: Some(now.after(END_WITHIN)) },
            None => Phase::Waiting { at: now },
        };
        Self { command, starts: 0, endings: Vec::new(), phase }
    }

    /// Its process, if it lives.
    pub(crate) fn process(&self) -> Option<ProcessId> {
        match &self.phase {
            Phase::Alive { process, .. } => Some(process.id()),
            Phase::Waiting { .. } | Phase::Gone => None,
        }
    }

    /// Whether it ended and no other follows.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Gone)
    }

    /// When [`Agent::on_time`] has something to do.
    pub(crate) fn next_moment(&self) -> Option<Moment> {
        match &self.phase {
            Phase::Waiting { at } => Some(*at),
            Phase::Alive { kill_at, .. } => *kill_at,
            Phase::Gone => None,
        }
    }

    /// Starts or kills it, if that is due. Answers whether it was started.
    pub(crate) fn on_time(&mut self, now: Moment) -> Started {
        if self.next_moment().is_none_or(|at| at > now) {
            return Started::No;
        }
        match &mut self.phase {
            Phase::Waiting { .. } => return self.start(now),
            Phase::Alive { process, kill_at, .. } => {
                *kill_at = None;
                tracing::warn!(pid = process.id().pid, "the agent did not end in time and is killed");
                if let Err(error) = process.signal_group(Signal::KILL) {
                    tracing::error!(%error, "the agent could not be killed");
                }
            }
            Phase::Gone => {}
        }
        Started::No
    }

    fn start(&mut self, now: Moment) -> Started {
        match spawn(&self.command) {
            Ok((process, link)) => {
                self.starts += 1;
                tracing::info!(pid = process.id().pid, starts = self.starts, "agent started");
                self.phase = Phase::Alive { process, since: now, link: Some(link), kill_at: None };
                Started::Yes
            }
            Err(error) => {
                let at = self.wait_after(Duration::ZERO, now);
                tracing::error!(%error, again_in_ms = millis(at.since(now)), "the agent could not be started");
                self.phase = Phase::Waiting { at };
                Started::No
            }
        }
    }

    fn wait_after(&mut self, lived: Duration, now: Moment) -> Moment {
        remember(&mut self.endings, Ending { at: now, lived_ms: millis(lived) });
        now.after(wait(&RESTARTS, &self.endings))
    }

    /// Takes its end, if it has ended: how.
    pub(crate) fn take_end(&mut self, next: Next, now: Moment) -> Option<Exit> {
        let Phase::Alive { process, since, .. } = &mut self.phase else { return None };
        let pid = process.id().pid;
        let exit = match process.take_exit() {
            Ok(exit) => exit?,
            Err(error) => {
                tracing::warn!(%error, "it is not known whether the agent ended");
                return None;
            }
        };
        let lived = now.since(*since);
        self.phase = match next {
            Next::Start => Phase::Waiting { at: self.wait_after(lived, now) },
            Next::None => Phase::Gone,
        };
        tracing::info!(pid, "the agent {exit}");
        Some(exit)
    }

    /// Notes that the status of its process was taken by someone else's `wait`.
    pub(crate) fn note_taken(&mut self, pid: u32, exit: Exit) {
        if let Phase::Alive { process, .. } = &mut self.phase
            && process.id().pid == pid
        {
            process.note_taken(exit);
        }
    }

    /// The node stops: it has until then to end, and no other follows.
    pub(crate) fn end_by(&mut self, at: Moment) {
        match &mut self.phase {
            Phase::Alive { kill_at, .. } => *kill_at = Some(kill_at.map_or(at, |before| before.min(at))),
            Phase::Waiting { .. } => self.phase = Phase::Gone,
            Phase::Gone => {}
        }
    }

    /// Readable once its process has ended.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.phase {
            Phase::Alive { process, .. } => Some(process.pidfd()),
            Phase::Waiting { .. } | Phase::Gone => None,
        }
    }

    /// The socket to it, and whether it is to be watched for room.
    pub(crate) fn socket(&self) -> Option<(BorrowedFd<'_>, Room)> {
        match &self.phase {
            Phase::Alive { link: Some(link), .. } => {
                Some((link.socket.as_fd(), if link.unsent.is_empty() { Room::Enough } else { Room::Wanted }))
            }
            _ => None,
        }
    }

    fn link(&mut self) -> Option<&mut Link> {
        match &mut self.phase {
            Phase::Alive { link, .. } => link.as_mut(),
            Phase::Waiting { .. } | Phase::Gone => None,
        }
    }

    /// Whether it has said hello.
    pub(crate) fn greeting(&mut self) -> Greeting {
        self.link().map_or(Greeting::Awaited, |link| link.greeting)
    }

    /// It has said hello.
    pub(crate) fn greeted(&mut self) {
        if let Some(link) = self.link() {
            link.greeting = Greeting::Said;
        }
    }

    /// Takes some of the messages that are there; and hears when it closes its socket.
    pub(crate) fn receive(&mut self, now: Moment) -> Vec<Result<Vec<u8>, usize>> {
        let mut messages = Vec::new();
        let Some(link) = self.link() else { return messages };
        let mut buffer = wire::buffer();
        while messages.len() < TURN {
            match wire::receive(link.socket.as_fd(), &mut buffer, Patience::Now) {
                Ok(Received::Message(message)) => messages.push(Ok(message.to_vec())),
                Ok(Received::TooLong(length)) => messages.push(Err(length)),
                Ok(Received::Nothing) => break,
                Ok(Received::Closed) => {
                    self.close(now.after(END_WITHIN));
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "the socket to the agent failed");
                    self.close(now.after(END_WITHIN));
                    break;
                }
            }
        }
        messages
    }

    /// Sends it a message, or keeps that until there is room.
    pub(crate) fn send(&mut self, message: &FromKeeper, now: Moment) {
        let Some(link) = self.link() else { return };
        match serde_json::to_vec(message) {
            Ok(bytes) if bytes.len() <= MOST_MESSAGE => link.unsent.push_back(bytes),
            Ok(bytes) => tracing::error!(bytes = bytes.len(), "a message to the agent is too long and lost"),
            Err(error) => tracing::error!(%error, "a message to the agent cannot be written and is lost"),
        }
        self.flush(now);
    }

    /// Sends what waits, as far as there is room.
    pub(crate) fn flush(&mut self, now: Moment) {
        let Some(link) = self.link() else { return };
        while let Some(message) = link.unsent.front() {
            match wire::send(link.socket.as_fd(), message, Patience::Now) {
                Ok(()) => drop(link.unsent.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if link.unsent.len() > MOST_UNSENT {
                        tracing::error!("the agent does not read what it is told and is killed");
                        self.close(now);
                    }
                    return;
                }
                // It closed its end; that is heard as its end or as the end of its socket.
                Err(_) => return link.unsent.clear(),
            }
        }
    }

    /// Closes the socket; it has until then to end.
    fn close(&mut self, end_by: Moment) {
        if let Phase::Alive { link, .. } = &mut self.phase {
            *link = None;
            self.end_by(end_by);
        }
    }
}

/// Whether an agent was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Started {
    Yes,
    No,
}

/// Whether something waits to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Enough,
    Wanted,
}

fn spawn(command: &[OsString]) -> io::Result<(Process, Link)> {
    let Some((program, args)) = command.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the keeper was given no command to start the agent with"));
    };
    let (ours, theirs) = wire::pair()?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::from(theirs))
        // A Ctrl-C in the keeper's terminal is for the keeper, which tells the agent in its own way.
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
    match Process::of_child(child.id()) {
        Ok(process) => Ok((process, Link { socket: ours, unsent: VecDeque::new(), greeting: Greeting::Awaited })),
        Err(error) => {
            // It cannot be watched, so it shall not be.
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}
