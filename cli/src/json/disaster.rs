//! Documents of the commands for disasters.

use std::fmt::Display;

use serde::Serialize;
use tribune_messages::api::{Finding, Fsck, LookedAt};
use tribune_node::backup::format::About;
use tribune_node::backup::restore::{Place, Restored};
use tribune_node::recovery::force::Recovered;

use super::fleet::strings;
use super::word;

/// `backup`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct BackupView {
    file: String,
    size: u64,
    cluster: String,
    epoch: u64,
    node: String,
    made_at: u64,
    index: u64,
    last_written_at: u64,
    modules: u64,
    incomplete: Vec<String>,
}

impl BackupView {
    /// The view of a backup that was made.
    pub fn of(about: &About, size: u64, file: &impl Display) -> Self {
        let About { cluster, epoch, node, version: _, made_at, index, last_written, modules, incomplete } = about;
        Self {
            file: file.to_string(),
            size,
            cluster: cluster.to_string(),
            epoch: *epoch,
            node: node.to_string(),
            made_at: made_at.0,
            index: *index,
            last_written_at: last_written.0,
            modules: *modules,
            incomplete: incomplete.clone(),
        }
    }
}

/// `restored`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct RestoredView {
    cluster: String,
    node: String,
    peer: String,
    took_the_place_of_another: bool,
    epoch: u64,
    made_at: u64,
    index: u64,
    last_written_at: u64,
    others: Vec<String>,
    incomplete: Vec<String>,
}

impl RestoredView {
    /// The view of what `restore` made.
    pub fn of(restored: &Restored) -> Self {
        let Restored { about, node, peer, place, epoch, others } = restored;
        Self {
            cluster: about.cluster.to_string(),
            node: node.to_string(),
            peer: peer.to_string(),
            took_the_place_of_another: *place == Place::OfAnother,
            epoch: *epoch,
            made_at: about.made_at.0,
            index: about.index,
            last_written_at: about.last_written.0,
            others: strings(others),
            incomplete: about.incomplete.clone(),
        }
    }
}

/// `recovered`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct RecoveredView {
    cluster: String,
    node: String,
    epoch: u64,
    index: u64,
    last_written_at: u64,
    unconfirmed: u64,
    others: Vec<String>,
    incomplete: Vec<String>,
}

impl RecoveredView {
    /// The view of what `recover` did.
    pub fn of(recovered: &Recovered) -> Self {
        let Recovered { cluster, node, epoch, raft_id: _, index, last_written, unconfirmed, others, incomplete } = recovered;
        Self {
            cluster: cluster.to_string(),
            node: node.to_string(),
            epoch: *epoch,
            index: *index,
            last_written_at: last_written.0,
            unconfirmed: *unconfirmed,
            others: strings(others),
            incomplete: strings(incomplete),
        }
    }
}

/// `fsck`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct FsckView {
    node: String,
    looked_at: Vec<LookedAtView>,
    findings: Vec<FindingView>,
}

/// A part of a node's disk, in `fsck`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct LookedAtView {
    part: String,
    read: u64,
    bytes: u64,
}

/// Something that is not as it should be, in `fsck`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
struct FindingView {
    part: String,
    place: String,
    what: String,
    todo: String,
}

impl FsckView {
    /// The view of what was found.
    pub fn of(found: &Fsck) -> Self {
        let Fsck { node, looked_at, findings } = found;
        let looked = |LookedAt { part, read, bytes }: &LookedAt| LookedAtView { part: word(part), read: *read, bytes: *bytes };
        let finding = |Finding { part, place, what, todo }: &Finding| FindingView {
            part: word(part),
            place: place.clone(),
            what: what.clone(),
            todo: todo.clone(),
        };
        Self {
            node: node.to_string(),
            looked_at: looked_at.iter().map(looked).collect(),
            findings: findings.iter().map(finding).collect(),
        }
    }
}
