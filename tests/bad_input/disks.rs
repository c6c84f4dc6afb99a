//! A full disk: where a package is published, where it is fetched, and where Raft writes its log. The user is told which node has no room and
//! what to do; what was acknowledged stays; and it goes on when there is room.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tribune_tests::{Cluster, Node, PackageSource, SmallDisk, eventually};

use crate::{refused, text};

/// Larger than the reserve of free space.
const LARGE: u64 = 2 << 30;
/// Smaller than it.
const SMALL: u64 = 16 << 20;

/// Whether the test is to go on.
fn can_mount() -> bool {
    SmallDisk::possible().inspect_err(|why| eprintln!("{why}")).is_ok()
}

/// Puts a disk in the place of a folder of a node.
fn give_disk(node: &mut Node, folder: &str, bytes: u64) -> Result<SmallDisk> {
    node.stop()?;
    let disk = SmallDisk::mount(&node.data.join(folder), bytes)?;
    node.run()?;
    Ok(disk)
}

fn package(folder: &Path, version: &str) -> Result<String> {
    Ok(text(&PackageSource::new("p", version).file("m", &format!("module {version}"), "").build(folder)?))
}

fn all_connected(cluster: &Cluster) -> Result<()> {
    eventually("every node is there", || {
        let nodes = cluster.nodes[0].json(&["node", "list"])?;
        let items = nodes["items"].as_array().context("no items")?;
        let away: Vec<&Value> = items.iter().filter(|node| node["connected"] != true).map(|node| &node["name"]).collect();
        ensure!(away.is_empty(), "{away:?} are away");
        Ok(Some(()))
    })
}

fn phase(node: &Node, update: &str) -> Result<String> {
    let shown = node.json(&["update", "show", update])?;
    Ok(shown["phase"].as_str().context("no phase")?.to_owned())
}

#[test]
fn a_publish_that_finds_no_room_names_the_node_keeps_nothing_and_goes_through_when_there_is_room() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut cluster = Cluster::start(3)?;
    let mut disks = Vec::new();
    for node in &mut cluster.nodes {
        disks.push(give_disk(node, "packages", SMALL)?);
    }
    cluster.settle()?;
    let master = cluster.master()?;
    let file = package(cluster.folder(), "1.0.0")?;
    let at = cluster.not_master()?;
    let no_room = |node: &str| format!("not enough space in {}/{node}/packages: ", cluster.folder().display());
    let reserve = "of which 268435456 stay reserved; make room on its disk";
    let said = format!("the package store of node {master}: {}", no_room(&master));
    refused(
        cluster.admin(at, &["package", "publish", &file])?,
        1,
        &[&said, reserve, "nothing of the file was kept, send it again"],
    )?;

    // With the master's disk alone the package would be on one voter of three.
    let of = |name: &str| cluster.nodes.iter().position(|node| node.name == name).context("a node");
    disks[of(&master)?].resize(LARGE)?;
    let mut others = cluster.nodes.iter().filter(|node| node.name != master);
    let (second, third) = (others.next().context("a second")?, others.next().context("a third")?);
    let lacking = [format!("{}: {}", second.name, no_room(&second.name)), format!("{}: {}", third.name, no_room(&third.name))];
    let said =
        ["the modules are on 1 of the 2 voters", &lacking[0], &lacking[1], reserve, "nothing was published, send it again"];
    refused(cluster.admin(at, &["package", "publish", &file])?, 1, &said)?;
    refused(cluster.admin(at, &["update", "submit", &file, "--node", "n1"])?, 1, &said)?;
    ensure!(at.json(&["package", "list"])?["count"] == 0, "something was published");
    ensure!(at.json(&["update", "list"])?["count"] == 0, "something was submitted");

    disks[of(&second.name)?].resize(LARGE)?;
    let published = cluster.admin(at, &["package", "publish", &file, "-o", "json"])?.expect(0)?.json()?;
    ensure!(published["copies"] == 2, "{published}");
    disks[of(&third.name)?].resize(LARGE)?;
    let module = blake3::hash(b"module 1.0.0").to_hex().to_string();
    let copy = third.data.join("packages").join(&module[..2]).join(&module);
    eventually("the third voter has its copy too", || Ok(copy.exists().then_some(())))?;
    all_connected(&cluster)
}

#[test]
fn a_fetch_that_finds_no_room_goes_on_when_there_is_and_else_changes_nothing_and_names_the_node() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut cluster = Cluster::start(2)?;
    let disk = give_disk(&mut cluster.nodes[1], "local", SMALL)?;
    cluster.settle()?;
    let node = &cluster.nodes[0];
    let update = |version: &str| -> Result<String> {
        let file = package(cluster.folder(), version)?;
        let submitted = node.json(&["update", "submit", &file, "--node", "n1", "--node", "n2", "--detach"])?;
        Ok(submitted["update"].as_str().context("no update")?.to_owned())
    };
    let no_room = format!("p/m could not be fetched: not enough space in {}/n2/local/modules: ", cluster.folder().display());
    let first = update("1.0.0")?;
    eventually("the node says in its log that it tries again", || {
        let log = std::fs::read_to_string(cluster.nodes[1].data.with_extension("log"))?;
        Ok((log.contains("staging is tried again") && log.contains(&no_room)).then_some(()))
    })?;
    disk.resize(LARGE)?;
    ensure!(node.watch(&first)? == 0, "{} did not go on", phase(node, &first)?);

    disk.resize(SMALL)?;
    let second = update("2.0.0")?;
    ensure!(node.watch(&second)? != 0, "{} went through without room", second);
    let shown = node.cli(&["update", "show", &second])?.expect(0)?.stdout;
    for part in ["n2", &no_room, "make room on its disk"] {
        ensure!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    for name in ["n1", "n2"] {
        let has = node.json(&["node", "show", name])?["packages"].clone();
        ensure!(has["p"] == "1.0.0", "{name} has {has}");
    }
    disk.resize(LARGE)?;
    let third = node.json(&["update", "submit", "--package", "p@2.0.0", "--node", "n1", "--node", "n2", "--detach"])?;
    ensure!(node.watch(third["update"].as_str().context("no update")?)? == 0, "it did not go through");
    all_connected(&cluster)
}

/// Sets labels on a node; whether that was acknowledged.
fn label(cluster: &Cluster, at: &Node, labels: &[String]) -> Result<bool> {
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let args = [&["node", "label", "n1", "--timeout", "3s"], &labels[..]].concat();
    // Only at the node where the cluster was made does the node's own key do.
    let done = if at.name == "n1" { at.cli(&args)? } else { cluster.admin(at, &args)? };
    Ok(done.code == 0)
}

fn problems(node: &Node) -> Result<String> {
    Ok(node.json(&["status"])?["problems"].to_string())
}

/// The number that the labels were set to last.
fn number(at: &Node) -> Result<u32> {
    let shown = at.json(&["node", "show", "n1"])?;
    let value = shown["desired"]["k0"]["value"].as_str().context("no label")?;
    Ok(value.trim_start_matches('0').parse()?)
}

/// Sets many labels to higher and higher numbers at a node, until a node says that its disk is full; gives the last that was acknowledged.
fn count_until_full(cluster: &Cluster, at: &Node, from: u32, full: &Node, disk: &SmallDisk) -> Result<u32> {
    let said = format!("the disk of {}/raft is full: make room there", full.data.display());
    let mut acknowledged = from;
    let mut number = from;
    eventually(&format!("{} says that its disk is full", full.name), || {
        number += 1;
        // The store gives room back as it puts itself in order.
        disk.fill()?;
        let labels: Vec<String> = (0..50).map(|key| format!("k{key}={number:0>250}")).collect();
        if label(cluster, at, &labels)? {
            acknowledged = number;
        }
        Ok(problems(full)?.contains(&said).then_some(()))
    })?;
    Ok(acknowledged)
}

#[test]
fn a_voter_whose_disk_is_full_says_so_and_takes_part_in_raft_again_when_there_is_room() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut cluster = Cluster::start(3)?;
    let mut disks = Vec::new();
    for node in &mut cluster.nodes {
        disks.push(give_disk(node, "raft", LARGE)?);
    }
    cluster.settle()?;
    let mut acknowledged = 0;
    // First a voter that follows, then the master: another is master then.
    for name in [cluster.not_master()?.name.clone(), cluster.master()?] {
        let full = cluster.node(&name);
        let other = cluster.nodes.iter().find(|node| node.name != name).context("another")?;
        let disk = &disks[cluster.nodes.iter().position(|node| node.name == name).context("its disk")?];
        acknowledged = count_until_full(&cluster, other, acknowledged, full, disk)?;
        ensure!(label(&cluster, other, &[format!("without-{name}=x")])?, "the others do not go on");
        all_connected(&cluster)?;
        disk.resize(LARGE)?;
        eventually(&format!("{name} takes part in Raft again"), || Ok((problems(full)? == "[]").then_some(())))?;
    }
    ensure!(number(&cluster.nodes[0])? >= acknowledged, "what was acknowledged is lost");
    Ok(())
}

#[test]
fn the_only_voter_goes_on_by_itself_when_its_disk_has_room_again() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut cluster = Cluster::start(1)?;
    let disk = give_disk(&mut cluster.nodes[0], "raft", LARGE)?;
    cluster.settle()?;
    let node = &cluster.nodes[0];
    let acknowledged = count_until_full(&cluster, node, 0, node, &disk)?;
    let late = node.cli(&["node", "label", "n1", "late=x", "--timeout", "2s"])?.expect(7)?;
    ensure!(late.stderr.contains("no master") && late.stderr.contains("tribune status"), "{}", late.stderr);
    disk.resize(LARGE)?;
    eventually("the cluster goes on", || label(&cluster, node, &["after=x".into()]).map(|done| done.then_some(())))?;
    ensure!(number(node)? >= acknowledged, "what was acknowledged is lost");
    ensure!(problems(node)? == "[]", "{}", problems(node)?);
    Ok(())
}

#[test]
fn a_node_whose_whole_disk_is_full_says_so_keeps_its_services_and_goes_on_when_there_is_room() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut cluster = Cluster::start(2)?;
    let disk = give_disk(&mut cluster.nodes[1], "", LARGE)?;
    cluster.settle()?;
    let (node, full) = (&cluster.nodes[0], &cluster.nodes[1]);
    let publish = |version: &str| -> Result<()> {
        let file = PackageSource::new("p", version).probe("m", version, "").build(cluster.folder())?;
        node.cli(&["package", "publish", &text(&file)])?.expect(0).map(drop)
    };
    publish("1.0.0")?;
    publish("2.0.0")?;
    node.cli(&["update", "submit", "--package", "p@1.0.0", "--node", "n2"])?.expect(0)?;
    let pid = full.pid("p/m")?.context("p/m does not run")?;
    disk.fill()?;
    let submitted = node.json(&["update", "submit", "--package", "p@2.0.0", "--node", "n2", "--detach"])?;
    let update = submitted["update"].as_str().context("no update")?;
    let said = format!("cannot write {}/cluster.json: No space left on device", full.data.display());
    eventually("it says what it cannot write", || {
        let problems = problems(full)?;
        Ok((problems.contains(&said) && problems.contains("this node follows no master")).then_some(()))
    })?;
    ensure!(full.pid("p/m")? == Some(pid), "p/m was touched");
    disk.resize(LARGE)?;
    ensure!(node.watch(update)? == 0, "{} does not go on", phase(node, update)?);
    eventually("it has no problem any more", || Ok((problems(full)? == "[]").then_some(())))?;

    // It starts on a full disk: its agent says what it needs, and tries again until it has it.
    let full = &mut cluster.nodes[1];
    full.stop()?;
    disk.fill()?;
    let log = full.data.with_extension("log");
    let before = std::fs::read_to_string(&log)?.len();
    std::thread::scope(|scope| {
        let room = scope.spawn(|| {
            eventually("it says that its disk is full", || {
                let said = std::fs::read_to_string(&log)?;
                Ok(said.get(before..).is_some_and(|said| said.contains("its disk is full; make room there")).then_some(()))
            })?;
            disk.resize(LARGE)
        });
        full.run()?;
        room.join().ok().context("a thread panicked")?
    })?;
    eventually("its service runs", || cluster.nodes[1].pid("p/m"))?;
    all_connected(&cluster)
}
