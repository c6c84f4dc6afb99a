//! Real software, as its makers publish it: Node.js in two versions, for two platforms, and a service that runs on it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tribune_tests::cli::tribune;
use tribune_tests::{Cluster, Node, NodeOptions, eventually};

const OLD: &str = "24.16.0";
const NEW: &str = "24.17.0";
/// How Linux names the architecture of a binary, as the wheels do, and the platform of its module.
const PLATFORMS: [(&str, &str); 2] = [("x86_64", "linux/amd64"), ("aarch64", "linux/arm64")];
const RUNNER: &str = "linux/arm64=qemu-aarch64-static -L /usr/aarch64-linux-gnu";

const SERVER: &str = "\
const { createServer } = require('node:http');

const { version, arch, env, pid } = process;
const server = createServer((request, response) => {
  response.setHeader('Connection', 'close');
  response.end(JSON.stringify({ version, arch, node: env.TRIBUNE_NODE, pid }));
});
server.listen({ fd: 3 }, () => console.log('listens on ' + server.address().port));
";

/// Where `tests/setup/wheels` puts what it fetches.
fn cache() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).context("no cache folder")?;
    Ok(cache.join("tribune/wheels"))
}

/// Builds the package of a version, of the binaries that `tests/setup/wheels` has fetched.
fn build(folder: &Path, version: &str) -> Result<PathBuf> {
    let cache = cache()?;
    let source = folder.join(format!("nodejs-{version}"));
    fs::create_dir_all(&source)?;
    fs::write(source.join("server.js"), SERVER)?;
    let mut text = format!(
        "[package]
name = \"nodejs\"
version = \"{version}\"

[[module]]
name = \"server.js\"
path = \"server.js\"
run = [\"node\", \"server.js\"]
depends-on = [\"node\"]
when-affected = \"restart\"
listen = [\"tcp://127.0.0.1:0\"]
ask = {{ how = \"auto\" }}
health = {{ settle = \"1s\" }}
"
    );
    for (arch, platform) in PLATFORMS {
        let binary = cache.join(format!("node-{version}-{arch}"));
        let copied = fs::copy(&binary, source.join(arch));
        copied.with_context(|| format!("{} is missing; tests/setup/wheels fetches it", binary.display()))?;
        text += &format!("\n[[module]]\nname = \"node\"\nplatform = \"{platform}\"\npath = \"{arch}\"\n");
    }
    let description = source.join("tribune.toml");
    fs::write(&description, text)?;
    let file = folder.join(format!("nodejs-{version}.tpkg"));
    let args = ["package", "build", "--manifest", &description.display().to_string(), "-o", &file.display().to_string()];
    tribune(&args, "")?.expect(0)?;
    Ok(file)
}

/// What the service on a node answers to a request.
fn ask(node: &Node) -> Result<Value> {
    let log = node.cli(&["process", "logs", "nodejs/server.js"])?.expect(0)?.stdout;
    let port = log.lines().rev().find_map(|line| line.split_once("listens on ")).context("it does not listen yet")?.1;
    let port = port.trim().parse().with_context(|| format!("no port: {port:?}"))?;
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP: {answer:?}"))?;
    Ok(serde_json::from_str(body)?)
}

/// What the program of a release says its version is. A wheel's own number need not be that of the Node.js in it.
fn runs(release: &str) -> Result<String> {
    let program = cache()?.join(format!("node-{release}-x86_64"));
    let said = std::process::Command::new(&program)
        .arg("--version")
        .output()
        .with_context(|| format!("running {}", program.display()))?;
    Ok(String::from_utf8(said.stdout)?.trim().to_owned())
}

/// Waits until the process that runs on a node answers, with its version, for its platform.
fn answers(node: &Node, version: &str) -> Result<()> {
    eventually(&format!("the service on {} answers with {version}", node.name), || {
        let pid = node.pid("nodejs/server.js")?.context("it does not run")?;
        let arch = if node.name == "n3" { "arm64" } else { "x64" };
        let expected = json!({ "version": version, "arch": arch, "node": node.name, "pid": pid });
        let answer = ask(node)?;
        ensure!(answer == expected, "{answer}, not {expected}");
        Ok(Some(()))
    })
}

/// Installs a package on all nodes at once, and asks each service.
fn install(cluster: &Cluster, file: &Path, version: &str) -> Result<()> {
    let targets = ["--node", "n1", "--node", "n2", "--node", "n3", "--strategy", "together"];
    cluster.nodes[0].cli(&[&["update", "submit", &file.display().to_string()], &targets[..]].concat())?.expect(0)?;
    cluster.nodes.iter().try_for_each(|node| answers(node, version))
}

#[test]
fn node_js_is_installed_updated_and_taken_back_on_nodes_of_two_platforms() -> Result<()> {
    let begun = Instant::now();
    let step = |what: &str| eprintln!("{:5.1} s: {what}", begun.elapsed().as_secs_f32());
    let arm = NodeOptions::with(&["--platform", "linux/arm64", "--runner", RUNNER]);
    let mut cluster = Cluster::start_with(&[NodeOptions::default(), NodeOptions::default(), arm])?;
    step("three nodes");
    let (old_runs, new_runs) = (runs(OLD)?, runs(NEW)?);
    ensure!(old_runs != new_runs, "both releases run {old_runs}");
    let old = build(cluster.folder(), OLD)?;
    let new = build(cluster.folder(), NEW)?;
    step("two packages built");
    install(&cluster, &old, &old_runs)?;
    step("the old version runs everywhere");
    install(&cluster, &new, &new_runs)?;
    step("the new version runs everywhere");

    // Alone, without a master, the last node still has what it had before.
    cluster.node_mut("n1").kill_all()?;
    cluster.node_mut("n2").kill_all()?;
    let alone = cluster.node("n3");
    answers(alone, &new_runs)?;
    alone.cli(&["local", "regress"])?.expect(0)?;
    answers(alone, &old_runs)?;
    let local = alone.json(&["local", "show"])?;
    ensure!(local["current"]["packages"]["nodejs"] == OLD, "{local}");
    step("the node that is left runs the old version");
    Ok(())
}
