//! What users saw: the calls they made, when, and what came of each. The client's oracle checks it afterwards.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tribune_raft_store::model::{PackageId, Phase, UpdateId};

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saw {
    /// An update was made, and acknowledged.
    Submitted(UpdateId),
    /// A package was published, and that acknowledged.
    Published(PackageId),
    /// An update, as it was at an index of the log.
    Update { update: UpdateId, index: u64, phase: Phase },
    /// There was no such update.
    NoUpdate(UpdateId),
    /// Anything else that was done.
    Done(String),
    /// It was refused, and not done.
    Refused(String),
    /// Nobody knows whether it was done.
    Unknown(String),
}

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    pub user: usize,
    pub called: Duration,
    pub returned: Duration,
    pub saw: Saw,
}

#[derive(Debug, Default)]
struct Inner {
    calls: Vec<Call>,
    acknowledged: Vec<UpdateId>,
    submissions: usize,
}

/// See the module. Clones are the same history.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<Inner>>);

impl History {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, call: Call) {
        let mut inner = self.lock();
        if let Saw::Submitted(update) = call.saw {
            inner.acknowledged.push(update);
        }
        inner.calls.push(call);
    }

    /// Somebody is about to submit an update.
    pub fn submits(&self) {
        self.lock().submissions += 1;
    }

    /// How many updates were ever submitted, whatever came of it.
    pub fn submissions(&self) -> usize {
        self.lock().submissions
    }

    /// The updates whose submission was acknowledged, in the order in which it was.
    pub fn acknowledged(&self) -> Vec<UpdateId> {
        self.lock().acknowledged.clone()
    }

    /// The packages of which it was acknowledged that they are published.
    pub fn published(&self) -> Vec<PackageId> {
        let published = |call: &Call| if let Saw::Published(id) = call.saw { Some(id) } else { None };
        self.lock().calls.iter().filter_map(published).collect()
    }

    /// What in it cannot have happened in any order of the calls: reads carry the index of the log that they saw, so an order is known, and it
    /// is enough to check that it agrees with real time.
    pub fn contradiction(&self) -> Option<String> {
        let inner = self.lock();
        let mut by_call: Vec<&Call> = inner.calls.iter().collect();
        by_call.sort_by_key(|call| call.called);
        let mut by_return: Vec<&Call> = inner.calls.iter().collect();
        by_return.sort_by_key(|call| call.returned);
        let mut over = by_return.into_iter().peekable();
        let mut known = Known::default();
        for read in by_call {
            while let Some(before) = over.next_if(|before| before.returned < read.called) {
                known.learn(before);
            }
            if let Some(why) = known.contradicts(read) {
                return Some(why);
            }
        }
        None
    }
}

/// What follows from the calls that were over before a moment.
#[derive(Default)]
struct Known<'a> {
    submitted: BTreeMap<UpdateId, &'a Call>,
    /// The read that saw most of the log, and how much.
    furthest: Option<(u64, &'a Call)>,
    ended: BTreeMap<UpdateId, (&'a Phase, &'a Call)>,
}

impl<'a> Known<'a> {
    fn learn(&mut self, call: &'a Call) {
        match &call.saw {
            Saw::Submitted(update) => drop(self.submitted.insert(*update, call)),
            Saw::Update { update, index, phase } => {
                if self.furthest.is_none_or(|(furthest, _)| furthest < *index) {
                    self.furthest = Some((*index, call));
                }
                if phase.ended() {
                    self.ended.insert(*update, (phase, call));
                }
            }
            _ => {}
        }
    }

    fn contradicts(&self, read: &Call) -> Option<String> {
        match &read.saw {
            Saw::NoUpdate(update) => self.submitted.get(update).map(|submit| {
                format!(
                    "update {update} was acknowledged to user {} at {:?}, and at {:?} user {} was told that there is none",
                    submit.user, submit.returned, read.called, read.user
                )
            }),
            Saw::Update { update, index, phase } => {
                if let Some((furthest, earlier)) = self.furthest.filter(|(furthest, _)| furthest > index) {
                    return Some(format!(
                        "user {} read the log at {index} at {:?}, and user {} had read it at {furthest} by {:?}",
                        read.user, read.called, earlier.user, earlier.returned
                    ));
                }
                let (was, earlier) = self.ended.get(update).filter(|(was, _)| *was != phase)?;
                Some(format!("update {update} had ended as {was} at {:?}, and later is {phase}", earlier.returned))
            }
            _ => None,
        }
    }
}
