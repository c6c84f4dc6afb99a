//! Handing a request on to the master. The user's key goes with it; orders are signed, so nothing in them can be changed on the way.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tribune_messages::FORWARD_PROTOCOL;
use tribune_messages::api::{ApiError, ApiRequest, ApiResult, LONGEST_WAIT, MAX_API_FRAME};
use tribune_p2p::channel::{ChannelReceiver, ChannelSender};
use tribune_p2p::{Channel, ChannelError, Limits};
use tribune_raft_store::model::PublicKey;

use super::{Api, Origin};

/// How long the master may take, beyond the time that a question itself waits.
const WITHIN: Duration = Duration::from_secs(30);
/// Bytes of an upload that are handed on at a time.
const STEP: usize = 64 * 1024;
/// How long the master's reason is waited for when it stops reading an upload.
const REASON_WITHIN: Duration = Duration::from_secs(2);
/// An upload's answer comes when the voters have copied it, so it is waited for as long as the connection lives.
pub(super) const LIMITS: Limits = Limits { max_frame: MAX_API_FRAME, send_time: Duration::from_secs(30), recv_time: None };

/// A request on its way to the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Forwarded {
    /// Whose request it is.
    pub(super) key: PublicKey,
    /// What is asked.
    pub(super) request: ApiRequest,
}

impl Api {
    /// Hands a request on to the master. One that was handed on is not handed on again.
    pub(super) async fn hand_on(&self, request: ApiRequest, origin: &Origin) -> ApiResult {
        let mut channel = self.open_to_master(origin).await?;
        let forwarded = Forwarded { key: self.key_of(origin), request };
        let within = WITHIN + LONGEST_WAIT.as_duration();
        let answered = timeout(within, async {
            channel.send(&forwarded).await?;
            channel.expect::<ApiResult>().await
        });
        match answered.await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(lost(&error)),
            Err(_) => Err(ApiError::Timeout { what: format!("the master did not answer within {within:?}") }),
        }
    }

    /// Hands an upload on, piece by piece as it comes.
    pub(super) async fn hand_on_upload(&self, from: &mut ChannelReceiver, size: u64, origin: &Origin) -> ApiResult {
        let channel = self.open_to_master(origin).await?;
        let (mut sender, mut receiver) = channel.split();
        let forwarded = Forwarded { key: self.key_of(origin), request: ApiRequest::Upload { size } };
        sender.send(&forwarded).await.map_err(|error| lost(&error))?;
        let copying = copy_body(from, &mut sender, size);
        tokio::pin!(copying);
        tokio::select! {
            biased;
            // A master that refuses the file answers before it has all of it.
            early = receiver.recv::<ApiResult>() => answer(early),
            copied = &mut copying => match copied {
                Ok(()) => answer(receiver.recv::<ApiResult>().await),
                Err(Copying::From(error)) => Err(ApiError::Bad { what: format!("the file did not come whole: {error}") }),
                Err(Copying::To(error)) => match timeout(REASON_WITHIN, receiver.recv::<ApiResult>()).await {
                    Ok(reason @ Ok(Some(_))) => answer(reason),
                    _ => Err(lost(&error)),
                },
            },
        }
    }

    pub(super) async fn open_to_master(&self, origin: &Origin) -> Result<Channel, ApiError> {
        let master = self.seen.borrow().master.filter(|master| *master != self.me);
        let Some(master) = master.filter(|_| !matches!(origin, Origin::Forwarded(_))) else { return Err(self.no_master()) };
        self.control.open(master, &[], FORWARD_PROTOCOL, LIMITS).await.map_err(|error| {
            tracing::debug!(%master, %error, "the master cannot be reached");
            self.no_master()
        })
    }
}

/// On which side copying stopped.
enum Copying {
    From(ChannelError),
    To(ChannelError),
}

async fn copy_body(from: &mut ChannelReceiver, to: &mut ChannelSender, size: u64) -> Result<(), Copying> {
    let mut body = from.recv_body(size).map_err(Copying::From)?;
    to.begin_body(size).map_err(Copying::To)?;
    let mut buffer = vec![0; STEP];
    loop {
        match body.read(&mut buffer).await.map_err(Copying::From)? {
            0 => return Ok(()),
            read => to.write_body(&buffer[..read]).await.map_err(Copying::To)?,
        }
    }
}

fn answer(received: Result<Option<ApiResult>, ChannelError>) -> ApiResult {
    match received {
        Ok(Some(result)) => result,
        Ok(None) => Err(lost(&ChannelError::Ended)),
        Err(error) => Err(lost(&error)),
    }
}

pub(super) fn lost(error: &ChannelError) -> ApiError {
    ApiError::Timeout { what: format!("the master was lost before it answered ({error})") }
}
