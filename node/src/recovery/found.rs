//! What a stopped node's store becomes by a recovery: the cluster, with this node as its only voter.
//!
//! One idea: three things are written, and a node that finds only some of them stays out of Raft: first for which Raft id the store
//! is, then the store, last whom the node believes. The same command again goes on from any of them.

use std::path::Path;

use tribune_messages::node::Fence;
use tribune_p2p::Identity;
use tribune_raft_store::model::{
    ClusterId, MAX_EPOCH, NodeName, OnlyVoter, PublicKey, Recovery, SignedRecovery, Span, Timestamp, raft_id,
};
use tribune_raft_store::record::Record;
use tribune_raft_store::stopped::{AtEnd, StoppedStore};

use super::shown::now;
use crate::belief::{Belief, record_peer};
use crate::error::NodeError;
use crate::master::view;
use crate::seat::give_to;

/// The node that becomes the only voter, and who says so.
pub(crate) struct Founder<'a> {
    pub(crate) cluster: ClusterId,
    pub(crate) name: &'a NodeName,
    pub(crate) identity: &'a Identity,
    /// Where its control network listens, as multiaddresses.
    pub(crate) control: Vec<String>,
    /// Where its data network listens.
    pub(crate) data: Vec<String>,
    /// The admin's key; the node's own where the record lets it act as one.
    pub(crate) signer: &'a Identity,
    /// How long the recovery is good for nodes that have a master.
    pub(crate) good_for: Span,
    pub(crate) epoch: u64,
}

impl Founder<'_> {
    /// Signs that this node alone is the cluster, after what this store holds.
    pub(crate) fn sign(&self, at_end: &AtEnd) -> Result<SignedRecovery, NodeError> {
        let voter = OnlyVoter {
            name: self.name.clone(),
            peer: record_peer(&self.identity.peer_id()),
            key: PublicKey::new(self.identity.public_key()),
            raft_id: raft_id(self.epoch, at_end.recovery_index()),
            control: self.control.clone(),
            data: self.data.clone(),
        };
        let signed_at = now();
        let expires = signed_at.after(self.good_for);
        let recovery = Recovery { cluster: self.cluster, epoch: self.epoch, voter, signed_at, expires };
        let signed = recovery.sign(PublicKey::new(self.signer.public_key()), |bytes| self.signer.sign(bytes));
        signed.map_err(|error| NodeError::Recovery(error.to_string()))
    }
}

/// The epoch that begins: the one that was asked for, or the next after all that are known.
pub(crate) fn next_epoch(asked: Option<u64>, known: u64) -> Result<u64, NodeError> {
    let next = known + 1;
    let epoch = asked.unwrap_or(next);
    if (next..=MAX_EPOCH).contains(&epoch) {
        return Ok(epoch);
    }
    Err(NodeError::Recovery(format!(
        "the cluster was at recovery epoch {known} here: use {next} to {MAX_EPOCH}, and not {epoch}"
    )))
}

/// Checks that the record allows a recovery, and writes it: the store in this folder is that of the only voter from then on.
pub(crate) fn found(folder: &Path, store: &mut StoppedStore, signed: &SignedRecovery) -> Result<Record, NodeError> {
    let time = now();
    store.recovered(signed, time)?;
    let recovery = signed.open().map_err(|error| NodeError::Recovery(error.to_string()))?;
    give_to(folder, recovery.voter.raft_id)?;
    store.lead_alone(signed, time)?;
    Ok(store.at_end().record().clone())
}

/// What the only voter believes.
pub(crate) fn belief(name: &NodeName, record: &Record) -> Result<Belief, NodeError> {
    let view = view(record).ok_or_else(|| NodeError::Recovery("the record has no cluster".into()))?;
    let fence = Fence { epoch: view.epoch, term: 0, sequence: 0 };
    Ok(Belief { fence, ..Belief::first(name.clone(), view) })
}

/// Record time: when the record that goes on was last written to.
pub(crate) fn time_of(record: &Record) -> Timestamp {
    record.cluster().map(|cluster| cluster.time).unwrap_or_default()
}
