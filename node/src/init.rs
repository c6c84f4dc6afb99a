//! Making a new cluster: its first node, and the key of its first admin.
//!
//! Nothing is sent anywhere. What the cluster is made of is written down (`birth.json`); the first run of the node makes it the
//! first entry of the record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tribune_messages::trust::{ClusterView, ViewNode, ViewPrincipal};
use tribune_p2p::{Identity, Multiaddr};
use tribune_raft_store::command::{Birth, NewNode};
use tribune_raft_store::model::{ClusterId, NodeName, Platform, PrincipalName, PublicKey, RaftRole, Role, VoterPreference};

use crate::belief::{Belief, record_peer};
use crate::data::{DataFolder, remove_file, replace_json};
use crate::error::NodeError;
use crate::facts::facts;
use crate::listen::Networks;
use crate::settings::Settings;
use crate::world::Carrier;

/// The Raft id that the record gives a cluster's first voter.
pub(crate) const FIRST_RAFT_ID: u64 = 0;

/// What `tribune init` is asked for.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The data folder of the node.
    pub data: PathBuf,
    /// The node's name.
    pub name: NodeName,
    /// Where its control network listens.
    pub control: Option<Multiaddr>,
    /// Where its data network listens.
    pub data_address: Option<Multiaddr>,
    /// The platform it declares; none: the machine's.
    pub platform: Option<Platform>,
    /// Commands that run modules of other platforms.
    pub runners: BTreeMap<Platform, String>,
    /// The group, by name or number, whose members may open the process socket.
    pub process_group: Option<String>,
    /// The name of the first admin.
    pub admin: PrincipalName,
    /// Where the admin's new key is written.
    pub admin_key: PathBuf,
    /// Whether the node may be a voter.
    pub voter: VoterPreference,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Initialised {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node's identity on the network.
    pub peer: tribune_p2p::PeerId,
    /// Addresses of the node's control network with its identity, for those who join.
    pub addresses: Vec<String>,
    /// The admin's public key.
    pub admin: PublicKey,
    /// Where the admin's key is.
    pub admin_key: PathBuf,
}

/// Makes a new cluster in a data folder. The first `tribune run` creates it.
///
/// # Errors
/// The folder has a node already, the admin's key file exists, or an address cannot be used.
pub fn init(options: InitOptions) -> Result<Initialised, NodeError> {
    // On a thread of its own, so that it may be called from asynchronous code as well.
    let made = std::thread::spawn(move || runtime()?.block_on(init_on(&Carrier::Libp2p, options)));
    made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A runtime for a short piece of work.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, NodeError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| NodeError::Start { part: "the runtime", why: error.to_string() })
}

/// The same, with this to carry the node's networks while it finds out where they listen.
///
/// # Errors
/// As [`init`].
pub async fn init_on(carrier: &Carrier, options: InitOptions) -> Result<Initialised, NodeError> {
    refuse_a_node(&options.data)?;
    let data = DataFolder::make(&options.data)?;
    let mut settings = Settings::new(options.name, options.platform, options.control, options.data_address);
    settings.voter = options.voter;
    settings.process_group = options.process_group;
    settings.runners = options.runners.into_iter().map(|(platform, command)| (platform.to_string(), command)).collect();
    let identity = own_identity(&data)?;
    let networks = Networks::start(carrier, &identity, &settings, &data).await?;
    networks.keep_ports(&mut settings);
    let facts = facts(&settings, &networks.control, &networks.data);
    networks.shutdown().await;

    let admin = Identity::create(&options.admin_key)?;
    let key = PublicKey::new(identity.public_key());
    let node = NewNode { name: settings.name.clone(), peer: record_peer(&identity.peer_id()), key, facts };
    let admin_key = PublicKey::new(admin.public_key());
    let birth = Birth { cluster: ClusterId::new(rand::random()), node, admin: options.admin, admin_key };
    if let Err(error) = write(&data, &settings, &birth) {
        // A key without a cluster is of no use, and would be in the way of the next try.
        let _ = remove_file(&options.admin_key);
        return Err(error);
    }
    let with_peer = |address: &String| format!("{address}/p2p/{}", identity.peer_id());
    Ok(Initialised {
        cluster: birth.cluster,
        peer: identity.peer_id(),
        addresses: birth.node.facts.control_addresses.iter().map(with_peer).collect(),
        admin: admin_key,
        admin_key: options.admin_key,
    })
}

/// Refuses a folder that has a node.
pub(crate) fn refuse_a_node(folder: &Path) -> Result<(), NodeError> {
    let file = "cluster.json";
    if folder.join(file).exists() {
        return Err(NodeError::NodeAlready { folder: folder.to_owned(), file });
    }
    Ok(())
}

/// The node's key: a new one, or the one that a try before this left.
pub(crate) fn own_identity(data: &DataFolder) -> Result<Identity, NodeError> {
    let path = data.identity();
    Ok(if path.exists() { Identity::load(&path)? } else { Identity::create(&path)? })
}

/// Writes everything down; last what makes the folder a node.
fn write(data: &DataFolder, settings: &Settings, birth: &Birth) -> Result<(), NodeError> {
    settings.save(data)?;
    replace_json(&data.birth(), birth)?;
    replace_json(&data.cluster(), &Belief::first(settings.name.clone(), first_view(birth)))
}

/// Who is in the cluster at its birth: one voter, one admin.
fn first_view(birth: &Birth) -> ClusterView {
    let node = &birth.node;
    ClusterView {
        cluster: birth.cluster,
        epoch: 0,
        nodes: vec![ViewNode {
            name: node.name.clone(),
            peer: node.peer.clone(),
            control: node.facts.control_addresses.clone(),
            data: node.facts.data_addresses.clone(),
            raft: RaftRole::Voter { raft_id: FIRST_RAFT_ID },
            local_commands: Role::Admin,
        }],
        principals: vec![ViewPrincipal { key: birth.admin_key, role: Role::Admin }],
        removed: Vec::new(),
        recovery: None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::data::read_json;

    pub(crate) fn options(folder: &Path, name: &str) -> InitOptions {
        let any: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
        InitOptions {
            data: folder.join(name),
            name: name.parse().unwrap(),
            control: Some(any.clone()),
            data_address: Some(any),
            platform: None,
            runners: BTreeMap::new(),
            process_group: None,
            admin: "ada".parse().unwrap(),
            admin_key: folder.join("ada.key"),
            voter: VoterPreference::May,
        }
    }

    #[test]
    fn a_cluster_is_made_with_one_voter_and_one_admin_and_never_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let made = init(options(folder.path(), "n1")).unwrap();
        let data = DataFolder::open(&folder.path().join("n1")).unwrap();
        let birth: Birth = read_json(&data.birth()).unwrap().unwrap();
        let belief: Belief = read_json(&data.cluster()).unwrap().unwrap();
        assert_eq!(birth.cluster, made.cluster);
        assert_eq!(belief.view.cluster, made.cluster);
        assert_eq!(belief.role(), RaftRole::Voter { raft_id: 0 });
        assert_eq!(PublicKey::new(Identity::load(&made.admin_key).unwrap().public_key()), made.admin);
        assert!(!Settings::load(&data).unwrap().control.to_string().ends_with("/tcp/0"), "the port is kept");
        assert!(made.addresses[0].contains("/p2p/"));
        let again = init(options(folder.path(), "n1")).unwrap_err().to_string();
        assert!(again.contains("is a node already"), "{again}");
        let other = init(options(folder.path(), "n2")).unwrap_err().to_string();
        assert!(other.contains("ada.key exists already"), "{other}");
    }
}
