//! What packages hold, and how users hand them in.

use std::fs;

use anyhow::{Context, Result, ensure};
use tribune_tests::cli::tribune;
use tribune_tests::{Cluster, PackageSource};

use crate::submit;

#[test]
fn claim_25_a_package_is_published_and_read_back_unchanged_and_unknown_fields_are_refused() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let source = PackageSource::new("billing", "2.3.1")
        .with("summary = \"Bills the metered traffic\"\nupgrade-from = \">=2.1\"\nregress = \"no\"")
        .probe("rates", "r", "")
        .probe(
            "billingd",
            "b",
            "depends-on = [\"rates\"]\nprovides = [\"billing.api@2.3.0\"]\nconsumes = [\"clock.api@1 on node\"]",
        );
    let file = source.build(cluster.folder())?.display().to_string();
    let mut built = tribune(&["package", "inspect", &file, "-o", "json"], "")?.expect(0)?.json()?;
    let built = built["packages"][0].take();
    cluster.nodes[0].cli(&["package", "publish", &file])?.expect(0)?;
    let stored = cluster.nodes[0].json(&["package", "show", "billing@2.3.1"])?;
    for field in ["id", "name", "version", "summary", "upgrade_from", "can_regress", "modules", "provides", "consumes"] {
        ensure!(built[field] == stored[field] && !stored[field].is_null(), "{field}: built {built}, stored {stored}");
    }

    let description = source.write(&cluster.folder().join("unknown"))?;
    let text = fs::read_to_string(&description)?.replace("summary", "sumary");
    fs::write(&description, text)?;
    let refused =
        tribune(&["package", "build", "--manifest", &description.display().to_string(), "-o", "x.tpkg"], "")?.expect(1)?;
    ensure!(refused.stderr.contains("sumary") && refused.stderr.contains("tribune.toml:4"), "{}", refused.stderr);
    Ok(())
}

#[test]
fn claim_21_nodes_classes_and_packages_are_selected_and_what_does_not_exist_is_an_error() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let node = &cluster.nodes[0];
    let file = PackageSource::new("p", "1.0.0").probe("m", "1", "").build(cluster.folder())?.display().to_string();
    node.cli(&["class", "set", "edge", "--add", "n2"])?.expect(0)?;
    node.cli(&["update", "submit", &file, "--class", "edge"])?.expect(0)?;
    ensure!(cluster.node("n2").pid("p/m")?.is_some() && cluster.node("n1").pid("p/m")?.is_none(), "--class selects");
    submit(&cluster, node, &file, &["n1"], &[], 0)?;
    ensure!(cluster.node("n1").pid("p/m")?.is_some(), "--node selects");
    let second = PackageSource::new("q", "1.0.0").probe("m", "1", "").build(cluster.folder())?.display().to_string();
    node.cli(&["package", "publish", &second])?.expect(0)?;
    node.cli(&["update", "submit", "--package", "q@1.0.0", "--node", "n1"])?.expect(0)?;
    ensure!(cluster.node("n1").pid("q/m")?.is_some(), "--package selects");

    let updates = node.json(&["update", "list"])?["count"].as_u64();
    for (args, name) in [
        (["--package", "q@1.0.0", "--node", "n9"], "n9"),
        (["--package", "q@1.0.0", "--class", "core"], "core"),
        (["--package", "q@9.0.0", "--node", "n1"], "9.0.0"),
        (["--package", "z@1.0.0", "--node", "n1"], "z"),
    ] {
        let refused = node.cli(&[&["update", "submit"], &args[..]].concat())?.expect(1)?;
        ensure!(refused.stderr.contains(name), "{}", refused.stderr);
    }
    ensure!(node.json(&["update", "list"])?["count"].as_u64() == updates, "nothing was submitted");
    Ok(())
}

#[test]
fn claim_20_an_image_handed_to_any_peer_reaches_the_master() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let file = PackageSource::new("p", "1.0.0").probe("m", "1", "").build(cluster.folder())?;
    let targets = cluster.folder().join("targets.toml");
    fs::write(&targets, "[nodes]\nn2 = [\"p\"]\n")?;
    let image = cluster.folder().join("fleet.timg").display().to_string();
    let targets = targets.display().to_string();
    tribune(&["image", "build", "--targets", &targets, "-o", &image, &file.display().to_string()], "")?.expect(0)?;

    // Interrupted half way, it leaves nothing behind.
    let half = cluster.folder().join("half.timg");
    let bytes = fs::read(&image)?;
    fs::write(&half, bytes.get(..bytes.len() - 20).context("an image is longer")?)?;
    let other = cluster.not_master()?;
    cluster.admin(other, &["package", "publish", &half.display().to_string()])?.expect(1)?;
    ensure!(other.json(&["package", "list"])?["count"] == 0, "half an image was published");

    cluster.admin(other, &["update", "submit", &image])?.expect(0)?;
    ensure!(other.json(&["package", "list"])?["count"] == 1, "the image was published");
    ensure!(cluster.node("n2").pid("p/m")?.is_some(), "it runs where the image says");
    Ok(())
}
