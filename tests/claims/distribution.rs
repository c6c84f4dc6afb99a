//! What the master keeps and sends, and when it reaches a node.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use tribune_tests::{Cluster, NodeOptions, PackageSource};

use crate::{install, submit};

/// The signatures of the module files in a folder's tree.
fn blobs(folder: &std::path::Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            } else if let Ok(bytes) = fs::read(entry.path()) {
                found.insert(blake3::hash(&bytes).to_hex().to_string());
            }
        }
    }
    Ok(found)
}

#[test]
fn claim_01_an_image_is_stored_by_a_majority_and_older_versions_remain() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let other = cluster.not_master()?;
    let source = |version: &str| PackageSource::new("p", version).probe("m", version, "");
    let file = source("1.0.0").build(cluster.folder())?.display().to_string();
    submit(&cluster, other, &file, &["n1", "n2", "n3"], &["--strategy", "together"], 0)?;
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

#[test]
fn claim_02_a_signature_is_the_blake3_of_the_module_and_one_flipped_bit_is_refused() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let source = PackageSource::new("p", "1.0.0").probe("m", "1", "");
    let file = source.build(cluster.folder())?;
    let module = fs::read(cluster.folder().join("p-1.0.0").join("m-0"))?;

    let mut bytes = fs::read(&file)?;
    let at = bytes.windows(module.len()).position(|window| window == module).context("the module is not in the package file")?;
    bytes[at + module.len() / 2] ^= 1;
    let flipped = cluster.folder().join("flipped.tpkg");
    fs::write(&flipped, &bytes)?;
    let refused = cluster.nodes[0].cli(&["package", "publish", &flipped.display().to_string()])?.expect(1)?;
    ensure!(refused.stderr.contains("module m") || refused.stderr.contains("p/m"), "it names the module: {}", refused.stderr);
    ensure!(cluster.nodes[0].json(&["package", "list"])?["count"] == 0, "nothing was published");

    install(&cluster, &source, &["n1"])?;
    let stored = cluster.nodes[0].json(&["package", "show", "p@1.0.0"])?;
    ensure!(stored["modules"][0]["signature"] == blake3::hash(&module).to_hex().as_str(), "{stored}");
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
