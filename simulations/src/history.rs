//! What users saw: the calls they made, when, and what came of each. The client's oracle checks it afterwards.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tribune_raft_store::model::{Phase, UpdateId};

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saw {
    /// An update was made, and acknowledged.
    Submitted(UpdateId),
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

/// See the module. Clones are the same history.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<Vec<Call>>>);

impl History {
    pub fn note(&self, call: Call) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The updates whose submission was acknowledged.
    pub fn acknowledged(&self) -> Vec<UpdateId> {
        self.calls().into_iter().filter_map(|call| if let Saw::Submitted(id) = call.saw { Some(id) } else { None }).collect()
    }

    /// What in it cannot have happened in any order of the calls: reads carry the index of the log that they saw, so an order is known, and it
    /// is enough to check that it agrees with real time.
    pub fn contradiction(&self) -> Option<String> {
        let calls = self.calls();
        for read in &calls {
            let Saw::Update { update, index, .. } = &read.saw else {
                if let Saw::NoUpdate(update) = &read.saw
                    && let Some(submit) =
                        calls.iter().find(|call| call.saw == Saw::Submitted(*update) && call.returned < read.called)
                {
                    return Some(format!(
                        "update {update} was acknowledged to user {} at {:?}, and at {:?} user {} was told that there is none",
                        submit.user, submit.returned, read.called, read.user
                    ));
                }
                continue;
            };
            for earlier in calls.iter().filter(|call| call.returned < read.called) {
                let Saw::Update { update: before, index: seen, phase } = &earlier.saw else { continue };
                if seen > index {
                    return Some(format!(
                        "user {} read the log at {index} at {:?}, and user {} had read it at {seen} by {:?}",
                        read.user, read.called, earlier.user, earlier.returned
                    ));
                }
                if let (true, true, Saw::Update { phase: now, .. }) = (before == update, phase.ended(), &read.saw)
                    && now != phase
                {
                    return Some(format!("update {update} had ended as {phase} at {:?}, and later is {now}", earlier.returned));
                }
            }
        }
        None
    }
}
