//! The needs of the fleet that are not met: which, since when, and since when no more.
//!
//! One idea: what is installed has a version of its own, so a list of what is unmet is made once for each, and whoever is master
//! sees from the record alone whether it is to be made.

use std::collections::BTreeSet;

use super::Record;
use super::apply::{About, At};
use crate::command::{Accepted, Rejection, Response};
use crate::model::{Discrepancy, EventKind, NeedKey, Scope, Unmet, UpdateId};

/// The most unmet needs that are kept.
pub const MAX_UNMET: usize = 10_000;

impl Record {
    /// What a node has or runs has changed.
    pub(super) fn software_changed(&mut self, at: At) {
        let Some(mut cluster) = self.cluster().cloned() else { return };
        cluster.installed = at.index;
        self.clusters.put(0, cluster);
    }

    /// What an update found at its end.
    pub(super) fn found(&mut self, at: At, id: UpdateId, discrepancies: &[Discrepancy]) -> Result<(), Rejection> {
        let update = self.update(id)?;
        let (options, by) = (update.request.options.clone(), update.by.name.clone());
        for discrepancy in discrepancies {
            let accepted = options.accept_discrepancies.iter().any(|api| api.as_str() == discrepancy.need_name());
            self.note(at, EventKind::Discrepancy, About::both(id, &discrepancy.node), discrepancy.to_string());
            // The list is of needs alone: no check looks for anything else, and would take it for met.
            if discrepancy.scope != Scope::AsPlanned {
                self.put_unmet(at, discrepancy, Some(id), accepted.then(|| by.clone()));
            }
        }
        Ok(())
    }

    /// The needs that are not met, of the fleet as it was at `installed`, and how many there are beyond these.
    pub(super) fn checked(&mut self, at: At, installed: u64, discrepancies: &[Discrepancy], left_out: u64) -> Response {
        let Some(mut cluster) = self.cluster().cloned() else { return Err(Rejection::NotCreated) };
        if installed != cluster.installed || cluster.checked >= installed {
            return Err(Rejection::Outdated);
        }
        if discrepancies.len() > MAX_UNMET {
            return Err(Rejection::Limit { what: "unmet needs".into(), count: MAX_UNMET as u64 });
        }
        cluster.checked = installed;
        let known = std::mem::replace(&mut cluster.unmet_left_out, left_out);
        self.clusters.put(0, cluster);
        if left_out > 0 && left_out != known {
            let text =
                format!("{left_out} more needs are not met than the {MAX_UNMET} that are followed; `tribune check` lists all");
            self.note(at, EventKind::Discrepancy, About::default(), text);
        }
        let now: BTreeSet<NeedKey> = discrepancies.iter().map(NeedKey::from).collect();
        let gone: Vec<(NeedKey, Unmet)> =
            self.unmet.iter().filter(|(key, _)| !now.contains(key)).map(|(key, row)| (key.clone(), row.clone())).collect();
        for (key, row) in gone {
            self.unmet.remove(&key);
            // What comes after the last that is kept may only have been left out.
            if left_out > 0 && now.last().is_some_and(|last| key > *last) {
                continue;
            }
            let text = format!("on node {}, {} needs {}, which is met again", key.node, key.module, key.needs);
            let about = About { update: row.update, node: Some(&key.node) };
            self.note(at, EventKind::DiscrepancyRepaired, about, text);
        }
        for discrepancy in discrepancies {
            if !self.unmet.contains(&NeedKey::from(discrepancy)) {
                self.note(at, EventKind::Discrepancy, About::node(&discrepancy.node), discrepancy.to_string());
            }
            self.put_unmet(at, discrepancy, None, None);
        }
        Ok(Accepted::Done)
    }

    /// Writes an unmet need down. What is known of it stays.
    fn put_unmet(&mut self, at: At, discrepancy: &Discrepancy, update: Option<UpdateId>, accepted_by: Option<String>) {
        let key = NeedKey::from(discrepancy);
        let known = self.unmet.get(&key).cloned();
        if known.is_none() && self.unmet.len() >= MAX_UNMET {
            // The next check counts it among those that were left out.
            return;
        }
        let (since, before, accepted) = known.map_or((at.time, None, None), |row| (row.since, row.update, row.accepted_by));
        let row =
            Unmet { discrepancy: discrepancy.clone(), since, update: before.or(update), accepted_by: accepted_by.or(accepted) };
        self.unmet.put(key, row);
    }
}
