use tribune_package::build::InspectedPackage;
use tribune_raft_store::model::{Class, Manifest};

use super::*;
use crate::sample::{node, package};

fn manifest(text: &str) -> Manifest {
    let (name, version) = text.split_once('@').unwrap();
    serde_json::from_value(serde_json::json!({ "format": 1, "name": name, "version": version, "module": [
        { "name": "m", "signature": "0".repeat(64), "size": 1 }
    ] }))
    .unwrap()
}

fn fleet() -> Fleet {
    let texts = ["billing@1.0.0", "billing@2.0.0", "rates@1.0.0"].map(|text| manifest(text).canonical());
    let packages = texts.iter().map(|text| (PackageId::of(text), text.as_str()));
    let class = Class { name: "edge".parse().unwrap(), should: BTreeMap::new(), version: 1 };
    let mut n2 = node("n2", &[1]);
    n2.node.class = Some("edge".parse().unwrap());
    Fleet {
        nodes: vec![node("n1", &[1, 2, 2]), n2],
        classes: vec![ClassInfo { class, nodes: vec!["n2".parse().unwrap()], should: BTreeMap::new() }],
        packages: Manifests::read(packages).unwrap(),
    }
}

fn image(list: &str) -> Inspection {
    let packages = ["billing@2.0.0", "rates@1.0.0"].map(manifest);
    Inspection {
        format: 1,
        packages: packages.map(|manifest| InspectedPackage { id: manifest.id(), manifest }).to_vec(),
        targets: serde_json::from_str(list).unwrap(),
        blobs: Vec::new(),
        size: 1,
    }
}

fn args(packages: &[&str], nodes: &[&str], classes: &[&str]) -> TargetArgs {
    TargetArgs {
        image: None,
        package: packages.iter().map(|text| text.parse().unwrap()).collect(),
        node: nodes.iter().map(|text| text.parse().unwrap()).collect(),
        class: classes.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

fn id(text: &str) -> PackageId {
    manifest(text).id()
}

#[test]
fn what_does_not_exist_is_an_error_that_names_what_there_is() {
    for (given, what, todo) in [
        (args(&["billing@2.0.0"], &["n9"], &[]), "there is no node n9", "there are: n1, n2"),
        (args(&["billing@2.0.0"], &[], &["core"]), "there is no class core", "there are: edge"),
        (args(&["billing@3.0.0"], &["n1"], &[]), "there is no package billing@3.0.0", "there are: billing@1.0.0, billing@2.0.0"),
        (args(&["ledger"], &["n1"], &[]), "there is no package ledger", "there are: billing@1.0.0, billing@2.0.0, rates@1.0.0"),
        (
            args(&["billing"], &["n1"], &[]),
            "there are several versions of billing: billing@1.0.0, billing@2.0.0",
            "name one of them",
        ),
        (args(&["rates"], &[], &[]), "no target was named", "name nodes with --node or classes with --class"),
    ] {
        let problem = targets(&given, None, &fleet()).unwrap_err();
        assert_eq!((problem.what.as_str(), problem.todo.as_str()), (what, todo));
    }
}

#[test]
fn an_images_own_list_needs_no_flags_and_flags_narrow_it() {
    let image = image(r#"{ "nodes": { "n1": ["billing", "rates"] }, "classes": { "edge": ["rates"] } }"#);
    let whole = targets(&args(&[], &[], &[]), Some(&image), &fleet()).unwrap();
    assert_eq!(whole.nodes[&"n1".parse().unwrap()], [id("billing@2.0.0"), id("rates@1.0.0")].into());
    assert_eq!(whole.classes[&"edge".parse().unwrap()], [id("rates@1.0.0")].into());

    let one = targets(&args(&["rates"], &["n1"], &[]), Some(&image), &fleet()).unwrap();
    assert_eq!((one.nodes.len(), one.classes.len()), (1, 0));
    assert_eq!(one.nodes[&"n1".parse().unwrap()], [id("rates@1.0.0")].into());

    let by_class = targets(&args(&[], &["n2"], &[]), Some(&image), &fleet()).unwrap();
    assert_eq!(by_class.nodes[&"n2".parse().unwrap()], [id("rates@1.0.0")].into());

    let missing = targets(&args(&["ledger"], &[], &[]), Some(&image), &fleet()).unwrap_err();
    assert_eq!(missing.what, "the file has no package ledger");
}

#[test]
fn a_list_with_an_unknown_node_is_refused_whole() {
    let image = image(r#"{ "nodes": { "n1": ["billing"], "n7": ["billing"] } }"#);
    let problem = targets(&args(&[], &["n1"], &[]), Some(&image), &fleet()).unwrap_err();
    assert_eq!(problem.what, "the image's target list cannot be used: there is no node n7");
}

#[test]
fn an_image_without_a_list_goes_where_flags_say() {
    let image = image("null");
    let all = targets(&args(&[], &["n2"], &["edge"]), Some(&image), &fleet()).unwrap();
    assert_eq!(all.nodes[&"n2".parse().unwrap()].len(), 2);
    assert_eq!(all.classes[&"edge".parse().unwrap()].len(), 2);
    assert!(targets(&args(&[], &[], &[]), Some(&image), &fleet()).is_err());
}

#[test]
fn a_regress_without_a_version_goes_to_the_one_before() {
    let regress = |packages: &[&str], nodes: &[&str]| {
        let TargetArgs { package, node, class, image: _ } = args(packages, nodes, &[]);
        RegressArgs {
            node,
            class,
            package,
            force: false,
            why: None,
            skip_away: false,
            again: false,
            accept_discrepancy: Vec::new(),
            allow_drift: false,
            detach: false,
        }
    };
    let targets = regress_targets(&regress(&["billing"], &["n1"]), &fleet()).unwrap();
    assert_eq!(targets.nodes[&"n1".parse().unwrap()], [package(1)].into(), "not the generation with the same version");
    let whole = regress_targets(&regress(&[], &["n1"]), &fleet()).unwrap();
    assert!(whole.nodes[&"n1".parse().unwrap()].is_empty());
    let named = regress_targets(&regress(&["billing@1.0.0"], &["n2"]), &fleet()).unwrap();
    assert_eq!(named.nodes[&"n2".parse().unwrap()], [id("billing@1.0.0")].into());
    let none = regress_targets(&regress(&["billing"], &["n2"]), &fleet()).unwrap_err();
    assert_eq!(none.what, "node n2 keeps no other version of billing");
    let absent = regress_targets(&regress(&["rates"], &["n1"]), &fleet()).unwrap_err();
    assert_eq!((absent.what.as_str(), absent.todo.as_str()), ("node n1 does not have package rates", "it has: billing"));
}
