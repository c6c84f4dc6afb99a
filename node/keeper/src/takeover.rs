//! How a keeper begins: it takes over what a keeper before it left alive, or begins a new run. Its one idea: what is on disk
//! says who may live, and only the system says who does.

use std::io;
use std::time::Duration;

use crate::child::{AfterStop, Child, Phase};
use crate::children::Children;
use crate::clock::Moment;
use crate::process::{Process, ProcessId, kill_rest_of_group, unique_id};
use crate::protocol::{Exit, KeeperStart};
use crate::sockets::Found;
use crate::state::{Saved, SavedChild, SavedPhase};

/// How long a process that was killed may take to leave. The system frees its memory first.
const LEAVING: Duration = Duration::from_secs(10);

/// What a keeper begins with.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) began: KeeperStart,
    pub(crate) run: String,
    /// The agent of the keeper before, if it still lives.
    pub(crate) agent: Option<Process>,
}

/// Takes over what is written down into an empty table, or begins anew where nothing of it lives.
pub(crate) fn begin(saved: Option<Saved>, children: &mut Children, now: Moment) -> io::Result<Beginning> {
    if let Some(saved) = saved {
        if anyone_lives(&saved)? {
            return take_over(saved, children, now);
        }
        // Their own children may live on without them.
        for process in saved.processes() {
            kill_rest_of_group(process)?;
        }
    }
    Ok(Beginning { began: KeeperStart::NodeRestart, run: unique_id()?, agent: None })
}

/// Whether anything of it lives. What was killed together with its keeper, and is only leaving, does not: it is waited for.
fn anyone_lives(saved: &Saved) -> io::Result<bool> {
    let mut living = Vec::new();
    for process in saved.processes() {
        living.extend(Process::adopt(process)?);
    }
    for process in &living {
        if !process.is_dying()? {
            return Ok(true);
        }
    }
    for process in &living {
        if !process.wait_for_end(LEAVING)? {
            tracing::warn!(process = %process.id(), "a process was killed and does not end");
            return Ok(true);
        }
    }
    Ok(false)
}

fn take_over(saved: Saved, children: &mut Children, now: Moment) -> io::Result<Beginning> {
    children.order = saved.order;
    for child in saved.children {
        restore(child, children, now)?;
    }
    let holders: Vec<u32> = children.processes().map(|process| process.pid).collect();
    for socket in &saved.sockets {
        if children.sockets.take_back(socket, holders.iter().copied()) == Found::No {
            tracing::warn!(socket = %socket.address, "no running service holds this socket any more; it is opened again when it is needed");
        }
    }
    let agent = match saved.agent {
        Some(agent) => adopt(agent)?,
        None => None,
    };
    tracing::info!(running = holders.len(), "took over the services of a keeper that died");
    Ok(Beginning { began: KeeperStart::TookOver, run: saved.run, agent })
}

/// The process, if it lives; else what is left of its group is killed.
fn adopt(id: ProcessId) -> io::Result<Option<Process>> {
    let process = Process::adopt(id)?;
    if process.is_none() {
        kill_rest_of_group(id)?;
    }
    Ok(process)
}

fn restore(saved: SavedChild, children: &mut Children, now: Moment) -> io::Result<()> {
    let id = saved.spec.id.clone();
    let output = children.output(&id)?;
    let mut child = Child::restored(saved.spec, output, Phase::Stopped { last: None });
    (child.order, child.endings, child.count) = (saved.order, saved.endings, saved.count);
    let ended_after = |child: &mut Child, lived: Duration| {
        let then = child.ended(Exit::Unknown, lived, now);
        tracing::warn!(child = %id, ?then, "service ended while no keeper lived");
    };
    match saved.phase {
        SavedPhase::Starting { process } => match adopt(process)? {
            Some(process) => child.phase = Phase::Running { process, since: now },
            None => ended_after(&mut child, Duration::ZERO),
        },
        SavedPhase::Running { process, since } => match adopt(process)? {
            Some(process) => child.phase = Phase::Running { process, since },
            None => ended_after(&mut child, now.since(since)),
        },
        SavedPhase::Stopping { process, kill_at, then } => match (adopt(process)?, then) {
            (Some(process), then) => child.phase = Phase::Stopping { process, kill_at, then },
            (None, AfterStop::Stay) => child.phase = Phase::Stopped { last: Some(Exit::Unknown) },
            (None, AfterStop::Start) => child.phase = Phase::Waiting { at: now, last: Exit::Unknown },
        },
        SavedPhase::Waiting { at, last } => child.phase = Phase::Waiting { at, last },
        SavedPhase::Stopped { last } => child.phase = Phase::Stopped { last },
        SavedPhase::Broken { exits, last } => child.phase = Phase::Broken { exits, last },
    }
    children.table.insert(id, child);
    Ok(())
}
