//! Copies of nodes that the master's network turned away: each is an event, so that users hear of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;
use tribune_p2p::network::CopySeen;
use tribune_raft_store::command::MasterCommand;
use tribune_raft_store::model::NodeName;

use super::reign::Reign;
use super::sessions::name_of;

/// A copy tries again and again; it is noted so often.
const NOTED_EVERY: Duration = Duration::from_secs(600);

/// Notes copies, for as long as the reign lasts.
pub(super) async fn note_copies(reign: Arc<Reign>, mut copies: watch::Receiver<(u64, Option<CopySeen>)>) {
    let mut noted: HashMap<NodeName, Instant> = HashMap::new();
    while copies.changed().await.is_ok() {
        let Some(CopySeen { peer, from }) = copies.borrow_and_update().1.clone() else { continue };
        let Some(node) = name_of(&reign.applied().state, &peer) else { continue };
        if noted.get(&node).is_some_and(|at| at.elapsed() < NOTED_EVERY) {
            continue;
        }
        warn!(%node, %peer, %from, "a second node with the identity of one that is connected was turned away");
        match reign.propose(MasterCommand::CloneRefused { node: node.clone(), from: from.to_string() }).await {
            Ok(_) => drop(noted.insert(node, Instant::now())),
            // It comes again.
            Err(error) => warn!(%node, %error, "that it was turned away is not in the record yet"),
        }
    }
    // The network has ended, and with it, soon, the reign.
    reign.over.cancelled().await;
}
