//! What is checked after an update, and what a user hears of needs that are not met.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tribune_tests::{Cluster, PackageSource, eventually};

use crate::images::image;
use crate::{install, submit};

/// A provider of an API that is used on other nodes, and of one that is used on its own.
pub(crate) fn provider(version: &str) -> PackageSource {
    provider_from(version, version)
}

/// The same, with other bytes.
fn provider_from(version: &str, content: &str) -> PackageSource {
    let provides = format!("provides = [\"ledger.api@{version}\", \"clock.api@{version}\"]");
    PackageSource::new("ledger", version).probe("ledgerd", content, &provides)
}

fn need(one: &Value) -> Result<[&str; 4]> {
    let field = |name: &str| one[name].as_str().with_context(|| format!("no {name} in {one}"));
    Ok([field("node")?, field("module")?, field("needs")?, field("scope")?])
}

/// Needs of an update's record: who needs what, and where that is to be.
pub(crate) fn found(shown: &Value) -> Result<Vec<[&str; 4]>> {
    let all = shown["discrepancies"].as_array().context("no list of discrepancies")?;
    let mut found = all.iter().map(need).collect::<Result<Vec<_>>>()?;
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

/// An update by which every need would be met, while the new version of the provider does not come up on n1, so that this node goes
/// back: what is there then is not what was planned. Gives what the record says of the update.
pub(crate) fn not_as_planned(cluster: &Cluster, further: &[&str]) -> Result<Value> {
    let at = cluster.not_master()?;
    let consumer = |version: &str, needs: &str| {
        PackageSource::new("far", version).probe("m", version, &format!("consumes = [\"ledger.api@{needs}\"]"))
    };
    install(cluster, &provider("1.0.0"), &["n1"])?;
    install(cluster, &consumer("1.0.0", "^1"), &["n2"])?;
    // It is there before what it needs, which comes with the update.
    let near = PackageSource::new("near", "1.0.0").probe("m", "n", "consumes = [\"clock.api@^2 on node\"]");
    let near = near.build(cluster.folder())?.display().to_string();
    submit(cluster, at, &near, &["n1"], &["--accept-discrepancy", "clock.api"], 4)?;

    let fails = provider_from("2.0.0", "2.0.0\nexit 1");
    let image = image(cluster, "both", "[nodes]\nn1 = [\"ledger\"]\nn2 = [\"far\"]\n", &[fails, consumer("2.0.0", "^2")])?;
    for file in ["ledger-2.0.0.tpkg", "far-2.0.0.tpkg"] {
        cluster.admin(at, &["package", "publish", &cluster.folder().join(file).display().to_string()])?.expect(0)?;
    }
    let further = [&["--strategy", "together", "--on-failure", "regress-node"], further].concat();
    let planned = cluster.admin(at, &[&["update", "plan", &image, "-o", "json"], &further[..]].concat())?.expect(0)?.json()?;
    ensure!(planned["accepted_discrepancies"] == serde_json::json!([]), "the plan foresees nothing: {planned}");
    let update = submit(cluster, at, &image, &[], &further, 4)?;
    at.json(&["update", "show", &update])
}

/// The needs of [`not_as_planned`] that what is there does not meet.
pub(crate) const UNFORESEEN: [[&str; 4]; 2] =
    [["n1", "near/m", "clock.api@^2 on node", "within_node"], ["n2", "far/m", "ledger.api@^2", "between_nodes"]];

#[test]
fn claim_15_what_no_plan_foresaw_is_found_too() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let at = cluster.not_master()?;
    let shown = not_as_planned(&cluster, &[])?;
    ensure!(found(&shown)? == UNFORESEEN, "{shown}");
    ensure!(at.json(&["node", "show", "n1"])?["packages"]["ledger"] == "1.0.0", "n1 went back");

    // Repaired by a version that comes up.
    let repair = install(&cluster, &provider("2.1.0"), &["n1"])?;
    let shown = at.json(&["update", "show", &repair])?;
    ensure!(shown["outcome"] == "completed" && found(&shown)?.is_empty(), "{shown}");
    cluster.admin(at, &["check"])?.expect(0)?;

    // What a node did by itself is no update of the cluster's: nothing was planned, and the check finds what it broke.
    cluster.node("n1").cli(&["local", "regress"])?.expect(0)?;
    eventually("the cluster finds it", || {
        let check = at.cli(&["check", "-o", "json"])?.expect(4)?.json()?;
        let items = check["items"].as_array().context("no items")?;
        let mut found = items.iter().map(need).collect::<Result<Vec<_>>>()?;
        found.sort_unstable();
        ensure!(found == UNFORESEEN, "{check}");
        Ok(Some(()))
    })?;
    eventually("the cluster knows why", || Ok((at.json(&["node", "show", "n1"])?["apart"] == true).then_some(())))?;
    cluster.admin(at, &["node", "release", "n1"])?.expect(0)?;
    cluster.admin(at, &["update", "submit", "--package", "ledger@2.1.0", "--node", "n1", "--again"])?.expect(0)?;
    cluster.admin(at, &["check"])?.expect(0)?;
    ensure!(at.json(&["node", "show", "n1"])?["packages"]["ledger"] == "2.1.0", "n1 has it again");
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
