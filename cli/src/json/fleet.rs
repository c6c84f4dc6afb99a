//! Documents about the cluster, its nodes, classes, processes and events.

use std::collections::BTreeMap;

use serde::Serialize;
use tribune_messages::api::{ClassInfo, LogText, NodeInfo, ProcessInfo, Status};
use tribune_messages::registration::{FoundBy, Registration};
use tribune_raft_store::model::{Event, Principal, PublicKey, RaftRole, Settings};

use super::local::EphemeralView;
use super::word;

/// `status`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct StatusView {
    cluster: String,
    node: String,
    version: String,
    master: Option<String>,
    no_master_for_ms: Option<u64>,
    role: String,
    nodes: u32,
    voters: Vec<String>,
    age_ms: u64,
    generation: u64,
    open_updates: Vec<String>,
    problems: Vec<String>,
}

impl StatusView {
    /// The view of a node's status.
    pub fn of(status: &Status) -> Self {
        let Status {
            cluster,
            node,
            version,
            master,
            no_master_for,
            role,
            nodes,
            voters,
            age,
            generation,
            open_updates,
            problems,
        } = status;
        Self {
            cluster: cluster.to_string(),
            node: node.to_string(),
            version: version.clone(),
            master: master.as_ref().map(ToString::to_string),
            no_master_for_ms: no_master_for.map(|span| span.as_millis()),
            role: role.clone(),
            nodes: *nodes,
            voters: voters.iter().map(ToString::to_string).collect(),
            age_ms: age.as_millis(),
            generation: *generation,
            open_updates: open_updates.iter().map(ToString::to_string).collect(),
            problems: problems.clone(),
        }
    }
}

/// `settings`: what holds for the whole cluster.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct SettingsView {
    away_after_ms: u64,
    voters: u32,
    standbys: u32,
}

impl SettingsView {
    /// The view of the settings.
    pub fn of(settings: &Settings) -> Self {
        let Settings { away_after, voters, standbys } = *settings;
        Self { away_after_ms: away_after.as_millis(), voters, standbys }
    }
}

/// A node, in `nodes` and `node`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct NodeView {
    name: String,
    peer: String,
    connected: bool,
    master: bool,
    role: String,
    class: Option<String>,
    platform: String,
    version: String,
    generation: u64,
    kept_generations: Vec<u64>,
    packages: BTreeMap<String, String>,
    ephemeral: Option<EphemeralView>,
    should: BTreeMap<String, String>,
    apart: bool,
    drift: Vec<String>,
    modules: BTreeMap<String, String>,
    desired: BTreeMap<String, DesiredView>,
    discovered: BTreeMap<String, String>,
    control_addresses: Vec<String>,
    data_addresses: Vec<String>,
    joined_at: u64,
    /// Whether it may be a voter, where a user said so.
    voter: Option<String>,
    /// Since when it is to leave.
    leaving_at: Option<u64>,
}

/// A characteristic that a user set.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct DesiredView {
    value: String,
    required: bool,
}

impl NodeView {
    /// The view of a node.
    pub fn of(info: &NodeInfo) -> Self {
        let NodeInfo { node, connected, master, packages, runs, should, drift } = info;
        let desired = node.desired.iter().map(|(key, desired)| {
            let tribune_raft_store::model::Desired { value, required } = desired.clone();
            (key.to_string(), DesiredView { value, required })
        });
        Self {
            name: node.name.to_string(),
            peer: node.peer.to_string(),
            connected: *connected,
            master: *master,
            role: raft_role(node.raft).into(),
            class: node.class.as_ref().map(ToString::to_string),
            platform: node.facts.platform.to_string(),
            version: node.facts.version.clone(),
            generation: node.current.number,
            kept_generations: node.kept.keys().copied().collect(),
            packages: texts(packages),
            ephemeral: node.ephemeral.as_ref().map(|ephemeral| EphemeralView {
                update: ephemeral.update.to_string(),
                packages: texts(runs),
                modules: texts(&ephemeral.modules),
            }),
            should: texts(should),
            apart: node.is_apart(),
            drift: drift.clone(),
            modules: texts(&node.current.modules),
            desired: desired.collect(),
            discovered: texts(&node.facts.discovered),
            control_addresses: node.facts.control_addresses.clone(),
            data_addresses: node.facts.data_addresses.clone(),
            joined_at: node.joined.0,
            voter: node.voter.as_ref().map(word),
            leaving_at: node.leaving.as_ref().map(|leaving| leaving.at.0),
        }
    }
}

/// A node's part in Raft.
pub fn raft_role(role: RaftRole) -> &'static str {
    match role {
        RaftRole::Member => "member",
        RaftRole::Standby { .. } => "standby",
        RaftRole::Voter { .. } => "voter",
    }
}

/// A map with keys and values as text.
pub(super) fn texts<K: ToString, V: ToString>(map: &BTreeMap<K, V>) -> BTreeMap<String, String> {
    map.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

pub(super) fn strings<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

/// A class, in `classes`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct ClassView {
    name: String,
    nodes: Vec<String>,
    should: BTreeMap<String, String>,
}

impl ClassView {
    /// The view of a class.
    pub fn of(info: &ClassInfo) -> Self {
        let ClassInfo { class, nodes, should } = info;
        Self { name: class.name.to_string(), nodes: nodes.iter().map(ToString::to_string).collect(), should: texts(should) }
    }
}

/// Who may do what, in `principals`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct PrincipalView {
    name: String,
    role: String,
    public_key: String,
    added_at: u64,
}

impl PrincipalView {
    /// The view of a principal.
    pub fn of((key, principal): &(PublicKey, Principal)) -> Self {
        let Principal { name, role, added } = principal;
        Self { name: name.to_string(), role: word(role), public_key: key.to_string(), added_at: added.0 }
    }
}

/// An event: one document each.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct EventView {
    seq: u64,
    at: u64,
    kind: String,
    update: Option<String>,
    node: Option<String>,
    text: String,
}

impl EventView {
    /// The view of an event.
    pub fn of(event: &Event) -> Self {
        let Event { seq, at, kind, update, node, text } = event;
        Self {
            seq: *seq,
            at: at.0,
            kind: word(kind),
            update: update.map(|update| update.to_string()),
            node: node.as_ref().map(ToString::to_string),
            text: text.clone(),
        }
    }
}

/// A process, in `processes`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct ProcessView {
    name: String,
    state: String,
    pid: Option<u32>,
    start_time: Option<u64>,
    since_ms: Option<u64>,
    version: Option<String>,
    endings: u32,
    said_hello: bool,
    log: Option<String>,
    detail: Option<String>,
    registered: Option<RegisteredView>,
}

/// How a process is registered, in `processes` and `process`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct RegisteredView {
    pid_file: Option<String>,
    unit: Option<String>,
    hook: Option<Vec<String>>,
    depends_on: Vec<String>,
    consumes: Vec<String>,
    silent: String,
    within_ms: u64,
    ready_within_ms: u64,
}

impl RegisteredView {
    fn of(registration: &Registration) -> Self {
        let Registration { name: _, found_by, hook, depends_on, consumes, silent, within, ready_within } = registration;
        let (pid_file, unit) = match found_by {
            FoundBy::PidFile(path) => (Some(path.display().to_string()), None),
            FoundBy::Unit(unit) => (None, Some(unit.clone())),
        };
        Self {
            pid_file,
            unit,
            hook: hook.clone(),
            depends_on: depends_on.iter().map(ToString::to_string).collect(),
            consumes: consumes.iter().map(ToString::to_string).collect(),
            silent: word(silent),
            within_ms: within.as_millis(),
            ready_within_ms: ready_within.as_millis(),
        }
    }
}

impl ProcessView {
    /// The view of a process.
    pub fn of(info: &ProcessInfo) -> Self {
        let ProcessInfo { name, state, process, since, version, endings, said_hello, log, detail, registered } = info;
        Self {
            name: name.clone(),
            state: state.clone(),
            pid: process.as_ref().map(|process| process.pid),
            start_time: process.as_ref().map(|process| process.start_time),
            since_ms: since.map(|span| span.as_millis()),
            version: version.clone(),
            endings: *endings,
            said_hello: *said_hello,
            log: log.clone(),
            detail: detail.clone(),
            registered: registered.as_ref().map(RegisteredView::of),
        }
    }
}

/// `log`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct LogView {
    file: String,
    lines: Vec<String>,
}

impl LogView {
    /// The view of the end of a log.
    pub fn of(log: &LogText) -> Self {
        let LogText { file, text } = log;
        Self { file: file.clone(), lines: text.lines().map(str::to_owned).collect() }
    }
}
