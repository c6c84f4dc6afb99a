//! What a user can get wrong at the command line: descriptions, files, names, keys, tokens, folders, ports.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tribune_tests::address::{anywhere, loopback};
use tribune_tests::cli::tribune;
use tribune_tests::{Cluster, Output, PackageSource};

use crate::{names, refused, text};

/// Every file of a folder that is not running, with its bytes.
fn contents(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let files = names(folder).into_iter().filter(|name| folder.join(name).is_file());
    files.map(|name| Ok((name.clone(), fs::read(folder.join(&name))?))).collect()
}

/// A node that is made so, and listens at any free port.
fn made_anywhere(args: &[&str], input: &str) -> Result<Output> {
    let any = anywhere();
    tribune(&[args, &["--control", &any, "--data-address", &any]].concat(), input)
}

/// Makes a cluster of one node that does not run, in this folder.
fn init(data: &Path, name: &str) -> Result<()> {
    made_anywhere(&["init", "--data", &text(data), "--name", name], "")?.expect(0)?;
    Ok(())
}

/// Brings a node into the cluster with this token.
fn join(cluster: &Cluster, folder: &str, name: &str, token: &str) -> Result<Output> {
    let peer = cluster.nodes[0].address()?;
    let data = text(&cluster.folder().join(folder));
    made_anywhere(&["join", "--peer", &peer, "--token-file", "-", "--data", &data, "--name", name], token)
}

fn token(cluster: &Cluster, args: &[&str]) -> Result<String> {
    Ok(cluster.nodes[0].cli(&[&["token", "create"], args].concat())?.expect(0)?.stdout)
}

fn node_count(cluster: &Cluster) -> Result<u64> {
    cluster.nodes[0].json(&["node", "list"])?["count"].as_u64().context("no count")
}

#[test]
fn a_description_that_is_wrong_is_refused_with_file_line_and_what_would_be_right() -> Result<()> {
    const PACKAGE: &str = "[package]\nname = \"p\"\nversion = \"1.0.0\"\n";
    fn module(name: &str, path: &str, further: &str) -> String {
        format!("[[module]]\nname = \"{name}\"\npath = \"{path}\"\n{further}\n")
    }
    let with = |modules: &[String]| format!("{PACKAGE}{}", modules.concat());
    let bad_version = |version: &str| format!("[package]\nname = \"p\"\nversion = {version}\n{}", module("m", "f", ""));
    let circle = [module("a", "f", "depends-on = [\"b\"]"), module("b", "f", "depends-on = [\"a\"]")];
    let cases: [(&str, String, &[&str]); 14] = [
        ("wrong type", bad_version("1"), &["toml:3:", "version in [package] is an integer", "must be a string"]),
        (
            "unknown field",
            format!("{PACKAGE}sumary = \"x\"\n"),
            &["toml:4:", "[package]", "\"sumary\"", "known fields are", "summary"],
        ),
        (
            "of a module",
            with(&[module("m", "f", "rum = [\"m\"]")]),
            &["toml:7:", "module m", "\"rum\"", "known fields are", " run,"],
        ),
        ("version", bad_version("\"1.x\""), &["toml:3:", "\"1.x\" is not a semantic version", "such as \"1.0.0\""]),
        ("name", PACKAGE.replace("\"p\"", "\"P P\""), &["toml:2:", "\"P P\" is not valid", "use 1 to 64 of a-z"]),
        (
            "path out",
            with(&[module("m", "../outside", "")]),
            &["toml:6:", "module m", "\"../outside\" has \"..\"", "move the file into it"],
        ),
        (
            "absolute path",
            with(&[module("m", "/etc/passwd", "")]),
            &["toml:6:", "\"/etc/passwd\" is absolute", "relative to the folder"],
        ),
        ("missing file", with(&[module("m", "nope", "")]), &["toml:6:", "module m", "nope; build it first, or correct the path"]),
        (
            "link out",
            with(&[module("m", "dir", "")]),
            &["toml:6:", "dir/link is a link to the absolute path /etc/passwd", "make it relative"],
        ),
        (
            "twice",
            with(&[module("m", "f", ""), module("m", "f", "")]),
            &["toml:8:", "module m", "there already on line 4", "differ by platform"],
        ),
        ("circle", with(&circle), &["toml:7:", "in a cycle: a -> b -> a", "take one of these out"]),
        (
            "dangling",
            with(&[module("m", "f", "depends-on = [\"zz\"]")]),
            &["toml:7:", "module m depends on zz", "add it, or write \"package/module\""],
        ),
        ("no modules", PACKAGE.into(), &["toml:1:", "package p has no modules", "at least one [[module]]"]),
        ("no TOML", "[package\n".into(), &["toml:1:", "this is not TOML", "expected `]`"]),
    ];
    let folder = TempDir::new()?;
    let place = folder.path().join("package");
    fs::create_dir_all(place.join("dir"))?;
    fs::write(folder.path().join("outside"), "o")?;
    fs::write(place.join("f"), "f")?;
    std::os::unix::fs::symlink("/etc/passwd", place.join("dir/link"))?;
    let manifest = place.join("tribune.toml");
    let built = folder.path().join("built.tpkg");
    fs::write(&built, "an earlier build")?;
    for (name, description, said) in cases {
        fs::write(&manifest, description)?;
        let output = tribune(&["package", "build", "--manifest", &text(&manifest), "-o", &text(&built)], "")?;
        refused(output, 1, said).context(name)?;
        ensure!(fs::read_to_string(&built)? == "an earlier build", "{name}: the earlier build was overwritten");
        ensure!(names(folder.path()) == ["built.tpkg", "outside", "package"], "{name}: {:?} is left", names(folder.path()));
    }
    fs::remove_file(&manifest)?;
    let output = tribune(&["package", "build", "--manifest", &text(&manifest), "-o", &text(&built)], "")?;
    refused(output, 1, &["tribune.toml cannot be read: No such file or directory"])
}

#[test]
fn what_is_not_there_is_named_with_what_there_is() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let node = &cluster.nodes[0];
    let nodes: &[&str] = &["there is no node n9", "there are: n1"];
    refused(node.cli(&["update", "show", "u7"])?, 1, &["there is no update u7", "there is no update at all yet"])?;
    refused(node.cli(&["package", "show", "z"])?, 1, &["there is no package z", "there is no package at all yet"])?;
    let file = text(&PackageSource::new("p", "1.0.0").file("m", "1", "").build(cluster.folder())?);
    node.cli(&["update", "submit", &file, "--node", "n1"])?.expect(0)?;
    let cases: [(&[&str], i32, &[&str]); 15] = [
        (&["node", "show", "n9"], 1, nodes),
        (&["node", "label", "n9", "rack=1"], 1, nodes),
        (&["regress", "--node", "n9"], 1, nodes),
        (&["update", "submit", &file, "--node", "n9"], 1, nodes),
        (&["update", "submit", &file, "--class", "edge"], 1, &["there is no class edge", "there is no class at all yet"]),
        (&["package", "show", "z@1.0.0"], 1, &["there is no package z@1.0.0", "there are: p@1.0.0"]),
        (&["package", "show", "p@9.0.0"], 1, &["there is no package p@9.0.0", "there are: p@1.0.0"]),
        (&["package", "show", "p@bad"], 2, &["\"p@bad\" is not valid", "use NAME or NAME@VERSION, such as billing"]),
        (
            &["update", "submit", "--package", "z@1.0.0", "--node", "n1"],
            1,
            &["there is no package z@1.0.0", "there are: p@1.0.0"],
        ),
        (&["update", "submit", "nope.tpkg", "--node", "n1"], 1, &["nope.tpkg cannot be opened: No such file or directory"]),
        (&["update", "show", "u7"], 1, &["there is no update u7", "there are: u1"]),
        (&["update", "cancel", "u7"], 1, &["there is no update u7", "there are: u1"]),
        (&["update", "decide", "u7", "--abort"], 1, &["there is no update u7", "there are: u1"]),
        (&["update", "show", "seven"], 2, &["\"seven\" is not valid", "use the letter u and a number, such as u12"]),
        (&["process", "logs", "x/y"], 1, &["there is no process \"x/y\"", "`tribune process list` shows those there are"]),
    ];
    for (args, code, said) in cases {
        refused(node.cli(args)?, code, said)?;
    }
    ensure!(node.json(&["update", "list"])?["count"] == 1, "nothing was submitted");
    Ok(())
}

#[test]
fn a_key_that_is_no_members_is_refused_and_so_is_one_that_is_no_key() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let folder = cluster.folder();
    init(&folder.join("other"), "other")?;
    let peer = cluster.nodes[0].address()?;
    let with = |key: &Path, args: &[&str]| tribune(&[args, &["--peer", &peer, "--key", &text(key)]].concat(), "");
    let stranger = folder.join("other/admin.key");
    let not_a_member =
        &["the peer refused this key: not a member of this cluster", "an admin lets a key in with `tribune admin add`"];
    for args in [&["node", "list"][..], &["token", "create"], &["class", "set", "edge", "--add", "n1"]] {
        refused(with(&stranger, args)?, 1, not_a_member)?;
    }
    refused(tribune(&["status", "--peer", &peer], "")?, 2, &["a peer was named, and no key", "--key"])?;
    refused(with(&folder.join("nope.key"), &["status"])?, 1, &["there is no key file", "nope.key", "tribune init"])?;
    let open = folder.join("open.key");
    fs::copy(&stranger, &open)?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644))?;
    refused(with(&open, &["status"])?, 1, &["open.key may be read or written by others (mode 0644)", "chmod 600"])?;
    let unfit = tribune(&["status", "--peer", "junk", "--key", &text(&stranger)], "")?;
    refused(unfit, 2, &["'--peer <ADDR>'", "\"junk\" is not valid", "such as /ip4/10.0.0.5/tcp/7400/p2p/"])?;
    ensure!(cluster.nodes[0].json(&["class", "list"])?["count"] == 0, "a stranger's order was carried out");
    Ok(())
}

#[test]
fn a_join_token_that_is_wrong_used_expired_or_for_another_is_refused_and_the_folder_can_join_later() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let make = "with `tribune token create`";
    let good = token(&cluster, &[])?;
    let turned: String = good.trim().chars().rev().collect();
    for wrong in ["wrong", &turned] {
        refused(join(&cluster, "late", "late", wrong)?, 1, &["the join token is wrong", make])?;
    }
    refused(join(&cluster, "late", "late", "\n")?, 1, &["the join token is empty", make])?;
    let short = token(&cluster, &["--valid", "1ms"])?;
    std::thread::sleep(std::time::Duration::from_millis(20));
    refused(join(&cluster, "late", "late", &short)?, 1, &["the join token expired", make])?;
    let zed = token(&cluster, &["--node", "zed"])?;
    refused(join(&cluster, "late", "late", &zed)?, 1, &["the join token is for node zed"])?;
    ensure!(node_count(&cluster)? == 1, "nobody was taken in");

    join(&cluster, "first", "first", &good)?.expect(0)?;
    refused(join(&cluster, "late", "late", &good)?, 1, &["the join token was used by node first", make])?;
    let unfit = cluster.nodes[0].cli(&["token", "create", "--valid", "1parsec"])?;
    refused(unfit, 2, &["'1parsec' for '--valid <TIME>'", "such as 10s"])?;
    for valid in ["0s", "31d"] {
        let unfit = cluster.nodes[0].cli(&["token", "create", "--valid", valid])?;
        refused(unfit, 1, &[&format!("a join token cannot be good for {valid}"), "between 1ms and 30d"])?;
    }
    ensure!(node_count(&cluster)? == 2, "one was taken in");

    join(&cluster, "zed", "zed", &zed)?.expect(0).context("the token is still good for whom it was made")?;
    join(&cluster, "late", "late", &token(&cluster, &[])?)?.expect(0).context("after all those refusals")?;
    Ok(())
}

#[test]
fn two_nodes_of_one_name_are_refused_and_the_token_stays_good() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let token = token(&cluster, &[])?;
    refused(join(&cluster, "second", "n1", &token)?, 1, &["there is a node n1 already", "choose another name"])?;
    ensure!(node_count(&cluster)? == 1, "nobody was taken in");
    join(&cluster, "second", "n2", &token)?.expect(0)?;
    Ok(())
}

#[test]
fn a_data_folder_of_another_cluster_is_left_as_it_was() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let other = cluster.folder().join("other");
    init(&other, "other")?;
    let before = contents(&other)?;
    let said = &["other is a node already (its cluster.json exists)", "use `tribune run`, or choose another data folder"];
    refused(made_anywhere(&["init", "--data", &text(&other), "--name", "again"], "")?, 1, said)?;
    let token = token(&cluster, &[])?;
    refused(join(&cluster, "other", "n2", &token)?, 1, said)?;
    ensure!(contents(&other)? == before, "the folder has changed");
    ensure!(node_count(&cluster)? == 1, "nobody was taken in");
    join(&cluster, "n2", "n2", &token)?.expect(0).context("the token is still good")?;

    // Parts of two nodes put together are told apart when it starts; the parts stay as they are.
    for part in ["cluster.json", "identity.key"] {
        let mixed = cluster.folder().join(format!("mixed-{part}"));
        init(&mixed, "mixed")?;
        fs::copy(other.join(part), mixed.join(part))?;
        let before = contents(&mixed)?;
        let ended = tribune(&["run", "--data", &text(&mixed)], "")?;
        let said = &[
            "holds parts of different nodes or clusters: cluster.json says that node",
            "put back the whole folder of one of them",
        ];
        refused(ended, 78, said)?;
        ensure!(before.iter().all(|(name, bytes)| fs::read(mixed.join(name)).is_ok_and(|now| now == *bytes)), "{part}: changed");
    }

    let nowhere = text(&cluster.folder().join("nowhere"));
    refused(tribune(&["run", "--data", &nowhere], "")?, 1, &["nowhere is no node", "`tribune init` or `tribune join`"])?;
    refused(tribune(&["status", "--data", &nowhere], "")?, 7, &["no node answers on", "start the node with `tribune run`"])
}

/// The port at which a node of this folder listens for this network.
fn port(data: &Path, network: &str) -> Result<u16> {
    let settings = fs::read_to_string(data.join("node.toml"))?;
    let line = settings.lines().find(|line| line.starts_with(&format!("{network} = "))).context("no address")?;
    let port = line.trim_end_matches('"').rsplit('/').next().context("no port")?;
    Ok(port.parse()?)
}

#[test]
fn a_port_in_use_ends_the_node_with_its_address_and_where_it_is_set() -> Result<()> {
    let folder = TempDir::new()?;
    for network in ["control", "data"] {
        let data: PathBuf = folder.path().join(network);
        init(&data, "n1")?;
        let port = port(&data, network)?;
        let taken = TcpListener::bind((loopback(), port))?;
        let address = format!("/ip4/{}/tcp/{port} is in use by another process", loopback());
        let setting = format!("it is set by `{network}` in ");
        let ended = tribune(&["run", "--data", &text(&data)], "")?.expect(78)?;
        for part in [&address, "stop that one, or choose another port", &setting, "node.toml", "no service runs: the node stops"]
        {
            ensure!(ended.stderr.contains(part), "{part:?} is not in\n{}", ended.stderr);
        }
        ensure!(ended.stderr.lines().count() < 10, "what matters is hidden among\n{}", ended.stderr);
        drop(taken);
    }
    Ok(())
}
