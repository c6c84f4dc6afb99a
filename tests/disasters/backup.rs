//! One file from which a cluster is made again, beside what is left of the old one.

use std::os::unix::fs::PermissionsExt;

use tribune_tests::address::anywhere;

use super::*;

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Makes a node from a backup in this folder, on ports of its own.
fn restore(file: &Path, data: &Path, name: &str, key: &Path, further: &[&str]) -> Result<Output> {
    let (file, data, key, any) = (text(file), text(data), text(key), anywhere());
    let args = ["restore", &file, "--data", &data, "--name", name, "--key", &key, "-o", "json"];
    tribune(&[&args[..], &["--control", &any, "--data-address", &any], further].concat(), "")
}

#[test]
fn a_backup_restored_on_a_new_machine_fences_the_survivors_of_the_old_cluster_and_they_follow_it() -> Result<()> {
    let mut cluster = Cluster::start(4)?;
    let key = admin_key(&cluster)?;
    voters(&cluster.nodes[0], &["n1", "n2", "n3"])?;
    install(&key, &cluster.nodes[0], &package(cluster.folder(), "1.0.0")?, &["n1", "n2", "n4"])?;
    let file = cluster.folder().join("cluster.backup");
    // A node that joined may not do it by its own socket, an admin may through any node.
    let refused = cluster.node("n2").cli(&["backup", &text(&file)])?.expect(1)?.stderr;
    ensure!(refused.contains("a backup needs admin") && !file.exists(), "{refused}");
    let at = cluster.not_master()?;
    let made = admin(&key, at, &["backup", &text(&file), "-o", "json"])?.expect(0)?.json()?;
    ensure!(made["modules"] == 1 && made["incomplete"] == serde_json::json!([]) && made["epoch"] == 0, "{made}");
    ensure!(fs::metadata(&file)?.len() == made["size"].as_u64().context("no size")?);
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o077 == 0, "others can read it");
    let again = admin(&key, at, &["backup", &text(&file)])?.expect(1)?.stderr;
    ensure!(again.contains("exists already"), "{again}");
    admin(&key, at, &["node", "label", "n4", "later=yes"])?.expect(0)?;

    // The machine n1 is lost, the others go on: a majority is there.
    lose(cluster.node_mut("n1"))?;
    eventually("the others go on", || Ok((cluster.master()? != "n1").then_some(())))?;
    admin(&key, cluster.node("n2"), &["node", "label", "n4", "old=yes"])?.expect(0)?;
    let data = cluster.folder().join("anew");
    let restored = restore(&file, &data, "n1", &key, &[])?.expect(0)?.json()?;
    ensure!(restored["epoch"] == 1 && restored["took_the_place_of_another"] == true, "{restored}");
    let node = cluster.node_mut("n1");
    node.data = data;
    node.run()?;
    let at = cluster.node("n1");
    connected(at, &["n1", "n2", "n3", "n4"])?;
    for node in &cluster.nodes {
        eventually(&format!("{} follows", node.name), || Ok((node.json(&["status"])?["master"] == "n1").then_some(())))?;
        let n4 = node.json(&["node", "show", "n4"])?;
        ensure!(
            n4["desired"]["later"].is_null() && n4["desired"]["old"].is_null(),
            "{} has what came after the backup",
            node.name
        );
    }
    // It has nothing installed, and comes to what it should have; what ran on the others runs.
    eventually("p runs on n1 again", || cluster.node("n1").pid("p/m"))?;
    ensure!(cluster.node("n2").pid("p/m")?.is_some());
    three_voters(at, "n1")?;
    install(&key, at, &package(cluster.folder(), "2.0.0")?, &["n2", "n3", "n4"])?;
    ensure!(events(at, "cluster_recovered")? == 1);
    Ok(())
}

#[test]
fn a_stopped_node_is_backed_up_and_put_back_only_when_that_is_said() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let key = admin_key(&cluster)?;
    install(&key, &cluster.nodes[0], &package(cluster.folder(), "1.0.0")?, &["n1"])?;
    let file = cluster.folder().join("cluster.backup");
    cluster.nodes[0].stop()?;
    let made = cluster.nodes[0].cli(&["backup", &text(&file), "-o", "json"])?.expect(0)?.json()?;
    ensure!(made["modules"] == 1, "{made}");
    cluster.nodes[0].run()?;
    cluster.nodes[0].cli(&["node", "label", "n1", "later=yes"])?.expect(0)?;
    cluster.nodes[0].stop()?;

    let data = cluster.nodes[0].data.clone();
    let other = restore(&file, &data, "n7", &key, &[])?.expect(1)?.stderr;
    ensure!(other.contains("the backup has no node n7; it has n1"), "{other}");
    let kept = restore(&file, &data, "n1", &key, &[])?.expect(1)?.stderr;
    ensure!(kept.contains("has a Raft store") && kept.contains("--replace"), "{kept}");
    let restored = restore(&file, &data, "n1", &key, &["--replace"])?.expect(0)?.json()?;
    ensure!(restored["took_the_place_of_another"] == false && restored["epoch"] == 1, "{restored}");
    cluster.nodes[0].run()?;
    let at = &cluster.nodes[0];
    eventually("it is the master", || Ok((at.cli(&["node", "list"])?.code == 0).then_some(())))?;
    ensure!(at.json(&["node", "show", "n1"])?["desired"]["later"].is_null());
    eventually("p runs", || at.pid("p/m"))?;
    install(&key, at, &package(cluster.folder(), "2.0.0")?, &["n1"])?;
    Ok(())
}

#[test]
fn a_damaged_backup_is_refused_and_nothing_is_changed() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let key = admin_key(&cluster)?;
    install(&key, &cluster.nodes[0], &package(cluster.folder(), "1.0.0")?, &["n1"])?;
    let file = cluster.folder().join("cluster.backup");
    cluster.nodes[0].cli(&["backup", &text(&file)])?.expect(0)?;
    cluster.nodes[0].stop()?;
    let whole = fs::read(&file)?;
    let data = cluster.nodes[0].data.clone();
    let before = contents(&data)?;
    let damaged = cluster.folder().join("damaged.backup");
    let anew = cluster.folder().join("anew");
    for place in [0, 9, 200, whole.len() / 2, whole.len() - 40, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        fs::write(&damaged, bytes)?;
        for data in [&data, &anew] {
            let refused = restore(&damaged, data, "n1", &key, &["--replace"])?.expect(1)?.stderr;
            ensure!(refused.contains("damaged.backup is refused"), "byte {place}: {refused}");
        }
    }
    fs::write(&damaged, &whole[..whole.len() - 1])?;
    let refused = restore(&damaged, &data, "n1", &key, &["--replace"])?.expect(1)?.stderr;
    ensure!(refused.contains("is cut short"), "{refused}");
    ensure!(!anew.exists(), "a folder was made");
    ensure!(contents(&data)? == before, "something was changed");
    cluster.nodes[0].run()?;
    eventually("it is the master", || Ok((cluster.nodes[0].cli(&["node", "list"])?.code == 0).then_some(())))
}

/// Every file in a folder, with the BLAKE3 of its bytes.
fn contents(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(contents(&entry.path())?);
        } else if entry.file_type()?.is_file() {
            found.push((entry.path(), blake3::hash(&fs::read(entry.path())?).to_hex().to_string()));
        }
    }
    found.sort();
    Ok(found)
}
