//! All of an update or none of it, on every node that it has.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Evidence;

/// The steps of its nodes are those of its outcome.
pub fn each_update(evidence: &mut Evidence<'_>) -> Result<()> {
    for (update, shown) in evidence.record.ended() {
        let outcome = shown["outcome"].as_str().context("no outcome")?;
        let chosen = shown["decisions"].as_array().is_some_and(|decisions| !decisions.is_empty())
            || shown["options"]["on_failure"] != "regress_all"
            || shown["options"]["skip_away"] == true;
        for (node, progress) in shown["nodes"].as_object().into_iter().flatten() {
            let step = progress["step"].as_str().context("no step")?;
            let is_new = matches!(step, "settled" | "persisted");
            let fits = match outcome {
                "completed" | "completed_with_discrepancies" => is_new,
                "aborted" | "rejected" => !is_new && progress["changed"] == false,
                "regressed" => !is_new,
                "completed_in_part" => is_new || chosen || progress["gone"] == true,
                _ => false,
            };
            ensure!(fits, "{update} is {outcome}, and {node} {step}: {}", shown["reason"]);
        }
    }
    Ok(())
}

/// What is installed on a node is what the last update left there that changed it.
pub fn each_node(evidence: &mut Evidence<'_>) -> Result<()> {
    let mut ended: Vec<&Value> = evidence.record.ended().map(|(_, shown)| shown).collect();
    ended.sort_by_key(|shown| shown["since_at"].as_u64());
    for (number, node) in evidence.world.nodes.iter().enumerate() {
        let mut expected: BTreeMap<String, Value> = BTreeMap::new();
        for shown in &ended {
            let progress = &shown["nodes"][&node.name];
            let ephemeral = shown["options"]["ephemeral"] == true;
            let is_new = progress["step"] == if ephemeral { "persisted" } else { "settled" };
            for change in progress["changes"].as_array().into_iter().flatten().filter(|_| is_new) {
                let package = change["package"].as_str().context("no package")?.to_owned();
                if change["to"].is_null() {
                    expected.remove(&package);
                } else {
                    expected.insert(package, change["to"].clone());
                }
            }
        }
        let local = evidence.world.ask(number, &["local", "show"], Duration::from_secs(10))?;
        let found: BTreeMap<String, Value> =
            local["current"]["packages"].as_object().cloned().unwrap_or_default().into_iter().collect();
        ensure!(found == expected, "{} has {found:?}, and the updates left {expected:?}", node.name);
    }
    Ok(())
}
