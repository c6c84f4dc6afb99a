//! The claims that Tribune makes, each shown on real node processes: what must change, and what must not.

mod changeover;
mod convergence;
mod discrepancies;
mod distribution;
mod ephemeral;
mod images;
mod packages;
mod signatures;
mod storage;
mod vetoes;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use tribune_tests::probe::{Entry, Said};
use tribune_tests::{Cluster, Node, PackageSource};

/// Submits a built package for these nodes at a node, as the admin, with these further arguments; gives the update's id.
fn submit(cluster: &Cluster, at: &Node, package: &str, nodes: &[&str], further: &[&str], code: i32) -> Result<String> {
    let targets: Vec<&str> = nodes.iter().flat_map(|node| ["--node", node]).collect();
    let args = [&["update", "submit", package, "-o", "json"], &targets[..], further].concat();
    let output = cluster.admin(at, &args)?.expect(code)?;
    let id = output.json()?["update"].as_str().map(str::to_owned);
    id.with_context(|| format!("no update in {}", output.stdout))
}

/// Builds and installs a package on these nodes.
fn install(cluster: &Cluster, source: &PackageSource, nodes: &[&str]) -> Result<String> {
    let file = source.build(cluster.folder())?;
    submit(cluster, &cluster.nodes[0], &file.display().to_string(), nodes, &[], 0)
}

/// The proposals of an update that a probe has heard.
fn proposals(log: &[Entry], update: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for entry in log {
        if let Said::Proposal { proposal } = &entry.said
            && proposal["update"] == update
        {
            found.push(proposal.clone());
        }
    }
    found
}

/// When a probe wrote the first entry that is so.
fn when(log: &[Entry], what: &str, is: impl Fn(&Said) -> bool) -> Result<u64> {
    let entry = log.iter().find(|entry| is(&entry.said));
    Ok(entry.with_context(|| format!("{what} is not in the log: {log:#?}"))?.at)
}

/// The signatures of the bytes of all files in a folder's tree, whatever their names. A file without bytes has none.
fn blobs(folder: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file()
                && let Ok(bytes) = fs::read(entry.path())
                && !bytes.is_empty()
            {
                found.insert(blake3::hash(&bytes).to_hex().to_string());
            }
        }
    }
    Ok(found)
}
