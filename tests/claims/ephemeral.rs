//! Updates that are not kept: what runs until the node is restarted, or somebody takes it back or persists it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tribune_tests::probe::Said;
use tribune_tests::{Cluster, Node, NodeOptions, PackageSource, eventually};

use crate::changeover::{all_heard, pids, source, went_in_order};
use crate::discrepancies::{UNFORESEEN, found, not_as_planned, provider};
use crate::{blobs, install, submit};

const EPHEMERAL: &str = "--ephemeral";

/// The version of the process of a module that runs, as it said itself.
fn version(node: &Node, module: &str) -> Result<String> {
    let pid = eventually(&format!("{module} runs on {}", node.name), || node.pid(module))?;
    eventually(&format!("{module} has said that it started"), || {
        Ok(node.log(module).into_iter().find_map(|entry| match entry.said {
            Said::Started { version, .. } if entry.pid == pid => Some(version),
            _ => None,
        }))
    })
}

/// What is on a node's disk of local storage, and what the node says is current and kept there.
fn persistent(node: &Node) -> Result<Value> {
    let local = node.json(&["local", "show"])?;
    let modules = blobs(&node.data.join("local/modules"))?;
    Ok(json!({ "current": local["current"], "kept": local["kept"], "modules": modules }))
}

/// Submits a version as an ephemeral update of these nodes; gives the update's id.
fn run(cluster: &Cluster, source: &PackageSource, nodes: &[&str]) -> Result<String> {
    let file = source.build(cluster.folder())?.display().to_string();
    submit(cluster, &cluster.nodes[0], &file, nodes, &[EPHEMERAL, "--strategy", "together"], 0)
}

#[test]
fn claim_08_pending_then_ready_then_started_then_occurred_and_nothing_is_installed() -> Result<()> {
    let cluster = Cluster::start(1)?;
    install(&cluster, &source("1.0.0"), &["n1"])?;
    let node = cluster.node("n1");
    let (before, installed) = (pids(node)?, persistent(node)?);
    let update = run(&cluster, &source("2.0.0"), &["n1"])?;
    went_in_order(node, &update, "2.0.0", before)?;
    ensure!(version(node, "p/m")? == "2.0.0", "the new version runs");

    ensure!(persistent(node)? == installed, "local storage has changed: {installed}, then {}", persistent(node)?);
    let shown = node.json(&["node", "show", "n1"])?;
    let ephemeral = &shown["ephemeral"];
    ensure!(shown["packages"]["p"] == "1.0.0" && shown["should"]["p"] == "1.0.0", "{shown}");
    ensure!(ephemeral["update"] == *update && ephemeral["packages"]["p"] == "2.0.0", "{shown}");
    let shown = node.json(&["update", "show", &update])?;
    ensure!(shown["phase"] == "unpersisted" && shown["waiting"]["waiting_for"] == "persist", "{shown}");
    ensure!(shown["waiting"]["can"][0] == format!("tribune update persist {update}"), "{shown}");

    // When it has ended, everybody has heard all of it.
    node.cli(&["update", "persist", &update, "--watch"])?.expect(0)?;
    all_heard(node, &update, "Completed", before)
}

#[test]
fn claim_09_its_completion_is_reported_and_needs_within_and_between_nodes_are_checked() -> Result<()> {
    let cluster = Cluster::start(2)?;
    install(&cluster, &provider("1.0.0"), &["n1"])?;
    let near = PackageSource::new("near", "1.0.0").probe("m", "n", "consumes = [\"clock.api@^1 on node\"]");
    let far = PackageSource::new("far", "1.0.0").probe("m", "f", "consumes = [\"ledger.api@^1\"]");
    install(&cluster, &near, &["n1"])?;
    install(&cluster, &far, &["n2"])?;

    let fine = run(&cluster, &provider("1.1.0"), &["n1"])?;
    let shown = cluster.nodes[0].json(&["update", "show", &fine])?;
    ensure!(shown["nodes"]["n1"]["step"] == "settled" && found(&shown)?.is_empty(), "{shown}");
    cluster.nodes[0].cli(&["update", "cancel", &fine])?.expect(0)?;
    ensure!(cluster.nodes[0].watch(&fine)? == 5, "it is taken back");

    let file = provider("2.0.0").build(cluster.folder())?.display().to_string();
    let accepted = [EPHEMERAL, "--accept-discrepancy", "ledger.api", "--accept-discrepancy", "clock.api"];
    let update = submit(&cluster, cluster.not_master()?, &file, &["n1"], &accepted, 4)?;
    let shown = cluster.nodes[0].json(&["update", "show", &update])?;
    // What is installed would do: it is what runs that does not.
    let expected = [["n1", "near/m", "clock.api@^1 on node", "within_node"], ["n2", "far/m", "ledger.api@^1", "between_nodes"]];
    ensure!(shown["phase"] == "unpersisted" && found(&shown)? == expected, "{shown}");
    Ok(())
}

#[test]
fn claim_09_what_no_plan_foresaw_is_found_from_what_really_runs() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let at = cluster.not_master()?;
    let shown = not_as_planned(&cluster, &[EPHEMERAL])?;
    ensure!(shown["phase"] == "unpersisted" && found(&shown)? == UNFORESEEN, "{shown}");
    let (first, second) = (at.json(&["node", "show", "n1"])?, at.json(&["node", "show", "n2"])?);
    ensure!(first["ephemeral"].is_null() && second["ephemeral"]["packages"]["far"] == "2.0.0", "{first} {second}");

    // Taken back on the other node too, its need is as it was.
    let update = shown["update"].as_str().context("no number")?;
    cluster.admin(at, &["update", "cancel", update])?.expect(0)?;
    ensure!(at.watch(update)? == 5, "it is taken back");
    let check = at.cli(&["check", "-o", "json"])?.expect(4)?.json()?;
    ensure!(check["count"] == 1 && check["items"][0]["module"] == "near/m", "{check}");
    Ok(())
}

#[test]
fn claim_10_a_discrepancy_is_named_to_the_user_and_is_gone_when_it_is_repaired() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let at = cluster.not_master()?;
    install(&cluster, &provider("1.0.0"), &["n1"])?;
    install(&cluster, &PackageSource::new("far", "1.0.0").probe("m", "f", "consumes = [\"ledger.api@^1\"]"), &["n2"])?;
    let file = provider("2.0.0").build(cluster.folder())?.display().to_string();
    let refused = cluster.admin(at, &["update", "submit", &file, "--node", "n1", EPHEMERAL])?.expect(8)?;
    ensure!(refused.stderr.contains("--accept-discrepancy ledger.api"), "{}", refused.stderr);

    let update = submit(&cluster, at, &file, &["n1"], &[EPHEMERAL, "--accept-discrepancy", "ledger.api"], 4)?;
    ensure!(at.watch(&update)? == 4, "the exit code says it");
    let shown = at.json(&["update", "show", &update])?;
    ensure!(found(&shown)? == [["n2", "far/m", "ledger.api@^1", "between_nodes"]], "{shown}");
    let events = at.cli(&["events"])?.expect(0)?.stdout;
    ensure!(events.contains("on node n2, far/m needs ledger.api@^1 and there is ledger.api@2.0.0 on node n1"), "{events}");

    let check = cluster.admin(at, &["check", "-o", "json"])?.expect(4)?.json()?;
    let unmet = &check["items"][0];
    let named = unmet["node"] == "n2" && unmet["module"] == "far/m" && unmet["needs"] == "ledger.api@^1";
    ensure!(check["count"] == 1 && named && unmet["update"] == *update && unmet["accepted_by"] == "admin", "{check}");

    // Taken back, the need is met again.
    cluster.admin(at, &["update", "cancel", &update])?.expect(0)?;
    ensure!(at.watch(&update)? == 5, "it is taken back");
    cluster.admin(at, &["check"])?.expect(0)?;
    ensure!(at.json(&["update", "show", &update])?["discrepancies"][0]["repaired"] == true, "it is shown as repaired");
    eventually("the events say so", || {
        let events = at.cli(&["events"])?.expect(0)?.stdout;
        Ok(events.contains("on node n2, far/m needs ledger.api@^1, which is met again").then_some(()))
    })?;
    let update = install(&cluster, &provider("1.2.0"), &["n1"])?;
    let shown = at.json(&["update", "show", &update])?;
    ensure!(shown["outcome"] == "completed" && found(&shown)?.is_empty(), "{shown}");
    Ok(())
}

#[test]
fn claim_11_a_node_restart_undoes_it_and_the_death_of_the_agent_alone_does_not() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    install(&cluster, &source("1.0.0"), &["n1"])?;
    let installed = persistent(cluster.node("n1"))?;
    let update = run(&cluster, &source("2.0.0"), &["n1"])?;
    let node = cluster.node("n1");
    let pid = node.pid("p/m")?;
    let agent = node.agent()?;
    node.kill_agent()?;
    eventually("another agent", || Ok(node.agent()?.filter(|now| Some(*now) != agent)))?;
    let again = eventually("the new agent answers", || node.pid("p/m").map(Some))?;
    ensure!(pid.is_some() && again == pid && version(node, "p/m")? == "2.0.0", "pid {pid:?}, then {again:?}");
    let shown = eventually("the cluster is there again", || node.json(&["update", "show", &update]).map(Some))?;
    ensure!(shown["phase"] == "unpersisted", "{shown}");

    let node = cluster.node_mut("n1");
    node.kill_all()?;
    node.run()?;
    let runs = version(node, "p/m")?;
    ensure!(runs == "1.0.0", "what is installed runs, not {runs}: {:#?}", node.log("p/m"));
    ensure!(persistent(node)? == installed, "{installed}, then {}", persistent(node)?);
    let shown = eventually("the user is told", || {
        let shown = node.json(&["update", "show", &update])?;
        Ok((shown["outcome"] == "regressed").then_some(shown))
    })?;
    ensure!(
        shown["nodes"]["n1"]["restarted"] == true && shown["reason"].as_str().is_some_and(|why| why.contains("restarted")),
        "{shown}"
    );
    // A restart leaves nothing behind that would stand in the way of the same again.
    let update = run(&cluster, &source("2.0.0"), &["n1"])?;
    ensure!(version(cluster.node("n1"), "p/m")? == "2.0.0", "it runs again, by {update}");
    Ok(())
}

#[test]
fn claim_11_told_to_it_goes_back_without_a_restart_and_without_any_network() -> Result<()> {
    let mut cluster = Cluster::start_with(&[NodeOptions::default(), NodeOptions::with(&["--voter", "never"])])?;
    install(&cluster, &source("1.0.0"), &["n2"])?;
    let installed = persistent(cluster.node("n2"))?;
    let update = run(&cluster, &source("2.0.0"), &["n2"])?;
    ensure!(version(cluster.node("n2"), "p/m")? == "2.0.0", "the new version runs");
    let bystander = cluster.node("n2").pid("p/bystander")?;

    // The only other node is gone: nobody can be asked for anything.
    cluster.node_mut("n1").kill_all()?;
    let node = cluster.node("n2");
    node.cli(&["local", "regress"])?.expect(0)?;
    ensure!(version(node, "p/m")? == "1.0.0" && persistent(node)? == installed, "{}", persistent(node)?);
    ensure!(node.pid("p/bystander")? == bystander, "the node was not restarted");

    cluster.node_mut("n1").run()?;
    cluster.settle()?;
    eventually("the cluster hears of it", || {
        Ok((cluster.node("n1").json(&["update", "show", &update])?["outcome"] == "regressed").then_some(()))
    })?;
    Ok(())
}

#[test]
fn an_ephemeral_update_is_persisted_without_touching_a_process_and_survives_a_restart() -> Result<()> {
    let mut cluster = Cluster::start(2)?;
    let both = ["n1", "n2"];
    install(&cluster, &source("1.0.0"), &both)?;
    let update = run(&cluster, &source("2.0.0"), &both)?;
    let pids = |cluster: &Cluster| -> Result<Vec<Option<u32>>> { cluster.nodes.iter().map(|node| node.pid("p/m")).collect() };
    let before = pids(&cluster)?;
    // Until then, others wait for it.
    let file = source("3.0.0").build(cluster.folder())?.display().to_string();
    let waiting = submit(&cluster, &cluster.nodes[0], &file, &["n1"], &["--detach"], 0)?;
    let shown = cluster.nodes[1].json(&["update", "show", &waiting])?;
    ensure!(shown["phase"] == "queued" && shown["waiting"]["updates"] == json!([update]), "{shown}");
    cluster.nodes[0].cli(&["update", "cancel", &waiting])?.expect(0)?;

    cluster.admin(cluster.not_master()?, &["update", "persist", &update, "--watch"])?.expect(0)?;
    ensure!(pids(&cluster)? == before && before.iter().all(Option::is_some), "a process was touched");
    for node in &both {
        let shown = cluster.nodes[0].json(&["node", "show", node])?;
        let packages = [&shown["packages"]["p"], &shown["should"]["p"]];
        ensure!(packages == ["2.0.0", "2.0.0"] && shown["ephemeral"].is_null(), "{shown}");
    }
    let node = cluster.node_mut("n2");
    node.kill_all()?;
    node.run()?;
    ensure!(version(node, "p/m")? == "2.0.0", "what was persisted runs after a restart");
    let refused = cluster.nodes[0].cli(&["update", "persist", &update])?.expect(1)?;
    ensure!(refused.stderr.contains("nothing to persist"), "{}", refused.stderr);
    Ok(())
}

#[test]
fn a_node_that_took_it_back_goes_on_to_what_comes_next_while_another_still_runs_it() -> Result<()> {
    let cluster = Cluster::start_with(&[NodeOptions::default(), NodeOptions::with(&["--voter", "never"])])?;
    let both = ["n1", "n2"];
    install(&cluster, &source("1.0.0"), &both)?;
    let update = run(&cluster, &source("2.0.0"), &both)?;
    let [first, second] = both.map(|name| cluster.node(name));
    let file = source("3.0.0").build(cluster.folder())?.display().to_string();
    let next = submit(&cluster, first, &file, &["n2"], &["--detach"], 0)?;
    ensure!(first.json(&["update", "show", &next])?["phase"] == "queued", "it waits for n2");

    second.cli(&["local", "regress"])?.expect(0)?;
    ensure!(first.watch(&next)? == 0, "{}", first.json(&["update", "show", &next])?);
    ensure!(version(second, "p/m")? == "3.0.0" && version(first, "p/m")? == "2.0.0", "each runs its own");
    let shown = first.json(&["update", "show", &update])?;
    let steps = [&shown["nodes"]["n1"]["step"], &shown["nodes"]["n2"]["step"]];
    ensure!(shown["phase"] == "unpersisted" && steps == ["settled", "regressed"], "{shown}");

    // Taken back on the other too, it does nothing any more here.
    let asked = crate::proposals(&second.log("p/told"), &update).len();
    first.cli(&["update", "cancel", &update])?.expect(0)?;
    ensure!(first.watch(&update)? == 5, "it is taken back");
    ensure!(version(first, "p/m")? == "1.0.0" && version(second, "p/m")? == "3.0.0", "only n1 has changed");
    ensure!(crate::proposals(&second.log("p/told"), &update).len() == asked, "n2 was asked about it anew");
    eventually("nothing is open on n2", || {
        let local = second.json(&["local", "show"])?;
        ensure!(local["open"] == json!({}) && local["ephemeral"].is_null(), "{local}");
        Ok(Some(()))
    })
}
