//! Whether this node is a copy of another's disk: peers say so, which are connected with another process that has its identity.
//!
//! A copy takes no part in Raft. It goes on looking for the cluster, so that it is let in as soon as the other process is gone.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tribune_p2p::PeerId;
use tribune_raft_store::model::NodeName;

use crate::problems::Problems;

/// So long after a peer last said so, the node counts as a copy. Meanwhile it asks several times.
const HOLDS_FOR: Duration = Duration::from_secs(15);
const PROBLEM: &str = "identity";

/// Whether this node is one of two with its identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Copied {
    /// As far as is known it is the only one.
    #[default]
    No,
    /// Another was there first, and answers.
    Yes,
}

/// Follows what peers say of this node, until the network ends.
pub(crate) async fn follow(
    mut turned_away: watch::Receiver<Option<(PeerId, Instant)>>,
    name: NodeName,
    problems: Problems,
    to: watch::Sender<Copied>,
) {
    while turned_away.changed().await.is_ok() {
        to.send_replace(Copied::Yes);
        problems.set(
            PROBLEM,
            format!(
                "another machine with this node's identity is connected to the cluster, so this one is not let in: its data folder is a copy. \
                 Join with an empty data folder under another name, or in the place of {name} with `tribune join --replace {name}`"
            ),
        );
        while let Ok(Ok(())) = timeout(HOLDS_FOR, turned_away.changed()).await {}
        problems.clear(PROBLEM);
        to.send_replace(Copied::No);
    }
}
