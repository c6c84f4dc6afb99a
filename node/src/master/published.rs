//! The record as the tasks of a reign see it: with what many of them need, worked out once.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;
use tribune_master::store_blobs;
use tribune_messages::trust::ClusterView;
use tribune_raft_store::machine::Applied;
use tribune_raft_store::model::{Signature, UpdateId};
use tribune_raft_store::record::Record;

use super::view;

/// The record after some entry, and what follows from it.
#[derive(Debug, Clone)]
pub(super) struct Published {
    applied: Arc<Applied<Record>>,
    /// Who is in the cluster. The same pointer while it has not changed.
    pub view: Option<Arc<ClusterView>>,
    /// What every package store must hold. The same pointer while it has not changed.
    pub blobs: Arc<BTreeMap<Signature, u64>>,
    /// At which log index each update last changed; those that are missing have not since this began.
    changed: BTreeMap<UpdateId, u64>,
    began: u64,
}

impl Published {
    pub(super) fn first(applied: Arc<Applied<Record>>) -> Self {
        let record = &applied.state;
        let (view, blobs) = (view(record).map(Arc::new), Arc::new(store_blobs(record)));
        let began = index_of(&applied);
        Self { applied, view, blobs, changed: BTreeMap::new(), began }
    }

    fn next(&self, applied: Arc<Applied<Record>>) -> Self {
        let (old, new) = (self.record(), &applied.state);
        let view = view(new);
        let view = if view.as_ref() == self.view.as_deref() { self.view.clone() } else { view.map(Arc::new) };
        // A package never changes: it comes or goes.
        let same = old.packages().iter().map(|(id, _)| id).eq(new.packages().iter().map(|(id, _)| id));
        let blobs = if same { self.blobs.clone() } else { Arc::new(store_blobs(new)) };
        let mut changed = self.changed.clone();
        changed.retain(|id, _| new.updates().contains(id));
        let index = index_of(&applied);
        for (id, update) in new.updates().iter() {
            // A row that has not changed is the same one: that is cheaper to see than that it is equal.
            if !old.updates().get(id).is_some_and(|before| std::ptr::eq(before, update)) {
                changed.insert(*id, index);
            }
        }
        Self { applied, view, blobs, changed, began: self.began }
    }

    pub(super) fn record(&self) -> &Record {
        &self.applied.state
    }

    /// The log index of the last entry in the record.
    pub(super) fn index(&self) -> u64 {
        index_of(&self.applied)
    }

    /// Whether an update may have changed after this log index.
    pub(super) fn changed_after(&self, update: UpdateId, index: u64) -> bool {
        self.changed.get(&update).copied().unwrap_or(self.began) > index
    }
}

pub(super) fn index_of(applied: &Applied<Record>) -> u64 {
    applied.last_applied.as_ref().map_or(0, |last| last.index)
}

/// Publishes the record after every change, and tells operators what happened.
pub(super) async fn publish(mut applied: watch::Receiver<Arc<Applied<Record>>>, to: watch::Sender<Arc<Published>>) {
    loop {
        let now = applied.borrow_and_update().clone();
        let before = to.borrow().clone();
        if index_of(&now) > before.index() {
            tell(before.record(), &now.state);
            to.send_replace(Arc::new(before.next(now)));
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// Writes what happened to the log, for operators.
fn tell(before: &Record, now: &Record) {
    let last = before.cluster().map_or(0, |cluster| cluster.next_event);
    for event in now.events().values().rev().take_while(|event| event.seq >= last).collect::<Vec<_>>().into_iter().rev() {
        let update = event.update.map(tracing::field::display);
        let node = event.node.as_ref().map(tracing::field::display);
        info!(event = event.seq, update, node, "{}", event.text);
    }
}
