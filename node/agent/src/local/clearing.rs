//! Clearing away: what no generation that is kept refers to is removed, generations first.

use std::collections::BTreeSet;
use std::path::Path;

use tribune_p2p::blobs::BlobError;
use tribune_planted::{Bug, planted};
use tribune_raft_store::model::{PackageId, Signature};

use super::generations::Disk;
use super::{KEPT_GENERATIONS, LocalError, LocalStorage, files, twin};

/// What the generations that stay refer to.
#[derive(Debug, Default)]
struct Needed {
    modules: BTreeSet<Signature>,
    manifests: BTreeSet<PackageId>,
}

impl LocalStorage {
    /// Clears away, while nobody else changes generations.
    pub(super) async fn clear_alone(&self, keep: BTreeSet<u64>, wanted: BTreeSet<Signature>) -> Result<(), LocalError> {
        let needed = self
            .reading(move |disk| {
                let (needed, spare) = disk.sort_out(&keep)?;
                for number in spare {
                    disk.remove_generation(number)?;
                }
                let Needed { mut modules, manifests } = needed;
                modules.extend(wanted);
                disk.clear_manifests(&manifests)?;
                disk.clear_folders(&modules)?;
                Ok(modules)
            })
            .await?;
        for (hash, _) in self.blobs().list().await? {
            if !needed.contains(&Signature::new(*hash.as_bytes())) {
                match self.blobs().remove(&hash).await {
                    // It is being fetched.
                    Err(BlobError::Busy(_)) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }
}

impl Disk {
    /// What the generations that stay need, and the numbers of the others.
    fn sort_out(&self, keep: &BTreeSet<u64>) -> Result<(Needed, Vec<u64>), LocalError> {
        let current = self.current()?;
        let numbers = self.numbers()?;
        let mut stay: BTreeSet<u64> =
            numbers.iter().rev().copied().filter(|number| self.was_current(*number)).take(KEPT_GENERATIONS).collect();
        stay.extend(keep);
        if current != 0 {
            stay.insert(current);
            stay.extend(self.read(current)?.generation.replaced);
        }
        let (stay, spare): (Vec<u64>, Vec<u64>) = numbers.into_iter().partition(|number| stay.contains(number));
        let mut needed = Needed::default();
        for number in stay {
            let generation = self.read(number)?.generation;
            if number == current || !planted(Bug::RegressFetches) {
                needed.modules.extend(generation.modules.into_values());
            }
            needed.manifests.extend(generation.packages.into_values());
        }
        Ok((needed, spare))
    }

    fn clear_manifests(&self, needed: &BTreeSet<PackageId>) -> Result<(), LocalError> {
        for_each_spare(&self.manifests(), |name| name.strip_suffix(".json")?.parse().ok(), needed, twin::remove)
    }

    fn clear_folders(&self, needed: &BTreeSet<Signature>) -> Result<(), LocalError> {
        for_each_spare(&self.folders(), |name| name.parse().ok(), needed, files::remove_folder)
    }
}

/// Removes what in a folder has the name of something that is not needed.
fn for_each_spare<T: Ord>(
    folder: &Path,
    what: impl Fn(&str) -> Option<T>,
    needed: &BTreeSet<T>,
    remove: impl Fn(&Path) -> Result<(), LocalError>,
) -> Result<(), LocalError> {
    for name in files::names(folder)? {
        if what(&name).is_some_and(|item| !needed.contains(&item)) {
            remove(&folder.join(name))?;
        }
    }
    Ok(())
}
