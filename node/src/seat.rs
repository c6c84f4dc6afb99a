//! A node's seat in Raft: while the cluster has it as voter or standby, it takes part in Raft and can be the master.
//!
//! One task owns the seat. It takes it when the view gives it to the node, leaves it when the view takes it away, and takes it anew when Raft
//! has stopped because its disk failed: on a full disk once there is room, and never with a damaged store. Of that the master is told, which
//! takes the node out of Raft and in again with a new one.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tribune_p2p::rpc::RpcClient;
use tribune_p2p::{Channel, PeerId};
use tribune_raft_store::command::{Birth, Body, MasterCommand, Rejection};

use crate::belief::{Belief, record_peer};
use crate::copied::Copied;
use crate::data::{DataFolder, read_json, remove_file, replace_file};
use crate::error::{NodeError, file_error};
use crate::init::FIRST_RAFT_ID;
use crate::listen::Networks;
use crate::master::{Master, Parts, SESSION_LIMITS};
use crate::problems::Problems;
use crate::raft::{RaftError, RaftNode, RaftRuntime, RaftSettings};
use crate::store::PackageStore;

/// Says for which Raft id the folder of Raft is.
const ID_FILE: &str = "raft-id";
/// How long after a failure Raft is started again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How often a full disk is looked at.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);
/// How long after a failed try the cluster is made again.
const BIRTH_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Bytes of a session with oneself that wait to be read.
const OWN_SESSION: usize = 256 * 1024;
const PROBLEM: &str = "raft";

/// A node's part in Raft, and the master that it may be.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) raft: RaftNode,
    pub(crate) master: Master,
}

impl Seat {
    /// Opens the node's session with itself as master.
    pub(crate) fn attend(&self, me: PeerId) -> Channel {
        let (ours, theirs) = tokio::io::duplex(OWN_SESSION);
        self.master.attach(me, Channel::new(theirs, SESSION_LIMITS));
        Channel::new(ours, SESSION_LIMITS)
    }
}

/// The owner of the seat.
pub(crate) struct SeatKeeper {
    pub(crate) me: PeerId,
    pub(crate) data: DataFolder,
    pub(crate) networks: Networks,
    pub(crate) runtime: RaftRuntime,
    pub(crate) raft_settings: RaftSettings,
    pub(crate) peers: RpcClient,
    pub(crate) store: PackageStore,
    pub(crate) belief: watch::Receiver<Arc<Belief>>,
    pub(crate) seat: watch::Sender<Option<Seat>>,
    /// The Raft id whose store is damaged here.
    pub(crate) broken: watch::Sender<Option<u64>>,
    pub(crate) problems: Problems,
    pub(crate) copied: watch::Receiver<Copied>,
}

/// Why a seat was left.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Left {
    /// The view gives the node another one, or none.
    Moved,
    /// The node is a copy of another, which has the seat.
    Copied,
    /// Raft failed.
    Failed(String),
    /// The node stops.
    Stop,
}

impl SeatKeeper {
    /// Keeps the seat until the node stops: then the mastership is handed over first.
    ///
    /// # Errors
    /// The folder holds the record of another cluster: the node cannot go on.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), NodeError> {
        while !stop.is_cancelled() {
            let belief = self.belief.borrow_and_update().clone();
            let copied = *self.copied.borrow_and_update() == Copied::Yes;
            let Some(raft_id) = belief.role().raft_id().filter(|_| !copied) else {
                self.problems.clear(PROBLEM);
                self.wait_for(None, &stop).await;
                continue;
            };
            match self.sit(raft_id, &belief).await {
                Ok((seat, birth)) => {
                    self.problems.clear(PROBLEM);
                    tracing::info!(raft_id, "this node takes part in Raft");
                    self.seat.send_replace(Some(seat.clone()));
                    let left = self.stay(&seat, raft_id, &stop).await;
                    drop(birth);
                    self.leave(seat, &left).await;
                    if let Left::Failed(why) = left {
                        self.recover(why, raft_id, &stop).await;
                    }
                }
                Err(fatal @ NodeError::OtherCluster { .. }) => return Err(fatal),
                Err(NodeError::DamagedRaft(why)) => self.stay_out(&why, raft_id, &stop).await,
                Err(error) => self.recover(error.to_string(), raft_id, &stop).await,
            }
        }
        Ok(())
    }

    /// Waits until Raft may be begun again: for a while, or until the disk has room.
    async fn recover(&mut self, why: String, raft_id: u64, stop: &CancellationToken) {
        let folder = self.data.raft();
        let full = || crate::disk::look(&folder).ok()?.err();
        if full().is_none() {
            self.problems.set(PROBLEM, why);
            return self.wait_for(Some(AGAIN_AFTER), stop).await;
        }
        tracing::error!(why, "Raft needs room on the disk");
        while let Some(full) = full().filter(|_| !stop.is_cancelled() && self.is_seated(raft_id)) {
            self.problems.set(PROBLEM, full.to_string());
            self.wait_for(Some(LOOK_FOR_ROOM), stop).await;
        }
    }

    /// With a damaged store the node stays out of Raft until the master has taken it out.
    async fn stay_out(&mut self, why: &str, raft_id: u64, stop: &CancellationToken) {
        let alone = self.belief.borrow().voters().count() <= 1;
        let what_now = if alone {
            "it is that of the only voter: stop this node, put its whole data folder back from a backup, and run it again"
        } else {
            "the other voters have what it had: the master takes this node out of Raft and in again with a new store"
        };
        self.problems.set(PROBLEM, format!("{why}; {what_now}"));
        self.broken.send_replace(Some(raft_id));
        while !stop.is_cancelled() && self.is_seated(raft_id) {
            self.wait_for(None, stop).await;
        }
        self.broken.send_replace(None);
    }

    /// Whether the view gives the node the seat with this Raft id.
    fn is_seated(&self, raft_id: u64) -> bool {
        self.belief.borrow().role().raft_id() == Some(raft_id)
    }

    /// Waits until the view changes, the node stops, or this time has passed.
    async fn wait_for(&mut self, at_most: Option<Duration>, stop: &CancellationToken) {
        let passed = async {
            match at_most {
                Some(time) => sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.belief.changed() => if changed.is_err() { stop.cancelled().await },
            changed = self.copied.changed() => if changed.is_err() { stop.cancelled().await },
            () = stop.cancelled() => {}
            () = passed => {}
        }
    }

    async fn sit(&self, raft_id: u64, belief: &Belief) -> Result<(Seat, Option<AbortOnDropHandle<()>>), NodeError> {
        let folder = self.data.raft();
        prepare(&folder, raft_id)?;
        let failed = |why: String| NodeError::Start { part: "Raft", why };
        let Networks { control, data } = &self.networks;
        let raft = RaftNode::start_on(self.runtime.clone(), raft_id, &folder, control, data, self.raft_settings.clone()).await;
        let raft = raft.map_err(|error| match error {
            RaftError::Store(error) if error.is_damage() => NodeError::DamagedRaft(error.to_string()),
            other => failed(other.to_string()),
        })?;
        let cluster = raft.applied().borrow().state.cluster().map(|cluster| cluster.id);
        if let Some(record) = cluster.filter(|record| *record != belief.view.cluster) {
            raft.shutdown().await;
            return Err(NodeError::OtherCluster { folder: self.data.root().to_owned(), record, here: belief.view.cluster });
        }
        let birth = match self.birth(&raft, raft_id).await {
            Ok(birth) => birth,
            Err(error) => {
                raft.shutdown().await;
                return Err(error);
            }
        };
        let parts = Parts {
            raft: raft.clone(),
            name: belief.name.clone(),
            control: control.clone(),
            peers: self.peers.clone(),
            store: self.store.clone(),
        };
        match Master::start(parts) {
            Ok(master) => Ok((Seat { raft, master }, birth)),
            Err(error) => {
                raft.shutdown().await;
                Err(error.into())
            }
        }
    }

    /// The first run of a cluster's first node makes the cluster.
    async fn birth(&self, raft: &RaftNode, raft_id: u64) -> Result<Option<AbortOnDropHandle<()>>, NodeError> {
        let Some(birth) = read_json::<Birth>(&self.data.birth())? else { return Ok(None) };
        if raft_id != FIRST_RAFT_ID {
            return Ok(None);
        }
        let begun = raft.initialize(record_peer(&self.me)).await;
        begun.map_err(|error| NodeError::Start { part: "the cluster", why: error.to_string() })?;
        let (raft, data, problems) = (raft.clone(), self.data.clone(), self.problems.clone());
        Ok(Some(AbortOnDropHandle::new(tokio::spawn(be_born(raft, data, birth, problems)))))
    }

    async fn stay(&mut self, seat: &Seat, raft_id: u64, stop: &CancellationToken) -> Left {
        let mut failed = seat.raft.failed();
        tokio::select! {
            moved = self.belief.wait_for(|belief| belief.role().raft_id() != Some(raft_id)) => match moved {
                Ok(_) => Left::Moved,
                Err(_) => Left::Stop,
            },
            copied = self.copied.wait_for(|copied| *copied == Copied::Yes) => match copied {
                Ok(_) => Left::Copied,
                Err(_) => Left::Stop,
            },
            failed = failed.wait_for(Option::is_some) => {
                let why = failed.ok().and_then(|why| why.clone());
                Left::Failed(why.unwrap_or_else(|| "Raft ended".into()))
            }
            () = stop.cancelled() => Left::Stop,
        }
    }

    async fn leave(&self, seat: Seat, left: &Left) {
        if *left == Left::Stop && seat.raft.leadership().borrow().is_master {
            match seat.raft.hand_over().await {
                Ok((_, peer)) => tracing::info!(%peer, "the mastership was handed over"),
                Err(error) => tracing::info!(%error, "the mastership was not handed over"),
            }
        }
        self.seat.send_replace(None);
        seat.master.shutdown().await;
        seat.raft.shutdown().await;
        tracing::info!(?left, "this node does not take part in Raft any more");
    }
}

/// Makes the folder of Raft ready for this id. What another id left there is removed: an id that was once left is never used again,
/// and what it knew is with the others.
fn prepare(folder: &Path, raft_id: u64) -> Result<(), NodeError> {
    let file = folder.join(ID_FILE);
    let wanted = raft_id.to_string();
    let found = fs::read_to_string(&file).ok();
    if found.as_deref().map(str::trim) == Some(wanted.as_str()) {
        return Ok(());
    }
    if folder.exists() {
        tracing::info!(raft_id, was = found.as_deref().unwrap_or("unknown"), "the folder of an earlier part in Raft is removed");
        fs::remove_dir_all(folder).map_err(file_error("remove", folder))?;
    }
    fs::create_dir_all(folder).map_err(file_error("make", folder))?;
    replace_file(&file, wanted.as_bytes())
}

/// Proposes the first entry of the record, until it is there.
async fn be_born(raft: RaftNode, data: DataFolder, birth: Birth, problems: Problems) {
    const PROBLEM: &str = "the cluster";
    let mut leadership = raft.leadership();
    loop {
        if leadership.wait_for(|now| now.is_master).await.is_err() {
            return;
        }
        let create = Body::Master(Box::new(MasterCommand::Create(birth.clone())));
        match raft.propose(create).await {
            Ok(Ok(_) | Err(Rejection::AlreadyCreated)) => break,
            Ok(Err(rejection)) => problems.set(PROBLEM, rejection.to_string()),
            Err(error) => tracing::warn!(%error, "the cluster was not made yet"),
        }
        sleep(BIRTH_AGAIN_AFTER).await;
    }
    tracing::info!(cluster = %birth.cluster, "the cluster was made");
    problems.clear(PROBLEM);
    if let Err(error) = remove_file(&data.birth()) {
        tracing::warn!(%error, "what the cluster was made of was not removed");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_another_raft_id_is_never_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let raft = folder.path().join("raft");
        prepare(&raft, 7).unwrap();
        fs::write(raft.join("db"), "log").unwrap();
        prepare(&raft, 7).unwrap();
        assert!(raft.join("db").exists());
        prepare(&raft, 8).unwrap();
        assert!(!raft.join("db").exists());
    }
}
