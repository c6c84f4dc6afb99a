//! One session, from the first message to the last.

use std::collections::BTreeSet;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tribune_agent::agent::Standing;
use tribune_messages::node::{ALIVE_EVERY, FromMaster, FromNode, NodeState, Orders};
use tribune_messages::trust::NamedMaster;
use tribune_p2p::{Channel, ChannelError};
use tribune_planted::{Bug, planted};
use tribune_raft_store::model::UpdateId;

use super::said::Said;
use super::{Acting, Ended, MasterSeen, Session};
use crate::belief::{BeliefError, network_peer, record_peer};
use crate::facts::facts;
use crate::raft::Leadership;

const PROBLEM: &str = "what the master says";

impl<A: Acting> Session<A> {
    /// Speaks with the master until one of the two ends it.
    pub(super) async fn converse(&self, channel: Channel, named: &NamedMaster) -> Ended {
        let (sender, mut receiver) = channel.split();
        let mut standing = self.agent.standing();
        let mut alive = interval(ALIVE_EVERY.as_duration());
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leadership = self.seat.borrow().as_ref().map(|seat| seat.raft.leadership());
        let mut speaker = Speaker { sender, said: Said::default(), state: None, ready: None };
        loop {
            let heard = tokio::select! {
                heard = receiver.recv::<FromMaster>() => heard,
                changed = standing.changed() => {
                    if changed.is_err() {
                        return Ended::NoAgent;
                    }
                    let now = standing.borrow_and_update().clone();
                    match self.tell(&mut speaker, &now, Occasion::Change).await {
                        Ok(()) => continue,
                        Err(error) => return lost(&error),
                    }
                }
                _ = alive.tick() => {
                    let now = standing.borrow().clone();
                    match self.tell(&mut speaker, &now, Occasion::Tick).await {
                        Ok(()) => continue,
                        Err(error) => return lost(&error),
                    }
                }
                () = another(&mut leadership, named.term) => return Ended::Over,
            };
            match heard {
                Ok(Some(FromMaster::Orders(orders))) => {
                    if let Some(ended) = self.take(*orders, named) {
                        return ended;
                    }
                }
                Ok(Some(FromMaster::Taken { number })) => speaker.said.taken(number),
                Ok(Some(FromMaster::Over) | None) => return Ended::Over,
                Err(error) => return lost(&error),
            }
        }
    }

    /// Tells the master what it does not know yet.
    async fn tell(&self, speaker: &mut Speaker, standing: &Standing, occasion: Occasion) -> Result<(), ChannelError> {
        let state = NodeState {
            facts: facts(&self.settings, &self.control, &self.data),
            current: standing.current.clone(),
            ephemeral: standing.ephemeral.clone(),
            kept: standing.kept.clone(),
            apart: standing.apart.clone(),
            open: standing.updates.keys().copied().collect(),
            broken: *self.broken.borrow(),
        };
        if speaker.state.as_ref() != Some(&state) {
            speaker.sender.send(&FromNode::State(Box::new(state.clone()))).await?;
            speaker.state = Some(state);
        }
        let now = Instant::now();
        let mut reports = if occasion == Occasion::Tick { speaker.said.overdue(now) } else { Vec::new() };
        reports.extend(speaker.said.next(standing, now));
        for report in reports {
            tracing::debug!(update = %report.update, report = ?report.report, "reported");
            speaker.sender.send(&FromNode::Report(report)).await?;
        }
        let ready = ready(standing);
        if occasion == Occasion::Tick || speaker.ready.as_ref() != Some(&ready) {
            speaker.sender.send(&FromNode::Alive { ready: ready.clone() }).await?;
            speaker.ready = Some(ready);
        }
        Ok(())
    }

    /// Takes what a believed master says: first to disk, then to the agent.
    fn take(&self, orders: Orders, named: &NamedMaster) -> Option<Ended> {
        let Orders { fence, name, mut view, directives } = orders;
        if (fence.epoch, fence.term) != (named.epoch, named.term) && !planted(Bug::StaleFenceAccepted) {
            tracing::warn!(?fence, ?named, "the master speaks for another term than the voters said");
            return Some(Ended::Over);
        }
        let me = record_peer(&self.me);
        let removed = !view.nodes.iter().any(|node| node.peer == me);
        if removed {
            // The name may be another's by now.
            view.nodes.retain(|node| node.name != name);
        }
        match self.belief.learn(fence, &name, &view) {
            Ok(()) => self.problems.clear(PROBLEM),
            Err(BeliefError::Disk(error)) => {
                self.problems.set(PROBLEM, format!("{error}; until that can be written this node follows no master"));
                return Some(Ended::Stuck);
            }
            Err(error) => {
                tracing::error!(%error, "what the master says is not taken");
                return Some(Ended::Over);
            }
        }
        let master = network_peer(&named.peer);
        self.seen.send_if_modified(|seen| {
            let new = seen.master != master;
            if new {
                *seen = MasterSeen { master, since: Instant::now() };
            }
            new
        });
        for directive in &directives {
            tracing::debug!(update = %directive.update, revision = directive.revision, want = ?directive.want, "directed");
        }
        self.agent.direct(directives);
        removed.then_some(Ended::Removed)
    }
}

/// The speaking half of a session.
struct Speaker {
    sender: tribune_p2p::channel::ChannelSender,
    said: Said,
    /// What the master was told last.
    state: Option<NodeState>,
    /// For which updates it was told last that this node is ready.
    ready: Option<BTreeSet<UpdateId>>,
}

/// Why the node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    Change,
    Tick,
}

fn ready(standing: &Standing) -> BTreeSet<UpdateId> {
    standing.updates.iter().filter(|(_, update)| update.ready).map(|(id, _)| *id).collect()
}

fn lost(error: &ChannelError) -> Ended {
    tracing::debug!(%error, "the stream to the master broke");
    Ended::Lost
}

/// Returns once this node's own Raft knows a master of a later term.
async fn another(leadership: &mut Option<watch::Receiver<Leadership>>, term: u64) {
    let Some(leadership) = leadership else { return std::future::pending().await };
    if leadership.wait_for(|now| now.term > term && now.leader.is_some()).await.is_err() {
        std::future::pending::<()>().await;
    }
}
