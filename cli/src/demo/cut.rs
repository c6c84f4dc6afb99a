//! The demo cut short: by a signal, or because nobody reads any more.
//!
//! One idea: what waits, waits for a signal as well, and becomes an error then. So the demo ends as it does at any other error, and what
//! it has started is taken down.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::process::Output;
use std::task::Poll;
use std::time::Duration;

use anyhow::Result;
use tokio::process::Command;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// By which signal the demo was cut short; SIGPIPE stands for a reader that has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut(SignalKind);

impl Cut {
    /// The exit code that a shell gives for the signal.
    pub fn code(self) -> u8 {
        u8::try_from(128 + self.0.as_raw_value()).unwrap_or(u8::MAX)
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended by signal {}", self.0.as_raw_value())
    }
}

impl std::error::Error for Cut {}

/// Waits for things and for signals.
pub(super) struct Waiter {
    runtime: Runtime,
    signals: RefCell<Vec<(SignalKind, Signal)>>,
    cut: Cell<Heed>,
}

/// What a signal does.
#[derive(Debug, Clone, Copy)]
enum Heed {
    /// It cuts the demo short.
    Next,
    /// One has done so.
    Came(Cut),
    /// Nothing: everything is being taken down already.
    Not,
}

impl Waiter {
    /// From now on SIGINT, SIGTERM and SIGHUP do not end the process by themselves.
    pub(super) fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let signals = kinds.into_iter().map(|kind| Ok((kind, signal(kind)?))).collect::<Result<_>>()?;
        drop(guard);
        Ok(Self { runtime, signals: RefCell::new(signals), cut: Cell::new(Heed::Next) })
    }

    /// Waits so long.
    pub(super) fn pause(&self, time: Duration) -> Result<()> {
        self.or_cut(async {
            tokio::time::sleep(time).await;
            Ok(())
        })
    }

    /// Runs a command to its end. When the demo is cut short it is killed.
    pub(super) fn output(&self, command: std::process::Command) -> Result<Output> {
        self.or_cut(async { Ok(Command::from(command).kill_on_drop(true).output().await?) })
    }

    /// Signals do nothing any more.
    pub(super) fn heed_no_more(&self) {
        self.cut.set(Heed::Not);
    }

    fn or_cut<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.cut.get() {
            Heed::Came(cut) => return Err(cut.into()),
            Heed::Not => return self.runtime.block_on(work),
            Heed::Next => {}
        }
        let mut signals = self.signals.borrow_mut();
        let came = std::future::poll_fn(|context| {
            let came = signals.iter_mut().find_map(|(kind, signal)| signal.poll_recv(context).is_ready().then_some(Cut(*kind)));
            came.map_or(Poll::Pending, Poll::Ready)
        });
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                cut = came => {
                    self.cut.set(Heed::Came(cut));
                    Err(cut.into())
                }
                done = work => done,
            }
        })
    }
}

/// Prints a line of the story.
pub(super) fn tell(text: &str) -> Result<()> {
    crate::output::try_line(text).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Cut(SignalKind::pipe()).into(),
        _ => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[test]
    fn a_signal_cuts_every_wait_short_until_it_is_heeded_no_more() {
        let waiter = Waiter::new().unwrap();
        let cut = |result: Result<()>| result.unwrap_err().downcast_ref::<Cut>().map(|cut| cut.code());
        assert!(waiter.pause(Duration::ZERO).is_ok());
        kill_process(getpid(), Signal::HUP).unwrap();
        assert_eq!(cut(waiter.pause(Duration::from_secs(60))), Some(129));
        assert_eq!(cut(waiter.output(std::process::Command::new("true")).map(|_| ())), Some(129));
        waiter.heed_no_more();
        assert!(waiter.output(std::process::Command::new("true")).unwrap().status.success());
    }
}
