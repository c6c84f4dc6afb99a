//! The streams by which users come: the node's own socket, and two protocols of the control network.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tribune_messages::api::{ApiError, ApiRequest, ApiResult, MAX_API_FRAME};
use tribune_messages::{ADMIN_PROTOCOL, FORWARD_PROTOCOL};
use tribune_p2p::network::{Arrival, NetworkError};
use tribune_p2p::{Channel, ChannelError, Limits, Who, identity};
use tribune_raft_store::model::PublicKey;

use super::forward::{self, Forwarded};
use super::{Api, Origin, Stream};
use crate::data::remove_file;
use crate::error::{NodeError, file_error};

/// Streams of each kind that are served at once.
const AT_ONCE: usize = 128;
/// A user's stream may rest for so long between two requests.
const LIMITS: Limits =
    Limits { max_frame: MAX_API_FRAME, send_time: Duration::from_secs(30), recv_time: Some(Duration::from_secs(600)) };
/// How long a socket that cannot take connections (no free descriptor) is left alone.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
/// The longest path of a socket; the system has no place for more.
const LONGEST_SOCKET_PATH: usize = 107;

/// The node's own socket.
pub(crate) struct UserSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl UserSocket {
    /// Binds the socket, which only its owner and root may open.
    ///
    /// # Errors
    /// The path is too long, or the system refuses.
    pub(crate) fn bind(path: &Path) -> Result<Self, NodeError> {
        let length = path.as_os_str().len();
        if length > LONGEST_SOCKET_PATH {
            let why = format!(
                "the path has {length} bytes, and that of a socket may have {LONGEST_SOCKET_PATH}; use a shorter data folder"
            );
            return Err(file_error("bind the socket", path)(io::Error::new(io::ErrorKind::InvalidInput, why)));
        }
        remove_file(path)?;
        let listener = UnixListener::bind(path).map_err(file_error("bind the socket", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(file_error("close to others", path))?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Api {
    /// Serves users over the network, and over the socket if there is one, until `stop`.
    ///
    /// # Errors
    /// A protocol is served already.
    pub(crate) fn serve(self: Arc<Self>, socket: Option<UserSocket>, stop: CancellationToken) -> Result<(), NetworkError> {
        let users = self.control.serve(ADMIN_PROTOCOL, Who::MembersAndPrincipals, LIMITS)?;
        let nodes = self.control.serve(FORWARD_PROTOCOL, Who::Members, forward::LIMITS)?;
        for (mut incoming, forwarded) in [(users, Kind::User), (nodes, Kind::Node)] {
            let (this, places) = (self.clone(), Arc::new(Semaphore::new(AT_ONCE)));
            tokio::spawn(async move {
                while let Some(arrival) = incoming.next().await {
                    // Never closed.
                    let Ok(place) = places.clone().acquire_owned().await else { return };
                    let this = this.clone();
                    tokio::spawn(async move {
                        this.take(arrival, forwarded).await;
                        drop(place);
                    });
                }
            });
        }
        if let Some(socket) = socket {
            tokio::spawn(self.serve_socket(socket, stop));
        }
        Ok(())
    }

    async fn serve_socket(self: Arc<Self>, socket: UserSocket, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let accepted = tokio::select! {
                accepted = socket.listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) if may_open(&stream) => {
                    let Ok(place) = places.clone().acquire_owned().await else { return };
                    let this = self.clone();
                    tokio::spawn(async move {
                        let ended = this.converse(Channel::new(stream, LIMITS), Origin::Socket).await;
                        note(ended, "a program on this machine");
                        drop(place);
                    });
                }
                Ok(_) => tracing::warn!("another user tried to open the node's socket"),
                Err(error) => {
                    tracing::warn!(%error, "the node's socket takes no connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        if let Err(error) = remove_file(&socket.path) {
            tracing::debug!(%error, "the node's socket was not removed");
        }
    }

    async fn take(&self, arrival: Arrival, kind: Kind) {
        let Arrival { peer, channel, .. } = arrival;
        match (kind, identity::public_key_of(&peer)) {
            (Kind::User, Some(key)) => note(self.converse(channel, Origin::Key(PublicKey::new(key))).await, "a user"),
            (Kind::Node, _) => note(self.converse_with_node(channel).await, "a node that handed on a request"),
            (Kind::User, None) => tracing::debug!(%peer, "its key is of no kind that can sign orders"),
        }
    }

    /// One request after another, each with one answer.
    async fn converse(&self, mut channel: Channel, origin: Origin) -> Result<(), ChannelError> {
        while let Some(request) = channel.recv::<ApiRequest>().await? {
            if self.respond(&mut channel, request, &origin).await? == Stream::Ends {
                break;
            }
        }
        channel.finish().await
    }

    async fn converse_with_node(&self, mut channel: Channel) -> Result<(), ChannelError> {
        while let Some(Forwarded { key, request }) = channel.recv().await? {
            if self.respond(&mut channel, request, &Origin::Forwarded(key)).await? == Stream::Ends {
                break;
            }
        }
        channel.finish().await
    }

    async fn respond(&self, channel: &mut Channel, request: ApiRequest, origin: &Origin) -> Result<Stream, ChannelError> {
        let (result, stream) = match request {
            ApiRequest::Backup => return self.backup(channel, origin).await,
            ApiRequest::Upload { size } => self.upload(channel.halves().1, size, origin).await,
            request => (self.answer(request, origin).await, Stream::GoesOn),
        };
        match channel.send(&result).await {
            // Nothing of it was sent: the stream is as good as before.
            Err(ChannelError::TooLarge { size, max }) => {
                let what = format!("the answer has {size} bytes, and {max} are possible; ask for less at once");
                channel.send(&ApiResult::Err(ApiError::Failed { what })).await?;
            }
            sent => sent?,
        }
        Ok(stream)
    }
}

/// Who opened a stream of the network.
#[derive(Debug, Clone, Copy)]
enum Kind {
    User,
    Node,
}

/// Root and the user that the node runs as.
fn may_open(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

fn note(ended: Result<(), ChannelError>, who: &str) {
    if let Err(error) = ended {
        tracing::debug!(%error, "the stream of {who} ended early");
    }
}
