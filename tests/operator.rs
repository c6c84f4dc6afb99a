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

#[test]
fn update_show_names_the_process_that_has_not_answered_and_the_node_that_is_not_there() -> Result<()> {
    let mut cluster = Cluster::start(2)?;
    let source =
        |version: &str| PackageSource::new("p", version).probe("m", version, "ask = { how = \"socket\", within = \"60s\" }");
    give(&cluster, &source("1.0.0"), &["--strategy", "together"])?;
    cluster.node("n2").tell("p/m", "slow 60000")?;
    let update = give(&cluster, &source("2.0.0"), &["--detach"])?;
    let waiting =
        |cluster: &Cluster| Ok::<_, anyhow::Error>(cluster.nodes[0].json(&["update", "show", &update])?["waiting"].clone());
    let asked = eventually("the process that is asked is named", || {
        let waiting = waiting(&cluster)?;
        let processes = waiting["processes"].as_array().context("no list")?;
        Ok((waiting["nodes"] == serde_json::json!(["n2"]) && processes.len() == 1).then_some(waiting))
    })?;
    let process = &asked["processes"][0];
    ensure!(process["node"] == "n2" && process["process"] == "p/m" && asked["away"] == serde_json::json!([]), "{asked}");
    let pid = process["pid"].to_string();
    ensure!(cluster.node("n2").pid("p/m")?.map(|pid| pid.to_string()) == Some(pid), "{asked}");

    cluster.node_mut("n2").kill_all()?;
    let away = eventually("the node that is not there is named", || {
        let waiting = waiting(&cluster)?;
        Ok((waiting["away"][0]["node"] == "n2").then_some(waiting))
    })?;
    ensure!(away["away"][0]["counts_after_ms"] == 600_000, "{away}");
    let text = cluster.nodes[0].cli(&["update", "show", &update])?.expect(0)?.stdout;
    ensure!(text.contains("node n2 is away, since ") && text.contains("p/m (pid"), "{text}");
    cluster.nodes[0].cli(&["update", "cancel", &update])?.expect(0)?;
    ensure!(cluster.nodes[0].watch(&update)? == 6, "nothing had changed");
    Ok(())
}

#[test]
fn a_version_that_nothing_needs_is_removed_and_comes_back_as_it_was_and_what_is_needed_stays() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let source = |version: &str| PackageSource::new("p", version).probe("m", version, "").file("data", "the same", "");
    let admin = &cluster.nodes[0];
    let file = source("1.0.0").build(cluster.folder())?.display().to_string();
    admin.cli(&["package", "publish", &file])?.expect(0)?;
    give(&cluster, &source("1.1.0"), &["--strategy", "together"])?;
    give(&cluster, &source("1.2.0"), &["--strategy", "together"])?;
    let refused = admin.cli(&["package", "remove", "p@1.2.0"])?.expect(1)?;
    ensure!(refused.stderr.contains("node n1 has it"), "{}", refused.stderr);
    let refused = cluster.admin(cluster.not_master()?, &["package", "remove", "p@1.1.0"])?.expect(1)?;
    ensure!(refused.stderr.contains("node n3 can go back to it"), "{}", refused.stderr);
    let retained = admin.json(&["package", "retain", "p", "--last", "1"])?;
    ensure!(retained["removed"] == serde_json::json!(["1.0.0"]) && retained["last"][0] == "1.2.0", "{retained}");
    ensure!(
        retained["needed"][0]["version"] == "1.1.0" && retained["needed"][0]["needed_by"].as_array().map(Vec::len) == Some(3)
    );
    ensure!(admin.json(&["package", "list"])?["count"] == 2, "the others are there");

    // Its name and version stand for the same contents; those may come back.
    let other = PackageSource::new("p", "1.0.0").probe("m", "another", "").build(&cluster.folder().join("other"));
    let other = other?.display().to_string();
    let refused = admin.cli(&["package", "publish", &other])?.expect(1)?;
    ensure!(refused.stderr.contains("stands for them for ever"), "{}", refused.stderr);
    admin.cli(&["package", "publish", &file])?.expect(0)?;
    admin.cli(&["regress", "--node", "n2", "--package", "p@1.0.0"])?.expect(0)?;
    Ok(())
}
