//! The one place that writes to the engine: a queue, and the thread that empties it.
//!
//! One idea: what waits in the queue is written together, with one sync for all of it (group commit), and acknowledged in
//! its order. So votes, log entries and applied state reach the disk in the order in which they were handed in, and
//! whoever hands something in never waits for a disk unless it wants to.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures::channel::oneshot;
use tokio::sync::watch;

use crate::engine::{Batch, Durability, Engine, EngineError};

/// How many bytes are written together at most, beside the batch that goes over it.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// How many batches are written together at most.
const MAX_GROUP: usize = 1024;
/// How many bytes may wait before those who hand in more are made to wait as well.
pub(crate) const MAX_WAITING_BYTES: usize = 64 << 20;

/// Who does the blocking work of the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Threads of its own: production.
    Threads,
    /// Whoever asks for it, at once: simulation, where nothing may happen at a time of its own.
    Inline,
}

impl Work {
    /// Does blocking work. Fails if no thread can be had.
    pub(crate) async fn run<T: Send + 'static>(self, name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        match self {
            Self::Inline => Ok(work()),
            Self::Threads => {
                let (sender, receiver) = oneshot::channel();
                // Nobody may be left to hear the answer.
                thread::Builder::new().name(name.into()).spawn(move || drop(sender.send(work())))?;
                receiver.await.map_err(|_| io::Error::other(format!("the thread {name} ended without a result")))
            }
        }
    }
}

/// Why something was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// This write failed, or one before it.
    #[error("{0}; nothing more is written until the store is opened again")]
    Failed(EngineError),
    /// The store was closed.
    #[error("the store was closed")]
    Closed,
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        Self::other(error)
    }
}

type Done = Box<dyn FnOnce(Result<(), WriteError>) + Send>;

struct Job {
    batch: Batch,
    durability: Durability,
    done: Done,
}

/// The engine, for as long as something needs it.
#[derive(Debug)]
pub(crate) struct OpenEngine {
    engine: Arc<dyn Engine>,
    /// Dropped after the engine, so that it tells that the engine is closed.
    closed: watch::Sender<()>,
}

impl Deref for OpenEngine {
    type Target = dyn Engine;

    fn deref(&self) -> &Self::Target {
        self.engine.as_ref()
    }
}

#[derive(Debug)]
struct Shared {
    engine: Arc<OpenEngine>,
    waiting: AtomicUsize,
    /// After a failed write or sync nobody knows what is on disk.
    failed: OnceLock<EngineError>,
}

/// Tells when a store is closed. It holds nothing open.
#[derive(Debug, Clone)]
pub struct Closed(watch::Receiver<()>);

impl Closed {
    /// Waits until the last handle to any part of the store is gone, all of it is written and the engine is closed. A program
    /// that ends before that ends under the engine's own threads.
    pub async fn wait(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

impl Shared {
    fn write(&self, jobs: Vec<Job>) {
        let mut group = Batch::new();
        let mut durability = Durability::Buffered;
        let mut acknowledge = Vec::with_capacity(jobs.len());
        for job in jobs {
            durability = durability.max(job.durability);
            group.append(job.batch);
            acknowledge.push(job.done);
        }
        let bytes = group.bytes();
        let result = match self.failed.get() {
            Some(error) => Err(error.clone()),
            None => self.engine.write(group, durability),
        };
        if let Err(error) = &result {
            self.failed.get_or_init(|| {
                tracing::error!(%error, "the store stops");
                error.clone()
            });
        }
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        for done in acknowledge {
            done(result.clone().map_err(WriteError::Failed));
        }
    }

    fn run(&self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut bytes = first.batch.bytes();
            let mut group = vec![first];
            while bytes < MAX_GROUP_BYTES && group.len() < MAX_GROUP {
                let Ok(next) = jobs.try_recv() else { break };
                bytes += next.batch.bytes();
                group.push(next);
            }
            self.write(group);
        }
    }
}

/// How long the disk of a simulation takes for what it is given now.
pub(crate) type Pace = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What waits for a slow disk.
#[derive(Default)]
struct Late {
    jobs: Vec<Job>,
    /// Whether a task waits for the disk.
    awaited: bool,
}

enum Queue {
    /// The lock keeps the order.
    Inline {
        late: Arc<Mutex<Late>>,
        pace: Option<Pace>,
    },
    Thread {
        jobs: Option<Sender<Job>>,
        thread: Option<JoinHandle<()>>,
    },
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inline { .. } => "Inline",
            Self::Thread { .. } => "Thread",
        })
    }
}

/// Writes what waits for a slow disk, all of it together, until nothing does.
async fn write_late(shared: Arc<Shared>, late: Arc<Mutex<Late>>, pace: Pace) {
    loop {
        tokio::time::sleep(pace()).await;
        let mut late = late.lock().unwrap_or_else(PoisonError::into_inner);
        if late.jobs.is_empty() {
            late.awaited = false;
            return;
        }
        shared.write(std::mem::take(&mut late.jobs));
    }
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    queue: Queue,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Queue::Thread { jobs, thread } = &mut self.queue else { return };
        drop(jobs.take());
        // What waits is written before the last handle is gone, so that the store can be opened again. Not by the thread
        // itself, which may hold the last handle in an acknowledgement.
        if let Some(thread) = thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the writer of the store panicked");
        }
    }
}

/// Writes to an engine, in order. Clones are the same writer; the last to go waits until all is written.
#[derive(Debug, Clone)]
pub struct Writer {
    inner: Arc<Inner>,
}

impl Writer {
    /// The writer to this engine; an engine has one. Fails if no thread can be had.
    pub fn start(engine: Arc<dyn Engine>, work: Work) -> io::Result<Self> {
        let engine = Arc::new(OpenEngine { engine, closed: watch::Sender::new(()) });
        let shared = Arc::new(Shared { engine, waiting: AtomicUsize::new(0), failed: OnceLock::new() });
        let queue = match work {
            Work::Inline => Queue::Inline { late: Arc::default(), pace: None },
            Work::Threads => {
                let (sender, receiver) = channel();
                let mine = Arc::clone(&shared);
                let thread = thread::Builder::new().name("raft-writer".into()).spawn(move || mine.run(&receiver))?;
                Queue::Thread { jobs: Some(sender), thread: Some(thread) }
            }
        };
        Ok(Self { inner: Arc::new(Inner { shared, queue }) })
    }

    /// The writer to an engine that takes as long as `pace` says, if that is any time; then it needs tokio's runtime.
    pub(crate) fn start_paced(engine: Arc<dyn Engine>, pace: Pace) -> Self {
        let engine = Arc::new(OpenEngine { engine, closed: watch::Sender::new(()) });
        let shared = Arc::new(Shared { engine, waiting: AtomicUsize::new(0), failed: OnceLock::new() });
        let queue = Queue::Inline { late: Arc::default(), pace: Some(pace) };
        Self { inner: Arc::new(Inner { shared, queue }) }
    }

    /// Hands a batch in. `done` hears when it is as durable as asked, or why it never will be; batches are written, and
    /// `done` called, in the order of these calls.
    pub fn submit(&self, batch: Batch, durability: Durability, done: impl FnOnce(Result<(), WriteError>) + Send + 'static) {
        let shared = &self.inner.shared;
        shared.waiting.fetch_add(batch.bytes(), Ordering::Relaxed);
        let job = Job { batch, durability, done: Box::new(done) };
        match &self.inner.queue {
            Queue::Inline { late, pace } => {
                let mut waits = late.lock().unwrap_or_else(PoisonError::into_inner);
                let slow = pace.as_ref().filter(|pace| waits.awaited || !pace().is_zero());
                let Some(pace) = slow else { return shared.write(vec![job]) };
                waits.jobs.push(job);
                if !std::mem::replace(&mut waits.awaited, true) {
                    tokio::spawn(write_late(Arc::clone(shared), Arc::clone(late), Arc::clone(pace)));
                }
            }
            Queue::Thread { jobs, .. } => {
                let refused = match jobs {
                    Some(jobs) => jobs.send(job).err().map(|error| error.0),
                    None => Some(job),
                };
                if let Some(job) = refused {
                    (job.done)(Err(WriteError::Closed));
                }
            }
        }
    }

    /// Writes a batch and waits until it is as durable as asked.
    pub async fn write(&self, batch: Batch, durability: Durability) -> Result<(), WriteError> {
        self.ticket(batch, durability).await.unwrap_or(Err(WriteError::Closed))
    }

    /// Hands a batch in; what is returned resolves when it is as durable as asked.
    pub(crate) fn ticket(&self, batch: Batch, durability: Durability) -> oneshot::Receiver<Result<(), WriteError>> {
        let (sender, receiver) = oneshot::channel();
        self.submit(batch, durability, move |result| drop(sender.send(result)));
        receiver
    }

    /// Hands a batch in that need not be durable. An error shows at the next write that waits.
    pub(crate) async fn write_behind(&self, batch: Batch) -> Result<(), WriteError> {
        self.check()?;
        if self.is_full() {
            return self.write(batch, Durability::Buffered).await;
        }
        self.submit(batch, Durability::Buffered, |_| {});
        Ok(())
    }

    /// Whether so much waits to be written that those who write should wait.
    pub(crate) fn is_full(&self) -> bool {
        self.inner.shared.waiting.load(Ordering::Relaxed) > MAX_WAITING_BYTES
    }

    /// Fails if a write has failed.
    pub fn check(&self) -> Result<(), WriteError> {
        self.inner.shared.failed.get().map_or(Ok(()), |error| Err(WriteError::Failed(error.clone())))
    }

    /// Tells when the last handle is gone and the engine is closed.
    pub fn closed(&self) -> Closed {
        Closed(self.inner.shared.engine.closed.subscribe())
    }

    /// The engine, for reading.
    pub fn engine(&self) -> &dyn Engine {
        &**self.inner.shared.engine
    }

    /// The same, for who reads when the writer may be gone.
    pub(crate) fn keep_engine(&self) -> Arc<OpenEngine> {
        Arc::clone(&self.inner.shared.engine)
    }
}
