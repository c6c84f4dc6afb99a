//! One process that the keeper owns. Its one idea: a pid alone names nobody, since the system gives it to someone else
//! later; a pidfd does, and a pid with the start time does on paper, so that the next keeper finds the same process.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, WaitStatus, kill_process_group, pidfd_open,
    pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};

use crate::protocol::Exit;

/// One process of this machine, until the machine starts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {}", self.pid)
    }
}

/// Whose child a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Parent {
    /// This keeper's: its status can be had, once.
    Keeper,
    /// This keeper's, and its status was taken already.
    Taken(Exit),
    /// A keeper's that died.
    Another,
}

/// A process, alive or not yet waited for, that leads a process group of its own.
#[derive(Debug)]
pub(crate) struct Process {
    id: ProcessId,
    pidfd: OwnedFd,
    parent: Parent,
}

impl Process {
    /// A child that this process has just started and not waited for.
    pub(crate) fn of_child(pid: u32) -> io::Result<Self> {
        let pidfd = pidfd_open(raw_pid(pid)?, PidfdFlags::empty())?;
        // It is still there, be it as a zombie: only this process can wait for it.
        let id = look_up(pid)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Self { id, pidfd, parent: Parent::Keeper })
    }

    /// The process that another keeper started, if it still lives.
    pub(crate) fn adopt(id: ProcessId) -> io::Result<Option<Self>> {
        let pidfd = match pidfd_open(raw_pid(id.pid)?, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked up after the descriptor was opened: if it is the process meant now, it was when it was opened.
        let process = Self { id, pidfd, parent: Parent::Another };
        Ok((look_up(id.pid)? == Some(id) && !process.has_ended()?).then_some(process))
    }

    /// Who it is.
    pub(crate) fn id(&self) -> ProcessId {
        self.id
    }

    /// Readable once the process has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it has ended (it may not have been waited for).
    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })))? > 0)
    }

    /// Whether it was killed and only has not come to its end yet: its threads are still leaving.
    pub(crate) fn is_dying(&self) -> io::Result<bool> {
        let folder = format!("/proc/{}", self.id.pid);
        let read = |file: &str| match fs::read(format!("{folder}/{file}")) {
            Ok(bytes) => Ok(bytes),
            // It has ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        };
        let (stat, status) = (read("stat")?, read("status")?);
        Ok(self.has_ended()? || is_exiting(&stat) || has_kill_pending(&String::from_utf8_lossy(&status)))
    }

    /// Waits until it has ended, at most so long; says whether it has.
    pub(crate) fn wait_for_end(&self, within: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let within = Timespec { tv_sec: within.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: within.subsec_nanos().into() };
        Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&within)))? > 0)
    }

    /// Sends a signal to the process; nothing when it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a signal to its process group; nothing when the process has ended, since [`Process::take_exit`] sees to the rest.
    pub(crate) fn signal_group(&self, signal: Signal) -> io::Result<()> {
        if self.has_ended()? { Ok(()) } else { signal_group(self.id.pid, signal) }
    }

    /// How the process ended, once it has; kills what is left of its group. To be called until it answers, and not after.
    pub(crate) fn take_exit(&mut self) -> io::Result<Option<Exit>> {
        if !self.has_ended()? {
            return Ok(None);
        }
        match &self.parent {
            Parent::Another => {
                kill_rest_of_group(self.id)?;
                Ok(Some(Exit::Unknown))
            }
            Parent::Taken(exit) => {
                let exit = exit.clone();
                kill_rest_of_group(self.id)?;
                Ok(Some(exit))
            }
            Parent::Keeper => {
                // Before it is waited for: until then the group's number cannot belong to anyone else.
                signal_group(self.id.pid, Signal::KILL)?;
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                match rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), options)) {
                    Ok(status) => Ok(status.map(|status| exit_of(&status))),
                    Err(Errno::CHILD) => Ok(Some(Exit::Unknown)),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// Notes that [`reap_any`] took this process's status.
    pub(crate) fn note_taken(&mut self, exit: Exit) {
        self.parent = Parent::Taken(exit);
    }
}

fn raw_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is not a process id")))
}

fn signal_group(pid: u32, signal: Signal) -> io::Result<()> {
    match kill_process_group(raw_pid(pid)?, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Kills what is left of the group of a process that ended and that someone else may have waited for. Nothing when a new process
/// has its pid: then its group had no members left.
pub(crate) fn kill_rest_of_group(ended: ProcessId) -> io::Result<()> {
    match look_up(ended.pid)? {
        Some(now) if now != ended => Ok(()),
        Some(_) | None => signal_group(ended.pid, Signal::KILL),
    }
}

/// Takes the status of any child that has ended, known or not: an orphan that the system gave to this process (the keeper may be
/// the first process of a container) stays a zombie otherwise.
pub(crate) fn reap_any() -> Option<(u32, Exit)> {
    match rustix::io::retry_on_intr(|| rustix::process::wait(WaitOptions::NOHANG)) {
        Ok(Some((pid, status))) => Some((pid.as_raw_nonzero().get().unsigned_abs(), exit_of_wait(status))),
        Ok(None) | Err(_) => None,
    }
}

fn exit_of(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Unknown,
    }
}

fn exit_of_wait(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Unknown,
    }
}

/// The process that has this pid now, alive or a zombie.
pub(crate) fn look_up(pid: u32) -> io::Result<Option<ProcessId>> {
    let path = format!("/proc/{pid}/stat");
    let stat = match fs::read(&path) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    match stat_field(&stat, 22) {
        Some(start_time) => Ok(Some(ProcessId { pid, start_time })),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not as proc(5) describes it"))),
    }
}

/// A numeric field of `/proc/PID/stat`, counted from 1 as in proc(5), from the third on. The second one, the command in
/// parentheses, may hold anything, parentheses and spaces included.
fn stat_field(stat: &[u8], number: usize) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// Whether `/proc/PID/stat` is that of a process that leaves: a zombie, or with `PF_EXITING` (0x4, linux/sched.h) in its flags.
fn is_exiting(stat: &[u8]) -> bool {
    let zombie =
        stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2)).is_some_and(|state| *state == b'Z');
    zombie || stat_field(stat, 9).is_some_and(|flags| flags & 0x4 != 0)
}

/// Whether `/proc/PID/status` shows a SIGKILL (bit 8) that was sent and not acted on yet.
fn has_kill_pending(status: &str) -> bool {
    let masks = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & (1 << 8) != 0)
}

/// Whether this process has a terminal that can hang up.
pub(crate) fn has_terminal() -> bool {
    fs::read("/proc/self/stat").ok().and_then(|stat| stat_field(&stat, 7)).is_some_and(|tty| tty != 0)
}

/// The id of the machine's present start.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A new id that nobody else has.
pub(crate) fn unique_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::zombie_processes, reason = "they are waited for by `Process`")]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    fn wait_until_ended(process: &mut Process) -> Exit {
        loop {
            let mut fds = [PollFd::new(&process.pidfd, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 20, tv_nsec: 0 })).unwrap();
            if let Some(exit) = process.take_exit().unwrap() {
                return exit;
            }
        }
    }

    #[test]
    fn a_command_with_parentheses_does_not_move_the_fields() {
        let stat = b"77 (a) b (c) 9) S 1 76 76 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 1 1";
        assert_eq!(stat_field(stat, 22), Some(123_456));
        assert_eq!(stat_field(stat, 7), Some(0));
        assert_eq!(stat_field(b"77 (cat", 22), None);
        assert_eq!(stat_field(b"", 22), None);
    }

    #[test]
    fn a_process_that_was_killed_is_dying_before_it_has_ended_and_no_other_is() {
        let child = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let mut process = Process::of_child(child.id()).unwrap();
        assert!(!process.is_dying().unwrap());
        process.signal(Signal::STOP).unwrap();
        assert!(!process.is_dying().unwrap(), "a stopped one goes on");
        process.signal(Signal::KILL).unwrap();
        // Whether it has ended by now or not.
        assert!(process.is_dying().unwrap());
        assert!(process.wait_for_end(Duration::from_secs(20)).unwrap());
        assert_eq!(wait_until_ended(&mut process), Exit::Signal(9));
    }

    #[test]
    fn what_a_dying_process_looks_like() {
        let stat = |state: &str, flags: &str| format!("77 (a) b) {state} 1 76 76 0 -1 {flags} 1 0 0 0");
        assert!(is_exiting(stat("Z", "4194560").as_bytes()) && is_exiting(stat("R", "4194564").as_bytes()));
        assert!(!is_exiting(stat("R", "4194560").as_bytes()) && !is_exiting(b""));
        let status =
            |thread: &str, all: &str| format!("Name:\tx\nSigPnd:\t{thread}\nShdPnd:\t{all}\nSigBlk:\t0000000000000100\n");
        assert!(has_kill_pending(&status("0000000000000100", "0000000000000000")));
        assert!(has_kill_pending(&status("0000000000000000", "0000000000000100")));
        assert!(!has_kill_pending(&status("0000000000000000", "0000000000004000")));
    }

    #[test]
    fn an_end_is_told_with_its_code_or_signal() {
        let ended = Command::new("sh").args(["-c", "exit 7"]).process_group(0).spawn().unwrap();
        assert_eq!(wait_until_ended(&mut Process::of_child(ended.id()).unwrap()), Exit::Code(7));
        let killed = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let mut killed = Process::of_child(killed.id()).unwrap();
        assert_eq!(killed.take_exit().unwrap(), None);
        killed.signal_group(Signal::KILL).unwrap();
        assert_eq!(wait_until_ended(&mut killed), Exit::Signal(9));
        assert_eq!(look_up(killed.id().pid).unwrap(), None);
    }

    #[test]
    fn only_the_very_process_is_adopted() {
        let child = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let mut own = Process::of_child(child.id()).unwrap();
        let other = ProcessId { start_time: own.id().start_time + 1, ..own.id() };
        assert!(Process::adopt(other).unwrap().is_none());
        assert!(Process::adopt(ProcessId { pid: u32::MAX, start_time: 0 }).is_err());
        let mut adopted = Process::adopt(own.id()).unwrap().unwrap();
        own.signal(Signal::TERM).unwrap();
        assert_eq!(wait_until_ended(&mut own), Exit::Signal(15));
        assert_eq!(adopted.take_exit().unwrap(), Some(Exit::Unknown));
        assert!(Process::adopt(own.id()).unwrap().is_none());
    }
}
