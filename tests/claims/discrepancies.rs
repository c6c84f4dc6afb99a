//! What is checked after an update, and what a user hears of needs that are not met.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tribune_tests::{Cluster, PackageSource};

use crate::{install, submit};

/// A provider of an API that is used on other nodes, and of one that is used on its own.
pub(crate) fn provider(version: &str) -> PackageSource {
    let provides = format!("provides = [\"ledger.api@{version}\", \"clock.api@{version}\"]");
    PackageSource::new("ledger", version).probe("ledgerd", version, &provides)
}

/// Needs of an update's record: who needs what, and where that is to be.
pub(crate) fn found(shown: &Value) -> Result<Vec<[&str; 4]>> {
    let all = shown["discrepancies"].as_array().context("no list of discrepancies")?;
    let mut found = Vec::new();
    for one in all {
        let field = |name: &str| one[name].as_str().with_context(|| format!("no {name} in {one}"));
        found.push([field("node")?, field("module")?, field("needs")?, field("scope")?]);
    }
    found.sort_unstable();
    Ok(found)
}

#[test]
fn claim_15_needs_within_and_between_nodes_are_checked_from_what_is_really_installed() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let at = cluster.not_master()?;
    install(&cluster, &provider("1.0.0"), &["n1"])?;
    let near = PackageSource::new("near", "1.0.0").probe("m", "n", "consumes = [\"clock.api@^1 on node\"]");
    let far = PackageSource::new("far", "1.0.0").probe("m", "f", "consumes = [\"ledger.api@^1\"]");
    for (source, node) in [(&near, "n1"), (&far, "n2")] {
        let update = install(&cluster, source, &[node])?;
        let shown = at.json(&["update", "show", &update])?;
        ensure!(shown["outcome"] == "completed" && found(&shown)?.is_empty(), "all needs are met: {shown}");
    }

    // The plan refuses an update that breaks needs, with each of them, until each is accepted by name.
    let file = provider("2.0.0").build(cluster.folder())?.display().to_string();
    let refused = cluster.admin(at, &["update", "submit", &file, "--node", "n1"])?.expect(8)?;
    for need in ["ledger.api", "clock.api", "--accept-discrepancy"] {
        ensure!(refused.stderr.contains(need), "{need} is not named: {}", refused.stderr);
    }
    let one = ["update", "submit", &file, "--node", "n1", "--accept-discrepancy", "ledger.api"];
    let refused = cluster.admin(at, &one)?.expect(8)?;
    ensure!(refused.stderr.contains("clock.api") && !refused.stderr.contains("ledger.api@"), "{}", refused.stderr);
    ensure!(at.json(&["node", "show", "n1"])?["packages"]["ledger"] == "1.0.0", "a refused plan changed something");

    let accepted = ["--accept-discrepancy", "ledger.api", "--accept-discrepancy", "clock.api"];
    let update = submit(&cluster, at, &file, &["n1"], &accepted, 4)?;
    let shown = at.json(&["update", "show", &update])?;
    ensure!(shown["outcome"] == "completed_with_discrepancies", "{shown}");
    let expected = [["n1", "near/m", "clock.api@^1 on node", "within_node"], ["n2", "far/m", "ledger.api@^1", "between_nodes"]];
    ensure!(found(&shown)? == expected, "{shown}");
    Ok(())
}

#[test]
fn claim_16_a_discrepancy_is_named_to_the_user_in_the_update_the_events_and_the_exit_code() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let at = cluster.not_master()?;
    install(&cluster, &provider("1.0.0"), &["n1"])?;
    let far = PackageSource::new("far", "1.0.0").probe("m", "f", "consumes = [\"ledger.api@^1\"]");
    install(&cluster, &far, &["n2"])?;
    let file = provider("2.0.0").build(cluster.folder())?.display().to_string();
    let accepted = ["--accept-discrepancy", "ledger.api"];
    let update = submit(&cluster, at, &file, &["n1"], &accepted, 4)?;

    let shown = at.cli(&["update", "show", &update])?.expect(0)?.stdout;
    for word in ["far/m", "n2", "ledger.api@^1", "ledger.api@2.0.0 on node n1"] {
        ensure!(shown.contains(word), "{word} is not shown:\n{shown}");
    }
    let events = at.cli(&["events", "-o", "json"])?.expect(0)?.stdout;
    let named = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).any(|event| {
        let text = event["text"].as_str().unwrap_or_default();
        event["kind"] == "discrepancy" && event["update"] == *update && text.contains("far/m") && text.contains("ledger.api")
    });
    ensure!(named, "no event names it:\n{events}");
    ensure!(at.watch(&update)? == 4, "the exit code says it again");

    ensure!(shown.contains("needs that are not met"), "{shown}");
    cluster.admin(at, &["check"])?.expect(4)?;

    // Repaired by a consumer that goes with the new API, it is there no more.
    let repaired = PackageSource::new("far", "1.1.0").probe("m", "f2", "consumes = [\"ledger.api@^2\"]");
    let repair = install(&cluster, &repaired, &["n2"])?;
    let shown = at.json(&["update", "show", &repair])?;
    ensure!(shown["outcome"] == "completed" && found(&shown)?.is_empty(), "{shown}");
    cluster.admin(at, &["check"])?.expect(0)?;
    let shown = at.cli(&["update", "show", &update])?.expect(0)?.stdout;
    ensure!(shown.contains("needs that were not met, and are again"), "{shown}");
    Ok(())
}
