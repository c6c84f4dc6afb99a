//! Reading the log, in pieces that are bounded.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures::Stream;
use futures::stream::try_unfold;
use openraft::errors::LeaderChanged;
use openraft::storage::{LeaderBoundedStreamError, RaftLogReader};
use openraft::type_config::AsyncRuntime;
use openraft::type_config::alias::LeaderIdOf;
use openraft::{OptionalSend, RaftTypeConfig};

use super::live::{Limit, Shared};
use crate::raft_types::{LogEntry, Replicated, TokioRuntime, TypeConfig, Vote};
use crate::record::Record;

/// How much of the log is held in memory to be applied or sent.
const PIECE: Limit = Limit { entries: 64, bytes: 2 << 20 };
/// How much is given where one answer must do.
const ANSWER: Limit = Limit { entries: 300, bytes: 2 << 20 };

/// A reader of the log.
#[derive(Debug)]
pub struct LogReader<S: Replicated = Record, RT = TokioRuntime> {
    shared: Arc<Shared<S>>,
    runtime: PhantomData<fn() -> RT>,
}

impl<S: Replicated, RT> Clone for LogReader<S, RT> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }
}

impl<S: Replicated, RT> LogReader<S, RT> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Self {
        Self { shared, runtime: PhantomData }
    }
}

/// The first index in a range, and the first after it.
fn edges(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

/// Entries in pieces; `check` is asked after each was read and before it is given.
fn pieces<S: Replicated, E: From<io::Error>>(
    shared: Arc<Shared<S>>,
    (start, end): (u64, u64),
    check: impl Fn(&Shared<S>) -> Result<(), E>,
) -> impl Stream<Item = Result<LogEntry<S>, E>> {
    let begin = (Vec::new().into_iter(), start);
    try_unfold(begin, move |(mut piece, next): (std::vec::IntoIter<LogEntry<S>>, u64)| {
        let item = piece.next().map_or_else(
            || {
                piece = shared.read(next, end, PIECE).map_err(io::Error::from)?.into_iter();
                check(&shared)?;
                Ok(piece.next())
            },
            |entry| Ok(Some(entry)),
        );
        let item = item.map(|entry| {
            entry.map(|entry| {
                let next = entry.log_id.index + 1;
                (entry, (piece, next))
            })
        });
        std::future::ready(item)
    })
}

type Config<S, RT> = TypeConfig<S, RT>;
type LeaderError<S, RT> = LeaderBoundedStreamError<Config<S, RT>>;

fn still_led_by<S: Replicated, RT: AsyncRuntime>(
    shared: &Shared<S>,
    leader: &LeaderIdOf<Config<S, RT>>,
) -> Result<(), LeaderError<S, RT>> {
    let vote = shared.live().vote;
    match vote {
        Some(vote) if vote.leader_id == *leader && vote.committed => Ok(()),
        other => Err(LeaderChanged::new(*leader, other).into()),
    }
}

impl<S: Replicated, RT: AsyncRuntime> RaftLogReader<Config<S, RT>> for LogReader<S, RT> {
    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderIdOf<Config<S, RT>>,
        range: RB,
    ) -> impl Stream<Item = Result<LogEntry<S>, LeaderError<S, RT>>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let led = move |shared: &Shared<S>| still_led_by::<S, RT>(shared, &leader);
        Box::pin(pieces(Arc::clone(&self.shared), edges(&range), led))
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<LogEntry<S>, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Box::pin(pieces(Arc::clone(&self.shared), edges(&range), |_| Ok(())))
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<<Config<S, RT> as RaftTypeConfig>::Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = edges(&range);
        Ok(self.shared.read(start, end, Limit::NONE)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.live().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry<S>>, io::Error> {
        Ok(self.shared.read(start, end, ANSWER)?)
    }
}
