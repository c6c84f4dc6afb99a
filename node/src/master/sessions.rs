//! The nodes' sessions: who may speak for which node, and one seat for each node.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use tribune_messages::node::FromMaster;
use tribune_p2p::network::{Arrival, Incoming};
use tribune_p2p::{Channel, ChannelError, PeerId};
use tribune_raft_store::model::NodeName;
use tribune_raft_store::record::Record;

use super::from_peer;
use super::reign::Reign;
use super::session;

/// A node's place: it has one session at a time.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    /// Set when a newer session takes the place.
    replaced: CancellationToken,
}

/// Takes sessions as they come.
pub(super) async fn accept(mut incoming: Incoming, reign: watch::Receiver<Option<Arc<Reign>>>, stop: CancellationToken) {
    loop {
        let arrival = tokio::select! {
            () = stop.cancelled() => return,
            arrival = incoming.next() => arrival,
        };
        let Some(Arrival { peer, channel, .. }) = arrival else { return };
        let reign = reign.borrow().clone();
        tokio::spawn(admit(reign, peer, channel));
    }
}

/// Serves a session until it ends, or says at once that this node is not the master.
pub(super) async fn admit(reign: Option<Arc<Reign>>, peer: PeerId, channel: Channel) {
    let ended = match reign {
        None => say_over(channel).await,
        Some(reign) => attend(reign, peer, channel).await,
    };
    if let Err(error) = ended {
        debug!(%peer, %error, "a session broke");
    }
}

pub(super) async fn say_over(mut channel: Channel) -> Result<(), ChannelError> {
    channel.send(&FromMaster::Over).await?;
    channel.finish().await
}

async fn attend(reign: Arc<Reign>, peer: PeerId, channel: Channel) -> Result<(), ChannelError> {
    // Only the node whose key the connection was made with may speak for it.
    let Some(name) = name_of(&reign.applied().state, &peer) else {
        warn!(%peer, "a peer that is no node of the record wants a session");
        return channel.finish().await;
    };
    let taken = Taken::new(reign.clone(), name.clone());
    info!(node = %name, "a node is here");
    let ended = session::serve(&reign, &name, from_peer(&peer), channel, &taken.replaced).await;
    let why = ended.as_ref().err().map(tracing::field::display);
    info!(node = %name, why, "a node's session ended");
    ended
}

/// The node that has this identity.
pub(super) fn name_of(record: &Record, peer: &PeerId) -> Option<NodeName> {
    let peer = from_peer(peer);
    record.nodes().values().find(|node| node.peer == peer).map(|node| node.name.clone())
}

/// A seat that is taken. When it is dropped, the node is gone, unless a newer session has the seat.
struct Taken {
    reign: Arc<Reign>,
    name: NodeName,
    replaced: CancellationToken,
}

impl Taken {
    fn new(reign: Arc<Reign>, name: NodeName) -> Self {
        let replaced = CancellationToken::new();
        let before = seats(&reign).insert(name.clone(), Seat { replaced: replaced.clone() });
        if let Some(before) = before {
            before.replaced.cancel();
        }
        Self { reign, name, replaced }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut seats = seats(&self.reign);
        if self.replaced.is_cancelled() {
            return;
        }
        seats.remove(&self.name);
        let now = self.reign.now();
        self.reign.liveness.send_modify(|liveness| {
            if self.name == self.reign.name {
                // The master's own node is there, but its agent keeps nothing ready.
                liveness.heard(&self.name, now, &Default::default());
            } else {
                liveness.gone(&self.name, now);
            }
        });
    }
}

fn seats(reign: &Reign) -> MutexGuard<'_, HashMap<NodeName, Seat>> {
    reign.seats.lock().unwrap_or_else(PoisonError::into_inner)
}
