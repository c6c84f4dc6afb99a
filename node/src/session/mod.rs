//! The node's end of the session with the master: it finds the master, tells it what the node has, and hands on what the node should
//! have.
//!
//! One task owns what the node believes. What the master says is checked against the fence and written down before the agent hears of it.
//! When the stream breaks, a voter stands for election, and every node looks for the master anew.

mod conversation;
mod said;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tribune_agent::agent::update::Lease;
use tribune_agent::agent::{Agent, Standing};
use tribune_master::directives::over_for_removed;
use tribune_messages::SESSION_PROTOCOL;
use tribune_messages::node::{Directive, MAX_SESSION_FRAME, READY_LEASE};
use tribune_messages::trust::{NamedMaster, RecoveryAnswer};
use tribune_p2p::rpc::RpcClient;
use tribune_p2p::{Channel, Limits, Network, OpenError, PeerId};
use tribune_raft_store::model::{NodeName, NodeReport, Outcome, SignedRecovery};

use crate::belief::{Belief, BeliefKeeper, REMOVED, network_peer, record_peer};
use crate::problems::Problems;
use crate::raft::Leadership;
use crate::recovery::believe::{Disbelief, believe};
use crate::recovery::shown::{Shown, alone, now};
use crate::seat::Seat;
use crate::settings::Settings;
use crate::trust::{Asked, ask_nodes, ask_voters};

/// The first pause before the voters are asked again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause before the voters are asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// After so long without a master other nodes than the voters are asked, and then again about as often.
const NODES_AFTER: Duration = Duration::from_secs(30);
/// While the master is being dialled, the voters are asked this often whether it still is.
const DOUBT_AFTER: Duration = Duration::from_millis(700);
/// A pause after a session that ended at once, so that two nodes which disagree do not do so a thousand times a second.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);
const PROBLEM: &str = "recovery";
const SAID_REMOVED: &str = "removed";
/// Why an update ends on a node that was removed.
const WHY_OVER: &str = "this node was removed from the cluster";
/// The master may be silent for as long as the connection lives.
const LIMITS: Limits = Limits { max_frame: MAX_SESSION_FRAME, send_time: Duration::from_secs(10), recv_time: None };

/// What the session needs of the agent.
pub(crate) trait Acting: Send + Sync + 'static {
    /// States what the node should come to.
    fn direct(&self, directives: Vec<Directive>);
    /// Says whether the master can count on the readiness that was reported.
    fn lease(&self, lease: Lease);
    /// Where the node stands.
    fn standing(&self) -> watch::Receiver<Standing>;
}

impl Acting for Agent {
    fn direct(&self, directives: Vec<Directive>) {
        Agent::direct(self, directives);
    }

    fn lease(&self, lease: Lease) {
        Agent::lease(self, lease);
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        Agent::standing(self)
    }
}

/// What the node knows of the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MasterSeen {
    /// Who it is, while there is a session with it.
    pub(crate) master: Option<PeerId>,
    /// Since when there has been a session, or none.
    pub(crate) since: Instant,
}

impl MasterSeen {
    /// No master is known, from now on.
    pub(crate) fn nobody() -> Self {
        Self { master: None, since: Instant::now() }
    }
}

/// Everything that a session is made of.
pub(crate) struct Session<A> {
    pub(crate) me: PeerId,
    pub(crate) settings: Settings,
    pub(crate) belief: BeliefKeeper,
    pub(crate) control: Network,
    pub(crate) data: Network,
    pub(crate) peers: RpcClient,
    /// This node's part in Raft and as master, while it has one.
    pub(crate) seat: watch::Receiver<Option<Seat>>,
    /// The Raft id whose store is damaged here.
    pub(crate) broken: watch::Receiver<Option<u64>>,
    pub(crate) agent: A,
    pub(crate) seen: watch::Sender<MasterSeen>,
    /// Whom a majority of the voters last named as the master, whether or not there is a session with it.
    pub(crate) named: watch::Sender<Option<PeerId>>,
    pub(crate) problems: Problems,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The other is not the master any more, and said so, or this node knows.
    Over,
    /// The stream broke.
    Lost,
    /// What the master says cannot be written down here.
    Stuck,
    /// The agent has ended: there is nothing to say any more.
    NoAgent,
    /// This node is in the cluster no more.
    Removed,
}

impl<A: Acting> Session<A> {
    /// Keeps up a session with the master, until the agent has ended. A recovery that is believed ends the one there is.
    pub(crate) async fn run(self, mut shown: mpsc::Receiver<Shown>) {
        loop {
            tokio::select! {
                biased;
                () = self.adopt_shown(&mut shown) => drop(self.seen.send_replace(MasterSeen::nobody())),
                () = self.follow() => return,
            }
        }
    }

    /// Returns once this node goes by a recovery that it was shown.
    async fn adopt_shown(&self, shown: &mut mpsc::Receiver<Shown>) {
        while let Some(Shown { recovery, answer }) = shown.recv().await {
            let said = self.adopt(&recovery);
            let taken = said == RecoveryAnswer::Taken;
            // Who showed it may have gone.
            let _ = answer.send(said);
            if taken {
                return;
            }
        }
        std::future::pending().await
    }

    fn believe(&self, recovery: &SignedRecovery) -> Result<Belief, Disbelief> {
        let belief = self.belief.watch().borrow().clone();
        believe(&belief, &self.me, recovery, now(), alone(&self.seen.borrow()))
    }

    /// Goes by a recovery from now on, once that is on disk.
    fn adopt(&self, recovery: &SignedRecovery) -> RecoveryAnswer {
        let refused = |why: String| RecoveryAnswer::Refused { why };
        match self.believe(recovery) {
            Ok(belief) => match self.belief.adopt(belief) {
                Ok(()) => {
                    self.problems.clear(PROBLEM);
                    let belief = self.belief.watch().borrow().clone();
                    let voters: Vec<&NodeName> = belief.voters().map(|node| &node.name).collect();
                    tracing::warn!(epoch = belief.view.epoch, ?voters, "the cluster was recovered: what is older counts no more");
                    RecoveryAnswer::Taken
                }
                Err(error) => {
                    self.problems.set(PROBLEM, format!("a recovery of the cluster cannot be written down: {error}"));
                    refused(error.to_string())
                }
            },
            Err(Disbelief::Known) => RecoveryAnswer::Known,
            Err(why) => refused(why.to_string()),
        }
    }

    /// Keeps up a session with the master, until the agent has ended.
    async fn follow(&self) {
        let mut counted_on = Instant::now();
        loop {
            if self.belief.watch().borrow().own().is_none() {
                return self.rest().await;
            }
            let silent = run_out(counted_on + READY_LEASE.as_duration(), &self.agent);
            let found = tokio::select! {
                found = self.find_and_open() => found,
                never = silent => match never {},
            };
            let Some((named, channel)) = found else {
                if let Err(error) = self.belief.forget_own() {
                    tracing::error!(%error, "that this node was removed could not be written down");
                    sleep(LONGEST_PAUSE).await;
                }
                continue;
            };
            self.agent.lease(Lease::Held);
            let Some(master) = network_peer(&named.peer) else { continue };
            tracing::info!(%master, term = named.term, "a session with the master begins");
            let ended = self.converse(channel, &named).await;
            counted_on = Instant::now();
            self.seen.send_replace(MasterSeen::nobody());
            tracing::info!(%master, term = named.term, ?ended, "the session with the master ended");
            match ended {
                Ended::NoAgent => return,
                Ended::Removed => {}
                Ended::Over => sleep(AFTER_REFUSAL).await,
                Ended::Stuck => sleep(LONGEST_PAUSE).await,
                Ended::Lost => self.lost(master),
            }
        }
    }

    /// A node that was removed has nobody to speak to. What runs on it goes on, and each of its updates ends as it came to its end here.
    async fn rest(&self) {
        tracing::error!("{REMOVED}");
        self.seen.send_replace(MasterSeen::nobody());
        self.agent.lease(Lease::RanOut);
        let mut standing = self.agent.standing();
        let mut directed = Vec::new();
        loop {
            let updates = standing.borrow_and_update().updates.clone();
            let over = updates.iter().filter_map(|(update, stands)| Some((*update, outcome_here(&stands.reports)?)));
            let over: Vec<_> = over.map(|(id, outcome)| over_for_removed(id, outcome, WHY_OVER)).collect();
            if over != directed {
                self.agent.direct(over.clone());
                directed = over;
            }
            if standing.changed().await.is_err() {
                return;
            }
        }
    }

    /// A voter that loses the master does not wait for the master's lease to end.
    fn lost(&self, master: PeerId) {
        if master != self.me
            && let Some(seat) = self.seat.borrow().as_ref()
        {
            seat.raft.lost(record_peer(&master));
        }
    }

    /// Finds a master that a majority of the voters names, and opens a stream to it; `None`: this node was removed.
    async fn find_and_open(&self) -> Option<(NamedMaster, Channel)> {
        loop {
            let mut named = self.find().await?;
            let mut opening = self.open(&named);
            let opened = loop {
                tokio::select! {
                    opened = &mut opening => break opened,
                    // A dead master's machine does not even say that nobody listens there.
                    () = sleep(DOUBT_AFTER) => match self.ask().await {
                        Asked::Master(other) if other != named => {
                            opening = self.open(&other);
                            named = other;
                        }
                        Asked::Recovered(recovery) => {
                            drop(self.adopt(&recovery));
                            break Err("the cluster was recovered meanwhile".to_owned());
                        }
                        _ => {}
                    },
                }
            };
            match opened {
                Ok(channel) => return Some((named, channel)),
                Err(why) => {
                    tracing::debug!(master = %named.peer, %why, "no session with the master");
                    sleep(AFTER_REFUSAL).await;
                }
            }
        }
    }

    fn open(&self, named: &NamedMaster) -> BoxFuture<'static, Result<Channel, String>> {
        let (control, me, seat) = (self.control.clone(), self.me, self.seat.borrow().clone());
        let master = network_peer(&named.peer);
        Box::pin(async move {
            let master = master.ok_or("its identity is none of the network")?;
            if master == me {
                let seat = seat.ok_or("this node is not in Raft")?;
                return Ok(seat.attend(me));
            }
            control.open(master, &[], SESSION_PROTOCOL, LIMITS).await.map_err(|error: OpenError| error.to_string())
        })
    }

    /// Asks the voters until a majority names a master, or says that this node was removed.
    async fn find(&self) -> Option<NamedMaster> {
        let mut pause = FIRST_PAUSE;
        let mut next = Instant::now() + NODES_AFTER;
        loop {
            let mut asked = self.ask().await;
            if matches!(asked, Asked::Nobody { .. }) && Instant::now() >= next {
                next = Instant::now() + NODES_AFTER.mul_f64(rand::random_range(0.5..1.5));
                if let found @ (Asked::Master(_) | Asked::Recovered(_)) = self.ask_nodes().await {
                    asked = found;
                }
            }
            match asked {
                Asked::Master(master) => {
                    self.problems.clear(SAID_REMOVED);
                    return Some(master);
                }
                Asked::Removed => return None,
                Asked::Recovered(recovery) => drop(self.adopt(&recovery)),
                Asked::Nobody { answered, voters, removed_by } => {
                    tracing::debug!(answered, voters, "no majority names a master");
                    self.say_who_removed(&removed_by);
                }
            }
            let mut seats = self.seat.clone();
            let jittered = pause.mul_f64(rand::random_range(0.5..1.5));
            tokio::select! {
                () = sleep(jittered) => {}
                () = own_change(&mut seats) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Some voters, too few to be believed, say that this node was removed.
    fn say_who_removed(&self, removed_by: &BTreeSet<PeerId>) {
        if removed_by.is_empty() {
            return self.problems.clear(SAID_REMOVED);
        }
        let belief = self.belief.watch().borrow().clone();
        let names: Vec<&str> = belief
            .voters()
            .filter(|node| network_peer(&node.peer).is_some_and(|peer| removed_by.contains(&peer)))
            .map(|node| node.name.as_str())
            .collect();
        self.problems.set(
            SAID_REMOVED,
            format!(
                "{} says that this node was removed from the cluster, and too few of the voters known here can be asked whether that is so; if it \
                 is, bring the machine back with an empty data folder and `tribune join`",
                names.join(" and ")
            ),
        );
    }

    /// Asks other nodes than the voters, which may have been replaced while this node was away.
    async fn ask_nodes(&self) -> Asked {
        let belief = self.belief.watch().borrow().clone();
        let asked = ask_nodes(&self.peers, self.me, &belief, |recovery| self.believe(recovery).is_ok()).await;
        if let Asked::Master(named) = &asked {
            tracing::info!(master = %named.peer, "a majority of the nodes names a master; too few of the voters known here are still voters");
            self.named.send_replace(network_peer(&named.peer));
        }
        asked
    }

    async fn ask(&self) -> Asked {
        let belief = self.belief.watch().borrow().clone();
        let own = self.seat.borrow().as_ref().map(|seat| seat.own(belief.view.epoch)).unwrap_or_default();
        let believed = |recovery: &SignedRecovery| self.believe(recovery).is_ok();
        let asked = ask_voters(&self.peers, self.me, &belief, own, believed).await;
        if let Asked::Master(named) = &asked {
            self.named.send_replace(network_peer(&named.peer));
        }
        asked
    }
}

/// How an update ended on a node that was removed meanwhile; `None`: it is changing here, and goes on to its end.
fn outcome_here(reports: &[NodeReport]) -> Option<Outcome> {
    match reports.last() {
        Some(NodeReport::Started | NodeReport::Running { .. }) => None,
        Some(NodeReport::Settled { .. }) => Some(Outcome::Completed),
        Some(NodeReport::Regressed { .. } | NodeReport::Restarted { .. }) => Some(Outcome::Regressed),
        // Processes that were asked hear that nothing comes of it.
        _ => Some(Outcome::Aborted),
    }
}

/// Whom a voter's Raft takes for the master.
pub(crate) fn named_by(leadership: &Leadership, epoch: u64) -> Option<NamedMaster> {
    let (_, peer) = leadership.leader.clone()?;
    Some(NamedMaster { epoch, term: leadership.term, peer })
}

/// Returns once this node's own Raft sees another master, or the node gets or loses its part in it.
async fn own_change(seats: &mut watch::Receiver<Option<Seat>>) {
    let leadership = seats.borrow_and_update().as_ref().map(|seat| seat.raft.leadership());
    let led = async {
        match leadership {
            Some(mut leadership) => {
                leadership.mark_unchanged();
                if leadership.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        changed = seats.changed() => if changed.is_err() { std::future::pending::<()>().await },
        () = led => {}
    }
}

/// Tells the agent, at this time, that the master cannot count on its readiness any more.
async fn run_out(at: Instant, agent: &impl Acting) -> std::convert::Infallible {
    sleep_until(at).await;
    agent.lease(Lease::RanOut);
    std::future::pending().await
}
