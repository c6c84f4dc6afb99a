//! What the tests have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;
use tribune_messages::api::{ApiError, ApiRequest, ApiResponse, ApiResult, Query, UpdateInfo};
use tribune_messages::join::{JoinRequest, JoinResponse};
use tribune_messages::node::{Directive, FromMaster, FromNode, NodeState, ReportSent, Want};
use tribune_messages::{PEER_PROTOCOL, SESSION_PROTOCOL};
use tribune_p2p::rpc::RpcClient;
use tribune_p2p::{AllowList, Channel, Identity, Limits, Multiaddr, Network, NetworkConfig};
use tribune_raft_store::command::{
    Accepted, Birth, Body, MasterCommand, NewNode, Order, SIGNING_CONTEXT, SignedOrder, UserCommand,
};
use tribune_raft_store::model::{
    ClusterId, Facts, Generation, KeySignature, NodeName, NodeReport, PackageId, Phase, Platform, PrincipalName, PublicKey,
    RequestId, Role, Span, Targets, Timestamp, UpdateId, UpdateKind, UpdateOptions, UpdateRequest, VoterPreference,
};

use super::super::{Caller, Master, Parts, SESSION_LIMITS, from_peer};
use crate::raft::{RaftNode, RaftRuntime, RaftSettings};
use crate::store::PackageStore;

const LONG: Duration = Duration::from_secs(30);
const CLUSTER: ClusterId = ClusterId::new([7; 16]);

/// Fails loudly where something would be waited for without end.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(LONG, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come within {LONG:?}"),
    }
}

pub(super) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// One voter that is the master, and an admin.
pub(super) struct Cluster {
    pub folder: TempDir,
    pub raft: RaftNode,
    pub master: Master,
    pub store: PackageStore,
    pub admin: Identity,
    me: Identity,
    control: Network,
    members: Vec<tribune_p2p::PeerId>,
}

/// A process must not end under a store that is open: RocksDB aborts it.
impl Drop for Cluster {
    fn drop(&mut self) {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.raft.shutdown()));
    }
}

async fn network(identity: &Identity, name: &'static str) -> Network {
    let loopback: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
    Network::start(identity, NetworkConfig::new(name, [loopback])).await.unwrap()
}

fn new_node(text: &str, identity: &Identity, voter: VoterPreference) -> NewNode {
    let facts = Facts { platform: Platform::here(), voter, ..Facts::default() };
    NewNode { name: name(text), peer: from_peer(&identity.peer_id()), key: PublicKey::new(identity.public_key()), facts }
}

impl Cluster {
    pub(super) async fn new() -> Self {
        Self::keeping(crate::store::KEPT_FOR).await
    }

    /// The same, where what no package needs is kept so long.
    pub(super) async fn keeping(kept_for: Duration) -> Self {
        let (me, admin) = (Identity::generate(), Identity::generate());
        let folder = tempfile::tempdir().unwrap();
        let (control, data) = (network(&me, "control").await, network(&me, "data").await);
        let raft_folder = folder.path().join("raft");
        let raft = RaftNode::start_on(
            RaftRuntime::current(),
            0,
            &raft_folder,
            (&control, &data),
            Arc::new(|_| true),
            RaftSettings::default(),
        )
        .await
        .unwrap();
        raft.initialize(from_peer(&me.peer_id())).await.unwrap();
        soon("the mastership", raft.leadership().wait_for(|now| now.is_master)).await.unwrap();
        let birth = Birth {
            cluster: CLUSTER,
            node: new_node("first", &me, VoterPreference::May),
            admin: PrincipalName::new("ada").unwrap(),
            admin_key: PublicKey::new(admin.public_key()),
        };
        raft.propose(Body::Master(Box::new(MasterCommand::Create(birth)))).await.unwrap().unwrap();
        let store = PackageStore::open_keeping(folder.path().join("packages"), data, 0, kept_for).await.unwrap();
        let peers = RpcClient::new(control.clone(), PEER_PROTOCOL, Limits::default());
        let parts = Parts { raft: raft.clone(), name: name("first"), control: control.clone(), peers, store: store.clone() };
        let master = Master::start(parts).unwrap();
        let mut reign = master.shared.reign.clone();
        soon("the reign", reign.wait_for(Option::is_some)).await.unwrap();
        Self { folder, raft, master, store, admin, me, control, members: Vec::new() }
    }

    pub(super) fn ada(&self) -> Caller {
        Caller { role: Some(Role::Admin), name: Some("ada".into()), removed: false }
    }

    pub(super) async fn order(&self, request: u8, command: UserCommand) -> Result<Accepted, ApiError> {
        let expires = Timestamp(super::super::reign::wall_clock().0 + 60_000);
        let order = Order { cluster: CLUSTER, request: RequestId::new([request; 16]), expires, command };
        let content = serde_json::to_string(&order).unwrap();
        let signature = KeySignature::new(self.admin.sign(&[SIGNING_CONTEXT, content.as_bytes()].concat()));
        let signed = SignedOrder { key: PublicKey::new(self.admin.public_key()), content, signature };
        // In a task, as an API server has it.
        let master = self.master.clone();
        let answering = tokio::spawn(async move { master.answer(ApiRequest::Order(Box::new(signed)), &Caller::default()).await });
        match soon("an answer", answering).await.unwrap()? {
            ApiResponse::Accepted(accepted) => Ok(accepted),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn ask(&self, query: Query) -> ApiResult {
        soon("an answer", self.master.answer(ApiRequest::Query(query), &self.ada())).await
    }

    pub(super) async fn update(&self, update: UpdateId, after: Option<u64>) -> UpdateInfo {
        match self.ask(Query::Update { update, after }).await.unwrap() {
            ApiResponse::Update(info) => *info,
            other => panic!("{other:?}"),
        }
    }

    /// Waits, by asking for what is newer, until the update is in a phase.
    pub(super) async fn until(&self, update: UpdateId, there: impl Fn(&Phase) -> bool) -> UpdateInfo {
        let mut info = self.update(update, None).await;
        while !there(&info.update.phase) {
            assert!(!info.update.phase.ended(), "{:?}", info.update);
            info = self.update(update, Some(info.index)).await;
        }
        info
    }

    /// Brings a node into the cluster, with a token.
    pub(super) async fn join(&mut self, text: &str) -> Script {
        let identity = Identity::generate();
        let token = format!("token of {text}");
        let hash = tribune_raft_store::model::Signature::of(token.as_bytes());
        let request = 200 + u8::try_from(self.members.len()).unwrap();
        self.order(request, UserCommand::CreateToken { hash, valid: Span::from_secs(60), node: None }).await.unwrap();
        let node = new_node(text, &identity, VoterPreference::Never);
        let joined = self.master.join(JoinRequest { token, node: node.clone(), place: Default::default() }).await;
        let JoinResponse::Joined(view) = joined else { panic!("{joined:?}") };
        assert!(view.nodes.iter().any(|node| node.name == name(text)));
        self.members.push(identity.peer_id());
        let mut list = AllowList::new();
        for member in &self.members {
            list.add_member(*member, []);
        }
        self.control.set_allowed(list);
        let network = network(&identity, "control").await;
        let mut list = AllowList::new();
        list.add_member(self.me.peer_id(), self.control.listening());
        network.set_allowed(list);
        Script::connect(network, self.me.peer_id(), node.facts).await
    }

    /// Uploads a file; `cut` bytes of it at most. In a task, as an API server has it.
    pub(super) async fn upload(&self, file: &Path, cut: Option<usize>) -> ApiResult {
        let bytes = std::fs::read(file).unwrap();
        let (near, far) = tokio::io::duplex(4096);
        let (mut sender, _receiver) = Channel::new(near, Limits::default()).split();
        let (_sender, mut receiver) = Channel::new(far, Limits::default()).split();
        let sending = async {
            sender.begin_body(bytes.len() as u64).unwrap();
            // The master may stop reading.
            let _ = sender.write_body(&bytes[..cut.unwrap_or(bytes.len())]).await;
            drop((sender, _receiver));
        };
        let (master, ada, size) = (self.master.clone(), self.ada(), bytes.len() as u64);
        let taking = tokio::spawn(async move { master.upload(size, &mut receiver, &ada).await });
        soon("an upload", async { tokio::join!(taking, sending).0 }).await.unwrap()
    }

    /// Builds, uploads and publishes a package with one module.
    pub(super) async fn publish(&self, request: u8, version: &str) -> PackageId {
        let built = self.build(version);
        let answer = self.upload(&built.1, None).await.unwrap();
        assert_eq!(answer, ApiResponse::Uploaded { packages: BTreeSet::from([built.0]), copies: 1 });
        let published = self.order(request, UserCommand::Publish { packages: BTreeSet::from([built.0]) }).await.unwrap();
        assert_eq!(published, Accepted::Published { packages: BTreeSet::from([built.0]), copies: 1 });
        built.0
    }

    pub(super) fn build(&self, version: &str) -> (PackageId, PathBuf) {
        let folder = self.folder.path().join(version);
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!(
            "[package]\nname = \"billing\"\nversion = \"{version}\"\n[[module]]\nname = \"tables\"\nplatform = \"any\"\npath = \"tables\"\n"
        );
        std::fs::write(folder.join("tribune.toml"), text).unwrap();
        std::fs::write(folder.join("tables"), format!("the tables of {version} ").repeat(40_000)).unwrap();
        let file = folder.join("billing.tpkg");
        let built = tribune_package::build_package(&folder.join("tribune.toml"), &file).unwrap();
        (built.id, file)
    }

    pub(super) async fn submit(&self, request: u8, node: &str, package: PackageId) -> Result<UpdateId, ApiError> {
        let targets = Targets { nodes: BTreeMap::from([(name(node), BTreeSet::from([package]))]), classes: BTreeMap::new() };
        let update = UpdateRequest { kind: UpdateKind::Install, targets, options: UpdateOptions::default() };
        match self.order(request, UserCommand::Submit { request: update }).await? {
            Accepted::Update { update } => Ok(update),
            other => panic!("{other:?}"),
        }
    }
}

/// A node's side of a session.
pub(super) struct Script {
    network: Network,
    master: tribune_p2p::PeerId,
    channel: Channel,
    facts: Facts,
    current: Generation,
    number: u64,
    directives: Vec<Directive>,
}

impl Script {
    async fn connect(network: Network, master: tribune_p2p::PeerId, facts: Facts) -> Self {
        let channel = network.open(master, &[], SESSION_PROTOCOL, SESSION_LIMITS).await.unwrap();
        let mut script =
            Self { network, master, channel, facts, current: Generation::default(), number: 0, directives: Vec::new() };
        script.state([]).await;
        script.orders().await;
        script
    }

    /// The same node in a new session.
    pub(super) async fn again(self) -> Self {
        let Self { network, master, channel, facts, .. } = self;
        drop(channel);
        Self::connect(network, master, facts).await
    }

    /// Says what the node has.
    pub(super) async fn state(&mut self, open: impl IntoIterator<Item = UpdateId>) {
        let state = NodeState {
            facts: self.facts.clone(),
            current: self.current.clone(),
            ephemeral: None,
            kept: BTreeMap::new(),
            apart: None,
            open: open.into_iter().collect(),
            broken: None,
        };
        self.channel.send(&FromNode::State(Box::new(state))).await.unwrap();
    }

    /// Hears the next orders.
    async fn orders(&mut self) {
        loop {
            let heard = soon("orders", self.channel.expect::<FromMaster>()).await.unwrap();
            if let FromMaster::Orders(orders) = heard {
                self.directives = orders.directives;
                return;
            }
        }
    }

    /// Waits until the node is to come to something.
    pub(super) async fn until(&mut self, update: UpdateId, wanted: impl Fn(&Want) -> bool) -> Directive {
        loop {
            if let Some(found) = self.directives.iter().find(|one| one.update == update && wanted(&one.want)) {
                return found.clone();
            }
            self.orders().await;
        }
    }

    /// Reports, and waits until the report is taken.
    pub(super) async fn report(&mut self, directive: &Directive, report: NodeReport) {
        self.number += 1;
        let Directive { update, revision, round, .. } = *directive;
        let sent = ReportSent { number: self.number, update, revision, round, report };
        self.channel.send(&FromNode::Report(sent)).await.unwrap();
        loop {
            match soon("a receipt", self.channel.expect::<FromMaster>()).await.unwrap() {
                FromMaster::Taken { number } => {
                    assert_eq!(number, self.number);
                    return;
                }
                FromMaster::Orders(orders) => self.directives = orders.directives,
                FromMaster::Over => panic!("the session is over"),
            }
        }
    }

    pub(super) async fn alive(&mut self, ready: impl IntoIterator<Item = UpdateId>) {
        self.channel.send(&FromNode::Alive { ready: ready.into_iter().collect() }).await.unwrap();
    }

    /// Fetched, staged, changed over and settled, as the master wants it.
    pub(super) async fn install(&mut self, update: UpdateId) {
        let staged = self.until(update, |want| *want == Want::Staged).await;
        assert_eq!(staged.manifests.len(), 1);
        self.report(&staged, NodeReport::Staged).await;
        let ready = self.until(update, |want| *want == Want::Ready).await;
        self.report(&ready, NodeReport::Pending).await;
        self.report(&ready, NodeReport::Ready).await;
        self.alive([update]).await;
        let go = self.until(update, |want| *want == Want::Settled).await;
        self.report(&go, NodeReport::Started).await;
        let changes = &go.plan.changes;
        let packages = changes.iter().filter_map(|change| Some((change.name.clone(), change.to?))).collect();
        let modules = go.plan.modules.iter().map(|(path, module)| (path.clone(), module.signature)).collect();
        self.current = Generation { number: self.current.number + 1, replaced: None, packages, modules };
        self.report(&go, NodeReport::Settled { current: self.current.clone() }).await;
    }
}
