//! The record as a whole, from the master to a standby or voter that lacks the log for it.
//!
//! One idea: a snapshot is a file on both sides and a body on the stream between them, never whole in memory. What breaks off
//! leaves nothing, and what arrives is checked to its last byte before Raft hears of it.

use std::time::Duration;

use openraft::raft::SnapshotResponse;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use tribune_messages::SNAPSHOT_PROTOCOL;
use tribune_p2p::network::{Arrival, Incoming};
use tribune_p2p::{Channel, ChannelError, Limits, Network, OpenError, PeerId};
use tribune_raft_store::raft_types::{SnapshotMeta, Vote, decode_meta, encode_meta};
use tribune_raft_store::snapshot::format::MAX_SNAPSHOT;
use tribune_raft_store::snapshot::{Snapshot, SnapshotError, SnapshotFile, Snapshots};

use super::serve::{check_id, check_sender};
use super::wire::{Bytes, Refused, SnapshotOffer, SnapshotReply};
use super::{Engine, IsVoter};

/// Of one snapshot at a time there is a copy on its way in.
const AT_ONCE: usize = 1;
/// How many bytes are taken from the stream at a time.
const STEP: usize = 64 << 10;
/// A stream on which nothing moves for so long is given up.
const STALL: Duration = Duration::from_secs(15);
/// How long checking and installing a snapshot may take.
const INSTALL_WITHIN: Duration = Duration::from_secs(120);
/// The offer is small: it says who is in Raft.
const MAX_OFFER: u32 = 1 << 20;

pub(super) const LIMITS: Limits = Limits { max_frame: MAX_OFFER, send_time: STALL, recv_time: Some(STALL) };

/// Why a snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("what it is of cannot be written down: {0}")]
    Meta(String),
    #[error("refused: {0}")]
    Refused(Refused),
    #[error("the answer belongs to another question")]
    OutOfStep,
}

/// Sends a snapshot, and gives the vote of the receiver once it is installed there, or when it knows a newer master.
pub(super) async fn send(data: &Network, peer: PeerId, to: u64, vote: &Vote, snapshot: &Snapshot) -> Result<Vote, SendError> {
    let meta = encode_meta(&snapshot.meta).map_err(|error| SendError::Meta(error.to_string()))?;
    let bytes = snapshot.snapshot.bytes();
    let mut channel = data.open(peer, &[], SNAPSHOT_PROTOCOL, LIMITS).await?;
    channel.send(&SnapshotOffer { to, vote: vote.into(), meta: Bytes(meta), bytes }).await?;
    match channel.expect().await? {
        SnapshotReply::Send => {}
        SnapshotReply::Done(vote) => return Ok(vote.into()),
        SnapshotReply::Refused(refused) => return Err(SendError::Refused(refused)),
    }
    channel.send_body(snapshot.snapshot.open()?, bytes).await?;
    let mut channel = channel.with_limits(Limits { recv_time: Some(INSTALL_WITHIN), ..LIMITS });
    match channel.expect().await? {
        SnapshotReply::Done(vote) => {
            info!(%peer, bytes, "a snapshot of the record was sent");
            Ok(vote.into())
        }
        SnapshotReply::Refused(refused) => Err(SendError::Refused(refused)),
        SnapshotReply::Send => Err(SendError::OutOfStep),
    }
}

/// Takes in the snapshots that others offer, until it is told to stop.
pub(super) async fn receive_all(
    mut offers: Incoming,
    (raft, is_voter): (Engine, IsVoter),
    snapshots: Snapshots,
    stop: CancellationToken,
) {
    let places = std::sync::Arc::new(Semaphore::new(AT_ONCE));
    // Ended with this function: a receiver keeps the store open.
    let mut receivers = JoinSet::new();
    loop {
        let arrival = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = receivers.join_next() => continue,
            arrival = offers.next() => arrival,
        };
        let Some(Arrival { peer, mut channel, .. }) = arrival else { break };
        let (raft, is_voter, snapshots, places) = (raft.clone(), is_voter.clone(), snapshots.clone(), places.clone());
        receivers.spawn(async move {
            let taken = match places.try_acquire() {
                Ok(_place) => receive(&mut channel, peer, (&raft, &is_voter), &snapshots).await,
                Err(_) => refuse(&mut channel, Refused::Busy).await,
            };
            if let Err(error) = taken {
                debug!(%peer, %error, "a snapshot did not arrive");
            }
        });
    }
    receivers.shutdown().await;
}

async fn refuse(channel: &mut Channel, refused: Refused) -> Result<(), ChannelError> {
    channel.send(&SnapshotReply::Refused(refused)).await
}

async fn receive(
    channel: &mut Channel,
    peer: PeerId,
    (raft, is_voter): (&Engine, &IsVoter),
    snapshots: &Snapshots,
) -> Result<(), ChannelError> {
    let offer: SnapshotOffer = channel.expect().await?;
    let meta = match judge(raft, is_voter, peer, &offer) {
        Ok(meta) => meta,
        Err(refused) => return refuse(channel, refused).await,
    };
    channel.send(&SnapshotReply::Send).await?;
    let file = match take(channel, snapshots, offer.bytes).await? {
        Ok(file) => file,
        Err(error) => return refuse(channel, Refused::Snapshot(error.to_string())).await,
    };
    let reply = match install(raft, snapshots, &offer, meta, file).await {
        Ok(response) => SnapshotReply::Done((&response.vote).into()),
        Err(refused) => SnapshotReply::Refused(refused),
    };
    channel.send(&reply).await
}

fn judge(raft: &Engine, is_voter: &IsVoter, peer: PeerId, offer: &SnapshotOffer) -> Result<SnapshotMeta, Refused> {
    check_id(raft, offer.to)?;
    check_sender(raft, is_voter, &peer, &offer.vote)?;
    if offer.bytes > MAX_SNAPSHOT {
        return Err(Refused::Snapshot(SnapshotError::TooLong.to_string()));
    }
    decode_meta(&offer.meta.0).map_err(|error| Refused::Malformed(error.to_string()))
}

/// The bytes as a file. When they break off, the file is removed.
async fn take(
    channel: &mut Channel,
    snapshots: &Snapshots,
    bytes: u64,
) -> Result<Result<SnapshotFile, SnapshotError>, ChannelError> {
    let mut sink = match snapshots.receive() {
        Ok(sink) => sink,
        Err(error) => return Ok(Err(error)),
    };
    let mut body = channel.recv_body(bytes)?;
    let mut buffer = vec![0; STEP];
    let mut failed = None;
    loop {
        let read = body.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        // A full disk is told once the sender has stopped to listen for nothing: after its last byte.
        if failed.is_none() {
            failed = sink.write(&buffer[..read]).await.err();
        }
    }
    Ok(match failed {
        Some(error) => Err(error),
        None => sink.finish().await,
    })
}

async fn install(
    raft: &Engine,
    snapshots: &Snapshots,
    offer: &SnapshotOffer,
    meta: SnapshotMeta,
    file: SnapshotFile,
) -> Result<SnapshotResponse<super::Types>, Refused> {
    let (checker, checked, what) = (snapshots.clone(), file.clone(), meta.clone());
    let checked = tribune_p2p::blocking::run(move || checker.check(&checked, &what)).await;
    let checked = checked.map_err(|error| Refused::Snapshot(error.to_string()))?;
    checked.map_err(|error| Refused::Snapshot(error.to_string()))?;
    let snapshot = Snapshot { meta, snapshot: file };
    raft.install_full_snapshot(offer.vote.into(), snapshot).await.map_err(|failure| Refused::Stopped(failure.to_string()))
}
