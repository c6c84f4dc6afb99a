//! A node's seat in Raft: while the cluster has it as voter or standby, it takes part in Raft and can be the master.
//!
//! One task owns the seat. It takes it when the view gives it to the node, leaves it when the view takes it away, and takes it anew when Raft
//! has stopped because its disk failed: on a full disk once there is room, and never with a damaged store. Of that the master is told, which
//! takes the node out of Raft and in again with a new one.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tribune_messages::trust::NamedMaster;
use tribune_p2p::rpc::RpcClient;
use tribune_p2p::{Channel, PeerId};
use tribune_raft_store::command::{Birth, Body, MasterCommand, Rejection};
use tribune_raft_store::model::{RaftRole, Signature};

use crate::belief::{Belief, network_peer, record_peer};
use crate::copied::Copied;
use crate::data::{DataFolder, make_private, read_json, remove_file, replace_file};
use crate::error::{NodeError, file_error};
use crate::init::FIRST_RAFT_ID;
use crate::listen::Networks;
use crate::master::{Master, Parts, SESSION_LIMITS};
use crate::problems::Problems;
use crate::raft::{IsVoter, RaftError, RaftNode, RaftRuntime, RaftSettings};
use crate::session::named_by;
use crate::store::PackageStore;
use crate::trust::Own;

/// Says for which Raft id the folder of Raft is.
const ID_FILE: &str = "raft-id";
/// What it says while what another id left is being removed.
const LEAVING: &str = "leaving\n";
/// The database in the folder of Raft.
pub(crate) const DB: &str = "db";
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

    /// Whom its Raft takes for the master, in the recovery epoch of the record that this Raft keeps; until it keeps one, of what the node
    /// believes.
    pub(crate) fn named(&self, believed: u64) -> Option<NamedMaster> {
        let epoch = self.raft.applied().borrow().state.cluster().map_or(believed, |cluster| cluster.epoch);
        named_by(&self.raft.leadership().borrow(), epoch)
    }

    /// The same with the voters of the record here, if that is of the recovery epoch that is believed.
    pub(crate) fn own(&self, believed: u64) -> Own {
        let applied = self.raft.applied().borrow().clone();
        let epoch = applied.state.cluster().map(|cluster| cluster.epoch);
        let voters = applied.state.nodes().values().filter(|node| matches!(node.raft, RaftRole::Voter { .. }));
        let voters = voters.filter(|_| epoch == Some(believed)).filter_map(|node| network_peer(&node.peer)).collect();
        Own { named: self.named(believed), voters }
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
        if !self.is_seated(raft_id) {
            // It is out: what is there is of no use to anybody, whether or not it says whose it is.
            if let Err(error) = replace_file(&self.data.raft().join(ID_FILE), LEAVING.as_bytes()) {
                tracing::warn!(%error, "the damaged store could not be marked as left");
            }
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
        self.refuse_forgetting(&folder, belief)?;
        prepare(&folder, raft_id)?;
        let failed = |why: String| NodeError::Start { part: "Raft", why };
        let Networks { control, data } = &self.networks;
        let believed = self.belief.clone();
        let is_voter: IsVoter = Arc::new(move |peer| believed.borrow().is_voter(peer));
        let settings = self.raft_settings.clone();
        let raft = RaftNode::start_on(self.runtime.clone(), raft_id, &folder, (control, data), is_voter, settings).await;
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

    /// A voter was a standby with a store before, or made the cluster. Without its store it would have forgotten what it voted.
    fn refuse_forgetting(&self, folder: &Path, belief: &Belief) -> Result<(), NodeError> {
        let store = folder.join(DB);
        if !matches!(belief.role(), RaftRole::Voter { .. }) || store.exists() || self.data.birth().exists() {
            return Ok(());
        }
        let why = format!("{} is gone, and this node is a voter: is its disk mounted?", store.display());
        Err(NodeError::DamagedRaft(why))
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
/// and what it knew is with the others. What is there is never removed because a file cannot be read: a voter that forgot what it said
/// could say the opposite.
fn prepare(folder: &Path, raft_id: u64) -> Result<(), NodeError> {
    let file = folder.join(ID_FILE);
    let damaged = |why: &str| Err(NodeError::DamagedRaft(format!("{} is damaged: {why}", file.display())));
    match whose(&file)? {
        Whose::Of(found) if found == raft_id => return Ok(()),
        // They only grow.
        Whose::Of(found) if found > raft_id => return damaged(&format!("it is of Raft id {found}, which comes after {raft_id}")),
        Whose::Unreadable => return damaged("it does not hold the Raft id that was written"),
        Whose::Nobodys if folder.join(DB).exists() => return damaged("it is gone, and what it was for is there"),
        Whose::Nobodys => make_private(folder)?,
        Whose::Of(was) => {
            tracing::info!(raft_id, was, "what an earlier part in Raft left is removed");
            replace_file(&file, LEAVING.as_bytes())?;
        }
        Whose::Left => {}
    }
    for entry in fs::read_dir(folder).map_err(file_error("list", folder))? {
        let path = entry.map_err(file_error("list", folder))?.path();
        if path != file {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(file_error("remove", &path))?;
        }
    }
    replace_file(&file, id_text(raft_id).as_bytes())
}

/// Gives the folder of Raft, with what is in it, to this Raft id: that of a recovery, which is greater than all before.
pub(crate) fn give_to(folder: &Path, raft_id: u64) -> Result<(), NodeError> {
    let file = folder.join(ID_FILE);
    if whose(&file)? == Whose::Left {
        let why = format!("{} says that what is in its folder was left, and is being removed", file.display());
        return Err(NodeError::DamagedRaft(why));
    }
    replace_file(&file, id_text(raft_id).as_bytes())
}

/// For which Raft id the folder of Raft is; `None`: what is in it was left, and is of no use.
///
/// # Errors
/// That cannot be read.
pub(crate) fn owner(folder: &Path) -> Result<Option<u64>, NodeError> {
    let file = folder.join(ID_FILE);
    match whose(&file)? {
        Whose::Of(id) => Ok(Some(id)),
        Whose::Left => Ok(None),
        Whose::Nobodys => Err(NodeError::DamagedRaft("it is gone, and what it was for is there".into())),
        Whose::Unreadable => Err(NodeError::DamagedRaft("it does not hold the Raft id that was written".into())),
    }
}

/// For which Raft id a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// This one.
    Of(u64),
    /// One that was left: the rest of it is to be removed.
    Left,
    /// None: it is new.
    Nobodys,
    /// That cannot be read.
    Unreadable,
}

fn whose(file: &Path) -> Result<Whose, NodeError> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Whose::Nobodys),
        Err(error) => return Err(file_error("read", file)(error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    if text == LEAVING {
        return Ok(Whose::Left);
    }
    let id = text.split_whitespace().next().and_then(|id| id.parse().ok());
    // One of before has the number alone.
    Ok(id.filter(|id| text == id_text(*id) || text.trim_end() == id.to_string()).map_or(Whose::Unreadable, Whose::Of))
}

/// A Raft id as it is written down, with what tells that it is the one that was.
fn id_text(raft_id: u64) -> String {
    let check = Signature::of(format!("raft id {raft_id}").as_bytes()).to_string();
    format!("{raft_id} {check}\n")
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
        fs::write(raft.join("db"), "log").unwrap();
        // A crash in the middle of a removal.
        replace_file(&raft.join(ID_FILE), LEAVING.as_bytes()).unwrap();
        prepare(&raft, 9).unwrap();
        assert!(!raft.join("db").exists());
    }

    #[test]
    fn a_turned_bit_in_the_raft_id_never_makes_a_voter_forget_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let raft = folder.path().join("raft");
        prepare(&raft, 19).unwrap();
        fs::write(raft.join("db"), "log").unwrap();
        let file = raft.join(ID_FILE);
        let whole = fs::read(&file).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, bytes).unwrap();
            let refused = prepare(&raft, 19).unwrap_err();
            assert!(
                matches!(&refused, NodeError::DamagedRaft(why) if why.contains("raft-id is damaged")),
                "bit {bit}: {refused}"
            );
            assert!(raft.join("db").exists(), "bit {bit}");
        }
        fs::remove_file(&file).unwrap();
        assert!(matches!(prepare(&raft, 19), Err(NodeError::DamagedRaft(_))));
        fs::write(&file, whole).unwrap();
        assert!(matches!(prepare(&raft, 18), Err(NodeError::DamagedRaft(_))), "ids only grow");
        prepare(&raft, 19).unwrap();
        assert!(raft.join("db").exists());
    }
}
