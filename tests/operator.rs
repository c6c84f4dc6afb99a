//! What an operator does with updates and packages while the cluster works.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tribune_tests::probe::Said;
use tribune_tests::{Cluster, Node, PackageSource, eventually};

/// Builds a package and gives it to all nodes of the cluster, with these further arguments.
fn give(cluster: &Cluster, source: &PackageSource, further: &[&str]) -> Result<String> {
    let file = source.build(cluster.folder())?.display().to_string();
    let all: Vec<&str> = cluster.nodes.iter().flat_map(|node| ["--node", &node.name]).collect();
    let args = [&["update", "submit", &file, "-o", "json"], &all[..], further].concat();
    let submitted = cluster.nodes[0].cli(&args)?.expect(0)?.json()?;
    Ok(submitted["update"].as_str().context("no update")?.to_owned())
}

fn pids(cluster: &Cluster, module: &str) -> Result<BTreeMap<String, Option<u32>>> {
    cluster.nodes.iter().map(|node| Ok((node.name.clone(), node.pid(module)?))).collect()
}

/// The names of the nodes that have come to this step.
fn at<'a>(shown: &'a Value, step: &str) -> Vec<&'a str> {
    let nodes = shown["nodes"].as_object().into_iter().flatten();
    nodes.filter(|(_, node)| node["step"] == step).map(|(name, _)| name.as_str()).collect()
}

fn was_told_to_go_on(node: &Node, update: &str) -> bool {
    node.log("p/m").iter().any(|entry| matches!(&entry.said, Said::Resume { update: u } if u == update))
}

#[test]
fn an_update_that_is_paused_after_its_first_node_changes_nothing_more_until_it_is_resumed() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let source = |version: &str| PackageSource::new("p", version).probe("m", version, "changeover = { ready-within = \"60s\" }");
    give(&cluster, &source("1.0.0"), &["--strategy", "together"])?;
    // The second takes its time, so that it is paused before that one has its go.
    for node in &cluster.nodes[1..] {
        node.tell("p/m", "slow-ready 6000")?;
    }
    let master = cluster.master()?;
    if master != "n1" {
        cluster.nodes[0].tell("p/m", "slow-ready 6000")?;
    }
    let before = pids(&cluster, "p/m")?;
    let node = cluster.not_master()?;
    let update = give(&cluster, &source("2.0.0"), &["--detach"])?;
    let show = || node.json(&["update", "show", &update]);
    let shown = eventually("the first node has settled, the second has begun", || {
        let shown = show()?;
        Ok((at(&shown, "settled").len() == 1 && at(&shown, "pending").len() == 1).then_some(shown))
    })?;
    let (first, second) = (at(&shown, "settled")[0].to_owned(), at(&shown, "pending")[0].to_owned());
    node.cli(&["update", "pause", &update])?.expect(1).context("a node that is not n1 may only look")?;
    cluster.admin(node, &["update", "pause", &update])?.expect(0)?;

    eventually("the second is let go", || {
        Ok((at(&show()?, "staged").len() == 2 && was_told_to_go_on(cluster.node(&second), &update)).then_some(()))
    })?;
    let shown = show()?;
    ensure!(shown["phase"] == "paused" && shown["exit"] == 3 && shown["waiting"]["waiting_for"] == "resume", "{shown}");
    ensure!(shown["waiting"]["can"][0] == format!("tribune update resume {update}"), "{shown}");
    ensure!(node.watch(&update)? == 3, "it waits for a user");
    let text = node.cli(&["update", "show", &update])?.expect(0)?.stdout;
    ensure!(text.contains("is paused by admin") && text.contains("undecided, it goes back 7d"), "{text}");
    let now = pids(&cluster, "p/m")?;
    for (name, pid) in &now {
        ensure!((before.get(name) == Some(pid)) == (*name != first), "only {first} has changed: {before:?}, then {now:?}");
    }

    cluster.admin(node, &["update", "resume", &update, "--watch"])?.expect(0)?;
    let after = pids(&cluster, "p/m")?;
    ensure!(after.get(&first) == now.get(&first), "the first is left alone: {now:?}, then {after:?}");
    for node in &cluster.nodes {
        ensure!(node.json(&["node", "show", &node.name])?["packages"]["p"] == "2.0.0", "{} is not updated", node.name);
    }
    Ok(())
}
