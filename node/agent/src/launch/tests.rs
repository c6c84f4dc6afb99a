#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::local::StoredManifest;
use crate::local::tests::fixtures::{folder_module, having, module, package};

struct Node {
    installed: Installed,
    folders: Folders,
    machine: Platform,
    runners: BTreeMap<Platform, Vec<String>>,
    name: NodeName,
}

impl Node {
    fn new(packages: &[Arc<StoredManifest>]) -> Self {
        let mut installed = having(packages);
        installed.generation.number = 4;
        let folders = Folders {
            local: "/data/local".into(),
            ephemeral: "/data/ephemeral".into(),
            logs: "/data/logs".into(),
            process_socket: "/data/process.sock".into(),
            home: "/data".into(),
        };
        let machine = "linux/amd64".parse().unwrap();
        Self { installed, folders, machine, runners: BTreeMap::new(), name: "n1".parse().unwrap() }
    }

    fn launch<'a>(&'a self, key: &'a str) -> Launch<'a> {
        let Self { installed, folders, machine, runners, name } = self;
        Launch { installed, key, instance: 7, folders, machine, runners, node: name }
    }

    fn spec(&self, key: &str) -> ChildSpec {
        child_spec(&self.launch(key)).unwrap().unwrap()
    }

    fn program(&self, key: &str, words: &[&str]) -> (String, Vec<String>) {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let command = command(&self.launch(key), &words).unwrap();
        (command.program, command.args)
    }
}

fn billing(more: Value) -> Arc<StoredManifest> {
    package(
        "billing",
        "2.3.1",
        &[module("billingd", "program", more), module("rates", "data", json!({})), folder_module("app", b"app")],
    )
}

#[test]
fn a_module_becomes_a_child_with_everything_its_manifest_says() {
    let node = Node::new(&[
        billing(json!({
            "run": ["billingd", "--listen", "fd"],
            "listen": ["tcp://0.0.0.0:8080", "unix:///run/billing"],
            "depends-on": ["rates", "libs/l@^1", "tools/t", "libs/m"],
            "changeover": { "drain-within": "5s" },
        })),
        package("libs", "1.0.0", &[module("l", "l", json!({})), module("m", "m", json!({}))]),
        package("tools", "1.0.0", &[module("t", "t", json!({}))]),
    ]);
    let spec = node.spec("billing/billingd");
    assert_eq!(spec.id, ChildId::new("billing/billingd", 7));
    assert_eq!(spec.program, "/data/local/generations/4/tree/billing/billingd");
    assert_eq!(spec.args, ["--listen", "fd"]);
    assert_eq!(spec.folder, Path::new("/data/local/generations/4/tree/billing"));
    assert_eq!(spec.log.path, Path::new("/data/logs/billing.billingd.log"));
    assert_eq!(spec.stop.within_ms, 5000);
    let sockets: Vec<_> = spec.sockets.iter().map(|s| (s.name.as_str(), s.address.to_string())).collect();
    assert_eq!(sockets, [("listen0", "tcp://0.0.0.0:8080".to_owned()), ("listen1", "unix:///run/billing".to_owned())]);
    let label: ChildLabel = spec.label.parse().unwrap();
    assert_eq!(label.signature, Signature::of(b"program"));
    assert_eq!((label.software, label.version), (Software::Generation(4), Version::new(2, 3, 1)));
    let tree = "/data/local/generations/4/tree";
    let expected = [
        ("HOME", "/data".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("PATH", format!("{tree}/billing:{tree}/libs:{tree}/tools:/usr/local/bin:/usr/bin:/bin")),
        ("TRIBUNE_LIVE", "/data/local/live".to_owned()),
        ("TRIBUNE_MODULE", "billing/billingd".to_owned()),
        ("TRIBUNE_NODE", "n1".to_owned()),
        ("TRIBUNE_SOCKET", "/data/process.sock".to_owned()),
        ("TRIBUNE_TREE", tree.to_owned()),
        ("TRIBUNE_VERSION", "2.3.1".to_owned()),
    ];
    assert_eq!(spec.env, expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
}

#[test]
fn a_module_without_a_command_does_not_run_and_one_that_is_not_there_is_an_error() {
    let node = Node::new(&[billing(json!({}))]);
    assert_eq!(child_spec(&node.launch("billing/rates")).unwrap(), None);
    let missing = child_spec(&node.launch("billing/other")).unwrap_err();
    assert_eq!(missing.to_string(), "module billing/other is not in what runs on this node (4)");
}

#[test]
fn the_first_word_finds_a_module_of_the_tree_or_is_left_to_the_path() {
    let node = Node::new(&[billing(json!({ "run": ["billingd"] })), package("libs", "1.0.0", &[module("l", "l", json!({}))])]);
    let tree = "/data/local/generations/4/tree";
    for (word, program) in [
        ("billingd", format!("{tree}/billing/billingd")),
        ("app/bin/run", format!("{tree}/billing/app/bin/run")),
        ("libs/l", format!("{tree}/libs/l")),
        ("billing/rates", format!("{tree}/billing/rates")),
        ("python3", "python3".to_owned()),
        ("/bin/sh", "/bin/sh".to_owned()),
        ("./billingd", "./billingd".to_owned()),
        ("app/../../x", "app/../../x".to_owned()),
        ("libs/none", "libs/none".to_owned()),
        ("app", "app".to_owned()),
    ] {
        assert_eq!(node.program("billing/billingd", &[word, "x"]), (program, vec!["x".to_owned()]), "{word}");
    }
    assert!(matches!(command(&node.launch("billing/billingd"), &[]), Err(LaunchError::NoCommand(_))));
}

#[test]
fn a_runner_runs_modules_of_its_platform_where_the_machine_cannot() {
    let arm = module("d", "arm", json!({ "platform": "linux/arm64", "run": ["d", "-v"] }));
    let any = module("script", "any", json!({ "run": ["script"] }));
    let native = module("native", "native", json!({ "platform": "linux/amd64", "run": ["native"] }));
    let mut node = Node::new(&[package("p", "1.0.0", &[arm, any, native])]);
    let program = |name: &str| format!("/data/local/generations/4/tree/p/{name}");
    assert_eq!(node.spec("p/d").program, program("d"), "without a runner it is tried as it is");
    let runner = ["qemu-aarch64-static", "-L", "/usr/aarch64"].map(str::to_owned).to_vec();
    for platform in ["linux/arm64", "linux/amd64", "any"] {
        node.runners.insert(platform.parse().unwrap(), runner.clone());
    }
    let spec = node.spec("p/d");
    assert_eq!(spec.program, "qemu-aarch64-static");
    assert_eq!(spec.args, ["-L".to_owned(), "/usr/aarch64".to_owned(), program("d"), "-v".to_owned()]);
    assert_eq!(node.spec("p/native").program, program("native"));
    assert_eq!(node.spec("p/script").program, program("script"));
    assert_eq!(node.program("p/d", &["/bin/echo", "d"]), ("/bin/echo".to_owned(), vec!["d".to_owned()]));
}

#[test]
fn what_the_keeper_would_refuse_is_refused_and_a_path_that_path_cannot_hold_too() {
    let listen: Vec<String> = (0..33).map(|n| format!("tcp://127.0.0.1:{}", 1000 + n)).collect();
    let node = Node::new(&[billing(json!({ "run": ["billingd"], "listen": listen }))]);
    assert!(matches!(child_spec(&node.launch("billing/billingd")), Err(LaunchError::Limits(_))));
    let mut node = Node::new(&[billing(json!({ "run": ["billingd"], "changeover": { "drain-within": "300d" } }))]);
    assert_eq!(node.spec("billing/billingd").stop.within_ms, LONGEST_STOP_MS);
    node.folders.local = "/da:ta".into();
    assert!(matches!(child_spec(&node.launch("billing/billingd")), Err(LaunchError::Path(_))));
}

#[test]
fn a_label_reads_back_and_another_text_is_none() {
    let label = ChildLabel {
        signature: Signature::of(b"x"),
        software: Software::Generation(12),
        version: "1.0.0-rc.1+b".parse().unwrap(),
    };
    assert_eq!(label.to_string().parse(), Ok(label.clone()));
    for bad in ["", "x 1 1.0.0", &format!("{label} more"), &label.to_string()[..70]] {
        assert!(bad.parse::<ChildLabel>().is_err(), "{bad:?}");
    }
}
