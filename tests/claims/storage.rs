//! What a node writes to its local storage, and in which order things happen there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tribune_tests::cli::program;
use tribune_tests::probe::Said;
use tribune_tests::{Cluster, Node, NodeOptions, PackageSource, eventually};

use crate::changeover::{all_heard, pids, source, went_in_order};
use crate::distribution::logged;
use crate::{install, submit};

/// Inode and time of each module's file, and the modules' pids.
type Look = (BTreeMap<String, (u64, i64, i64)>, Vec<Option<u32>>);

/// The signatures of the modules that a node has fetched, in the order in which it did.
fn fetched(node: &Node) -> Result<Vec<String>> {
    let log = fs::read_to_string(node.data.with_extension("log"))?;
    let lines = log.lines().filter(|line| line.contains(" fetched blob="));
    let signature = |line: &str| Some(line.split_once("blob=")?.1.split(' ').next()?.to_owned());
    Ok(lines.filter_map(signature).collect())
}

#[test]
fn claim_13_only_the_module_that_differs_is_moved_and_replaced() -> Result<()> {
    // What is installed on n2 has to come to it: it is no voter, and has no package store.
    let cluster = Cluster::start_with(&[NodeOptions::default(), NodeOptions::with(&["--voter", "never"])])?;
    let source = |version: &str| {
        let mut source = PackageSource::new("ten", version);
        for number in 0..10 {
            let content = if number == 7 { format!("seven {version}") } else { format!("module {number}") };
            source = source.probe(&format!("m{number}"), &content, "");
        }
        source
    };
    install(&cluster, &source("1.0.0"), &["n2"])?;
    let node = cluster.node("n2");
    let look = || -> Result<Look> {
        let mut files = BTreeMap::new();
        let mut left = vec![node.data.join("local/modules")];
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let about = fs::symlink_metadata(&path)?;
                if about.is_dir() {
                    left.push(path);
                } else {
                    files.insert(path.display().to_string(), (about.ino(), about.mtime(), about.mtime_nsec()));
                }
            }
        }
        let pids = (0..10).map(|number| node.pid(&format!("ten/m{number}"))).collect::<Result<_>>()?;
        Ok((files, pids))
    };
    let (files, pids) = look()?;
    ensure!(files.len() == 10 && pids.iter().all(Option::is_some), "{files:?} {pids:?}");
    let moved = fetched(node)?;
    ensure!(moved.len() == 10, "{moved:?}");
    install(&cluster, &source("1.1.0"), &["n2"])?;
    let (new_files, new_pids) = look()?;
    for (file, before) in &files {
        ensure!(new_files.get(file) == Some(before), "{file} was written again");
    }
    ensure!(new_files.len() == 11, "one module was written: {new_files:?}");
    let seven = blake3::hash(&fs::read(cluster.folder().join("ten-1.1.0/m7-7"))?).to_hex().to_string();
    ensure!(fetched(node)? == [moved, vec![seven]].concat(), "one module was moved: {:?}", fetched(node)?);
    for (number, (old, new)) in pids.iter().zip(&new_pids).enumerate() {
        ensure!((old == new) == (number != 7) && new.is_some(), "module {number}: pid {old:?} then {new:?}");
    }
    Ok(())
}

#[test]
fn claim_14_pending_then_ready_then_started_then_done_and_a_node_restart_starts_the_new_version() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    install(&cluster, &source("1.0.0"), &["n1"])?;
    let before = pids(cluster.node("n1"))?;
    let update = install(&cluster, &source("2.0.0"), &["n1"])?;
    let node = cluster.node_mut("n1");
    went_in_order(node, &update, "2.0.0", before)?;
    all_heard(node, &update, "Completed", before)?;

    node.kill_all()?;
    node.run()?;
    let shown = eventually("the module runs again", || node.pid("p/m"))?;
    let log = node.log("p/m");
    let last = log.iter().rev().find(|entry| entry.pid == shown && matches!(entry.said, Said::Started { .. }));
    let version =
        last.and_then(|entry| if let Said::Started { version, .. } = &entry.said { Some(version.clone()) } else { None });
    ensure!(version.context("it has not said that it started")? == "2.0.0", "an old version was started");
    Ok(())
}

/// What a node keeps of the versions and dependencies of what is installed on it, as it says without the cluster.
fn kept_information(node: &Node) -> Result<Value> {
    let local = node.json(&["local", "show"])?;
    let current = &local["current"];
    let version = current["packages"]["p"].as_str().context("package p is not current")?;
    let packages = local["packages"].as_array().context("no packages")?;
    let package = packages.iter().find(|package| package["name"] == "p" && package["version"] == version);
    let modules = package.with_context(|| format!("{version} is not described: {local}"))?["modules"].as_array();
    let mut described = BTreeMap::new();
    for module in modules.context("no modules")? {
        let name = format!("p/{}", module["name"].as_str().context("no name")?);
        ensure!(current["modules"][&name] == module["signature"], "{name}: {local}");
        described.insert(name, json!([module["depends_on"], module["provides"], module["consumes"]]));
    }
    Ok(json!({ "version": version, "modules": described }))
}

/// A package with versions and dependencies to keep, and with this in its module's health.
fn informed(version: &str, health: &str) -> PackageSource {
    let fields = format!(
        "run = [\"m\"]\nhealth = {{ settle = \"2s\", every = \"100ms\"{health} }}\ndepends-on = [\"lib\"]
        changeover = {{ ready-within = \"80s\" }}\nask = {{ how = \"socket\", within = \"80s\" }}"
    );
    let script = format!("#!/bin/sh\n# {version}\nexec '{}' \"$@\"\n", program("tribune-probe").display());
    PackageSource::new("p", version)
        .file("m", &script, &format!("{fields}\nprovides = [\"p.api@{version}\"]\nconsumes = [\"p.api@>=1 on node\"]"))
        .file("lib", version, "")
}

/// What a node is to keep of a version of [`informed`].
fn information(version: &str) -> Value {
    json!({ "version": version, "modules": {
        "p/lib": [[], [], []],
        "p/m": [["lib"], [format!("p.api@{version}")], ["p.api@>=1 on node"]],
    }})
}

#[test]
fn claim_12_versions_and_dependencies_are_in_local_storage_and_survive_a_kill_at_every_step() -> Result<()> {
    let mut cluster = Cluster::start_with(&[NodeOptions::default(), NodeOptions::with(&["--voter", "never"])])?;
    let both = ["n1", "n2"];
    let file = informed("1.0.0", "").build(cluster.folder())?.display().to_string();
    submit(&cluster, &cluster.nodes[0], &file, &both, &["--strategy", "together"], 0)?;

    // What holds an update at a step on n2: what the process on n1 does, and what that on n2 does.
    let steps = [
        ("asked", "accept", "slow 80000"),
        ("voted", "slow 80000", "accept"),
        // A late veto on n1 sends n2 back to it.
        ("staged", "slow-ready 80000", "accept"),
        ("ready", "slow-ready 80000", "accept"),
        ("pending", "accept", "slow-ready 80000"),
        ("go", "accept", "accept"),
        ("started", "accept", "accept"),
        ("settled", "accept", "accept"),
    ];
    let mut version = "1.0.0".to_owned();
    for (number, (step, on_first, on_second)) in steps.into_iter().enumerate() {
        let wanted = format!("1.{}.0", number + 1);
        for (node, order) in both.iter().zip([on_first, on_second]) {
            cluster.node(node).tell("p/m", order)?;
        }
        // A version that never comes up stays at *go*.
        let health = if step == "go" { ", exec = [\"false\"]" } else { "" };
        let file = informed(&wanted, health).build(cluster.folder())?.display().to_string();
        let args = ["--strategy", "together", "--detach"];
        let update = submit(&cluster, &cluster.nodes[0], &file, &both, &args, 0)?;
        let reached = |step: &str| {
            eventually(&format!("{update} is {step} on n2"), || {
                let shown = cluster.nodes[0].json(&["update", "show", &update])?;
                ensure!(shown["nodes"]["n2"]["step"] == step, "{shown}");
                Ok(Some(()))
            })
        };
        if step == "staged" {
            reached("ready")?;
            cluster.node("n1").tell("p/m", &format!("late-veto {update} not now"))?;
        }
        reached(step)?;
        // Both at once: n2 comes back with nobody to ask.
        cluster.node_mut("n2").kill_all()?;
        cluster.node_mut("n1").kill_all()?;
        let node = cluster.node_mut("n2");
        node.run()?;
        if step == "settled" {
            version.clone_from(&wanted);
        }
        let kept = kept_information(node)?;
        ensure!(kept == information(&version), "after {step}: {kept}, expected {}", information(&version));
        eventually("what is installed runs again", || node.pid("p/m"))?;
        cluster.node_mut("n1").run()?;
        cluster.settle()?;
        let first = cluster.node("n1");
        if first.json(&["update", "show", &update])?["outcome"].is_null() {
            // It may end by itself meanwhile.
            first.cli(&["update", "cancel", &update])?;
            first.watch(&update)?;
        }
        let at_rest = kept_information(cluster.node("n2"))?;
        version = at_rest["version"].as_str().context("no version")?.to_owned();
        ensure!(at_rest == information(&version), "{at_rest}");
    }
    Ok(())
}

/// A master, and two nodes that can be taken away.
fn master_and_two() -> Result<Cluster> {
    let never = NodeOptions::with(&["--voter", "never"]);
    Cluster::start_with(&[NodeOptions::default(), never.clone(), never])
}

#[test]
fn claim_12_they_survive_a_kill_while_what_runs_is_persisted() -> Result<()> {
    let mut cluster = master_and_two()?;
    let both = ["n2", "n3"];
    install(&cluster, &informed("1.0.0", ""), &both)?;
    let file = informed("2.0.0", "").build(cluster.folder())?.display().to_string();
    let update = submit(&cluster, &cluster.nodes[0], &file, &both, &["--ephemeral", "--strategy", "together"], 0)?;
    ensure!(kept_information(cluster.node("n2"))? == information("1.0.0"), "it is not kept yet");

    // The update goes on as long as n3 does nothing.
    cluster.node("n3").pause_agent()?;
    cluster.nodes[0].cli(&["update", "persist", &update])?.expect(0)?;
    eventually("n2 has persisted it, and n3 has not", || {
        let shown = cluster.nodes[0].json(&["update", "show", &update])?;
        let steps = [&shown["nodes"]["n2"]["step"], &shown["nodes"]["n3"]["step"]];
        Ok((shown["phase"] == "persisting" && steps == ["persisted", "settled"]).then_some(()))
    })?;
    cluster.node_mut("n2").kill_all()?;
    cluster.node_mut("n1").kill_all()?;
    let node = cluster.node_mut("n2");
    node.run()?;
    ensure!(kept_information(node)? == information("2.0.0"), "{}", kept_information(node)?);
    eventually("what is installed runs again", || node.pid("p/m"))?;

    cluster.node("n3").resume_agent()?;
    cluster.node_mut("n1").run()?;
    cluster.settle()?;
    ensure!(cluster.node("n1").watch(&update)? == 0, "it is persisted on all");
    for node in both {
        ensure!(kept_information(cluster.node(node))? == information("2.0.0"), "{node} has not kept it");
    }
    Ok(())
}

#[test]
fn claim_12_they_survive_a_kill_on_the_way_back() -> Result<()> {
    let mut cluster = master_and_two()?;
    let both = ["n2", "n3"];
    // The old version is not well while this file is there: the way back is as long.
    let sick = cluster.folder().join("sick");
    let health = format!(", exec = [\"test\", \"!\", \"-e\", \"{}\"]", sick.display());
    install(&cluster, &informed("1.0.0", &health), &both)?;
    cluster.node("n3").tell("p/m", "hold-ready")?;
    let file = informed("2.0.0", "").build(cluster.folder())?.display().to_string();
    let update = submit(&cluster, &cluster.nodes[0], &file, &both, &["--detach"], 0)?;
    eventually("n2 has the new version", || Ok((kept_information(cluster.node("n2"))? == information("2.0.0")).then_some(())))?;
    fs::write(&sick, "")?;
    cluster.nodes[0].cli(&["update", "cancel", &update])?.expect(0)?;
    logged(cluster.node("n2"), "the node goes back", &update)?;
    ensure!(cluster.nodes[0].json(&["update", "show", &update])?["phase"] == "regressing", "it is not on its way back");

    cluster.node_mut("n2").kill_all()?;
    cluster.node_mut("n1").kill_all()?;
    fs::remove_file(&sick)?;
    let node = cluster.node_mut("n2");
    node.run()?;
    let kept = kept_information(node)?;
    let version = kept["version"].as_str().context("no version")?;
    ensure!(["1.0.0", "2.0.0"].contains(&version) && kept == information(version), "{kept}");
    eventually("what is installed runs again", || node.pid("p/m"))?;

    cluster.node_mut("n1").run()?;
    cluster.settle()?;
    ensure!(cluster.node("n1").watch(&update)? == 5, "it is taken back");
    for node in both {
        ensure!(kept_information(cluster.node(node))? == information("1.0.0"), "{node} has not gone back");
    }
    Ok(())
}

#[test]
fn a_node_goes_back_to_nothing_by_itself_when_that_is_what_its_first_generation_replaced() -> Result<()> {
    let cluster = Cluster::start(1)?;
    install(&cluster, &PackageSource::new("p", "1.0.0").probe("m", "1", ""), &["n1"])?;
    let node = cluster.node("n1");
    let back = node.json(&["local", "regress"])?;
    ensure!(back["generation"] == 0 && back["packages"] == json!({}), "{back}");
    ensure!(node.pid("p/m")?.is_none(), "p/m still runs");
    let again = node.cli(&["local", "regress"])?.expect(1)?;
    ensure!(again.stderr.contains("nothing to go back to"), "{}", again.stderr);
    Ok(())
}
