//! The table of children, with their sockets and logs. Its one idea: a step that needs to be on disk before it goes on is
//! taken in two: [`Children`] notes that it changed, the keeper's loop saves, and only then calls [`Children::go_on`].

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::calls::refused;
use crate::child::{AfterStop, Child, Phase, Told};
use crate::clock::Moment;
use crate::logs::{Logs, Output};
use crate::process::{ProcessId, reap_any};
use crate::protocol::{Event, Exit, Refusal, Reply, Request};
use crate::sockets::{SocketAddress, SocketError, Sockets};
use crate::spec::{ChildId, ChildSpec, LONGEST_STOP_MS};
use crate::state::{Saved, SavedChild};

/// Most children, running or not: each takes up to three descriptors, and a process usually has 1024.
pub(crate) const MOST_CHILDREN: usize = 256;
/// Most bytes of children in one answer; what JSON puts around them fits beside it.
const MOST_LISTED: usize = 96 * 1024;

/// Something of a child that can become readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// Its pidfd.
    Process(ChildId),
    /// The socket to its shim.
    Launch(ChildId),
    /// Its output.
    Output(ChildId),
}

/// Whether what is on disk is what is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDisk {
    Current,
    Outdated,
}

/// All children.
#[derive(Debug)]
pub(crate) struct Children {
    pub(crate) table: BTreeMap<ChildId, Child>,
    pub(crate) sockets: Sockets,
    pub(crate) on_disk: OnDisk,
    /// The highest that was given to a child.
    pub(crate) order: u64,
    logs: Logs,
    fifos: PathBuf,
    shim: Vec<OsString>,
    events: Vec<Event>,
}

impl Children {
    /// None yet.
    pub(crate) fn new(fifos: PathBuf, shim: Vec<OsString>) -> Self {
        Self {
            table: BTreeMap::new(),
            sockets: Sockets::default(),
            on_disk: OnDisk::Outdated,
            order: 0,
            logs: Logs::default(),
            fifos,
            shim,
            events: Vec::new(),
        }
    }

    /// Writes down what the next keeper needs of them.
    pub(crate) fn write_to(&self, saved: &mut Saved) {
        saved.order = self.order;
        saved.children = self.table.values().map(SavedChild::from).collect();
        saved.sockets = self.sockets.saved();
    }

    /// What happened since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The reading end of a child's output.
    pub(crate) fn output(&self, id: &ChildId) -> std::io::Result<Output> {
        Output::open(&self.fifos.join(id.file_name()))
    }

    /// Answers a request about a child or a socket.
    pub(crate) fn answer(&mut self, request: Request, now: Moment) -> Reply {
        let result = match request {
            Request::List { after } => Ok(self.list(after.as_ref(), now)),
            Request::Start(spec) => self.start(*spec, now),
            Request::Stop { child, within_ms } => self.stop(&child, within_ms, now),
            Request::Restart { child } => self.restart(&child, now),
            Request::Signal { child, signal } => self.signal(&child, signal.into()),
            Request::Remove { child } => self.remove(&child),
            Request::OpenSocket { address } => {
                self.on_disk = OnDisk::Outdated;
                self.sockets.open(&address).map(Reply::Socket).map_err(|error| socket_refused(&error))
            }
            Request::ReleaseSocket { address } => self.release(&address),
            Request::ListSockets => Ok(Reply::Sockets(self.sockets.list())),
            Request::Hello { .. } | Request::Shutdown => {
                Err(refused(Refusal::BadRequest, "this request is not about a child or a socket"))
            }
        };
        result.unwrap_or_else(|refusal| refusal)
    }

    fn list(&self, after: Option<&ChildId>, now: Moment) -> Reply {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut children = Vec::new();
        let mut bytes = 0;
        for child in self.table.range((from, Bound::Unbounded)).map(|(_, child)| child) {
            let status = child.status(now);
            // A status always can be written; were it not so, its length would not matter either.
            bytes += serde_json::to_vec(&status).map_or(0, |text| text.len() + 1);
            if bytes > MOST_LISTED && !children.is_empty() {
                return Reply::Children { children, rest: crate::protocol::Rest::More };
            }
            children.push(status);
        }
        Reply::Children { children, rest: crate::protocol::Rest::None }
    }

    fn start(&mut self, spec: ChildSpec, now: Moment) -> Result<Reply, Reply> {
        spec.check().map_err(|error| refused(Refusal::BadRequest, &error.to_string()))?;
        let id = spec.id.clone();
        match self.table.get(&id) {
            Some(child) if matches!(child.phase, Phase::Starting { .. } | Phase::Running { .. }) && child.spec == spec => {
                return Ok(Reply::Done);
            }
            Some(child) if child.process().is_some() => {
                return Err(refused(Refusal::Runs, &format!("{id} runs with another spec, or is being stopped; stop it first")));
            }
            Some(_) => {}
            None if self.table.len() >= MOST_CHILDREN => {
                return Err(refused(
                    Refusal::Limit,
                    &format!("there are {MOST_CHILDREN} children already; remove some that do not run"),
                ));
            }
            None => {}
        }
        self.on_disk = OnDisk::Outdated;
        self.sockets.open_all(spec.sockets.iter().map(|socket| &socket.address)).map_err(|error| socket_refused(&error))?;
        match self.table.get_mut(&id) {
            Some(child) => {
                let before = std::mem::replace(&mut child.spec, spec);
                self.launch(&id, now).map_err(|reason| {
                    if let Some(child) = self.table.get_mut(&id) {
                        child.spec = before;
                    }
                    refused(Refusal::System, &reason)
                })?;
            }
            None => {
                let output =
                    self.output(&id).map_err(|error| refused(Refusal::System, &format!("its output has no way: {error}")))?;
                self.table.insert(id.clone(), Child::new(spec, output));
                self.launch(&id, now).map_err(|reason| {
                    if let Some(child) = self.table.remove(&id) {
                        child.output.remove();
                    }
                    refused(Refusal::System, &reason)
                })?;
            }
        }
        self.forget_endings(&id);
        self.close_unused_logs();
        Ok(Reply::Done)
    }

    fn stop(&mut self, id: &ChildId, within_ms: Option<u64>, now: Moment) -> Result<Reply, Reply> {
        let child = self.known(id)?;
        let within = Duration::from_millis(within_ms.unwrap_or(child.spec.stop.within_ms).min(LONGEST_STOP_MS));
        let result = child.stop(within, AfterStop::Stay, now);
        self.on_disk = OnDisk::Outdated;
        result.map(|()| Reply::Done).map_err(|error| refused(Refusal::System, &error.to_string()))
    }

    fn restart(&mut self, id: &ChildId, now: Moment) -> Result<Reply, Reply> {
        let child = self.known(id)?;
        let result = if child.process().is_some() {
            let within = Duration::from_millis(child.spec.stop.within_ms);
            child.stop(within, AfterStop::Start, now).map_err(|error| error.to_string())
        } else {
            self.launch(id, now)
        };
        self.on_disk = OnDisk::Outdated;
        result.map_err(|reason| refused(Refusal::System, &reason))?;
        self.forget_endings(id);
        Ok(Reply::Done)
    }

    fn signal(&mut self, id: &ChildId, signal: Signal) -> Result<Reply, Reply> {
        let Some(process) = self.known(id)?.process() else {
            return Err(refused(Refusal::UnknownChild, &format!("{id} does not run")));
        };
        process.signal(signal).map(|()| Reply::Done).map_err(|error| refused(Refusal::System, &error.to_string()))
    }

    fn remove(&mut self, id: &ChildId) -> Result<Reply, Reply> {
        if self.table.get(id).is_some_and(Child::is_active) {
            return Err(refused(Refusal::Runs, &format!("{id} runs, or will by itself; stop it first")));
        }
        if let Some(child) = self.table.remove(id) {
            child.output.remove();
            self.on_disk = OnDisk::Outdated;
            self.close_unused_logs();
        }
        Ok(Reply::Done)
    }

    fn release(&mut self, address: &SocketAddress) -> Result<Reply, Reply> {
        let names_it = |child: &&Child| child.is_active() && child.spec.sockets.iter().any(|socket| socket.address == *address);
        if let Some(child) = self.table.values().find(names_it) {
            return Err(refused(
                Refusal::Socket,
                &format!("{address} is a socket of {}, which runs or will by itself", child.spec.id),
            ));
        }
        self.sockets.release(address);
        self.on_disk = OnDisk::Outdated;
        Ok(Reply::Done)
    }

    fn known(&mut self, id: &ChildId) -> Result<&mut Child, Reply> {
        self.table.get_mut(id).ok_or_else(|| refused(Refusal::UnknownChild, &format!("there is no child {id}")))
    }

    fn forget_endings(&mut self, id: &ChildId) {
        if let Some(child) = self.table.get_mut(id) {
            child.forget_endings();
        }
    }

    fn close_unused_logs(&mut self) {
        let used: HashSet<&Path> = self.table.values().map(|child| child.spec.log.path.as_path()).collect();
        self.logs.keep_only(&used);
    }

    /// Makes a child's process, which waits until [`Children::go_on`].
    pub(crate) fn launch(&mut self, id: &ChildId, now: Moment) -> Result<(), String> {
        let Some(child) = self.table.get_mut(id) else { return Ok(()) };
        self.order += 1;
        self.on_disk = OnDisk::Outdated;
        child.launch(&self.shim, &mut self.sockets, self.order, now)
    }

    /// As [`Children::launch`]; a failure counts as an ending.
    fn launch_again(&mut self, id: &ChildId, now: Moment) {
        let Err(reason) = self.launch(id, now) else { return };
        let Some(child) = self.table.get_mut(id) else { return };
        tracing::warn!(child = %id, reason, "service could not be started");
        let exit = Exit::NotStarted(reason);
        let then = child.ended(exit.clone(), Duration::ZERO, now);
        self.events.push(child.exited(None, exit, then));
    }

    /// Tells the processes that were made, and are written down by now, what to become.
    pub(crate) fn go_on(&mut self) {
        for child in self.table.values_mut() {
            child.instruct(&self.sockets);
        }
    }

    /// Whether there is a process that [`Children::go_on`] would tell what to become.
    pub(crate) fn someone_waits(&self) -> bool {
        self.table.values().any(|child| matches!(child.phase, Phase::Starting { told: Told::No, .. }))
    }

    /// Gives up the processes that were made and could not be written down.
    pub(crate) fn give_up(&mut self, reason: &str) {
        for child in self.table.values_mut() {
            child.give_up(reason.to_owned());
        }
    }

    /// When [`Children::on_time`] has something to do.
    pub(crate) fn next_moment(&self) -> Option<Moment> {
        self.table.values().filter_map(Child::next_moment).min()
    }

    /// Does what is due.
    pub(crate) fn on_time(&mut self, now: Moment) {
        let due: Vec<ChildId> = self
            .table
            .iter()
            .filter(|(_, child)| child.next_moment().is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.on_disk = OnDisk::Outdated;
            match self.table.get_mut(&id) {
                Some(child) if child.process().is_some() => child.kill(),
                _ => self.launch_again(&id, now),
            }
        }
    }

    /// What can become readable.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (Part, BorrowedFd<'_>)> {
        self.table.iter().flat_map(|(id, child)| {
            let process = child.process().map(|process| (Part::Process(id.clone()), process.pidfd()));
            let launch = child.launch_descriptor().map(|launch| (Part::Launch(id.clone()), launch));
            let output = (Part::Output(id.clone()), child.output.descriptor());
            process.into_iter().chain(launch).chain(std::iter::once(output))
        })
    }

    /// Takes what became readable.
    pub(crate) fn hear(&mut self, part: &Part, now: Moment) {
        match part {
            Part::Process(id) => self.take_end(id, now),
            Part::Launch(id) => {
                let event = self.table.get_mut(id).and_then(|child| child.hear_launch(now));
                if let Some(event) = event {
                    self.on_disk = OnDisk::Outdated;
                    self.events.push(event);
                }
            }
            Part::Output(id) => {
                let Some(child) = self.table.get(id) else { return };
                if let Err(error) = child.output.drain(self.logs.get(&child.spec.log)) {
                    tracing::warn!(child = %id, %error, "the output of a service cannot be read");
                }
            }
        }
    }

    fn take_end(&mut self, id: &ChildId, now: Moment) {
        let Some(child) = self.table.get_mut(id) else { return };
        match child.take_end(now) {
            Ok(Some((event, after))) => {
                self.on_disk = OnDisk::Outdated;
                self.events.push(event);
                if let Err(error) = child.output.drain_rest(self.logs.get(&child.spec.log)) {
                    tracing::warn!(child = %id, %error, "the last output of a service cannot be read");
                }
                if after == AfterStop::Start {
                    self.launch_again(id, now);
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(child = %id, %error, "it is not known whether a service ended"),
        }
    }

    /// Takes the ends of all that ended, then of processes that nobody knows. Answers those that may be the caller's.
    pub(crate) fn reap(&mut self, now: Moment) -> Vec<(u32, Exit)> {
        let with_process: Vec<ChildId> =
            self.table.iter().filter(|(_, child)| child.process().is_some()).map(|(id, _)| id.clone()).collect();
        for id in with_process {
            self.take_end(&id, now);
        }
        let mut unknown = Vec::new();
        while let Some((pid, exit)) = reap_any() {
            let known = self.table.values_mut().filter_map(Child::process_mut).find(|process| process.id().pid == pid);
            match known {
                Some(process) => process.note_taken(exit),
                None => unknown.push((pid, exit)),
            }
        }
        unknown
    }

    /// One step of stopping them all: the one started last is asked first, and the next one when it has ended; from `hurry_at` on
    /// all at once; what is left at `kill_at` is killed. Answers how many processes are left.
    pub(crate) fn stop_all(&mut self, hurry_at: Moment, kill_at: Moment, now: Moment) -> usize {
        for child in self.table.values_mut().filter(|child| child.process().is_none() && child.is_active()) {
            // It has no process, so no signal can fail.
            let _ = child.stop(Duration::ZERO, AfterStop::Stay, now);
            self.on_disk = OnDisk::Outdated;
        }
        let mut left: Vec<&mut Child> = self.table.values_mut().filter(|child| child.process().is_some()).collect();
        left.sort_by_key(|child| std::cmp::Reverse(child.order));
        let count = left.len();
        for child in left {
            let asked = matches!(child.phase, Phase::Stopping { .. });
            let rest = kill_at.since(now);
            let patient = asked && now < hurry_at;
            let within = if patient { rest } else { rest.min(Duration::from_millis(child.spec.stop.within_ms)) };
            if let Err(error) = child.stop(within, AfterStop::Stay, now) {
                tracing::warn!(child = %child.spec.id, %error, "a service could not be asked to stop");
            }
            if !asked {
                self.on_disk = OnDisk::Outdated;
            }
            if now < hurry_at {
                break;
            }
        }
        count
    }

    /// Whether any child runs or will by itself.
    pub(crate) fn anyone_active(&self) -> bool {
        self.table.values().any(Child::is_active)
    }

    /// The processes that live.
    pub(crate) fn processes(&self) -> impl Iterator<Item = ProcessId> {
        self.table.values().filter_map(|child| child.process().map(crate::process::Process::id))
    }
}

fn socket_refused(error: &SocketError) -> Reply {
    let why = if matches!(error, SocketError::TooMany(_)) { Refusal::Limit } else { Refusal::Socket };
    refused(why, &error.to_string())
}
