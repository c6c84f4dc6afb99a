//! What a signature is, and what becomes of bytes that do not have it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use futures::future::BoxFuture;
use serde_json::Value;
use tribune_p2p::blobs::{BlobError, BlobReader, BlobStore};
use tribune_p2p::transfer::{BlobSource, serve_blobs};
use tribune_p2p::{AllowList, Hash, Identity, Network, NetworkConfig};
use tribune_tests::probe::Said;
use tribune_tests::{Cluster, Node, NodeOptions, PackageSource, eventually};

use crate::{blobs, install, submit};

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

/// A package of one process, whose module is longer than what is written to a disk at a time.
fn long(version: &str) -> PackageSource {
    PackageSource::new("p", version).probe("m", &format!("{version} {}", "x".repeat(600_000)), "")
}

/// Three voters, which hold every package, and `n4`, which holds none.
fn voters_and_one_more() -> Result<Cluster> {
    let mut options = vec![NodeOptions::default(); 3];
    options.push(NodeOptions::with(&["--voter", "never"]));
    Cluster::start_with(&options)
}

/// Publishes a version, waits until all voters hold it, and gives the signature of its module.
fn publish(cluster: &Cluster, version: &str) -> Result<String> {
    let file = long(version).build(cluster.folder())?.display().to_string();
    cluster.nodes[0].cli(&["package", "publish", &file])?.expect(0)?;
    let signature = blake3::hash(&fs::read(cluster.folder().join(format!("p-{version}")).join("m-0"))?).to_hex().to_string();
    eventually("every voter holds the package", || {
        Ok(cluster.nodes[..3].iter().all(|node| held(node, &signature).is_file()).then_some(()))
    })?;
    ensure!(!held(cluster.node("n4"), &signature).exists(), "n4 is no voter, and holds the package");
    Ok(signature)
}

/// Where a node that holds packages has a module.
fn held(node: &Node, signature: &str) -> PathBuf {
    node.data.join("packages").join(&signature[..2]).join(signature)
}

/// Flips the last bit of a module in what a node holds, and gives the signature that its bytes then have.
fn flip(node: &Node, signature: &str) -> Result<String> {
    let path = held(node, signature);
    let mut bytes = fs::read(&path)?;
    *bytes.last_mut().context("the module is empty")? ^= 1;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    fs::write(&path, &bytes)?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

#[test]
fn claim_02_a_node_gets_the_right_bytes_although_one_bit_is_flipped_where_it_asks_first() -> Result<()> {
    let cluster = voters_and_one_more()?;
    let signature = publish(&cluster, "1.0.0")?;
    // The master is asked first; it is a node of the update as well, so its own copy is of no use to itself either.
    let master = cluster.master()?;
    let wrong = flip(cluster.node(&master), &signature)?;
    let args = ["update", "submit", "--package", "p@1.0.0", "--node", "n4", "--node", &master, "--strategy", "together"];
    cluster.nodes[0].cli(&args)?.expect(0)?;
    for node in [cluster.node("n4"), cluster.node(&master)] {
        let have = blobs(&node.data.join("local"))?;
        ensure!(have.contains(&signature) && !have.contains(&wrong), "{} has {have:?}", node.name);
        ensure!(node.pid("p/m")?.is_some(), "p/m runs on {}", node.name);
    }
    let put_aside = cluster.node(&master).data.join("packages/corrupt").join(&signature);
    ensure!(put_aside.is_file(), "the master was not asked, or goes on to serve the flipped bit");
    Ok(())
}

#[test]
fn claim_02_a_bit_flipped_wherever_a_module_is_held_is_refused_with_its_name_and_nothing_of_it_runs() -> Result<()> {
    let cluster = voters_and_one_more()?;
    let master = cluster.master()?;
    let targets = [cluster.node("n4"), cluster.node(&master)];
    let look = |node: &Node| -> Result<(Option<u32>, Value, _)> {
        let local = node.json(&["local", "show"])?;
        Ok((node.pid("p/m")?, local["current"].clone(), blobs(&node.data.join("local/modules"))?))
    };
    install(&cluster, &long("1.0.0"), &targets.map(|node| node.name.as_str()))?;
    let before = targets.map(look);
    let signature = publish(&cluster, "2.0.0")?;
    for node in &cluster.nodes[..3] {
        flip(node, &signature)?;
    }

    let names = targets.map(|node| node.name.as_str());
    let update = submit(&cluster, &cluster.nodes[0], "--package=p@2.0.0", &names, &[], 6)?;
    let shown = cluster.nodes[0].json(&["update", "show", &update])?;
    let why = shown["reason"].as_str().context("it does not say why")?;
    ensure!(why.starts_with("p/m could not be fetched") && why.contains("its copy is damaged"), "{why}");
    let refused = fs::read_to_string(cluster.node("n4").data.with_extension("log"))?;
    let refused = refused.lines().find(|line| line.contains("p/m could not be fetched")).context("n4 has not logged why")?;
    ensure!(refused.contains("its copy is damaged"), "{refused}");
    for (node, before) in targets.into_iter().zip(before) {
        let (before, now) = (before?, look(node)?);
        ensure!(before.0.is_some() && now == before, "{} has changed: {before:?}, then {now:?}", node.name);
        let started =
            node.log("p/m").into_iter().any(|entry| matches!(entry.said, Said::Started { version, .. } if version == "2.0.0"));
        ensure!(!started, "version 2.0.0 was started on {}", node.name);
    }

    // Published again, it is sound again.
    publish(&cluster, "2.0.0")?;
    submit(&cluster, &cluster.nodes[0], "--package=p@2.0.0", &names, &[], 0)?;
    for node in targets {
        ensure!(blobs(&node.data.join("local/modules"))?.contains(&signature), "{} has not got the module", node.name);
    }
    Ok(())
}

#[test]
fn claim_02_a_module_whose_bytes_change_while_it_runs_is_not_run_again_until_it_is_sound() -> Result<()> {
    let cluster = voters_and_one_more()?;
    let node = cluster.node("n4");
    install(&cluster, &long("1.0.0"), &["n4"])?;
    let before = node.pid("p/m")?.context("p/m does not run")?;
    let signature = blake3::hash(&fs::read(cluster.folder().join("p-1.0.0").join("m-0"))?).to_hex().to_string();
    let module = node.data.join("local/modules").join(&signature[..2]).join(&signature);
    let mut bytes = fs::read(&module)?;
    let sound = bytes.clone();
    let last = bytes.last_mut().context("an empty module")?;
    *last ^= 1;
    fs::set_permissions(&module, fs::Permissions::from_mode(0o755))?;
    fs::write(&module, &bytes)?;

    kill(before)?;
    let after = eventually("p/m runs again", || Ok(node.pid("p/m")?.filter(|pid| *pid != before)))?;
    ensure!(fs::read(&module)? == sound, "pid {after} runs other bytes");
    let log = fs::read_to_string(node.data.with_extension("log"))?;
    ensure!(log.contains("has changed on disk") && log.contains("the damaged modules were fetched again"), "{log}");
    Ok(())
}

fn kill(pid: u32) -> Result<()> {
    let killed = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status()?;
    ensure!(killed.success(), "pid {pid} could not be killed");
    Ok(())
}

#[test]
fn claim_19_a_bad_signature_cannot_be_forced() -> Result<()> {
    let cluster = voters_and_one_more()?;
    let node = cluster.node("n4");
    install(&cluster, &long("1.0.0"), &["n4"])?;
    let (pid, local) = (node.pid("p/m")?, node.json(&["local", "show"])?["current"].take());
    let signature = publish(&cluster, "2.0.0")?;
    let wrong = cluster.nodes[..3].iter().map(|node| flip(node, &signature)).collect::<Result<Vec<_>>>()?;

    node.tell("p/m", "veto I am busy")?;
    let update = submit(&cluster, &cluster.nodes[0], "--package=p@2.0.0", &["n4"], &[], 3)?;
    // By the decision the process is overruled; what the bytes are is not for a user to decide.
    let seen = node.ballots(&update)?;
    let force = ["update", "decide", &update, "--force", "--seen", &seen, "--why", "the hole is worse", "--watch"];
    cluster.admin(&cluster.nodes[1], &force)?.expect(6)?;
    let overruled =
        node.log("p/m").into_iter().any(|entry| matches!(entry.said, Said::Overruled { update: u, .. } if u == update));
    ensure!(overruled, "the veto was not gone past: {:#?}", node.log("p/m"));
    let shown = cluster.nodes[0].json(&["update", "show", &update])?;
    let why = shown["reason"].as_str().context("it does not say why")?;
    ensure!(shown["outcome"] == "aborted" && why.starts_with("p/m could not be fetched") && why.contains("damaged"), "{shown}");
    ensure!(pid.is_some() && node.pid("p/m")? == pid, "p/m was replaced");
    ensure!(node.json(&["local", "show"])?["current"] == local, "another generation is current");
    let have = blobs(&node.data.join("local"))?;
    ensure!(!have.contains(&signature) && wrong.iter().all(|wrong| !have.contains(wrong)), "n4 has {have:?}");
    Ok(())
}

/// A peer that sends these bytes, whatever it is asked for, and says that they are sound.
struct Liar {
    lies: BlobStore,
    lie: Hash,
}

impl BlobSource for Liar {
    fn open(&self, _: Hash, offset: u64) -> BoxFuture<'_, Result<BlobReader, BlobError>> {
        Box::pin(self.lies.read_verified(&self.lie, offset))
    }

    fn damaged(&self, _: Hash) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// In the place of a node that is down, with its key and at its address: a peer that sends `lie` to the others.
async fn lie_as(node: &Node, shown: &Value, lie: &[u8], to: &[Value]) -> Result<Network> {
    let parsed = |at: &Value| at.as_str().context("not in the node's document").map(str::to_owned);
    let identity = Identity::load(&node.data.join("identity.key"))?;
    let address = parsed(&shown["data_addresses"][0])?.parse()?;
    let network = Network::start(&identity, NetworkConfig::new("data", [address])).await?;
    let mut list = AllowList::new();
    for peer in to {
        list.add_member(parsed(&peer["peer"])?.parse()?, [parsed(&peer["data_addresses"][0])?.parse()?]);
    }
    network.set_allowed(list);
    let lies = BlobStore::open(node.data.join("lies")).await?;
    let lie = lies.import(lie, u64::MAX, None).await?.signature;
    serve_blobs(&network, Liar { lies, lie })?;
    Ok(network)
}

#[test]
fn claim_02_a_bit_flipped_by_a_peer_that_lies_is_refused_with_the_modules_name_and_the_peers() -> Result<()> {
    let mut cluster = voters_and_one_more()?;
    let signature = publish(&cluster, "1.0.0")?;
    let master = cluster.master()?;
    let (liar, honest) = if master == "n2" { ("n3", ["n1", "n2"]) } else { ("n2", ["n1", "n3"]) };
    let show = |name: &str| cluster.nodes[0].json(&["node", "show", name]);
    let (shown, others) = (show(liar)?, [show(honest[0])?, show(honest[1])?, show("n4")?]);
    let truth = fs::read(held(cluster.node(liar), &signature))?;
    let mut lie = truth.clone();
    lie[truth.len() / 3] ^= 1;
    cluster.node_mut(liar).kill_all()?;
    let runtime = tokio::runtime::Runtime::new()?;
    // The system may take a moment to give the port of a process that was killed away again.
    let network = eventually("a liar in the place of a node", || {
        runtime.block_on(lie_as(cluster.node(liar), &shown, &lie, &others)).map(Some)
    })?;

    // The liar is the only one that has the module: nobody else can be asked.
    for name in honest {
        fs::remove_file(held(cluster.node(name), &signature))?;
    }
    let update = submit(&cluster, cluster.node(&master), "--package=p@1.0.0", &["n4"], &[], 6)?;
    let shown_update = cluster.node(&master).json(&["update", "show", &update])?;
    let why = shown_update["reason"].as_str().context("it does not say why")?;
    let peer = shown["peer"].as_str().context("no identity")?;
    ensure!(why.starts_with("p/m could not be fetched") && why.contains("wrong bytes") && why.contains(peer), "{why}");
    let wrong = blake3::hash(&lie).to_hex().to_string();
    for name in honest.into_iter().chain(["n4"]) {
        let have = blobs(&cluster.node(name).data)?;
        ensure!(!have.contains(&wrong) && !have.contains(&signature), "{name} has {have:?}");
    }
    ensure!(cluster.node("n4").log("p/m").is_empty(), "something of it has run");

    // One that has the right bytes is enough, although the liar lies on.
    fs::write(held(cluster.node(&master), &signature), &truth)?;
    submit(&cluster, cluster.node(&master), "--package=p@1.0.0", &["n4"], &[], 0)?;
    ensure!(blobs(&cluster.node("n4").data.join("local"))?.contains(&signature), "n4 has not got the module");
    runtime.block_on(network.shutdown());
    Ok(())
}
