//! Documents of what was carried out: made, published, removed, begun. docs/JSON.md describes their fields.

use serde::Serialize;
use tribune_package::Built;
use tribune_package::build::BuiltImage;

use super::package::{PackageView, TargetsView};

/// `done`: an order without any other answer was carried out.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct DoneView {
    /// What was done.
    pub what: String,
}

/// `initialised`: a cluster was made.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct InitialisedView {
    pub cluster: String,
    pub node: String,
    pub peer: String,
    pub addresses: Vec<String>,
    pub admin: String,
    pub admin_public_key: String,
    pub admin_key_file: String,
}

/// `joined`: this node is in a cluster.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct JoinedView {
    pub cluster: String,
    pub node: String,
    pub peer: String,
    pub others: Vec<String>,
}

/// `token`: a join token.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct TokenView {
    pub token: Option<String>,
    pub file: Option<String>,
    pub node: Option<String>,
    pub valid_ms: u64,
}

/// `key`: a key, and where it is.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct KeyView {
    pub public_key: String,
    pub peer: String,
    pub file: String,
}

/// `built`: a file that was built.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct BuiltView {
    file: String,
    size: u64,
    packages: Vec<PackageView>,
    targets: Option<TargetsView>,
}

impl BuiltView {
    /// The view of a package that was built.
    pub fn package(built: &Built) -> Self {
        let packages = vec![PackageView::of(built.id, &built.manifest)];
        Self { file: built.path.display().to_string(), size: built.size, packages, targets: None }
    }

    /// The view of an image that was built.
    pub fn image(built: &BuiltImage) -> Self {
        Self {
            file: built.path.display().to_string(),
            size: built.size,
            packages: built.header.packages().iter().map(|manifest| PackageView::of(manifest.id(), manifest)).collect(),
            targets: built.header.targets().map(TargetsView::of),
        }
    }
}

/// `published`: packages that are in the store.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct PublicationView {
    pub packages: Vec<PublishedPackage>,
    pub copies: u32,
}

/// A package that was published.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct PublishedPackage {
    pub id: String,
    pub package: String,
}

/// `retained`: which versions of a package left the store, and which older ones stayed.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct RetainedView {
    pub package: String,
    pub last: Vec<String>,
    pub removed: Vec<String>,
    pub needed: Vec<NeededView>,
}

/// A version that stayed because it is needed.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct NeededView {
    pub version: String,
    pub needed_by: Vec<String>,
}

/// `submitted`: an update has begun.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct SubmittedView {
    /// Its number.
    pub update: String,
}
