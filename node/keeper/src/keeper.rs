//! The keeper's loop. Its one idea: one thread waits for everything at once (signals, the agent, the ends and the output of
//! children, moments) and takes one small step for each; nothing in it waits for anything else.
//!
//! After each round what changed is written down, then processes that were made are told what to become, and then the agent
//! hears what happened.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::agent::{Agent, Greeting, Next, Room, Started};
use crate::calls::{self, refused};
use crate::children::{Children, OnDisk, Part};
use crate::clock::{Moment, millis};
use crate::protocol::{Event, Exit, FromKeeper, Hello, KeeperStart, OLDEST_PROTOCOL, PROTOCOL, Refusal, Reply, Request};
use crate::shim::keep_inherited_descriptors;
use crate::signals::{Heard, Signals};
use crate::state::{Folder, FolderError, Saved};
use crate::takeover::{self, Beginning};

/// The code by which an agent says that no other start would go better, such as for settings that are wrong (`EX_CONFIG`). If no
/// child runs or will, the keeper ends with it too.
pub const AGENT_CANNOT: u8 = 78;
/// How long after a failure the keeper tries again to write its state.
const SAVE_AGAIN: Duration = Duration::from_secs(1);
/// How long the system may take to end what was killed.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// How a keeper is set up.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// Its own folder; made where it is not there.
    pub folder: PathBuf,
    /// Starts an agent, which takes its socket with [`crate::take_agent_socket`].
    pub agent_command: Vec<OsString>,
    /// Starts a process that calls [`crate::shim_main`].
    pub shim_command: Vec<OsString>,
    /// The keeper's name and version, for the agent.
    pub software: String,
    /// How long an agent has to end when the node stops, before it is killed.
    pub agent_within: Duration,
    /// How long all children together have to end when the node stops, before what is left is killed.
    pub children_within: Duration,
}

impl KeeperConfig {
    /// With 30 s for the agent and 60 s for the children.
    pub fn new(
        folder: impl Into<PathBuf>,
        agent_command: Vec<OsString>,
        shim_command: Vec<OsString>,
        software: impl Into<String>,
    ) -> Self {
        Self {
            folder: folder.into(),
            agent_command,
            shim_command,
            software: software.into(),
            agent_within: Duration::from_secs(30),
            children_within: Duration::from_secs(60),
        }
    }
}

/// Why a keeper could not begin, or go on. Children that run are left as they are, for the next one.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Its folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The system refused what it cannot do without.
    #[error("the keeper could not {what}: {source}")]
    System {
        /// What it wanted.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Processes that were killed do not end.
    #[error("{0} processes do not end although they were killed (they wait for a device?); the node is not stopped")]
    Unkillable(usize),
}

/// Keeps the node's children until the node stops, which is answered by the code to exit with. It takes over children that a keeper
/// before it left alive. This process should do nothing else.
///
/// # Errors
/// Another keeper runs on this folder, or the system refused what cannot be done without.
pub fn run(config: KeeperConfig) -> Result<ExitCode, KeeperError> {
    let failed = |what| move |source| KeeperError::System { what, source };
    keep_inherited_descriptors().map_err(failed("look at its descriptors"))?;
    let folder = Folder::lock(&config.folder)?;
    let signals = Signals::listen().map_err(failed("listen to signals"))?;
    let mut children = Children::new(folder.fifos(), config.shim_command.clone());
    let now = Moment::now();
    let saved = folder.load()?;
    let Beginning { began, run, agent } =
        takeover::begin(saved, &mut children, now).map_err(failed("take over what a keeper before left"))?;
    if began == KeeperStart::NodeRestart {
        folder.clear().map_err(failed("clear what was before this node restart"))?;
    }
    let agent = Agent::new(config.agent_command.clone(), agent, now);
    let mut keeper = Keeper { config, folder, run, began, children, agent, signals, stop: Stop::No, exit: 0, save_at: None };
    tracing::info!(folder = %keeper.config.folder.display(), ?began, "keeper began");
    keeper.run()
}

struct Keeper {
    config: KeeperConfig,
    folder: Folder,
    run: String,
    began: KeeperStart,
    children: Children,
    agent: Agent,
    signals: Signals,
    stop: Stop,
    exit: u8,
    /// When to try again to write the state, after a failure.
    save_at: Option<Moment>,
}

/// How far a clean stop is.
#[derive(Debug, Clone, Copy)]
enum Stop {
    No,
    /// The agent has until then to end.
    Agent {
        until: Moment,
    },
    /// The children are being stopped: all at once from `hurry_at` on; what is left at `kill_at` is killed.
    Children {
        hurry_at: Moment,
        kill_at: Moment,
    },
}

/// Whether the loop goes on.
enum Turn {
    On,
    Over,
}

/// What can become readable.
enum Source {
    Signals,
    Agent,
    AgentProcess,
    Child(Part),
}

impl Keeper {
    fn run(&mut self) -> Result<ExitCode, KeeperError> {
        loop {
            let now = Moment::now();
            self.on_time(now);
            if let Turn::Over = self.step_stop(now)? {
                break;
            }
            self.settle(now);
            let ready = self.wait().map_err(|source| KeeperError::System { what: "wait for what happens", source })?;
            let now = Moment::now();
            for source in ready {
                self.hear(source, now);
            }
        }
        self.children.sockets.release_all();
        self.folder.clear().map_err(|source| KeeperError::System { what: "clear its folder", source })?;
        tracing::info!("node stopped");
        Ok(ExitCode::from(self.exit))
    }

    fn on_time(&mut self, now: Moment) {
        self.children.on_time(now);
        if self.agent.on_time(now) == Started::Yes {
            self.children.on_disk = OnDisk::Outdated;
        }
        if self.save_at.is_some_and(|at| at <= now) {
            self.save_at = None;
        }
    }

    /// The end of a round: state, then launches, then events.
    fn settle(&mut self, now: Moment) {
        if self.children.on_disk == OnDisk::Outdated && (self.save_at.is_none() || self.children.someone_waits()) {
            self.save(now);
        }
        self.children.go_on();
        for event in self.children.take_events() {
            self.tell(event, now);
        }
    }

    fn save(&mut self, now: Moment) {
        let mut saved = Saved::new(self.run.clone());
        saved.agent = self.agent.process();
        self.children.write_to(&mut saved);
        match self.folder.save(&saved) {
            Ok(()) => self.children.on_disk = OnDisk::Current,
            Err(error) => {
                tracing::error!(%error, "the keeper's state cannot be written: no service can be started until it can (is the disk full?)");
                self.children.give_up(&format!("the keeper's state cannot be written: {error}"));
                self.save_at = Some(now.after(SAVE_AGAIN));
            }
        }
    }

    /// Waits until something can be read or sent, or is due. Answers what can be.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut watched: Vec<(Source, PollFd<'_>)> = Vec::new();
        for signal in self.signals.descriptors() {
            watched.push((Source::Signals, PollFd::from_borrowed_fd(signal, PollFlags::IN)));
        }
        if let Some((socket, room)) = self.agent.socket() {
            let flags = if room == Room::Wanted { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            watched.push((Source::Agent, PollFd::from_borrowed_fd(socket, flags)));
        }
        if let Some(process) = self.agent.pidfd() {
            watched.push((Source::AgentProcess, PollFd::from_borrowed_fd(process, PollFlags::IN)));
        }
        for (part, descriptor) in self.children.descriptors() {
            watched.push((Source::Child(part), PollFd::from_borrowed_fd(descriptor, PollFlags::IN)));
        }
        let (sources, mut fds): (Vec<_>, Vec<_>) = watched.into_iter().unzip();
        let timeout = self.next_moment().map(|at| timespec(at.since(Moment::now())));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = sources.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(source, _)| source).collect())
    }

    fn next_moment(&self) -> Option<Moment> {
        let stop = match self.stop {
            Stop::No => None,
            Stop::Agent { until } => Some(until.after(KILLED_WITHIN)),
            Stop::Children { hurry_at, .. } if hurry_at > Moment::now() => Some(hurry_at),
            Stop::Children { kill_at, .. } => Some(kill_at.after(KILLED_WITHIN)),
        };
        [self.children.next_moment(), self.agent.next_moment(), self.save_at, stop].into_iter().flatten().min()
    }

    fn hear(&mut self, source: Source, now: Moment) {
        match source {
            Source::Signals => {
                for heard in self.signals.take() {
                    match heard {
                        Heard::Stop => self.begin_stop(now),
                        Heard::Reload => self.tell(Event::Reload, now),
                        Heard::Child => self.reap(now),
                    }
                }
            }
            Source::Agent => {
                self.agent.flush(now);
                for message in self.agent.receive(now) {
                    self.answer(message, now);
                }
            }
            Source::AgentProcess => self.take_agent_end(now),
            Source::Child(part) => self.children.hear(&part, now),
        }
    }

    fn reap(&mut self, now: Moment) {
        self.take_agent_end(now);
        for (pid, exit) in self.children.reap(now) {
            self.agent.note_taken(pid, exit);
        }
    }

    fn take_agent_end(&mut self, now: Moment) {
        let next = if matches!(self.stop, Stop::No) { Next::Start } else { Next::None };
        let Some(exit) = self.agent.take_end(next, now) else { return };
        self.children.on_disk = OnDisk::Outdated;
        if next == Next::None {
            return;
        }
        let services = self.children.anyone_active();
        if exit == Exit::Code(AGENT_CANNOT.into()) && !services {
            tracing::error!("the agent cannot work as it is set up, and no service runs: the node stops");
            self.exit = AGENT_CANNOT;
            self.begin_stop(now);
            return;
        }
        let again_in_ms = self.agent.next_moment().map(|at| millis(at.since(now)));
        let meanwhile = if services { "services go on" } else { "no service runs" };
        tracing::warn!(again_in_ms, "the agent is started again; {meanwhile}");
    }

    fn answer(&mut self, message: Result<Vec<u8>, usize>, now: Moment) {
        let read = match &message {
            Ok(message) => calls::read(message),
            Err(length) => Err((None, refused(Refusal::BadRequest, &format!("a message of {length} bytes is too long")))),
        };
        let (id, reply) = match read {
            Ok(call) => (Some(call.id), self.reply(call.request, now)),
            Err(refusal) => refusal,
        };
        let hello = matches!(reply, Reply::Hello(_));
        self.agent.send(&FromKeeper::Reply { id, reply }, now);
        if hello {
            self.agent.greeted();
            if let Stop::Agent { until } = self.stop {
                self.tell(Event::Stopping { within_ms: millis(until.since(now)) }, now);
            }
        }
    }

    fn reply(&mut self, request: Request, now: Moment) -> Reply {
        match request {
            Request::Hello { protocol, software } => self.hello(protocol, &software),
            _ if self.agent.greeting() == Greeting::Awaited => {
                refused(Refusal::Protocol, "the first request of an agent is `hello`")
            }
            Request::Shutdown => {
                self.begin_stop(now);
                Reply::Done
            }
            Request::Start(_) | Request::Restart { .. } | Request::OpenSocket { .. } if !matches!(self.stop, Stop::No) => {
                refused(Refusal::Stopping, "the node is stopping")
            }
            request => self.children.answer(request, now),
        }
    }

    fn hello(&self, protocol: u32, software: &str) -> Reply {
        if protocol < OLDEST_PROTOCOL {
            let message =
                format!("the agent speaks version {protocol}, the keeper {OLDEST_PROTOCOL} to {PROTOCOL}: update the agent");
            return refused(Refusal::Protocol, &message);
        }
        tracing::info!(software, "agent said hello");
        Reply::Hello(Hello {
            protocol: protocol.min(PROTOCOL),
            software: self.config.software.clone(),
            keeper_pid: std::process::id(),
            run: self.run.clone(),
            began: self.began,
            agent_starts: self.agent.starts,
        })
    }

    fn tell(&mut self, event: Event, now: Moment) {
        // One that has not said hello asks for all children once it has.
        if self.agent.greeting() == Greeting::Said {
            self.agent.send(&FromKeeper::Event(event), now);
        }
    }

    /// Begins a clean stop; the second time, makes it hurry.
    fn begin_stop(&mut self, now: Moment) {
        match &mut self.stop {
            Stop::No => {
                let within = self.config.agent_within;
                let until = now.after(within);
                tracing::info!("the node stops: first the agent, then its services");
                self.stop = Stop::Agent { until };
                self.agent.end_by(until);
                self.tell(Event::Stopping { within_ms: millis(within) }, now);
            }
            Stop::Agent { until } => {
                tracing::warn!("asked again to stop: the agent is killed");
                *until = now;
                self.agent.end_by(now);
            }
            Stop::Children { hurry_at, .. } => {
                tracing::warn!("asked again to stop: all services are asked at once");
                *hurry_at = now;
            }
        }
    }

    /// The next step of a clean stop.
    fn step_stop(&mut self, now: Moment) -> Result<Turn, KeeperError> {
        if let Stop::Agent { until } = self.stop
            && (self.agent.is_gone() || now >= until.after(KILLED_WITHIN))
        {
            let within = self.config.children_within;
            self.stop = Stop::Children { hurry_at: now.after(within / 2), kill_at: now.after(within) };
        }
        let Stop::Children { hurry_at, kill_at } = self.stop else { return Ok(Turn::On) };
        match self.children.stop_all(hurry_at, kill_at, now) {
            0 if self.agent.is_gone() => Ok(Turn::Over),
            left if now >= kill_at.after(KILLED_WITHIN) => Err(KeeperError::Unkillable(left)),
            _ => Ok(Turn::On),
        }
    }
}

fn timespec(wait: Duration) -> Timespec {
    // Saturates far beyond any wait.
    Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(wait.subsec_nanos()) }
}
