//! Images that say themselves which nodes get which packages, and what packages say of APIs.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tribune_messages::api::ApiError;
use tribune_node::client::{Client, ClientError};
use tribune_raft_store::command::{Rejection, UserCommand};
use tribune_raft_store::model::{Blocker, Targets, UpdateKind, UpdateOptions, UpdateRequest};
use tribune_tests::cli::tribune;
use tribune_tests::wait::LIMIT;
use tribune_tests::{Cluster, Node, NodeOptions, PackageSource};

use crate::submit;

/// A package of one data module.
fn package(name: &str, version: &str) -> PackageSource {
    PackageSource::new(name, version).file("data", &format!("{name} {version}"), "")
}

/// Builds an image of these packages with this target list, and gives its path.
pub(crate) fn image(cluster: &Cluster, name: &str, targets: &str, packages: &[PackageSource]) -> Result<String> {
    let list = cluster.folder().join(format!("{name}.toml"));
    fs::write(&list, targets)?;
    let file = cluster.folder().join(format!("{name}.timg")).display().to_string();
    let files = packages.iter().map(|source| Ok(source.build(cluster.folder())?.display().to_string()));
    let files = files.collect::<Result<Vec<_>>>()?;
    let mut args = vec!["image", "build", "--targets", list.to_str().context("a path")?, "-o", &file];
    args.extend(files.iter().map(String::as_str));
    tribune(&args, "")?.expect(0)?;
    Ok(file)
}

/// What a node has, as the record says: version by package.
fn packages(at: &Node, node: &str) -> Result<Value> {
    Ok(at.json(&["node", "show", node])?["packages"].clone())
}

#[test]
fn claim_22_an_image_with_its_own_node_list_needs_no_flags() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let at = cluster.not_master()?;
    let list = "[nodes]\nn1 = [\"p\"]\nn3 = [\"p\"]\n";
    let image = image(&cluster, "fleet", list, &[package("p", "1.0.0")])?;
    let inspected = tribune(&["image", "inspect", &image, "-o", "json"], "")?.expect(0)?.json()?;
    ensure!(inspected["targets"]["nodes"] == json!({ "n1": ["p"], "n3": ["p"] }), "{inspected}");

    cluster.admin(at, &["update", "submit", &image])?.expect(0)?;
    let has = [packages(at, "n1")?, packages(at, "n2")?, packages(at, "n3")?];
    ensure!(has == [json!({ "p": "1.0.0" }), json!({}), json!({ "p": "1.0.0" })], "{has:?}");
    Ok(())
}

#[test]
fn claim_22_a_node_list_with_an_unknown_node_is_refused_whole() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let at = &cluster.nodes[0];
    let list = "[nodes]\nn1 = [\"p\"]\nn2 = [\"p\"]\nn9 = [\"p\"]\n";
    let image = image(&cluster, "fleet", list, &[package("p", "1.0.0")])?;
    let refused = cluster.admin(at, &["update", "submit", &image])?;
    ensure!(refused.code != 0 && refused.stderr.contains("n9"), "{refused:?}");
    ensure!(at.json(&["package", "list"])?["count"] == 0, "something was published");

    // The command has looked the names up. The master refuses them too, whoever asks it.
    cluster.admin(at, &["package", "publish", &image])?.expect(0)?;
    let package = at.json(&["package", "show", "p@1.0.0"])?["id"].as_str().context("no id")?.parse()?;
    let list = ["n1", "n2", "n9"].into_iter().map(|node| Ok((node.parse()?, [package].into())));
    let targets = Targets { nodes: list.collect::<Result<_>>()?, classes: [].into() };
    let request = UpdateRequest { kind: UpdateKind::Install, targets, options: UpdateOptions::default() };
    let mut client = Client::over_socket(&at.data.join("tribune.sock"));
    let order = client.order(UserCommand::Submit { request }, LIMIT);
    let answer = tokio::runtime::Runtime::new()?.block_on(order);
    let Err(ClientError::Api(ApiError::Rejected(why))) = &answer else { bail!("{answer:?}") };
    let Rejection::Blocked { plan } = &**why else { bail!("{answer:?}") };
    ensure!(plan.blockers == [Blocker::UnknownNode { node: "n9".parse()? }], "{answer:?}");

    ensure!(at.json(&["update", "list"])?["count"] == 0, "an update was begun");
    for node in ["n1", "n2"] {
        ensure!(packages(at, node)? == json!({}), "{node} was changed");
    }
    Ok(())
}

#[test]
fn claim_23_the_image_says_which_packages_each_node_gets_and_flags_narrow_it() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let at = cluster.not_master()?;
    cluster.nodes[0].cli(&["class", "set", "edge", "--add", "n3"])?.expect(0)?;
    let list = "[nodes]\nn1 = [\"p\", \"q\"]\nn2 = [\"q\"]\n\n[classes]\nedge = [\"r\"]\n";
    let all = [package("p", "1.0.0"), package("q", "1.0.0"), package("r", "1.0.0")];
    let image = image(&cluster, "fleet", list, &all)?;

    // Flags narrow it: a node, a class, a package.
    cluster.admin(at, &["update", "submit", &image, "--node", "n1", "--package", "q"])?.expect(0)?;
    let has = [packages(at, "n1")?, packages(at, "n2")?, packages(at, "n3")?];
    ensure!(has == [json!({ "q": "1.0.0" }), json!({}), json!({})], "{has:?}");
    cluster.admin(at, &["update", "submit", &image, "--class", "edge"])?.expect(0)?;
    ensure!(packages(at, "n3")? == json!({ "r": "1.0.0" }) && packages(at, "n2")? == json!({}), "--class narrows");

    // They narrow and never widen.
    let wider = cluster.admin(at, &["update", "submit", &image, "--node", "n2", "--package", "p"])?;
    ensure!(wider.code != 0 && packages(at, "n2")? == json!({}), "the image does not give p to n2: {wider:?}");

    cluster.admin(at, &["update", "submit", &image])?.expect(0)?;
    let has = [packages(at, "n1")?, packages(at, "n2")?, packages(at, "n3")?];
    let expected = [json!({ "p": "1.0.0", "q": "1.0.0" }), json!({ "q": "1.0.0" }), json!({ "r": "1.0.0" })];
    ensure!(has == expected, "{has:?}");
    Ok(())
}

#[test]
fn claim_24_nodes_of_a_class_get_the_same_packages_and_their_processors_modules() -> Result<()> {
    let cluster = Cluster::start_with(&[NodeOptions::default(), NodeOptions::with(&["--platform", "linux/arm64"])])?;
    let at = &cluster.nodes[0];
    at.cli(&["class", "set", "edge", "--add", "n1", "--add", "n2"])?.expect(0)?;
    let source = PackageSource::new("p", "1.0.0")
        .file("native", "for amd64", "platform = \"linux/amd64\"")
        .file("native", "for arm64", "platform = \"linux/arm64\"")
        .file("data", "for any", "");
    let file = source.build(cluster.folder())?.display().to_string();
    cluster.admin(at, &["update", "submit", &file, "--class", "edge", "--strategy", "together"])?.expect(0)?;
    let shown = [at.json(&["node", "show", "n1"])?, at.json(&["node", "show", "n2"])?];
    ensure!(shown[0]["packages"] == json!({ "p": "1.0.0" }) && shown[0]["packages"] == shown[1]["packages"], "{shown:?}");
    let signature = |text: &str| blake3::hash(text.as_bytes()).to_hex().to_string();
    for (shown, native) in shown.iter().zip(["for amd64", "for arm64"]) {
        let expected = json!({ "p/data": signature("for any"), "p/native": signature(native) });
        ensure!(shown["modules"] == expected, "{shown}");
    }
    Ok(())
}

#[test]
fn claim_26_api_providers_and_consumers_are_metadata_that_package_show_gives() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let node = &cluster.nodes[0];
    let source = PackageSource::new("p", "1.0.0")
        .probe("ledgerd", "l", "provides = [\"ledger.api@1.4.0\", \"audit.api@2.0.0\"]")
        .probe("billingd", "b", "consumes = [\"ledger.api@^1.4\", \"clock.api@1 on node\", \"audit.api@2 every\"]");
    let file = source.build(cluster.folder())?.display().to_string();
    node.cli(&["package", "publish", &file])?.expect(0)?;
    let shown = node.json(&["package", "show", "p@1.0.0"])?;
    let texts = |value: &Value| -> BTreeSet<String> {
        value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let modules = shown["modules"].as_array().context("no modules")?;
    let find = |name: &str| modules.iter().find(|module| module["name"] == name).context("a module is missing");
    let provides = texts(&find("ledgerd")?["provides"]);
    ensure!(provides == BTreeSet::from(["audit.api@2.0.0".into(), "ledger.api@1.4.0".into()]), "{shown}");
    let consumes = texts(&find("billingd")?["consumes"]);
    let expected = ["audit.api@^2 every", "clock.api@^1 on node", "ledger.api@^1.4"];
    ensure!(consumes == expected.map(str::to_owned).into(), "{consumes:?}, expected {expected:?}");
    // What a person reads has them too.
    let text = node.cli(&["package", "show", "p@1.0.0"])?.expect(0)?.stdout;
    for api in ["ledger.api@1.4.0", "audit.api@2.0.0"].into_iter().chain(expected) {
        ensure!(text.contains(api), "{api} is not shown:\n{text}");
    }
    // The plan goes by it: nothing provides clock.api on the node.
    let refused = cluster.admin(node, &["update", "submit", &file, "--node", "n1", "--package", "p"])?.expect(8)?;
    ensure!(refused.stderr.contains("clock.api"), "{}", refused.stderr);
    let update = submit(&cluster, node, &file, &["n1"], &["--accept-discrepancy", "clock.api"], 4)?;
    let shown = node.json(&["update", "show", &update])?;
    ensure!(shown["discrepancies"][0]["needs"].as_str().is_some_and(|needs| needs.starts_with("clock.api")), "{shown}");
    Ok(())
}
