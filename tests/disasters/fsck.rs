//! What a disk has turned is found before anybody goes by it, and nothing is touched.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn turn_a_bit(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).with_context(|| format!("{} is empty", path.display()))? ^= 1;
    put(path, &bytes)
}

/// Writes other bytes into a file, which keeps its mode.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let mode = fs::metadata(path)?.permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))?;
    Ok(fs::set_permissions(path, mode)?)
}

/// The part and place of each thing that was found.
fn found(node: &Node, code: i32) -> Result<Vec<(String, String)>> {
    let found = node.cli(&["fsck", "-o", "json"])?.expect(code)?.json()?;
    let findings = found["findings"].as_array().context("no findings")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    ensure!(findings.iter().all(|finding| !text(&finding["todo"]).is_empty()), "{found}");
    Ok(findings.iter().map(|finding| (text(&finding["part"]), text(&finding["place"]))).collect())
}

#[test]
fn a_turned_bit_in_each_kind_of_store_is_found_and_named_on_a_node_that_runs_and_on_one_that_does_not() -> Result<()> {
    let mut cluster = Cluster::start(1)?;
    let key = admin_key(&cluster)?;
    install(&key, &cluster.nodes[0], &package(cluster.folder(), "1.0.0")?, &["n1"])?;
    ensure!(found(&cluster.nodes[0], 0)?.is_empty(), "a sound node that runs");
    cluster.nodes[0].stop()?;
    let (node, data) = (&cluster.nodes[0], cluster.nodes[0].data.clone());
    ensure!(found(node, 0)?.is_empty(), "a sound node that does not");

    let module = blake3::hash(&fs::read(cluster.folder().join("p-1.0.0/m-0"))?).to_hex().to_string();
    let blob = |store: &str| data.join(store).join(&module[..2]).join(&module);
    let generation = data.join("local/generations/1/generation.json");
    let raft = fs::read_dir(data.join("raft/db"))?
        .map(|file| Ok(file?.path()))
        .collect::<Result<Vec<PathBuf>>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "log" || ending == "sst"))
        .max_by_key(|path| fs::metadata(path).map(|file| file.len()).unwrap_or(0))
        .context("no file of RocksDB")?;
    let db = data.join("raft/db");
    for (damaged, part, place) in [
        (blob("packages"), "package_store", blob("packages")),
        (blob("local/modules"), "local_storage", blob("local/modules")),
        (generation.clone(), "local_storage", generation),
        (data.join("local/current"), "local_storage", data.join("local/current")),
        (raft, "raft_store", db),
        (data.join("raft/raft-id"), "raft_store", data.join("raft/raft-id")),
        (data.join("identity.key"), "node_files", data.join("identity.key")),
    ] {
        let whole = fs::read(&damaged)?;
        turn_a_bit(&damaged)?;
        let turned = fs::read(&damaged)?;
        let found = found(node, 4).with_context(|| format!("in {}", damaged.display()))?;
        ensure!(found.contains(&(part.to_owned(), place.display().to_string())), "{}: {found:?}", damaged.display());
        ensure!(fs::read(&damaged)? == turned, "{} was changed", damaged.display());
        put(&damaged, &whole)?;
    }
    ensure!(found(node, 0)?.is_empty(), "all is put back");

    // On one that runs, what nobody has come across yet.
    cluster.nodes[0].run()?;
    let node = &cluster.nodes[0];
    eventually("p runs", || node.pid("p/m"))?;
    turn_a_bit(&blob("packages"))?;
    let said = node.cli(&["fsck"])?.expect(4)?.stdout;
    ensure!(said.contains(&blob("packages").display().to_string()) && said.contains("publish the package again"), "{said}");
    Ok(())
}
