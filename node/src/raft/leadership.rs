//! Who is master, and how another becomes it.
//!
//! One idea: a master's lease keeps the others from electing another for a second after it died. A voter whose stream to the
//! master broke knows better: it drops the lease that it holds itself, and asks the others, who did the same.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use openraft::raft::TransferLeaderRequest;
use openraft::{Instant as _, RPCTypes, RaftMetrics, ServerState};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tribune_planted::{Bug, planted};
use tribune_raft_store::machine::Applied;
use tribune_raft_store::model::PeerId;
use tribune_raft_store::raft_types::{RaftPeer, Record, Vote};

use super::client::Peers;
use super::error::HandOverError;
use super::members;
use super::settings::RaftSettings;
use super::wire::{Question, Reply};
use super::{Engine, Types};

/// A Raft id that no node has: an election that is handed to it is nobody's.
const NOBODY: u64 = u64::MAX;
/// For so many leases without an answer from a majority a master still calls itself one. It cannot commit anything meanwhile.
const LEASES: u32 = 3;
/// How often a master looks whether a majority still answers.
const LOOK: Duration = Duration::from_millis(250);
/// The shortest and the longest time, in milliseconds, before a voter that lost the master stands: so that two seldom do at once.
const FIRST_PAUSE: std::ops::Range<u64> = 2..40;
/// The same before it tries again.
const NEXT_PAUSE: std::ops::Range<u64> = 40..160;
/// So often the lease is dropped: a last heartbeat may still arrive and renew it.
const DROPS: u32 = 3;
/// How long a voter may take to say how far it is before it is handed the mastership.
const PROBE_WITHIN: Duration = Duration::from_millis(500);
/// How long the master waits between two looks at how far the others are.
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// Who is master, as this node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Raft's term: it grows with every election.
    pub term: u64,
    /// The Raft id and peer id of the master, if one is known.
    pub leader: Option<(u64, PeerId)>,
    /// Whether it is this node. Only once the record here holds everything that earlier masters committed.
    pub is_master: bool,
    /// Since when none is known.
    pub none_since: Option<Instant>,
}

type Metrics = RaftMetrics<Types>;

/// Keeps [`Leadership`] up, and tells of a failure, until openraft ends.
pub(super) async fn watch(
    raft: Engine,
    mut applied: watch::Receiver<Arc<Applied<Record>>>,
    lease: Duration,
    stop: CancellationToken,
    (to, failed): (watch::Sender<Leadership>, watch::Sender<Option<String>>),
) {
    let mut metrics = raft.metrics();
    let mut open = true;
    while open {
        let now = metrics.borrow_and_update().clone();
        let state = applied.borrow_and_update().clone();
        to.send_if_modified(|old| replace(old, leadership(&now, &state, lease)));
        if let Err(fatal) = &now.running_state {
            report(&stop, &failed, fatal);
        }
        open = tokio::select! {
            changed = metrics.changed() => changed.is_ok(),
            Ok(()) = applied.changed() => true,
            () = sleep(LOOK) => true,
        };
    }
    to.send_modify(|leadership| leadership.is_master = false);
    let last = metrics.borrow_watched().running_state.clone();
    report(&stop, &failed, &last.err().unwrap_or(Fatal::Panicked));
}

fn report(stop: &CancellationToken, failed: &watch::Sender<Option<String>>, fatal: &Fatal<Types>) {
    if !stop.is_cancelled() {
        failed.send_if_modified(|why| {
            let first = why.is_none();
            if first {
                tracing::error!(%fatal, "Raft stopped");
                *why = Some(fatal.to_string());
            }
            first
        });
    }
}

fn replace(old: &mut Leadership, mut new: Leadership) -> bool {
    if new.leader.is_none() && old.leader.is_none() && old.none_since.is_some() {
        new.none_since = old.none_since;
    }
    let changed = *old != new;
    if changed {
        if old.is_master != new.is_master {
            info!(term = new.term, is_master = new.is_master, "the role of this node");
        }
        *old = new;
    }
    changed
}

fn leadership(metrics: &Metrics, applied: &Applied<Record>, lease: Duration) -> Leadership {
    let leads = metrics.state == ServerState::Leader && metrics.running_state.is_ok();
    // A vote from before a restart still says that this node leads.
    let leader = metrics.current_leader.filter(|leader| *leader != metrics.id || leads);
    let leader = leader.and_then(|id| Some((id, peer_of(metrics, id)?)));
    let own_term = applied.last_applied.as_ref().is_some_and(|last| last.leader_id.term == metrics.current_term);
    let alone = metrics.membership_config.membership().voter_ids().count() == 1;
    let answered = metrics.last_quorum_acked.is_none_or(|at| at.elapsed() < lease * LEASES) || planted(Bug::StaleFenceAccepted);
    Leadership {
        term: metrics.current_term,
        is_master: leads && own_term && (alone || answered),
        none_since: leader.is_none().then(Instant::now),
        leader,
    }
}

fn peer_of(metrics: &Metrics, id: u64) -> Option<PeerId> {
    metrics.membership_config.membership().get_node(&id).map(|node| node.peer.clone())
}

/// Stands for election whenever the master is lost.
pub(super) async fn stand(raft: Engine, longest: Duration, mut lost: mpsc::Receiver<PeerId>) {
    while let Some(master) = lost.recv().await {
        if let Err(fatal) = replace_master(&raft, &master, longest).await {
            warn!(%fatal, "no election: Raft stopped");
            return;
        }
    }
}

async fn replace_master(raft: &Engine, master: &PeerId, longest: Duration) -> Result<(), Fatal<Types>> {
    let metrics = raft.metrics().borrow_watched().clone();
    let is_voter = metrics.membership_config.membership().voter_ids().any(|id| id == metrics.id);
    let Some(leader) = metrics.current_leader.filter(|leader| *leader != metrics.id && is_voter) else { return Ok(()) };
    if peer_of(&metrics, leader).as_ref() != Some(master) {
        return Ok(());
    }
    let lost = metrics.vote;
    info!(%master, term = metrics.current_term, "the stream to the master broke");
    let began = Instant::now();
    for round in 0.. {
        if round < DROPS {
            // It answers only to who is to take over.
            let _ = raft.handle_transfer_leader(TransferLeaderRequest::new(lost, NOBODY, None)).await?;
        }
        let pause = if round == 0 { FIRST_PAUSE } else { NEXT_PAUSE };
        sleep(Duration::from_millis(rand::random_range(pause))).await;
        let now = raft.with_raft_state(|state| *state.vote_ref()).await?;
        // Another master is there; or the election by timeout, which is due by now, will find one.
        if (now.committed && now != lost) || began.elapsed() > longest {
            break;
        }
        raft.trigger().elect(true).await?;
    }
    Ok(())
}

/// Hands the mastership to a voter that answers and has everything, and waits until it is the master.
pub(super) async fn hand_over(raft: &Engine, peers: &Peers, settings: &RaftSettings) -> Result<(u64, PeerId), HandOverError> {
    let metrics = raft.metrics().borrow_watched().clone();
    if metrics.state != ServerState::Leader {
        return Err(HandOverError::NotMaster);
    }
    let membership = metrics.membership_config.membership();
    let voters: Vec<(u64, RaftPeer)> = membership
        .nodes()
        .filter(|(id, _)| **id != metrics.id && membership.voter_ids().any(|voter| voter == **id))
        .map(|(id, node)| (*id, node.clone()))
        .collect();
    if voters.is_empty() {
        return Err(HandOverError::Alone);
    }
    let after = settings.election_max * 2;
    let to = match timeout(after, find_ready(raft, peers, &voters)).await {
        Ok(found) => found?,
        Err(_) => return Err(HandOverError::NobodyReady(format!("waited {after:?}"))),
    };
    raft.trigger().transfer_leader(to.0).await?;
    let taken = raft.wait(Some(after)).metrics(|now| now.current_leader == Some(to.0), "mastership handed over").await;
    match taken {
        Ok(_) => {
            info!(to = to.0, peer = %to.1, "the mastership was handed over");
            Ok(to)
        }
        Err(_) => Err(HandOverError::NotTaken { to: to.0, after }),
    }
}

/// A voter that just said that it follows this master, and has its whole log.
async fn find_ready(raft: &Engine, peers: &Peers, voters: &[(u64, RaftPeer)]) -> Result<(u64, PeerId), HandOverError> {
    loop {
        let vote = raft.with_raft_state(|state| *state.vote_ref()).await?;
        let probes = voters.iter().map(|(id, node)| async move {
            let reply = peers.peer(*id, node).ask(Question::Probe, RPCTypes::TransferLeader, PROBE_WITHIN).await;
            let Ok(Reply::Probed { vote }) = reply else { return None };
            Some((*id, node.peer.clone(), Vote::from(vote)))
        });
        let answers: Vec<_> = join_all(probes).await.into_iter().flatten().collect();
        if answers.is_empty() {
            return Err(HandOverError::NobodyReady("none answers".into()));
        }
        let Some(progress) = members::progress(raft) else { return Err(HandOverError::NotMaster) };
        let ready = answers.into_iter().find(|(id, _, theirs)| *theirs == vote && progress.lag(*id) == Some(0));
        if let Some((id, peer, _)) = ready {
            return Ok((id, peer));
        }
        sleep(PROBE_PAUSE).await;
    }
}
