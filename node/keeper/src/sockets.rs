//! Listening sockets. Their one idea: the keeper opens each address once and keeps it, so that old and new instances of a
//! service accept from the same queue, and no connection is refused while one hands over to the other.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::protocol::OpenSocket;

/// Most sockets that are open at once.
pub const MOST_SOCKETS: usize = 128;
/// Connections that may wait to be accepted, as far as the system allows: they wait here during a changeover.
const BACKLOG: i32 = 4096;
/// Longest path of a Unix socket, in bytes (Linux allows 107).
const LONGEST_PATH: usize = 100;

/// Where a socket listens: `tcp://IP:PORT`, `udp://IP:PORT` or `unix:///PATH`; written so in JSON too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SocketAddress {
    /// A TCP listener.
    Tcp(SocketAddr),
    /// A bound UDP socket.
    Udp(SocketAddr),
    /// A Unix stream listener at this path.
    Unix(PathBuf),
}

/// An address that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a listen address; use tcp://IP:PORT, udp://IP:PORT or unix:///PATH (at most {LONGEST_PATH} bytes)")]
pub struct AddressError(String);

impl FromStr for SocketAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(crate::spec::shortened(text, 120));
        match text.split_once("://") {
            Some(("tcp", address)) => Ok(Self::Tcp(address.parse().map_err(|_| wrong())?)),
            Some(("udp", address)) => Ok(Self::Udp(address.parse().map_err(|_| wrong())?)),
            Some(("unix", path)) if path.starts_with('/') && path.len() <= LONGEST_PATH && !path.contains('\0') => {
                Ok(Self::Unix(path.into()))
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl TryFrom<String> for SocketAddress {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<SocketAddress> for String {
    fn from(address: SocketAddress) -> Self {
        address.to_string()
    }
}

/// Why a socket is not open.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Someone else listens there.
    #[error("{0} is in use by another program (`ss -lnp` names it); stop that, or use another address")]
    InUse(SocketAddress),
    /// The system refused.
    #[error("could not open {address}: {source}")]
    System {
        /// Where.
        address: SocketAddress,
        /// What it said.
        source: io::Error,
    },
    /// Something that is not a socket has the path.
    #[error("{0} cannot be opened: a file that is no socket has that path; move it away")]
    NotASocket(SocketAddress),
    /// Too many are open.
    #[error("{0} was not opened: {MOST_SOCKETS} sockets are open, the most there may be; release some")]
    TooMany(SocketAddress),
}

/// An open socket, and by which number the next keeper recognises it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedSocket {
    pub(crate) address: SocketAddress,
    pub(crate) bound: SocketAddress,
    pub(crate) inode: u64,
}

#[derive(Debug)]
struct Open {
    descriptor: OwnedFd,
    saved: SavedSocket,
}

/// The open sockets.
#[derive(Debug, Default)]
pub(crate) struct Sockets(BTreeMap<SocketAddress, Open>);

impl Sockets {
    /// Opens a socket, or finds it open.
    pub(crate) fn open(&mut self, address: &SocketAddress) -> Result<OpenSocket, SocketError> {
        if !self.0.contains_key(address) {
            if self.0.len() >= MOST_SOCKETS {
                return Err(SocketError::TooMany(address.clone()));
            }
            let descriptor = open(address)?;
            self.keep(address, descriptor).map_err(|source| SocketError::System { address: address.clone(), source })?;
        }
        Ok(self.0[address].shown())
    }

    /// Opens each that is not open.
    pub(crate) fn open_all<'a>(&mut self, addresses: impl Iterator<Item = &'a SocketAddress>) -> Result<(), SocketError> {
        for address in addresses {
            self.open(address)?;
        }
        Ok(())
    }

    /// Its descriptor, if it is open.
    pub(crate) fn get(&self, address: &SocketAddress) -> Option<BorrowedFd<'_>> {
        self.0.get(address).map(|open| open.descriptor.as_fd())
    }

    /// Closes this side's descriptor, and removes a Unix socket's path; nothing where it is not open.
    pub(crate) fn release(&mut self, address: &SocketAddress) {
        if self.0.remove(address).is_some()
            && let SocketAddress::Unix(path) = address
        {
            let _ = fs::remove_file(path);
        }
    }

    /// Closes all.
    pub(crate) fn release_all(&mut self) {
        while let Some(address) = self.0.keys().next().cloned() {
            self.release(&address);
        }
    }

    /// The open ones, for the agent.
    pub(crate) fn list(&self) -> Vec<OpenSocket> {
        self.0.values().map(Open::shown).collect()
    }

    /// The open ones, for the next keeper.
    pub(crate) fn saved(&self) -> Vec<SavedSocket> {
        self.0.values().map(|open| open.saved.clone()).collect()
    }

    /// Takes back a socket of a keeper that died from one of the processes that were given it, without closing it for a moment.
    /// Answers whether it was found.
    pub(crate) fn take_back(&mut self, saved: &SavedSocket, holders: impl Iterator<Item = u32>) -> Found {
        for pid in holders {
            match duplicate_of(pid, saved.inode) {
                Ok(Some(descriptor)) => {
                    self.0.insert(saved.address.clone(), Open { descriptor, saved: saved.clone() });
                    return Found::Yes;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(socket = %saved.address, pid, %error, "the socket of a running service could not be shared")
                }
            }
        }
        Found::No
    }

    fn keep(&mut self, address: &SocketAddress, descriptor: OwnedFd) -> io::Result<()> {
        let bound = bound_address(address, &descriptor)?;
        let inode = rustix::fs::fstat(&descriptor)?.st_ino;
        let saved = SavedSocket { address: address.clone(), bound, inode };
        self.0.insert(address.clone(), Open { descriptor, saved });
        Ok(())
    }
}

/// Whether something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Yes,
    No,
}

impl Open {
    fn shown(&self) -> OpenSocket {
        OpenSocket { address: self.saved.address.clone(), bound: self.saved.bound.clone() }
    }
}

fn open(address: &SocketAddress) -> Result<OwnedFd, SocketError> {
    let refused = |source: io::Error| {
        if source.kind() == io::ErrorKind::AddrInUse {
            SocketError::InUse(address.clone())
        } else {
            SocketError::System { address: address.clone(), source }
        }
    };
    match address {
        SocketAddress::Tcp(at) => open_internet(at, SocketType::STREAM).map_err(refused),
        SocketAddress::Udp(at) => open_internet(at, SocketType::DGRAM).map_err(refused),
        SocketAddress::Unix(path) => {
            make_way(address, path)?;
            open_unix(path).map_err(refused)
        }
    }
}

fn open_internet(at: &SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if kind == SocketType::STREAM {
        // Connections of before that have not timed out do not keep a new listener away. Two listeners at once stay refused.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, at)?;
    if kind == SocketType::STREAM {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

fn open_unix(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Removes a socket that nobody listens on any more from the path.
fn make_way(address: &SocketAddress, path: &Path) -> Result<(), SocketError> {
    use std::os::unix::fs::FileTypeExt;
    let system = |source| SocketError::System { address: address.clone(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(address.clone())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(system),
        Err(error) => Err(system(error)),
        Ok(_) => Err(SocketError::InUse(address.clone())),
    }
}

fn bound_address(address: &SocketAddress, socket: &OwnedFd) -> io::Result<SocketAddress> {
    if let SocketAddress::Unix(path) = address {
        return Ok(SocketAddress::Unix(path.clone()));
    }
    let bound = SocketAddr::try_from(getsockname(socket)?)?;
    Ok(if matches!(address, SocketAddress::Tcp(_)) { SocketAddress::Tcp(bound) } else { SocketAddress::Udp(bound) })
}

/// A duplicate of the socket of this inode that a process holds, if it does.
fn duplicate_of(pid: u32, inode: u64) -> io::Result<Option<OwnedFd>> {
    let wanted = format!("socket:[{inode}]");
    let mut held = None;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // One that is closed in the meantime is not the one.
        let is_it = fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(&wanted));
        if is_it {
            held = entry.file_name().to_str().and_then(|name| name.parse().ok());
            break;
        }
    }
    let Some(number) = held else { return Ok(None) };
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return Ok(None) };
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
        // The number may mean something else by now.
        Ok(descriptor) => Ok((rustix::fs::fstat(&descriptor)?.st_ino == inode).then_some(descriptor)),
        Err(Errno::BADF | Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn address(text: &str) -> SocketAddress {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_written_as_it_is_read_and_nothing_else_is_one() {
        for text in ["tcp://127.0.0.1:80", "udp://[::1]:53", "unix:///run/a.sock"] {
            assert_eq!(address(text).to_string(), text);
        }
        let long = format!("unix:///{}", "x".repeat(100));
        for text in ["", "tcp://localhost:80", "tcp://1.2.3.4", "unix://relative", "http://1.2.3.4:1", "unix:///a\0", &long] {
            assert!(text.parse::<SocketAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn one_address_is_one_socket_until_it_is_released() {
        let mut sockets = Sockets::default();
        let any = address("tcp://127.0.0.1:0");
        let first = sockets.open(&any).unwrap();
        assert_eq!(sockets.open(&any).unwrap(), first);
        let SocketAddress::Tcp(bound) = first.bound else { panic!("{first:?}") };
        TcpStream::connect(bound).unwrap();
        sockets.release(&any);
        assert!(TcpStream::connect(bound).is_err());
    }

    #[test]
    fn an_address_in_use_is_refused_with_a_message_that_says_so() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        for text in [format!("tcp://{}", tcp.local_addr().unwrap()), format!("udp://{}", udp.local_addr().unwrap())] {
            let error = Sockets::default().open(&address(&text)).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{text} is in use by another program")), "{error}");
        }
    }

    #[test]
    fn a_unix_socket_takes_the_place_of_a_dead_one_and_of_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let here = SocketAddress::Unix(path.clone());
        let mut sockets = Sockets::default();
        fs::write(&path, "mine").unwrap();
        assert!(matches!(sockets.open(&here), Err(SocketError::NotASocket(_))));
        fs::remove_file(&path).unwrap();
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(sockets.open(&here), Err(SocketError::InUse(_))));
        drop(other);
        sockets.open(&here).unwrap();
        UnixStream::connect(&path).unwrap();
        sockets.release_all();
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_is_found_in_a_process_that_holds_it() {
        let mut sockets = Sockets::default();
        let any = address("tcp://127.0.0.1:0");
        sockets.open(&any).unwrap();
        let saved = sockets.saved().remove(0);
        let mut next = Sockets::default();
        let none = SavedSocket { inode: u64::MAX, ..saved.clone() };
        assert_eq!(next.take_back(&none, std::iter::once(std::process::id())), Found::No);
        assert_eq!(next.take_back(&saved, std::iter::once(std::process::id())), Found::Yes);
        drop(sockets);
        let SocketAddress::Tcp(bound) = saved.bound else { panic!("{saved:?}") };
        TcpStream::connect(bound).unwrap();
    }
}
