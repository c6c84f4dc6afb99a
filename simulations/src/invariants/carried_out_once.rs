//! An order is carried out once, however often it is sent: it has a request id (DESIGN, section 3).

use std::collections::BTreeSet;

use tribune_raft_store::model::{Update, UpdateId, UpdateKind};

use super::Invariant;
use crate::history::History;
use crate::seen::Seen;

/// What users submitted, and not the master itself.
fn submitted(seen: &Seen) -> impl Iterator<Item = (UpdateId, &Update)> {
    seen.updates().into_iter().filter(|(_, update)| update.request.kind != UpdateKind::Converge)
}

#[derive(Debug)]
pub struct CarriedOutOnce;

impl Invariant for CarriedOutOnce {
    fn name(&self) -> &'static str {
        "carried-out-once"
    }

    fn sentence(&self) -> &'static str {
        "No two updates come from one submission, however often it was sent."
    }

    fn only_of_record(&self) -> bool {
        true
    }

    fn step(&mut self, seen: &Seen) -> Result<(), String> {
        let (Some(before), Some(now)) = (&seen.before, &seen.truth) else { return Ok(()) };
        if before.state.updates().len() == now.state.updates().len() {
            return Ok(());
        }
        let mut requests = BTreeSet::new();
        for (id, update) in submitted(seen) {
            if !requests.insert(update.request_id) {
                return Err(format!("{id} is of request {}, of which there is an update already", update.request_id));
            }
        }
        Ok(())
    }

    fn at_rest(&mut self, seen: &Seen, history: &History) -> Result<(), String> {
        let (updates, submissions) = (submitted(seen).count(), history.submissions());
        if updates > submissions {
            return Err(format!("there are {updates} updates, and users submitted {submissions} times"));
        }
        Ok(())
    }
}
