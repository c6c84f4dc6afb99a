//! `tribune recover --force-new-cluster`: a stopped voter or standby becomes the only voter of its cluster.

use std::collections::BTreeSet;
use std::path::PathBuf;

use tribune_keeper::Hold;
use tribune_master::store_blobs;
use tribune_p2p::Identity;
use tribune_p2p::blobs::BlobStore;
use tribune_raft_store::model::{ClusterId, NodeName, RaftRole, Span, Timestamp};
use tribune_raft_store::record::Record;

use super::found::{Founder, belief, found, next_epoch, time_of};
use crate::backup::make::incomplete;
use crate::belief::{Belief, BeliefKeeper, record_peer};
use crate::data::{DataFolder, replace_json};
use crate::error::NodeError;
use crate::node::check;
use crate::settings::Settings;
use crate::store::hash_of;
use crate::world::{OnDisk, Stores};

/// What `tribune recover` is asked for.
#[derive(Debug, Clone)]
pub struct RecoverOptions {
    /// The data folder of the stopped node.
    pub data: PathBuf,
    /// The file with an admin's key; none: the node's own key, where the record lets it act as an admin.
    pub key: Option<PathBuf>,
    /// How long nodes that have a master still believe the recovery.
    pub good_for: Span,
    /// The recovery epoch to begin; none: the next.
    pub epoch: Option<u64>,
}

/// What became of it, and what may be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The cluster.
    pub cluster: ClusterId,
    /// The only voter.
    pub node: NodeName,
    /// The recovery epoch that began.
    pub epoch: u64,
    /// Its Raft id from now on.
    pub raft_id: u64,
    /// The last log entry that is kept.
    pub index: u64,
    /// When the record was last written to, as far as it came here. What was acknowledged later is lost.
    pub last_written: Timestamp,
    /// How many of the last entries this node did not know to be acknowledged: they count from now on.
    pub unconfirmed: u64,
    /// The other voters and standbys of before. They are members now.
    pub others: BTreeSet<NodeName>,
    /// Packages, as `name version`, that lack modules in this node's package store.
    pub incomplete: BTreeSet<String>,
}

/// Makes a stopped node the only voter of its cluster. When this returns it can be run.
///
/// # Errors
/// The node runs, has no part in Raft, its store is damaged, or the key may not do it. Nothing was changed then, unless the disk failed:
/// the node stays out of Raft then, and the same may be asked for again.
pub async fn recover(options: RecoverOptions) -> Result<Recovered, NodeError> {
    recover_on(&OnDisk, options).await
}

/// The same, with Raft's store lying here.
///
/// # Errors
/// As [`recover`].
pub async fn recover_on(stores: &dyn Stores, options: RecoverOptions) -> Result<Recovered, NodeError> {
    let data = DataFolder::open(&options.data)?;
    let _hold = Hold::take(&data.keeper())?;
    let settings = Settings::load(&data)?;
    let identity = Identity::load(&data.identity())?;
    let believed = Belief::clone(&BeliefKeeper::open(&data)?.watch().borrow());
    check(&data, &settings, &identity, &believed)?;
    if believed.role() == RaftRole::Member {
        return Err(not_in_raft(&believed));
    }
    let mut store = stores.open_stopped(&data.raft())?;
    let before = store.at_end().record().clone();
    let cluster = before.cluster().ok_or_else(|| not_in_raft(&believed))?;
    if cluster.id != believed.view.cluster {
        return Err(NodeError::OtherCluster { folder: data.root().to_owned(), record: cluster.id, here: believed.view.cluster });
    }
    let own = before.nodes().get(&believed.name).filter(|node| node.peer == record_peer(&identity.peer_id()));
    let own = own.ok_or_else(|| {
        NodeError::Recovery(format!("the record in {} has no node {} with this identity", data.raft().display(), believed.name))
    })?;
    let signer = options.key.as_deref().map(Identity::load).transpose()?;
    let known = cluster.epoch.max(believed.view.epoch).max(believed.fence.epoch);
    let founder = Founder {
        cluster: cluster.id,
        name: &own.name,
        identity: &identity,
        control: own.facts.control_addresses.clone(),
        data: own.facts.data_addresses.clone(),
        signer: signer.as_ref().unwrap_or(&identity),
        good_for: options.good_for,
        epoch: next_epoch(options.epoch, known)?,
    };
    let signed = founder.sign(store.at_end())?;
    let (index, unconfirmed) = (store.at_end().last_index(), store.at_end().unconfirmed);
    let after = found(&data.raft(), &mut store, &signed)?;
    drop(store);
    replace_json(&data.cluster(), &belief(&own.name, &after)?)?;
    let others = before.nodes().values().filter(|node| node.raft != RaftRole::Member && node.name != own.name);
    Ok(Recovered {
        cluster: cluster.id,
        node: own.name.clone(),
        epoch: founder.epoch,
        raft_id: after.nodes().get(&own.name).and_then(|node| node.raft.raft_id()).unwrap_or_default(),
        index,
        last_written: time_of(&before),
        unconfirmed,
        others: others.map(|node| node.name.clone()).collect(),
        incomplete: without_modules(&data, &settings, &after).await?,
    })
}

pub(crate) fn not_in_raft(believed: &Belief) -> NodeError {
    let known = believed.view.nodes.iter().filter(|node| node.raft != RaftRole::Member);
    NodeError::NotInRaft { node: believed.name.clone(), known: known.map(|node| node.name.clone()).collect() }
}

/// The packages of a record of which the package store of this node lacks modules.
async fn without_modules(data: &DataFolder, settings: &Settings, record: &Record) -> Result<BTreeSet<String>, NodeError> {
    let failed = |error: tribune_p2p::blobs::BlobError| NodeError::Start { part: "the package store", why: error.to_string() };
    let blobs = BlobStore::open_with_reserve(data.packages(), settings.reserve()).await.map_err(failed)?;
    let mut there = BTreeSet::new();
    for signature in store_blobs(record).keys() {
        if blobs.contains(&hash_of(signature)).await.map_err(failed)? {
            there.insert(*signature);
        }
    }
    Ok(incomplete(record, |signature| there.contains(signature)))
}
