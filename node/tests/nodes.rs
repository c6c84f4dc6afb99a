//! Whole nodes in one process, without their keepers: a cluster is made, nodes join, one goes.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tribune_agent::keeper::{Children, ChildrenError};
use tribune_keeper::{ChildId, ChildSpec, ChildStatus, Event, Hello, KeeperStart, OpenSocket, SignalName, SocketAddress};
use tribune_messages::api::{ApiError, ApiRequest, ApiResponse, Query, Status};
use tribune_node::client::{Client, ClientError, Peer, new_token};
use tribune_node::data::DataFolder;
use tribune_node::error::NodeError;
use tribune_node::init::{InitOptions, Initialised, init};
use tribune_node::join::{JoinOptions, join};
use tribune_node::node::{Kept, Node};
use tribune_node::raft::RaftSettings;
use tribune_node::world::World;
use tribune_p2p::{Identity, Multiaddr};
use tribune_raft_store::command::{Order, OrderError, Rejection, SIGNING_CONTEXT, SignedOrder, UserCommand};
use tribune_raft_store::model::{
    CharacteristicKey, ClusterId, KeySignature, PublicKey, RequestId, Signature, Span, Timestamp, VoterPreference,
};

const WITHIN: Duration = Duration::from_secs(30);

/// A keeper that has no children, and starts none.
#[derive(Debug)]
struct NoChildren;

fn done() -> BoxFuture<'static, Result<(), ChildrenError>> {
    async { Ok(()) }.boxed()
}

impl Children for NoChildren {
    fn start(&self, _: ChildSpec) -> BoxFuture<'_, Result<(), ChildrenError>> {
        done()
    }
    fn stop(&self, _: ChildId, _: Option<Duration>) -> BoxFuture<'_, Result<(), ChildrenError>> {
        done()
    }
    fn restart(&self, _: ChildId) -> BoxFuture<'_, Result<(), ChildrenError>> {
        done()
    }
    fn signal(&self, _: ChildId, _: SignalName) -> BoxFuture<'_, Result<(), ChildrenError>> {
        done()
    }
    fn remove(&self, _: ChildId) -> BoxFuture<'_, Result<(), ChildrenError>> {
        done()
    }
    fn list(&self) -> BoxFuture<'_, Result<Vec<ChildStatus>, ChildrenError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn open_socket(&self, _: SocketAddress) -> BoxFuture<'_, Result<OpenSocket, ChildrenError>> {
        async { Err(ChildrenError::Gone) }.boxed()
    }
    fn release_socket(&self, _: SocketAddress) -> BoxFuture<'_, Result<(), ChildrenError>> {
        done()
    }
    fn list_sockets(&self) -> BoxFuture<'_, Result<Vec<OpenSocket>, ChildrenError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn shutdown(&self) -> BoxFuture<'_, Result<(), ChildrenError>> {
        done()
    }
}

/// A node that runs; its keeper lives as long as this does.
struct Running {
    node: Node,
    folder: PathBuf,
    _events: mpsc::Sender<Event>,
}

impl Running {
    async fn start(folder: &Path) -> Result<Self, NodeError> {
        let (events, happened) = mpsc::channel(1);
        let hello = Hello {
            protocol: 1,
            software: "test".into(),
            keeper_pid: std::process::id(),
            run: "run".into(),
            began: KeeperStart::NodeRestart,
            agent_starts: 1,
        };
        let kept = Kept { children: Arc::new(NoChildren), hello, events: happened };
        let node = Node::start_with(DataFolder::open(folder)?, kept, RaftSettings::default(), World::own()).await?;
        Ok(Self { node, folder: folder.to_owned(), _events: events })
    }

    fn client(&self) -> Client {
        Client::over_socket(&self.folder.join("tribune.sock"))
    }

    /// Where it is found over the network.
    fn peer(&self) -> Peer {
        let at = DataFolder::open(&self.folder).unwrap();
        let address = tribune_node::settings::Settings::load(&at).unwrap().control;
        let id = Identity::load(&at.identity()).unwrap().peer_id();
        format!("{address}/p2p/{id}").parse().unwrap()
    }

    async fn status(&self) -> Status {
        match self.client().ask(&ApiRequest::Status, WITHIN).await.unwrap() {
            ApiResponse::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// The status, once it is as the test wants it.
    async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let began = Instant::now();
        loop {
            let status = self.status().await;
            if wanted(&status) {
                return status;
            }
            assert!(began.elapsed() < WITHIN, "{what}: {status:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stop(self) {
        self.node.shutdown(Duration::from_secs(10)).await;
    }

    async fn token(&self) -> String {
        let token = new_token();
        let command = UserCommand::CreateToken { hash: Signature::of(token.as_bytes()), valid: Span::from_secs(600), node: None };
        self.client().order(command, WITHIN).await.unwrap();
        token
    }
}

fn any() -> Option<Multiaddr> {
    // An address of this process's own: a node that starts again wants its port again, and any connection may have taken it on 127.0.0.1.
    let own = std::net::Ipv4Addr::from_bits(0x7f40_0000 + std::process::id() % (1 << 22));
    Some(format!("/ip4/{own}/tcp/0").parse().unwrap())
}

fn first(folder: &Path) -> Initialised {
    init(InitOptions {
        data: folder.join("n1"),
        name: "n1".parse().unwrap(),
        control: any(),
        data_address: any(),
        platform: None,
        runners: BTreeMap::new(),
        process_group: None,
        admin: "ada".parse().unwrap(),
        admin_key: folder.join("ada.key"),
        voter: VoterPreference::May,
    })
    .unwrap()
}

async fn another(folder: &Path, name: &str, peer: &str, token: String) -> Result<(), NodeError> {
    let options = JoinOptions {
        data: folder.join(name),
        name: name.parse().unwrap(),
        place: Default::default(),
        control: any(),
        data_address: any(),
        platform: None,
        runners: BTreeMap::new(),
        process_group: None,
        voter: VoterPreference::May,
        peer: peer.parse().unwrap(),
        token,
    };
    join(options).await.map(|_| ())
}

fn label(node: &str) -> UserCommand {
    let key = CharacteristicKey::new("site").unwrap();
    let desired = tribune_raft_store::model::Desired { value: "north".into(), required: false };
    UserCommand::LabelNode { node: node.parse().unwrap(), set: BTreeMap::from([(key, desired)]), unset: Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_node_is_made_at_its_first_run_and_is_there_after_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let made = first(folder.path());
    let node = Running::start(&folder.path().join("n1")).await.unwrap();
    let status = node.until("a master", |status| status.master.is_some()).await;
    assert_eq!(status.cluster, made.cluster);
    assert_eq!((status.role.as_str(), status.nodes), ("voter", 1));
    node.client().order(label("n1"), WITHIN).await.unwrap();
    assert!(!folder.path().join("n1/birth.json").exists());
    node.stop().await;

    let node = Running::start(&folder.path().join("n1")).await.unwrap();
    node.until("a master again", |status| status.master.is_some()).await;
    let ApiResponse::Nodes(nodes) = node.client().ask(&ApiRequest::Query(Query::Nodes), WITHIN).await.unwrap() else { panic!() };
    assert_eq!(nodes[0].node.desired.len(), 1, "what was said before is still known");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_with_tokens_and_any_of_them_answers_for_the_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let made = first(folder.path());
    let n1 = Running::start(&folder.path().join("n1")).await.unwrap();
    n1.until("a master", |status| status.master.is_some()).await;
    let peer = &made.addresses[0];
    another(folder.path(), "n2", peer, n1.token().await).await.unwrap();
    let n2 = Running::start(&folder.path().join("n2")).await.unwrap();
    let status = n2.until("n2 has a session", |status| status.master.is_some()).await;
    assert_eq!(status.master.unwrap().as_str(), "n1");

    // By the socket of n2, signed with its key, which may only look; and by a user's key, handed on to the master.
    let refused = n2.client().order(label("n2"), WITHIN).await.unwrap_err();
    assert!(
        matches!(&refused, ClientError::Api(ApiError::Rejected(why)) if matches!(**why, Rejection::Role { .. })),
        "{refused}"
    );
    let ApiResponse::Nodes(nodes) = n2.client().ask(&ApiRequest::Query(Query::Nodes), WITHIN).await.unwrap() else { panic!() };
    assert_eq!(nodes.len(), 2);
    let mut user = Client::over_network(Identity::load(&made.admin_key).unwrap(), vec![n2.peer()]).await.unwrap();
    user.order(label("n2"), WITHIN).await.unwrap();

    let again = another(folder.path(), "n3", peer, "wrong".into()).await.unwrap_err().to_string();
    assert!(again.contains("token"), "{again}");
    let taken = Rejection::NameTaken { node: "n2".parse().unwrap() };
    std::fs::create_dir(folder.path().join("other")).unwrap();
    let twice = another(&folder.path().join("other"), "n2", peer, n1.token().await).await.unwrap_err();
    assert!(matches!(&twice, NodeError::Rejected(why) if *why == taken), "{twice}");
    n2.stop().await;
    n1.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_handed_on_with_a_wrong_signature_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let made = first(folder.path());
    let n1 = Running::start(&folder.path().join("n1")).await.unwrap();
    n1.until("a master", |status| status.master.is_some()).await;
    another(folder.path(), "n2", &made.addresses[0], n1.token().await).await.unwrap();
    let n2 = Running::start(&folder.path().join("n2")).await.unwrap();
    n2.until("n2 has a session", |status| status.master.is_some()).await;

    let (ada, stranger) = (Identity::load(&made.admin_key).unwrap(), Identity::generate());
    let order = |cluster| {
        let expires = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap() + WITHIN;
        let expires = Timestamp(expires.as_millis().try_into().unwrap());
        Order { cluster, request: RequestId::new([7; 16]), expires, command: label("n2") }
    };
    let signed = |by: &Identity, order: &Order| {
        let content = serde_json::to_string(order).unwrap();
        let signature = KeySignature::new(by.sign(&[SIGNING_CONTEXT, content.as_bytes()].concat()));
        SignedOrder { key: PublicKey::new(ada.public_key()), content, signature }
    };
    let good = signed(&ada, &order(made.cluster));
    let changed = SignedOrder { content: good.content.replace("north", "south"), ..good.clone() };
    let foreign = signed(&stranger, &order(made.cluster));
    let mut user = Client::over_network(Identity::load(&made.admin_key).unwrap(), vec![n2.peer()]).await.unwrap();
    for wrong in [changed, foreign] {
        let refused = user.ask(&ApiRequest::Order(Box::new(wrong)), WITHIN).await.unwrap_err();
        let ClientError::Api(ApiError::Rejected(why)) = &refused else { panic!("{refused}") };
        assert_eq!(**why, Rejection::Order { error: OrderError::Signature(good.key) });
        assert!(refused.to_string().contains("signature is wrong: it was changed on its way"), "{refused}");
    }
    let elsewhere = signed(&ada, &order(ClusterId::new([9; 16])));
    let refused = user.ask(&ApiRequest::Order(Box::new(elsewhere)), WITHIN).await.unwrap_err();
    assert!(refused.to_string().contains("the order is for cluster 0909"), "{refused}");

    // None of them used up the request's id, and nothing came of them.
    let desired = async || match n1.client().ask(&ApiRequest::Query(Query::Nodes), WITHIN).await.unwrap() {
        ApiResponse::Nodes(nodes) => nodes.iter().map(|status| status.node.desired.len()).sum::<usize>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(desired().await, 0);
    user.ask(&ApiRequest::Order(Box::new(good)), WITHIN).await.unwrap();
    assert_eq!(desired().await, 1);
    n2.stop().await;
    n1.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_become_voters_and_another_is_master_when_the_master_stops() {
    let folder = tempfile::tempdir().unwrap();
    let made = first(folder.path());
    let n1 = Running::start(&folder.path().join("n1")).await.unwrap();
    n1.until("a master", |status| status.master.is_some()).await;
    let mut others = Vec::new();
    for name in ["n2", "n3"] {
        another(folder.path(), name, &made.addresses[0], n1.token().await).await.unwrap();
        others.push(Running::start(&folder.path().join(name)).await.unwrap());
    }
    for node in [&n1, &others[0], &others[1]] {
        node.until("three voters", |status| status.voters.len() == 3 && status.role == "voter").await;
    }
    n1.stop().await;
    for node in &others {
        let status = node.until("another master", |status| status.master.as_ref().is_some_and(|master| master.as_str() != "n1"));
        status.await;
    }
    for node in others {
        node.stop().await;
    }
}
