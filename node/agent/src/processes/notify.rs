//! `sd_notify` for programs written for systemd (`$NOTIFY_SOCKET`). Its one idea: the kernel says which process sent a
//! datagram (`SCM_CREDENTIALS`), and only a module's own processes are heard.
//!
//! A process may say `READY=1` before this node has noted that it started it; what it says is kept for a short while
//! until its module is known. Descriptors that are sent along (`FDSTORE=1`) are closed.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tribune_process::protocol::clean_reason;

use super::identity::{ProcessId, Sighting, look_up};
use super::modules::ModulesNow;

/// The longest datagram that is read, in bytes (systemd's own limit is a page).
const LONGEST: usize = 4096;
/// What unknown processes said, kept until their module is known: so many …
const KEPT: usize = 256;
/// … and so long.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// One thing a module's process said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// `READY=1`: it has started, or has finished reloading.
    Ready,
    /// `RELOADING=1`: it is busy until the next [`Note::Ready`].
    Reloading,
    /// `STOPPING=1`: it is shutting down.
    Stopping,
    /// `WATCHDOG=1`: it is alive.
    Watchdog,
    /// `WATCHDOG=trigger`: it wants to be treated as not alive.
    WatchdogTrigger,
    /// `STATUS=…`: for the operator.
    Status(String),
}

/// What a module's process said, with who it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// The module, as `package/module`.
    pub module: String,
    /// The module's main process, which tells two instances of one module apart.
    pub main: ProcessId,
    /// The process that spoke: the main one, or a member of its group.
    pub process: ProcessId,
    /// What it said, in order.
    pub notes: Vec<Note>,
}

/// Why notifications cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("could not open the notification socket {socket}: {source}")]
pub struct NotifyError {
    /// Its path.
    pub socket: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Opens the notification socket, in place of one that an earlier agent left, and serves it on the runtime this is called
/// in until the receiver is dropped. Only root and the user the node runs as may write to it.
///
/// # Errors
/// [`NotifyError`] when it cannot be opened.
pub fn listen(path: PathBuf, modules: ModulesNow) -> Result<mpsc::Receiver<Notification>, NotifyError> {
    let socket = open(&path).map_err(|source| NotifyError { socket: path.clone(), source })?;
    let (told, notifications) = mpsc::channel(256);
    tokio::spawn(Listener { socket, modules, told, unknown: VecDeque::new() }.run());
    Ok(notifications)
}

fn open(path: &PathBuf) -> io::Result<UnixDatagram> {
    // Renamed into place, as an earlier agent's socket may be there and a module may be writing just now.
    let mut fresh = path.clone().into_os_string();
    fresh.push(".new");
    if let Err(error) = std::fs::remove_file(&fresh)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let socket = UnixDatagram::bind(&fresh)?;
    rustix::net::sockopt::set_socket_passcred(&socket, true)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, path)?;
    Ok(socket)
}

struct Listener {
    socket: UnixDatagram,
    modules: ModulesNow,
    told: mpsc::Sender<Notification>,
    /// What processes of no known module said, oldest first, until when it is kept.
    unknown: VecDeque<(Instant, Sighting, Vec<Note>)>,
}

impl Listener {
    async fn run(mut self) {
        let mut modules_known = true;
        loop {
            tokio::select! {
                () = self.told.closed() => return,
                changed = self.modules.changed(), if modules_known => {
                    modules_known = changed.is_ok();
                    for (until, sender, notes) in std::mem::take(&mut self.unknown) {
                        self.tell(until, sender, notes).await;
                    }
                }
                received = self.socket.async_io(Interest::READABLE, || receive(&self.socket)) => match received {
                    Ok(Some((sender, notes))) if !notes.is_empty() => self.tell(Instant::now() + KEPT_FOR, sender, notes).await,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(%error, "notifications of modules are no longer received");
                        return;
                    }
                },
            }
        }
    }

    /// Passes on what a module's process said; keeps it until `until` when its module is not known.
    async fn tell(&mut self, until: Instant, sender: Sighting, notes: Vec<Note>) {
        let known = self.modules.borrow_and_update().of(&sender).cloned();
        if let Some(module) = known {
            let notification = Notification { module: module.module, main: module.main, process: sender.id, notes };
            // Without a receiver the next turn of the loop ends this.
            let _ = self.told.send(notification).await;
            return;
        }
        let now = Instant::now();
        self.unknown.retain(|(until, ..)| *until > now);
        if until > now {
            if self.unknown.len() >= KEPT {
                self.unknown.pop_front();
            }
            self.unknown.push_back((until, sender, notes));
        }
    }
}

/// One datagram: who sent it, and what it says. None when it is too long, or its sender cannot be told (any more).
fn receive(socket: &UnixDatagram) -> io::Result<Option<(Sighting, Vec<Note>)>> {
    let mut text = [0u8; LONGEST];
    // Room for some descriptors too, so that credentials are never what is cut off; those that come are closed here.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    let mut sender = None;
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmCredentials(credentials) => {
                sender = u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
            }
            // Dropping the descriptors closes them.
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.for_each(drop),
            _ => {}
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        tracing::warn!(pid = sender, "a notification of more than {LONGEST} bytes was ignored");
        return Ok(None);
    }
    // A sender that has ended already cannot be told from one that later got its pid.
    let sender = sender.and_then(|pid| look_up(pid).ok());
    Ok(sender.map(|sender| (sender, parse(&text[..received.bytes]))))
}

/// The lines of one datagram that mean something here.
fn parse(text: &[u8]) -> Vec<Note> {
    let note = |line: &str| match line.split_once('=')? {
        ("READY", "1") => Some(Note::Ready),
        ("RELOADING", "1") => Some(Note::Reloading),
        ("STOPPING", "1") => Some(Note::Stopping),
        ("WATCHDOG", "1") => Some(Note::Watchdog),
        ("WATCHDOG", "trigger") => Some(Note::WatchdogTrigger),
        ("STATUS", status) => Some(Note::Status(clean_reason(status))),
        _ => None,
    };
    String::from_utf8_lossy(text).lines().filter_map(note).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::processes::modules::{ManagedModule, ManagedModules};
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Child, Command};
    use std::sync::Arc;
    use tokio::sync::watch;
    use tokio::time::timeout;

    const LONG: Duration = Duration::from_secs(30);

    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A process, leader of a group of its own, that sends each argument as a datagram and then stays.
    fn speaker(socket: &Path, says: &[&str]) -> Running {
        let script = "import os,socket,sys,signal\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\n\
                      for m in sys.argv[1:]: s.sendto(m.encode(),os.environ['NOTIFY_SOCKET'])\nsignal.pause()";
        let mut command = Command::new("python3");
        command.args(["-c", script]).args(says).env("NOTIFY_SOCKET", socket).process_group(0);
        Running(command.spawn().unwrap())
    }

    fn module_of(child: &Running) -> Arc<ManagedModules> {
        let main = look_up(child.0.id()).unwrap().id;
        Arc::new(ManagedModules(vec![ManagedModule { module: "billing/billingd".into(), main }]))
    }

    #[test]
    fn a_datagram_is_its_known_lines_in_order() {
        let notes = parse(b"STATUS=warming \x1b[2Jup\nREADY=1\nFDNAME=x\nREADY=2\nnonsense\nWATCHDOG=1");
        assert_eq!(notes, [Note::Status("warming  [2Jup".into()), Note::Ready, Note::Watchdog]);
        assert_eq!(parse(b"\xff\xfe=1\n\0"), []);
    }

    #[tokio::test]
    async fn what_a_module_says_before_it_is_known_is_told_when_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("notify");
        let (publish, modules) = watch::channel(Arc::default());
        let mut notifications = listen(socket.clone(), modules).unwrap();
        let stranger = speaker(&socket, &["READY=1"]);
        let child = speaker(&socket, &["STATUS=warming up", &"x".repeat(LONGEST + 1), "READY=1"]);
        publish.send(module_of(&child)).unwrap();
        let mut notes = Vec::new();
        while notes.last() != Some(&Note::Ready) {
            let told = timeout(LONG, notifications.recv()).await.unwrap().unwrap();
            assert_eq!(told.module, "billing/billingd");
            assert_eq!(told.process.pid, child.0.id());
            notes.extend(told.notes);
        }
        assert_eq!(notes, [Note::Status("warming up".into()), Note::Ready]);
        drop(stranger);
        assert!(notifications.try_recv().is_err(), "a stranger is not heard");
    }

    #[tokio::test]
    async fn a_new_agent_takes_the_path_over() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("notify");
        let (_publish, modules) = watch::channel(Arc::default());
        let first = listen(socket.clone(), modules.clone()).unwrap();
        drop(first);
        let (publish, modules) = watch::channel(Arc::default());
        let mut second = listen(socket.clone(), modules).unwrap();
        let child = speaker(&socket, &["STOPPING=1"]);
        publish.send(module_of(&child)).unwrap();
        let told = timeout(LONG, second.recv()).await.unwrap().unwrap();
        assert_eq!(told.notes, [Note::Stopping]);
    }
}
