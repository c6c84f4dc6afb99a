//! Uploads: from a user's stream into the master's package store, and from there to the other voters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};
use tracing::warn;
use tribune_messages::api::ApiError;
use tribune_p2p::ChannelError;
use tribune_p2p::channel::ChannelReceiver;
use tribune_planted::{Bug, planted};
use tribune_raft_store::model::{self, NodeName, RaftRole, Receipt, Signature};

use super::reign::Reign;
use super::{no_answer, to_peer};
use crate::raft::MemberRole;
use crate::store::{PackageStore, TakenIn, UploadError};

/// Bytes of an upload that are on their way from the network to the reader.
const PIPE: usize = 256 << 10;
/// Bytes read from the network at a time.
const STEP: usize = 64 << 10;
/// How long, once a majority has everything, the other voters are waited for: each more is a copy more.
const STRAGGLERS: Duration = Duration::from_millis(500);

/// Takes a file of `size` bytes in from a channel's body, into the package store of this node.
pub(super) async fn take_in(
    store: &PackageStore,
    name: &NodeName,
    size: u64,
    receiver: &mut ChannelReceiver,
) -> Result<TakenIn, ApiError> {
    let (to, from) = tokio::io::duplex(PIPE);
    // In a task: it cleans up after itself also if this future is dropped.
    let store = store.clone();
    let mut taking = tokio::spawn(async move { store.take_in(from).await });
    let copying = copy_body(receiver, size, to);
    let taken = tokio::select! {
        // It may be refused before it has all come.
        taken = &mut taking => taken,
        copied = copying => match copied {
            Ok(()) => taking.await,
            Err(error) => {
                // What was begun ends with its source, and removes what it brought.
                let _ = taking.await;
                return Err(ApiError::Failed { what: format!("the upload was cut short: {error}; nothing of it was kept") });
            }
        },
    };
    match taken {
        Ok(Ok(taken)) => Ok(taken),
        Ok(Err(UploadError::File(error))) => Err(ApiError::Bad { what: error.to_string() }),
        Ok(Err(UploadError::Store(error))) => {
            let what = format!("the package store of node {name}: {error}; nothing of the file was kept, send it again");
            Err(ApiError::Failed { what })
        }
        Err(error) => Err(ApiError::Failed { what: format!("the upload was given up: {error}") }),
    }
}

/// Copies a body to the reader, which sees the end of the file when this is done or has failed.
async fn copy_body(receiver: &mut ChannelReceiver, size: u64, mut to: impl AsyncWrite + Unpin) -> Result<(), ChannelError> {
    let mut body = receiver.recv_body(size)?;
    let mut buffer = vec![0; STEP];
    loop {
        let read = body.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            // The reader has ended, and its answer says why: the rest of the file is of no use.
            return std::future::pending().await;
        }
    }
}

/// What the voters were found to have.
pub(super) struct Collected {
    /// One for each voter that has all.
    pub receipts: Vec<Receipt>,
    /// The log index of the membership they were collected under.
    pub membership: u64,
}

impl Reign {
    /// Sees that these blobs are on a majority of the voters; on how many they are.
    pub(super) async fn spread(&self, blobs: &BTreeMap<Signature, u64>) -> Result<u32, ApiError> {
        let _here = self.publishing.read().await;
        let collected = self.collect(blobs).await?;
        Ok(u32::try_from(collected.receipts.len()).unwrap_or(u32::MAX))
    }

    /// Has the voters keep these blobs, until a majority has them all on disk.
    pub(super) async fn collect(&self, blobs: &BTreeMap<Signature, u64>) -> Result<Collected, ApiError> {
        let applied = self.raft.read().await.map_err(no_answer)?;
        // Before the voters are looked at: if it changes, it is known to have.
        let membership = self.raft.membership_log_index().unwrap_or(0);
        let voting = self.voting(&applied.state)?;
        // The master's own first: it is where the others get what they lack.
        let mut receipts = Vec::new();
        let mut lacking = Vec::new();
        let mut calls = FuturesUnordered::new();
        let (mine, others): (Vec<_>, Vec<_>) = voting.voters.iter().partition(|(_, name)| **name == self.name);
        for (peer, name) in mine.into_iter().chain(others) {
            let Some(address) = to_peer(peer) else { continue };
            // Boxed, so that the compiler sees that it can be sent.
            let call: BoxFuture<'_, Answer<'_>> = Box::pin(async move { (peer, name, self.keep(name, address, blobs).await) });
            if *name == self.name {
                voting.count(call.await, &mut receipts, &mut lacking);
            } else {
                calls.push(call);
            }
        }
        let mut until: Option<Instant> = None;
        loop {
            if voting.suffice(&receipts) && until.is_none() {
                until = Some(Instant::now() + STRAGGLERS);
            }
            let late = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                answer = calls.next() => match answer {
                    Some(answer) => voting.count(answer, &mut receipts, &mut lacking),
                    None => break,
                },
                () = late => break,
                () = self.over.cancelled() => return Err(ApiError::NoMaster { since: None }),
            }
        }
        if voting.suffice(&receipts) {
            return Ok(Collected { receipts, membership });
        }
        let needed = voting.voters.len() / 2 + 1;
        let what = format!(
            "the modules are on {} of the {} voters that are needed: {}; nothing was published, send it again",
            receipts.len(),
            needed,
            lacking.join("; ")
        );
        Err(ApiError::Failed { what })
    }

    fn voting(&self, record: &tribune_raft_store::record::Record) -> Result<Voting, ApiError> {
        let progress = self.raft.progress().ok_or(ApiError::NoMaster { since: None })?;
        let in_raft: BTreeSet<model::PeerId> =
            progress.members.iter().filter(|member| member.role == MemberRole::Voter).map(|member| member.peer.clone()).collect();
        let in_record =
            record.nodes().values().filter(|node| matches!(node.raft, RaftRole::Voter { .. })).map(|node| node.peer.clone());
        let in_record: BTreeSet<model::PeerId> = in_record.collect();
        let voters = record
            .nodes()
            .values()
            .filter(|node| in_raft.contains(&node.peer) || in_record.contains(&node.peer))
            .map(|node| (node.peer.clone(), node.name.clone()))
            .collect();
        Ok(Voting { voters, in_raft, in_record })
    }
}

/// Whose copies count. Record and Raft say the same but for the moments of a change: then both majorities are needed.
struct Voting {
    voters: BTreeMap<model::PeerId, NodeName>,
    in_raft: BTreeSet<model::PeerId>,
    in_record: BTreeSet<model::PeerId>,
}

type Answer<'a> = (&'a model::PeerId, &'a NodeName, Result<crate::store::Held, String>);

impl Voting {
    fn count(&self, (peer, name, answer): Answer<'_>, receipts: &mut Vec<Receipt>, lacking: &mut Vec<String>) {
        let why = match answer {
            Ok(held) if held.failed.is_empty() => {
                receipts.push(Receipt { peer: peer.clone(), blobs: held.blobs.into_keys().collect() });
                return;
            }
            Ok(held) => held.failed.into_values().next().unwrap_or_default(),
            Err(why) => why,
        };
        warn!(node = %name, why, "a voter does not have what was uploaded");
        lacking.push(format!("{name}: {why}"));
    }

    fn suffice(&self, receipts: &[Receipt]) -> bool {
        let majority = |voters: &BTreeSet<model::PeerId>| {
            let have = receipts.iter().filter(|receipt| voters.contains(&receipt.peer)).count();
            have > voters.len() / 2
        };
        planted(Bug::AcknowledgedBeforeMajority) || (majority(&self.in_raft) && majority(&self.in_record))
    }
}
