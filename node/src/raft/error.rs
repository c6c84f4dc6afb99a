//! What can go wrong, told apart as far as callers act differently.

use std::fmt;
use std::time::Duration;

use openraft::errors::{ClientWriteError, Fatal, ForwardToLeader, LinearizableReadError, RaftError as Failure};
use tribune_p2p::network::NetworkError;
use tribune_raft_store::model::PeerId;
use tribune_raft_store::store::StoreError;

use super::Types;

/// Raft could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    /// The settings contradict each other.
    #[error("the Raft settings do not fit together: {0}")]
    Settings(String),
    /// The store cannot be opened.
    #[error("Raft's store: {0}")]
    Store(#[from] StoreError),
    /// The network does not serve Raft.
    #[error("Raft cannot be served: {0}")]
    Network(#[from] NetworkError),
    /// No thread could be had.
    #[error("no thread for Raft: {0}")]
    Thread(std::io::Error),
    /// It has stopped, because of a failure or because it was told to.
    #[error("Raft stopped: {0}")]
    Stopped(String),
    /// Another cluster was begun here.
    #[error("a cluster cannot be begun here: {0}")]
    Begun(String),
}

/// A proposal or a read did not come to an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another node is the master, or none is. Nothing was done.
    #[error("this node is not the master{}", Named(leader))]
    NotMaster {
        /// Who is, as far as is known.
        leader: Option<PeerId>,
    },
    /// The entry is larger than an entry may be. Nothing was done.
    #[error("an entry of {bytes} bytes is too large; at most {most} are possible")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest size.
        most: usize,
    },
    /// A majority of the voters did not answer in time. A proposal may still be carried out.
    #[error("a majority of the voters did not answer within {0:?}")]
    Timeout(Duration),
    /// The master changed meanwhile. A proposal may have been carried out.
    #[error("the master changed before the answer came{}", Named(leader))]
    Unknown {
        /// Who is the master now, as far as is known.
        leader: Option<PeerId>,
    },
    /// Raft has stopped here. A proposal may have been carried out.
    #[error("Raft stopped: {0}")]
    Stopped(String),
}

/// Who is in Raft could not be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// As for a proposal.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// Who is in Raft has changed since the caller looked. Nothing was done.
    #[error("who is in Raft has changed meanwhile: {0}")]
    Outdated(String),
    /// Another change is under way, or this one is not possible. Nothing was done.
    #[error("who is in Raft cannot be changed so: {0}")]
    Refused(String),
}

/// The mastership was not handed over. The node that was asked to is the master still, unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// This node is not the master.
    #[error("this node is not the master")]
    NotMaster,
    /// There is no other voter.
    #[error("there is no other voter")]
    Alone,
    /// No other voter answers and has everything.
    #[error("no other voter answers and has the whole log: {0}")]
    NobodyReady(String),
    /// The voter that was chosen did not become the master in time. One of the two is, or will be after an election.
    #[error("voter {to} did not become the master within {after:?}")]
    NotTaken {
        /// Its Raft id.
        to: u64,
        /// How long was waited.
        after: Duration,
    },
    /// Raft has stopped here.
    #[error("Raft stopped: {0}")]
    Stopped(String),
}

struct Named<'a>(&'a Option<PeerId>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(peer) => write!(f, "; {peer} is"),
            None => f.write_str("; who is, is not known"),
        }
    }
}

fn named(forward: ForwardToLeader<Types>) -> Option<PeerId> {
    forward.leader_node.map(|node| node.peer)
}

impl From<Fatal<Types>> for ProposeError {
    fn from(fatal: Fatal<Types>) -> Self {
        Self::Stopped(fatal.to_string())
    }
}

impl From<Failure<Types, LinearizableReadError<Types>>> for ProposeError {
    fn from(failure: Failure<Types, LinearizableReadError<Types>>) -> Self {
        match failure {
            Failure::Fatal(fatal) => fatal.into(),
            Failure::APIError(LinearizableReadError::ForwardToLeader(forward)) => Self::NotMaster { leader: named(forward) },
            Failure::APIError(LinearizableReadError::QuorumNotEnough(_)) => Self::Unknown { leader: None },
        }
    }
}

impl From<Failure<Types, ClientWriteError<Types>>> for ChangeError {
    fn from(failure: Failure<Types, ClientWriteError<Types>>) -> Self {
        match failure {
            Failure::Fatal(fatal) => ProposeError::from(fatal).into(),
            Failure::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                ProposeError::NotMaster { leader: named(forward) }.into()
            }
            Failure::APIError(ClientWriteError::LogEntryDiscarded(forward)) => {
                ProposeError::Unknown { leader: named(forward) }.into()
            }
            Failure::APIError(ClientWriteError::PreconditionFailed(why)) => Self::Outdated(why.to_string()),
            Failure::APIError(other) => Self::Refused(other.to_string()),
        }
    }
}

impl From<ChangeError> for ProposeError {
    /// A command is never refused as a change of members is.
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Propose(error) => error,
            ChangeError::Outdated(why) | ChangeError::Refused(why) => Self::Stopped(why),
        }
    }
}

impl From<Fatal<Types>> for HandOverError {
    fn from(fatal: Fatal<Types>) -> Self {
        Self::Stopped(fatal.to_string())
    }
}
