//! What programs written for systemd use, and a node serves as well: `sd_notify` and sockets passed on at start.

use std::env;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that a starter passes on.
const FIRST_FD: RawFd = 3;
/// More descriptors than this are a mistake in the environment.
const MOST_FDS: RawFd = 1024;

/// Why a notification was not sent.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// Nobody listens: `$NOTIFY_SOCKET` is not set.
    #[error("NOTIFY_SOCKET is not set: this process was not started by something that takes notifications")]
    NotSupervised,
    /// The socket could not be written to.
    #[error("could not notify {socket}: {source}")]
    Send {
        /// The socket of `$NOTIFY_SOCKET`.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Tells the node about this process, as `sd_notify(3)`: `READY=1`, `STOPPING=1`, `WATCHDOG=1`, `STATUS=…`, several
/// lines at once if wanted.
///
/// # Errors
/// [`NotifyError::NotSupervised`] where nobody asked to be told (usually to be ignored), and what the system says.
pub fn sd_notify(state: &str) -> Result<(), NotifyError> {
    let socket = env::var_os("NOTIFY_SOCKET").filter(|s| !s.is_empty()).ok_or(NotifyError::NotSupervised)?;
    notify_at(Path::new(&socket), state).map_err(|source| NotifyError::Send { socket: socket.into(), source })
}

fn notify_at(socket: &Path, state: &str) -> io::Result<()> {
    let address = match socket.as_os_str().as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sent = UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    if sent == state.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Why the passed sockets could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// They belong to whoever called first.
    #[error("listen_fds was called before in this process; each socket has one owner")]
    TakenBefore,
    /// `$LISTEN_FDS` says something that is not a count.
    #[error("LISTEN_FDS is {0:?}; it should be a number from 0 to {MOST_FDS}")]
    BadCount(String),
    /// A descriptor that the environment announces is not there.
    #[error("LISTEN_FDS announces descriptor {fd}, which cannot be used: {source}")]
    Missing {
        /// Its number.
        fd: RawFd,
        /// What the system said.
        source: io::Error,
    },
}

/// The sockets passed on to this process, in order, with their names (`LISTEN_FDNAMES`; `unknown` where there is none).
/// Empty when `LISTEN_PID` names another process or nothing was passed. They close on exec.
///
/// # Errors
/// [`ListenError::TakenBefore`] on a second call, and where the environment announces what is not there.
pub fn listen_fds() -> Result<Vec<(String, OwnedFd)>, ListenError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let for_us = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    if !for_us {
        return Ok(Vec::new());
    }
    let count = parse_count(&env::var("LISTEN_FDS").unwrap_or_default())?;
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(ListenError::TakenBefore);
    }
    (FIRST_FD..FIRST_FD + count).zip(names_of(&names)).map(|(fd, name)| Ok((name, take(fd)?))).collect()
}

fn parse_count(text: &str) -> Result<RawFd, ListenError> {
    match text.parse::<RawFd>() {
        Ok(count @ 0..=MOST_FDS) => Ok(count),
        _ => Err(ListenError::BadCount(text.chars().take(64).collect())),
    }
}

/// The names in order, then `unknown` without end.
fn names_of(names: &str) -> impl Iterator<Item = String> + '_ {
    let given = names.split(':').map(|name| if name.is_empty() { "unknown" } else { name }.to_owned());
    given.chain(std::iter::repeat_with(|| "unknown".to_owned()))
}

/// Takes one passed descriptor: a duplicate that closes on exec, in place of the original.
#[allow(unsafe_code)]
fn take(fd: RawFd) -> Result<OwnedFd, ListenError> {
    let missing = |source| ListenError::Missing { fd, source };
    std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).map_err(missing)?;
    // SAFETY: the descriptor is open (just looked up), and stays so during this call: by the protocol it was passed
    // for this process's use alone, and nothing else in it owns the number (the flag above admits one caller).
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let owned = borrowed.try_clone_to_owned().map_err(missing)?;
    // SAFETY: as above: open, and owned by nobody else, so that this is its one owner, which closes it here.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(owned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_in_order_and_unknown_beyond_them() {
        let names: Vec<_> = names_of("http::admin").take(4).collect();
        assert_eq!(names, ["http", "unknown", "admin", "unknown"]);
    }

    #[test]
    fn a_count_that_is_none_is_refused() {
        assert_eq!(parse_count("2").unwrap(), 2);
        for bad in ["", "-1", "two", "1025", "99999999999999999999"] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
    }

    /// Set for the process that this test starts from itself.
    const ROLE: &str = "TRIBUNE_TEST_LISTEN_CHILD";

    #[test]
    fn passed_descriptors_are_taken_once_by_the_process_they_are_for() {
        if env::var_os(ROLE).is_some() {
            return child_of_passed_descriptors();
        }
        assert!(listen_fds().unwrap().is_empty(), "nothing was passed to this one");
        let folder = tempfile_folder();
        let (one, two) = (folder.join("one"), folder.join("two"));
        std::fs::write(&one, "first").unwrap();
        std::fs::write(&two, "second").unwrap();
        let test = "activation::tests::passed_descriptors_are_taken_once_by_the_process_they_are_for";
        let script = format!("exec 3<\"$1\" 4<\"$2\"; export LISTEN_PID=$$; exec \"$0\" --exact {test} --nocapture");
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", &script]).arg(env::current_exe().unwrap()).args([&one, &two]);
        command.env(ROLE, "1").env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "web");
        let done = command.output().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(done.status.success(), "{done:?}");
        assert!(String::from_utf8_lossy(&done.stdout).contains("took both"), "{done:?}");
    }

    fn tempfile_folder() -> PathBuf {
        let folder = env::temp_dir().join(format!("tribune-listen-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn child_of_passed_descriptors() {
        let passed = listen_fds().unwrap();
        let read = |(name, fd): (String, OwnedFd)| (name, io::read_to_string(std::fs::File::from(fd)).unwrap());
        let passed: Vec<_> = passed.into_iter().map(read).collect();
        assert_eq!(passed, [("web".to_owned(), "first".to_owned()), ("unknown".to_owned(), "second".to_owned())]);
        assert!(matches!(listen_fds(), Err(ListenError::TakenBefore)));
        assert!(matches!(take(999), Err(ListenError::Missing { fd: 999, .. })));
        println!("took both");
    }

    #[test]
    fn a_notification_reaches_a_socket_in_the_file_system_and_an_abstract_one() {
        let name = format!("tribune-notify-test-{}", std::process::id());
        let receiver = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        notify_at(Path::new(&format!("@{name}")), "READY=1").unwrap();
        let mut buffer = [0; 64];
        let n = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"READY=1");
        assert!(notify_at(Path::new("/nonexistent/notify"), "READY=1").is_err());
    }
}
