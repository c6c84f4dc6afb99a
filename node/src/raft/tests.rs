//! Three nodes in one process, each with two networks on loopback and a store on disk.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::join_all;
use openraft::impls::leader_id_std::LeaderId;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tribune_messages::{RAFT_PROTOCOL, SNAPSHOT_PROTOCOL};
use tribune_p2p::rpc::RpcClient;
use tribune_p2p::{AllowList, Identity, Multiaddr, Network, NetworkConfig};
use tribune_raft_store::command::{Birth, Body, MasterCommand, NewNode, Rejection};
use tribune_raft_store::model::{ClusterId, Facts, NodeName, PeerId, PrincipalName, PublicKey};
use tribune_raft_store::raft_types::Vote;

use super::wire::{Append, Ask, Bytes, Candidacy, Question, Refused, Reply, SnapshotOffer, SnapshotReply, WireVote};
use super::*;

const LONG: Duration = Duration::from_secs(30);

struct Host {
    identity: Identity,
    folder: TempDir,
    control: Network,
    data: Network,
    /// What runs, or ran, here.
    rafts: Mutex<Vec<RaftNode>>,
}

/// A process must not end under a store that is open: RocksDB aborts it.
impl Drop for Host {
    fn drop(&mut self) {
        let rafts = std::mem::take(self.rafts.get_mut().unwrap());
        tokio::task::block_in_place(|| Handle::current().block_on(join_all(rafts.iter().map(RaftNode::shutdown))));
    }
}

async fn network(identity: &Identity, name: &'static str) -> Network {
    let loopback: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
    Network::start(identity, NetworkConfig::new(name, [loopback])).await.unwrap()
}

impl Host {
    async fn new() -> Self {
        let identity = Identity::generate();
        let (control, data) = (network(&identity, "control").await, network(&identity, "data").await);
        Self { identity, folder: tempfile::tempdir().unwrap(), control, data, rafts: Mutex::default() }
    }

    fn peer(&self) -> PeerId {
        PeerId::new(self.identity.peer_id().to_base58()).unwrap()
    }

    async fn raft(&self, id: u64) -> RaftNode {
        self.raft_among(id, Arc::new(|_| true)).await
    }

    async fn raft_among(&self, id: u64, is_voter: IsVoter) -> RaftNode {
        let settings = RaftSettings { snapshot_every: 20, keep_entries: 5, ..RaftSettings::default() };
        let networks = (&self.control, &self.data);
        let raft = RaftNode::start(id, self.folder.path(), networks, is_voter, settings).await.unwrap();
        self.rafts.lock().unwrap().push(raft.clone());
        raft
    }

    /// As when the process is killed: no good-bye of Raft's.
    async fn kill(&self, raft: RaftNode) {
        self.rafts.lock().unwrap().clear();
        drop(raft);
        self.control.shutdown().await;
        self.data.shutdown().await;
    }
}

fn introduce(hosts: &[Host]) {
    let list = |network: fn(&Host) -> &Network| {
        let mut list = AllowList::new();
        for host in hosts {
            list.add_member(host.identity.peer_id(), network(host).listening());
        }
        list
    };
    let (control, data) = (list(|host| &host.control), list(|host| &host.data));
    for host in hosts {
        host.control.set_allowed(control.clone());
        host.data.set_allowed(data.clone());
    }
}

async fn hosts(count: usize) -> Vec<Host> {
    let mut hosts = Vec::new();
    for _ in 0..count {
        hosts.push(Host::new().await);
    }
    introduce(&hosts);
    hosts
}

/// A cluster of this many voters, in which the first is master.
async fn cluster(hosts: &[Host]) -> Vec<RaftNode> {
    cluster_among(hosts, Arc::new(|_| true)).await
}

/// The same, where these are taken for voters besides those that Raft knows of.
async fn cluster_among(hosts: &[Host], is_voter: IsVoter) -> Vec<RaftNode> {
    let first = hosts[0].raft_among(0, is_voter.clone()).await;
    first.initialize(hosts[0].peer()).await.unwrap();
    first.initialize(hosts[0].peer()).await.unwrap();
    until_master(&first).await;
    first.propose(birth(&hosts[0])).await.unwrap().unwrap();
    let mut nodes = vec![first];
    for (id, host) in (0_u64..).zip(hosts).skip(1) {
        nodes.push(host.raft_among(id, is_voter.clone()).await);
        nodes[0].add_standby(id, host.peer()).await.unwrap();
        until_caught_up(&nodes[0], id).await;
    }
    nodes[0].set_voters((0_u64..).take(hosts.len()).collect(), None).await.unwrap();
    nodes
}

fn birth(host: &Host) -> Body {
    let node = NewNode {
        name: NodeName::new("first").unwrap(),
        peer: host.peer(),
        key: PublicKey::new([1; 32]),
        facts: Facts::default(),
    };
    let birth = Birth {
        cluster: ClusterId::new([7; 16]),
        node,
        admin: PrincipalName::new("admin").unwrap(),
        admin_key: PublicKey::new([2; 32]),
    };
    Body::Master(Box::new(MasterCommand::Create(birth)))
}

/// An entry that is committed, and that the record says no to.
fn nonsense() -> Body {
    Body::Master(Box::new(MasterCommand::MakeMember { node: NodeName::new("nobody").unwrap() }))
}

async fn propose(node: &RaftNode) {
    let answer = node.propose(nonsense()).await.unwrap();
    assert!(answer.is_err() && answer != Err(Rejection::NotCreated), "{answer:?}");
}

async fn until_master(node: &RaftNode) -> Leadership {
    let mut leadership = node.leadership();
    let found = timeout(LONG, leadership.wait_for(|now| now.is_master)).await;
    found.expect("it did not become the master").unwrap().clone()
}

/// The one of these that is master.
async fn any_master<'a>(nodes: &[&'a RaftNode]) -> &'a RaftNode {
    let waits = nodes.iter().map(|node| {
        Box::pin(async {
            until_master(node).await;
            *node
        })
    });
    futures::future::select_all(waits).await.0
}

async fn until_caught_up(master: &RaftNode, id: u64) {
    let mut applied = master.applied();
    timeout(LONG, async {
        while master.progress().and_then(|progress| progress.lag(id)) != Some(0) {
            // Something happens at each heartbeat, but it is not announced.
            let _ = timeout(Duration::from_millis(20), applied.changed()).await;
        }
    })
    .await
    .expect("it did not catch up");
}

async fn until_applied(node: &RaftNode, index: u64) {
    let mut applied = node.applied();
    let there = applied.wait_for(|now| now.last_applied.as_ref().is_some_and(|last| last.index >= index));
    timeout(LONG, there).await.expect("the entry did not arrive").unwrap();
}

fn last(node: &RaftNode) -> u64 {
    node.applied().borrow().last_applied.as_ref().unwrap().index
}

/// Tells the voter as soon as the connection to the master breaks, as a session does.
fn watch_master(host: &Host, node: &RaftNode, master: &Host) {
    let (mut connections, node) = (host.control.connections(), node.clone());
    let (peer, name) = (master.identity.peer_id(), master.peer());
    tokio::spawn(async move {
        connections.wait_for(|peers| peers.contains(&peer)).await.unwrap();
        connections.wait_for(|peers| !peers.contains(&peer)).await.unwrap();
        node.lost(name);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_voters_agree_and_a_follower_says_who_is_master() {
    let hosts = hosts(3).await;
    let nodes = cluster(&hosts).await;
    propose(&nodes[0]).await;
    let index = last(&nodes[0]);
    for node in &nodes[1..] {
        until_applied(node, index).await;
        assert!(node.applied().borrow().state.cluster().is_some());
        let leader = Some((0, hosts[0].peer()));
        assert_eq!(node.leadership().borrow().leader, leader);
        let refused = ProposeError::NotMaster { leader: Some(hosts[0].peer()) };
        assert_eq!(node.propose(nonsense()).await, Err(refused.clone()));
        assert_eq!(node.read().await.unwrap_err(), refused);
        assert!(node.progress().is_none());
    }
    let read = nodes[0].read().await.unwrap();
    assert!(read.last_applied.as_ref().unwrap().index >= index);
    let progress = nodes[0].progress().unwrap();
    assert_eq!(progress.members.len(), 3);
    assert!(progress.members.iter().all(|member| member.role == MemberRole::Voter));
    assert_eq!(progress.membership, nodes[0].membership_log_index());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_that_lose_the_master_elect_another_at_once() {
    let hosts = hosts(3).await;
    let mut nodes = cluster(&hosts).await;
    propose(&nodes[0]).await;
    let old = until_master(&nodes[0]).await;
    watch_master(&hosts[1], &nodes[1], &hosts[0]);
    watch_master(&hosts[2], &nodes[2], &hosts[0]);
    let began = Instant::now();
    hosts[0].kill(nodes.remove(0)).await;
    let master = any_master(&[&nodes[0], &nodes[1]]).await;
    propose(master).await;
    let took = began.elapsed();
    println!("from the master's death to the next answer: {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(until_master(master).await.term > old.term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_that_only_hear_nothing_more_elect_another_too() {
    let hosts = hosts(3).await;
    let mut nodes = cluster(&hosts).await;
    hosts[0].kill(nodes.remove(0)).await;
    let master = any_master(&[&nodes[0], &nodes[1]]).await;
    propose(master).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_stream_to_a_living_master_changes_nothing() {
    let hosts = hosts(3).await;
    let nodes = cluster(&hosts).await;
    let before = until_master(&nodes[0]).await;
    nodes[1].lost(hosts[0].peer());
    nodes[1].lost(hosts[2].peer());
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        propose(&nodes[0]).await;
    }
    let after = until_master(&nodes[0]).await;
    assert_eq!((after.term, after.leader), (before.term, before.leader));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_standby_gets_a_snapshot_when_the_log_is_gone() {
    let hosts = hosts(2).await;
    let nodes = cluster(&hosts[..1]).await;
    for _ in 0..60 {
        propose(&nodes[0]).await;
    }
    let standby = hosts[1].raft(1).await;
    nodes[0].add_standby(1, hosts[1].peer()).await.unwrap();
    nodes[0].add_standby(1, hosts[1].peer()).await.unwrap();
    assert!(matches!(nodes[0].add_standby(1, hosts[0].peer()).await, Err(ChangeError::Refused(_))));
    until_applied(&standby, last(&nodes[0])).await;
    let files = std::fs::read_dir(hosts[1].folder.path().join("snapshots")).unwrap().count();
    assert_eq!(files, 1, "it came as a snapshot");
    assert_eq!(standby.applied().borrow().state.cluster(), nodes[0].applied().borrow().state.cluster());
    until_caught_up(&nodes[0], 1).await;
    assert_eq!(nodes[0].progress().unwrap().members[1].role, MemberRole::Standby);

    let seen = nodes[0].membership_log_index().unwrap();
    let both = BTreeSet::from([0, 1]);
    assert!(matches!(nodes[0].set_voters(both.clone(), Some(seen - 1)).await, Err(ChangeError::Outdated(_))));
    assert!(matches!(nodes[0].set_voters(BTreeSet::from([0, 7]), Some(seen)).await, Err(ChangeError::Refused(_))));
    nodes[0].set_voters(both, Some(seen)).await.unwrap();
    assert_eq!(nodes[0].progress().unwrap().members[1].role, MemberRole::Voter);
    nodes[0].set_voters(BTreeSet::from([0]), None).await.unwrap();
    nodes[0].remove(1).await.unwrap();
    assert_eq!(nodes[0].progress().unwrap().members.len(), 1, "who votes no more is out");
    propose(&nodes[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_voters_are_added_and_one_is_replaced_in_one_change_each() {
    let hosts = hosts(4).await;
    let nodes = cluster(&hosts[..3]).await;
    let voters = |node: &RaftNode| -> Vec<u64> {
        let members = node.progress().unwrap().members;
        members.iter().filter(|member| member.role == MemberRole::Voter).map(|member| member.raft_id).collect()
    };
    assert_eq!(voters(&nodes[0]), [0, 1, 2]);
    let standby = hosts[3].raft(3).await;
    nodes[0].add_standby(3, hosts[3].peer()).await.unwrap();
    until_caught_up(&nodes[0], 3).await;
    nodes[0].set_voters(BTreeSet::from([0, 2, 3]), None).await.unwrap();
    assert_eq!(voters(&nodes[0]), [0, 2, 3]);
    let progress = nodes[0].progress().unwrap();
    assert!(!progress.changing && progress.members.len() == 3, "{progress:?}");
    propose(&nodes[0]).await;
    until_applied(&standby, last(&nodes[0])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mastership_is_handed_over_to_a_voter_that_is_ready() {
    let hosts = hosts(3).await;
    let nodes = cluster(&hosts).await;
    propose(&nodes[0]).await;
    assert_eq!(nodes[1].hand_over().await, Err(HandOverError::NotMaster));
    let (id, peer) = nodes[0].hand_over().await.unwrap();
    let next = usize::try_from(id).unwrap();
    assert_eq!(peer, hosts[next].peer());
    until_master(&nodes[next]).await;
    propose(&nodes[next]).await;
    assert!(matches!(nodes[0].propose(nonsense()).await, Err(ProposeError::NotMaster { .. })));

    // With both others gone there is nobody to take it.
    let others: Vec<usize> = (0..3).filter(|other| *other != next).collect();
    for other in others {
        hosts[other].control.shutdown().await;
    }
    assert!(matches!(nodes[next].hand_over().await, Err(HandOverError::NobodyReady(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_voter_comes_back_with_what_it_had_under_a_new_term() {
    let hosts = hosts(1).await;
    let nodes = cluster(&hosts).await;
    propose(&nodes[0]).await;
    let (before, index) = (until_master(&nodes[0]).await, last(&nodes[0]));
    assert_eq!(nodes[0].hand_over().await, Err(HandOverError::Alone));
    let failed = nodes[0].failed();
    nodes[0].shutdown().await;
    assert!(matches!(nodes[0].propose(nonsense()).await, Err(ProposeError::Stopped(_))));
    assert_eq!(*failed.borrow(), None, "a shutdown is no failure");

    let again = hosts[0].raft(0).await;
    let after = until_master(&again).await;
    assert!(after.term > before.term);
    assert!(last(&again) >= index);
    assert!(again.applied().borrow().state.cluster().is_some());
    propose(&again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_restarts_in_its_process_is_spoken_to_again() {
    let hosts = hosts(3).await;
    let mut nodes = cluster(&hosts).await;
    nodes.remove(2).shutdown().await;
    propose(&nodes[0]).await;
    let index = last(&nodes[0]);
    let again = hosts[2].raft(2).await;
    until_applied(&again, index).await;
    // A majority of three needs it now.
    hosts[1].kill(nodes.remove(1)).await;
    propose(&nodes[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_no_voter_leads_nobody_and_gets_no_vote() {
    let hosts = hosts(4).await;
    let voters: BTreeSet<_> = hosts[..3].iter().map(|host| host.identity.peer_id()).collect();
    let nodes = cluster_among(&hosts[..3], Arc::new(move |peer| voters.contains(peer))).await;
    let before = until_master(&nodes[0]).await;

    let stranger = RpcClient::new(hosts[3].control.clone(), RAFT_PROTOCOL, client::LIMITS);
    let vote =
        |node, committed| WireVote::from(&Vote { leader_id: LeaderId { term: before.term + 9, voted_for: node }, committed });
    let append = |node| Question::Append(Append { vote: vote(node, true), prev: None, entries: Vec::new(), commit: None });
    let candidacy = |node| Candidacy { vote: vote(node, false), last: None, transfer: true };
    // Under an id that nobody has, and under a voter's.
    for node in [77, 1] {
        for what in [append(node), Question::Vote(candidacy(node)), Question::PreVote(candidacy(node))] {
            let reply: Reply = stranger.call(hosts[0].identity.peer_id(), &Ask { to: 0, what }, LONG).await.unwrap();
            let refused = matches!(reply, Reply::Refused(Refused::NoVoter { claimed: 77 } | Refused::NotYou { claimed: 1 }));
            assert!(refused, "{reply:?}");
        }
        let offer = || SnapshotOffer { to: 0, vote: vote(node, true), meta: Bytes(Vec::new()), bytes: 1 };
        let offered = async {
            loop {
                // Like any sender it tries again when the stream is lost.
                let opened = hosts[3].data.open(hosts[0].identity.peer_id(), &[], SNAPSHOT_PROTOCOL, snapshots::LIMITS).await;
                let mut channel = opened.unwrap();
                if channel.send(&offer()).await.is_ok()
                    && let Ok(reply) = channel.expect::<SnapshotReply>().await
                {
                    break reply;
                }
            }
        };
        let reply = timeout(LONG, offered).await.unwrap();
        assert!(matches!(reply, SnapshotReply::Refused(Refused::NoVoter { .. } | Refused::NotYou { .. })), "{reply:?}");
    }
    assert_eq!(nodes[0].leadership().borrow().term, before.term);
    propose(&nodes[0]).await;
}
