//! A backup on its way to a user: from this node if it is the master, else handed on from the master piece by piece.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tribune_messages::api::{ApiError, ApiRequest, ApiResponse, ApiResult};
use tribune_p2p::channel::ChannelSender;
use tribune_p2p::{Channel, ChannelError};
use tribune_raft_store::model::Role;

use super::forward::{Forwarded, lost};
use super::{Api, Origin, Stream};

/// How long the master may take to gather what goes into a backup: it reads every module.
const GATHER_WITHIN: Duration = Duration::from_secs(3600);
/// Bytes of a backup that wait to be sent.
const PIPE: usize = 256 << 10;
/// Bytes that are sent at a time.
const STEP: usize = 64 << 10;

impl Api {
    /// Answers with the size of a backup and then the backup, as the stream's body; or with why there is none.
    pub(super) async fn backup(&self, channel: &mut Channel, origin: &Origin) -> Result<Stream, ChannelError> {
        if let Err(error) = self.may_back_up(origin).await {
            channel.send(&ApiResult::Err(error)).await?;
            return Ok(Stream::GoesOn);
        }
        let Some(seat) = self.reigning() else { return self.hand_on_backup(channel, origin).await };
        let caller = self.caller(&seat, origin);
        let contents = match seat.master.backup(&caller).await {
            Ok(contents) => contents,
            Err(error) => {
                channel.send(&ApiResult::Err(error)).await?;
                return Ok(Stream::GoesOn);
            }
        };
        let size = contents.size();
        channel.send(&ApiResult::Ok(ApiResponse::Backup { size })).await?;
        let (to, mut from) = tokio::io::duplex(PIPE);
        let writing = tokio::spawn(contents.write(to));
        let sender = channel.halves().0;
        sender.begin_body(size)?;
        let mut buffer = vec![0; STEP];
        let mut left = size;
        while left > 0 {
            let read = from.read(&mut buffer).await.map_err(|error| ChannelError::Source(error.to_string()))?;
            if read == 0 {
                let why = match writing.await {
                    Ok(Err(error)) => error.to_string(),
                    _ => "it became shorter".to_owned(),
                };
                tracing::error!(why, "a backup broke off");
                return Err(ChannelError::Source(why));
            }
            sender.write_body(&buffer[..read]).await?;
            left -= read as u64;
        }
        Ok(Stream::GoesOn)
    }

    async fn may_back_up(&self, origin: &Origin) -> Result<(), ApiError> {
        if self.belief.borrow().own().is_none() {
            return Err(ApiError::Removed);
        }
        if *origin == Origin::Socket {
            self.local_limit(Role::Admin, "a backup")?;
        }
        if !matches!(origin, Origin::Forwarded(_)) {
            self.wait_for_master().await;
        }
        Ok(())
    }

    async fn hand_on_backup(&self, channel: &mut Channel, origin: &Origin) -> Result<Stream, ChannelError> {
        let mut from = match self.open_to_master(origin).await {
            Ok(from) => from,
            Err(error) => {
                channel.send(&ApiResult::Err(error)).await?;
                return Ok(Stream::GoesOn);
            }
        };
        let forwarded = Forwarded { key: self.key_of(origin), request: ApiRequest::Backup };
        let asking = async {
            from.send(&forwarded).await?;
            from.expect::<ApiResult>().await
        };
        let answer = match timeout(GATHER_WITHIN, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(lost(&error)),
            Err(_) => Err(ApiError::Timeout { what: format!("the master did not gather a backup within {GATHER_WITHIN:?}") }),
        };
        channel.send(&answer).await?;
        if let Ok(ApiResponse::Backup { size }) = answer {
            copy_body(&mut from, channel.halves().0, size).await?;
        }
        Ok(Stream::GoesOn)
    }
}

async fn copy_body(from: &mut Channel, to: &mut ChannelSender, size: u64) -> Result<(), ChannelError> {
    let mut body = from.recv_body(size)?;
    to.begin_body(size)?;
    let mut buffer = vec![0; STEP];
    loop {
        match body.read(&mut buffer).await? {
            0 => return Ok(()),
            read => to.write_body(&buffer[..read]).await?,
        }
    }
}
