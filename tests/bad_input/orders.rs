//! Signed orders that are late, repeated, for another cluster, changed, or not for who gives them: over the network, to a node that hands them
//! on to the master.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use tribune_messages::ADMIN_PROTOCOL;
use tribune_messages::api::{ApiError, ApiRequest, ApiResponse};
use tribune_node::client::{Client, ClientError, Peer};
use tribune_p2p::{Identity, Limits, Network, NetworkConfig};
use tribune_raft_store::command::{Accepted, Order, SIGNING_CONTEXT, SignedOrder, UserCommand};
use tribune_raft_store::model::{
    ClusterId, KeySignature, NodeName, PublicKey, RequestId, Signature, Span, Targets, Timestamp, UpdateKind, UpdateOptions,
    UpdateRequest,
};
use tribune_tests::cli::tribune;
use tribune_tests::{Cluster, Node, PackageSource, eventually};

use crate::text;

const WITHIN: Duration = Duration::from_secs(20);
const HOUR: i64 = 3_600_000;

/// Somebody with a key, at a peer.
struct User {
    key: Identity,
    client: Client,
}

impl User {
    async fn new(key: Identity, at: &Node) -> Result<Self> {
        let peer: Peer = at.address()?.parse()?;
        let client = Client::over_network(key.clone(), vec![peer]).await?;
        Ok(Self { key, client })
    }

    /// An order that is good until so many milliseconds from now.
    fn sign(&self, cluster: ClusterId, request: u8, good_for: i64, command: UserCommand) -> Result<SignedOrder> {
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let expires = Timestamp(u64::try_from(now + good_for)?);
        let order = Order { cluster, request: RequestId::new([request; 16]), expires, command };
        let content = serde_json::to_string(&order)?;
        let signature = KeySignature::new(self.key.sign(&[SIGNING_CONTEXT, content.as_bytes()].concat()));
        Ok(SignedOrder { key: PublicKey::new(self.key.public_key()), content, signature })
    }

    async fn give(&mut self, order: &SignedOrder) -> Result<Accepted, String> {
        match self.client.ask(&ApiRequest::Order(Box::new(order.clone())), WITHIN).await {
            Ok(ApiResponse::Accepted(accepted)) => Ok(accepted),
            Ok(other) => Err(format!("{other:?}")),
            Err(ClientError::Api(ApiError::Rejected(rejection))) => Err(rejection.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn token(number: u8) -> UserCommand {
    UserCommand::CreateToken { hash: Signature::of(&[number]), valid: Span::from_secs(600), node: None }
}

fn label(node: &str, value: &str) -> Result<UserCommand> {
    let desired = tribune_raft_store::model::Desired { value: value.into(), required: false };
    let set = [("k".parse()?, desired)].into();
    Ok(UserCommand::LabelNode { node: node.parse()?, set, unset: [].into() })
}

/// The admin's key, and one that may only look.
fn keys(cluster: &Cluster) -> Result<(Identity, Identity)> {
    let path = cluster.folder().join("vic.key");
    tribune(&["admin", "key", &text(&path)], "")?.expect(0)?;
    let public = tribune(&["admin", "key", &text(&path)], "")?.expect(0)?.stdout;
    let args = ["admin", "add", "vic", "--public-key", public.trim(), "--role", "viewer"];
    cluster.nodes[0].cli(&args)?.expect(0)?;
    Ok((Identity::load(&cluster.nodes[0].data.join("admin.key"))?, Identity::load(&path)?))
}

#[test]
fn an_order_that_is_late_repeated_changed_for_another_cluster_or_not_for_who_gives_it_is_refused_or_answered_as_before()
-> Result<()> {
    let cluster = Cluster::start(3)?;
    let (admin, viewer) = keys(&cluster)?;
    let at = cluster.not_master()?;
    eventually("the peer knows the key", || {
        let status = tribune(&["node", "list", "--peer", &at.address()?, "--key", &text(&cluster.folder().join("vic.key"))], "")?;
        Ok((status.code == 0).then_some(()))
    })?;
    let here: ClusterId = cluster.nodes[0].json(&["status"])?["cluster"].as_str().context("no cluster")?.parse()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut admin = User::new(admin, at).await?;
        let mut viewer = User::new(viewer, at).await?;
        let says = |refused: Result<Accepted, String>, parts: &[&str]| -> Result<()> {
            let Err(why) = refused else { bail!("it was carried out: {refused:?}") };
            ensure!(parts.iter().all(|part| why.contains(part)), "{parts:?} is not in {why}");
            Ok(())
        };
        let late = admin.sign(here, 1, -90_000, token(1))?;
        says(admin.give(&late).await, &["the order expired 90", "check the clock, and send it again"])?;
        let early = admin.sign(here, 2, 13 * HOUR, token(2))?;
        says(admin.give(&early).await, &["the order expires more than 12h ahead; check the clock"])?;
        let elsewhere = admin.sign(ClusterId::new([9; 16]), 3, HOUR, token(3))?;
        says(admin.give(&elsewhere).await, &["the order is for cluster", &format!("this is cluster {here}")])?;
        let mut changed = admin.sign(here, 4, HOUR, token(4))?;
        changed.content = changed.content.replace(&Signature::of(&[4]).to_string(), &Signature::of(&[44]).to_string());
        says(admin.give(&changed).await, &["the order's signature is wrong: it was changed on its way"])?;
        let stolen = SignedOrder { key: PublicKey::new(admin.key.public_key()), ..viewer.sign(here, 5, HOUR, token(5))? };
        says(viewer.give(&stolen).await, &["the order's signature is wrong"])?;
        let low = viewer.sign(here, 6, HOUR, token(6))?;
        says(viewer.give(&low).await, &["vic is Viewer and this needs Admin"])?;
        let unknown = NodeName::new("n9")?;
        says(admin.give(&admin.sign(here, 7, HOUR, label(unknown.as_str(), "x")?)?).await, &["n9"])?;

        // A repeat gets the first answer and changes nothing, also when it says something else, and also of a refusal.
        let first = admin.sign(here, 8, 2000, label("n1", "first")?)?;
        ensure!(admin.give(&first).await == Ok(Accepted::Done), "a good order");
        let second = admin.sign(here, 9, HOUR, label("n1", "second")?)?;
        ensure!(admin.give(&second).await == Ok(Accepted::Done), "a good order");
        ensure!(admin.give(&first).await == Ok(Accepted::Done), "the first answer");
        let other = admin.sign(here, 8, HOUR, label("n1", "other")?)?;
        ensure!(admin.give(&other).await == Ok(Accepted::Done), "the first answer");
        tokio::time::sleep(Duration::from_millis(2100)).await;
        ensure!(admin.give(&first).await == Ok(Accepted::Done), "the first answer, although it has expired since");
        anyhow::Ok(())
    })?;
    let shown = cluster.nodes[0].json(&["node", "show", "n1"])?;
    ensure!(shown["desired"]["k"]["value"] == "second", "a repeat was carried out: {shown}");
    let events = cluster.nodes[0].cli(&["events"])?.expect(0)?.stdout;
    let tokens = events.lines().filter(|line| line.contains("made a join token")).count();
    ensure!(tokens == 2, "only the two that brought the other nodes in:\n{events}");
    Ok(())
}

#[test]
fn a_submission_whose_answer_was_lost_is_the_same_update_when_it_is_sent_again() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let file = text(&PackageSource::new("p", "1.0.0").file("m", "1", "").build(cluster.folder())?);
    cluster.nodes[0].cli(&["package", "publish", &file])?.expect(0)?;
    let shown = cluster.nodes[0].json(&["package", "show", "p@1.0.0"])?;
    let package = shown["id"].as_str().context("no id")?.parse()?;
    let here: ClusterId = cluster.nodes[0].json(&["status"])?["cluster"].as_str().context("no cluster")?.parse()?;
    let key = Identity::load(&cluster.nodes[0].data.join("admin.key"))?;
    let (one, other) = (cluster.not_master()?, cluster.node(&cluster.master()?));
    let targets = Targets { nodes: [("n2".parse()?, [package].into())].into(), classes: [].into() };
    let request = UpdateRequest { kind: UpdateKind::Install, targets, options: UpdateOptions::default() };
    let runtime = tokio::runtime::Runtime::new()?;
    let (again, once_more) = runtime.block_on(async {
        let peer: Peer = one.address()?.parse()?;
        let order = {
            let user = User::new(key.clone(), one).await?;
            user.sign(here, 1, HOUR, UserCommand::Submit { request })?
        };
        // The order goes out, and whoever gave it is gone before the answer comes.
        let network = Network::start(&key, NetworkConfig::new("client", [])).await?;
        let mut channel = network.open(peer.id, &[peer.address], ADMIN_PROTOCOL, Limits::default()).await?;
        channel.send(&ApiRequest::Order(Box::new(order.clone()))).await?;
        eventually("the update is there", || Ok((one.json(&["update", "list"])?["count"] == 1).then_some(())))?;
        drop(channel);
        network.shutdown().await;
        let again = User::new(key.clone(), one).await?.give(&order).await;
        let once_more = User::new(key, other).await?.give(&order).await;
        anyhow::Ok((again, once_more))
    })?;
    let Ok(Accepted::Update { update }) = again else { bail!("{again:?}") };
    ensure!(once_more == again, "{once_more:?} is not the answer {again:?}");
    let listed = cluster.nodes[0].json(&["update", "list"])?;
    ensure!(listed["count"] == 1 && listed["items"][0]["update"] == update.to_string(), "{listed}");
    ensure!(one.watch(&update.to_string())? == 0, "it does not go through");
    Ok(())
}
