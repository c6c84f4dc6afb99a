//! What the death of the master's processes, or of an agent, changes: nothing that a user, or a running process, would notice.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tribune_tests::cli::program;
use tribune_tests::probe::{Entry, Said};
use tribune_tests::{Cluster, Node, PackageSource, eventually};

const ALL: [&str; 3] = ["n1", "n2", "n3"];
/// A data module of so many bytes takes its time to reach the nodes.
const LARGE: usize = 30 << 20;

/// A module that is replaced, one that depends on it, and one that has nothing to do with it.
fn source(version: &str, settle: &str) -> PackageSource {
    let script = format!("#!/bin/sh\n# {version}\nexec '{}' \"$@\"\n", program("tribune-probe").display());
    let run = format!("run = [\"m\"]\nhealth = {{ settle = \"{settle}\", every = \"100ms\" }}");
    PackageSource::new("p", version).file("m", &script, &run).probe("dependant", "same", "depends-on = [\"m\"]").probe(
        "bystander",
        "same",
        "",
    )
}

/// Builds a package and submits it for all nodes, at once, as the admin; does not wait for its end. Gives the update's id.
fn begin(cluster: &Cluster, at: &Node, source: &PackageSource) -> Result<String> {
    let file = source.build(cluster.folder())?.display().to_string();
    let targets = ALL.iter().flat_map(|node| ["--node", node]).collect::<Vec<_>>();
    let args = [&["update", "submit", &file, "--strategy", "together", "--detach", "-o", "json"], &targets[..]].concat();
    let submitted = cluster.admin(at, &args)?.expect(0)?.json()?;
    Ok(submitted["update"].as_str().context("no update was submitted")?.to_owned())
}

/// Three nodes that have version 1.0.0.
fn cluster(settle: &str) -> Result<Cluster> {
    let cluster = Cluster::start(ALL.len())?;
    let at = cluster.not_master()?;
    let update = begin(&cluster, at, &source("1.0.0", settle))?;
    ensure!(at.watch(&update)? == 0, "version 1.0.0 is not installed: {}", at.json(&["update", "show", &update])?);
    Ok(cluster)
}

/// Waits until an update is as it should be, and is looked at through this node.
fn reached(at: &Node, update: &str, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
    eventually(&format!("{update} is {what}"), || {
        let shown = at.json(&["update", "show", update])?;
        ensure!(shown["phase"] != "ended", "it has ended before: {shown}");
        Ok(is(&shown).then_some(()))
    })
}

fn pids(node: &Node) -> Result<BTreeMap<&'static str, Option<u32>>> {
    ["p/m", "p/dependant", "p/bystander"].into_iter().map(|module| Ok((module, node.pid(module)?))).collect()
}

/// The outcomes of an update that each process of a module has heard, of those that were asked.
fn outcomes(log: &[Entry], update: &str) -> BTreeMap<u32, Vec<String>> {
    let mut heard = BTreeMap::new();
    for entry in log {
        match &entry.said {
            Said::Proposal { proposal } if proposal["update"] == update => drop(heard.entry(entry.pid).or_insert_with(Vec::new)),
            Said::Outcome { update: of, outcome } if of == update => {
                heard.entry(entry.pid).or_default().push(outcome.clone());
            }
            _ => {}
        }
    }
    heard
}

/// Every process that was asked about an update, and has lived to its end, has heard its outcome, once, and none any other.
fn one_outcome(node: &Node, shown: &Value) -> Result<()> {
    let update = shown["update"].as_str().context("no update")?;
    let outcome = shown["outcome"].as_str().context("it has not ended")?.replace('_', "");

    let running: BTreeSet<u32> = pids(node)?.into_values().flatten().collect();
    for module in ["p/m", "p/dependant"] {
        let heard = eventually(&format!("{module} on {} has heard the outcome of {update}", node.name), || {
            let heard = outcomes(&node.log(module), update);
            let all = heard.iter().all(|(pid, outcomes)| !running.contains(pid) || !outcomes.is_empty());
            ensure!(!heard.is_empty() && all, "{heard:?}");
            Ok(Some(heard))
        })?;
        for (pid, outcomes) in heard {
            ensure!(outcomes.len() <= 1, "{module} (pid {pid}) on {} heard {outcomes:?}", node.name);
            ensure!(outcomes.iter().all(|heard| heard.to_lowercase() == outcome), "{module} on {} heard {outcomes:?}", node.name);
        }
    }
    ensure!(outcomes(&node.log("p/bystander"), update).is_empty(), "the bystander on {} has heard of {update}", node.name);
    Ok(())
}

/// Waits until no update is open on a node: every process that was asked has heard how it ended. Gives `local show`.
fn all_told(node: &Node) -> Result<Value> {
    eventually(&format!("{} has no open update", node.name), || {
        let local = node.json(&["local", "show"])?;
        ensure!(local["open"].as_object().is_some_and(serde_json::Map::is_empty), "{local}");
        Ok(Some(local))
    })
}

/// The version of the process of a module that runs, as it said itself.
fn version(node: &Node, module: &str) -> Result<String> {
    let pid = node.pid(module)?.with_context(|| format!("{module} does not run"))?;
    let said = node.log(module).into_iter().find_map(|entry| match entry.said {
        Said::Started { version, .. } if entry.pid == pid => Some(version),
        _ => None,
    });
    said.with_context(|| format!("{module} (pid {pid}) has not said that it started"))
}

/// Kills the master's processes when an update has come to a moment, and runs that node again: the update completes.
fn master_killed(tell: &str, source: &PackageSource, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
    let mut cluster = cluster("300ms")?;
    for node in &cluster.nodes {
        if !tell.is_empty() {
            node.tell("p/dependant", tell)?;
        }
    }
    let before = cluster.nodes.iter().map(pids).collect::<Result<Vec<_>>>()?;
    let master = cluster.master()?;
    let at = cluster.not_master()?.name.clone();
    let update = begin(&cluster, cluster.node(&at), source)?;
    reached(cluster.node(&at), &update, what, is)?;
    cluster.node_mut(&master).kill_node_processes()?;
    // The others go on without it before it is back.
    eventually("another master", || Ok((cluster.master()? != master).then_some(())))?;
    let shown = cluster.node(&at).json(&["update", "show", &update])?;
    ensure!(shown["outcome"].is_null() && shown["nodes"][&master]["step"] != "settled", "it was killed too late: {shown}");
    cluster.node_mut(&master).run()?;

    let code = cluster.node(&at).watch(&update)?;
    let shown = cluster.node(&at).json(&["update", "show", &update])?;
    ensure!(code == 0 && shown["outcome"] == "completed", "exit code {code}: {shown}");
    for (node, before) in cluster.nodes.iter().zip(before) {
        let local = all_told(node)?;
        ensure!(local["current"]["packages"]["p"] == "2.0.0", "{local}");
        ensure!(version(node, "p/m")? == "2.0.0", "{} runs {}", node.name, version(node, "p/m")?);
        let after = pids(node)?;
        for module in ["p/dependant", "p/bystander"] {
            let (before, after) = (before[module], after[module]);
            ensure!(before.is_some() && before == after, "{module} on {}: pid {before:?}, then {after:?}", node.name);
        }
        one_outcome(node, &shown)?;
    }
    Ok(())
}

#[test]
fn the_master_killed_during_asking_changes_nothing_for_the_user() -> Result<()> {
    master_killed("slow 3000", &source("2.0.0", "300ms"), "asking", |shown| shown["phase"] == "asking")
}

#[test]
fn the_master_killed_during_distribution_changes_nothing_for_the_user() -> Result<()> {
    let large = source("2.0.0", "300ms").file("data", &"tribune ".repeat(LARGE / 8), "");
    master_killed("", &large, "distributing", |shown| shown["phase"] == "distributing")
}

#[test]
fn the_master_killed_during_changeover_changes_nothing_for_the_user() -> Result<()> {
    let pending =
        |shown: &Value| shown["nodes"].as_object().is_some_and(|nodes| nodes.values().any(|node| node["step"] == "pending"));
    master_killed("slow-ready 3000", &source("2.0.0", "300ms"), "changing over", pending)
}

/// Kills the agent of a node, and only that, when the node has come to a step of its changeover.
fn agent_killed(step: &str) -> Result<()> {
    let cluster = cluster("2s")?;
    let at = cluster.not_master()?;
    let node = cluster.nodes.iter().rfind(|node| node.name != at.name).context("no other node")?;
    node.tell("p/dependant", "slow-ready 1500")?;
    let before = pids(node)?;
    let update = begin(&cluster, at, &source("2.0.0", "2s"))?;
    reached(at, &update, step, |shown| shown["nodes"][&node.name]["step"] == step)?;
    let agent = node.agent()?;
    node.kill_agent()?;
    eventually("another agent", || Ok(node.agent()?.filter(|now| Some(*now) != agent)))?;

    let ended = eventually("the update has ended", || {
        let shown = at.json(&["update", "show", &update])?;
        ensure!(shown["phase"] == "ended", "{shown}");
        Ok(Some(shown))
    })?;
    let local = all_told(node)?;
    let current = local["current"]["packages"]["p"].as_str().context("no package is current")?;
    let expected = if ended["outcome"] == "completed" { "2.0.0" } else { "1.0.0" };
    ensure!(current == expected, "the update ended {}, and current is {current}", ended["outcome"]);
    let processes = node.json(&["process", "list"])?;
    let of_m = processes["items"].as_array().map_or(0, |items| items.iter().filter(|item| item["name"] == "p/m").count());
    ensure!(of_m == 1, "not one process of p/m: {processes}");
    let runs = version(node, "p/m")?;
    ensure!(runs == current, "version {runs} runs, and {current} is current");
    let after = pids(node)?;
    for module in ["p/dependant", "p/bystander"] {
        let (before, after) = (before[module], after[module]);
        ensure!(before.is_some() && before == after, "{module}: pid {before:?}, then {after:?}");
    }
    cluster.nodes.iter().try_for_each(|node| {
        all_told(node)?;
        one_outcome(node, &ended)
    })
}

#[test]
fn the_agent_killed_during_changeover_leaves_services_running_and_one_generation() -> Result<()> {
    agent_killed("pending")
}

#[test]
fn the_agent_killed_while_new_modules_settle_leaves_services_running_and_one_generation() -> Result<()> {
    agent_killed("started")
}

#[test]
fn killing_an_agent_alone_restarts_no_service() -> Result<()> {
    let cluster = cluster("300ms")?;
    for node in &cluster.nodes {
        let before = pids(node)?;
        let agent = node.agent()?;
        node.kill_agent()?;
        eventually("another agent", || Ok(node.agent()?.filter(|now| Some(*now) != agent)))?;
        let after = eventually(&format!("the agent of {} answers", node.name), || pids(node).map(Some))?;
        ensure!(before.values().all(Option::is_some) && before == after, "{}: {before:?}, then {after:?}", node.name);
        let starts = |module| node.log(module).iter().filter(|entry| matches!(entry.said, Said::Started { .. })).count();
        ensure!(starts("p/m") == 1 && starts("p/dependant") == 1, "a service was started again on {}", node.name);
        // The modules speak to the new agent, and the node is in session again.
        cluster.settle()?;
    }
    Ok(())
}

#[test]
fn without_a_majority_every_question_and_order_says_that_there_is_no_master_and_since_when() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    cluster.node_mut("n2").kill_all()?;
    cluster.node_mut("n3").kill_all()?;
    let file = source("1.0.0", "1s").build(cluster.folder())?.display().to_string();
    let node = cluster.node("n1");
    eventually("n1 sees that there is no master", || Ok(node.json(&["status"])?["master"].is_null().then_some(())))?;
    for args in [
        &["node", "list"][..],
        &["update", "list"],
        &["package", "list"],
        &["package", "publish", &file],
        &["events"],
        &["token", "create"],
        &["node", "label", "n1", "site=oslo"],
    ] {
        let said = node.cli(&[args, &["--timeout", "4s"]].concat())?.expect(7)?.stderr;
        ensure!(said.contains("the cluster has no master for ") && said.contains("majority"), "{args:?}: {said}");
    }
    Ok(())
}
