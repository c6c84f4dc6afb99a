//! Nothing changes before everybody has accepted, or a user went past who did not.

use anyhow::{Result, ensure};
use serde_json::Value;
use tribune_tests::probe::Said;

use super::Evidence;
use crate::record::Entered;
use crate::software::module_of;

/// While an update asks, and for good if it was aborted, no process of its new versions starts on its nodes.
pub fn before_anything(evidence: &mut Evidence<'_>) -> Result<()> {
    for (update, shown) in evidence.record.updates.iter().filter(|(update, _)| !evidence.twice.contains(*update)) {
        let Some((from, to)) = closed(&evidence.record.entered, update) else { continue };
        for (node, progress) in shown["nodes"].as_object().into_iter().flatten() {
            for change in progress["changes"].as_array().into_iter().flatten() {
                started(evidence, update, node, change, (from, to))?;
            }
        }
    }
    Ok(())
}

/// From when to when an update holds its nodes and has changed nothing, in milliseconds.
fn closed(entered: &[Entered], update: &str) -> Option<(u64, u64)> {
    let of: Vec<&Entered> = entered.iter().filter(|entered| entered.update == update).collect();
    let begun = of.iter().find(|entered| entered.phase == "asking")?.at;
    let opened = of.iter().find(|entered| entered.phase.starts_with("wave") || entered.phase == "distributing");
    let aborted = of.iter().find(|entered| entered.phase == "aborted");
    let until = aborted.or(opened).map_or(u64::MAX, |entered| entered.at);
    Some((begun, until))
}

fn started(evidence: &Evidence<'_>, update: &str, node: &str, change: &Value, (from, to): (u64, u64)) -> Result<()> {
    let Some(package) = change["package"].as_str() else { return Ok(()) };
    if change["from"] == change["to"] {
        return Ok(());
    }
    for (who, said) in &evidence.heard.said {
        if who.node != node || module_of(package) != Some(who.module.as_str()) {
            continue;
        }
        for entry in said {
            let Said::Started { version, .. } = &entry.said else { continue };
            let at = i64::try_from(entry.at / 1_000_000).unwrap_or(0) + evidence.clock;
            let at = u64::try_from(at).unwrap_or(0);
            let early = change["to"] == version.as_str() && from < at && at < to && !evidence.told.may_have_gone_back(node, at);
            ensure!(!early, "{who} was started as {version} at {at}, while {update} was not accepted, from {from} to {to}");
        }
    }
    Ok(())
}
