//! Which process is meant. Its one idea: a pid alone names nobody, since the system gives it to someone else later; a
//! pid with the time at which its process started names one process for ever.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One process of this node, now or in the past, until the machine starts anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
}

impl ProcessId {
    /// Stands for the process of this name while it cannot be told which one that is. No process has the pid 0.
    #[must_use]
    pub fn stand_in(name: &str) -> Self {
        let mut start_time = [0; 8];
        // As many bytes as a JSON number surely keeps.
        start_time[..6].copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..6]);
        Self { pid: 0, start_time: u64::from_le_bytes(start_time) }
    }

    /// Whether it only stands for a process.
    #[must_use]
    pub fn is_stand_in(self) -> bool {
        self.pid == 0
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_stand_in() { write!(f, "pid unknown") } else { write!(f, "pid {}", self.pid) }
    }
}

/// A process as it was seen at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// Which process it is.
    pub id: ProcessId,
    /// Its process group then.
    pub group: u32,
}

/// The process that has this pid now.
///
/// # Errors
/// `NotFound` when no process has it; else what reading `/proc` says.
pub fn look_up(pid: u32) -> io::Result<Sighting> {
    let stat = fs::read(format!("/proc/{pid}/stat")).map_err(none_is_not_found)?;
    let (group, start_time) = parse_stat(&stat)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as proc(5) describes it")))?;
    Ok(Sighting { id: ProcessId { pid, start_time }, group })
}

/// A process that ends between the opening of its file and the reading has ended all the same.
fn none_is_not_found(error: io::Error) -> io::Error {
    let ended = error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
    if ended { io::Error::new(io::ErrorKind::NotFound, error) } else { error }
}

/// Process group and start time from the text of `/proc/PID/stat`, whose second field, the command in parentheses, may
/// hold anything, parentheses and spaces included.
fn parse_stat(stat: &[u8]) -> Option<(u32, u64)> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    // Fields are counted from 1 in proc(5); the first one here is the third.
    let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3);
    Some((field(5)?.parse().ok()?, field(22)?.parse().ok()?))
}

/// Tells when one process ends, without polling and without a chance to mistake another for it.
#[derive(Debug)]
pub struct ExitWatch(AsyncFd<OwnedFd>);

impl ExitWatch {
    /// Watches this process; none when it has ended already. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system gives no descriptor.
    pub fn open(process: ProcessId) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked up after the descriptor was opened: if it is the process meant now, it was when it was opened.
        match look_up(process.pid) {
            Ok(seen) if seen.id == process => Self::from_pidfd(fd).map(Some),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Watches a child of this process that nobody has waited for yet, so that its pid is surely its own.
    ///
    /// # Errors
    /// When the system gives no descriptor.
    pub(super) fn of_child(child: &std::process::Child) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the system gave a child no pid"))?;
        Self::from_pidfd(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
    }

    #[allow(unsafe_code)]
    fn from_pidfd(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd is open for as long as it lives, always gives the same number, and nothing replaces what
        // that number refers to; the AsyncFd owns it from here on.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Returns when the process has ended (it may not have been waited for yet).
    pub async fn exited(&self) {
        // An error means that the runtime is shutting down, and then nobody asks any more.
        let _ = self.0.readable().await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_move_the_fields() {
        let stat = b"77 (a) b (c) 9) S 1 76 76 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 1 1";
        assert_eq!(parse_stat(stat), Some((76, 123_456)));
        assert_eq!(parse_stat(b"77 (cat"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn a_process_that_ends_while_it_is_looked_up_is_gone_and_not_unknown() {
        use std::io::Read;
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut stat = fs::File::open(format!("/proc/{}/stat", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let error = stat.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(none_is_not_found(error).kind(), io::ErrorKind::NotFound);
        assert_eq!(look_up(child.id()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_told_and_another_start_time_is_another_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let seen = look_up(child.id()).unwrap();
        let other = ProcessId { start_time: seen.id.start_time + 1, ..seen.id };
        assert!(ExitWatch::open(other).unwrap().is_none());
        let watch = ExitWatch::open(seen.id).unwrap().unwrap();
        child.kill().unwrap();
        watch.exited().await;
        child.wait().unwrap();
        assert!(ExitWatch::open(seen.id).unwrap().is_none());
    }
}
