//! What was said to the master in one session: pure.
//!
//! A node's standing in an update is an ordered list of reports. Those that the master was sent are a prefix of it, unless an entry
//! has changed: then it, and all that follow, are said again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tribune_agent::agent::Standing;
use tribune_messages::node::ReportSent;
use tribune_raft_store::model::{NodeReport, UpdateId};

/// A report that was not taken for so long is sent again: the master may have been unable to put it into the record.
const AGAIN_AFTER: Duration = Duration::from_secs(15);

/// What was said in one session.
#[derive(Debug, Default)]
pub(super) struct Said {
    last_number: u64,
    updates: BTreeMap<UpdateId, SaidOfUpdate>,
    /// Sent and not taken, with when.
    open: BTreeMap<u64, (ReportSent, Instant)>,
}

#[derive(Debug, PartialEq, Eq)]
struct SaidOfUpdate {
    revision: u32,
    round: u32,
    reports: Vec<NodeReport>,
}

impl Said {
    /// What is to be sent now, in order, to bring the master to this standing. It counts as sent.
    pub(super) fn next(&mut self, standing: &Standing, now: Instant) -> Vec<ReportSent> {
        self.updates.retain(|update, _| standing.updates.contains_key(update));
        self.open.retain(|_, (sent, _)| standing.updates.contains_key(&sent.update));
        let mut sending = Vec::new();
        for (update, stands) in &standing.updates {
            let fresh = || SaidOfUpdate { revision: stands.revision, round: stands.round, reports: Vec::new() };
            let said = self.updates.entry(*update).or_insert_with(fresh);
            if (said.revision, said.round) != (stands.revision, stands.round) {
                *said = fresh();
            }
            let same = said.reports.iter().zip(&stands.reports).take_while(|(said, stands)| said == stands).count();
            said.reports.truncate(same);
            for report in &stands.reports[same..] {
                said.reports.push(report.clone());
                self.last_number += 1;
                sending.push(ReportSent {
                    number: self.last_number,
                    update: *update,
                    revision: stands.revision,
                    round: stands.round,
                    report: report.clone(),
                });
            }
        }
        self.open.extend(sending.iter().map(|sent| (sent.number, (sent.clone(), now))));
        sending
    }

    /// The master has this one.
    pub(super) fn taken(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// What was sent long ago and not taken, in order, to be sent once more.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<ReportSent> {
        let late = self.open.values_mut().filter(|(_, at)| now.duration_since(*at) >= AGAIN_AFTER);
        late.map(|(sent, at)| {
            *at = now;
            sent.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tribune_agent::agent::UpdateStanding;

    fn standing(revision: u32, reports: &[NodeReport]) -> Standing {
        let update = UpdateStanding { revision, round: 0, reports: reports.to_vec(), ready: false };
        Standing { updates: BTreeMap::from([(UpdateId(1), update)]), ..Standing::default() }
    }

    fn said(sent: &[ReportSent]) -> Vec<(u64, NodeReport)> {
        sent.iter().map(|sent| (sent.number, sent.report.clone())).collect()
    }

    #[test]
    fn only_what_is_new_or_differs_is_said_and_with_it_all_that_follows() {
        let mut memory = Said::default();
        let now = Instant::now();
        let [first, second, other] = [NodeReport::Staged, NodeReport::Pending, NodeReport::Ready];
        assert_eq!(said(&memory.next(&standing(1, std::slice::from_ref(&first)), now)), [(1, first.clone())]);
        let two = standing(1, &[first.clone(), second.clone()]);
        assert_eq!(said(&memory.next(&two, now)), [(2, second.clone())]);
        assert_eq!(memory.next(&two, now), []);
        let changed = standing(1, &[other.clone(), second.clone()]);
        assert_eq!(said(&memory.next(&changed, now)), [(3, other.clone()), (4, second.clone())]);
        assert_eq!(said(&memory.next(&standing(2, std::slice::from_ref(&other)), now)), [(5, other)], "about another plan");
    }

    #[test]
    fn what_was_not_taken_is_said_again_after_a_while() {
        let mut memory = Said::default();
        let stands = standing(1, &[NodeReport::Staged, NodeReport::Pending]);
        let now = Instant::now();
        let sent = memory.next(&stands, now);
        memory.taken(sent[0].number);
        assert_eq!(memory.overdue(now), []);
        assert_eq!(memory.overdue(now + AGAIN_AFTER), sent[1..]);
        memory.next(&Standing::default(), now + AGAIN_AFTER);
        assert_eq!(memory.overdue(now + 2 * AGAIN_AFTER), [], "the update is over");
    }
}
