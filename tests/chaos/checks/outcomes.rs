//! Outcomes, as the processes that were asked hear them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::Value;
use tribune_tests::probe::{Entry, Said};

use super::Evidence;

/// The outcomes that a process heard, by update.
fn heard(said: &[Entry]) -> BTreeMap<&str, Vec<&str>> {
    let mut heard: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for entry in said {
        if let Said::Outcome { update, outcome } = &entry.said {
            heard.entry(update).or_default().push(outcome);
        }
    }
    heard
}

/// Never two, and never one that a user did not hear of.
pub fn one(evidence: &mut Evidence<'_>) -> Result<()> {
    for ((node, update), outcomes) in evidence.heard.over.iter().filter(|((_, update), _)| !evidence.twice.contains(update)) {
        ensure!(outcomes.len() == 1, "{node} told of {update}: {outcomes:?}");
    }
    for (who, said) in &evidence.heard.said {
        for (update, outcomes) in heard(said).into_iter().filter(|(update, _)| !evidence.twice.contains(*update)) {
            ensure!(outcomes.len() == 1, "{who} heard of {update}: {outcomes:?}");
            // A node that a user left out, or took back, has an outcome of its own: nothing was changed there.
            let known = evidence.record.updates.get(update).filter(|known| known["nodes"][&who.node].is_object());
            let Some(known) = known.and_then(|known| known["outcome"].as_str()) else { continue };
            let own = own_end(&evidence.record.updates[update], &who.node).filter(|_| !["aborted", "rejected"].contains(&known));
            let known = own.map_or_else(|| known.replace('_', ""), str::to_owned);
            let same = outcomes[0].eq_ignore_ascii_case(&known) || (known == "rejected" && outcomes[0] == "Aborted");
            ensure!(same, "{who} heard that {update} {}, and the record has {known}", outcomes[0]);
        }
    }
    Ok(())
}

/// The end of an ephemeral update on a node that it went on without, or where it was taken back: that is not always the end of the others.
fn own_end(update: &Value, node: &str) -> Option<&'static str> {
    let part = &update["nodes"][node];
    if part["left_behind"] == true {
        return Some("aborted");
    }
    (update["options"]["ephemeral"] == true && part["step"] == "regressed").then_some("regressed")
}

/// Whoever was asked and still runs.
pub fn all_hear(evidence: &mut Evidence<'_>) -> Result<()> {
    let mut running = BTreeSet::new();
    for (node, services) in evidence.world.nodes.iter().zip(evidence.world.services_everywhere()?) {
        running.extend(services.into_iter().map(|service| (node.name.clone(), service.pid, service.start_time)));
    }
    for (who, said) in &evidence.heard.said {
        if !running.contains(&(who.node.clone(), who.pid, who.start_time)) {
            continue;
        }
        let heard = heard(said);
        for entry in said {
            let Said::Proposal { proposal } = &entry.said else { continue };
            let update = proposal["update"].as_str().unwrap_or_default();
            let ended = evidence.record.updates.get(update).is_some_and(|update| update["phase"] == "ended");
            ensure!(!ended || heard.contains_key(update), "{who} was asked about {update} and never heard how it ended");
        }
    }
    Ok(())
}
