//! A cluster's record for tests, changed only by applying entries.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use tribune_raft_store::command::{
    Accepted, Birth, Body, Entry, Evidence, JoinAs, MasterCommand, NewNode, Order, Response, SignedOrder, UserCommand,
};
use tribune_raft_store::model::*;
use tribune_raft_store::record::{LogPlace, Record};

/// The log index of the membership under which all copies were counted.
const MEMBERSHIP: u64 = 1;

/// A record, and the admin who changes it.
pub struct Fleet {
    /// The record.
    pub record: Record,
    /// The index of the last entry.
    pub index: u64,
    /// The master's time.
    pub time: Timestamp,
    admin: SigningKey,
    requests: u64,
}

/// Checks and wraps a node's name.
pub fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// Checks and wraps the names of nodes.
pub fn nodes(names: &[&str]) -> BTreeSet<NodeName> {
    names.iter().map(|name| node(name)).collect()
}

/// What a node says of itself at first.
pub fn facts() -> Facts {
    Facts { platform: "linux/amd64".parse().unwrap(), version: "0.1.0".into(), ..Facts::default() }
}

fn new_node(name: &str) -> NewNode {
    new_node_with(name, name)
}

/// A node whose identity is made of this text.
pub fn new_node_with(name: &str, identity: &str) -> NewNode {
    let key = SigningKey::from_bytes(Signature::of(identity.as_bytes()).as_bytes());
    let peer = format!("peer{}", identity.replace(|c: char| !c.is_ascii_alphanumeric(), "x"));
    let key = PublicKey::new(key.verifying_key().to_bytes());
    NewNode { name: node(name), peer: PeerId::new(peer).unwrap(), key, facts: facts() }
}

/// A manifest; each module is the JSON of one without its signature and size.
pub fn manifest(name: &str, version: &str, fields: Value, modules: &[Value]) -> Manifest {
    let modules: Vec<Value> = modules
        .iter()
        .map(|module| {
            let mut module = module.clone();
            module["signature"] = json!(Signature::of(format!("{name} {version} {module}").as_bytes()));
            module["size"] = json!(1000);
            module
        })
        .collect();
    let mut whole = json!({ "format": 1, "name": name, "version": version, "module": modules });
    for (key, value) in fields.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    let manifest: Manifest = serde_json::from_value(whole).unwrap();
    Manifest::parse(&manifest.canonical()).unwrap()
}

/// A request to install packages on nodes.
pub fn install(names: &[&str], packages: &[PackageId]) -> UpdateRequest {
    let packages: BTreeSet<_> = packages.iter().copied().collect();
    let targets = Targets { nodes: names.iter().map(|name| (node(name), packages.clone())).collect(), classes: BTreeMap::new() };
    UpdateRequest { kind: UpdateKind::Install, targets, options: UpdateOptions::default() }
}

/// A process on a node.
pub fn process(name: &str, pid: u32) -> ProcessRef {
    ProcessRef { name: name.to_owned(), pid, start_time: u64::from(pid) * 100 }
}

/// A process accepts.
pub fn accepts(process: ProcessRef) -> BallotCast {
    BallotCast { process, answer: Answer::Accept, lapsed: false, overruled: false }
}

/// A process vetoes.
pub fn vetoes(process: ProcessRef, reason: &str) -> BallotCast {
    BallotCast { process, answer: Answer::Veto { reason: reason.to_owned() }, lapsed: false, overruled: false }
}

impl Fleet {
    /// A cluster with these nodes; the first is its voter.
    pub fn new(names: &[&str]) -> Self {
        let admin = SigningKey::from_bytes(&[7; 32]);
        let mut fleet = Self { record: Record::default(), index: 0, time: Timestamp(1_000_000), admin, requests: 0 };
        fleet.tell(fleet.birth(names[0])).unwrap();
        for name in &names[1..] {
            fleet.join(name);
        }
        fleet
    }

    /// The fleet of another's record, as it was after the entry with this index.
    pub fn with(record: Record, index: u64) -> Self {
        let time = record.cluster().map_or(Timestamp(0), |cluster| cluster.time);
        Self { record, index, time, admin: SigningKey::from_bytes(&[7; 32]), requests: index }
    }

    /// The command that makes the cluster.
    pub fn birth(&self, first: &str) -> MasterCommand {
        MasterCommand::Create(Birth {
            cluster: ClusterId::new([1; 16]),
            node: new_node(first),
            admin: PrincipalName::new("ada").unwrap(),
            admin_key: PublicKey::new(self.admin.verifying_key().to_bytes()),
        })
    }

    /// A node joins with a token of its own.
    pub fn join(&mut self, name: &str) {
        let token = Signature::of(format!("token of {name}").as_bytes());
        let order = UserCommand::CreateToken { hash: token, valid: Span::from_secs(60), node: None };
        self.order(order, None).unwrap();
        self.tell(MasterCommand::Join { token, node: new_node(name), place: JoinAs::New }).unwrap();
    }

    /// The entry with an order of the admin's.
    pub fn signed(&mut self, command: UserCommand, evidence: Option<Evidence>) -> Entry {
        self.requests += 1;
        let mut request = [0; 16];
        request[..8].copy_from_slice(&self.requests.to_be_bytes());
        let order = Order {
            cluster: ClusterId::new([1; 16]),
            request: RequestId::new(request),
            expires: self.time.after(Span::from_secs(600)),
            command,
        };
        let order = SignedOrder::sign(&order, &self.admin).unwrap();
        Entry { time: self.time, body: Body::User { order, evidence: evidence.map(Box::new) } }
    }

    /// The admin orders something.
    pub fn order(&mut self, command: UserCommand, evidence: Option<Evidence>) -> Response {
        let entry = self.signed(command, evidence);
        self.apply(&entry)
    }

    /// The master proposes something.
    pub fn tell(&mut self, command: MasterCommand) -> Response {
        let entry = Entry { time: self.time, body: Body::Master(Box::new(command)) };
        self.apply(&entry)
    }

    /// Where the newest entry stands in the log.
    pub fn place(&self) -> LogPlace {
        LogPlace { index: self.index, membership: MEMBERSHIP }
    }

    /// Applies an entry, a second after the one before.
    pub fn apply(&mut self, entry: &Entry) -> Response {
        self.index += 1;
        self.time = self.time.after(Span::from_secs(1));
        self.record.apply(self.place(), entry)
    }

    /// Puts a package into the store; every voter has its modules.
    pub fn publish(&mut self, manifest: &Manifest) -> PackageId {
        let id = manifest.id();
        let evidence = self.copies(manifest);
        self.order(UserCommand::Publish { packages: BTreeSet::from([id]) }, Some(evidence)).unwrap();
        id
    }

    /// Somebody with a key of their own publishes a package.
    pub fn publish_as(&mut self, key: &SigningKey, manifest: &Manifest) -> Response {
        let evidence = self.copies(manifest);
        let admin = std::mem::replace(&mut self.admin, key.clone());
        let response = self.order(UserCommand::Publish { packages: BTreeSet::from([manifest.id()]) }, Some(evidence));
        self.admin = admin;
        response
    }

    /// A new publisher, and the key that the record knows.
    pub fn publisher(&mut self, name: &str) -> (SigningKey, PublicKey) {
        let secret = SigningKey::from_bytes(Signature::of(name.as_bytes()).as_bytes());
        let key = PublicKey::new(secret.verifying_key().to_bytes());
        let let_in = UserCommand::SetPrincipal { key, name: PrincipalName::new(name).unwrap(), role: Role::Publisher };
        self.order(let_in, None).unwrap();
        (secret, key)
    }

    /// What the master adds to the order to publish a package: every voter has its modules.
    pub fn copies(&self, manifest: &Manifest) -> Evidence {
        let blobs: BTreeSet<Signature> = manifest.modules.iter().map(|module| module.signature).collect();
        let receipts =
            self.record.nodes().values().map(|node| Receipt { peer: node.peer.clone(), blobs: blobs.clone() }).collect();
        Evidence::Stored { manifests: vec![manifest.canonical()], receipts, membership: MEMBERSHIP }
    }

    /// The generation that a node would come to by its part in a plan.
    pub fn generation(&self, name: &str, plan: &NodePlan) -> Generation {
        let current = &self.node(name).current;
        let mut packages = current.packages.clone();
        for change in &plan.changes {
            match change.to {
                Some(id) => packages.insert(change.name.clone(), id),
                None => packages.remove(&change.name),
            };
        }
        let number = self.node(name).kept.keys().chain([&current.number]).max().copied().unwrap_or(0) + 1;
        let modules = plan.modules.iter().map(|(path, module)| (path.clone(), module.signature)).collect();
        Generation { number, replaced: Some(current.number), packages, modules }
    }

    /// The admin submits an update with this plan.
    pub fn submit(&mut self, request: UpdateRequest, plan: Plan) -> UpdateId {
        match self.order(UserCommand::Submit { request }, Some(Evidence::Plan(plan))) {
            Ok(Accepted::Update { update }) => update,
            other => panic!("{other:?}"),
        }
    }

    /// The admin decides, having seen the ballots there are.
    pub fn decide(&mut self, update: UpdateId, decision: Decision, plan: Option<Plan>) -> Response {
        let ballot_revision = self.update(update).ballot_revision;
        self.order(UserCommand::Decide { update, ballot_revision, decision }, plan.map(Evidence::Plan))
    }

    /// A node reports on its part in an update.
    pub fn report(&mut self, update: UpdateId, name: &str, report: NodeReport) -> Response {
        let row = self.update(update);
        let revision = row.plan.as_ref().map_or(0, |plan| plan.revision);
        let round = row.nodes.get(&node(name)).map_or(0, |progress| progress.round);
        self.tell(MasterCommand::Report { update, node: node(name), revision, round, report })
    }

    /// A node's processes have answered.
    pub fn vote(&mut self, update: UpdateId, name: &str, ballots: &[BallotCast]) {
        let processes = ballots.iter().map(|ballot| ballot.process.clone()).collect();
        // Asking is over if the node only says its list anew.
        let _ = self.report(update, name, NodeReport::Asked { processes });
        self.report(update, name, NodeReport::Voted { ballots: ballots.to_vec() }).unwrap();
    }

    /// A node stages, and becomes ready.
    pub fn become_ready(&mut self, update: UpdateId, name: &str) {
        self.report(update, name, NodeReport::Pending).unwrap();
        self.report(update, name, NodeReport::Ready).unwrap();
    }

    /// A ready node changes over and settles.
    pub fn change_over(&mut self, update: UpdateId, name: &str) {
        self.tell(MasterCommand::Go { update, nodes: nodes(&[name]) }).unwrap();
        self.settle(update, name);
    }

    /// A node that may go starts and settles.
    pub fn settle(&mut self, update: UpdateId, name: &str) {
        self.report(update, name, NodeReport::Started).unwrap();
        let plan = self.update(update).plan.clone().unwrap();
        let current = self.generation(name, &plan.nodes[&node(name)]);
        self.report(update, name, NodeReport::Settled { current }).unwrap();
    }

    /// An update's row.
    pub fn update(&self, id: UpdateId) -> &Update {
        self.record.updates().get(&id).unwrap()
    }

    /// An update's phase.
    pub fn phase(&self, id: UpdateId) -> &Phase {
        &self.update(id).phase
    }

    /// A node's step in an update.
    pub fn step(&self, id: UpdateId, name: &str) -> Step {
        self.update(id).nodes[&node(name)].step
    }

    /// A node's row.
    pub fn node(&self, name: &str) -> &Node {
        self.record.nodes().get(&node(name)).unwrap()
    }
}
