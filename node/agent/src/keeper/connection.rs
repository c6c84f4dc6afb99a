//! The task that owns the socket to the keeper: it gives each request its number, matches the answers, and passes events on.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::{mpsc, oneshot};
use tribune_keeper::wire::{self, Patience, Received};
use tribune_keeper::{Call, Event, FromKeeper, MOST_MESSAGE, Reply, Request};

use super::ChildrenError;

/// Events that wait for an agent that does not take them; beyond that the agent is taken to hang, and the connection ends.
const MOST_EVENTS: usize = 10_000;

/// One request, and where its answer goes.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Result<Reply, ChildrenError>>,
}

/// The socket, and what goes over it.
pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
    asked: mpsc::Receiver<Ask>,
    events: mpsc::Sender<Event>,
    traffic: Traffic,
    buffer: Vec<u8>,
}

/// What is under way.
struct Traffic {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<Reply, ChildrenError>>>,
    unsent: VecDeque<Vec<u8>>,
    happened: VecDeque<Event>,
}

/// Why the task ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the keeper closed its socket")]
    Closed,
    #[error("nobody uses the connection any more")]
    Unused,
    #[error("the agent does not take its events")]
    NotTaken,
    #[error("the keeper sent what cannot be understood: {0}")]
    Message(String),
    #[error("the socket to the keeper failed: {0}")]
    Socket(#[from] io::Error),
}

impl Connection {
    #[allow(unsafe_code)]
    pub(super) fn new(socket: OwnedFd, asked: mpsc::Receiver<Ask>, events: mpsc::Sender<Event>) -> io::Result<Self> {
        // SAFETY: an OwnedFd is open for as long as it lives, always gives the same number, and nothing replaces what
        // that number refers to; the AsyncFd owns it from here on.
        let registered = unsafe { AsyncFd::register(socket) };
        Ok(Self {
            socket: registered?,
            asked,
            events,
            traffic: Traffic { next: 1, waiting: HashMap::new(), unsent: VecDeque::new(), happened: VecDeque::new() },
            buffer: vec![0; MOST_MESSAGE],
        })
    }

    /// Until the keeper is gone, or nobody has a handle or takes events any more. Whoever still waits then hears that it is gone.
    pub(super) async fn run(mut self) {
        loop {
            if let Err(end) = self.turn().await {
                match end {
                    End::Unused => {}
                    end => tracing::warn!("no connection to the keeper any more: {end}"),
                }
                return;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), End> {
        let Self { socket, asked, events, traffic, buffer } = self;
        tokio::select! {
            ready = socket.readable() => match hear(&mut ready?, buffer)? {
                Some(message) => traffic.take(message),
                None => Ok(()),
            },
            ready = socket.writable(), if !traffic.unsent.is_empty() => send_one(&mut ready?, &mut traffic.unsent),
            room = events.reserve(), if !traffic.happened.is_empty() => {
                // Without a receiver nobody wants events.
                if let (Some(event), Ok(room)) = (traffic.happened.pop_front(), room) {
                    room.send(event);
                }
                Ok(())
            }
            ask = asked.recv() => {
                traffic.ask(ask.ok_or(End::Unused)?);
                Ok(())
            }
        }
    }
}

impl Traffic {
    fn ask(&mut self, ask: Ask) {
        let id = self.next;
        self.next += 1;
        let message = match serde_json::to_vec(&Call { id, request: ask.request }) {
            Ok(message) if message.len() > MOST_MESSAGE => Err(ChildrenError::TooLong(message.len())),
            Ok(message) => Ok(message),
            Err(error) => Err(ChildrenError::Answer(error.to_string())),
        };
        match message {
            Ok(message) => {
                self.unsent.push_back(message);
                self.waiting.insert(id, ask.answer);
            }
            // Who asked may have gone; that is no concern here.
            Err(error) => drop(ask.answer.send(Err(error))),
        }
    }

    fn take(&mut self, message: FromKeeper) -> Result<(), End> {
        match message {
            FromKeeper::Reply { id: Some(id), reply } => {
                if let Some(answer) = self.waiting.remove(&id) {
                    let _ = answer.send(Ok(reply));
                }
                Ok(())
            }
            FromKeeper::Reply { id: None, reply } => Err(End::Message(format!("it could not read a request: {reply:?}"))),
            FromKeeper::Event(event) => {
                self.happened.push_back(event);
                if self.happened.len() > MOST_EVENTS { Err(End::NotTaken) } else { Ok(()) }
            }
        }
    }
}

fn hear(ready: &mut AsyncFdReadyGuard<'_, OwnedFd>, buffer: &mut [u8]) -> Result<Option<FromKeeper>, End> {
    match wire::receive(ready.get_inner().as_fd(), buffer, Patience::Now)? {
        Received::Nothing => {
            ready.clear_ready();
            Ok(None)
        }
        Received::Closed => Err(End::Closed),
        Received::TooLong(length) => Err(End::Message(format!("a message of {length} bytes"))),
        Received::Message(message) => serde_json::from_slice(message).map(Some).map_err(|error| End::Message(error.to_string())),
    }
}

fn send_one(ready: &mut AsyncFdReadyGuard<'_, OwnedFd>, unsent: &mut VecDeque<Vec<u8>>) -> Result<(), End> {
    let Some(message) = unsent.front() else { return Ok(()) };
    match wire::send(ready.get_inner().as_fd(), message, Patience::Now) {
        Ok(()) => drop(unsent.pop_front()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(End::Closed),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
