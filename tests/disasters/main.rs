//! What is done when the worst has happened: a majority that is lost for good, a machine that is made anew from a backup, a disk that
//! turned a bit.

mod backup;
mod fsck;
mod recover;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tribune_tests::cli::{Output, tribune};
use tribune_tests::{Cluster, Node, PackageSource, eventually};

/// A package with a module that runs.
fn package(folder: &Path, version: &str) -> Result<String> {
    Ok(PackageSource::new("p", version).probe("m", version, "").build(folder)?.display().to_string())
}

/// A copy of the admin's key that outlives the node where it was made.
fn admin_key(cluster: &Cluster) -> Result<PathBuf> {
    let key = cluster.folder().join("safe.key");
    fs::copy(cluster.nodes[0].data.join("admin.key"), &key)?;
    Ok(key)
}

/// Where a node is found: its own record of itself knows.
fn address(at: &Node, name: &str) -> Result<String> {
    let node = at.json(&["node", "show", name])?;
    let address = node["control_addresses"][0].as_str().context("no address")?;
    Ok(format!("{address}/p2p/{}", node["peer"].as_str().context("no identity")?))
}

/// A command of the admin over the network, at a node that runs.
fn admin(key: &Path, at: &Node, args: &[&str]) -> Result<Output> {
    let (address, key) = (address(at, &at.name)?, key.display().to_string());
    tribune(&[args, &["--peer", &address, "--key", &key]].concat(), "")
}

/// Installs a package on these nodes as the admin, and waits for its end; gives the update.
fn install(key: &Path, at: &Node, file: &str, nodes: &[&str]) -> Result<String> {
    let targets = nodes.iter().flat_map(|node| ["--node", node]).collect::<Vec<_>>();
    let args = [&["update", "submit", file, "--detach", "-o", "json"], &targets[..]].concat();
    let update = admin(key, at, &args)?.expect(0)?.json()?;
    let update = update["update"].as_str().context("no update")?.to_owned();
    let code = at.watch(&update)?;
    ensure!(code == 0, "{update} ended with {code}: {}", at.json(&["update", "show", &update])?);
    Ok(update)
}

/// Loses a node for good: its processes and its folder.
fn lose(node: &mut Node) -> Result<()> {
    node.kill_all()?;
    Ok(fs::remove_dir_all(&node.data)?)
}

fn items(at: &Node) -> Result<Vec<Value>> {
    Ok(at.json(&["node", "list"])?["items"].as_array().context("no items")?.clone())
}

/// Waits until exactly these nodes vote, and are connected, as this node is told.
fn voters(at: &Node, names: &[&str]) -> Result<()> {
    eventually(&format!("the voters are {names:?}"), || {
        let items = items(at)?;
        let is = |item: &&Value| item["role"] == "voter" && item["connected"] == true;
        let voters: Vec<&str> = items.iter().filter(is).filter_map(|item| item["name"].as_str()).collect();
        ensure!(voters == names, "{voters:?}");
        Ok(Some(()))
    })
}

/// Waits until three nodes vote, this one among them, and all are connected; gives their names. Which of the others are chosen follows from
/// who comes first.
fn three_voters(at: &Node, with: &str) -> Result<Vec<String>> {
    eventually(&format!("three vote, {with} among them"), || {
        let items = items(at)?;
        let is = |item: &&Value| item["role"] == "voter" && item["connected"] == true;
        let voters: Vec<String> = items.iter().filter(is).filter_map(|item| item["name"].as_str().map(str::to_owned)).collect();
        ensure!(voters.len() == 3 && voters.iter().any(|name| name == with), "{voters:?}");
        Ok(Some(voters))
    })
}

/// Waits until these nodes are connected, as this node is told.
fn connected(at: &Node, names: &[&str]) -> Result<()> {
    eventually(&format!("{names:?} are connected"), || {
        let items = items(at)?;
        let is = |name: &&&str| items.iter().any(|item| item["name"] == **name && item["connected"] == true);
        ensure!(names.iter().filter(is).count() == names.len(), "{items:?}");
        Ok(Some(()))
    })
}

fn events(at: &Node, kind: &str) -> Result<usize> {
    let events = at.cli(&["events", "-o", "json", "-n", "500"])?.expect(0)?.stdout;
    Ok(events.lines().filter(|line| line.contains(kind)).count())
}
