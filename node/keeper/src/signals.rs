//! Signals as bytes in a pipe, so that the keeper's loop hears of them as of everything else.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use crate::process::has_terminal;

/// What a signal means to the keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Stop the node (SIGTERM, SIGINT; SIGHUP too when the keeper runs in a terminal, which is then gone).
    Stop,
    /// SIGHUP otherwise.
    Reload,
    /// A child ended.
    Child,
}

/// The pipes of the signals that the keeper listens to.
#[derive(Debug)]
pub(crate) struct Signals {
    pipes: Vec<(Heard, UnixStream)>,
}

impl Signals {
    /// Begins to listen, for as long as this process lives.
    pub(crate) fn listen() -> io::Result<Self> {
        let hangup = if has_terminal() { Heard::Stop } else { Heard::Reload };
        let mut wanted = vec![(Signal::TERM, Heard::Stop), (Signal::INT, Heard::Stop), (Signal::CHILD, Heard::Child)];
        // nohup(1) ignores it on purpose, and so it shall stay.
        if !is_ignored(Signal::HUP) {
            wanted.push((Signal::HUP, hangup));
        }
        let mut pipes = Vec::new();
        for (signal, heard) in wanted {
            let (reader, writer) = UnixStream::pair()?;
            reader.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(signal.as_raw(), writer)?;
            pipes.push((heard, reader));
        }
        Ok(Self { pipes })
    }

    /// What becomes readable when a signal came.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pipes.iter().map(|(_, pipe)| pipe.as_fd())
    }

    /// What was heard since the last call; several of one kind may have become one.
    pub(crate) fn take(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        for (kind, pipe) in &mut self.pipes {
            let mut bytes = [0; 64];
            if pipe.read(&mut bytes).is_ok_and(|count| count > 0) {
                heard.push(*kind);
            }
        }
        heard
    }
}

fn is_ignored(signal: Signal) -> bool {
    let mask = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    });
    mask.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ignored_signals_are_known() {
        // The Rust runtime ignores it.
        assert!(is_ignored(Signal::PIPE));
        assert!(!is_ignored(Signal::KILL));
    }
}
