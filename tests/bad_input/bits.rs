//! A bit that turned on a disk: found before anybody goes by it, said, and put right from what others have.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tribune_tests::{Cluster, Node, PackageSource, eventually};

use crate::{names, text};

/// Turns a bit in the middle of a file.
fn turn_a_bit(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).with_context(|| format!("{} is empty", path.display()))? ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// Raft's newest log file on a node's disk.
fn log_file(node: &Node) -> Result<PathBuf> {
    let folder = node.data.join("raft/db");
    let log = names(&folder).into_iter().rfind(|name| name.ends_with(".log") && name.starts_with('0'));
    Ok(folder.join(log.context("no log file")?))
}

fn said(node: &Node, parts: &[&str]) -> Result<()> {
    eventually(&format!("{} says {parts:?}", node.name), || {
        let log = fs::read_to_string(node.data.with_extension("log"))?;
        Ok(log.lines().any(|line| parts.iter().all(|part| line.contains(part))).then_some(()))
    })
}

fn raft_id(node: &Node) -> Result<String> {
    fs::read_to_string(node.data.join("raft/raft-id")).context("no Raft id")
}

#[test]
fn a_voter_with_a_turned_bit_in_rafts_store_is_taken_out_and_in_again_with_a_new_store() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    for number in 0..20 {
        cluster.nodes[0].cli(&["node", "label", "n1", &format!("k{number}={}", "v".repeat(200))])?.expect(0)?;
    }
    let name = cluster.not_master()?.name.clone();
    let before = raft_id(cluster.node(&name))?;
    cluster.node_mut(&name).kill_all()?;
    turn_a_bit(&log_file(cluster.node(&name))?)?;
    let db = cluster.node(&name).data.join("raft/db");
    cluster.node_mut(&name).run()?;
    let node = cluster.node(&name);
    said(
        node,
        &[
            "ERROR",
            &format!("the store in {} is damaged: ", db.display()),
            "takes this node out of Raft and in again with a new store",
        ],
    )?;
    ensure!(cluster.admin(node, &["node", "label", "n1", "during=x"])?.code == 0, "the cluster does not go on");
    eventually("it votes again under a new Raft id", || Ok((raft_id(node)? != before).then_some(())))?;
    cluster.settle()?;
    eventually("it says that it votes and has no problem", || {
        let status = node.json(&["status"])?;
        Ok((status["role"] == "voter" && status["problems"] == serde_json::json!([])).then_some(()))
    })?;
    // It has what was acknowledged: with another voter away nothing is committed without it.
    let other = cluster.nodes.iter().find(|node| node.name != name && node.name != "n1").context("another")?.name.clone();
    cluster.node_mut(&other).kill_all()?;
    eventually("the two go on", || Ok((cluster.nodes[0].cli(&["node", "label", "n1", "after=x"])?.code == 0).then_some(())))?;
    let shown = cluster.nodes[0].json(&["node", "show", "n1"])?;
    ensure!(shown["desired"].as_object().is_some_and(|labels| labels.len() == 22), "{shown}");
    Ok(())
}

#[test]
fn the_only_voter_with_a_turned_bit_in_rafts_store_asks_for_a_backup_and_its_services_run() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let file = text(&PackageSource::new("p", "1.0.0").probe("m", "1", "").build(cluster.folder())?);
    cluster.nodes[0].cli(&["update", "submit", &file, "--node", "n1"])?.expect(0)?;
    cluster.nodes[0].kill_all()?;
    let log = log_file(&cluster.nodes[0])?;
    let whole = fs::read(&log)?;
    turn_a_bit(&log)?;
    cluster.nodes[0].run()?;
    let node = &cluster.nodes[0];
    eventually("the status says what to do", || {
        let problems = node.json(&["status"])?["problems"].to_string();
        Ok((problems.contains("is damaged: ") && problems.contains("put its whole data folder back from a backup")).then_some(()))
    })?;
    eventually("its service runs", || node.pid("p/m"))?;
    let status = node.cli(&["node", "list", "--timeout", "2s"])?.expect(7)?;
    ensure!(status.stderr.contains("no master"), "{}", status.stderr);

    cluster.nodes[0].kill_all()?;
    fs::write(&log, whole)?;
    cluster.nodes[0].run()?;
    eventually("it is master again", || Ok((cluster.nodes[0].cli(&["node", "list"])?.code == 0).then_some(())))?;
    Ok(())
}

#[test]
fn a_turned_bit_in_local_storage_is_never_run_and_put_right_and_running_services_go_on() -> Result<()> {
    let mut cluster = Cluster::start(2)?;
    let source = PackageSource::new("p", "1.0.0").probe("m", "1", "");
    let file = text(&source.build(cluster.folder())?);
    cluster.nodes[0].cli(&["update", "submit", &file, "--node", "n1", "--node", "n2"])?.expect(0)?;
    let module = blake3::hash(&fs::read(cluster.folder().join("p-1.0.0/m-0"))?).to_hex().to_string();
    let local = cluster.node("n2").data.join("local");
    let blob = local.join("modules").join(&module[..2]).join(&module);

    // A module: it is not started, comes again from a peer, and is started then.
    cluster.node_mut("n2").kill_all()?;
    fs::remove_file(cluster.node("n2").data.join("packages").join(&module[..2]).join(&module)).ok();
    turn_a_bit(&blob)?;
    cluster.node_mut("n2").run()?;
    let node = cluster.node("n2");
    said(node, &["ERROR", "module p/m", "has changed on disk", "a module is damaged and is not started"])?;
    eventually("it runs again", || node.pid("p/m"))?;
    ensure!(blake3::hash(&fs::read(&blob)?).to_hex().as_str() == module, "other bytes run");

    // What says what is installed: the agent begins from the copy, and what runs does not notice.
    for within in ["current", "generations/1/generation.json"] {
        let pid = node.pid("p/m")?.context("it does not run")?;
        turn_a_bit(&local.join(within))?;
        node.kill_agent()?;
        let name = within.rsplit('/').next().unwrap_or(within);
        said(node, &["ERROR", "is put back from its copy", &format!("{name} is damaged")])?;
        eventually("the node answers", || Ok((node.cli(&["status"])?.code == 0).then_some(())))?;
        ensure!(node.pid("p/m")? == Some(pid), "p/m was restarted");
    }

    // Both copies: the agent refuses, by name, and services go on until the file is put back.
    let description = local.join("generations/1/generation.json");
    let whole = fs::read(&description)?;
    let pid = node.pid("p/m")?.context("it does not run")?;
    turn_a_bit(&description)?;
    turn_a_bit(&local.join("generations/1/.copy-generation.json"))?;
    node.kill_agent()?;
    let what = format!("{} is damaged: ", description.display());
    said(node, &["ERROR", "the local storage cannot be used", &what, "put it back from a backup"])?;
    ensure!(Path::new(&format!("/proc/{pid}")).exists(), "p/m was stopped");
    fs::write(&description, whole)?;
    eventually("the node answers", || Ok((node.cli(&["status"])?.code == 0).then_some(())))?;
    ensure!(node.pid("p/m")? == Some(pid), "p/m was restarted");
    cluster.settle()
}
