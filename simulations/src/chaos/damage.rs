//! Bits that are turned on a node's disk.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tribune_raft_store::model::Step;

use super::{Chaos, name};
use crate::cluster::Cluster;
use crate::seen::Seen;

impl Chaos {
    /// Turns a bit in a blob; in one that an open update is about to run there, if the node has one. False if it has no blob at all.
    pub(super) fn turn_a_bit(&mut self, cluster: &Cluster<'_>, seen: &Seen, node: usize, local: bool) -> bool {
        let machine = &cluster.places[node].machine;
        let mut blobs = Vec::new();
        find_blobs(&machine.folder.join(if local { "local/modules" } else { "packages" }), &mut blobs);
        blobs.sort();
        let wanted = coming(seen, &machine.name);
        let named = |blob: &&PathBuf| {
            let name = blob.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| wanted.contains(name))
        };
        let about: Vec<PathBuf> = blobs.iter().filter(named).cloned().collect();
        let from = if about.is_empty() { blobs } else { about };
        let Some(blob) = from.get(usize::from(rand::random::<u16>()) % from.len().max(1)) else { return false };
        let Ok(mut bytes) = fs::read(blob) else { return false };
        if let Some(byte) = bytes.first_mut() {
            *byte ^= 1;
        }
        let written = fs::set_permissions(blob, fs::Permissions::from_mode(0o644)).and_then(|()| fs::write(blob, &bytes));
        machine.lock().damaged.insert(blob.clone(), seen.at);
        self.lost = true;
        self.trace.note(&name(node), format!("a bit of {} is turned: {}", blob.display(), written.is_ok()));
        true
    }
}

/// What open updates that have not staged on a node yet will run there.
fn coming(seen: &Seen, node: &str) -> BTreeSet<String> {
    let updates = seen.updates();
    let open = updates.values().filter(|update| !update.phase.ended());
    let plans = open.filter_map(|update| {
        let (name, progress) = update.nodes.iter().find(|(name, _)| name.as_str() == node)?;
        update.plan.as_ref()?.nodes.get(name).filter(|_| progress.step < Step::Staged)
    });
    plans.flat_map(|plan| plan.modules.values().map(|module| module.signature.to_string())).collect()
}

fn find_blobs(folder: &Path, blobs: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            find_blobs(&path, blobs);
        } else if path.file_name().is_some_and(|name| name.len() == 64) {
            blobs.push(path);
        }
    }
}
