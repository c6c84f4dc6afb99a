//! Nodes that are not what they should be, because they were away, joined a class or went back by themselves, come to it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tribune_tests::{Cluster, Node, NodeOptions, PackageSource, eventually};

use crate::{blobs, install, proposals, submit};

/// Two nodes, of which only the first votes, and the second can so be taken away.
fn cluster() -> Result<Cluster> {
    Cluster::start_with(&[NodeOptions::default(), NodeOptions::with(&["--voter", "never", "--platform", "linux/amd64"])])
}

/// A module that asks, and one that says which processor it is for.
fn source(version: &str) -> PackageSource {
    PackageSource::new("p", version).probe("m", version, "")
}

/// What a node has, as the record says: version by package.
fn packages(at: &Node, node: &str) -> Result<Value> {
    Ok(at.json(&["node", "show", node])?["packages"].clone())
}

/// Waits until the node has these packages, and the update that brought it there has ended; gives what is shown of that.
fn converged(at: &Node, node: &str, expected: &Value) -> Result<Value> {
    eventually(&format!("{node} has {expected}"), || Ok((packages(at, node)? == *expected).then_some(())))?;
    let update = convergence(at)?.context("no update brought it there")?;
    ensure!(at.watch(&update)? == 0, "{update} did not end well");
    at.json(&["update", "show", &update])
}

/// The last update by which a node comes to what it should have.
fn convergence(at: &Node) -> Result<Option<String>> {
    let list = at.json(&["update", "list"])?;
    let updates = list["items"].as_array().context("no items")?;
    let found = updates.iter().find(|update| update["kind"] == "converge").and_then(|update| update["update"].as_str());
    Ok(found.map(str::to_owned))
}

fn to_class(cluster: &Cluster, source: &PackageSource, further: &[&str]) -> Result<()> {
    let file = source.build(cluster.folder())?.display().to_string();
    let args = [&["update", "submit", &file, "--class", "edge"], further].concat();
    cluster.admin(&cluster.nodes[0], &args)?.expect(0)?;
    Ok(())
}

#[test]
fn claim_24_a_node_that_joins_a_class_converges_to_it_by_itself_and_asks_first() -> Result<()> {
    let cluster = cluster()?;
    let at = &cluster.nodes[0];
    at.cli(&["class", "set", "edge", "--add", "n1"])?.expect(0)?;
    install(&cluster, &source("1.0.0"), &["n2"])?;
    to_class(&cluster, &source("2.0.0"), &[])?;
    ensure!(packages(at, "n2")? == json!({ "p": "1.0.0" }), "it is not in the class yet");
    let pid = at.pid("p/m")?;

    at.cli(&["class", "set", "edge", "--add", "n2"])?.expect(0)?;
    let shown = converged(at, "n2", &json!({ "p": "2.0.0" }))?;
    ensure!(shown["submitted_by"] == "tribune" && shown["outcome"] == "completed", "{shown}");
    let nodes = shown["nodes"].as_object().context("no nodes")?;
    ensure!(nodes.keys().collect::<Vec<_>>() == ["n2"], "{shown}");
    let update = shown["update"].as_str().context("no number")?;
    ensure!(proposals(&cluster.node("n2").log("p/m"), update).len() == 1, "its process was not asked");
    ensure!(at.pid("p/m")? == pid, "the other node was touched");
    Ok(())
}

#[test]
fn claim_24_a_node_with_another_processor_converges_to_the_same_package_with_its_own_modules() -> Result<()> {
    let arm = NodeOptions::with(&["--voter", "never", "--platform", "linux/arm64"]);
    let cluster = Cluster::start_with(&[NodeOptions::with(&["--platform", "linux/amd64"]), arm])?;
    let at = &cluster.nodes[0];
    at.cli(&["class", "set", "edge", "--add", "n1"])?.expect(0)?;
    let source = PackageSource::new("p", "1.0.0")
        .file("native", "for amd64", "platform = \"linux/amd64\"")
        .file("native", "for arm64", "platform = \"linux/arm64\"")
        .file("data", "for any", "");
    to_class(&cluster, &source, &[])?;
    at.cli(&["class", "set", "edge", "--add", "n2"])?.expect(0)?;
    converged(at, "n2", &packages(at, "n1")?)?;

    let signature = |text: &str| blake3::hash(text.as_bytes()).to_hex().to_string();
    for (node, native) in cluster.nodes.iter().zip(["for amd64", "for arm64"]) {
        let shown = at.json(&["node", "show", &node.name])?;
        let expected = [("p/data", signature("for any")), ("p/native", signature(native))];
        ensure!(shown["packages"] == json!({ "p": "1.0.0" }), "{shown}");
        ensure!(shown["modules"] == json!(BTreeMap::from(expected.clone())), "{shown}, expected {expected:?}");
        let bytes = blobs(&node.data.join("local/modules"))?;
        ensure!(bytes == expected.map(|(_, signature)| signature).into(), "{} has {bytes:?}", node.name);
    }
    Ok(())
}

#[test]
fn claim_24_a_node_of_a_class_that_was_away_converges_when_it_is_back() -> Result<()> {
    let mut cluster = cluster()?;
    let both = ["class", "set", "edge", "--add", "n1", "--add", "n2"];
    cluster.nodes[0].cli(&both)?.expect(0)?;
    to_class(&cluster, &source("1.0.0"), &["--strategy", "together"])?;
    cluster.node_mut("n2").kill_all()?;
    to_class(&cluster, &source("2.0.0"), &["--skip-away"])?;
    let away = cluster.nodes[0].json(&["node", "show", "n2"])?;
    let drifted = [&away["packages"]["p"], &away["should"]["p"]] == ["1.0.0", "2.0.0"];
    ensure!(drifted && away["drift"][0].as_str().is_some_and(|why| why.contains("away")), "{away}");

    cluster.node_mut("n2").run()?;
    let shown = converged(&cluster.nodes[0], "n2", &json!({ "p": "2.0.0" }))?;
    ensure!(shown["nodes"]["n2"]["step"] == "settled", "{shown}");
    let drift = cluster.nodes[0].json(&["node", "show", "n2"])?["drift"].clone();
    ensure!(drift == json!([]), "{drift}");
    Ok(())
}

#[test]
fn a_veto_stops_a_convergence_at_once_and_nobody_is_called() -> Result<()> {
    let cluster = cluster()?;
    let at = &cluster.nodes[0];
    at.cli(&["class", "set", "edge", "--add", "n1"])?.expect(0)?;
    install(&cluster, &source("1.0.0"), &["n2"])?;
    to_class(&cluster, &source("2.0.0"), &[])?;
    cluster.node("n2").tell("p/m", "veto the day is being closed")?;
    at.cli(&["class", "set", "edge", "--add", "n2"])?.expect(0)?;
    let update = eventually("it begins", || convergence(at))?;
    ensure!(at.watch(&update)? == 6, "it changed nothing");
    let shown = at.json(&["update", "show", &update])?;
    ensure!(shown["reason"].as_str().is_some_and(|why| why.contains("the day is being closed")), "{shown}");
    let node = at.json(&["node", "show", "n2"])?;
    ensure!(node["packages"] == json!({ "p": "1.0.0" }), "{node}");
    let why = node["drift"][0].as_str().context("no reason")?;
    ensure!(why.contains("attempt 1") && why.contains("the day is being closed") && why.contains("1m"), "{why}");
    Ok(())
}

#[test]
fn a_node_that_went_back_by_itself_takes_part_once_it_is_released_and_gets_what_it_left_only_if_somebody_says_so() -> Result<()> {
    let mut cluster = cluster()?;
    install(&cluster, &source("1.0.0"), &["n1", "n2"])?;
    install(&cluster, &source("2.0.0"), &["n1", "n2"])?;
    // It is cut off: nobody can be asked for anything.
    cluster.node_mut("n1").kill_all()?;
    cluster.node("n2").cli(&["local", "regress"])?.expect(0)?;
    cluster.node_mut("n1").run()?;
    cluster.settle()?;
    let at = &cluster.nodes[0];
    eventually("the cluster knows", || Ok((at.json(&["node", "show", "n2"])?["apart"] == true).then_some(())))?;
    // It says so again after a restart, and no update touches it.
    cluster.node_mut("n2").kill_all()?;
    cluster.node_mut("n2").run()?;
    cluster.settle()?;
    let at = &cluster.nodes[0];
    ensure!(packages(at, "n2")? == json!({ "p": "1.0.0" }) && convergence(at)?.is_none(), "it was touched");
    let file = source("3.0.0").build(cluster.folder())?.display().to_string();
    let refused = cluster.admin(at, &["update", "submit", &file, "--node", "n2"])?.expect(8)?;
    ensure!(refused.stderr.contains("tribune node release n2"), "{}", refused.stderr);

    at.cli(&["node", "release", "n2"])?.expect(0)?;
    let shown = at.json(&["node", "show", "n2"])?;
    ensure!(shown["drift"][0].as_str().is_some_and(|why| why.contains("p 2.0.0 was regressed on node n2 by itself")), "{shown}");
    let refused = cluster.admin(at, &["update", "submit", "--package", "p@2.0.0", "--node", "n2"])?.expect(8)?;
    ensure!(refused.stderr.contains("--again"), "{}", refused.stderr);
    ensure!(packages(at, "n2")? == json!({ "p": "1.0.0" }) && convergence(at)?.is_none(), "it was touched");
    cluster.admin(at, &["update", "submit", "--package", "p@2.0.0", "--node", "n2", "--again"])?.expect(0)?;
    ensure!(packages(at, "n2")? == json!({ "p": "2.0.0" }), "it is not there");
    let again = at.cli(&["node", "release", "n2"])?.expect(1)?;
    ensure!(again.stderr.contains("nothing to release"), "{}", again.stderr);
    Ok(())
}

#[test]
fn a_regress_takes_its_node_out_of_the_update_that_holds_it() -> Result<()> {
    let cluster = cluster()?;
    let at = &cluster.nodes[0];
    install(&cluster, &source("1.0.0"), &["n1", "n2"])?;
    install(&cluster, &source("2.0.0"), &["n1", "n2"])?;
    cluster.node("n2").tell("p/m", "veto not now")?;
    let file = source("3.0.0").build(cluster.folder())?.display().to_string();
    let update = submit(&cluster, at, &file, &["n1", "n2"], &[], 3)?;

    cluster.node("n2").tell("p/m", "accept")?;
    cluster.admin(at, &["regress", "--node", "n2"])?.expect(0)?;
    ensure!(at.watch(&update)? == 0, "the rest goes on");
    let has = [packages(at, "n1")?, packages(at, "n2")?];
    ensure!(has == [json!({ "p": "3.0.0" }), json!({ "p": "1.0.0" })], "{has:?}");
    let shown = at.json(&["update", "show", &update])?;
    ensure!(shown["outcome"] == "completed_in_part", "{shown}");
    Ok(())
}
