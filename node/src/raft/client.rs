//! Raft's messages to the others: what openraft calls its network.
//!
//! One idea: two streams to each peer. A heartbeat or a vote never waits behind a large append.

use std::time::Duration;

use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest,
    VoteResponse,
};
use openraft::{OptionalSend, RPCTypes};
use tribune_messages::RAFT_PROTOCOL;
use tribune_p2p::rpc::{RpcClient, RpcError};
use tribune_p2p::{Limits, Network};
use tribune_raft_store::raft_types::{RaftPeer, Record, Vote, encode_entry};
use tribune_raft_store::snapshot::{Snapshot, SnapshotFile};

use super::Types;
use super::snapshots;
use super::wire::{APPEND_STEP, Append, Ask, Bytes, Candidacy, MAX_FRAME, Question, Reply};

/// How long a peer may take to accept a message's bytes.
const SEND_TIME: Duration = Duration::from_secs(10);

pub(super) const LIMITS: Limits = Limits { max_frame: MAX_FRAME, send_time: SEND_TIME, recv_time: None };

/// The way to all others.
#[derive(Debug, Clone)]
pub(super) struct Peers {
    id: u64,
    quick: RpcClient,
    bulk: RpcClient,
    data: Network,
    /// How long an append with entries may take: they are written to disk before they are answered.
    append_within: Duration,
}

impl Peers {
    pub(super) fn new(id: u64, control: &Network, data: &Network, append_within: Duration) -> Self {
        let client = || RpcClient::new(control.clone(), RAFT_PROTOCOL, LIMITS);
        Self { id, quick: client(), bulk: client(), data: data.clone(), append_within }
    }

    /// The way to one of them.
    pub(super) fn peer(&self, target: u64, node: &RaftPeer) -> Peer {
        Peer { peers: self.clone(), target, peer: node.peer.as_str().parse().ok() }
    }
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &RaftPeer) -> Peer {
        self.peer(target, node)
    }
}

/// The way to one of them.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    peers: Peers,
    target: u64,
    /// `None` if what the membership says is no peer id.
    peer: Option<tribune_p2p::PeerId>,
}

type Answer<T> = Result<T, RPCError<Types>>;

impl Peer {
    pub(super) async fn ask(&self, what: Question, kind: RPCTypes, within: Duration) -> Answer<Reply> {
        let peer = self.peer.ok_or_else(|| Unreachable::from_string("its identity is not a peer id"))?;
        let client = match &what {
            Question::Append(append) if !append.entries.is_empty() => &self.peers.bulk,
            _ => &self.peers.quick,
        };
        let ask = Ask { to: self.target, what };
        match client.call::<_, Reply>(peer, &ask, within).await {
            Ok(Reply::Refused(refused)) => Err(Unreachable::new(&refused).into()),
            Ok(reply) => Ok(reply),
            Err(RpcError::TimedOut { after, .. }) => {
                Err(Timeout { action: kind, id: self.peers.id, target: self.target, timeout: after }.into())
            }
            Err(error @ RpcError::Lost { .. }) => Err(NetworkError::new(&error).into()),
            Err(error) => Err(Unreachable::new(&error).into()),
        }
    }

    async fn stand(&self, request: VoteRequest<Types>, pre: Pre, option: &RPCOption) -> Answer<VoteResponse<Types>> {
        let VoteRequest { vote, last_log_id, leadership_transfer } = request;
        let candidacy =
            Candidacy { vote: (&vote).into(), last: last_log_id.as_ref().map(Into::into), transfer: leadership_transfer };
        let question = match pre {
            Pre::Vote => Question::PreVote(candidacy),
            Pre::No => Question::Vote(candidacy),
        };
        match self.ask(question, RPCTypes::Vote, option.soft_ttl()).await? {
            Reply::Voted { vote, last, granted } => Ok(VoteResponse::new(Vote::from(vote), last.map(Into::into), granted)),
            other => Err(unexpected(&other)),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Pre {
    Vote,
    No,
}

fn unexpected(reply: &Reply) -> RPCError<Types> {
    NetworkError::from_string(format!("the answer belongs to another question: {reply:?}")).into()
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Answer<AppendEntriesResponse<Types>> {
        let AppendEntriesRequest { vote, prev_log_id, entries, leader_commit } = request;
        let within = if entries.is_empty() { option.soft_ttl() } else { self.peers.append_within };
        let total = entries.len();
        let mut encoded = Vec::with_capacity(total);
        let (mut bytes, mut last) = (0, None);
        for entry in entries {
            let entry_bytes = encode_entry::<Record>(&entry).map_err(|error| NetworkError::new(&error))?;
            bytes += entry_bytes.len();
            if bytes > APPEND_STEP && !encoded.is_empty() {
                break;
            }
            encoded.push(Bytes(entry_bytes));
            last = Some(entry.log_id);
        }
        let cut = encoded.len() < total;
        let append = Append {
            vote: (&vote).into(),
            prev: prev_log_id.as_ref().map(Into::into),
            entries: encoded,
            commit: leader_commit.as_ref().map(Into::into),
        };
        match self.ask(Question::Append(append), RPCTypes::AppendEntries, within).await? {
            Reply::Appended if cut => Ok(AppendEntriesResponse::PartialSuccess(last)),
            Reply::Appended => Ok(AppendEntriesResponse::Success),
            // There is nothing before the first entry that could be another.
            Reply::Conflict if prev_log_id.is_none() => Err(unexpected(&Reply::Conflict)),
            Reply::Conflict => Ok(AppendEntriesResponse::Conflict),
            Reply::Higher(vote) => Ok(AppendEntriesResponse::HigherVote(vote.into())),
            other => Err(unexpected(&other)),
        }
    }

    async fn vote(&mut self, request: VoteRequest<Types>, option: RPCOption) -> Answer<VoteResponse<Types>> {
        self.stand(request, Pre::No, &option).await
    }

    async fn pre_vote(&mut self, request: VoteRequest<Types>, option: RPCOption) -> Answer<VoteResponse<Types>> {
        self.stand(request, Pre::Vote, &option).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Answer<TransferLeaderResponse<Types>> {
        let question = Question::TransferLeader {
            from: request.from_leader().into(),
            to: *request.to_node_id(),
            last: request.last_log_id().map(Into::into),
        };
        match self.ask(question, RPCTypes::TransferLeader, option.soft_ttl()).await? {
            Reply::Transferred(true) => Ok(Ok(())),
            Reply::Transferred(false) => Err(NetworkError::from_string("the transfer does not fit what is there").into()),
            other => Err(unexpected(&other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let peer = self.peer.ok_or_else(|| Unreachable::from_string("its identity is not a peer id"))?;
        let sending = snapshots::send(&self.peers.data, peer, self.target, &vote, &snapshot);
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = sending => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(Unreachable::new(&error).into()),
            },
        }
    }
}
