//! Starting a child, as the keeper sees it: make a shim, write it down, tell it what to become, and hear whether it did.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::logs::Output;
use crate::process::Process;
use crate::shim::Instruction;
use crate::sockets::Sockets;
use crate::spec::ChildSpec;
use crate::wire::{self, Patience, Received};

/// A child that is not yet what it shall be.
#[derive(Debug)]
pub(crate) struct Launch {
    channel: OwnedFd,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Launched {
    /// Nothing yet.
    NotYet,
    /// It runs its program, or it ended before it could say otherwise.
    Runs,
    /// It could not, for this reason, and ends.
    Failed(String),
}

/// Makes the process that will become the child.
pub(crate) fn launch(shim: &[OsString], output: &Output) -> io::Result<(Process, Launch)> {
    let Some((program, args)) = shim.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the keeper was given no command to start children with"));
    };
    let (ours, theirs) = wire::pair()?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::from(output.for_child()?))
        .stderr(Stdio::from(output.for_child()?))
        .current_dir("/")
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
    match Process::of_child(child.id()) {
        Ok(process) => Ok((process, Launch { channel: ours })),
        Err(error) => {
            // It cannot be watched, so it shall not be; its socket closes here too.
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

impl Launch {
    /// Tells the process what to become.
    pub(crate) fn instruct(&self, spec: &ChildSpec, sockets: &Sockets) -> Result<(), String> {
        let mut descriptors = Vec::new();
        for socket in &spec.sockets {
            let descriptor = sockets.get(&socket.address).ok_or_else(|| format!("its socket {} is not open", socket.address))?;
            descriptors.push(descriptor);
        }
        let instruction = Instruction {
            program: spec.program.clone(),
            args: spec.args.clone(),
            env: spec.env.clone(),
            folder: spec.folder.clone(),
            file: spec.file.clone(),
            sockets: spec.sockets.iter().map(|socket| socket.name.clone()).collect(),
        };
        let message = serde_json::to_vec(&instruction).map_err(|error| error.to_string())?;
        wire::send_with(self.channel.as_fd(), &message, &descriptors)
            .map_err(|error| format!("it could not be told what to run: {error}"))
    }

    /// Readable when there is something to hear.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// What has come of it.
    pub(crate) fn hear(&self) -> Launched {
        let mut buffer = [0; 4096];
        match wire::receive(self.channel.as_fd(), &mut buffer, Patience::Now) {
            Ok(Received::Nothing) => Launched::NotYet,
            Ok(Received::Message(reason)) => Launched::Failed(String::from_utf8_lossy(reason).into_owned()),
            Ok(Received::TooLong(_)) => Launched::Failed("its reason is too long to be told; see its log".into()),
            Ok(Received::Closed) | Err(_) => Launched::Runs,
        }
    }
}
