//! The machine's own system, as far as the agent asks it about processes. Its one idea: whoever wants to know which process it has to do
//! with, who calls, or how long the machine has been up asks through [`System`], and does not see whether Linux is behind it or a
//! simulation.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tribune_p2p::network::wire::AnyStream;

use super::desk::DeskError;
use super::identity::{ExitWatch, ProcessId, Sighting, look_up};
use super::modules::ModulesNow;
use super::notify::{self, Notification, NotifyError};

/// Who opened a connection to the process socket.
pub struct Caller {
    /// The connection.
    pub stream: AnyStream,
    /// Its user.
    pub uid: u32,
    /// Its pid, if this node can see it.
    pub pid: Option<u32>,
}

/// Where connections of processes come in.
pub trait Callers: Send {
    /// The next one. May be dropped and called again without loss.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Caller>>;
}

/// See the module.
pub trait System: fmt::Debug + Send + Sync + 'static {
    /// The process that has this pid now.
    ///
    /// # Errors
    /// `NotFound` when no process has it.
    fn look_up(&self, pid: u32) -> io::Result<Sighting>;

    /// Returns, once awaited, when this process has ended; none when it has already.
    ///
    /// # Errors
    /// It cannot be watched.
    fn exit_of(&self, process: ProcessId) -> io::Result<Option<BoxFuture<'static, ()>>>;

    /// Opens the process socket, in place of one that an earlier agent left.
    ///
    /// # Errors
    /// It cannot be opened.
    fn callers(&self, socket: &Path, group: Option<u32>) -> Result<Box<dyn Callers>, DeskError>;

    /// Opens the notification socket, in place of one that an earlier agent left.
    ///
    /// # Errors
    /// It cannot be opened.
    fn notifications(&self, socket: PathBuf, modules: ModulesNow) -> Result<mpsc::Receiver<Notification>, NotifyError>;

    /// How long the machine has been up.
    fn uptime(&self) -> Duration;
}

/// The system that this runs on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Linux;

impl System for Linux {
    fn look_up(&self, pid: u32) -> io::Result<Sighting> {
        look_up(pid)
    }

    fn exit_of(&self, process: ProcessId) -> io::Result<Option<BoxFuture<'static, ()>>> {
        let watch = ExitWatch::open(process)?;
        Ok(watch.map(|watch| async move { watch.exited().await }.boxed()))
    }

    fn callers(&self, socket: &Path, group: Option<u32>) -> Result<Box<dyn Callers>, DeskError> {
        Ok(Box::new(super::desk::listen(socket, group)?))
    }

    fn notifications(&self, socket: PathBuf, modules: ModulesNow) -> Result<mpsc::Receiver<Notification>, NotifyError> {
        notify::listen(socket, modules)
    }

    fn uptime(&self) -> Duration {
        let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds: f64 = text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default();
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }
}

impl Callers for UnixListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Caller>> {
        async {
            let (stream, _) = UnixListener::accept(self).await?;
            let peer = stream.peer_cred()?;
            let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
            Ok(Caller { uid: peer.uid(), pid, stream: Box::new(stream) })
        }
        .boxed()
    }
}
