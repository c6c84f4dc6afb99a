//! One node's session: what it says goes into the record, what it should have goes to it.
//!
//! One idea: what the node says is worked on in the order in which it came, one thing at a time, while the session goes on listening: a
//! proposal that takes long delays no sign of life. What is to be said to the node is worked out anew after every change, and said if it is
//! not what was said last.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use tribune_master::{command_would_move, directives};
use tribune_messages::node::{Directive, FromMaster, FromNode, NodeState, Orders, ReportSent};
use tribune_messages::trust::ClusterView;
use tribune_p2p::channel::{ChannelReceiver, ChannelSender};
use tribune_p2p::{Channel, ChannelError};
use tribune_planted::{Bug, planted};
use tribune_raft_store::command::{MasterCommand, Rejection, Response};
use tribune_raft_store::model::{NodeName, PeerId, UpdateId};

use super::published::Published;
use super::reign::Reign;

/// Things a node said that wait to be worked on; what it says beyond that waits in its stream.
const MOST_WAITING: usize = 64;
/// How long a proposal that failed waits before it is tried again.
const AGAIN: Duration = Duration::from_millis(300);

/// Serves a session until the node leaves, a newer one takes its place, or the reign is over.
pub(super) async fn serve(
    reign: &Arc<Reign>,
    name: &NodeName,
    peer: PeerId,
    channel: Channel,
    replaced: &CancellationToken,
) -> Result<(), ChannelError> {
    let (to, from) = channel.split();
    let mut session = Session {
        reign: reign.clone(),
        name: name.clone(),
        peer,
        to,
        published: reign.published.clone(),
        open: None,
        said: None,
        waiting: VecDeque::new(),
        working: None,
    };
    session.run(from, replaced).await
}

/// What a node said that is to be worked on.
enum Said {
    State(Box<NodeState>),
    Report(ReportSent),
}

/// What has been worked on: the number of a report that the node need not send again.
type Worked = Option<u64>;

/// What was last said to the node.
struct LastSaid {
    view: Arc<ClusterView>,
    directives: Vec<Directive>,
}

struct Session {
    reign: Arc<Reign>,
    name: NodeName,
    peer: PeerId,
    to: ChannelSender,
    published: watch::Receiver<Arc<Published>>,
    /// The updates the node knows of; none: it has not said what it has yet.
    open: Option<BTreeSet<UpdateId>>,
    said: Option<LastSaid>,
    waiting: VecDeque<Said>,
    working: Option<Pin<Box<dyn Future<Output = Worked> + Send>>>,
}

impl Session {
    async fn run(&mut self, mut from: ChannelReceiver, replaced: &CancellationToken) -> Result<(), ChannelError> {
        let over = self.reign.over.clone();
        loop {
            if self.working.is_none()
                && let Some(said) = self.waiting.pop_front()
            {
                self.working = Some(Box::pin(work(self.reign.clone(), self.name.clone(), said)));
            }
            let room = self.waiting.len() < MOST_WAITING;
            tokio::select! {
                biased;
                () = over.cancelled() => {
                    self.to.send(&FromMaster::Over).await?;
                    return self.to.end().await;
                }
                () = replaced.cancelled() => return self.to.end().await,
                worked = finish(&mut self.working) => {
                    self.working = None;
                    if let Some(number) = worked {
                        self.to.send(&FromMaster::Taken { number }).await?;
                    }
                }
                changed = self.published.changed() => match changed {
                    Ok(()) => {
                        self.speak().await?;
                        if !self.is_in_record() {
                            info!(node = %self.name, peer = %self.peer, "the node is in the cluster no more");
                            return self.to.end().await;
                        }
                    }
                    // The reign is ending.
                    Err(_) => over.cancelled().await,
                },
                said = from.recv::<FromNode>(), if room => match said? {
                    Some(said) => self.hear(said).await?,
                    None => return self.to.end().await,
                },
            }
        }
    }

    /// Whether the node that speaks is still the one of its name.
    fn is_in_record(&self) -> bool {
        self.published.borrow().record().nodes().get(&self.name).is_some_and(|node| node.peer == self.peer)
    }

    async fn hear(&mut self, said: FromNode) -> Result<(), ChannelError> {
        match said {
            FromNode::State(state) => {
                let first = self.open.is_none();
                self.open = Some(state.open.clone());
                let broken = state.broken;
                self.waiting.push_back(Said::State(state));
                if first {
                    self.is_here(&BTreeSet::new());
                }
                self.reign.liveness.send_if_modified(|liveness| liveness.say_broken(&self.name, broken));
                self.speak().await
            }
            FromNode::Report(report) => {
                self.waiting.push_back(Said::Report(report));
                Ok(())
            }
            FromNode::Alive { ready } => {
                self.is_here(&ready);
                Ok(())
            }
        }
    }

    /// Notes that the node is here, and ready for these updates. Others are woken only if that says something new.
    fn is_here(&self, ready: &BTreeSet<UpdateId>) {
        let now = self.reign.now();
        self.reign.liveness.send_if_modified(|liveness| {
            let known =
                liveness.is_connected(&self.name) && ready.iter().all(|update| liveness.is_ready(*update, &self.name, now));
            liveness.heard(&self.name, now, ready);
            !known
        });
    }

    /// Says what the node should know and have, if it is not what was said last. Before the node has said what it has, nothing.
    async fn speak(&mut self) -> Result<(), ChannelError> {
        let Some(open) = &self.open else { return Ok(()) };
        let published = self.published.borrow_and_update().clone();
        let (record, Some(view), Some(cluster)) = (published.record(), &published.view, published.record().cluster()) else {
            return Ok(());
        };
        let directives = directives(record, &self.name, open);
        let new = |said: &LastSaid| said.directives != directives || !Arc::ptr_eq(&said.view, view);
        if !self.said.as_ref().is_none_or(new) {
            return Ok(());
        }
        for directive in &directives {
            let before = self.said.as_ref().and_then(|said| said.directives.iter().find(|said| said.update == directive.update));
            if before.is_none_or(|before| before.want != directive.want) {
                info!(update = %directive.update, node = %self.name, want = ?directive.want, "the node is told what to come to");
            }
        }
        let orders = Orders {
            fence: self.reign.fence(cluster.epoch),
            name: self.name.clone(),
            view: ClusterView::clone(view),
            directives: directives.clone(),
        };
        self.said = Some(LastSaid { view: view.clone(), directives });
        self.to.send(&FromMaster::Orders(Box::new(orders))).await
    }
}

/// Waits for what is worked on; for ever if there is nothing.
async fn finish(working: &mut Option<Pin<Box<dyn Future<Output = Worked> + Send>>>) -> Worked {
    match working {
        Some(working) => working.await,
        None => std::future::pending().await,
    }
}

/// Brings what a node said into the record.
async fn work(reign: Arc<Reign>, name: NodeName, said: Said) -> Worked {
    match said {
        Said::State(state) => {
            state_said(&reign, name, *state).await;
            None
        }
        Said::Report(report) => report_said(&reign, name, report).await,
    }
}

async fn state_said(reign: &Reign, name: NodeName, state: NodeState) {
    let NodeState { facts, current, ephemeral, kept, apart, open: _, broken: _ } = state;
    let same = reign.applied().state.nodes().get(&name).is_some_and(|node| {
        let known = node.apart.as_ref().map(|apart| &apart.change);
        let same_software = node.current == current && node.ephemeral == ephemeral && node.kept == kept;
        node.facts == facts && same_software && known == apart.as_ref()
    });
    if same {
        return;
    }
    let command = MasterCommand::NodeState { node: name.clone(), facts, current, ephemeral, kept, apart };
    if let Some(Err(rejection)) = propose(reign, command).await {
        warn!(node = %name, why = %rejection, "what a node says of itself is not taken");
    }
}

async fn report_said(reign: &Reign, name: NodeName, sent: ReportSent) -> Worked {
    let ReportSent { number, update, revision, round, report } = sent;
    let what = format!("{report:?}");
    let command = MasterCommand::Report { update, node: name.clone(), revision, round, report };
    // A node that is here again says again what the record may have.
    if !command_would_move(&reign.applied().state, &command) {
        debug!(%update, node = %name, what, "a report says nothing new");
        return Some(number);
    }
    if planted(Bug::ReportAcknowledgedBeforeCommit) {
        // Whoever is master next never hears of it.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(3), propose(reign, command)).await;
        return Some(number);
    }
    match propose(reign, command).await? {
        Ok(_) => debug!(%update, node = %name, what, "a report is in the record"),
        Err(Rejection::Outdated) => debug!(%update, node = %name, what, "a report is outdated"),
        Err(rejection) => warn!(%update, node = %name, what, why = %rejection, "a report is not taken"),
    }
    Some(number)
}

/// Proposes until there is an answer; `None` when the reign ends before. To propose twice what a node said does no harm.
async fn propose(reign: &Reign, command: MasterCommand) -> Option<Response> {
    loop {
        match reign.propose(command.clone()).await {
            Ok(response) => return Some(response),
            Err(error) => debug!(what = command.kind(), %error, "not proposed"),
        }
        tokio::select! {
            () = reign.over.cancelled() => return None,
            () = sleep(AGAIN) => {}
        }
    }
}
