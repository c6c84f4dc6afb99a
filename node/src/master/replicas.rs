//! Keeps the package store whole on every voter and standby.
//!
//! One idea: one task for each of them, which asks it to have everything whenever there is something new, and now and then again; so one
//! that is slow or away delays no other. What a node is found to have is what it may be promoted on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};
use tribune_messages::store::{PeerRequest, PeerResponse};
use tribune_p2p::PeerId;
use tribune_raft_store::model::{self, NodeName, Signature};
use tribune_raft_store::record::Record;

use super::reign::Reign;
use super::to_peer;
use crate::store::Held;

/// How long one call may fetch; what is not there by then is asked for again.
pub(super) const KEEP_WITHIN: Duration = Duration::from_secs(600);
/// The most nodes that are asked for a blob while no other is in Raft.
const MOST_SOURCES: usize = 32;
/// How long a call without fetching may take.
const ASK_WITHIN: Duration = Duration::from_secs(30);
/// How often a store that was whole is looked at again.
const REPAIR_EVERY: Duration = Duration::from_secs(60);
/// How often what nobody needs is cleared away.
const CLEAR_EVERY: Duration = Duration::from_secs(600);
/// The pauses after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Keeps a task for each voter and standby, for as long as the reign lasts.
pub(super) async fn keep_replicas(reign: Arc<Reign>) {
    let mut published = reign.published.clone();
    let mut tasks: HashMap<(NodeName, model::PeerId), AbortOnDropHandle<()>> = HashMap::new();
    loop {
        let seen = published.borrow_and_update().clone();
        let wanted = members(seen.record());
        tasks.retain(|key, _| wanted.contains_key(key));
        let names = |name: &NodeName| wanted.keys().any(|(wanted, _)| wanted == name);
        reign.replicas.send_if_modified(|replicas| {
            let before = replicas.len();
            replicas.retain(|name, _| names(name));
            replicas.len() != before
        });
        for (key, peer) in wanted {
            tasks.entry(key).or_insert_with_key(|(name, _)| {
                AbortOnDropHandle::new(tokio::spawn(keep_replica(reign.clone(), name.clone(), peer)))
            });
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}

/// The voters and standbys.
fn members(record: &Record) -> BTreeMap<(NodeName, model::PeerId), PeerId> {
    let members = record.nodes().values().filter(|node| node.raft.raft_id().is_some());
    members.filter_map(|node| Some(((node.name.clone(), node.peer.clone()), to_peer(&node.peer)?))).collect()
}

async fn keep_replica(reign: Arc<Reign>, name: NodeName, peer: PeerId) {
    let mut published = reign.published.clone();
    let mut present = reign.liveness.subscribe();
    let mut pause = FIRST_PAUSE;
    let mut cleared: Option<Instant> = None;
    // There is something to clear away no sooner than it may be forgotten.
    let kept_for = reign.store.kept_for();
    let (clear_every, repair_every) = (CLEAR_EVERY.min(kept_for), REPAIR_EVERY.min(kept_for));
    loop {
        let seen = published.borrow_and_update().clone();
        let was_here = present.borrow_and_update().is_connected(&name);
        let rest = match reign.keep(&name, peer, &seen.blobs).await {
            Ok(held) if held.failed.is_empty() => {
                reign.note_replica(&name, &seen.blobs);
                if cleared.is_none_or(|cleared| cleared.elapsed() >= clear_every) {
                    cleared = Some(Instant::now());
                    reign.clear(&name, peer).await;
                }
                pause = FIRST_PAUSE;
                repair_every
            }
            result => {
                match result {
                    Ok(held) => {
                        let why = held.failed.values().next();
                        warn!(node = %name, lacks = held.failed.len(), why, "a package store is not whole; it is tried again");
                    }
                    Err(why) => debug!(node = %name, why, "a package store cannot be asked; it is tried again"),
                }
                let now = pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
                now
            }
        };
        let something_new = async {
            // An error says that the reign ends, which ends this task as well.
            let _ = published.wait_for(|now| !Arc::ptr_eq(&now.blobs, &seen.blobs)).await;
        };
        let came = async {
            if was_here {
                return std::future::pending().await;
            }
            let _ = present.wait_for(|liveness| liveness.is_connected(&name)).await;
        };
        tokio::select! {
            () = reign.over.cancelled() => return,
            () = something_new => {}
            () = came => {}
            () = sleep(rest) => {}
        }
    }
}

impl Reign {
    /// Has a node keep these blobs; the master's own fetches what it lacks from the others.
    pub(super) async fn keep(&self, name: &NodeName, peer: PeerId, blobs: &BTreeMap<Signature, u64>) -> Result<Held, String> {
        if *name == self.name {
            return Ok(self.store.keep(blobs, &self.other_stores()).await);
        }
        let keep = PeerRequest::Keep { blobs: blobs.clone() };
        match self.peers.call(peer, &keep, KEEP_WITHIN).await {
            Ok(PeerResponse::Held { blobs, failed }) => Ok(Held { blobs, failed }),
            Ok(PeerResponse::Refused { why }) => Err(why),
            Ok(_) => Err("it answered something else: its version of Tribune differs".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Where the master gets what it lacks: the other voters and standbys, and while there are none, as after a recovery, nodes that
    /// were some, or have installed it.
    pub(super) fn other_stores(&self) -> Vec<PeerId> {
        let applied = self.applied();
        let others = members(&applied.state).into_iter();
        let others: Vec<PeerId> = others.filter(|((name, _), _)| *name != self.name).map(|(_, peer)| peer).collect();
        if !others.is_empty() {
            return others;
        }
        let liveness = self.liveness.borrow();
        let there = applied.state.nodes().values().filter(|node| node.name != self.name && liveness.is_connected(&node.name));
        there.filter_map(|node| to_peer(&node.peer)).take(MOST_SOURCES).collect()
    }

    fn note_replica(&self, name: &NodeName, blobs: &Arc<BTreeMap<Signature, u64>>) {
        self.replicas.send_if_modified(|replicas| {
            let before = replicas.insert(name.clone(), blobs.clone());
            !before.is_some_and(|before| Arc::ptr_eq(&before, blobs))
        });
    }

    /// Has a node forget what no package of the record needs. What it was asked to keep not long ago, it keeps.
    async fn clear(&self, name: &NodeName, peer: PeerId) {
        if let Err(why) = self.try_clear(name, peer).await {
            debug!(node = %name, why, "a package store could not be cleared of what nobody needs");
        }
    }

    async fn try_clear(&self, name: &NodeName, peer: PeerId) -> Result<(), String> {
        let mine = *name == self.name;
        if mine {
            self.store.forget_old_manifests().await.map_err(|error| error.to_string())?;
        }
        let held = if mine {
            self.store.held().await.map_err(|error| error.to_string())?.blobs
        } else {
            match self.peers.call(peer, &PeerRequest::Held, ASK_WITHIN).await {
                Ok(PeerResponse::Held { blobs, .. }) => blobs,
                Ok(other) => return Err(format!("it answered {other:?}")),
                Err(error) => return Err(error.to_string()),
            }
        };
        let read = self.raft.read().await.map_err(|error| error.to_string())?;
        let needed = tribune_master::store_blobs(&read.state);
        let blobs: Vec<Signature> = held.into_keys().filter(|blob| !needed.contains_key(blob)).collect();
        if blobs.is_empty() {
            return Ok(());
        }
        info!(node = %name, blobs = blobs.len(), "blobs that no package needs are cleared away");
        if mine {
            return self.store.forget(&blobs).await.map_err(|error| error.to_string());
        }
        match self.peers.call(peer, &PeerRequest::Forget { blobs }, ASK_WITHIN).await {
            Ok(PeerResponse::Done) => Ok(()),
            Ok(other) => Err(format!("it answered {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }
}
