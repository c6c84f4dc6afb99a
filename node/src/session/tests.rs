//! Sessions with a scripted master, over the real network.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio::time::timeout;
use tribune_agent::agent::UpdateStanding;
use tribune_messages::PEER_PROTOCOL;
use tribune_messages::node::{Fence, FromMaster, FromNode, Orders, ReportSent, Want};
use tribune_messages::store::{PeerRequest, PeerResponse};
use tribune_messages::trust::{ClusterView, ViewPrincipal};
use tribune_p2p::network::Incoming;
use tribune_p2p::rpc::serve_rpc;
use tribune_p2p::{AllowList, Identity, NetworkConfig, Who};
use tribune_raft_store::model::{Generation, NodeReport, Outcome, PublicKey, RaftRole, Role, UpdateId};

use super::*;
use crate::belief::tests::view;
use crate::data::{DataFolder, replace_json};
use crate::recovery::believe::tests::signed;

const WITHIN: Duration = Duration::from_secs(10);

/// An agent that only remembers what it heard.
#[derive(Clone)]
struct Scripted {
    directed: mpsc::UnboundedSender<Vec<Directive>>,
    standing: watch::Receiver<Standing>,
}

impl Acting for Scripted {
    fn direct(&self, directives: Vec<Directive>) {
        let _ = self.directed.send(directives);
    }
    fn lease(&self, _: Lease) {}
    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }
}

/// The only voter, which says of itself that it is the master in the term that the test sets.
struct Voter {
    network: Network,
    term: Arc<Mutex<u64>>,
    sessions: Incoming,
}

impl Voter {
    async fn start(node: PeerId) -> Self {
        let network = network().await;
        let mut list = AllowList::new();
        list.add_member(node, []);
        network.set_allowed(list);
        let term = Arc::new(Mutex::new(1));
        let (told, me) = (term.clone(), record_peer(&network.peer_id()));
        let questions = network.serve(PEER_PROTOCOL, Who::Members, Limits::default()).unwrap();
        tokio::spawn(serve_rpc(questions, 4, move |_, _, request: PeerRequest| {
            assert_eq!(request, PeerRequest::WhoIsMaster);
            let master = Some(NamedMaster { epoch: 0, term: *told.lock().unwrap(), peer: me.clone() });
            async move { PeerResponse::Master { master, none_for: None, recovery: None } }
        }));
        let sessions = network.serve(SESSION_PROTOCOL, Who::Members, LIMITS).unwrap();
        Self { network, term, sessions }
    }

    async fn next(&mut self) -> Channel {
        timeout(WITHIN, self.sessions.next()).await.unwrap().unwrap().channel
    }
}

async fn network() -> Network {
    let listen = ["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    Network::start(&Identity::generate(), NetworkConfig::new("control", listen)).await.unwrap()
}

/// A node with a session, and what a test holds of it.
struct Rig {
    voter: Voter,
    view: ClusterView,
    directed: mpsc::UnboundedReceiver<Vec<Directive>>,
    standing: watch::Sender<Standing>,
    belief: watch::Receiver<Arc<Belief>>,
    seen: watch::Receiver<MasterSeen>,
    problems: Problems,
    shown: mpsc::Sender<Shown>,
    admin: Identity,
}

async fn rig(folder: &Path) -> Rig {
    let (control, data) = (network().await, network().await);
    let me = control.peer_id();
    let voter = Voter::start(me).await;
    let mut view = view(&[("m", voter.network.peer_id(), RaftRole::Voter { raft_id: 0 }), ("n", me, RaftRole::Member)]);
    view.nodes[0].control = voter.network.listening().iter().map(ToString::to_string).collect();
    let admin = Identity::generate();
    view.principals.push(ViewPrincipal { key: PublicKey::new(admin.public_key()), role: Role::Admin });
    let folder = DataFolder::make(folder).unwrap();
    replace_json(&folder.cluster(), &Belief::first("n".parse().unwrap(), view.clone())).unwrap();
    let belief = BeliefKeeper::open(&folder).unwrap();
    control.set_allowed(belief.watch().borrow().control_list());
    let (to_directed, directed) = mpsc::unbounded_channel();
    let (standing, stands) = watch::channel(Standing::default());
    let (seen, sees) = watch::channel(MasterSeen::nobody());
    let problems = Problems::none();
    let (believed, troubles) = (belief.watch(), problems.clone());
    let session = Session {
        me,
        settings: Settings::new("n".parse().unwrap(), None, None, None),
        belief,
        peers: crate::peers::client(&control),
        control,
        data,
        seat: watch::channel(None).1,
        broken: watch::channel(None).1,
        agent: Scripted { directed: to_directed, standing: stands },
        seen,
        named: watch::Sender::new(None),
        problems,
    };
    let (shown, shows) = mpsc::channel(1);
    let rig = Rig { voter, view, directed, standing, belief: believed, seen: sees, problems: troubles, shown, admin };
    tokio::spawn(session.run(shows));
    rig
}

impl Rig {
    fn orders(&self, term: u64, sequence: u64) -> FromMaster {
        let fence = Fence { epoch: 0, term, sequence };
        let orders = Orders { fence, name: "n".parse().unwrap(), view: self.view.clone(), directives: Vec::new() };
        FromMaster::Orders(Box::new(orders))
    }

    fn report(&self, reports: &[NodeReport]) {
        let update = UpdateStanding { revision: 1, round: 0, reports: reports.to_vec(), ready: true };
        self.standing.send_modify(|standing| standing.updates = BTreeMap::from([(UpdateId(7), update)]));
    }
}

/// The next report; what else the node says is passed over.
async fn report(channel: &mut Channel) -> ReportSent {
    let next = async {
        loop {
            if let FromNode::Report(sent) = channel.expect().await.unwrap() {
                return sent;
            }
        }
    };
    timeout(WITHIN, next).await.unwrap()
}

#[tokio::test]
async fn a_node_finds_the_master_says_what_it_has_and_writes_down_what_it_hears_before_it_acts() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = rig(folder.path()).await;
    let mut channel = rig.voter.next().await;
    assert!(matches!(channel.expect().await.unwrap(), FromNode::State(_)), "first of all it says what it has");
    channel.send(&rig.orders(1, 5)).await.unwrap();
    timeout(WITHIN, rig.directed.recv()).await.unwrap().unwrap();
    let fence = Fence { epoch: 0, term: 1, sequence: 5 };
    assert_eq!(rig.belief.borrow().fence, fence);
    let on_disk = BeliefKeeper::open(&DataFolder::open(folder.path()).unwrap()).unwrap().watch().borrow().fence;
    assert_eq!(on_disk, fence);
    assert_eq!(rig.seen.borrow().master, Some(rig.voter.network.peer_id()));

    rig.report(&[NodeReport::Staged]);
    assert_eq!(report(&mut channel).await.report, NodeReport::Staged);
    rig.report(&[NodeReport::Staged, NodeReport::Pending]);
    let second = report(&mut channel).await;
    assert_eq!((second.number, second.report), (2, NodeReport::Pending));
    let alive = async {
        loop {
            if let FromNode::Alive { ready } = channel.expect().await.unwrap()
                && !ready.is_empty()
            {
                return ready;
            }
        }
    };
    assert!(timeout(WITHIN, alive).await.unwrap().contains(&UpdateId(7)));
}

#[tokio::test]
async fn a_new_session_begins_anew_and_a_master_of_another_term_or_an_older_fence_is_not_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = rig(folder.path()).await;
    rig.report(&[NodeReport::Staged]);
    let mut channel = rig.voter.next().await;
    assert_eq!(report(&mut channel).await.number, 1);
    channel.send(&rig.orders(1, 5)).await.unwrap();
    timeout(WITHIN, rig.directed.recv()).await.unwrap().unwrap();
    drop(channel);

    *rig.voter.term.lock().unwrap() = 2;
    let mut channel = rig.voter.next().await;
    assert_eq!(report(&mut channel).await.number, 1, "the new master is told everything");
    channel.send(&rig.orders(3, 6)).await.unwrap();

    let mut channel = rig.voter.next().await;
    channel.send(&rig.orders(2, 9)).await.unwrap();
    timeout(WITHIN, rig.directed.recv()).await.unwrap().unwrap();
    channel.send(&rig.orders(2, 8)).await.unwrap();
    rig.voter.next().await;
    assert!(rig.directed.try_recv().is_err(), "neither of the two was obeyed");
    assert_eq!(rig.belief.borrow().fence, Fence { epoch: 0, term: 2, sequence: 9 });
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_obeyed_and_is_said_until_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = rig(folder.path()).await;
    // As on a full disk, the draft cannot be made.
    let draft = folder.path().join(".cluster.json.new");
    std::fs::create_dir(&draft).unwrap();
    let mut channel = rig.voter.next().await;
    channel.send(&rig.orders(1, 5)).await.unwrap();
    let mut channel = rig.voter.next().await;
    assert!(rig.directed.try_recv().is_err(), "it was obeyed");
    let problems = rig.problems.all().concat();
    assert!(problems.contains("cluster.json") && problems.contains("this node follows no master"), "{problems}");

    std::fs::remove_dir(&draft).unwrap();
    channel.send(&rig.orders(1, 6)).await.unwrap();
    timeout(WITHIN, rig.directed.recv()).await.unwrap().unwrap();
    assert_eq!(rig.problems.all(), Vec::<String>::new());
}

#[tokio::test]
async fn on_a_removed_node_what_had_begun_goes_on_and_then_each_update_ends_as_it_ended_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = rig(folder.path()).await;
    let mut channel = rig.voter.next().await;
    rig.report(&[NodeReport::Staged, NodeReport::Started]);
    rig.view.nodes.retain(|node| node.name.as_str() == "m");
    channel.send(&rig.orders(1, 5)).await.unwrap();
    timeout(WITHIN, rig.directed.recv()).await.unwrap().unwrap();
    // The new modules hold: what it changed to stays, and nobody else will say so.
    rig.report(&[NodeReport::Staged, NodeReport::Started, NodeReport::Settled { current: Generation::default() }]);
    let directives = timeout(WITHIN, rig.directed.recv()).await.expect("it is told when it has come to its end").unwrap();
    let ended = |outcome| Want::Ended { outcome, reason: Some("this node was removed from the cluster".into()) };
    let wants: Vec<_> = directives.into_iter().map(|directive| (directive.update, directive.want)).collect();
    assert_eq!(wants, [(UpdateId(7), ended(Outcome::Completed))]);

    // One that ran until a restart, and was taken back here.
    rig.report(&[NodeReport::Regressed { current: Generation::default(), why: None }]);
    let directives = timeout(WITHIN, rig.directed.recv()).await.unwrap().unwrap();
    assert_eq!(directives[0].want, ended(Outcome::Regressed));
}

#[tokio::test]
async fn a_recovery_that_an_admin_signed_ends_the_session_and_is_on_disk_and_the_master_of_before_is_not_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = rig(folder.path()).await;
    let mut channel = rig.voter.next().await;
    channel.send(&rig.orders(1, 5)).await.unwrap();
    timeout(WITHIN, rig.directed.recv()).await.unwrap().unwrap();

    let (cluster, survivor) = (rig.view.cluster, Identity::generate());
    let forged = signed(&Identity::generate(), (cluster, 1), ("r", &survivor), now());
    let genuine = signed(&rig.admin, (cluster, 1), ("r", &survivor), now());
    for (recovery, expected) in
        [(forged, None), (genuine.clone(), Some(RecoveryAnswer::Taken)), (genuine, Some(RecoveryAnswer::Known))]
    {
        let (answer, answered) = tokio::sync::oneshot::channel();
        rig.shown.send(Shown { recovery, answer }).await.unwrap();
        let answer = timeout(WITHIN, answered).await.unwrap().unwrap();
        match expected {
            Some(expected) => assert_eq!(answer, expected),
            None => assert!(matches!(&answer, RecoveryAnswer::Refused { why } if why.contains("no admin's")), "{answer:?}"),
        }
    }
    let belief = BeliefKeeper::open(&DataFolder::open(folder.path()).unwrap()).unwrap().watch().borrow().clone();
    assert_eq!(belief.voter_peers(), [survivor.peer_id()].into());
    assert_eq!(belief.fence, Fence { epoch: 1, term: 0, sequence: 0 });
    assert_eq!(rig.seen.borrow().master, None);
    // The stream is gone, or what comes on it is not taken.
    let _ = channel.send(&rig.orders(9, 9)).await;
    let over = async { while let Ok(Some(_)) = channel.recv::<FromNode>().await {} };
    timeout(WITHIN, over).await.expect("the session goes on");
    assert!(rig.directed.try_recv().is_err(), "the master of before was obeyed");
}
