//! The replicated state: applies what is committed, publishes the result, restores it.
//!
//! One idea: the state lives in memory, where readers get it whole and at once; on disk are its rows, written behind, and
//! always together with the entry they are the state of. What a crash loses of them is in the log, which is synced.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::AsyncRuntime;
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::watch;

use crate::engine::{Batch, Engine, Family, KeyRange, Order};
use crate::raft_types::{LogEntry, LogId, Replicated, SnapshotMeta, StoredMembership, TokioRuntime, TypeConfig};
use crate::record::{LogPlace, Record};
use crate::snapshot::{Purpose, Snapshot, SnapshotError, SnapshotFile, Snapshots};
use crate::store::StoreError;
use crate::stored::{StoredPosition, decode, encode};
use crate::writer::Writer;

const POSITION: &[u8] = b"position";
/// The first key that no row has.
const AFTER_ROWS: [u8; 1] = [255];
/// How many entries are applied before the result is written and published.
const APPLIED_AT_ONCE: usize = 64;

/// The state after some entry.
#[derive(Debug, Clone, Default)]
pub struct Applied<S> {
    /// The state.
    pub state: S,
    /// The last entry in it.
    pub last_applied: Option<LogId>,
    /// Who was in Raft then.
    pub membership: StoredMembership,
}

impl<S> Applied<S> {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() }
    }

    pub(crate) fn position(&self) -> StoredPosition {
        StoredPosition::new(self.last_applied.as_ref(), &self.membership)
    }
}

impl<S: Replicated> Applied<S> {
    /// Applies the next entry.
    pub(crate) fn apply(&mut self, entry: &LogEntry<S>) -> Result<S::Response, io::Error> {
        let id = &entry.log_id;
        if let Some(last) = &self.last_applied
            && id.index <= last.index
        {
            return Err(io::Error::other(format!("log entry {id} was to be applied after {last}")));
        }
        let response = match &entry.payload {
            EntryPayload::Blank => S::blank(),
            EntryPayload::Normal(command) => {
                let membership = self.membership.log_id().as_ref().map_or(0, |at| at.index);
                self.state.apply(LogPlace { index: id.index, membership }, command)
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(*id), membership.clone());
                S::blank()
            }
        };
        self.last_applied = Some(*id);
        Ok(response)
    }
}

/// Where the state is read after each batch of applied entries.
type Published<S> = watch::Receiver<Arc<Applied<S>>>;

/// The state machine that Raft drives.
#[derive(Debug)]
pub struct Machine<S: Replicated = Record, RT = TokioRuntime> {
    now: Applied<S>,
    publish: watch::Sender<Arc<Applied<S>>>,
    writer: Writer,
    snapshots: Snapshots,
    runtime: PhantomData<fn() -> RT>,
}

impl<S: Replicated, RT: AsyncRuntime> Machine<S, RT> {
    /// Reads the state back. Also gives where each new state is published.
    pub(crate) fn open(writer: Writer, snapshots: Snapshots) -> Result<(Self, Published<S>), StoreError> {
        let now = read_state::<S>(writer.engine())?;
        let (publish, published) = watch::channel(Arc::new(now.clone()));
        Ok((Self { now, publish, writer, snapshots, runtime: PhantomData }, published))
    }

    /// Writes what changed, publishes the state, answers those who wait.
    async fn settle(&mut self, answers: &mut Vec<Answer<S, RT>>) -> Result<(), io::Error> {
        let mut batch = Batch::new();
        for change in self.now.state.take_changes() {
            check_key(&change.key)?;
            match change.value {
                Some(value) => batch.put(Family::State, change.key, value),
                None => batch.delete(Family::State, change.key),
            }
        }
        put_position(&mut batch, &self.now.position())?;
        self.writer.write_behind(batch).await?;
        self.publish.send_replace(Arc::new(self.now.clone()));
        for (responder, response) in answers.drain(..) {
            responder.send(response);
        }
        Ok(())
    }

    async fn install(&mut self, meta: &SnapshotMeta, file: SnapshotFile) -> Result<(), StoreError> {
        if meta.last_log_id < self.now.last_applied {
            return Err(SnapshotError::Outdated { file: format!("of {:?}", meta.last_log_id) }.into());
        }
        let (snapshots, what) = (self.snapshots.clone(), meta.clone());
        let read = move || snapshots.read_state::<S>(file, &what);
        let restored = self.snapshots.work().run("raft-install", read).await.map_err(SnapshotError::Thread)??;
        let now = Applied { state: restored.state, last_applied: meta.last_log_id, membership: meta.last_membership.clone() };
        let mut batch = Batch::new();
        batch.delete_range(Family::State, [], AFTER_ROWS);
        batch.append(restored.rows);
        put_position(&mut batch, &now.position())?;
        let snapshot = Snapshot { meta: meta.clone(), snapshot: restored.file };
        self.snapshots.publish(snapshot, batch, Purpose::Install).await?;
        self.now = now;
        self.publish.send_replace(Arc::new(self.now.clone()));
        Ok(())
    }
}

type Answer<S, RT> = (ApplyResponder<TypeConfig<S, RT>>, <S as Replicated>::Response);

fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if key.is_empty() || key >= AFTER_ROWS.as_slice() { Err(StoreError::RowKey) } else { Ok(()) }
}

pub(crate) fn put_position(batch: &mut Batch, position: &StoredPosition) -> Result<(), StoreError> {
    batch.put(Family::StateMeta, POSITION, encode(position)?);
    Ok(())
}

pub(crate) fn read_state<S: Replicated>(engine: &dyn Engine) -> Result<Applied<S>, StoreError> {
    let Some(bytes) = engine.get(Family::StateMeta, POSITION)? else { return Ok(Applied::default()) };
    let unreadable = |why| StoreError::Value { what: "position".into(), why };
    let (last_applied, membership) = decode::<StoredPosition>(&bytes).and_then(StoredPosition::read).map_err(unreadable)?;
    let mut bad = None;
    let mut rows = engine.scan(Family::State, KeyRange::all(), Order::Ascending);
    let state = S::from_entries(std::iter::from_fn(|| match rows.next()? {
        Ok(row) => Some(row),
        Err(error) => {
            bad = Some(error);
            None
        }
    }));
    if let Some(error) = bad {
        return Err(error.into());
    }
    Ok(Applied { state: state?, last_applied, membership })
}

impl<S: Replicated, RT: AsyncRuntime> RaftStateMachine<TypeConfig<S, RT>> for Machine<S, RT> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder<S>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.now.last_applied, self.now.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig<S, RT>>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        let mut unsettled = 0;
        // An entry that cannot be read, because this build does not know its command, ends it: what was before it is
        // settled, and Raft stops.
        let result = loop {
            let applied = match entries.next().await {
                None => break Ok(()),
                Some(Err(error)) => Err(error),
                Some(Ok((entry, responder))) => {
                    self.now.apply(&entry).map(|response| answers.extend(responder.zip(Some(response))))
                }
            };
            if let Err(error) = applied {
                break Err(error);
            }
            unsettled += 1;
            if unsettled == APPLIED_AT_ONCE {
                self.settle(&mut answers).await?;
                unsettled = 0;
            }
        };
        if unsettled > 0 {
            self.settle(&mut answers).await?;
        }
        result
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder<S> {
        SnapshotBuilder { applied: Arc::new(self.now.clone()), snapshots: self.snapshots.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        Ok(self.install(meta, snapshot).await?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshots.current())
    }
}

/// Builds a snapshot of the state as it was when the builder was made.
#[derive(Debug)]
pub struct SnapshotBuilder<S> {
    applied: Arc<Applied<S>>,
    snapshots: Snapshots,
}

impl<S: Replicated> SnapshotBuilder<S> {
    async fn build(&self) -> Result<Snapshot, SnapshotError> {
        let meta = self.applied.meta();
        if let Some(current) = self.snapshots.current()
            && current.meta.last_log_id == meta.last_log_id
        {
            return Ok(current);
        }
        let (snapshots, applied) = (self.snapshots.clone(), Arc::clone(&self.applied));
        let write = move || snapshots.write_state(&applied.state, &applied.meta());
        let file = self.snapshots.work().run("raft-snapshot", write).await.map_err(SnapshotError::Thread)??;
        // By the time it is the current one, the state that it is of is on disk as well: it went to the writer before.
        self.snapshots.publish(Snapshot { meta, snapshot: file }, Batch::new(), Purpose::Replace).await
    }
}

impl<S: Replicated, RT: AsyncRuntime> RaftSnapshotBuilder<TypeConfig<S, RT>> for SnapshotBuilder<S> {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        Ok(self.build().await?)
    }
}
