//! A keeper in a folder of its own, with the test as its agent's mind.

#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tribune_keeper::{
    AfterExit, Call, ChildId, ChildSpec, ChildState, ChildStatus, Event, Exit, FromKeeper, Hello, PROTOCOL, ProcessId, Reply,
    Request, Rest,
};

pub const HELPER: &str = env!("CARGO_BIN_EXE_keeper-test-helper");
/// Nothing that a test waits for takes as long.
const LONG: Duration = Duration::from_secs(30);

/// A process that can be waited for, whoever's child it is.
pub struct Watched {
    pub pid: u32,
    pidfd: OwnedFd,
}

impl Watched {
    pub fn new(pid: u32) -> Self {
        let pidfd = pidfd_open(raw(pid), PidfdFlags::empty()).unwrap();
        Self { pid, pidfd }
    }

    pub fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    pub fn wait(&self) {
        assert!(self.ends_within(LONG), "pid {} still lives", self.pid);
    }

    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    fn ends_within(&self, time: Duration) -> bool {
        let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&time)).unwrap() > 0
    }
}

fn raw(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed()).unwrap()
}

/// A FIFO through which a child tells the test something.
pub struct Bell {
    pub path: PathBuf,
    file: File,
}

impl Bell {
    fn new(path: PathBuf) -> Self {
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        Self { path, file }
    }

    /// Waits for what a child says.
    pub fn heard(&mut self) -> String {
        let time = Timespec { tv_sec: LONG.as_secs().cast_signed(), tv_nsec: 0 };
        assert!(poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&time)).unwrap() > 0, "nothing was said");
        let mut buffer = [0; 100];
        let count = self.file.read(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).trim().to_owned()
    }
}

/// The connection to one agent.
pub struct Agent {
    pub process: Watched,
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    events: VecDeque<Event>,
    next: u64,
    seen: Vec<Watched>,
}

impl Agent {
    fn read(&mut self) -> Option<FromKeeper> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => {
                let message = serde_json::from_str(&line).unwrap();
                if let FromKeeper::Event(Event::Started { process, .. }) = &message {
                    // One that ended at once cannot be watched and need not be.
                    if let Ok(pidfd) = pidfd_open(raw(process.pid), PidfdFlags::empty()) {
                        self.seen.push(Watched { pid: process.pid, pidfd });
                    }
                }
                Some(message)
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("the keeper said nothing in time: {error}"),
        }
    }

    pub fn call(&mut self, request: Request) -> Reply {
        self.next += 1;
        let id = self.next;
        self.say(&serde_json::to_string(&Call { id, request }).unwrap());
        loop {
            match self.read().expect("the agent ended") {
                FromKeeper::Reply { id: replied, reply } => {
                    assert_eq!(replied, Some(id));
                    return reply;
                }
                FromKeeper::Event(event) => self.events.push_back(event),
            }
        }
    }

    pub fn say(&mut self, text: &str) {
        writeln!(self.writer, "{text}").unwrap();
    }

    pub fn reply(&mut self) -> Reply {
        loop {
            match self.read().expect("the agent ended") {
                FromKeeper::Reply { reply, .. } => return reply,
                FromKeeper::Event(event) => self.events.push_back(event),
            }
        }
    }

    pub fn done(&mut self, request: Request) {
        assert_eq!(self.call(request.clone()), Reply::Done, "{request:?}");
    }

    pub fn hello(&mut self) -> Hello {
        match self.call(Request::Hello { protocol: PROTOCOL, software: "test agent".into() }) {
            Reply::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    pub fn event(&mut self) -> Event {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        match self.read().expect("the agent ended") {
            FromKeeper::Event(event) => event,
            other => panic!("{other:?}"),
        }
    }

    /// What happened to this child; what happened to others is passed over.
    fn event_of(&mut self, id: &ChildId) -> Event {
        loop {
            match self.event() {
                Event::Started { child, .. } | Event::Exited { child, .. } if child != *id => {}
                event => return event,
            }
        }
    }

    pub fn started(&mut self, id: &ChildId) -> ProcessId {
        match self.event_of(id) {
            Event::Started { process, .. } => process,
            other => panic!("not a start of {id}: {other:?}"),
        }
    }

    pub fn exited(&mut self, id: &ChildId) -> (Exit, AfterExit) {
        match self.event_of(id) {
            Event::Exited { exit, then, .. } => (exit, then),
            other => panic!("not an end of {id}: {other:?}"),
        }
    }

    /// As [`Agent::exited`] for a child that ends at once: its start may be told before, or not.
    pub fn soon_exited(&mut self, id: &ChildId) -> (Exit, AfterExit) {
        match self.event_of(id) {
            Event::Started { .. } => self.exited(id),
            Event::Exited { exit, then, .. } => (exit, then),
            other => panic!("not an end of {id}: {other:?}"),
        }
    }

    /// Starts a child and waits until it runs.
    pub fn start(&mut self, spec: &ChildSpec) -> ProcessId {
        self.done(Request::Start(Box::new(spec.clone())));
        self.started(&spec.id)
    }

    pub fn list(&mut self) -> Vec<ChildStatus> {
        let mut all: Vec<ChildStatus> = Vec::new();
        loop {
            match self.call(Request::List { after: all.last().map(|child| child.id.clone()) }) {
                Reply::Children { children, rest } => {
                    all.extend(children);
                    if rest == Rest::None {
                        return all;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn state(&mut self, id: &ChildId) -> ChildState {
        self.list().into_iter().find(|child| child.id == *id).unwrap().state
    }

    /// The process of a child that runs, or will soon.
    pub fn running(&mut self, id: &ChildId) -> ProcessId {
        loop {
            match self.state(id) {
                ChildState::Running { process, .. } => return process,
                ChildState::Stopped { .. } | ChildState::Broken { .. } => panic!("{id} does not run"),
                // Its start is told.
                _ => drop(self.event()),
            }
        }
    }

    /// Waits until the agent has ended.
    pub fn wait(mut self) -> Vec<Watched> {
        while self.read().is_some() {}
        self.process.wait();
        std::mem::take(&mut self.seen)
    }
}

/// A node: a folder, and the keeper that runs on it.
pub struct Node {
    pub folder: tempfile::TempDir,
    listener: UnixListener,
    pub keeper: Child,
    /// What was started so far, to be ended with the test.
    pub seen: Vec<Watched>,
}

impl Node {
    pub fn start() -> (Self, Agent) {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("test.sock")).unwrap();
        let keeper = Self::keeper_of(&folder).spawn().unwrap();
        let mut node = Self { folder, listener, keeper, seen: Vec::new() };
        let agent = node.agent();
        (node, agent)
    }

    fn keeper_of(folder: &tempfile::TempDir) -> Command {
        let mut command = Command::new(HELPER);
        command.arg("keeper").arg(folder.path().join("keeper")).arg(folder.path().join("test.sock"));
        command
    }

    /// The command of a keeper on the same folder.
    pub fn another_keeper(&self) -> Command {
        Self::keeper_of(&self.folder)
    }

    /// The next agent that the keeper starts.
    pub fn agent(&mut self) -> Agent {
        let time = Timespec { tv_sec: LONG.as_secs().cast_signed(), tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&time)).unwrap();
        assert!(ready > 0, "no agent was started");
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut pid = String::new();
        reader.read_line(&mut pid).unwrap();
        let process = Watched::new(pid.trim().parse().unwrap());
        Agent { process, reader, writer: stream, events: VecDeque::new(), next: 0, seen: Vec::new() }
    }

    /// Kills the keeper as the system would. The agent ends by itself.
    pub fn kill_keeper(&mut self, agent: Agent) {
        self.keeper.kill().unwrap();
        self.keeper.wait().unwrap();
        self.seen.extend(agent.wait());
    }

    /// Kills the agent as the system would.
    pub fn kill_agent(&mut self, agent: Agent) {
        agent.process.kill();
        self.seen.extend(agent.wait());
    }

    pub fn start_keeper(&mut self) -> Agent {
        self.keeper = self.another_keeper().spawn().unwrap();
        self.agent()
    }

    pub fn signal_keeper(&self, signal: Signal) {
        rustix::process::kill_process(raw(self.keeper.id()), signal).unwrap();
    }

    pub fn wait_keeper(&mut self) -> ExitStatus {
        Watched::new(self.keeper.id()).wait();
        self.keeper.wait().unwrap()
    }

    /// A bell of this name.
    pub fn bell(&self, name: &str) -> Bell {
        Bell::new(self.folder.path().join(name))
    }

    pub fn log(&self, id: &ChildId) -> PathBuf {
        self.folder.path().join(format!("{}.log", id.key))
    }

    /// A child that runs a shell command.
    pub fn shell(&self, key: &str, script: &str) -> ChildSpec {
        let id = ChildId::new(key, 1);
        let log = self.log(&id);
        let mut spec = ChildSpec::new(id, "/bin/sh", "/", log);
        spec.args = vec!["-c".into(), script.into()];
        spec.env.insert("PATH".into(), "/usr/bin:/bin".into());
        spec
    }

    /// A child that plays a role of the helper.
    pub fn role(&self, key: &str, args: &[&str]) -> ChildSpec {
        let id = ChildId::new(key, 1);
        let log = self.log(&id);
        let mut spec = ChildSpec::new(id, HELPER, "/", log);
        spec.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        spec
    }

    /// Keeps an eye on what an agent saw started, and on no agent any more.
    pub fn watch(&mut self, mut agent: Agent) {
        self.seen.append(&mut agent.seen);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A clean stop takes along what the test does not know of.
        if let Ok(None) = self.keeper.try_wait() {
            let keeper = Watched::new(self.keeper.id());
            self.signal_keeper(Signal::TERM);
            if !keeper.ends_within(LONG) {
                keeper.kill();
            }
        }
        let _ = self.keeper.wait();
        for seen in self.seen.iter().filter(|seen| !seen.has_ended()) {
            let _ = kill_process_group(raw(seen.pid), Signal::KILL);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Left over only where a test failed, or forgot it: the keeper that would stop them is killed with the node.
        for seen in self.seen.iter().filter(|seen| !seen.has_ended()) {
            let _ = kill_process_group(raw(seen.pid), Signal::KILL);
        }
    }
}

/// Runs a command to its end, without a terminal.
pub fn output(command: &mut Command) -> (ExitStatus, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    (output.status, String::from_utf8(output.stderr).unwrap())
}
