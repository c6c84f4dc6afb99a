//! What packages hold, and how users hand them in.

use std::fs;
use std::io::{self, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tribune_tests::address::loopback;
use tribune_tests::cli::{program, tribune};
use tribune_tests::wait::LIMIT;
use tribune_tests::{Cluster, PackageSource, eventually};

use crate::images::image;
use crate::{blobs, submit};

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
    for (number, peer) in cluster.nodes.iter().enumerate() {
        let version = format!("1.{number}.0");
        let source = PackageSource::new("p", &version).probe("m", &version, "");
        let image = image(&cluster, &peer.name, "[nodes]\nn2 = [\"p\"]\n", &[source])?;
        let published = || -> Result<Value> { Ok(peer.json(&["package", "list"])?["count"].take()) };

        // Half of it is refused, and leaves nothing behind.
        let half = cluster.folder().join("half.timg");
        let bytes = fs::read(&image)?;
        fs::write(&half, bytes.get(..bytes.len() / 2).context("an image is longer")?)?;
        cluster.admin(peer, &["package", "publish", &half.display().to_string()])?.expect(1)?;
        ensure!(published()? == number, "half an image was published by {}", peer.name);

        cluster.admin(peer, &["update", "submit", &image])?.expect(0)?;
        ensure!(published()? == number + 1, "the image was published by {}", peer.name);
        ensure!(peer.json(&["node", "show", "n2"])?["packages"]["p"] == version, "it is where the image says");
        ensure!(cluster.node("n2").pid("p/m")?.is_some(), "it runs there");
    }
    Ok(())
}

/// A way to `target` that lets one connection through, and so many bytes on it; says so then, and lets nothing more through until
/// the sender that it gives is dropped, when it breaks the connection. Gives its port.
fn way_that_ends_after(bytes: u64, target: String) -> Result<(u16, Receiver<()>, Sender<()>)> {
    let listener = TcpListener::bind((loopback(), 0))?;
    let port = listener.local_addr()?.port();
    let (through, heard) = channel();
    let (end, ended) = channel::<()>();
    thread::spawn(move || -> io::Result<()> {
        let (near, _) = listener.accept()?;
        let far = TcpStream::connect(target)?;
        let (mut from, mut to) = (far.try_clone()?, near.try_clone()?);
        thread::spawn(move || io::copy(&mut from, &mut to));
        if io::copy(&mut (&near).take(bytes), &mut &far)? < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Whoever waits for either may have given up.
        let _ = through.send(());
        let _ = ended.recv();
        far.shutdown(Shutdown::Both)?;
        near.shutdown(Shutdown::Both)
    });
    Ok((port, heard, end))
}

#[test]
fn claim_20_an_image_that_is_interrupted_half_way_leaves_nothing_behind_and_can_be_handed_in_again() -> Result<()> {
    const SIZE: usize = 8 << 20;
    let cluster = Cluster::start(3)?;
    let at = cluster.not_master()?;
    let file = PackageSource::new("p", "1.0.0").probe("m", &"x".repeat(SIZE), "").build(cluster.folder())?.display().to_string();
    let stores = || cluster.nodes.iter().map(|node| blobs(&node.data.join("packages"))).collect::<Result<Vec<_>>>();
    let before = stores()?;

    let address = at.address()?;
    let port = address.split('/').nth(4).context("no port in the address")?;
    let (narrow, half, end) = way_that_ends_after(SIZE as u64 / 2, format!("{}:{port}", loopback()))?;
    let peer = address.replacen(&format!("/tcp/{port}/"), &format!("/tcp/{narrow}/"), 1);
    let key = cluster.nodes[0].data.join("admin.key").display().to_string();
    let mut publish = Command::new(program("tribune"))
        .args(["package", "publish", &file, "--peer", &peer, "--key", &key])
        .env_remove("TRIBUNE_DATA")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    half.recv_timeout(LIMIT).context("the file did not come half way")?;
    eventually("some of it is on a disk", || Ok((stores()? != before).then_some(())))?;
    publish.kill()?;
    publish.wait()?;
    drop(end);
    eventually("nothing of it is left", || Ok((stores()? == before).then_some(())))?;
    ensure!(at.json(&["package", "list"])?["count"] == 0, "half a file was published");

    submit(&cluster, at, &file, &["n2"], &[], 0)?;
    ensure!(cluster.node("n2").pid("p/m")?.is_some(), "handed in again, it runs");
    Ok(())
}
