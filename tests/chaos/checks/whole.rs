//! All of an update or none of it, on every node that it has.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Evidence;

/// What there should be of a package.
#[derive(Debug)]
enum Wanted {
    Any,
    None,
    Version(Value),
}

/// The steps of its nodes are those of its outcome.
pub fn each_update(evidence: &mut Evidence<'_>) -> Result<()> {
    for (update, shown) in evidence.record.ended().filter(|(update, _)| !evidence.twice.contains(*update)) {
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
                // Of a node that a user takes out of the cluster nobody hears whether it went back.
                "regress_failed" => progress["gone"] == true || step == "regressed" || progress["changed"] == false,
                _ => false,
            };
            ensure!(fits, "{update} is {outcome}, and {node} {step}: {}", shown["reason"]);
        }
    }
    Ok(())
}

/// What is installed on a node is what the last update left there that changed it. A node that went back by itself may have another
/// version of what updates left there before that.
pub fn each_node(evidence: &mut Evidence<'_>) -> Result<()> {
    let mut ended: Vec<&Value> = evidence.record.ended().map(|(_, shown)| shown).collect();
    ended.sort_by_key(|shown| shown["since_at"].as_u64());
    for (number, node) in evidence.world.nodes.iter().enumerate() {
        let went_back = evidence.record.apart.get(&node.name).copied().unwrap_or(0);
        let mut expected: BTreeMap<String, Wanted> = BTreeMap::new();
        for shown in &ended {
            let progress = &shown["nodes"][&node.name];
            let ephemeral = shown["options"]["ephemeral"] == true;
            let is_new = progress["step"] == if ephemeral { "persisted" } else { "settled" };
            for change in progress["changes"].as_array().into_iter().flatten().filter(|_| is_new) {
                let package = change["package"].as_str().context("no package")?.to_owned();
                let wanted = match &change["to"] {
                    _ if shown["since_at"].as_u64() <= Some(went_back) => Wanted::Any,
                    Value::Null => Wanted::None,
                    version => Wanted::Version(version.clone()),
                };
                expected.insert(package, wanted);
            }
        }
        let local = evidence.world.ask(number, &["local", "show"], Duration::from_secs(10))?;
        let found: BTreeMap<String, Value> =
            local["current"]["packages"].as_object().cloned().unwrap_or_default().into_iter().collect();
        let fits = |(package, wanted): (&String, &Wanted)| match wanted {
            Wanted::Any => true,
            Wanted::None => !found.contains_key(package),
            Wanted::Version(version) => found.get(package) == Some(version),
        };
        let whole = expected.iter().all(fits) && found.keys().all(|package| expected.contains_key(package));
        ensure!(whole, "{} has {found:?}, and the updates left {expected:?}", node.name);
    }
    Ok(())
}
