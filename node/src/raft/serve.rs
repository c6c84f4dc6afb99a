//! Raft's messages from the others, answered.

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{Fatal, RaftError as Failure};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use tribune_p2p::PeerId;
use tribune_raft_store::raft_types::{Record, decode_entry};

use super::wire::{Append, Ask, Candidacy, Question, Refused, Reply, WireVote};
use super::{Engine, IsVoter, Types};

/// Messages that are answered at once.
pub(super) const AT_ONCE: usize = 64;

/// Answers a message that `peer` sent.
pub(super) async fn answer(raft: Engine, is_voter: IsVoter, peer: PeerId, ask: Ask) -> Reply {
    if let Err(refused) = check_id(&raft, ask.to) {
        return Reply::Refused(refused);
    }
    match respond(&raft, &is_voter, peer, ask.what).await {
        Ok(reply) => reply,
        Err(refused) => Reply::Refused(refused),
    }
}

pub(super) fn check_id(raft: &Engine, to: u64) -> Result<(), Refused> {
    let here = *raft.node_id();
    if to == here { Ok(()) } else { Err(Refused::OtherId { here }) }
}

/// Whether `peer` may speak as this voter. Raft itself takes whoever has the highest term at its word, so nobody else leads or stands:
/// who is a voter by Raft's membership as it is here, or by what the node believes. A standby knows of no membership before it is
/// sent one, and one that was away not of those that came meanwhile.
pub(super) fn check_sender(raft: &Engine, is_voter: &IsVoter, peer: &PeerId, vote: &WireVote) -> Result<(), Refused> {
    let claimed = vote.node();
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let known = membership.get_node(&claimed);
    if known.is_some_and(|known| known.peer.as_str() != peer.to_base58()) {
        return Err(Refused::NotYou { claimed });
    }
    let votes = known.is_some() && membership.voter_ids().any(|voter| voter == claimed);
    if votes || is_voter(peer) { Ok(()) } else { Err(Refused::NoVoter { claimed }) }
}

async fn respond(raft: &Engine, is_voter: &IsVoter, peer: PeerId, question: Question) -> Result<Reply, Refused> {
    match question {
        Question::Append(append) => {
            check_sender(raft, is_voter, &peer, &append.vote)?;
            append_entries(raft, append).await
        }
        Question::Vote(candidacy) => {
            check_sender(raft, is_voter, &peer, &candidacy.vote)?;
            Ok(voted(raft.vote(candidate(candidacy)).await.map_err(stopped)?))
        }
        Question::PreVote(candidacy) => {
            check_sender(raft, is_voter, &peer, &candidacy.vote)?;
            Ok(voted(raft.pre_vote(candidate(candidacy)).await.map_err(stopped)?))
        }
        Question::TransferLeader { from, to, last } => {
            check_sender(raft, is_voter, &peer, &from)?;
            let request = TransferLeaderRequest::new(from.into(), to, last.map(Into::into));
            let transferred = raft.handle_transfer_leader(request).await.map_err(halted)?;
            Ok(Reply::Transferred(transferred.is_ok()))
        }
        Question::Probe => {
            let vote = raft.with_raft_state(|state| *state.vote_ref()).await.map_err(halted)?;
            Ok(Reply::Probed { vote: (&vote).into() })
        }
    }
}

async fn append_entries(raft: &Engine, append: Append) -> Result<Reply, Refused> {
    let Append { vote, prev, entries, commit } = append;
    let entries = entries.iter().map(|entry| decode_entry::<Record>(&entry.0)).collect::<Result<_, _>>();
    let request = AppendEntriesRequest {
        vote: vote.into(),
        prev_log_id: prev.map(Into::into),
        entries: entries.map_err(|error| Refused::Malformed(error.to_string()))?,
        leader_commit: commit.map(Into::into),
    };
    match raft.append_entries(request).await.map_err(stopped)? {
        AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => Ok(Reply::Appended),
        AppendEntriesResponse::Conflict => Ok(Reply::Conflict),
        AppendEntriesResponse::HigherVote(vote) => Ok(Reply::Higher((&vote).into())),
    }
}

fn candidate(candidacy: Candidacy) -> VoteRequest<Types> {
    let Candidacy { vote, last, transfer } = candidacy;
    let mut request = VoteRequest::new(vote.into(), last.map(Into::into));
    request.leadership_transfer = transfer;
    request
}

fn voted(response: VoteResponse<Types>) -> Reply {
    let VoteResponse { vote, vote_granted, last_log_id } = response;
    Reply::Voted { vote: (&vote).into(), last: last_log_id.as_ref().map(Into::into), granted: vote_granted }
}

fn stopped(failure: Failure<Types>) -> Refused {
    Refused::Stopped(failure.to_string())
}

fn halted(fatal: Fatal<Types>) -> Refused {
    Refused::Stopped(fatal.to_string())
}
