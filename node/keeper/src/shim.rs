//! The first moments of a child. Its one idea: a child begins as this small program, which is told over a socket what to become
//! and becomes it: so descriptors get their places, `LISTEN_PID` its value and errors a message, without code between fork and exec.
//!
//! It waits for its instruction, which the keeper sends only once it has written the child down: a keeper that dies between
//! the two leaves a shim that finds its socket closed and ends, never a service that nobody knows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use rustix::io::{dup, fcntl_dupfd_cloexec};
use serde::{Deserialize, Serialize};

use crate::protocol::MOST_MESSAGE;
use crate::spec::{FileSpec, MOST_CHILD_SOCKETS, shortened};
use crate::wire::{Patience, receive_with, send};

/// The first descriptor that a child is given, by the custom of `sd_listen_fds(3)`.
const FIRST: RawFd = 3;
/// From here on descriptors are in nobody's way.
const ASIDE: RawFd = FIRST + MOST_CHILD_SOCKETS as RawFd;
/// What shells answer for a program that cannot be run.
const CANNOT_RUN: u8 = 127;
/// Longest reason that is told, in characters.
const LONGEST_REASON: usize = 500;

/// What a shim is to become; the sockets' descriptors come with it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Instruction {
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) folder: PathBuf,
    /// What must have the right bytes.
    #[serde(default)]
    pub(crate) file: Option<FileSpec>,
    /// The names of the descriptors.
    pub(crate) sockets: Vec<String>,
}

/// Becomes the program that the keeper names over standard input. The binary calls this for its hidden subcommand, before it
/// opens anything; it returns only when that failed, having told the keeper and standard error why.
pub fn shim_main() -> ExitCode {
    let channel = match take_channel() {
        Ok(channel) => channel,
        Err(error) => {
            eprintln!("tribune: this command is run by the keeper, with a socket as standard input: {error}");
            return ExitCode::from(CANNOT_RUN);
        }
    };
    let reason = match receive_with(&channel) {
        // The keeper died before it had written this child down.
        Ok(None) => return ExitCode::from(CANNOT_RUN),
        Ok(Some((message, descriptors))) => become_it(&message, descriptors),
        Err(error) => format!("the instruction could not be received: {error}"),
    };
    let reason = shortened(&reason, LONGEST_REASON);
    eprintln!("tribune: {reason}");
    // The keeper may be gone, and nobody else could be told.
    let _ = send(rustix::fd::AsFd::as_fd(&channel), reason.as_bytes(), Patience::Now);
    ExitCode::from(CANNOT_RUN)
}

/// Takes the keeper's socket from standard input, which becomes `/dev/null`. The socket closes on exec: by that the keeper knows.
fn take_channel() -> io::Result<OwnedFd> {
    let channel = take_socket_from_stdin(ASIDE)?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&channel, 2 * MOST_MESSAGE)?;
    Ok(channel)
}

/// The socket to the keeper that an agent gets as standard input, which becomes `/dev/null`. To be called once, by the agent's
/// process, before it starts others.
///
/// # Errors
/// Standard input is no such socket: this process was not started by a keeper.
pub fn take_agent_socket() -> io::Result<OwnedFd> {
    take_socket_from_stdin(FIRST)
}

/// Moves the socket that this process got as standard input to a descriptor not below `lowest` that closes on exec.
pub(crate) fn take_socket_from_stdin(lowest: RawFd) -> io::Result<OwnedFd> {
    use rustix::net::{SocketType, sockopt::socket_type};
    let stdin = io::stdin();
    if socket_type(&stdin)? != SocketType::SEQPACKET {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a socket of another kind"));
    }
    let socket = fcntl_dupfd_cloexec(&stdin, lowest)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(socket)
}

/// Returns only the reason why it could not.
fn become_it(message: &[u8], descriptors: Vec<OwnedFd>) -> String {
    let instruction: Instruction = match serde_json::from_slice(message) {
        Ok(instruction) => instruction,
        Err(error) => return format!("the instruction cannot be read (are keeper and shim of one version?): {error}"),
    };
    if descriptors.len() != instruction.sockets.len() {
        return format!("{} sockets were announced and {} came", instruction.sockets.len(), descriptors.len());
    }
    if let Err(error) = place(descriptors) {
        return format!("its sockets could not be placed from descriptor {FIRST} on: {error}");
    }
    let mut command = Command::new(&instruction.program);
    command.args(&instruction.args).env_clear().envs(&instruction.env).current_dir(&instruction.folder);
    if !instruction.sockets.is_empty() {
        command.env("LISTEN_FDS", instruction.sockets.len().to_string());
        command.env("LISTEN_FDNAMES", instruction.sockets.join(":"));
        command.env("LISTEN_PID", std::process::id().to_string());
    }
    if !instruction.folder.is_dir() {
        return format!("its working folder {} does not exist", instruction.folder.display());
    }
    if let Some(Err(changed)) = instruction.file.as_ref().map(FileSpec::verify) {
        return changed;
    }
    let error = command.exec();
    format!("{} could not be run: {error}", instruction.program)
}

/// Puts the descriptors at 3, 4, …, where they outlive the exec.
fn place(descriptors: Vec<OwnedFd>) -> io::Result<()> {
    let aside: Vec<OwnedFd> =
        descriptors.iter().map(|descriptor| fcntl_dupfd_cloexec(descriptor, ASIDE)).collect::<Result<_, _>>()?;
    drop(descriptors);
    for (expected, descriptor) in (FIRST..).zip(&aside) {
        // The lowest free one, which is the expected one, since nothing else is open there. Owned by what this process becomes.
        let placed = dup(descriptor)?.into_raw_fd();
        if placed != expected {
            return Err(io::Error::other(format!("descriptor {expected} is taken, by what was open before the keeper began")));
        }
    }
    Ok(())
}

/// Makes what this process inherited beyond standard input, output and error close on exec, so that no child gets it.
#[allow(unsafe_code)]
pub(crate) fn keep_inherited_descriptors() -> io::Result<()> {
    use rustix::io::{FdFlags, fcntl_setfd};
    let listed: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor >= FIRST)
        .collect();
    for descriptor in listed {
        // SAFETY: the number is used in this one call, which changes a flag of whatever it means and neither closes nor keeps it; a
        // number that means nothing any more (the listing's own) is answered with an error.
        let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let _ = fcntl_setfd(borrowed, FdFlags::CLOEXEC);
    }
    Ok(())
}
