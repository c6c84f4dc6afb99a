//! `tribune fsck`: everything on a node's disk that it goes by, read and not changed, whether or not the node runs.
//!
//! One idea: each part is read as if it were about to be used, so what would be found then is found now; and all of it is said, with what
//! to do.

use std::fs;
use std::path::{Path, PathBuf};

use tribune_agent::local;
use tribune_master::store_blobs;
use tribune_messages::api::{DiskPart, Finding, Fsck, LookedAt};
use tribune_p2p::{Identity, blobs};
use tribune_raft_store::examine::{Examined, examine};
use tribune_raft_store::model::RaftRole;
use tribune_raft_store::record::Record;

use crate::belief::{Belief, BeliefKeeper};
use crate::data::DataFolder;
use crate::error::NodeError;
use crate::node::check;
use crate::seat::{DB, owner};
use crate::settings::Settings;
use crate::store::hash_of;

const NODE_FILES: &str = "put the file back from a copy of this data folder, or make the node anew with `tribune join --replace`";
const RAFT_AMONG_OTHERS: &str =
    "run the node: it stays out of Raft, and the master takes it out and in again with a new store from the other voters";
const RAFT_ALONE: &str = "this node is the only voter: put the store back from a copy of this data folder, or restore a backup with `tribune restore --replace`";
const BLOB_WITH_OTHERS: &str = "run the node: what is damaged is moved away and fetched again from another voter or standby";
const BLOB_ALONE: &str = "run the node, and publish the package again with `tribune package publish` if no other node has it";

/// Looks at what a node has on disk. Nothing is changed.
///
/// # Errors
/// There is no node in the folder, or a part of it cannot be listed.
pub async fn fsck(data: DataFolder) -> Result<Fsck, NodeError> {
    let looking = tokio::task::spawn_blocking(move || Look::at(&data));
    looking.await.map_err(|error| NodeError::Start { part: "the check", why: error.to_string() })?
}

/// What was seen so far.
#[derive(Default)]
struct Look {
    looked_at: Vec<LookedAt>,
    findings: Vec<Finding>,
}

impl Look {
    fn at(data: &DataFolder) -> Result<Fsck, NodeError> {
        let mut look = Self::default();
        let belief = look.node_files(data);
        let alone = belief.as_ref().is_none_or(|belief| belief.voters().count() <= 1);
        let record = look.raft(data, belief.as_ref(), alone);
        look.packages(data, record.as_ref(), alone)?;
        look.local(data)?;
        let named = belief.map(|belief| belief.name).or_else(|| Settings::load(data).ok().map(|settings| settings.name));
        let node = named.ok_or_else(|| NodeError::NoNode(data.root().to_owned()))?;
        let Self { looked_at, findings } = look;
        Ok(Fsck { node, looked_at, findings })
    }

    fn find(&mut self, part: DiskPart, place: &Path, what: impl ToString, todo: &str) {
        let place = place.display().to_string();
        self.findings.push(Finding { part, place, what: what.to_string(), todo: todo.to_owned() });
    }

    fn node_files(&mut self, data: &DataFolder) -> Option<Belief> {
        let part = DiskPart::NodeFiles;
        self.looked_at.push(LookedAt { part, read: 3, bytes: sizes(&[data.settings(), data.identity(), data.cluster()]) });
        let settings = Settings::load(data).map_err(|error| self.find(part, &data.settings(), error, NODE_FILES)).ok();
        let identity =
            Identity::load(&data.identity()).map_err(|error| self.find(part, &data.identity(), error, NODE_FILES)).ok();
        let belief = BeliefKeeper::open(data).map(|keeper| Belief::clone(&keeper.watch().borrow()));
        let belief = belief.map_err(|error| self.find(part, &data.cluster(), error, NODE_FILES)).ok();
        if let (Some(settings), Some(identity), Some(belief)) = (&settings, &identity, &belief)
            && let Err(error) = check(data, settings, identity, belief)
        {
            self.find(part, data.root(), error, "put back the whole folder of one of them");
        }
        belief
    }

    /// Gives the record, if the node has one that it goes by and all of it can be understood.
    fn raft(&mut self, data: &DataFolder, belief: Option<&Belief>, alone: bool) -> Option<Record> {
        let part = DiskPart::RaftStore;
        let folder = data.raft();
        let role = belief.map_or(RaftRole::Member, Belief::role);
        let todo = if alone { RAFT_ALONE } else { RAFT_AMONG_OTHERS };
        if !folder.join(DB).is_dir() {
            if matches!(role, RaftRole::Voter { .. }) && !data.birth().exists() {
                self.find(part, &folder.join(DB), "it is gone, and this node is a voter: is its disk mounted?", todo);
            }
            return None;
        }
        let file = folder.join("raft-id");
        match owner(&folder) {
            // What was left is of no use to anybody, and goes when the node is in Raft again.
            Ok(None) => return None,
            Ok(Some(id)) if role.raft_id().is_some_and(|own| own != id) => {
                let own = role.raft_id().unwrap_or_default();
                self.find(part, &file, format!("it is of Raft id {id}, and this node has Raft id {own}"), todo);
            }
            Ok(Some(_)) => {}
            Err(error) => self.find(part, &file, error, todo),
        }
        let Examined { rows, bytes, wrong, record } = examine(&folder);
        self.looked_at.push(LookedAt { part, read: rows, bytes });
        for what in wrong {
            self.find(part, &folder.join(DB), what, todo);
        }
        record.filter(|_| role != RaftRole::Member)
    }

    fn packages(&mut self, data: &DataFolder, record: Option<&Record>, alone: bool) -> Result<(), NodeError> {
        let part = DiskPart::PackageStore;
        let failed =
            |error: blobs::BlobError| NodeError::Start { part: "the check of the package store", why: error.to_string() };
        let found = blobs::examine(&data.packages()).map_err(failed)?;
        let todo = if alone { BLOB_ALONE } else { BLOB_WITH_OTHERS };
        self.looked_at.push(LookedAt { part, read: found.blobs, bytes: found.bytes });
        for blobs::Unsound { path, why, .. } in found.unsound {
            self.find(part, &path, why, todo);
        }
        for signature in record.map(store_blobs).unwrap_or_default().keys() {
            let path = blobs::path_in(&data.packages(), &hash_of(signature));
            if !path.is_file() {
                self.find(part, &path, "it is not there, and a package of the record has it", todo);
            }
        }
        Ok(())
    }

    fn local(&mut self, data: &DataFolder) -> Result<(), NodeError> {
        let part = DiskPart::LocalStorage;
        let failed = |error: local::LocalError| NodeError::Start { part: "the check of local storage", why: error.to_string() };
        let local::Examined { read, bytes, unsound } = local::examine(&data.local()).map_err(failed)?;
        self.looked_at.push(LookedAt { part, read, bytes });
        for local::Unsound { path, what, todo } in unsound {
            self.find(part, &path, what, todo);
        }
        Ok(())
    }
}

/// How many bytes these files have; one that is not there has none.
fn sizes(paths: &[PathBuf]) -> u64 {
    paths.iter().filter_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.len()).sum()
}
