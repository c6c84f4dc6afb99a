//! The one task that owns who is connected and what was asked of whom.
//!
//! Its one idea: it never waits for anyone. What a process is to read goes into that connection's bounded queue, and a
//! full one closes the connection; what the agent is to hear waits in a list here, and while that is long no more is
//! read from processes. So the agent may wait for the desk without the desk ever waiting for the agent.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tribune_process::protocol::{NodeMessage, PROTOCOL, ProcessMessage, Welcome, clean_reason, encode};

use super::asked::Asked;
use super::connection::{Connection, Heard};
use super::{Command, ConnectedProcess, DeskConfig, DeskEvent, SendError};
use crate::processes::identity::{ProcessId, Sighting};
use crate::processes::modules::ModulesNow;
use crate::processes::system::{Caller, Callers, System};

/// Events that wait for the agent before processes have to wait.
const EVENTS_WAITING: usize = 256;
/// After the system refused a connection (it is out of descriptors), the next is taken so much later.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// The longest name and version that a process may give itself, in bytes.
const LONGEST_NAME: usize = 128;

pub(super) struct Task {
    config: DeskConfig,
    modules: ModulesNow,
    system: Arc<dyn System>,
    callers: Box<dyn Callers>,
    waiting_events: VecDeque<DeskEvent>,
    from_connections: mpsc::Receiver<(u64, Heard)>,
    to_desk: mpsc::Sender<(u64, Heard)>,
    next_id: u64,
    accept_after: Instant,
    connections: HashMap<u64, Open>,
    /// The connection through which each process speaks.
    speaking: HashMap<ProcessId, u64>,
    asked: HashMap<ProcessId, Asked>,
    watched: HashMap<ProcessId, Watched>,
    exits: JoinSet<ProcessId>,
    /// Ends them when the desk ends.
    serving: JoinSet<()>,
}

/// One open connection.
struct Open {
    lines: mpsc::Sender<String>,
    sighting: Sighting,
    uid: u32,
    hello: Option<ConnectedProcess>,
}

/// A process whose end will be told.
struct Watched {
    exit: AbortHandle,
    reason: Reason,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// It said hello: watched while it is connected or asked.
    SaidHello,
    /// The agent wants to know.
    Wanted,
}

impl Task {
    pub(super) fn new(config: DeskConfig, modules: ModulesNow, system: Arc<dyn System>, callers: Box<dyn Callers>) -> Self {
        let (to_desk, from_connections) = mpsc::channel(64);
        Self {
            config,
            modules,
            system,
            callers,
            waiting_events: VecDeque::new(),
            from_connections,
            to_desk,
            next_id: 0,
            accept_after: Instant::now(),
            connections: HashMap::new(),
            speaking: HashMap::new(),
            asked: HashMap::new(),
            watched: HashMap::new(),
            exits: JoinSet::new(),
            serving: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, events: mpsc::Sender<DeskEvent>) {
        let mut modules_known = true;
        loop {
            let may_listen = self.waiting_events.len() < EVENTS_WAITING;
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                room = events.reserve(), if !self.waiting_events.is_empty() => {
                    let Ok(room) = room else { break };
                    if let Some(event) = self.waiting_events.pop_front() {
                        room.send(event);
                    }
                }
                // This task holds a sender too, so that there is always one.
                Some((id, heard)) = self.from_connections.recv(), if may_listen => self.hear(id, heard),
                // One that is no longer watched comes back as an error.
                Some(ended) = self.exits.join_next() => ended.into_iter().for_each(|process| self.gone(process)),
                Some(_) = self.serving.join_next() => {}
                changed = self.modules.changed(), if modules_known => {
                    modules_known = changed.is_ok();
                    self.recognise();
                }
                accepted = accept(self.callers.as_mut(), self.accept_after), if may_listen => match accepted {
                    Ok(caller) => self.open(caller),
                    Err(error) => {
                        tracing::warn!(%error, "a process could not connect");
                        self.accept_after = Instant::now() + ACCEPT_PAUSE;
                    }
                },
            }
        }
    }

    /// Takes a new connection in, or tells it why not.
    fn open(&mut self, caller: Caller) {
        let sighting = match self.admit(&caller) {
            Ok(sighting) => sighting,
            Err(message) => {
                tracing::warn!(message, "a process's connection was refused");
                // One short line into an empty socket buffer: it fits, or the process has hung up.
                if let Ok(line) = encode(&NodeMessage::Error { message }) {
                    let mut stream = caller.stream;
                    let _ = stream.write(line.as_bytes()).now_or_never();
                }
                return;
            }
        };
        let Caller { stream, uid, .. } = caller;
        let (lines, from_desk) = mpsc::channel(self.config.limits.unread);
        let id = self.next_id;
        self.next_id += 1;
        let limits = self.config.limits.clone();
        let connection = Connection { id, stream, to_desk: self.to_desk.clone(), lines: from_desk, limits };
        self.serving.spawn(connection.run());
        self.connections.insert(id, Open { lines, sighting, uid, hello: None });
    }

    fn admit(&self, caller: &Caller) -> Result<Sighting, String> {
        let node = rustix::process::geteuid().as_raw();
        // With a group configured, the socket's permissions have judged already.
        if caller.uid != 0 && caller.uid != node && self.config.group.is_none() {
            return Err(format!("user {} may not speak to this node", caller.uid));
        }
        let pid = caller.pid.ok_or("your process is not visible to this node (another pid namespace?)")?;
        let sighting = self.system.look_up(pid).map_err(|error| format!("process {pid} cannot be looked up: {error}"))?;
        let limits = &self.config.limits;
        if self.connections.len() >= limits.connections {
            return Err(format!("this node serves at most {} connections", limits.connections));
        }
        let own = self.connections.values().filter(|open| open.sighting.id == sighting.id).count();
        if own >= limits.per_process {
            return Err(format!("a process may have at most {} connections", limits.per_process));
        }
        Ok(sighting)
    }

    fn hear(&mut self, id: u64, heard: Heard) {
        let Some(open) = self.connections.get(&id) else { return };
        let process = open.sighting.id;
        match heard {
            Heard::Closed => self.closed(id),
            Heard::Message(ProcessMessage::Hello { protocol, name, version }) => self.hello(id, protocol, name, version),
            // Another connection of the same process has taken over.
            Heard::Message(_) if self.speaking.get(&process) != Some(&id) => {}
            Heard::Message(message) => match self.asked.entry(process).or_default().hear(process, message) {
                Ok(event) => {
                    self.waiting_events.extend(event);
                    self.forget_idle(process);
                }
                Err(message) => {
                    self.forget_idle(process);
                    let _ = self.post(process, &NodeMessage::Error { message });
                }
            },
        }
    }

    fn hello(&mut self, id: u64, protocol: u32, name: Option<String>, version: Option<String>) {
        let Some(open) = self.connections.get_mut(&id) else { return };
        let process = open.sighting.id;
        let module = self.modules.borrow().of(&open.sighting).map(|module| module.module.clone());
        let said = |text: Option<String>| text.map(|text| short(&text)).filter(|text| !text.is_empty());
        let connected =
            ConnectedProcess { process, uid: open.uid, module: module.clone(), name: said(name), version: said(version) };
        open.hello = Some(connected.clone());
        if let Some(older) = self.speaking.insert(process, id).filter(|older| *older != id) {
            let message = "another connection of this process has taken over".to_owned();
            self.write(older, &NodeMessage::Error { message });
            self.connections.remove(&older);
        }
        if let Err(error) = self.watch(process, Reason::SaidHello) {
            tracing::warn!(%error, %process, "a process's end cannot be watched");
        }
        let welcome = Welcome { protocol: protocol.min(PROTOCOL), node: self.config.node.clone(), module };
        if self.post(process, &NodeMessage::Welcome(welcome)).is_ok() {
            self.waiting_events.push_back(DeskEvent::Hello(connected));
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Connected(answer) => {
                let mut connected: Vec<_> = self.connections.values().filter_map(|open| open.hello.clone()).collect();
                connected.sort_by_key(|one| one.process);
                let _ = answer.send(connected);
            }
            Command::Send(process, message, answer) => {
                let message = match message {
                    NodeMessage::Proposal(proposal) => NodeMessage::Proposal(proposal.fitted()),
                    other => other,
                };
                let sent = self.post(process, &message);
                if sent.is_ok() && message.update().is_some() {
                    self.asked.entry(process).or_default().told(&message);
                }
                let _ = answer.send(sent);
            }
            Command::Watch(process) => {
                if let Err(error) = self.watch(process, Reason::Wanted) {
                    tracing::warn!(%error, %process, "a process's end cannot be watched");
                }
            }
        }
    }

    /// Queues a message for a process that is connected.
    fn post(&mut self, process: ProcessId, message: &NodeMessage) -> Result<(), SendError> {
        let line = encode(message)?;
        let id = *self.speaking.get(&process).ok_or(SendError::NotConnected(process))?;
        let open = self.connections.get(&id).ok_or(SendError::NotConnected(process))?;
        open.lines.try_send(line).map_err(|error| {
            let end = match error {
                mpsc::error::TrySendError::Full(_) => SendError::NotReading(process),
                mpsc::error::TrySendError::Closed(_) => SendError::NotConnected(process),
            };
            self.closed(id);
            end
        })
    }

    /// Queues a message for one connection, if it has room.
    fn write(&self, id: u64, message: &NodeMessage) {
        if let (Some(open), Ok(line)) = (self.connections.get(&id), encode(message)) {
            let _ = open.lines.try_send(line);
        }
    }

    /// A connection has ended, or is ended by dropping its queue here.
    fn closed(&mut self, id: u64) {
        let Some(open) = self.connections.remove(&id) else { return };
        let process = open.sighting.id;
        if self.speaking.get(&process) == Some(&id) {
            self.speaking.remove(&process);
            self.waiting_events.push_back(DeskEvent::Disconnected(process));
            self.forget_idle(process);
        }
    }

    /// Stops watching a process that is neither connected nor asked nor watched on demand.
    fn forget_idle(&mut self, process: ProcessId) {
        let speaking = self.speaking.contains_key(&process);
        if !speaking && self.asked.get(&process).is_some_and(Asked::is_empty) {
            self.asked.remove(&process);
        }
        let idle = !self.asked.contains_key(&process) && !speaking;
        if idle && let Some(watched) = self.watched.remove(&process) {
            if watched.reason == Reason::Wanted {
                self.watched.insert(process, watched);
            } else {
                watched.exit.abort();
            }
        }
    }

    fn watch(&mut self, process: ProcessId, reason: Reason) -> std::io::Result<()> {
        if let Some(watched) = self.watched.get_mut(&process) {
            if reason == Reason::Wanted {
                watched.reason = reason;
            }
            return Ok(());
        }
        let exit = self.system.exit_of(process)?;
        let exit = self.exits.spawn(async move {
            if let Some(exit) = exit {
                exit.await;
            }
            process
        });
        self.watched.insert(process, Watched { exit, reason });
        Ok(())
    }

    fn gone(&mut self, process: ProcessId) {
        if self.watched.remove(&process).is_some() {
            self.asked.remove(&process);
            self.waiting_events.push_back(DeskEvent::Gone(process));
        }
    }

    /// The modules have changed: who said hello before the node knew its module is known now.
    fn recognise(&mut self) {
        let modules = Arc::clone(&self.modules.borrow_and_update());
        for open in self.connections.values_mut() {
            let Some(hello) = open.hello.as_mut().filter(|hello| hello.module.is_none()) else { continue };
            if let Some(module) = modules.of(&open.sighting) {
                hello.module = Some(module.module.clone());
                self.waiting_events.push_back(DeskEvent::Hello(hello.clone()));
            }
        }
    }
}

/// The next connection, not before `after`.
async fn accept(callers: &mut dyn Callers, after: Instant) -> std::io::Result<Caller> {
    tokio::time::sleep_until(after).await;
    callers.accept().await
}

/// A name as it is shown in one line.
fn short(text: &str) -> String {
    let clean = clean_reason(text).replace(['\n', '\t'], " ");
    let end = (0..=LONGEST_NAME.min(clean.len())).rev().find(|at| clean.is_char_boundary(*at)).unwrap_or(0);
    clean[..end].to_owned()
}
