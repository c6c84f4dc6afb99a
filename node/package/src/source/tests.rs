//! Descriptions, and the exact message for each thing that can be wrong with one.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tribune_raft_store::model::{AskHow, Changeover, Reach, Span, manifest::Strategy};

use super::*;

/// A folder with a description and some files.
fn folder(text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tribune.toml"), text).unwrap();
    fs::write(folder.path().join("daemon"), "a program").unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/table"), "rows").unwrap();
    folder
}

fn message(folder: &TempDir) -> String {
    let error = read(&folder.path().join("tribune.toml")).unwrap_err().to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

/// What reading a description says that is wrong.
fn refused(text: &str) -> String {
    message(&folder(text))
}

const PACKAGE: &str = "[package]\nname = \"billing\"\nversion = \"1.0.0\"\n";

/// The same with a module whose fields begin on line 5.
fn refused_module(fields: &str) -> String {
    refused(&format!("{PACKAGE}[[module]]\n{fields}\n"))
}

#[test]
fn every_field_is_read() {
    let text = r#"
[package]
name = "billing"
version = "2.3.1"
summary = "Bills the metered traffic"
upgrade-from = ">=2.1"
regress = "no"

[[module]]
name = "rates"
path = "data"

[[module]]
name = "billingd"
platform = "linux/amd64"
path = "./daemon"
characteristics = { role = "edge", cpus = 4, gpu = true }
run = ["billingd", "--listen", "fd"]
listen = ["tcp://0.0.0.0:8080"]
depends-on = ["rates", "clock/ticker@^1"]
provides = ["billing.api@2.3.0"]
consumes = ["ledger.api@^1.4", "clock.api@1 on node"]
when-affected = "restart"
changeover = { strategy = "stop-first", ready-within = "20s" }
ask = { how = "hook ./may-i now", within = "7s", silent = "accept" }
health = { http = "http://127.0.0.1:8080/health", settle = "500ms" }
"#;
    let folder = folder(text);
    let source = read(&folder.path().join("tribune.toml")).unwrap();
    let manifest = &source.manifest;
    assert_eq!((manifest.name.as_str(), manifest.version.to_string().as_str()), ("billing", "2.3.1"));
    assert_eq!((manifest.summary.as_str(), manifest.regress), ("Bills the metered traffic", Regress::No));
    assert_eq!(manifest.upgrade_from.as_ref().unwrap().to_string(), ">=2.1");
    let [daemon, rates] = manifest.modules.as_slice() else { panic!("two modules, sorted by name") };
    assert_eq!((daemon.name.as_str(), daemon.signature, daemon.size), ("billingd", Signature::of(b"a program"), 9));
    let characteristics: Vec<_> = daemon.characteristics.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(characteristics, [("cpus", "4"), ("gpu", "true"), ("role", "edge")]);
    assert_eq!(daemon.ask.how, AskHow::Hook(vec!["./may-i".into(), "now".into()]));
    assert_eq!(daemon.consumes[1].reach, Reach::Node);
    assert_eq!(
        daemon.changeover,
        Changeover { strategy: Strategy::StopFirst, ready_within: Span::from_secs(20), ..Changeover::default() }
    );
    assert_eq!(daemon.settle(), Span::from_millis(500));
    assert_eq!(daemon.health.as_ref().unwrap().every, Span::from_secs(2));
    assert_eq!((rates.kind, rates.platform.to_string().as_str()), (ModuleKind::Folder, "any"));
    // The manifest is one that every node reads back, and that says nothing of this machine.
    let canonical = manifest.canonical();
    assert_eq!(Manifest::parse(&canonical).unwrap(), *manifest);
    assert!(!canonical.contains("daemon\"") && !canonical.contains(folder.path().to_str().unwrap()));
    assert_eq!(source.origins.len(), 2);
}

#[test]
fn a_wrong_type_is_refused() {
    assert_eq!(refused("[package]\nname = 7\n"), "tribune.toml:2: name in [package] is an integer; it must be a string");
    assert_eq!(
        refused_module("name = \"d\"\npath = \"daemon\"\nrun = \"d\""),
        "tribune.toml:7: run in module d is a string; it must be a list of strings, such as [\"a\", \"b\"]"
    );
    assert_eq!(
        refused_module("name = \"d\"\npath = \"daemon\"\nrun = [\n\"d\",\n7]"),
        "tribune.toml:9: an item of run in module d is an integer; it must be a string"
    );
    assert_eq!(
        refused_module("name = \"d\"\npath = \"daemon\"\nask = \"socket\""),
        "tribune.toml:7: ask in module d is a string; it must be a table"
    );
    assert_eq!(
        refused_module("name = \"d\"\npath = \"daemon\"\ncharacteristics = { load = 0.5 }"),
        "tribune.toml:7: characteristic load in module d is a float; it must be a string, an integer or a boolean"
    );
    assert_eq!(
        refused(&format!("{PACKAGE}[module]\nname = \"d\"\n")),
        "tribune.toml:4: module in the file is a table; it must be a list of tables, each begun with [[module]]"
    );
}

#[test]
fn an_unknown_field_is_refused_with_those_that_are_known() {
    assert_eq!(
        refused("[package]\nname = \"billing\"\nversion = \"1.0.0\"\nlicense = \"MIT\"\n"),
        "tribune.toml:4: [package] has an unknown field \"license\"; the known fields are name, version, summary, upgrade-from, regress"
    );
    assert_eq!(
        refused_module("name = \"d\"\nplattform = \"any\"\npath = \"daemon\""),
        "tribune.toml:6: module d has an unknown field \"plattform\"; the known fields are name, platform, path, characteristics, run, \
         listen, depends-on, provides, consumes, when-affected, changeover, ask, health"
    );
    assert_eq!(
        refused_module("name = \"d\"\npath = \"daemon\"\nhealth = { url = \"http://x\" }"),
        "tribune.toml:7: health has an unknown field \"url\"; the known fields are http, tcp, exec, every, settle"
    );
    assert_eq!(
        refused("[packages]\n"),
        "tribune.toml:1: the file has an unknown field \"packages\"; the known fields are package, module"
    );
}

#[test]
fn a_bad_version_is_refused() {
    assert_eq!(
        refused("[package]\nname = \"billing\"\nversion = \"1.0\"\n"),
        "tribune.toml:3: version in [package]: \"1.0\" is not a semantic version (unexpected end of input while parsing minor version \
         number); use three numbers, such as \"1.0.0\""
    );
    assert_eq!(
        refused("[package]\nname = \"billing\"\nversion = \"1.0.0\"\nupgrade-from = \"two\"\n"),
        "tribune.toml:4: upgrade-from in [package]: \"two\" is not a range of versions (unexpected character 't' while parsing major \
         version number); use one such as \">=2.1\" or \"^1.4\""
    );
    assert_eq!(
        refused_module("name = \"d\"\npath = \"daemon\"\nprovides = [\"d.api@1\"]"),
        "tribune.toml:7: provides in module d: provided API \"d.api@1\" is not valid: use NAME@VERSION, such as billing.api@2.3.0"
    );
}

#[test]
fn a_path_that_leads_out_of_the_package_is_refused() {
    assert_eq!(
        refused_module("name = \"d\"\npath = \"/etc/passwd\""),
        "tribune.toml:6: path in module d: \"/etc/passwd\" is absolute; paths are relative to the folder of this file"
    );
    assert_eq!(
        refused_module("name = \"d\"\npath = \"data/../../x\""),
        "tribune.toml:6: path in module d: \"data/../../x\" has \"..\", which could lead out of the package's folder; move the file into it"
    );
    assert_eq!(
        refused_module("name = \"d\"\npath = \".\""),
        "tribune.toml:6: path in module d: \".\" is the package's folder itself; name a file or folder in it"
    );
    let outside = tempfile::NamedTempFile::new().unwrap();
    let folder = folder(&format!("{PACKAGE}[[module]]\nname = \"d\"\npath = \"linked\"\n"));
    symlink(outside.path(), folder.path().join("linked")).unwrap();
    assert_eq!(
        message(&folder),
        format!(
            "tribune.toml:6: path in module d: \"linked\" is a link to {}, out of the package's folder; copy it into the folder",
            fs::canonicalize(outside.path()).unwrap().display()
        )
    );
}

#[test]
fn a_link_within_the_package_is_followed() {
    let folder = folder(&format!("{PACKAGE}[[module]]\nname = \"d\"\npath = \"linked\"\n"));
    symlink("daemon", folder.path().join("linked")).unwrap();
    let source = read(&folder.path().join("tribune.toml")).unwrap();
    assert_eq!(source.manifest.modules[0].signature, Signature::of(b"a program"));
}

#[test]
fn a_missing_file_is_refused() {
    assert_eq!(
        refused_module("name = \"d\"\npath = \"target/d\""),
        "tribune.toml:6: path in module d: there is no target/d; build it first, or correct the path"
    );
    let error = read(std::path::Path::new("/nowhere/tribune.toml")).unwrap_err().to_string();
    assert_eq!(error, "/nowhere/tribune.toml cannot be read: No such file or directory (os error 2)");
}

#[test]
fn a_folder_that_cannot_be_packed_is_refused_at_its_path() {
    let folder = folder(&format!("{PACKAGE}[[module]]\nname = \"d\"\npath = \"data\"\n"));
    symlink("../daemon", folder.path().join("data/out")).unwrap();
    assert_eq!(message(&folder), "tribune.toml:6: data/out is a link to ../daemon, out of the module's folder");
}

#[test]
fn a_duplicate_module_is_refused() {
    let twice = format!("{PACKAGE}[[module]]\nname = \"d\"\npath = \"daemon\"\n[[module]]\npath = \"daemon\"\nname = \"d\"\n");
    assert_eq!(
        refused(&twice),
        "tribune.toml:7: module d for any is there already on line 4; modules of one name differ by platform or characteristics"
    );
}

#[test]
fn a_dependency_cycle_is_refused() {
    let module =
        |name: &str, needs: &str| format!("[[module]]\nname = \"{name}\"\npath = \"daemon\"\ndepends-on = [\"{needs}\"]\n");
    assert_eq!(
        refused(&[PACKAGE, &module("a", "b"), &module("b", "billing/c"), &module("c", "b")].concat()),
        "tribune.toml:11: modules depend on each other in a cycle: b -> c -> b; take one of these out"
    );
    assert_eq!(
        refused(&[PACKAGE, &module("a", "a")].concat()),
        "tribune.toml:7: modules depend on each other in a cycle: a -> a; take one of these out"
    );
    assert_eq!(
        refused(&[PACKAGE, &module("a", "b")].concat()),
        "tribune.toml:7: module a depends on b, which package billing does not have; add it, or write \"package/module\" for one of \
         another package"
    );
    assert_eq!(
        refused(&[PACKAGE, &module("a", "billing/b@^2"), "[[module]]\nname = \"b\"\npath = \"data\"\n"].concat()),
        "tribune.toml:7: module a depends on billing/b@^2, and this package is version 1.0.0; leave the version out"
    );
}

#[test]
fn a_package_without_modules_is_refused() {
    for text in [PACKAGE, "module = []\n[package]\nname = \"billing\"\nversion = \"1.0.0\"\n"] {
        let line = 1 + text.lines().position(|line| line == "[package]").unwrap();
        assert_eq!(
            refused(text),
            format!("tribune.toml:{line}: package billing has no modules; a package has at least one [[module]]")
        );
    }
}

#[test]
fn what_is_missing_or_not_known_is_said_with_what_would_be_right() {
    for (fields, message) in [
        ("path = \"daemon\"", "4: [[module]] has no name; add one, such as name = \"billingd\""),
        ("name = \"d\"", "4: module d has no path; add one, such as path = \"target/release/billingd\""),
        (
            "name = \"D\"\npath = \"daemon\"",
            "5: name in module D: module name \"D\" is not valid: use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit",
        ),
        (
            "name = \"d\"\npath = \"daemon\"\nplatform = \"linux\"",
            "7: platform in module d: platform \"linux\" is not valid: use \"any\" or os/arch, such as linux/amd64",
        ),
        (
            "name = \"d\"\npath = \"daemon\"\nwhen-affected = \"stop\"",
            "7: when-affected in module d: \"stop\" is not known; use \"notify\" or \"reload\" or \"restart\"",
        ),
        (
            "name = \"d\"\npath = \"daemon\"\nchangeover = { ready-within = \"10\" }",
            "7: ready-within in changeover: span \"10\" is not valid: use a whole number and ms, s, m, h or d, such as 10s; at most 365d",
        ),
        (
            "name = \"d\"\npath = \"daemon\"\nask = { how = \"loudly\" }",
            "7: how in ask: ask.how \"loudly\" is not valid: use \"auto\", \"socket\", \"never\" or \"hook COMMAND\"",
        ),
        (
            "name = \"d\"\npath = \"daemon\"\nask = { how = \"hook sh -c 'exit 0'\" }",
            "7: how in ask: ask.how \"hook sh -c 'exit 0'\" is not valid: no shell reads a hook command, so leave out quotes and backslashes; put a script into the package and name that",
        ),
        (
            "name = \"d\"\npath = \"daemon\"\nhealth = { tcp = \"localhost\" }",
            "7: tcp in health: \"localhost\" is not an address; use IP:PORT, such as \"127.0.0.1:8080\"",
        ),
        ("name = \"d\"\npath = \"daemon\"\nrun = []", "7: run names no command; begin it with one, or leave run out"),
        ("name = \"d\"\npath = \"daemon\"\nrun = [\"a\\nb\"]", "7: run has a control character; take it out"),
    ] {
        assert_eq!(refused_module(fields), format!("tribune.toml:{message}"));
    }
    assert_eq!(refused(""), "tribune.toml:1: there is no [package]; begin with [package], name = \"…\" and version = \"1.0.0\"");
    assert_eq!(
        refused("[package]\nname = \"b\"\n"),
        "tribune.toml:1: [package] has no version; add one, such as version = \"1.0.0\""
    );
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    assert!(refused("[package]\nname = billing\n").starts_with("tribune.toml:2: this is not TOML: "));
    assert!(refused("[package]\nname = \"a\"\nname = \"b\"\n").starts_with("tribune.toml:3: this is not TOML: duplicate key"));
    let folder = folder("");
    fs::write(folder.path().join("tribune.toml"), b"[package]\nname = \"\xff\"").unwrap();
    assert_eq!(message(&folder), "tribune.toml:2: the file is not UTF-8 here; save it as UTF-8");
    fs::write(folder.path().join("tribune.toml"), vec![b'#'; 2 << 20]).unwrap();
    assert_eq!(message(&folder), "tribune.toml has more than 1048576 bytes; that is no hand-written description");
}
