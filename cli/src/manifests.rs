//! Manifests as answers carry them: verbatim, and read here, so that nothing of them is lost on the way.

use std::collections::BTreeMap;

use tribune_messages::api::PackageInfo;
use tribune_raft_store::model::{Manifest, PackageId};

use crate::names::Names;
use crate::problem::{Done, Problem};

/// Manifests by package id.
#[derive(Debug, Clone, Default)]
pub struct Manifests(BTreeMap<PackageId, Manifest>);

impl Manifests {
    /// Those of packages in the store.
    ///
    /// # Errors
    /// When one cannot be read: the cluster is newer than this program.
    pub fn of_store(packages: &[PackageInfo]) -> Done<Self> {
        Self::read(packages.iter().map(|package| (package.id, package.manifest.as_str())))
    }

    /// Those of ids and texts.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn read<'a>(texts: impl Iterator<Item = (PackageId, &'a str)>) -> Done<Self> {
        let one = |(id, text): (PackageId, &str)| match Manifest::parse(text) {
            Ok(manifest) => Ok((id, manifest)),
            Err(error) => {
                let what = format!("the manifest of package {} cannot be read: {error}", id.short());
                Err(Problem::new(what, "use the same version of Tribune here and there"))
            }
        };
        Ok(Self(texts.map(one).collect::<Done<_>>()?))
    }

    /// A manifest.
    pub fn get(&self, id: &PackageId) -> Option<&Manifest> {
        self.0.get(id)
    }

    /// All of them, by name and version.
    pub fn all(&self) -> impl Iterator<Item = (&PackageId, &Manifest)> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by(|(_, a), (_, b)| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        all.into_iter()
    }

    /// Their names and versions.
    pub fn names(&self) -> Names {
        let mut names = Names::default();
        for (id, manifest) in &self.0 {
            names.add(*id, manifest.name.clone(), manifest.version.to_string());
        }
        names
    }
}
