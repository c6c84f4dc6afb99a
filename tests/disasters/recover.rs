//! One survivor goes on alone, and everyone else follows it.

use super::*;

#[test]
fn a_cluster_whose_majority_is_lost_for_good_goes_on_from_one_survivor_and_grows_its_voters_again() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    cluster.nodes[0].cli(&["cluster", "settings", "--voters", "3", "--standbys", "1"])?.expect(0)?;
    cluster.add(&Default::default())?;
    cluster.add(&Default::default())?;
    let key = admin_key(&cluster)?;
    connected(&cluster.nodes[0], &["n1", "n2", "n3", "n4", "n5"])?;
    install(&key, &cluster.nodes[0], &package(cluster.folder(), "1.0.0")?, &["n1", "n2", "n3", "n4", "n5"])?;
    voters(&cluster.nodes[0], &["n1", "n2", "n3"])?;
    let service = cluster.node("n2").pid("p/m")?.context("p/m does not run")?;

    let refused = recover(cluster.node("n2"), Some(&key))?.expect(1)?.stderr;
    ensure!(refused.contains("this node runs already; stop it first"), "{refused}");
    let member = items(&cluster.nodes[0])?.into_iter().find(|item| item["role"] == "member").context("no member")?;
    let member = member["name"].as_str().context("no name")?.to_owned();
    cluster.node_mut(&member).stop()?;
    let refused = recover(cluster.node(&member), Some(&key))?.expect(1)?.stderr;
    ensure!(refused.contains("is a member, and has no record of its own"), "{refused}");
    cluster.node_mut(&member).run()?;
    lose(cluster.node_mut("n1"))?;
    lose(cluster.node_mut("n3"))?;
    let survivor = cluster.node_mut("n2");
    survivor.kill_node_processes()?;
    let wrong = recover(survivor, None)?.expect(1)?.stderr;
    ensure!(wrong.contains("node n2 is Viewer and this needs Admin"), "{wrong}");
    let recovered = recover(cluster.node("n2"), Some(&key))?.expect(0)?.json()?;
    ensure!(recovered["node"] == "n2" && recovered["epoch"] == 1, "{recovered}");
    ensure!(recovered["incomplete"] == serde_json::json!([]), "{recovered}");

    cluster.node_mut("n2").run()?;
    let at = cluster.node("n2");
    connected(at, &["n2", "n4", "n5"])?;
    ensure!(at.pid("p/m")? == Some(service), "its service was touched");
    // What was acknowledged is there, and two that were members or standbys vote in the place of those that are lost.
    ensure!(at.json(&["node", "show", "n4"])?["should"]["p"] == "1.0.0");
    three_voters(at, "n2")?;
    let update = install(&key, at, &package(cluster.folder(), "2.0.0")?, &["n2", "n4", "n5"])?;
    ensure!(update.starts_with("u10000"), "{update}: no number of the lost part is given again");
    ensure!(events(at, "cluster_recovered")? == 1);
    for lost in ["n1", "n3"] {
        admin(&key, at, &["node", "remove", lost])?.expect(0)?;
    }

    // They are voters like any: without the one that was recovered the cluster goes on.
    cluster.node_mut("n2").kill_all()?;
    eventually("the others go on", || {
        Ok((admin(&key, cluster.node("n4"), &["node", "label", "n4", "a=b"])?.code == 0).then_some(()))
    })
}

#[test]
fn a_majority_that_still_runs_is_fenced_by_a_recovery_and_follows_it() -> Result<()> {
    let mut cluster = Cluster::start(4)?;
    let key = admin_key(&cluster)?;
    voters(&cluster.nodes[0], &["n1", "n2", "n3"])?;
    cluster.node_mut("n1").kill_all()?;
    // The others do not know yet that they are out.
    let at = cluster.node("n2");
    eventually("the others go on", || Ok((cluster.master()? != "n1").then_some(())))?;
    admin(&key, at, &["node", "label", "n2", "old=yes"])?.expect(0)?;

    // On the node where the cluster was made its own key is an admin's.
    let recovered = recover(cluster.node("n1"), None)?.expect(0)?.json()?;
    let others = recovered["others"].as_array().context("no others")?;
    ensure!(recovered["epoch"] == 1 && ["n2", "n3"].iter().all(|name| others.contains(&(*name).into())), "{recovered}");
    cluster.node_mut("n1").run()?;
    let at = cluster.node("n1");
    connected(at, &["n1", "n2", "n3", "n4"])?;
    for node in &cluster.nodes {
        eventually(&format!("{} follows", node.name), || Ok((node.json(&["status"])?["master"] == "n1").then_some(())))?;
    }
    // What they acknowledged after the one that was recovered had left is lost, for everyone.
    for node in &cluster.nodes {
        ensure!(node.json(&["node", "show", "n2"])?["desired"]["old"].is_null(), "{} still has what was lost", node.name);
    }
    // They vote again, under Raft ids that were never given.
    for name in three_voters(at, "n1")?.iter().filter(|name| *name != "n1") {
        let id = fs::read_to_string(cluster.node(name).data.join("raft/raft-id"))?;
        let id: u64 = id.split(' ').next().context("no id")?.parse()?;
        ensure!(id >> 48 == 1, "{name} has Raft id {id}");
    }
    install(&key, at, &package(cluster.folder(), "1.0.0")?, &["n1", "n2", "n3", "n4"])?;
    // Once more: of two recoveries the later one counts.
    let other = three_voters(cluster.node("n1"), "n1")?.into_iter().find(|name| name != "n1").context("n1 votes alone")?;
    cluster.node_mut(&other).kill_all()?;
    let again = recover(cluster.node(&other), Some(&key))?.expect(0)?.json()?;
    ensure!(again["epoch"] == 2, "{again}");
    cluster.node_mut(&other).run()?;
    connected(cluster.node(&other), &["n1", "n2", "n3", "n4"])?;
    ensure!(cluster.node("n1").json(&["status"])?["master"] == other.as_str());
    three_voters(cluster.node(&other), &other).map(|_| ())
}

/// `tribune recover` on a node.
fn recover(node: &Node, key: Option<&Path>) -> Result<Output> {
    let key = key.map(|key| key.display().to_string());
    let args = ["recover", "--force-new-cluster", "-o", "json"];
    match &key {
        Some(key) => node.cli(&[&args[..], &["--key", key]].concat()),
        None => node.cli(&args),
    }
}
