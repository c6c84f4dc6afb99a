//! Keeps voters and standbys as they should be.
//!
//! One idea: the next step follows from the record, from Raft and from who is there; so one that was cut off is simply taken again, by
//! whoever is master then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};
use tribune_master::{Learner, MembershipStep, RaftState, membership, store_blobs};
use tribune_planted::{Bug, planted};
use tribune_raft_store::command::Rejection;
use tribune_raft_store::model::{Node, NodeName};
use tribune_raft_store::record::Record;

use super::reign::Reign;
use crate::raft::{ChangeError, HandOverError, MemberRole, ProposeError};

/// A standby that lacks no more entries than this has caught up: what is under way is always missing.
const CAUGHT_UP: u64 = 16;
/// How often is looked how far standbys are: Raft does not tell when that changes. It also brings what only time changes.
const LOOK: Duration = Duration::from_secs(1);
/// How long a step that failed waits.
const AGAIN: Duration = Duration::from_secs(2);

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    #[error("{0}")]
    Rejected(#[from] Rejection),
    #[error("this node is not the master")]
    NotMaster,
    #[error("node {0} is not in the record any more, or its identity is not one")]
    Gone(NodeName),
    #[error("the standby with Raft id {0} does not hold the whole package store")]
    Incomplete(u64),
}

/// Takes step after step, for as long as the reign lasts.
pub(super) async fn keep_members(reign: Arc<Reign>) {
    let mut published = reign.published.clone();
    let mut present = reign.liveness.subscribe();
    let mut replicas = reign.replicas.subscribe();
    let mut last = None;
    loop {
        published.borrow_and_update();
        present.borrow_and_update();
        replicas.borrow_and_update();
        let rest = match next_step(&reign) {
            None => LOOK,
            Some(step) => {
                info!(?step, "who is in Raft changes");
                match take(&reign, &step).await {
                    // What it changed is seen at once, and the next follows.
                    Ok(()) if last.replace(step.clone()) != Some(step.clone()) => continue,
                    // It is not seen yet.
                    Ok(()) => LOOK,
                    Err(error) => {
                        warn!(?step, %error, "who is in Raft could not be changed; it is tried again");
                        AGAIN
                    }
                }
            }
        };
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            changed = present.changed() => if changed.is_err() { return },
            changed = replicas.changed() => if changed.is_err() { return },
            () = sleep(rest) => {}
        }
    }
}

fn next_step(reign: &Reign) -> Option<MembershipStep> {
    let progress = reign.raft.progress()?;
    if progress.changing {
        return None;
    }
    let applied = reign.applied();
    let record = &applied.state;
    let mut state = RaftState { voters: BTreeSet::new(), learners: Default::default(), master: reign.name.clone() };
    for member in &progress.members {
        match member.role {
            MemberRole::Voter => drop(state.voters.insert(member.raft_id)),
            MemberRole::Standby => {
                let caught_up = progress.lag(member.raft_id).is_some_and(|lag| lag <= CAUGHT_UP);
                let complete = node_of(record, member.raft_id).is_some_and(|node| is_complete(reign, record, &node.name));
                state.learners.insert(member.raft_id, Learner { caught_up, complete });
            }
        }
    }
    membership(record, &reign.liveness.borrow(), reign.now(), &state)
}

/// Whether a node was found to hold everything that the package store must.
fn is_complete(reign: &Reign, record: &Record, name: &NodeName) -> bool {
    if planted(Bug::VoterMadeBeforeBlobs) {
        return true;
    }
    let replicas = reign.replicas.borrow();
    replicas.get(name).is_some_and(|has| store_blobs(record).keys().all(|blob| has.contains_key(blob)))
}

fn node_of(record: &Record, raft_id: u64) -> Option<&Node> {
    record.nodes().values().find(|node| node.raft.raft_id() == Some(raft_id))
}

async fn take(reign: &Reign, step: &MembershipStep) -> Result<(), StepError> {
    if let Some(command) = step.command() {
        reign.propose(command).await??;
        return Ok(());
    }
    match step {
        MembershipStep::AddLearner { node, raft_id } => {
            let applied = reign.applied();
            let peer = applied.state.nodes().get(node).map(|node| node.peer.clone());
            reign.raft.add_standby(*raft_id, peer.ok_or_else(|| StepError::Gone(node.clone()))?).await?;
        }
        MembershipStep::RemoveLearner { raft_id } => reign.raft.remove(*raft_id).await?,
        MembershipStep::SetVoters { voters } => set_voters(reign, voters).await?,
        // These are commands.
        MembershipStep::MakeStandby { .. } | MembershipStep::MakeVoter { .. } | MembershipStep::MakeMember { .. } => {}
    }
    Ok(())
}

/// Changes who votes. Meanwhile nothing is published, so that what the new voters hold is what the record names.
async fn set_voters(reign: &Reign, voters: &BTreeSet<u64>) -> Result<(), StepError> {
    let _waits = reign.publishing.write().await;
    let progress = reign.raft.progress().ok_or(StepError::NotMaster)?;
    let members = || progress.members.iter().filter(|member| member.role == MemberRole::Voter);
    let now: BTreeSet<u64> = members().map(|member| member.raft_id).collect();
    let applied = reign.raft.read().await?;
    let record = &applied.state;
    for id in voters.difference(&now) {
        let complete = node_of(record, *id).is_some_and(|node| is_complete(reign, record, &node.name));
        if !complete {
            return Err(StepError::Incomplete(*id));
        }
    }
    if !voters.contains(&reign.raft.id()) {
        // Whoever is master then takes this one out.
        let (to, _) = reign.raft.hand_over().await?;
        info!(to, "the mastership was handed over: this node is to vote no more");
        return Ok(());
    }
    Ok(reign.raft.set_voters(voters.clone(), progress.membership).await?)
}
