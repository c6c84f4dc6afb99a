//! How a recovery comes to the nodes: the master shows it to those that are not with it, and every node listens.
//!
//! One idea: what counts is who signed it. So it may be shown by anyone, also by a machine that its listener has never heard of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tribune_messages::RECOVERY_PROTOCOL;
use tribune_messages::trust::RecoveryAnswer;
use tribune_p2p::network::{Arrival, Incoming, NetworkError};
use tribune_p2p::{ChannelError, Limits, Network, PeerId, Who};
use tribune_raft_store::model::{SignedRecovery, Timestamp};

use super::believe::{Disbelief, believe};
use crate::belief::Belief;
use crate::session::MasterSeen;

/// Recoveries that are listened to at once.
const AT_ONCE: usize = 16;
/// Recoveries that wait to be taken.
pub(crate) const WAITING: usize = 4;
/// How long one showing may take.
const WITHIN: Duration = Duration::from_secs(10);
const LIMITS: Limits = Limits { max_frame: 128 << 10, send_time: WITHIN, recv_time: Some(WITHIN) };
/// Nodes to which it is shown at once.
const SHOWN_AT_ONCE: usize = 16;
/// How often is looked to whom it is to be shown.
const LOOK: Duration = Duration::from_millis(500);
/// The first pause before it is shown to a node again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A recovery that is believed and waits to be written down by who owns what the node believes.
pub(crate) struct Shown {
    pub(crate) recovery: SignedRecovery,
    pub(crate) answer: oneshot::Sender<RecoveryAnswer>,
}

/// Who listens for recoveries.
#[derive(Clone)]
pub(crate) struct Listener {
    pub(crate) me: PeerId,
    pub(crate) belief: watch::Receiver<Arc<Belief>>,
    pub(crate) seen: watch::Receiver<MasterSeen>,
    pub(crate) to_owner: mpsc::Sender<Shown>,
}

impl Listener {
    /// Listens until the network is shut down.
    ///
    /// # Errors
    /// The protocol is served already.
    pub(crate) fn serve(self, control: &Network) -> Result<(), NetworkError> {
        let incoming = control.serve(RECOVERY_PROTOCOL, Who::Anyone, LIMITS)?;
        tokio::spawn(self.listen(incoming));
        Ok(())
    }

    async fn listen(self, mut incoming: Incoming) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        while let Some(arrival) = incoming.next().await {
            // Never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let this = self.clone();
            tokio::spawn(async move {
                if let Err(error) = this.hear(arrival).await {
                    tracing::debug!(%error, "who showed a recovery went away");
                }
                drop(place);
            });
        }
    }

    async fn hear(&self, arrival: Arrival) -> Result<(), ChannelError> {
        let Arrival { peer, mut channel, .. } = arrival;
        let recovery: SignedRecovery = channel.expect().await?;
        let answer = self.answer(peer, recovery).await;
        channel.send(&answer).await?;
        channel.finish().await
    }

    /// What cannot be believed is answered here, and disturbs nobody.
    async fn answer(&self, from: PeerId, recovery: SignedRecovery) -> RecoveryAnswer {
        let belief = self.belief.borrow().clone();
        let alone = alone(&self.seen.borrow());
        match believe(&belief, &self.me, &recovery, now(), alone) {
            Ok(_) => {}
            Err(Disbelief::Known) => return RecoveryAnswer::Known,
            Err(why) => {
                tracing::warn!(%from, %why, "a recovery was shown and is not believed");
                return RecoveryAnswer::Refused { why: why.to_string() };
            }
        }
        let (answer, taken) = oneshot::channel();
        let ended = || RecoveryAnswer::Refused { why: "this node is ending".into() };
        if self.to_owner.send(Shown { recovery, answer }).await.is_err() {
            return ended();
        }
        taken.await.unwrap_or_else(|_| ended())
    }
}

/// For how long a node has had no master; none: it has one.
pub(crate) fn alone(seen: &MasterSeen) -> Option<Duration> {
    seen.master.is_none().then(|| seen.since.elapsed())
}

/// This machine's time.
pub(crate) fn now() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// A node that is to be shown a recovery.
struct Pending {
    pause: Duration,
    next: Instant,
    last: Option<RecoveryAnswer>,
}

/// Shows a recovery to nodes, again and again, for as long as they are missed.
pub(crate) async fn show(control: Network, recovery: SignedRecovery, missed: impl Fn() -> HashSet<PeerId>) {
    let mut pending: HashMap<PeerId, Pending> = HashMap::new();
    let mut showing = JoinSet::new();
    let mut under_way = HashSet::new();
    loop {
        let missed = missed();
        pending.retain(|peer, _| missed.contains(peer));
        for peer in missed {
            let waits = pending.get(&peer).is_some_and(|pending| pending.next > Instant::now());
            if showing.len() >= SHOWN_AT_ONCE || waits || !under_way.insert(peer) {
                continue;
            }
            let (control, recovery) = (control.clone(), recovery.clone());
            showing.spawn(async move { (peer, show_once(&control, peer, &recovery).await) });
        }
        tokio::select! {
            Some(Ok((peer, answer))) = showing.join_next(), if !showing.is_empty() => {
                under_way.remove(&peer);
                let fresh = || Pending { pause: FIRST_PAUSE, next: Instant::now(), last: None };
                let pending = pending.entry(peer).or_insert_with(fresh);
                note(peer, &answer, pending);
                pending.next = Instant::now() + pending.pause;
                pending.pause = (pending.pause * 2).min(LONGEST_PAUSE);
            }
            () = sleep(LOOK) => {}
        }
    }
}

/// Says what a node answered when it is not what it answered before.
fn note(peer: PeerId, answer: &Result<RecoveryAnswer, String>, pending: &mut Pending) {
    match answer {
        Ok(answer) if pending.last.as_ref() != Some(answer) => {
            match answer {
                RecoveryAnswer::Taken => tracing::info!(%peer, "a node believes the recovery from now on"),
                RecoveryAnswer::Known => tracing::debug!(%peer, "a node knows the recovery"),
                RecoveryAnswer::Refused { why } => tracing::error!(%peer, why, "a node does not believe the recovery"),
            }
            pending.last = Some(answer.clone());
        }
        Ok(_) => {}
        Err(why) => tracing::debug!(%peer, why, "a node could not be shown the recovery"),
    }
}

async fn show_once(control: &Network, peer: PeerId, recovery: &SignedRecovery) -> Result<RecoveryAnswer, String> {
    let showing = async {
        let mut channel = control.open(peer, &[], RECOVERY_PROTOCOL, LIMITS).await.map_err(|error| error.to_string())?;
        channel.send(recovery).await.map_err(|error| error.to_string())?;
        channel.expect::<RecoveryAnswer>().await.map_err(|error| error.to_string())
    };
    timeout(WITHIN, showing).await.unwrap_or_else(|_| Err("it took too long".into()))
}
