//! The connection of one process to its node. Its one idea: the connection is nobody's concern. A background thread
//! opens it, opens it again when the agent restarts, and repeats nothing that the node has not asked for again.

use std::env;
use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::conversation::{Conversation, Step};
use crate::handler::Handler;
use crate::line::read_line;
use crate::protocol::{HealthStatus, MAX_LINE, NodeMessage, PROTOCOL, ProcessMessage, SOCKET_VARIABLE, clean_reason, encode};

/// The first pause before connecting again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause before connecting again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that lasted this long was a good one: the pauses begin anew.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);
/// A node that does not take a line for so long is taken for gone.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// A node that does not answer `hello` for so long is taken for gone.
const WELCOME_LIMIT: Duration = Duration::from_secs(10);

/// Why a process cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// `$TRIBUNE_SOCKET` is not set.
    #[error("{SOCKET_VARIABLE} is not set: this process was not started by a Tribune node")]
    NotUnderTribune,
    /// The background thread could not be started.
    #[error("could not start the thread that speaks to the node: {0}")]
    Thread(io::Error),
}

/// Why something could not be said to the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// This process was not asked about that update, or it has ended.
    #[error("this process has not been asked about update {update}, or it has ended")]
    NotAsked {
        /// The update.
        update: String,
    },
    /// Too late: this process has said that it can hand over.
    #[error("too late to veto update {update}: this process has said that it is ready")]
    AlreadyReady {
        /// The update.
        update: String,
    },
    /// Too late: the user went past this process's veto.
    #[error("too late to veto update {update}: the user went past this process's veto")]
    Overruled {
        /// The update.
        update: String,
    },
}

/// This process, as it will introduce itself to its node.
#[derive(Debug, Clone)]
pub struct Process {
    socket: PathBuf,
    name: Option<String>,
    version: Option<String>,
}

impl Process {
    /// Finds the node through `$TRIBUNE_SOCKET`. The connection itself is made, and kept, by [`Process::serve`], which
    /// does not mind a node that is not there yet.
    ///
    /// # Errors
    /// [`ServeError::NotUnderTribune`] when the variable is not set.
    pub fn connect() -> Result<Self, ServeError> {
        let socket = env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).ok_or(ServeError::NotUnderTribune)?;
        Ok(Self::at(Path::new(&socket)))
    }

    /// The process of a node whose socket is at this path.
    #[must_use]
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), name: None, version: None }
    }

    /// What an operator should call this process, where it is not one of the node's modules.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// This process's version, for display.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Starts the background thread that speaks to the node and calls `handler`, until the session is closed or dropped.
    ///
    /// # Errors
    /// [`ServeError::Thread`] when the system gives no thread.
    pub fn serve(self, handler: impl Handler) -> Result<Session, ServeError> {
        let shared = Arc::new(Shared::default());
        let worker = Worker { process: self, shared: Arc::clone(&shared) };
        let thread =
            thread::Builder::new().name("tribune".into()).spawn(move || worker.run(handler)).map_err(ServeError::Thread)?;
        Ok(Session { shared, thread: Some(thread) })
    }

    fn hello(&self) -> ProcessMessage {
        ProcessMessage::Hello { protocol: PROTOCOL, name: self.name.clone(), version: self.version.clone() }
    }
}

/// A running conversation with the node. Dropping it ends the conversation, without waiting for a handler that runs.
#[derive(Debug)]
#[must_use = "dropping the session ends it"]
pub struct Session {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Session {
    /// Objects to an update that this process has accepted before. Without a connection the objection is kept and said
    /// as soon as the node speaks of the update again.
    ///
    /// # Errors
    /// Where it is too late, or this process was not asked.
    pub fn veto(&self, update: &str, reason: &str) -> Result<(), SessionError> {
        let mut state = self.shared.lock();
        let veto = state.conversation.veto(update, reason)?;
        state.say(&veto);
        Ok(())
    }

    /// Tells the node how this process is. The last word is repeated on each new connection.
    pub fn health(&self, status: HealthStatus, detail: Option<&str>) {
        let health = ProcessMessage::Health { status, detail: detail.map(clean_reason) };
        let mut state = self.shared.lock();
        state.say(&health);
        state.health = Some(health);
    }

    /// Ends the conversation, and waits until the handler no longer runs.
    pub fn close(mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // A handler that panicked has already said so on standard error.
            let _ = thread.join();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// What the session and its thread share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    /// The writing half; none while there is no conversation.
    stream: Option<UnixStream>,
    conversation: Conversation,
    health: Option<ProcessMessage>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding it leaves nothing half done: each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        state.hang_up();
        self.stopped.notify_all();
    }

    /// Waits; true when the session was stopped meanwhile.
    fn pause(&self, time: Duration) -> bool {
        let waited = self.stopped.wait_timeout_while(self.lock(), time, |state| !state.stopping);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }
}

impl State {
    /// Writes one line. A failure ends this connection: the node will ask again on the next one.
    fn say(&mut self, message: &ProcessMessage) {
        let Some(stream) = &mut self.stream else { return };
        let written = encode(message).map_err(io::Error::other).and_then(|line| stream.write_all(line.as_bytes()));
        if written.is_err() {
            self.hang_up();
        }
    }

    fn hang_up(&mut self) {
        if let Some(stream) = self.stream.take() {
            // It fails only where the other side has hung up already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Hangs up when the thread leaves a connection in whatever way, a handler's panic included: the node must not take a
/// process that no longer listens for one that thinks.
struct HangUp<'a>(&'a Shared);

impl Drop for HangUp<'_> {
    fn drop(&mut self) {
        self.0.lock().hang_up();
    }
}

/// The background thread.
struct Worker {
    process: Process,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(self, mut handler: impl Handler) {
        let mut pause = FIRST_PAUSE;
        let mut last_error = String::new();
        loop {
            let began = Instant::now();
            if let Err(error) = self.converse(&mut handler) {
                let text = format!("{}: {error}", self.process.socket.display());
                // Once for each cause: a node that is down for a day is one line, not seventeen thousand.
                if text != last_error && !self.shared.lock().stopping {
                    handler.on_error(&text);
                    last_error = text;
                }
            }
            if began.elapsed() >= GOOD_CONNECTION {
                pause = FIRST_PAUSE;
                last_error.clear();
            }
            if self.shared.pause(pause) {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One connection, from `hello` to its loss.
    fn converse(&self, handler: &mut impl Handler) -> io::Result<()> {
        let stream = UnixStream::connect(&self.process.socket)?;
        stream.set_write_timeout(Some(WRITE_LIMIT))?;
        stream.set_read_timeout(Some(WELCOME_LIMIT))?;
        let reading = stream.try_clone()?;
        let _hang_up = HangUp(&self.shared);
        {
            let mut state = self.shared.lock();
            if state.stopping {
                return Ok(());
            }
            state.stream = Some(stream);
            state.say(&self.process.hello());
        }
        let mut reader = BufReader::new(reading);
        let mut welcomed = false;
        while let Some(line) = read_line(&mut reader, MAX_LINE)? {
            // What a later node says and this library does not know is not for it.
            let Ok(message) = serde_json::from_str::<NodeMessage>(&line) else { continue };
            if let NodeMessage::Welcome(welcome) = &message {
                if welcome.protocol == 0 || welcome.protocol > PROTOCOL {
                    return Err(io::Error::new(
                        io::ErrorKind::Unsupported,
                        format!("the node speaks protocol {}, this process {PROTOCOL}", welcome.protocol),
                    ));
                }
                welcomed = true;
                reader.get_ref().set_read_timeout(None)?;
                let mut state = self.shared.lock();
                if let Some(health) = state.health.clone() {
                    state.say(&health);
                }
            }
            self.take(&message, handler);
        }
        if welcomed { Ok(()) } else { Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the node hung up without a welcome")) }
    }

    /// Carries out what one message calls for.
    fn take(&self, message: &NodeMessage, handler: &mut impl Handler) {
        let step = self.shared.lock().conversation.hear(message);
        let say = match step {
            Step::Nothing => None,
            Step::Say(answer) => Some(answer),
            Step::Handle => self.handle(message, handler),
        };
        if let Some(answer) = say {
            self.shared.lock().say(&answer);
        }
    }

    fn handle(&self, message: &NodeMessage, handler: &mut impl Handler) -> Option<ProcessMessage> {
        match message {
            NodeMessage::Welcome(welcome) => handler.on_welcome(welcome),
            NodeMessage::Proposal(proposal) => {
                let ballot = handler.on_proposal(proposal);
                return Some(self.shared.lock().conversation.answered(proposal, ballot));
            }
            NodeMessage::Overruled(overruled) => handler.on_overruled(overruled),
            NodeMessage::ChangeoverPending(pending) => {
                handler.on_changeover_pending(pending);
                return Some(self.shared.lock().conversation.became_ready(pending));
            }
            NodeMessage::HandOver(hand_over) => {
                let state = handler.on_hand_over(hand_over);
                let said = self.shared.lock().conversation.handed_over(hand_over, state);
                match said {
                    Ok(said) => return Some(said),
                    // Better no answer, so that the node goes back, than a successor without its state.
                    Err(error) => handler.on_error(&format!("the state of this process cannot be handed over: {error}")),
                }
            }
            NodeMessage::Resume(resume) => handler.on_resume(resume),
            NodeMessage::ChangeoverDone(done) => handler.on_changeover_done(done),
            NodeMessage::Aborted(aborted) => handler.on_aborted(aborted),
            NodeMessage::Outcome(told) => {
                handler.on_outcome(told);
                return Some(ProcessMessage::Seen { update: told.update.clone() });
            }
            NodeMessage::Error { message } => handler.on_error(message),
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::protocol::Proposal;
    use crate::{Ballot, Welcome};
    use std::io::BufRead;
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;

    /// Longer than anything here takes on a busy machine.
    const LONG: Duration = Duration::from_secs(30);

    /// A node that the test plays itself.
    struct Node {
        folder: PathBuf,
        listener: UnixListener,
    }

    impl Node {
        fn open(name: &str) -> Self {
            let folder = env::temp_dir().join(format!("tribune-client-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let _ = std::fs::remove_file(folder.join("socket"));
            let listener = UnixListener::bind(folder.join("socket")).unwrap();
            Self { folder, listener }
        }

        fn process(&self) -> Process {
            Process::at(&self.folder.join("socket"))
        }

        /// The next connection, after its hello.
        fn accept(&self) -> (UnixStream, BufReader<UnixStream>) {
            let (stream, _) = self.listener.accept().unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut hello = String::new();
            reader.read_line(&mut hello).unwrap();
            assert!(hello.contains("\"type\":\"hello\""), "{hello}");
            (stream, reader)
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    struct Notes(mpsc::Sender<String>);

    impl Handler for Notes {
        fn on_welcome(&mut self, welcome: &Welcome) {
            let _ = self.0.send(welcome.node.clone());
        }
        fn on_proposal(&mut self, _: &Proposal) -> Ballot {
            panic!("a bug of the process, which this test wants")
        }
        fn on_error(&mut self, message: &str) {
            let _ = self.0.send(message.to_owned());
        }
    }

    const WELCOME: &[u8] = b"{\"type\":\"welcome\",\"protocol\":1,\"node\":\"n1\"}\n";

    #[test]
    fn a_node_of_another_protocol_is_named_once_and_tried_again() {
        let node = Node::open("protocol");
        let (notes, heard) = mpsc::channel();
        let session = node.process().serve(Notes(notes)).unwrap();
        for _ in 0..2 {
            let (mut stream, _) = node.accept();
            stream.write_all(b"{\"type\":\"welcome\",\"protocol\":7,\"node\":\"n1\"}\n").unwrap();
        }
        let (mut stream, _) = node.accept();
        stream.write_all(WELCOME).unwrap();
        assert!(heard.recv_timeout(LONG).unwrap().ends_with("the node speaks protocol 7, this process 1"));
        assert_eq!(heard.recv_timeout(LONG).unwrap(), "n1");
        session.close();
    }

    #[test]
    fn what_a_later_node_says_is_ignored_and_a_line_without_end_is_not_read_on() {
        let node = Node::open("later");
        let (notes, heard) = mpsc::channel();
        let session = node.process().serve(Notes(notes)).unwrap();
        let (mut stream, _reader) = node.accept();
        stream.write_all(b"{\"type\":\"sing\",\"song\":1}\nnot json\n").unwrap();
        stream.write_all(WELCOME).unwrap();
        assert_eq!(heard.recv_timeout(LONG).unwrap(), "n1");
        // It fails at the latest when the process has hung up.
        let _ = stream.write_all(&vec![b'x'; 4 << 20]);
        assert!(heard.recv_timeout(LONG).unwrap().contains("a line is longer than 65536 bytes"));
        node.accept();
        session.close();
    }

    #[test]
    fn a_handler_that_panics_hangs_up_so_that_it_is_not_taken_for_one_that_thinks() {
        let node = Node::open("panic");
        let (notes, _heard) = mpsc::channel();
        let session = node.process().serve(Notes(notes)).unwrap();
        let (mut stream, mut reader) = node.accept();
        stream.write_all(WELCOME).unwrap();
        let proposal = b"{\"type\":\"proposal\",\"update\":\"u\",\"revision\":1,\"role\":\"replaced\",\"within_ms\":1}\n";
        stream.write_all(proposal).unwrap();
        let mut answer = String::new();
        assert_eq!(reader.read_line(&mut answer).unwrap(), 0, "{answer}");
        session.close();
    }

    #[test]
    fn a_session_without_a_node_ends_at_once_and_says_why_it_has_none() {
        let (notes, heard) = mpsc::channel();
        let session = Process::at(Path::new("/nonexistent/socket")).serve(Notes(notes)).unwrap();
        assert!(heard.recv_timeout(LONG).unwrap().starts_with("/nonexistent/socket: No such file"));
        session.health(HealthStatus::Healthy, None);
        let began = Instant::now();
        session.close();
        assert!(began.elapsed() < LONGEST_PAUSE);
    }
}
