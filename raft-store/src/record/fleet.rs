//! What happens to nodes, classes, packages, principals and tokens.

use tribune_planted::{Bug, planted};

use std::collections::{BTreeMap, BTreeSet};

use super::Record;
use super::apply::{About, At};
use crate::command::{Accepted, Birth, Evidence, JoinAs, MAX_TOKEN_LIFE, NewNode, Rejection, Response};
use crate::model::{
    Apart, Author, CharacteristicKey, Class, ClassName, Cluster, Desired, Ephemeral, EventKind, Facts, Generation, Manifest,
    Node, NodeName, Package, PackageId, Principal, PrincipalName, PublicKey, RECORD_LEVEL, RaftRole, Receipt, Role, Settings,
    Signature, Span, Token, Update, raft_id,
};

/// The most nodes a cluster has.
pub const MAX_NODES: usize = 10_000;
/// The most characteristics a node has.
pub const MAX_CHARACTERISTICS: usize = 64;
/// The most tokens that are kept.
const MAX_TOKENS: usize = 10_000;
/// The longest name of a change that a node makes by itself, in bytes.
const MAX_CHANGE_BYTES: usize = 128;
/// The Raft id of a cluster's first voter.
pub const FIRST_RAFT_ID: u64 = 0;

impl Record {
    pub(super) fn create(&mut self, at: At, birth: &Birth) -> Response {
        if self.cluster().is_some() {
            return Err(Rejection::AlreadyCreated);
        }
        self.clusters.put(
            0,
            Cluster {
                id: birth.cluster,
                epoch: 0,
                level: RECORD_LEVEL,
                created: at.time,
                time: at.time,
                settings: Settings::default(),
                next_update: 1,
                next_event: 1,
                installed: 0,
                checked: 0,
                unmet_left_out: 0,
                recovery: None,
            },
        );
        let admin = Principal { name: birth.admin.clone(), role: Role::Admin, added: at.time };
        self.principals.put(birth.admin_key, admin);
        let mut node = new_node(at, &birth.node);
        node.raft = RaftRole::Voter { raft_id: FIRST_RAFT_ID };
        node.local_commands = Role::Admin;
        self.nodes.put(node.name.clone(), node);
        self.note(at, EventKind::ClusterCreated, About::node(&birth.node.name), format!("cluster {} was created", birth.cluster));
        Ok(Accepted::Done)
    }

    pub(super) fn join(&mut self, at: At, hash: &Signature, new: &NewNode, place: JoinAs) -> Response {
        let cluster = self.cluster().map(|cluster| cluster.id).ok_or(Rejection::NotCreated)?;
        let mut token = self.tokens.get(hash).cloned().ok_or(Rejection::UnknownToken)?;
        if let Some(node) = &token.used_by {
            // The answer to the first try was lost: the same node asks again.
            return match self.nodes.get(node) {
                Some(known) if known.peer == new.peer && known.name == new.name => Ok(Accepted::Joined { cluster }),
                _ => Err(Rejection::TokenUsed { node: node.clone() }),
            };
        }
        if token.expires < at.time {
            return Err(Rejection::TokenExpired);
        }
        if let Some(node) = token.node.as_ref().filter(|node| **node != new.name) {
            return Err(Rejection::TokenForOther { node: node.clone() });
        }
        if let Some(removed) = self.removed.get(&new.peer) {
            return Err(Rejection::PeerRemoved { node: removed.name.clone() });
        }
        if let Some(node) = self.nodes.values().find(|node| node.peer == new.peer || node.key == new.key) {
            return Err(Rejection::PeerTaken { node: node.name.clone() });
        }
        check_facts(&new.facts)?;
        let text = match place {
            JoinAs::Replacement if token.node.is_none() => return Err(Rejection::TokenNotFor { node: new.name.clone() }),
            JoinAs::Replacement => self.replace_node(at, new)?,
            JoinAs::New if self.nodes.contains(&new.name) => return Err(Rejection::NameTaken { node: new.name.clone() }),
            JoinAs::New => {
                self.nodes.put(new.name.clone(), new_node(at, new));
                format!("node {} joined", new.name)
            }
        };
        if self.nodes.len() > MAX_NODES {
            return Err(Rejection::Limit { what: "nodes".into(), count: MAX_NODES as u64 });
        }
        token.used_by = Some(new.name.clone());
        self.tokens.put(*hash, token);
        self.note(at, EventKind::NodeJoined, About::node(&new.name), text);
        Ok(Accepted::Joined { cluster })
    }

    pub(super) fn node_state(
        &mut self,
        at: At,
        name: &NodeName,
        facts: &Facts,
        (current, ephemeral, kept): (&Generation, Option<&Ephemeral>, &BTreeMap<u64, Generation>),
        apart: Option<&str>,
    ) -> Response {
        if apart.is_some_and(|change| change.is_empty() || change.len() > MAX_CHANGE_BYTES) {
            let what = format!("the name of a node's own change must have 1 to {MAX_CHANGE_BYTES} bytes");
            return Err(Rejection::Evidence { what });
        }
        check_facts(facts)?;
        let mut node = self.node(name)?.clone();
        let same_software = node.current == *current && node.ephemeral.as_ref() == ephemeral && node.kept == *kept;
        let same_apart = node.apart.as_ref().map(|apart| apart.change.as_str()) == apart;
        if node.facts == *facts && same_software && same_apart {
            return Ok(Accepted::Done);
        }
        let plannable =
            node.facts.platform != facts.platform || node.facts.discovered != facts.discovered || !(same_software && same_apart);
        let other_software = node.current != *current || node.ephemeral.as_ref() != ephemeral;
        node.facts = facts.clone();
        let before = std::mem::replace(&mut node.current, current.clone());
        node.ephemeral = ephemeral.cloned();
        node.kept = kept.clone();
        if !same_apart {
            node.apart = apart.map(|change| Apart { change: change.to_owned(), since: at.time, released: false });
        }
        if plannable {
            node.version = at.index;
        }
        self.nodes.put(name.clone(), node);
        if other_software {
            self.software_changed(at);
        }
        if !same_apart && apart.is_some() {
            self.bury_what_it_left(at, &before, name);
            let text = format!("node {name} went back by itself, and stays as it is until it is released");
            self.note(at, EventKind::NodeApart, About::node(name), text);
        }
        Ok(Accepted::Done)
    }

    /// A node that went back by itself takes part again, and comes to what it should have, but for what it went back from.
    pub(super) fn release_node(&mut self, at: At, name: &NodeName, by: &Author) -> Response {
        let mut node = self.node(name)?.clone();
        let apart = node.apart.as_mut().filter(|apart| !apart.released);
        apart.ok_or_else(|| Rejection::NotApart { node: name.clone() })?.released = true;
        node.converging = None;
        node.version = at.index;
        self.nodes.put(name.clone(), node);
        self.note(at, EventKind::NodeChanged, About::node(name), format!("{} released node {name}", by.name));
        Ok(Accepted::Done)
    }

    pub(super) fn make_standby(&mut self, at: At, name: &NodeName) -> Response {
        let epoch = self.cluster().map_or(0, |cluster| cluster.epoch);
        let raft_id = raft_id(epoch, at.index);
        self.change_raft(at, name, |role| (role == RaftRole::Member).then_some(RaftRole::Standby { raft_id }))?;
        Ok(Accepted::Standby { raft_id })
    }

    pub(super) fn make_voter(&mut self, at: At, name: &NodeName) -> Response {
        self.change_raft(at, name, |role| match role {
            RaftRole::Standby { raft_id } | RaftRole::Voter { raft_id } => Some(RaftRole::Voter { raft_id }),
            RaftRole::Member => None,
        })
    }

    pub(super) fn make_member(&mut self, at: At, name: &NodeName) -> Response {
        self.change_raft(at, name, |_| Some(RaftRole::Member))?;
        if let Some(leaving) = self.node(name)?.leaving.clone() {
            self.take_out(at, name, &leaving.by);
        }
        Ok(Accepted::Done)
    }

    fn change_raft(&mut self, at: At, name: &NodeName, change: impl FnOnce(RaftRole) -> Option<RaftRole>) -> Response {
        let mut node = self.node(name)?.clone();
        let role = change(node.raft).ok_or(Rejection::RaftRole { node: name.clone() })?;
        if node.raft != role {
            node.raft = role;
            self.nodes.put(name.clone(), node);
            let what = match role {
                RaftRole::Member => "a member",
                RaftRole::Standby { .. } => "a standby",
                RaftRole::Voter { .. } => "a voter",
            };
            self.note(at, EventKind::RaftRoleChanged, About::node(name), format!("node {name} is {what}"));
        }
        Ok(Accepted::Done)
    }

    pub(super) fn create_token(&mut self, at: At, hash: Signature, valid: Span, node: Option<NodeName>, by: &Author) -> Response {
        if self.tokens.contains(&hash) {
            return Err(Rejection::TokenExists);
        }
        if !(Span::from_millis(1)..=MAX_TOKEN_LIFE).contains(&valid) {
            return Err(Rejection::TokenLife { valid });
        }
        let old: Vec<Signature> =
            self.tokens.iter().filter(|(_, token)| token.expires < at.time).map(|(hash, _)| *hash).collect();
        for hash in old {
            self.tokens.remove(&hash);
        }
        if self.tokens.len() >= MAX_TOKENS {
            return Err(Rejection::Limit { what: "join tokens".into(), count: MAX_TOKENS as u64 });
        }
        self.tokens.put(hash, Token { expires: at.time.after(valid), node, used_by: None });
        self.note(at, EventKind::AccessChanged, About::default(), format!("{} made a join token, good for {valid}", by.name));
        Ok(Accepted::Done)
    }

    pub(super) fn set_principal(&mut self, at: At, key: PublicKey, name: PrincipalName, role: Role, by: &Author) -> Response {
        if role != Role::Admin {
            self.check_admin_left(key)?;
        }
        let text = format!("{} made {name} {role:?}", by.name).to_lowercase();
        self.principals.put(key, Principal { name, role, added: at.time });
        self.note(at, EventKind::AccessChanged, About::default(), text);
        Ok(Accepted::Done)
    }

    pub(super) fn remove_principal(&mut self, at: At, key: PublicKey, by: &Author) -> Response {
        let principal = self.principals.get(&key).cloned().ok_or(Rejection::UnknownKey { key })?;
        self.check_admin_left(key)?;
        self.principals.remove(&key);
        let text = format!("{} took {} ({:?}) away", by.name, principal.name, principal.role).to_lowercase();
        self.note(at, EventKind::AccessChanged, About::default(), text);
        Ok(Accepted::Done)
    }

    /// Without this principal, there is still an admin.
    fn check_admin_left(&self, without: PublicKey) -> Result<(), Rejection> {
        let Some(principal) = self.principals.get(&without).filter(|principal| principal.role == Role::Admin) else {
            return Ok(());
        };
        let others = self.principals.iter().any(|(key, other)| *key != without && other.role == Role::Admin);
        if others { Ok(()) } else { Err(Rejection::LastAdmin { name: principal.name.to_string() }) }
    }

    pub(super) fn label_node(
        &mut self,
        at: At,
        name: &NodeName,
        set: BTreeMap<CharacteristicKey, Desired>,
        unset: &BTreeSet<CharacteristicKey>,
        by: &Author,
    ) -> Response {
        let mut node = self.node(name)?.clone();
        for key in unset {
            node.desired.remove(key);
        }
        for (key, desired) in set {
            check_value(&key, &desired.value)?;
            node.desired.insert(key, desired);
        }
        if node.desired.len() > MAX_CHARACTERISTICS {
            return Err(Rejection::Limit { what: format!("labels on node {name}"), count: MAX_CHARACTERISTICS as u64 });
        }
        node.version = at.index;
        self.nodes.put(name.clone(), node);
        self.note(at, EventKind::NodeChanged, About::node(name), format!("{} changed the labels of node {name}", by.name));
        Ok(Accepted::Done)
    }

    pub(super) fn set_class(
        &mut self,
        at: At,
        class: ClassName,
        add: &BTreeSet<NodeName>,
        remove: &BTreeSet<NodeName>,
        by: &Author,
    ) -> Response {
        for name in add.iter().chain(remove) {
            self.node(name)?;
        }
        if !self.classes.contains(&class) && self.classes.len() >= MAX_NODES {
            return Err(Rejection::Limit { what: "classes".into(), count: MAX_NODES as u64 });
        }
        let mut row = self.classes.get(&class).cloned().unwrap_or_else(|| Class {
            name: class.clone(),
            should: BTreeMap::new(),
            version: 0,
        });
        row.version = at.index;
        self.classes.put(class.clone(), row);
        for name in add {
            self.put_in_class(at, name, Some(class.clone()))?;
        }
        for name in remove {
            if self.node(name)?.class.as_ref() == Some(&class) {
                self.put_in_class(at, name, None)?;
            }
        }
        self.note(at, EventKind::ClassChanged, About::default(), format!("{} changed class {class}", by.name));
        Ok(Accepted::Done)
    }

    pub(super) fn remove_class(&mut self, at: At, class: &ClassName, by: &Author) -> Response {
        if !self.classes.contains(class) {
            return Err(Rejection::UnknownClass { class: class.clone() });
        }
        let waits = |update: &&Update| !update.phase.ended() && update.request.targets.classes.contains_key(class);
        if let Some(update) = self.updates.values().find(waits) {
            return Err(Rejection::ClassInUse { class: class.clone(), update: update.id });
        }
        let members: Vec<NodeName> =
            self.nodes.values().filter(|node| node.class.as_ref() == Some(class)).map(|node| node.name.clone()).collect();
        for name in &members {
            self.put_in_class(at, name, None)?;
        }
        self.classes.remove(class);
        self.note(at, EventKind::ClassChanged, About::default(), format!("{} took class {class} away", by.name));
        Ok(Accepted::Done)
    }

    fn put_in_class(&mut self, at: At, name: &NodeName, class: Option<ClassName>) -> Result<(), Rejection> {
        let mut node = self.node(name)?.clone();
        if let Some(class) = class.as_ref().filter(|class| node.class.as_ref() != Some(*class)) {
            node.should.extend(self.should_have_of_class(class));
            node.converging = None;
        }
        node.class = class;
        node.version = at.index;
        self.nodes.put(name.clone(), node);
        Ok(())
    }

    pub(super) fn publish(&mut self, at: At, ids: &BTreeSet<PackageId>, evidence: Option<&Evidence>, by: &Author) -> Response {
        let wrong = |what: &str| Rejection::Evidence { what: what.to_owned() };
        let Some(Evidence::Stored { manifests, receipts, membership }) = evidence else {
            return Err(wrong("the manifests and receipts are missing"));
        };
        // The copies of who voted then say nothing of who votes now.
        if *membership != at.membership {
            return Err(Rejection::MembershipChanged);
        }
        let mut read = Vec::new();
        for text in manifests {
            let manifest = Manifest::parse(text).map_err(|e| Rejection::Manifest { what: e.to_string() })?;
            read.push((PackageId::of(text), text, manifest));
        }
        if read.iter().map(|(id, ..)| *id).collect::<BTreeSet<_>>() != *ids {
            return Err(wrong("the manifests are not those of the packages that were signed"));
        }
        for (id, _, manifest) in &read {
            let known = self.versions.get(&(manifest.name.clone(), manifest.version.clone()));
            if let Some(other) = known.filter(|other| *other != id) {
                let (name, version) = (manifest.name.clone(), manifest.version.to_string());
                return Err(Rejection::VersionTaken { name, version, id: *other });
            }
        }
        let blobs: BTreeSet<Signature> =
            read.iter().flat_map(|(_, _, m)| m.modules.iter().map(|module| module.signature)).collect();
        let copies = self.copies(&blobs, receipts)?;
        self.authorise(&by.key)?;
        for (id, text, manifest) in read {
            // Of one that is there only the publisher may change: somebody who may publish stands for it in the place of who may not.
            if self.packages.get(&id).is_some_and(|there| self.authorise(&there.published_by).is_ok()) {
                continue;
            }
            let (name, version) = (manifest.name.clone(), manifest.version.clone());
            let text = text.clone();
            self.retired.remove(&id);
            self.packages.put(id, Package { text, manifest, published_by: by.key, published: at.time, copies });
            self.note(at, EventKind::PackagePublished, About::default(), format!("{} published {name} {version}", by.name));
            self.versions.insert_mut((name, version), id);
        }
        Ok(Accepted::Published { packages: ids.clone(), copies })
    }

    /// How many of today's voters have all these blobs; an error if they are no majority.
    fn copies(&self, blobs: &BTreeSet<Signature>, receipts: &[Receipt]) -> Result<u32, Rejection> {
        let voters: BTreeSet<_> =
            self.nodes.values().filter(|node| matches!(node.raft, RaftRole::Voter { .. })).map(|node| &node.peer).collect();
        let have: BTreeSet<_> =
            receipts.iter().filter(|r| voters.contains(&r.peer) && r.blobs.is_superset(blobs)).map(|r| &r.peer).collect();
        let needed = voters.len() / 2 + 1;
        if have.len() < needed && !planted(Bug::AcknowledgedBeforeMajority) {
            return Err(Rejection::TooFewCopies { have: have.len() as u32, needed: needed as u32 });
        }
        Ok(have.len() as u32)
    }

    pub(super) fn node(&self, name: &NodeName) -> Result<&Node, Rejection> {
        self.nodes.get(name).ok_or_else(|| Rejection::UnknownNode { node: name.clone() })
    }
}

pub(super) fn new_node(at: At, new: &NewNode) -> Node {
    Node {
        name: new.name.clone(),
        peer: new.peer.clone(),
        key: new.key,
        class: None,
        desired: BTreeMap::new(),
        facts: new.facts.clone(),
        raft: RaftRole::Member,
        current: Generation::default(),
        ephemeral: None,
        kept: BTreeMap::new(),
        should: BTreeMap::new(),
        apart: None,
        converging: None,
        local_commands: Role::Viewer,
        joined: at.time,
        voter: None,
        leaving: None,
        version: at.index,
    }
}

fn check_value(key: &CharacteristicKey, value: &str) -> Result<(), Rejection> {
    if value.is_empty() || value.len() > 256 || value.chars().any(char::is_control) {
        return Err(Rejection::Evidence {
            what: format!("the value of {key} must have 1 to 256 bytes and no control characters"),
        });
    }
    Ok(())
}

fn check_facts(facts: &Facts) -> Result<(), Rejection> {
    let addresses = facts.control_addresses.iter().chain(&facts.data_addresses);
    if facts.discovered.len() > MAX_CHARACTERISTICS || addresses.clone().count() > 32 {
        return Err(Rejection::Limit { what: "facts of a node".into(), count: MAX_CHARACTERISTICS as u64 });
    }
    if addresses.clone().any(|address| address.len() > 256) || facts.version.len() > 64 {
        return Err(Rejection::Evidence { what: "an address or version of the node is longer than 256 bytes".into() });
    }
    facts.discovered.iter().try_for_each(|(key, value)| check_value(key, value))
}
