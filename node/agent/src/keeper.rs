//! The agent's side of the keeper. Its one idea: whoever starts, stops and watches children does so through [`Children`], and
//! does not see whether a keeper, or a test, is behind it.
//!
//! [`KeeperClient`] is the real one: a handle to a task that owns the socket to the keeper. When the keeper dies, the task
//! ends, every call answers [`ChildrenError::Gone`], the channel of events closes, and the agent should end.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tribune_keeper::{
    ChildId, ChildSpec, ChildStatus, Event, Hello, OpenSocket, PROTOCOL, Refusal, Reply, Request, Rest, SignalName, SocketAddress,
};

use self::connection::{Ask, Connection};

mod connection;
#[cfg(test)]
mod tests;

/// How many calls may wait for the task that speaks with the keeper.
const WAITING_CALLS: usize = 64;
/// How many events may wait in the channel for the agent; the task holds more.
const WAITING_EVENTS: usize = 256;

/// Owns child processes. All requests may be made again without harm.
pub trait Children: Send + Sync + 'static {
    /// Starts a child, or leaves it as it is when it runs with the same spec. [`Event::Started`] tells when its program runs.
    fn start(&self, spec: ChildSpec) -> BoxFuture<'_, Result<(), ChildrenError>>;
    /// Asks a child to stop, within this time or else as its spec says. [`Event::Exited`] tells its end.
    fn stop(&self, child: ChildId, within: Option<Duration>) -> BoxFuture<'_, Result<(), ChildrenError>>;
    /// Stops a child if it runs, then starts it.
    fn restart(&self, child: ChildId) -> BoxFuture<'_, Result<(), ChildrenError>>;
    /// Sends a signal to a child's own process.
    fn signal(&self, child: ChildId, signal: SignalName) -> BoxFuture<'_, Result<(), ChildrenError>>;
    /// Forgets a child that does not run.
    fn remove(&self, child: ChildId) -> BoxFuture<'_, Result<(), ChildrenError>>;
    /// All children, in the order of their ids.
    fn list(&self) -> BoxFuture<'_, Result<Vec<ChildStatus>, ChildrenError>>;
    /// Opens a listening socket, or finds it open.
    fn open_socket(&self, address: SocketAddress) -> BoxFuture<'_, Result<OpenSocket, ChildrenError>>;
    /// Closes a socket that no child which runs, or will by itself, names.
    fn release_socket(&self, address: SocketAddress) -> BoxFuture<'_, Result<(), ChildrenError>>;
    /// The open sockets.
    fn list_sockets(&self) -> BoxFuture<'_, Result<Vec<OpenSocket>, ChildrenError>>;
    /// Stops the node cleanly: [`Event::Stopping`] comes, and the children are stopped once the agent has ended.
    fn shutdown(&self) -> BoxFuture<'_, Result<(), ChildrenError>>;
}

/// Why a request to the keeper was not done.
#[derive(Debug, thiserror::Error)]
pub enum ChildrenError {
    /// The keeper said no.
    #[error("the keeper refused: {message}")]
    Refused {
        /// What kind of reason.
        why: Refusal,
        /// The reason.
        message: String,
    },
    /// The keeper is gone: the agent should end, and the next keeper starts another.
    #[error("the keeper is gone")]
    Gone,
    /// It answered what it should not.
    #[error("the keeper's answer cannot be understood: {0}")]
    Answer(String),
    /// The request is too large for one message.
    #[error("the request has {0} bytes, more than one message holds; shorten arguments and environment")]
    TooLong(usize),
    /// There is no keeper to speak with.
    #[error("the agent is started by the keeper, with a socket as standard input (use `tribune run`): {0}")]
    NoKeeper(#[source] io::Error),
}

/// The agent's handle to its keeper.
#[derive(Debug, Clone)]
pub struct KeeperClient {
    asks: mpsc::Sender<Ask>,
}

impl KeeperClient {
    /// Connects over the socket that the keeper gave to this process. `software` is the agent's name and version, for the log.
    ///
    /// # Errors
    /// As [`KeeperClient::connect`]; [`ChildrenError::NoKeeper`] when this process was started by hand.
    pub async fn from_environment(software: &str) -> Result<(Self, Hello, mpsc::Receiver<Event>), ChildrenError> {
        let socket = tribune_keeper::take_agent_socket().map_err(ChildrenError::NoKeeper)?;
        Self::connect(socket, software).await
    }

    /// Says hello over a socket to a keeper. Answers the handle, who the keeper is, and what happens from now on. Events that
    /// nobody takes from the channel hold up no call.
    ///
    /// # Errors
    /// The keeper is gone, or speaks no version of the protocol that this side does.
    pub async fn connect(socket: OwnedFd, software: &str) -> Result<(Self, Hello, mpsc::Receiver<Event>), ChildrenError> {
        let (asks, asked) = mpsc::channel(WAITING_CALLS);
        let (events, happened) = mpsc::channel(WAITING_EVENTS);
        let connection = Connection::new(socket, asked, events).map_err(ChildrenError::NoKeeper)?;
        tokio::spawn(connection.run());
        let client = Self { asks };
        match client.call(Request::Hello { protocol: PROTOCOL, software: software.to_owned() }).await? {
            Reply::Hello(hello) => Ok((client, hello, happened)),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns once the keeper is gone.
    pub async fn closed(&self) {
        self.asks.closed().await;
    }

    async fn call(&self, request: Request) -> Result<Reply, ChildrenError> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask { request, answer }).await.map_err(|_| ChildrenError::Gone)?;
        match answered.await.map_err(|_| ChildrenError::Gone)?? {
            Reply::Refused { why, message } => Err(ChildrenError::Refused { why, message }),
            reply => Ok(reply),
        }
    }

    async fn done(&self, request: Request) -> Result<(), ChildrenError> {
        match self.call(request).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn all_children(&self) -> Result<Vec<ChildStatus>, ChildrenError> {
        let mut all: Vec<ChildStatus> = Vec::new();
        loop {
            let after = all.last().map(|child| child.id.clone());
            let (children, rest) = match self.call(Request::List { after }).await? {
                Reply::Children { children, rest } => (children, rest),
                other => return Err(unexpected(&other)),
            };
            // An empty part would be asked for again for ever.
            let ends = rest == Rest::None || children.is_empty();
            all.extend(children);
            if ends {
                return Ok(all);
            }
        }
    }
}

fn unexpected(reply: &Reply) -> ChildrenError {
    ChildrenError::Answer(format!("it does not belong to the request: {reply:?}"))
}

impl Children for KeeperClient {
    fn start(&self, spec: ChildSpec) -> BoxFuture<'_, Result<(), ChildrenError>> {
        self.done(Request::Start(Box::new(spec))).boxed()
    }

    fn stop(&self, child: ChildId, within: Option<Duration>) -> BoxFuture<'_, Result<(), ChildrenError>> {
        let within_ms = within.map(|within| u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        self.done(Request::Stop { child, within_ms }).boxed()
    }

    fn restart(&self, child: ChildId) -> BoxFuture<'_, Result<(), ChildrenError>> {
        self.done(Request::Restart { child }).boxed()
    }

    fn signal(&self, child: ChildId, signal: SignalName) -> BoxFuture<'_, Result<(), ChildrenError>> {
        self.done(Request::Signal { child, signal }).boxed()
    }

    fn remove(&self, child: ChildId) -> BoxFuture<'_, Result<(), ChildrenError>> {
        self.done(Request::Remove { child }).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ChildStatus>, ChildrenError>> {
        self.all_children().boxed()
    }

    fn open_socket(&self, address: SocketAddress) -> BoxFuture<'_, Result<OpenSocket, ChildrenError>> {
        async move {
            match self.call(Request::OpenSocket { address }).await? {
                Reply::Socket(socket) => Ok(socket),
                other => Err(unexpected(&other)),
            }
        }
        .boxed()
    }

    fn release_socket(&self, address: SocketAddress) -> BoxFuture<'_, Result<(), ChildrenError>> {
        self.done(Request::ReleaseSocket { address }).boxed()
    }

    fn list_sockets(&self) -> BoxFuture<'_, Result<Vec<OpenSocket>, ChildrenError>> {
        async move {
            match self.call(Request::ListSockets).await? {
                Reply::Sockets(sockets) => Ok(sockets),
                other => Err(unexpected(&other)),
            }
        }
        .boxed()
    }

    fn shutdown(&self) -> BoxFuture<'_, Result<(), ChildrenError>> {
        self.done(Request::Shutdown).boxed()
    }
}
