//! A recovery is shown to every node that is not with the master: it may still follow the cluster of before.

use std::collections::HashSet;
use std::sync::Arc;

use tribune_p2p::{Network, PeerId};

use super::reign::Reign;
use super::to_peer;
use crate::recovery::shown::show;

/// Shows the recovery with which the present epoch began, if one did, for as long as the reign lasts.
pub(super) async fn show_recovery(reign: Arc<Reign>, control: Network) {
    let recovery = reign.applied().state.cluster().and_then(|cluster| cluster.recovery.clone());
    if let Some(recovery) = recovery {
        let of = reign.clone();
        tokio::select! {
            () = show(control, recovery, move || missed(&of)) => {}
            () = reign.over.cancelled() => {}
        }
    }
    // A cluster is recovered only while it does not run.
    reign.over.cancelled().await;
}

/// The nodes that are not connected.
fn missed(reign: &Reign) -> HashSet<PeerId> {
    let applied = reign.applied();
    let liveness = reign.liveness.borrow();
    let away = applied.state.nodes().values().filter(|node| !liveness.is_connected(&node.name) && node.name != reign.name);
    away.filter_map(|node| to_peer(&node.peer)).collect()
}
