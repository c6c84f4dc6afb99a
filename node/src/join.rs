//! Coming into a cluster that is there: the node shows a one-time token to a peer that it names by address and identity.
//!
//! The peer is who it says (its key is checked), so the list of members that it sends is believed as the first; later ones are
//! believed only from a confirmed master. A join that was cut off can be given again: the token is good once for each node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tribune_messages::JOIN_PROTOCOL;
use tribune_messages::join::{JoinRequest, JoinResponse, MAX_JOIN_FRAME};
use tribune_messages::trust::ClusterView;
use tribune_p2p::{Identity, Limits, Multiaddr, Network, PeerId};
use tribune_raft_store::command::{JoinAs, NewNode};
use tribune_raft_store::model::{ClusterId, NodeName, Platform, PublicKey, VoterPreference};

use crate::belief::{Belief, record_peer};
use crate::data::{DataFolder, replace_json};
use crate::error::NodeError;
use crate::facts::facts;
use crate::init::{own_identity, refuse_a_node};
use crate::listen::Networks;
use crate::settings::Settings;
use crate::world::Carrier;

/// How long a cluster without master is waited for.
const WITHIN: Duration = Duration::from_secs(30);
/// The first pause before another try; it doubles, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// A joiner's connection is kept for 10 s, so an answer comes within that or not at all.
pub(crate) const JOIN_LIMITS: Limits =
    Limits { max_frame: MAX_JOIN_FRAME, send_time: Duration::from_secs(10), recv_time: Some(Duration::from_secs(10)) };

/// What `tribune join` is asked for.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// The data folder of the node.
    pub data: PathBuf,
    /// The node's name.
    pub name: NodeName,
    /// Whether it is a further node, or takes the place of the one of its name.
    pub place: JoinAs,
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
    /// Whether the node may be a voter.
    pub voter: VoterPreference,
    /// A node of the cluster: the address of its control network, with `/p2p/` and its identity.
    pub peer: Multiaddr,
    /// The token.
    pub token: String,
}

/// Into what the node came.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node's name.
    pub name: NodeName,
    /// The node's identity on the network.
    pub peer: PeerId,
    /// The other nodes of the cluster.
    pub others: Vec<NodeName>,
}

/// Brings a new node into a cluster. When this returns the node can be run.
///
/// # Errors
/// The folder has a node already, the peer cannot be reached, or the cluster does not take the node: the token is wrong, used or
/// expired, or there is a node of this name.
pub async fn join(options: JoinOptions) -> Result<Joined, NodeError> {
    join_on(&Carrier::Libp2p, options).await
}

/// The same, with this to carry the node's networks.
///
/// # Errors
/// As [`join`].
pub async fn join_on(carrier: &Carrier, options: JoinOptions) -> Result<Joined, NodeError> {
    refuse_a_node(&options.data)?;
    let (peer, address) = peer_of(&options.peer)?;
    let data = DataFolder::make(&options.data)?;
    let mut settings = Settings::new(options.name, options.platform, options.control, options.data_address);
    settings.voter = options.voter;
    settings.process_group = options.process_group;
    settings.runners = options.runners.into_iter().map(|(platform, command)| (platform.to_string(), command)).collect();
    let identity = own_identity(&data)?;
    let networks = Networks::start(carrier, &identity, &settings, &data).await?;
    networks.keep_ports(&mut settings);
    let node = NewNode {
        name: settings.name.clone(),
        peer: record_peer(&identity.peer_id()),
        key: PublicKey::new(identity.public_key()),
        facts: facts(&settings, &networks.control, &networks.data),
    };
    let request = JoinRequest { token: options.token, node, place: options.place };
    let asked = ask(&networks.control, peer, &address, request).await;
    networks.shutdown().await;
    let mut view = asked?;
    add_address(&mut view, peer, &address);
    come_in(&data, &settings, &identity, view)
}

/// The identity and the address in the address of a peer.
fn peer_of(full: &Multiaddr) -> Result<(PeerId, Multiaddr), NodeError> {
    let incomplete = || NodeError::PeerAddress { address: full.clone() };
    let text = full.to_string();
    let (address, peer) = text.rsplit_once("/p2p/").ok_or_else(incomplete)?;
    let (address, peer) = (address.parse().map_err(|_| incomplete())?, peer.parse().map_err(|_| incomplete())?);
    if text.starts_with("/p2p/") { Err(incomplete()) } else { Ok((peer, address)) }
}

/// Asks until there is a yes or no, or the time is up.
async fn ask(network: &Network, peer: PeerId, address: &Multiaddr, request: JoinRequest) -> Result<ClusterView, NodeError> {
    let deadline = Instant::now() + WITHIN;
    let mut pause = FIRST_PAUSE;
    loop {
        let why = match ask_once(network, peer, address, &request).await? {
            JoinResponse::Joined(view) => return Ok(*view),
            JoinResponse::Rejected(rejection) => return Err(NodeError::Rejected(rejection)),
            JoinResponse::Unavailable { why } => why,
        };
        if Instant::now() + pause >= deadline {
            return Err(NodeError::NoAnswer(why));
        }
        tracing::info!(%why, "asking again");
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn ask_once(
    network: &Network,
    peer: PeerId,
    address: &Multiaddr,
    request: &JoinRequest,
) -> Result<JoinResponse, NodeError> {
    let mut channel = network.open(peer, std::slice::from_ref(address), JOIN_PROTOCOL, JOIN_LIMITS).await?;
    let answer = async {
        channel.send(request).await?;
        channel.expect::<JoinResponse>().await
    };
    match answer.await {
        Ok(response) => Ok(response),
        // The token stays good for this node, so it can be asked again.
        Err(error) => Ok(JoinResponse::Unavailable { why: error.to_string() }),
    }
}

/// The peer is reachable where it was reached, whatever it says of itself.
fn add_address(view: &mut ClusterView, peer: PeerId, address: &Multiaddr) {
    let (peer, address) = (record_peer(&peer), address.to_string());
    if let Some(node) = view.nodes.iter_mut().find(|node| node.peer == peer)
        && !node.control.contains(&address)
    {
        node.control.push(address);
    }
}

/// Writes down what the cluster said; last what makes the folder a node.
fn come_in(data: &DataFolder, settings: &Settings, identity: &Identity, view: ClusterView) -> Result<Joined, NodeError> {
    let own = record_peer(&identity.peer_id());
    if !view.nodes.iter().any(|node| node.peer == own && node.name == settings.name) {
        return Err(NodeError::NotInView { node: settings.name.clone() });
    }
    let others = view.nodes.iter().map(|node| node.name.clone()).filter(|name| *name != settings.name).collect();
    let joined = Joined { cluster: view.cluster, name: settings.name.clone(), peer: identity.peer_id(), others };
    settings.save(data)?;
    replace_json(&data.cluster(), &Belief::first(settings.name.clone(), view))?;
    Ok(joined)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::belief::tests::view;
    use tribune_p2p::Who;
    use tribune_p2p::network::{Admission, JoinerLimits, NetworkConfig};
    use tribune_raft_store::command::Rejection;
    use tribune_raft_store::model::RaftRole;

    fn options(folder: &std::path::Path, peer: Multiaddr, token: &str) -> JoinOptions {
        let any: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
        JoinOptions {
            data: folder.join("n2"),
            name: "n2".parse().unwrap(),
            place: JoinAs::New,
            control: Some(any.clone()),
            data_address: Some(any),
            platform: None,
            runners: BTreeMap::new(),
            process_group: None,
            voter: VoterPreference::May,
            peer,
            token: token.into(),
        }
    }

    /// A peer that takes the token "good", says at first that there is no master, and refuses the rest.
    async fn peer() -> (Network, Multiaddr) {
        let config = NetworkConfig::new("control", ["/ip4/127.0.0.1/tcp/0".parse().unwrap()])
            .admitting(Admission::JoinersToo(JoinerLimits::default()));
        let network = Network::start(&Identity::generate(), config).await.unwrap();
        let mut incoming = network.serve(JOIN_PROTOCOL, Who::Anyone, JOIN_LIMITS).unwrap();
        let own = network.peer_id();
        tokio::spawn(async move {
            let mut first = true;
            while let Some(mut arrival) = incoming.next().await {
                let request: JoinRequest = arrival.channel.expect().await.unwrap();
                let joiner = request.node.peer.as_str().parse().unwrap();
                let members = [("n1", own, RaftRole::Voter { raft_id: 0 }), ("n2", joiner, RaftRole::Member)];
                let response = match request.token.as_str() {
                    _ if std::mem::take(&mut first) => JoinResponse::Unavailable { why: "the cluster has no master".into() },
                    "good" => JoinResponse::Joined(Box::new(view(&members))),
                    _ => JoinResponse::Rejected(Rejection::UnknownToken),
                };
                arrival.channel.send(&response).await.unwrap();
            }
        });
        let address = format!("{}/p2p/{own}", network.listening()[0]).parse().unwrap();
        (network, address)
    }

    #[tokio::test]
    async fn a_node_comes_in_with_a_token_and_knows_its_cluster_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let (network, address) = peer().await;
        let wrong = join(options(folder.path(), address.clone(), "bad")).await.unwrap_err().to_string();
        assert!(wrong.contains("tribune token create"), "{wrong}");
        let joined = join(options(folder.path(), address.clone(), "good")).await.unwrap();
        assert_eq!(joined.others, ["n1".parse().unwrap()]);
        let data = DataFolder::open(&folder.path().join("n2")).unwrap();
        let keeper = crate::belief::BeliefKeeper::open(&data).unwrap();
        let belief = keeper.watch().borrow().clone();
        assert_eq!(belief.view.cluster, joined.cluster);
        let known = belief.control_list();
        assert!(known.addresses(&network.peer_id()).contains(&network.listening()[0]), "where it was reached");
        let again = join(options(folder.path(), address, "good")).await.unwrap_err();
        assert!(matches!(again, NodeError::NodeAlready { .. }), "{again}");
    }

    #[test]
    fn a_peer_address_without_an_identity_is_refused_with_an_example() {
        for bad in ["/ip4/10.0.0.1/tcp/1", "/p2p/12D3KooWNvSZnPi3RrhrTwEY4LuuBeB6K6facKUCJcyWG1aoDd2p"] {
            let error = peer_of(&bad.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("/p2p/12D3"), "{error}");
        }
    }
}
