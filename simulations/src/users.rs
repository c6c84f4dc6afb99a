//! The people of a simulated cluster: one who brings it up, and some who want things of it.
//!
//! One idea: each speaks to whichever node comes up, over the network and with a key, by the same client as the command line, and writes
//! down what it saw.

pub mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rand::seq::IndexedRandom;
use tokio::time::sleep;
use tribune_messages::api::{ApiError, ApiRequest, ApiResponse, Query};
use tribune_node::backup::format::About;
use tribune_node::backup::save::Draft;
use tribune_node::client::{Client, ClientError, Peer, new_token};
use tribune_node::world::Carrier;
use tribune_p2p::Identity;
use tribune_raft_store::command::{Accepted, UserCommand};
use tribune_raft_store::model::{
    Decision, Desired, NodeName, PackageId, Phase, RolloutStrategy, Signature, Span, Targets, UpdateId, UpdateKind,
    UpdateOptions, UpdateRequest,
};

use crate::catalogue::{self, Item};
use crate::chaos::Publishing;
use crate::cluster::Common;
use crate::history::{Call, History, Saw};
use crate::machine::now;
use crate::machine::wire::TurmoilWire;
use crate::trace::Trace;
use wishes::{decide, describe, is_unknown, why};

/// How long a user waits for an answer.
const WITHIN: Duration = Duration::from_secs(8);
/// How long the one who brings the cluster up waits.
const PATIENT: Duration = Duration::from_secs(60);
/// How often a user wants something new, rather than to look after what there is.
const SUBMITS: f64 = 0.5;
/// How often the one who only reads does so, and how long he waits.
const READ_EVERY: Duration = Duration::from_millis(150);
const READ_WITHIN: Duration = Duration::from_secs(1);
/// How many nodes a cluster keeps.
const FEWEST: usize = 3;
/// How many it needs for a voter to be taken out of it: enough others must be left to name the master to who was away.
const MANY: usize = 7;
/// How often somebody looks again.
const LOOK: Duration = Duration::from_millis(200);

/// How far a run is.
#[derive(Debug, Clone, Default)]
pub struct Stage(Arc<AtomicU8>);

impl Stage {
    pub const SETUP: u8 = 0;
    pub const LOAD: u8 = 1;
    /// Nobody wants anything new; what waits for somebody is decided.
    pub const QUIET: u8 = 2;
    pub const OVER: u8 = 3;

    pub fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, stage: u8) {
        self.0.store(stage, Ordering::Relaxed);
    }
}

/// What all users know.
#[derive(Debug, Clone)]
pub struct Users {
    pub folder: PathBuf,
    pub common: Common,
    pub items: Arc<Vec<Item>>,
    /// What they published since.
    pub published: Arc<Mutex<Vec<Item>>>,
    pub publishing: Publishing,
    /// The nodes that the cluster has at first.
    pub nodes: Vec<String>,
    /// What they like to do.
    pub likes: Likes,
    pub stage: Stage,
    pub history: History,
    pub trace: Trace,
}

/// How likely users are to want what is rare.
#[derive(Debug, Clone, Copy)]
pub struct Likes {
    pub ephemeral: f64,
    /// To keep what is ephemeral, where they look after it.
    pub persist: f64,
    pub pause: f64,
    /// To cancel what has begun to change nodes.
    pub cancel: f64,
    /// To want what is not well once it runs.
    pub unwell: f64,
    /// To have an update stop where it fails.
    pub hold: f64,
    pub regress: f64,
    pub publish: f64,
    /// To let nodes in, or take them out.
    pub members: f64,
    /// Whether they take nodes out at all.
    pub removals: bool,
    /// Whether they look again soon.
    pub haste: bool,
}

impl Default for Likes {
    fn default() -> Self {
        Self {
            ephemeral: 0.2,
            persist: 0.7,
            pause: 0.1,
            cancel: 0.1,
            unwell: 0.0,
            hold: 0.25,
            regress: 0.2,
            publish: 0.1,
            members: 0.04,
            removals: true,
            haste: false,
        }
    }
}

/// What a user remembers of what he saw: the ballots of updates as they were some time ago.
type Remembered = BTreeMap<UpdateId, u64>;

fn carrier() -> Carrier {
    Carrier::Wire(Arc::new(TurmoilWire))
}

fn key(folder: &Path) -> Result<Identity> {
    Ok(Identity::load(&folder.join("ada.key"))?)
}

/// A token with which this node may come in, and the order that makes it good.
fn token_for(node: &str) -> (String, UserCommand) {
    let token = new_token();
    let hash = Signature::of(token.as_bytes());
    (token, UserCommand::CreateToken { hash, valid: Span::from_secs(3600), node: node.parse().ok() })
}

fn names(nodes: &[String]) -> Vec<NodeName> {
    nodes.iter().filter_map(|name| name.parse().ok()).collect()
}

impl Users {
    /// A client of all nodes that are known, beginning with one by chance.
    ///
    /// # Errors
    /// No node is known yet, or the key cannot be read.
    pub async fn client(&self) -> Result<Client> {
        let mut peers: Vec<Peer> = Vec::new();
        for peer in self.common.lock().peers.values() {
            peers.push(peer.parse()?);
        }
        if peers.is_empty() {
            bail!("there is no node yet");
        }
        let first = rand::random_range(0..peers.len());
        peers.rotate_left(first);
        Ok(Client::over(&carrier(), key(&self.folder)?, peers).await?)
    }

    /// Brings the cluster up: tokens, members, packages, and what the nodes have at first.
    ///
    /// # Errors
    /// It did not come up.
    pub async fn set_up(self, first: BTreeMap<NodeName, BTreeSet<PackageId>>) -> Result<()> {
        while self.common.lock().first.is_none() {
            sleep(LOOK).await;
        }
        let mut client = self.client().await?;
        while client.who(WITHIN).await.is_err() {
            sleep(LOOK).await;
        }
        let away_after = Some(Span::from_secs(15));
        client.order(UserCommand::SetSettings { away_after, voters: None, standbys: None }, PATIENT).await?;
        for node in self.nodes.iter().skip(1) {
            let (token, command) = token_for(node);
            client.order(command, PATIENT).await?;
            self.common.lock().tokens.insert(node.clone(), token);
        }
        loop {
            if let Ok(ApiResponse::Nodes(nodes)) = client.ask(&ApiRequest::Query(Query::Nodes), PATIENT).await
                && nodes.len() == self.nodes.len()
                && nodes.iter().all(|node| node.connected)
            {
                break;
            }
            sleep(LOOK).await;
        }
        for item in self.items.iter() {
            client.upload(&item.file, PATIENT, |_| {}).await?;
            client.order(UserCommand::Publish { packages: BTreeSet::from([item.id]) }, PATIENT).await?;
        }
        if first.values().all(BTreeSet::is_empty) {
            self.trace.note("ada", "the cluster is up, and has no software");
            self.stage.set(Stage::LOAD);
            return Ok(());
        }
        let request = UpdateRequest {
            kind: UpdateKind::Install,
            targets: Targets { nodes: first, classes: BTreeMap::new() },
            options: UpdateOptions { strategy: RolloutStrategy::Together, ..UpdateOptions::default() },
        };
        self.history.submits();
        let Accepted::Update { update } = client.order(UserCommand::Submit { request }, PATIENT).await? else {
            bail!("a submission was answered with something else")
        };
        loop {
            let phase = phase_of(&mut client, update).await?;
            if phase.ended() {
                self.trace.note("ada", format!("the cluster is up: {phase}"));
                self.stage.set(Stage::LOAD);
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    /// Returns once the cluster is up.
    pub async fn until_up(&self) {
        while self.stage.get() == Stage::SETUP {
            sleep(LOOK).await;
        }
    }

    /// Wants things, until the load ends; then only decides what waits for somebody.
    ///
    /// # Errors
    /// Nobody can be spoken to with this key.
    pub async fn live(self, user: usize) -> Result<()> {
        self.until_up().await;
        let mut client = None;
        let mut remembered = Remembered::new();
        while self.stage.get() < Stage::OVER {
            let longest = if self.likes.haste { 1_000 } else { 3_000 };
            sleep(Duration::from_millis(rand::random_range(100..longest))).await;
            if client.is_none() || rand::random_bool(0.2) {
                client = self.client().await.ok();
            }
            let Some(client) = &mut client else { continue };
            self.act(user, client, &mut remembered).await;
        }
        Ok(())
    }

    /// Wants little things of whoever is master, until the load ends.
    ///
    /// # Errors
    /// The key cannot be read.
    pub async fn crowd(self, user: usize) -> Result<()> {
        self.until_up().await;
        let mut number: u64 = 0;
        while self.stage.get() == Stage::LOAD {
            sleep(Duration::from_millis(rand::random_range(50..400))).await;
            let Some(peer) = self.common.lock().masters_peer() else { continue };
            let mut client = Client::over(&carrier(), key(&self.folder)?, vec![peer.parse()?]).await?;
            let Some(node) = names(&self.nodes).choose(&mut rand::rng()).cloned() else { continue };
            number += 1;
            let label = format!("crowd{user}").parse().map_err(|error| anyhow!("{error}"))?;
            let set = BTreeMap::from([(label, Desired { value: number.to_string(), required: false })]);
            let command = UserCommand::LabelNode { node, set, unset: BTreeSet::new() };
            self.order(user, &mut client, command).await;
        }
        Ok(())
    }

    /// Reads the last update that was acknowledged, at one node after the other, until the load is over.
    ///
    /// # Errors
    /// The key cannot be read.
    pub async fn watch(self, user: usize) -> Result<()> {
        self.until_up().await;
        let mut clients: BTreeMap<String, Client> = BTreeMap::new();
        while self.stage.get() < Stage::OVER {
            sleep(READ_EVERY).await;
            let Some(update) = self.history.acknowledged().last().copied() else { continue };
            let peers: Vec<String> = self.common.lock().peers.values().cloned().collect();
            let Some(peer) = peers.choose(&mut rand::rng()) else { continue };
            if !clients.contains_key(peer) {
                clients.insert(peer.clone(), Client::over(&carrier(), key(&self.folder)?, vec![peer.parse()?]).await?);
            }
            if let Some(client) = clients.get_mut(peer) {
                self.read(user, client, update, READ_WITHIN).await;
            }
        }
        Ok(())
    }

    async fn act(&self, user: usize, client: &mut Client, remembered: &mut Remembered) {
        let known = self.known_updates(user, client).await;
        let loaded = self.stage.get() == Stage::LOAD;
        let lost = self.common.lock().lost.first().cloned();
        if let Some(node) = lost.filter(|_| !loaded || rand::random_bool(0.3)) {
            return self.let_in(user, client, &node).await;
        }
        if loaded && rand::random_bool(self.likes.members) {
            return self.change_members(user, client).await;
        }
        if loaded && rand::random_bool(self.likes.publish) {
            return self.publish(user, client).await;
        }
        if loaded && rand::random_bool(SUBMITS) {
            let request = self.request();
            self.order(user, client, UserCommand::Submit { request }).await;
            return;
        }
        if !loaded {
            return self.clear_up(user, client, known).await;
        }
        let Some((update, phase, now)) = known.choose(&mut rand::rng()).cloned() else { return };
        // Some decide by what they saw a while ago.
        let before = remembered.insert(update, now).unwrap_or(now);
        let seen = if rand::random_bool(0.4) { before } else { now };
        let command = match (&phase, rand::random_range(0..10)) {
            (Phase::Vetoed, 0..4) => Some(decide(update, seen, Decision::Force { why: "it must be".into() })),
            (Phase::Vetoed, 4..6) => Some(decide(update, seen, Decision::AskAgain)),
            (Phase::Vetoed, 6..8) => Some(decide(update, seen, Decision::Only { nodes: self.some_nodes() })),
            (Phase::Vetoed | Phase::Held { .. }, 8..) => Some(decide(update, seen, Decision::Abort)),
            (Phase::Held { .. }, 4..8) => Some(decide(update, seen, Decision::Force { why: "go on".into() })),
            (Phase::Held { .. }, _) => Some(decide(update, seen, Decision::AskAgain)),
            (Phase::Unpersisted, _) if rand::random_bool(self.likes.persist) => Some(UserCommand::Persist { update }),
            (Phase::Unpersisted, _) => Some(UserCommand::Cancel { update }),
            (Phase::Paused { .. }, _) => Some(UserCommand::Resume { update }),
            (Phase::Ended { .. }, _) => None,
            (Phase::Wave { .. }, _) if rand::random_bool(self.likes.pause) => Some(UserCommand::Pause { update }),
            (Phase::Wave { .. } | Phase::Verifying, _) if rand::random_bool(self.likes.cancel) => {
                Some(UserCommand::Cancel { update })
            }
            (_, 9) => Some(UserCommand::Cancel { update }),
            _ => None,
        };
        match command {
            Some(command) => drop(self.order(user, client, command).await),
            None => self.read(user, client, update, WITHIN).await,
        }
    }

    /// Decides the oldest update that waits for somebody, so that those behind it can go on.
    async fn clear_up(&self, user: usize, client: &mut Client, known: Vec<(UpdateId, Phase, u64)>) {
        let waits = |phase: &Phase| phase.waits_for_user() || *phase == Phase::Unpersisted;
        let Some((update, phase, seen)) = known.into_iter().filter(|(_, phase, _)| waits(phase)).min_by_key(|(id, ..)| *id)
        else {
            return;
        };
        let command = match phase {
            Phase::Paused { .. } => UserCommand::Resume { update },
            Phase::Unpersisted if rand::random_bool(0.5) => UserCommand::Persist { update },
            Phase::Unpersisted => UserCommand::Cancel { update },
            _ => decide(update, seen, Decision::Abort),
        };
        self.order(user, client, command).await;
    }

    /// Lets a node in that has no place in the cluster, or takes one out of it.
    async fn change_members(&self, user: usize, client: &mut Client) {
        let (spare, nodes, members) = {
            let shared = self.common.lock();
            let may_go = |node: &&String| shared.peers.len() >= MANY || shared.members.contains(*node);
            let members: Vec<String> = shared.peers.keys().filter(may_go).cloned().collect();
            (shared.spare.first().cloned(), shared.peers.len(), members)
        };
        if let Some(node) = spare {
            return self.let_in(user, client, &node).await;
        }
        let Some(node) = members.choose(&mut rand::rng()).filter(|_| nodes > FEWEST && self.likes.removals) else { return };
        let Ok(name) = node.parse() else { return };
        if std::mem::replace(&mut self.common.lock().one_is_gone, true) {
            return;
        }
        if let Saw::Done(_) = self.order(user, client, UserCommand::RemoveNode { node: name }).await {
            self.common.lock().peers.remove(node);
        }
    }

    /// Lets a node in, or in again.
    pub async fn let_in(&self, user: usize, client: &mut Client, node: &str) {
        let (token, command) = token_for(node);
        if let Saw::Done(_) = self.order(user, client, command).await {
            let mut shared = self.common.lock();
            shared.spare.remove(node);
            shared.lost.remove(node);
            shared.tokens.insert(node.to_owned(), token);
        }
    }

    fn some_nodes(&self) -> BTreeSet<NodeName> {
        let joined: Vec<String> = self.common.lock().peers.keys().cloned().collect();
        let all = names(&joined);
        let count = rand::random_range(1..=all.len());
        all.sample(&mut rand::rng(), count).cloned().collect()
    }

    /// Builds a package that nobody has, and publishes it.
    async fn publish(&self, user: usize, client: &mut Client) {
        let number = self.publishing.fetch_add(1, Ordering::Relaxed) + 1;
        let place = format!("user{user}");
        let item = match catalogue::another(&self.folder.join("packages"), number) {
            Ok(item) => item,
            Err(error) => return self.trace.note(&place, format!("cannot build a package: {error:#}")),
        };
        self.trace.note(&place, format!("uploads {} {}", item.name, item.version));
        if let Err(error) = client.upload(&item.file, WITHIN, |_| {}).await {
            return self.trace.note(&place, format!("hears: {error}"));
        }
        let saw = self.order(user, client, UserCommand::Publish { packages: BTreeSet::from([item.id]) }).await;
        if let Saw::Published(_) = saw {
            self.published.lock().unwrap_or_else(PoisonError::into_inner).push(item);
        }
    }

    async fn order(&self, user: usize, client: &mut Client, command: UserCommand) -> Saw {
        let place = format!("user{user}");
        let said = describe(&command);
        self.trace.note(&place, format!("asks: {said}"));
        let published = match &command {
            UserCommand::Publish { packages } => packages.first().copied(),
            _ => None,
        };
        let called = now();
        if matches!(command, UserCommand::Submit { .. }) {
            self.history.submits();
        }
        let result = client.order(command, WITHIN).await;
        let saw = match result {
            Ok(Accepted::Update { update }) if said.starts_with("submit") => Saw::Submitted(update),
            Ok(other) => match published {
                Some(package) => Saw::Published(package),
                None => Saw::Done(format!("{said}: {other:?}")),
            },
            Err(error) if is_unknown(&error) => Saw::Unknown(format!("{said}: {error}")),
            Err(error) => Saw::Refused(format!("{said}: {}", why(&error))),
        };
        self.trace.note(&place, format!("hears: {saw:?}"));
        self.history.note(Call { user, called, returned: now(), saw: saw.clone() });
        saw
    }

    async fn read(&self, user: usize, client: &mut Client, update: UpdateId, within: Duration) {
        let called = now();
        let asked = client.ask(&ApiRequest::Query(Query::Update { update, after: None }), within).await;
        let saw = match asked {
            Ok(ApiResponse::Update(info)) => Saw::Update { update, index: info.index, phase: info.update.phase },
            Err(ClientError::Api(ApiError::NotFound { .. })) => Saw::NoUpdate(update),
            _ => return,
        };
        self.history.note(Call { user, called, returned: now(), saw });
    }

    /// The updates of late: which, where, and with which ballots.
    async fn known_updates(&self, user: usize, client: &mut Client) -> Vec<(UpdateId, Phase, u64)> {
        // One that was acknowledged to somebody is read by another, so that the oracle has something to go by.
        if let Some(update) = self.history.acknowledged().last().copied()
            && rand::random_bool(0.5)
        {
            self.read(user, client, update, WITHIN).await;
        }
        match client.ask(&ApiRequest::Query(Query::Updates { limit: 100 }), WITHIN).await {
            Ok(ApiResponse::Updates(updates)) => {
                let open = updates.into_iter().map(|summary| summary.update).filter(|update| !update.phase.ended());
                open.map(|update| (update.id, update.phase, update.ballot_revision)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Takes a backup, of whichever node gives one; gives what it is of.
    pub async fn back_up(&self, file: &Path) -> About {
        loop {
            match self.try_to_back_up(file).await {
                Ok(about) => return about,
                // This one may have been taken out of the cluster.
                Err(error) => self.trace.note("saver", format!("hears: {error:#}")),
            }
            sleep(LOOK).await;
        }
    }

    async fn try_to_back_up(&self, file: &Path) -> Result<About> {
        let mut client = self.client().await?;
        let draft = Draft::begin(file)?;
        client.backup(draft.writer()?, PATIENT, |_, _| {}).await?;
        Ok(draft.finish()?.0)
    }

    /// A fresh update of all nodes after all is healed, that must come to its end.
    ///
    /// # Errors
    /// It cannot be asked for.
    pub async fn fresh(self, packages: Vec<PackageId>, to: Arc<std::sync::Mutex<Option<UpdateId>>>) -> Result<()> {
        let mut client = self.client().await?;
        let options = UpdateOptions { again: true, allow_drift: true, ..UpdateOptions::default() };
        let request = |package: PackageId, members: &BTreeSet<NodeName>| {
            let nodes = members.iter().map(|node| (node.clone(), BTreeSet::from([package]))).collect();
            let targets = Targets { nodes, classes: BTreeMap::new() };
            UpdateRequest { kind: UpdateKind::Install, targets, options: options.clone() }
        };
        // All may have one of them already.
        let mut packages = packages.into_iter().cycle();
        let accepted = loop {
            // A node that is just coming back is away, and a plan with it is refused.
            let Some(package) = packages.next() else { bail!("there is no package to install") };
            let members = match client.ask(&ApiRequest::Query(Query::Nodes), PATIENT).await {
                Ok(ApiResponse::Nodes(nodes)) => nodes.into_iter().map(|info| info.node.name).collect(),
                _ => BTreeSet::new(),
            };
            self.history.submits();
            match client.order(UserCommand::Submit { request: request(package, &members) }, PATIENT).await {
                Ok(accepted) => break accepted,
                Err(error) => self.trace.note("late", format!("hears: {}", why(&error))),
            }
            sleep(LOOK).await;
            // This one may have been taken out of the cluster.
            client = self.client().await?;
        };
        match accepted {
            Accepted::Update { update } => {
                *to.lock().map_err(|error| anyhow!("{error}"))? = Some(update);
                Ok(())
            }
            other => Err(anyhow!("a submission was answered with {other:?}")),
        }
    }
}

async fn phase_of(client: &mut Client, update: UpdateId) -> Result<Phase> {
    match client.ask(&ApiRequest::Query(Query::Update { update, after: None }), PATIENT).await? {
        ApiResponse::Update(info) => Ok(info.update.phase),
        other => Err(anyhow!("a question was answered with {other:?}")).context("asking for an update"),
    }
}
