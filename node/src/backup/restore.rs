//! `tribune restore`: a node made from a backup becomes the only voter of the cluster that the backup is of.
//!
//! One idea: everything is made beside what there is, and put in its place at the end; the file that makes the folder a node is written
//! last. A folder that a crash left in between is no node, or one that stays out of Raft, and the same command again goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;
use tribune_keeper::Hold;
use tribune_p2p::blobs::{BlobStore, Condition};
use tribune_p2p::{Identity, Multiaddr, blocking};
use tribune_raft_store::model::{NodeName, Platform, RaftRole, Span, VoterPreference};
use tribune_raft_store::record::Record;

use super::format::About;
use super::make::{BackupError, file_error};
use super::save::{Checked, check};
use crate::belief::{Belief, record_peer};
use crate::data::{DataFolder, read_json, remove_file, replace_json};
use crate::error::NodeError;
use crate::facts::facts;
use crate::init::own_identity;
use crate::listen::Networks;
use crate::recovery::found::{Founder, belief, found, next_epoch};
use crate::settings::Settings;
use crate::store::hash_of;
use crate::world::{Carrier, OnDisk, Stores};

/// Where the store of Raft is made.
const MADE: &str = "raft.restored";
/// Where the one that it replaces goes, until the node is whole.
const REPLACED: &str = "raft.replaced";

/// What becomes of a Raft store that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and nothing is restored.
    Stays,
    /// If it is the same node's, the backup takes its place.
    IsReplaced,
}

/// What `tribune restore` is asked for.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The backup.
    pub file: PathBuf,
    /// The data folder.
    pub data: PathBuf,
    /// Which node of the backup it becomes.
    pub name: NodeName,
    /// What becomes of a Raft store that is there.
    pub existing: Existing,
    /// The file with an admin's key; none: the node's own key, where the record lets it act as an admin.
    pub key: Option<PathBuf>,
    /// How long nodes that have a master still believe the recovery.
    pub good_for: Span,
    /// The recovery epoch to begin; none: the next.
    pub epoch: Option<u64>,
    /// Where its control network listens; like what follows, of no use where the folder has settings.
    pub control: Option<Multiaddr>,
    /// Where its data network listens.
    pub data_address: Option<Multiaddr>,
    /// The platform it declares; none: the machine's.
    pub platform: Option<Platform>,
    /// Commands that run modules of other platforms.
    pub runners: BTreeMap<Platform, String>,
    /// The group, by name or number, whose members may open the process socket.
    pub process_group: Option<String>,
    /// Whether the node may be a voter.
    pub voter: VoterPreference,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What the backup is of.
    pub about: About,
    /// The only voter.
    pub node: NodeName,
    /// Its identity on the network.
    pub peer: tribune_p2p::PeerId,
    /// Whether another machine's identity was replaced by this one's.
    pub place: Place,
    /// The recovery epoch that began.
    pub epoch: u64,
    /// The other voters and standbys of then. They are members now.
    pub others: BTreeSet<NodeName>,
}

/// Whose place the node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Its own: it has the identity that the backup names.
    Own,
    /// That of the machine that had its name: which is removed.
    OfAnother,
}

/// Makes a node from a backup. When this returns it can be run.
///
/// # Errors
/// The backup is damaged, has no such node, or the key may not do it; the folder is another node's, or has a Raft store and
/// [`Existing::Stays`]. Nothing was changed then.
pub async fn restore(options: RestoreOptions) -> Result<Restored, BackupError> {
    restore_on(&Carrier::Libp2p, &OnDisk, options).await
}

/// The same, with what carries its networks, and with Raft's store lying there.
///
/// # Errors
/// As [`restore`].
pub async fn restore_on(carrier: &Carrier, stores: &dyn Stores, options: RestoreOptions) -> Result<Restored, BackupError> {
    let checked = check(&options.file)?;
    let record = checked.applied.state.clone();
    let there = look(&options, &record)?;
    let data = DataFolder::make(&options.data)?;
    let _hold = Hold::take(&data.keeper()).map_err(NodeError::from)?;
    let identity = own_identity(&data)?;
    let known = record.nodes().get(&options.name).filter(|node| node.peer == record_peer(&identity.peer_id()));
    let place = if known.is_some() { Place::Own } else { Place::OfAnother };
    let (settings, control, data_addresses) = listen(carrier, &options, &data, &identity).await?;
    let signer = options.key.as_deref().map(Identity::load).transpose().map_err(NodeError::from)?;
    let founder = Founder {
        cluster: checked.about.cluster,
        name: &options.name,
        identity: &identity,
        control,
        data: data_addresses,
        signer: signer.as_ref().unwrap_or(&identity),
        good_for: options.good_for,
        epoch: next_epoch(options.epoch, checked.about.epoch.max(there.map_or(0, |there| there.view.epoch)))?,
    };
    let made = data.root().join(MADE);
    remove_folder(&made)?;
    let after = match make_store(stores, &made, checked.applied.clone(), &founder) {
        Ok(after) => after,
        Err(error) => {
            // Of no use, and in nobody's way.
            let _ = remove_folder(&made);
            return Err(error);
        }
    };
    bring_modules(&options.file, &data, &settings, &checked).await?;
    settings.save(&data)?;
    let replaced = put_in_place(&data, &made)?;
    replace_json(&data.cluster(), &belief(&options.name, &after)?)?;
    remove_file(&data.birth())?;
    remove_folder(&replaced)?;
    let others = record.nodes().values().filter(|node| node.raft != RaftRole::Member && node.name != options.name);
    Ok(Restored {
        about: checked.about,
        node: options.name.clone(),
        peer: identity.peer_id(),
        place,
        epoch: founder.epoch,
        others: others.map(|node| node.name.clone()).collect(),
    })
}

/// Refuses what must not be done, before anything is; gives what the node that is there believes.
fn look(options: &RestoreOptions, record: &Record) -> Result<Option<Belief>, BackupError> {
    let refused = |why: String| BackupError::from(NodeError::Recovery(why));
    if !record.nodes().contains(&options.name) {
        let names: Vec<String> = record.nodes().values().map(|node| node.name.to_string()).collect();
        return Err(refused(format!("the backup has no node {}; it has {}", options.name, names.join(", "))));
    }
    let folder = options.data.display();
    let believed: Option<Belief> = read_json(&options.data.join("cluster.json"))?;
    let here = record.cluster().map(|cluster| cluster.id);
    if let Some(other) = believed.as_ref().filter(|there| Some(there.view.cluster) != here || there.name != options.name) {
        let (name, cluster) = (&other.name, other.view.cluster);
        return Err(refused(format!("{folder} is node {name} of cluster {cluster}: choose another data folder with --data")));
    }
    if options.data.join("raft").exists() && options.existing == Existing::Stays {
        return Err(refused(format!(
            "{folder} has a Raft store, which may know more than the backup: say --replace to put the backup in its place, or use it \
             with `tribune recover --force-new-cluster`"
        )));
    }
    Ok(believed)
}

/// The settings of the node, and where others find it.
async fn listen(
    carrier: &Carrier,
    options: &RestoreOptions,
    data: &DataFolder,
    identity: &Identity,
) -> Result<(Settings, Vec<String>, Vec<String>), BackupError> {
    let mut settings = if data.settings().exists() {
        Settings::load(data)?
    } else {
        let (control, data_address) = (options.control.clone(), options.data_address.clone());
        let mut settings = Settings::new(options.name.clone(), options.platform.clone(), control, data_address);
        settings.voter = options.voter;
        settings.process_group.clone_from(&options.process_group);
        settings.runners = options.runners.iter().map(|(platform, command)| (platform.to_string(), command.clone())).collect();
        settings
    };
    if settings.name != options.name {
        let (folder, name) = (data.root().to_owned(), &settings.name);
        return Err(NodeError::Mixed { folder, what: format!("node.toml names {name}, and not {}", options.name) }.into());
    }
    let networks = Networks::start(carrier, identity, &settings, data).await?;
    networks.keep_ports(&mut settings);
    let facts = facts(&settings, &networks.control, &networks.data);
    networks.shutdown().await;
    Ok((settings, facts.control_addresses, facts.data_addresses))
}

fn make_store(
    stores: &dyn Stores,
    folder: &Path,
    applied: tribune_raft_store::machine::Applied<Record>,
    founder: &Founder<'_>,
) -> Result<Record, BackupError> {
    crate::data::make_private(folder)?;
    let mut store = stores.plant(folder, applied).map_err(NodeError::from)?;
    let signed = founder.sign(store.at_end())?;
    Ok(found(folder, &mut store, &signed)?)
}

/// Brings the modules of the backup into the package store: those that it has not.
async fn bring_modules(file: &Path, data: &DataFolder, settings: &Settings, checked: &Checked) -> Result<(), BackupError> {
    let blobs = BlobStore::open_with_reserve(data.packages(), settings.reserve()).await?;
    let open = || file_error("read", file);
    for (signature, (begins, length)) in &checked.modules {
        let hash = hash_of(signature);
        if blobs.verify(&hash).await? == Condition::Sound {
            continue;
        }
        let mut from = File::open(file).map_err(open())?;
        from.seek(SeekFrom::Start(*begins)).map_err(open())?;
        blobs.import(blocking::file(from).take(*length), *length, Some(hash)).await?;
    }
    Ok(())
}

/// Puts the store that was made in the place of the one that is there; gives where that went.
fn put_in_place(data: &DataFolder, made: &Path) -> Result<PathBuf, BackupError> {
    let replaced = data.root().join(REPLACED);
    if data.raft().exists() {
        remove_folder(&replaced)?;
        fs::rename(data.raft(), &replaced).map_err(file_error("move away", &data.raft()))?;
    }
    fs::rename(made, data.raft()).map_err(file_error("put in its place", &data.raft()))?;
    File::open(data.root()).and_then(|folder| folder.sync_all()).map_err(file_error("fsync", data.root()))?;
    Ok(replaced)
}

fn remove_folder(path: &Path) -> Result<(), BackupError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file_error("remove", path)(error)),
        _ => Ok(()),
    }
}
