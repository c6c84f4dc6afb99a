//! Who is in Raft: voters, standbys, and how far each is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{ChangeMembers, Instant as _, Precondition, RaftMetrics};
use tribune_raft_store::model::PeerId;
use tribune_raft_store::raft_types::RaftPeer;

use super::error::{ChangeError, ProposeError};
use super::{Engine, Types};

/// How long a change waits until it is seen in what is read of the membership.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);

/// What a node is in Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberRole {
    /// It votes, and its copy counts.
    Voter,
    /// It follows, and is ready to be promoted.
    Standby,
}

/// How far one of them is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberProgress {
    /// Its Raft id.
    pub raft_id: u64,
    /// Its peer id.
    pub peer: PeerId,
    /// Voter or standby.
    pub role: MemberRole,
    /// The last entry that it is known to have on disk.
    pub matched: Option<u64>,
    /// How long ago what it answered last was sent to it. `None`: it has not answered this master yet. Zero for the master itself.
    pub answered: Option<Duration>,
}

/// How far all in Raft are, as the master knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The master's last entry.
    pub last: Option<u64>,
    /// The log index of the membership.
    pub membership: Option<u64>,
    /// Whether a change of the membership is not yet committed to its end.
    pub changing: bool,
    /// By Raft id.
    pub members: Vec<MemberProgress>,
}

impl Progress {
    /// How many entries this one lacks; `None` if it is not in Raft or nothing is known of it.
    pub fn lag(&self, raft_id: u64) -> Option<u64> {
        let member = self.members.iter().find(|member| member.raft_id == raft_id)?;
        Some(self.last?.saturating_sub(member.matched?))
    }
}

/// How far each is; `None` if this node is not the master.
pub(super) fn progress(raft: &Engine) -> Option<Progress> {
    let metrics = raft.metrics().borrow_watched().clone();
    let matched = metrics.replication.as_ref()?;
    let stored = &metrics.membership_config;
    let membership = stored.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let answered = |id: u64| {
        let at = metrics.heartbeat.as_ref()?.get(&id)?.as_ref()?;
        Some(at.elapsed())
    };
    let members = membership.nodes().map(|(id, node)| {
        let me = *id == metrics.id;
        MemberProgress {
            raft_id: *id,
            peer: node.peer.clone(),
            role: if voters.contains(id) { MemberRole::Voter } else { MemberRole::Standby },
            matched: if me { metrics.last_log_index } else { matched.get(id).cloned().flatten().map(|at| at.index) },
            answered: if me { Some(Duration::ZERO) } else { answered(*id) },
        }
    });
    Some(Progress {
        last: metrics.last_log_index,
        membership: stored.log_id().as_ref().map(|at| at.index),
        changing: membership.get_joint_config().len() > 1 || metrics.committed_membership_config != metrics.membership_config,
        members: members.collect(),
    })
}

type Change = ChangeMembers<u64, RaftPeer>;

/// Adds a standby. It is there, but may lack everything still.
pub(super) async fn add_standby(raft: &Engine, raft_id: u64, peer: PeerId) -> Result<(), ChangeError> {
    let node = RaftPeer::new(peer);
    let known = current(raft).1.membership().get_node(&raft_id).cloned();
    match known {
        Some(known) if known == node => Ok(()),
        Some(known) => Err(ChangeError::Refused(format!("Raft id {raft_id} is {known}'s; ids are not used again"))),
        None => change(raft, ChangeMembers::AddNodes(BTreeMap::from([(raft_id, node)])), Removed::Stay, None).await,
    }
}

/// Makes these the voters, in one joint change, if the membership is still the one with this log index. New ones have to be
/// standbys; those that vote no more are out.
pub(super) async fn set_voters(raft: &Engine, voters: BTreeSet<u64>, seen: Option<u64>) -> Result<(), ChangeError> {
    change(raft, ChangeMembers::ReplaceAllVoters(voters), Removed::Leave, seen).await
}

/// Takes a voter or standby out.
pub(super) async fn remove(raft: &Engine, raft_id: u64) -> Result<(), ChangeError> {
    let membership = current(raft).1;
    let membership = membership.membership();
    let ids = BTreeSet::from([raft_id]);
    if membership.get_node(&raft_id).is_none() {
        return Ok(());
    }
    let changes = if membership.voter_ids().any(|voter| voter == raft_id) {
        ChangeMembers::RemoveVoters(ids)
    } else {
        ChangeMembers::RemoveNodes(ids)
    };
    change(raft, changes, Removed::Leave, None).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removed {
    /// A voter that is removed becomes a standby.
    Stay,
    /// It is out.
    Leave,
}

type Membership = std::sync::Arc<tribune_raft_store::raft_types::StoredMembership>;

fn current(raft: &Engine) -> (Option<u64>, Membership) {
    let membership = raft.metrics().borrow_watched().membership_config.clone();
    (membership.log_id().as_ref().map(|at| at.index), membership)
}

/// Changes the membership, if it is still the one that was looked at.
async fn change(raft: &Engine, changes: Change, removed: Removed, seen: Option<u64>) -> Result<(), ChangeError> {
    let (index, membership) = current(raft);
    if seen.is_some() && seen != index {
        return Err(ChangeError::Outdated(format!("it was looked at in entry {seen:?} and is that of entry {index:?}")));
    }
    let condition = Precondition::<Types>::LastMembershipLogId { last_membership_log_id: *membership.log_id() };
    let changed = raft.change_membership_if(changes, removed == Removed::Stay, [condition]).await.map_err(ChangeError::from)?;
    // What is read of the membership follows a moment later: the next change would go by an outdated one.
    // As one that is committed, too: until then the change counts as under way.
    let shown = |metrics: &RaftMetrics<Types>| {
        let both = [&metrics.membership_config, &metrics.committed_membership_config];
        both.into_iter().all(|membership| membership.log_id().as_ref() >= Some(&changed.log_id))
    };
    if let Err(error) = raft.wait(Some(SHOWN_WITHIN)).metrics(shown, "the new membership is shown").await {
        tracing::debug!(%error, "the new membership is not shown yet");
    }
    Ok(())
}

/// The same as a change that took too long.
pub(super) fn late(after: Duration) -> ChangeError {
    ProposeError::Timeout(after).into()
}
