//! What the master keeps and sends, and when it reaches a node.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tribune_node::client::Client;
use tribune_tests::cli::tribune;
use tribune_tests::wait::LIMIT;
use tribune_tests::{Cluster, Node, NodeOptions, PackageSource, eventually};

use crate::images::image;
use crate::{blobs, install, submit};

#[test]
fn claim_01_an_image_is_stored_by_a_majority_and_older_versions_remain() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let other = cluster.not_master()?;
    let source = |version: &str| PackageSource::new("p", version).probe("m", version, "");
    let image = image(&cluster, "fleet", "[nodes]\nn1 = [\"p\"]\nn2 = [\"p\"]\nn3 = [\"p\"]\n", &[source("1.0.0")])?;
    submit(&cluster, other, &image, &[], &["--strategy", "together"], 0)?;
    let signature =
        other.json(&["package", "show", "p@1.0.0"])?["modules"][0]["signature"].as_str().context("no signature")?.to_owned();
    let mut holders = 0;
    for node in &cluster.nodes {
        holders += usize::from(blobs(&node.data.join("packages"))?.contains(&signature));
    }
    ensure!(holders >= 2, "{holders} of 3 voters have the module in their package store");

    // Versions come and go on a node; the store keeps and gives what the node no longer holds.
    for version in ["1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0", "1.6.0"] {
        install(&cluster, &source(version), &["n2"])?;
    }
    let node = cluster.node("n2");
    let kept = node.json(&["local", "show"])?;
    ensure!(!kept.to_string().contains(&signature), "the node still holds the first version");
    cluster.admin(other, &["regress", "--node", "n2", "--package", "p@1.0.0"])?.expect(0)?;
    ensure!(node.json(&["node", "show", "n2"])?["packages"]["p"] == "1.0.0", "it is back");
    ensure!(other.json(&["package", "list"])?["count"] == 7, "all versions remain");
    Ok(())
}

/// The first line that a node has logged with this about an update, once it has.
pub(crate) fn logged(node: &Node, what: &str, update: &str) -> Result<String> {
    let update = format!("update={update}");
    let found = |line: &&str| line.contains(what) && line.split_whitespace().any(|word| word == update);
    eventually(&format!("{} has logged {what:?}", node.name), || {
        let log = fs::read_to_string(node.data.with_extension("log"))?;
        Ok(log.split_inclusive('\n').filter(|line| line.ends_with('\n')).find(found).map(str::to_owned))
    })
}

#[test]
fn claim_01_each_node_has_logged_the_proposal_before_any_byte_of_a_module_reaches_it() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let source =
        |version: &str| PackageSource::new("p", version).probe("m", version, "depends-on = [\"lib\"]").file("lib", version, "");
    install(&cluster, &source("1.0.0"), &["n1"])?;
    let node = cluster.node("n1");
    let modules = |node: &Node| blobs(&node.data.join("local/modules"));
    let before: Vec<_> = cluster.nodes.iter().map(modules).collect::<Result<_>>()?;
    ensure!(before.iter().map(BTreeSet::len).eq([2, 0, 0]), "only n1 has modules: {before:?}");

    // A veto on one node holds the update up for all: what the nodes know by then, they know before anything is sent.
    node.tell("p/m", "veto not yet")?;
    let file = source("2.0.0").build(cluster.folder())?.display().to_string();
    let together = ["--strategy", "together"];
    let update = submit(&cluster, cluster.not_master()?, &file, &["n1", "n2", "n3"], &together, 3)?;
    let id = |version: &str| -> Result<String> {
        let package = node.json(&["package", "show", &format!("p@{version}")])?;
        Ok(package["id"].as_str().context("no id")?.to_owned())
    };
    let (old, new) = (id("1.0.0")?, id("2.0.0")?);
    for (node, from, from_id) in [("n1", "1.0.0", old.as_str()), ("n2", "none", "none"), ("n3", "none", "none")] {
        let line = logged(cluster.node(node), "an update is proposed", &update)?;
        for field in [
            "package=p ".to_owned(),
            format!("from=\"{from}\""),
            "to=\"2.0.0\"".to_owned(),
            format!("from_id=\"{from_id}\""),
            format!("to_id=\"{new}\""),
            "depends_on=\"lib\"".to_owned(),
        ] {
            ensure!(line.contains(&field), "{field} is not in what {node} logged: {line}");
        }
    }
    // Looked at after the logs.
    let then: Vec<_> = cluster.nodes.iter().map(modules).collect::<Result<_>>()?;
    ensure!(then == before, "a module came before its proposal was accepted: {before:?}, then {then:?}");

    node.tell("p/m", "accept")?;
    cluster.admin(node, &["update", "decide", &update, "--ask-again", "--watch"])?.expect(0)?;
    let sent: BTreeSet<_> = ["m-0", "lib-1"]
        .iter()
        .map(|file| Ok(blake3::hash(&fs::read(cluster.folder().join("p-2.0.0").join(file))?).to_hex().to_string()))
        .collect::<Result<_>>()?;
    for node in &cluster.nodes {
        ensure!(modules(node)?.is_superset(&sent), "{} has not got the modules: {:?}", node.name, modules(node)?);
    }
    Ok(())
}

/// A package file whose modules were taken out by hand, with every hash right.
fn without_modules(file: &[u8]) -> Result<Vec<u8>> {
    let length = u32::from_le_bytes(file.get(12..16).context("a length")?.try_into()?) as usize;
    let mut header: Value = serde_json::from_slice(file.get(16..16 + length).context("a header")?)?;
    let mut manifest: Value = serde_json::from_str(header["packages"][0].as_str().context("a manifest")?)?;
    manifest["module"] = json!([]);
    header["packages"] = json!([manifest.to_string()]);
    let header = header.to_string();
    let mut bytes = [&file[..12], &u32::try_from(header.len())?.to_le_bytes(), header.as_bytes()].concat();
    // The header's hash, and the whole file's: there are no modules in between.
    for _ in 0..2 {
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
    }
    Ok(bytes)
}

#[test]
fn claim_01_a_package_needs_no_dependencies_but_a_module() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let none = PackageSource::new("none", "1.0.0").write(&cluster.folder().join("none"))?.display().to_string();
    let file = cluster.folder().join("none.tpkg");
    let refused = tribune(&["package", "build", "--manifest", &none, "-o", &file.display().to_string()], "")?.expect(1)?;
    ensure!(refused.stderr.contains("package none has no modules"), "{}", refused.stderr);
    ensure!(!file.exists(), "a package without modules was built");

    // One that was made by hand is refused by the command, and by the master also when it comes another way.
    let one = fs::read(PackageSource::new("none", "1.0.0").file("m", "one", "").build(cluster.folder())?)?;
    fs::write(&file, without_modules(&one)?)?;
    let node = &cluster.nodes[0];
    let refused = node.cli(&["package", "publish", &file.display().to_string()])?.expect(1)?;
    ensure!(refused.stderr.contains("package none has no modules"), "{}", refused.stderr);
    let mut client = Client::over_socket(&node.data.join("tribune.sock"));
    let uploaded = tokio::runtime::Runtime::new()?.block_on(client.upload(&file, LIMIT, |_| {}));
    ensure!(uploaded.is_err_and(|why| why.to_string().contains("package none has no modules")), "the master has taken it");
    ensure!(node.json(&["package", "list"])?["count"] == 0, "a package without modules is in the store");

    install(&cluster, &PackageSource::new("one", "1.0.0").file("m", "alone", ""), &["n1"])?;
    let stored = cluster.nodes[0].json(&["package", "show", "one@1.0.0"])?;
    let dependencies = stored["modules"][0]["depends_on"].as_array().context("no list of dependencies")?;
    ensure!(dependencies.is_empty() && stored["modules"][0]["name"] == "m", "{stored}");
    Ok(())
}

#[test]
fn claim_03_each_node_gets_the_subset_that_matches_its_desired_characteristics() -> Result<()> {
    let cluster = Cluster::start_with(&[
        NodeOptions::default(),
        NodeOptions::default(),
        NodeOptions::with(&["--platform", "linux/arm64"]),
    ])?;
    let node = &cluster.nodes[0];
    node.cli(&["node", "label", "n2", "role=edge"])?.expect(0)?;
    let source = PackageSource::new("p", "1.0.0")
        .file("data", "for any", "")
        .file("edge", "for edge nodes", "characteristics = { role = \"edge\" }")
        .file("native", "for amd64", "platform = \"linux/amd64\"")
        .file("native", "for arm64", "platform = \"linux/arm64\"");
    let file = source.build(cluster.folder())?.display().to_string();
    submit(&cluster, node, &file, &["n1", "n2", "n3"], &["--strategy", "together"], 0)?;
    let expected = [
        ("n1", vec!["for any", "for amd64"]),
        ("n2", vec!["for any", "for edge nodes", "for amd64"]),
        ("n3", vec!["for any", "for arm64"]),
    ];
    for (name, contents) in expected {
        let expected: BTreeSet<String> = contents.iter().map(|text| blake3::hash(text.as_bytes()).to_hex().to_string()).collect();
        let have = blobs(&cluster.node(name).data.join("local/modules"))?;
        ensure!(have == expected, "{name} has {have:?}, expected {expected:?}");
    }

    let tie = PackageSource::new("tie", "1.0.0").file("m", "one", "characteristics = { role = \"edge\" }").file(
        "m",
        "two",
        "characteristics = { site = \"oslo\" }",
    );
    node.cli(&["node", "label", "n2", "site=oslo"])?.expect(0)?;
    let file = tie.build(cluster.folder())?.display().to_string();
    node.cli(&["package", "publish", &file])?.expect(0)?;
    let plan = node.cli(&["update", "plan", "--package", "tie@1.0.0", "--node", "n2"])?.expect(8)?;
    ensure!((plan.stdout.clone() + &plan.stderr).contains("suit equally well"), "{plan:?}");

    let missing = PackageSource::new("missing", "1.0.0").file("m", "amd", "platform = \"linux/amd64\"");
    let file = missing.build(cluster.folder())?.display().to_string();
    node.cli(&["package", "publish", &file])?.expect(0)?;
    let plan = node.cli(&["update", "plan", "--package", "missing@1.0.0", "--node", "n3"])?.expect(8)?;
    ensure!((plan.stdout.clone() + &plan.stderr).contains("missing for linux/arm64"), "{plan:?}");
    Ok(())
}

/// What a node has: its generations, the modules on its disk, and the process of `p/daemon`.
fn look(node: &Node) -> Result<(Value, BTreeSet<String>, Option<u32>)> {
    // Not what is open: the node hears of an update's end after the user.
    let mut local = node.json(&["local", "show"])?;
    local.as_object_mut().context("no object")?.remove("open");
    Ok((local, blobs(&node.data.join("local/modules"))?, node.pid("p/daemon")?))
}

#[test]
fn claim_03_a_label_alone_changes_nothing_and_the_next_plan_goes_by_it() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let (node, other) = (cluster.node("n1"), cluster.node("n2"));
    let edge = "characteristics = { role = \"edge\" }";
    let source =
        PackageSource::new("p", "1.0.0").probe("daemon", "any", "").probe("daemon", "edge", edge).file("map", "a map", edge);
    install(&cluster, &source, &["n1", "n2"])?;
    let before = (look(node)?, look(other)?);
    ensure!(before.0.1 == before.1.1 && before.0.1.len() == 1 && before.0.2.is_some(), "one module on each: {before:?}");

    // While another update is begun and ended, the master has every occasion to act on the label.
    node.cli(&["node", "label", "n1", "role=edge"])?.expect(0)?;
    ensure!(node.json(&["node", "show", "n1"])?["desired"]["role"]["value"] == "edge", "the label is in the record");
    install(&cluster, &PackageSource::new("q", "1.0.0").file("m", "q", ""), &["n2"])?;
    ensure!(look(node)? == before.0, "the label alone changed the node: {:?}, then {:?}", before.0, look(node)?);
    ensure!(node.json(&["update", "list"])?["count"] == 2, "the label alone began an update");

    let wanted = ["--package", "p@1.0.0", "--node", "n1", "--node", "n2"];
    let plan = node.json(&[&["update", "plan"], &wanted[..]].concat())?;
    let planned: Vec<_> = plan["nodes"].as_object().context("no nodes")?.keys().collect();
    ensure!(planned == ["n1"], "only n1 is to change: {plan}");
    ensure!(look(node)? == before.0, "a plan changed the node");

    let now = look(other)?;
    node.cli(&[&["update", "submit"], &wanted[..]].concat())?.expect(0)?;
    let built = |file: &str| -> Result<String> {
        Ok(blake3::hash(&fs::read(cluster.folder().join("p-1.0.0").join(file))?).to_hex().to_string())
    };
    let after = look(node)?;
    let subset = json!({ "p/daemon": built("daemon-1")?, "p/map": built("map-2")? });
    ensure!(after.0["current"]["modules"] == subset, "n1 has {}, expected {subset}", after.0["current"]["modules"]);
    ensure!(after.2.is_some() && after.2 != before.0.2, "the process of its new subset runs: {after:?}");
    ensure!(look(other)? == now, "n2 changed: {now:?}, then {:?}", look(other)?);
    Ok(())
}

#[test]
fn claim_07_no_module_reaches_a_node_before_its_acceptance() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let source = |version: &str| PackageSource::new("p", version).probe("m", version, "");
    install(&cluster, &source("1.0.0"), &["n1"])?;
    let node = cluster.node("n1");
    let modules = node.data.join("local/modules");
    let before = blobs(&modules)?;
    node.tell("p/m", "veto not yet")?;
    let file = source("2.0.0").build(cluster.folder())?.display().to_string();
    let update = submit(&cluster, node, &file, &["n1"], &[], 3)?;
    ensure!(blobs(&modules)? == before, "a module came before all had accepted");
    node.tell("p/m", "accept")?;
    node.cli(&["update", "decide", &update, "--ask-again", "--watch"])?.expect(0)?;
    ensure!(blobs(&modules)?.len() == before.len() + 1, "the module is there");
    Ok(())
}

#[test]
fn claim_07_a_module_is_sent_when_the_last_acceptance_is_in_the_record_and_not_before() -> Result<()> {
    // n2 is no voter: it has no package store either.
    let cluster = Cluster::start_with(&[NodeOptions::default(), NodeOptions::with(&["--voter", "never"])])?;
    let (first, second) = (cluster.node("n1"), cluster.node("n2"));
    let source = |version: &str| PackageSource::new("p", version).probe("m", version, "");
    install(&cluster, &source("1.0.0"), &["n1", "n2"])?;
    let look = || Ok::<_, anyhow::Error>((blobs(&first.data.join("local"))?, blobs(&second.data)?));
    let file = source("2.0.0").build(cluster.folder())?.display().to_string();
    let module = blake3::hash(&fs::read(cluster.folder().join("p-2.0.0/m-0"))?).to_hex().to_string();

    // One process has accepted, and so has its node; the other thinks about it.
    first.tell("p/m", "hold-answer")?;
    let update = submit(&cluster, first, &file, &["n1", "n2"], &["--strategy", "together", "--detach"], 0)?;
    eventually("n2 has accepted, and n1 is asked", || {
        let shown = first.json(&["update", "show", &update])?;
        let steps = [&shown["nodes"]["n1"]["step"], &shown["nodes"]["n2"]["step"]];
        Ok((steps == ["asked", "voted"] && shown["nodes"]["n2"]["ballots"][0]["answer"] == "accept").then_some(()))
    })?;
    let have = look()?;
    ensure!(!have.0.contains(&module) && !have.1.contains(&module), "the module came before all had accepted: {have:?}");
    ensure!(first.json(&["update", "show", &update])?["phase"] == "asking", "it was looked at while n1 is asked");

    first.tell("p/m", "go-on")?;
    ensure!(first.watch(&update)? == 0, "it is completed");
    let have = look()?;
    ensure!(have.0.contains(&module) && have.1.contains(&module), "the module has not come: {have:?}");
    // A line of a log begins with its time. What the record has is logged before anybody hears of it.
    let recorded = logged(first, "is distributing", &update)?;
    for node in [first, second] {
        let fetching = logged(node, "fetching", &update)?;
        ensure!(fetching.contains(&module) && recorded < fetching, "{recorded}was not before\n{fetching}");
    }
    Ok(())
}
