//! Packets between two processes, with descriptors where needed. Its one idea: a `SOCK_SEQPACKET` socket keeps messages
//! apart and in order by itself, so that there is no framing to get wrong, and a message that is too long is one whole message.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair, sockopt,
};

use crate::protocol::MOST_MESSAGE;
use crate::spec::MOST_CHILD_SOCKETS;

/// What was received.
#[derive(Debug)]
pub enum Received<'b> {
    /// One message.
    Message(&'b [u8]),
    /// One of so many bytes, more than [`MOST_MESSAGE`]; it is lost.
    TooLong(usize),
    /// Nothing at the moment (only when it was not to be waited for).
    Nothing,
    /// The other end is gone.
    Closed,
}

/// Whether a call waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Until it is done.
    Wait,
    /// Not at all.
    Now,
}

/// A pair of connected sockets, both closed on exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for end in [&ours, &theirs] {
        // Room for the longest message even where the system's default is small. It may refuse; then that message fails.
        let _ = sockopt::set_socket_send_buffer_size(end, 2 * MOST_MESSAGE);
    }
    Ok((ours, theirs))
}

/// Room for one message and for the sign that it was longer.
pub(crate) fn buffer() -> Vec<u8> {
    vec![0; MOST_MESSAGE]
}

/// Receives one message; descriptors that come with it are closed.
pub fn receive<'b>(socket: BorrowedFd<'_>, buffer: &'b mut [u8], patience: Patience) -> io::Result<Received<'b>> {
    let flags = match patience {
        Patience::Wait => RecvFlags::TRUNC,
        Patience::Now => RecvFlags::TRUNC | RecvFlags::DONTWAIT,
    };
    loop {
        return match recv(socket, &mut *buffer, flags) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => Ok(Received::Closed),
            Ok((_, length)) if length > buffer.len() => Ok(Received::TooLong(length)),
            Ok((_, length)) => Ok(Received::Message(&buffer[..length])),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Ok(Received::Nothing),
            Err(error) => Err(error.into()),
        };
    }
}

/// Sends one message of at most [`MOST_MESSAGE`] bytes; `WouldBlock` when it was not to be waited for and there is no room.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], patience: Patience) -> io::Result<()> {
    let flags = match patience {
        Patience::Wait => SendFlags::NOSIGNAL,
        Patience::Now => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    };
    rustix::io::retry_on_intr(|| rustix::net::send(socket, message, flags))?;
    Ok(())
}

/// Sends one message together with descriptors, without waiting for room.
pub(crate) fn send_with(socket: BorrowedFd<'_>, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_CHILD_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} descriptors in one message; at most {MOST_CHILD_SOCKETS}", descriptors.len()),
        ));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(message)], &mut control, flags))?;
    Ok(())
}

/// Waits for one message and its descriptors, which close on exec. `None`: the other end is gone.
pub(crate) fn receive_with(socket: impl AsFd) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = buffer();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_CHILD_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::TRUNC;
    let result = rustix::io::retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags))?;
    if result.bytes > MOST_MESSAGE || result.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is longer than it may be"));
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    bytes.truncate(result.bytes);
    Ok((result.bytes > 0).then_some((bytes, descriptors)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_message_passes_and_a_longer_one_is_told_apart_from_the_next() {
        let (a, b) = pair().unwrap();
        let longest = vec![7; MOST_MESSAGE];
        let mut buffer = buffer();
        send(a.as_fd(), &longest, Patience::Now).unwrap();
        assert!(matches!(receive(b.as_fd(), &mut buffer, Patience::Wait).unwrap(), Received::Message(m) if m == longest));
        send(a.as_fd(), &[7; MOST_MESSAGE + 1], Patience::Now).unwrap();
        send(a.as_fd(), b"next", Patience::Now).unwrap();
        assert!(
            matches!(receive(b.as_fd(), &mut buffer, Patience::Wait).unwrap(), Received::TooLong(n) if n == MOST_MESSAGE + 1)
        );
        assert!(matches!(receive(b.as_fd(), &mut buffer, Patience::Wait).unwrap(), Received::Message(b"next")));
        assert!(matches!(receive(b.as_fd(), &mut buffer, Patience::Now).unwrap(), Received::Nothing));
        drop(a);
        assert!(matches!(receive(b.as_fd(), &mut buffer, Patience::Wait).unwrap(), Received::Closed));
    }

    #[test]
    fn as_many_descriptors_as_a_child_may_have_pass_with_a_message() {
        let (a, b) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let many = vec![file.as_fd(); MOST_CHILD_SOCKETS];
        send_with(a.as_fd(), b"here", &many).unwrap();
        let (message, descriptors) = receive_with(&b).unwrap().unwrap();
        assert_eq!((message.as_slice(), descriptors.len()), (&b"here"[..], MOST_CHILD_SOCKETS));
        drop(a);
        assert!(receive_with(&b).unwrap().is_none());
    }
}
