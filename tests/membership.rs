//! Who is in the cluster: nodes that are removed, replaced, copied, and voters that stay away.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tribune_tests::address::anywhere;
use tribune_tests::cli::tribune;
use tribune_tests::{Cluster, Node, PackageSource, eventually};

/// The item of a node in `node list`; `None`: it is in the cluster no more.
fn listed(at: &Node, name: &str) -> Result<Option<Value>> {
    let nodes = at.json(&["node", "list"])?;
    Ok(nodes["items"].as_array().context("no items")?.iter().find(|item| item["name"] == name).cloned())
}

/// The names of those with this part in Raft.
fn with_role(at: &Node, role: &str) -> Result<Vec<String>> {
    let nodes = at.json(&["node", "list"])?;
    let items = nodes["items"].as_array().context("no items")?;
    Ok(items.iter().filter(|item| item["role"] == role).filter_map(|item| Some(item["name"].as_str()?.to_owned())).collect())
}

fn package(cluster: &Cluster, version: &str) -> Result<String> {
    Ok(PackageSource::new("p", version).probe("m", version, "").build(cluster.folder())?.display().to_string())
}

/// Submits a package for these nodes, and waits for its end.
fn install(at: &Node, file: &str, nodes: &[&str]) -> Result<()> {
    let targets = nodes.iter().flat_map(|node| ["--node", node]).collect::<Vec<_>>();
    at.cli(&[&["update", "submit", file, "--timeout", "90s"], &targets[..]].concat())?.expect(0)?;
    Ok(())
}

fn event(at: &Node, kind: &str, says: &str) -> Result<()> {
    eventually(&format!("an event of {kind} that says {says}"), || {
        let events = at.cli(&["events", "-o", "json", "-n", "200"])?.expect(0)?.stdout;
        Ok(events.lines().any(|line| line.contains(kind) && line.contains(says)).then_some(()))
    })
}

/// Joins with a token that was made for this name.
fn join(cluster: &Cluster, data: &Path, args: &[&str], token_for: &str) -> Result<tribune_tests::cli::Output> {
    let at = &cluster.nodes[0];
    let token = at.cli(&["token", "create", "--node", token_for])?.expect(0)?.stdout;
    let (peer, data) = (at.address()?, data.display().to_string());
    let any = anywhere();
    let common = ["join", "--peer", &peer, "--token-file", "-", "--data", &data, "--control", &any, "--data-address", &any];
    tribune(&[&common[..], args].concat(), &token)
}

#[test]
fn a_removed_node_is_out_for_good_and_its_services_go_on() -> Result<()> {
    let mut cluster = Cluster::start(4)?;
    let file = package(&cluster, "1.0.0")?;
    install(&cluster.nodes[0], &file, &["n2", "n3"])?;
    let voters = with_role(&cluster.nodes[0], "voter")?;
    ensure!(voters == ["n1", "n2", "n3"], "{voters:?}");
    let service = cluster.node("n3").pid("p/m")?.context("p/m does not run")?;

    // One that is connected hears it at once; a voter is replaced first.
    let said = cluster.nodes[0].cli(&["node", "remove", "n3"])?.expect(0)?.stdout;
    ensure!(said.contains("n3"), "{said}");
    ensure!(listed(&cluster.nodes[0], "n3")?.is_none());
    let removed = cluster.node("n3");
    eventually("n3 says that it was removed", || {
        let status = removed.json(&["status"])?;
        ensure!(status["problems"].to_string().contains("removed from the cluster"), "{status}");
        Ok(Some(()))
    })?;
    eventually("another votes", || {
        let voters = with_role(&cluster.nodes[0], "voter")?;
        Ok((voters == ["n1", "n2", "n4"]).then_some(()))
    })?;
    let still = removed.json(&["process", "list"])?;
    ensure!(still["items"][0]["pid"] == service, "{still}");
    let asked = removed.cli(&["node", "list"])?;
    ensure!(asked.code != 0 && asked.stderr.contains("removed from the cluster"), "{asked:?}");

    // It is so after a restart as well, which starts what it had.
    cluster.node_mut("n3").kill_all()?;
    cluster.node_mut("n3").run()?;
    eventually("n3 still says so, and runs what it had", || {
        let status = cluster.node("n3").json(&["status"])?;
        ensure!(status["problems"].to_string().contains("removed from the cluster"), "{status}");
        cluster.node("n3").pid("p/m")
    })?;

    // One that was off hears it when it comes back, from the voters.
    cluster.node_mut("n2").kill_all()?;
    eventually("n2 is away", || Ok(listed(&cluster.nodes[0], "n2")?.filter(|item| item["connected"] == false)))?;
    cluster.nodes[0].cli(&["node", "remove", "n2", "--timeout", "60s"])?.expect(0)?;
    cluster.node_mut("n2").run()?;
    eventually("n2 says that it was removed", || {
        let status = cluster.node("n2").json(&["status"])?;
        Ok(status["problems"].to_string().contains("removed from the cluster").then_some(()))
    })?;
    ensure!(cluster.node("n2").pid("p/m")?.is_some(), "its services go on");

    // Its key never comes back, whatever name it takes.
    let again = cluster.folder().join("again");
    fs::create_dir(&again)?;
    fs::copy(cluster.node("n2").data.join("identity.key"), again.join("identity.key"))?;
    let refused = join(&cluster, &again, &["--name", "n9"], "n9")?.expect(1)?.stderr;
    ensure!(refused.contains("was that of node n2") && refused.contains("empty data folder"), "{refused}");
    event(&cluster.nodes[0], "node_removed", "n2")?;
    Ok(())
}

#[test]
fn a_master_that_is_removed_hands_over_first_and_the_only_voter_too() -> Result<()> {
    for count in [3, 2] {
        let cluster = Cluster::start(count)?;
        let master = cluster.master()?;
        let at = cluster.nodes.iter().find(|node| node.name != master).context("no other node")?;
        // On the node itself, which knows of no master for a moment, and is out then.
        cluster.node(&master).cli(&["node", "remove", &master, "--timeout", "60s"])?.expect(0)?;
        eventually("another master", || Ok((at.json(&["status"])?["master"] == at.name.as_str() || count == 3).then_some(())))?;
        ensure!(listed(at, &master)?.is_none());
        eventually("the former master says so", || {
            let status = cluster.node(&master).json(&["status"])?;
            ensure!(status["problems"].to_string().contains("removed from the cluster"), "{status}");
            Ok(Some(()))
        })?;
        ensure!(at.cli(&["node", "list"])?.code == 0, "the rest works");
    }
    Ok(())
}

#[test]
fn a_node_on_a_new_disk_takes_the_place_of_the_one_before() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    let file = package(&cluster, "1.0.0")?;
    let at = &cluster.nodes[0];
    at.cli(&["node", "label", "n3", "role=edge"])?.expect(0)?;
    at.cli(&["class", "set", "edge", "--add", "n3"])?.expect(0)?;
    install(at, &file, &["n2"])?;
    at.cli(&["update", "submit", "--package", "p@1.0.0", "--class", "edge", "--timeout", "90s"])?.expect(0)?;
    let before = listed(at, "n3")?.context("n3 is not there")?;
    let data = cluster.folder().join("anew");
    let refused = join(&cluster, &data, &["--replace", "n3"], "n3")?.expect(1)?.stderr;
    ensure!(refused.contains("n3 is connected"), "{refused}");

    cluster.node_mut("n3").kill_all()?;
    eventually("n3 is away", || Ok(listed(&cluster.nodes[0], "n3")?.filter(|item| item["connected"] == false)))?;
    let generic = {
        let at = &cluster.nodes[0];
        let token = at.cli(&["token", "create"])?.expect(0)?.stdout;
        let (peer, data) = (at.address()?, cluster.folder().join("other").display().to_string());
        tribune(&["join", "--peer", &peer, "--token-file", "-", "--data", &data, "--replace", "n3"], &token)?
    };
    ensure!(generic.code == 1 && generic.stderr.contains("token create --node n3"), "{generic:?}");
    join(&cluster, &data, &["--replace", "n3"], "n3")?.expect(0)?;
    // What it was is told so, and does not come back.
    let old = cluster.node_mut("n3");
    old.run()?;
    eventually("the old n3 says that it was removed", || {
        Ok(old.json(&["status"])?["problems"].to_string().contains("removed from the cluster").then_some(()))
    })?;
    old.kill_all()?;
    let old_data = std::mem::replace(&mut old.data, data);
    old.run()?;
    let now = eventually("n3 is here again", || {
        Ok(listed(&cluster.nodes[0], "n3")?.filter(|item| item["connected"] == true && item["peer"] != before["peer"]))
    })?;
    for same in ["class", "desired", "should"] {
        ensure!(now[same] == before[same], "{same}: {now}");
    }
    ensure!(now["should"]["p"] == "1.0.0", "{now}");
    eventually("it votes in the place of the one before", || {
        Ok((with_role(&cluster.nodes[0], "voter")?.len() == 3).then_some(()))
    })?;
    fs::remove_dir_all(old_data)?;
    Ok(())
}

#[test]
fn a_voter_that_stays_away_is_replaced_and_updates_go_on() -> Result<()> {
    let mut cluster = Cluster::start(4)?;
    let at = cluster.nodes[0].name.clone();
    cluster.node(&at).cli(&["cluster", "settings", "--away-after", "5s", "--standbys", "1"])?.expect(0)?;
    let settings = cluster.node(&at).json(&["cluster", "settings"])?;
    ensure!(settings["away_after_ms"] == 5000 && settings["standbys"] == 1, "{settings}");
    let first = package(&cluster, "1.0.0")?;
    install(cluster.node(&at), &first, &["n1", "n4"])?;
    let master = cluster.master()?;
    let gone = with_role(cluster.node(&at), "voter")?.into_iter().find(|name| *name != master && *name != at);
    let gone = gone.context("no voter that is not the master")?;
    cluster.node_mut(&gone).kill_all()?;
    // Publishing goes on while who votes changes: it is refused retryably at most, which the client does not show.
    let (mut version, mut voters) = (1, Vec::new());
    eventually("the standby votes in its place", || {
        version += 1;
        let text = format!("1.{version}.0");
        let file = package(&cluster, &text)?;
        cluster.node(&at).cli(&["package", "publish", &file, "--timeout", "60s"])?.expect(0)?;
        voters = with_role(cluster.node(&at), "voter")?;
        Ok((voters.len() == 3 && !voters.contains(&gone)).then_some(()))
    })?;
    ensure!(voters.contains(&"n4".to_owned()), "{voters:?}");
    let listed = cluster.node(&at).json(&["package", "list"])?;
    ensure!(listed["count"] == version, "of {version} published there are: {listed}");
    let last = package(&cluster, "2.0.0")?;
    install(cluster.node(&at), &last, &["n1", "n4"])?;
    // The new voter holds what was acknowledged before it was one.
    let versions = cluster.node(&at).cli(&["package", "show", "p", "-o", "json"])?.expect(0)?.stdout;
    let stored = blobs(&cluster.node("n4").data.join("packages"))?;
    for line in versions.lines() {
        let version: Value = serde_json::from_str(line)?;
        let signature = version["modules"][0]["signature"].as_str().with_context(|| format!("no signature: {line}"))?;
        ensure!(stored.iter().any(|stored| stored == signature), "n4 lacks {signature} of {line}");
    }
    Ok(())
}

/// The signatures of the bytes of all files in a folder and those in it.
fn blobs(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => found.extend(blobs(&entry.path())?),
            false => found.push(blake3::hash(&fs::read(entry.path())?).to_hex().to_string()),
        }
    }
    Ok(found)
}

/// Copies a folder; sockets and pipes are made anew by who needs them.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn copies_noted(at: &Node) -> Result<usize> {
    let events = at.cli(&["events", "-o", "json", "-n", "200"])?.expect(0)?.stdout;
    Ok(events.lines().filter(|line| line.contains("clone_refused")).count())
}

#[test]
fn a_copied_disk_is_turned_away_until_the_first_is_gone() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    // An agent that was started again is no copy, and neither is a node whose keeper was.
    let agent = cluster.node("n3").agent()?;
    cluster.node("n3").kill_agent()?;
    eventually("another agent", || Ok(cluster.node("n3").agent()?.filter(|now| Some(*now) != agent)))?;
    cluster.settle()?;
    cluster.node_mut("n3").kill_node_processes()?;
    cluster.node_mut("n3").run()?;
    cluster.settle()?;
    ensure!(copies_noted(&cluster.nodes[0])? == 0, "a restart was taken for a copy");

    cluster.node_mut("n3").stop()?;
    let data = cluster.folder().join("copy");
    copy_folder(&cluster.node("n3").data, &data)?;
    let settings = fs::read_to_string(data.join("node.toml"))?;
    let ports_of_its_own: Vec<String> = settings
        .lines()
        .map(|line| match line.starts_with("control = ") || line.starts_with("data = ") {
            true => format!("{}0\"", &line[..=line.rfind('/').unwrap_or(0)]),
            false => line.to_owned(),
        })
        .collect();
    fs::write(data.join("node.toml"), ports_of_its_own.join("\n"))?;
    cluster.node_mut("n3").run()?;
    cluster.settle()?;

    let mut copy = Node::at("copy", data);
    copy.run()?;
    eventually("the copy says that it is one", || {
        let status = copy.json(&["status"])?;
        ensure!(status["problems"].to_string().contains("data folder is a copy"), "{status}");
        ensure!(status["problems"].to_string().contains("join --replace n3"), "{status}");
        ensure!(status["master"].is_null(), "{status}");
        Ok(Some(()))
    })?;
    event(&cluster.nodes[0], "clone_refused", "n3")?;
    ensure!(copies_noted(&cluster.nodes[0])? == 1, "it tries again and again, and is noted once");
    let node = listed(&cluster.nodes[0], "n3")?.context("n3 is not there")?;
    let address = cluster.node("n3").address()?;
    ensure!(node["connected"] == true && address.starts_with(node["control_addresses"][0].as_str().unwrap_or("none")), "{node}");
    // The first goes on: an update of it completes.
    let file = package(&cluster, "1.0.0")?;
    install(&cluster.nodes[0], &file, &["n3"])?;
    ensure!(copy.pid("p/m")?.is_none(), "the copy was given an update");

    cluster.node_mut("n3").kill_all()?;
    eventually("the copy takes over", || {
        let now = listed(&cluster.nodes[0], "n3")?.context("n3 is not there")?;
        let status = copy.json(&["status"])?;
        ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "{status}");
        Ok((now["connected"] == true && now["control_addresses"] != node["control_addresses"]).then_some(()))
    })
}

#[test]
fn a_node_that_is_removed_while_it_is_asked_counts_as_a_veto_and_the_rest_goes_on_without_it() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let at = &cluster.nodes[0];
    install(at, &package(&cluster, "1.0.0")?, &["n1", "n2", "n3"])?;
    cluster.node("n3").tell("p/m", "slow 15000")?;
    let file = package(&cluster, "2.0.0")?;
    let targets = ["--node", "n1", "--node", "n2", "--node", "n3"];
    let args = [&["update", "submit", &file, "--detach", "-o", "json"], &targets[..]].concat();
    let update = at.cli(&args)?.expect(0)?.json()?["update"].as_str().context("no update")?.to_owned();
    eventually("n3 is asking, and the others have answered", || {
        let steps = &at.json(&["update", "show", &update])?["nodes"];
        Ok((steps["n1"]["step"] == "voted" && steps["n2"]["step"] == "voted" && steps["n3"]["step"] == "asked").then_some(()))
    })?;
    at.cli(&["node", "remove", "n3", "--timeout", "60s"])?.expect(0)?;
    let shown = eventually("it waits for a user", || {
        let shown = at.json(&["update", "show", &update])?;
        Ok((shown["phase"] == "vetoed").then_some(shown))
    })?;
    ensure!(shown["waiting"]["about"][0] == "node n3 was removed from the cluster", "{shown}");
    at.cli(&["update", "decide", &update, "--without", "n3"])?.expect(0)?;
    ensure!(at.watch(&update)? == 0);
    let shown = at.json(&["update", "show", &update])?;
    ensure!(shown["outcome"] == "completed_in_part", "{shown}");
    // What was asked on the removed node hears that nothing comes of it, and goes on as it is.
    eventually("n3 has no open update", || {
        let local = cluster.node("n3").json(&["local", "show"])?;
        ensure!(local["open"].as_object().is_some_and(serde_json::Map::is_empty), "{local}");
        Ok((local["current"]["packages"]["p"] == "1.0.0").then_some(()))
    })
}

#[test]
fn a_node_that_is_removed_after_it_changed_keeps_what_it_has_and_can_still_go_back_by_itself() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let at = &cluster.nodes[0];
    install(at, &package(&cluster, "1.0.0")?, &["n2", "n3"])?;
    for name in ["n2", "n3"] {
        cluster.node(name).tell("p/m", "hold-ready")?;
    }
    let file = package(&cluster, "2.0.0")?;
    let args = ["update", "submit", &file, "--node", "n2", "--node", "n3", "--detach", "-o", "json"];
    let update = at.cli(&args)?.expect(0)?.json()?["update"].as_str().context("no update")?.to_owned();
    let at_step = |step: &str| -> Result<Option<&str>> {
        let steps = at.json(&["update", "show", &update])?["nodes"].clone();
        Ok(["n2", "n3"].into_iter().find(|name| steps[name]["step"] == step))
    };
    let first = eventually("one has begun", || at_step("pending"))?;
    cluster.node(first).tell("p/m", "go-on")?;
    eventually("it has settled, and the other has begun", || {
        Ok(at_step("settled")?.filter(|settled| *settled == first).and(at_step("pending")?))
    })?;
    at.cli(&["node", "remove", first, "--timeout", "60s"])?.expect(0)?;
    let removed = cluster.node(first);
    eventually("the update is over there", || {
        let local = removed.json(&["local", "show"])?;
        ensure!(local["open"].as_object().is_some_and(serde_json::Map::is_empty), "{local}");
        Ok((local["current"]["packages"]["p"] == "2.0.0").then_some(()))
    })?;
    removed.cli(&["local", "regress"])?.expect(0)?;
    let local = removed.json(&["local", "show"])?;
    ensure!(local["current"]["packages"]["p"] == "1.0.0", "{local}");
    Ok(())
}
