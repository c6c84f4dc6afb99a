//! Who is there: what the master knows of its nodes that is in no record.
//!
//! One idea: this is soft state. A new master begins with none of it and learns it from the nodes' sessions, so nothing
//! here may be needed to know what has happened, and silence means nothing until nodes have had time to come
//! ([`GRACE`]).

use std::collections::{BTreeMap, BTreeSet};

use tribune_messages::node::READY_LEASE;
use tribune_raft_store::model::{NodeName, Phase, Span, Timestamp, Update, UpdateId};
use tribune_raft_store::record::Record;

/// How long a new master waits for its nodes before it takes silence for absence.
pub const GRACE: Span = Span::from_secs(15);

/// A point on the master's own monotonic clock, in milliseconds. Its origin is the master's choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MasterClock(pub u64);

impl MasterClock {
    /// The time a span later.
    pub fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.as_millis()))
    }

    /// How long ago an earlier time was; nothing if it is not earlier.
    pub fn since(self, earlier: MasterClock) -> Span {
        Span::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// How long an update has been in its phase, or a node has waited since its last attempt, by the master's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseClock {
    /// The record's time at which that began: tells one from the next.
    pub since: Timestamp,
    /// When this master saw it.
    pub began: MasterClock,
}

/// Who is there, and how ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Liveness {
    /// When this mastership began.
    pub began: MasterClock,
    /// The nodes that have a session with the master. Its own node is one of them.
    pub connected: BTreeSet<NodeName>,
    /// When each node was last heard of.
    pub last_heard: BTreeMap<NodeName, MasterClock>,
    /// Until when a node's readiness counts.
    pub ready_until: BTreeMap<(UpdateId, NodeName), MasterClock>,
    /// The nodes whose last attempt to come to what they should have failed.
    pub converging: BTreeMap<NodeName, PhaseClock>,
    /// The updates whose time in their phase counts: those that wait for a user, and those that install what ran or go back.
    pub phases: BTreeMap<UpdateId, PhaseClock>,
    /// The Raft ids that nodes cannot use any more, as their stores are damaged.
    pub broken: BTreeMap<NodeName, u64>,
}

impl Liveness {
    /// What a new master knows: nothing.
    pub fn new(now: MasterClock) -> Self {
        Self { began: now, ..Self::default() }
    }

    /// A node said something: it is there, and ready for these updates and no others.
    pub fn heard(&mut self, node: &NodeName, now: MasterClock, ready: &BTreeSet<UpdateId>) {
        self.connected.insert(node.clone());
        self.last_heard.insert(node.clone(), now);
        self.ready_until.retain(|(update, name), _| name != node || ready.contains(update));
        self.ready_until.extend(ready.iter().map(|update| ((*update, node.clone()), now.after(READY_LEASE))));
    }

    /// A node said under which Raft id it cannot take part in Raft any more; whether that is new.
    pub fn say_broken(&mut self, node: &NodeName, raft_id: Option<u64>) -> bool {
        let before = match raft_id {
            Some(raft_id) => self.broken.insert(node.clone(), raft_id),
            None => self.broken.remove(node),
        };
        before != raft_id
    }

    /// A node's session ended.
    pub fn gone(&mut self, node: &NodeName, now: MasterClock) {
        if self.connected.remove(node) {
            self.last_heard.insert(node.clone(), now);
        }
        self.ready_until.retain(|(_, name), _| name != node);
    }

    /// Begins to count for each update that came to a phase whose time counts, and stops for each that left it. To be called
    /// after every change of the record, before [`due`](crate::due()).
    pub fn observe(&mut self, record: &Record, now: MasterClock) {
        let counts =
            |update: &&Update| update.phase.waits_for_user() || matches!(update.phase, Phase::Persisting | Phase::Regressing);
        let counting: BTreeMap<UpdateId, Timestamp> =
            record.updates().values().filter(counts).map(|update| (update.id, update.since)).collect();
        self.phases.retain(|id, clock| counting.get(id) == Some(&clock.since));
        for (id, since) in counting {
            self.phases.entry(id).or_insert(PhaseClock { since, began: now });
        }
        let failed = record.nodes().values().filter_map(|node| Some((&node.name, node.converging.as_ref()?.since)));
        let failed: BTreeMap<&NodeName, Timestamp> = failed.collect();
        self.converging.retain(|name, clock| failed.get(name) == Some(&clock.since));
        for (name, since) in failed {
            self.converging.entry(name.clone()).or_insert(PhaseClock { since, began: now });
        }
        self.ready_until.retain(|(id, _), _| record.updates().get(id).is_some_and(|update| !update.phase.ended()));
    }

    /// Whether a node has a session now.
    pub fn is_connected(&self, node: &NodeName) -> bool {
        self.connected.contains(node)
    }

    /// How long a node has been without a session; nothing if it has one. Of a node that this master never heard of, as
    /// long as it has been master.
    pub fn away_for(&self, node: &NodeName, now: MasterClock) -> Span {
        if self.is_connected(node) {
            return Span::from_millis(0);
        }
        now.since(self.last_heard.get(node).copied().unwrap_or(self.began))
    }

    /// Since when a node has been without a session, as far as that matters to an update; `None` if it has one. Of a node that this
    /// master never heard of, since it is master. While an update installs what ran, or goes back, a node may have been away for long
    /// before anything was wanted of it: then since that began.
    pub fn away_since(&self, node: &NodeName, update: &Update) -> Option<MasterClock> {
        if self.is_connected(node) {
            return None;
        }
        let heard = self.last_heard.get(node).copied().unwrap_or(self.began);
        let wanted = match update.phase {
            Phase::Persisting | Phase::Regressing => self.phases.get(&update.id).map(|clock| clock.began),
            _ => None,
        };
        Some(wanted.map_or(heard, |wanted| wanted.max(heard)))
    }

    /// Whether nodes have had time to come: before that, silence means nothing.
    pub fn settled(&self, now: MasterClock) -> bool {
        now.since(self.began) >= GRACE
    }

    /// Whether a node is there and its processes wait at their safe points for this update.
    pub fn is_ready(&self, update: UpdateId, node: &NodeName, now: MasterClock) -> bool {
        self.is_connected(node) && self.ready_until.get(&(update, node.clone())).is_some_and(|until| *until > now)
    }
}
