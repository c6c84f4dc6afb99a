//! The target list of an image: which nodes and classes get which of its packages.
//!
//! One idea: a list is checked against the packages it is for as soon as both are known, at build and again when read,
//! so that a name in it always means exactly one package of the image. That nodes and classes exist is for the master to say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use semver::Version;
use serde::{Deserialize, Serialize};
use tribune_raft_store::model::{ClassName, IdError, Manifest, NodeName, PackageName};

use crate::source::{Document, SourceError};

/// A package of an image: `billing`, or `billing@2.3.1` when the image has several versions of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PackageRef {
    /// Its name.
    pub name: PackageName,
    /// Its version; `None`: the only one there is.
    pub version: Option<Version>,
}

impl PackageRef {
    /// Whether this package is meant.
    pub fn means(&self, package: &Manifest) -> bool {
        self.name == package.name && self.version.as_ref().is_none_or(|version| *version == package.version)
    }
}

impl fmt::Display for PackageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => f.pad(&format!("{}@{version}", self.name)),
            None => f.pad(self.name.as_str()),
        }
    }
}

impl FromStr for PackageRef {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError {
            what: "package",
            text: text.chars().take(80).collect(),
            rule: "use NAME or NAME@VERSION, such as billing or billing@2.3.1",
        };
        let (name, version) = text.split_once('@').map_or((text, None), |(name, version)| (name, Some(version)));
        Ok(Self {
            name: name.parse().map_err(|_| wrong())?,
            version: version.map(str::parse).transpose().map_err(|_: semver::Error| wrong())?,
        })
    }
}

impl TryFrom<String> for PackageRef {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<PackageRef> for String {
    fn from(package: PackageRef) -> String {
        package.to_string()
    }
}

/// Which nodes and classes get which packages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// By node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<NodeName, BTreeSet<PackageRef>>,
    /// By class.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<ClassName, BTreeSet<PackageRef>>,
}

/// Why a target list does not fit an image's packages.
#[derive(Debug, thiserror::Error)]
pub enum TargetsError {
    /// It names nothing.
    #[error("the target list names no node and no class; name one under [nodes] or [classes], or leave the list out")]
    Empty,
    /// A node or class gets nothing.
    #[error("{target} gets no package in the target list; name one, or leave it out")]
    NoPackage {
        /// Such as `node n1`.
        target: String,
    },
    /// A package is not in the image.
    #[error("{target} gets package {package} in the target list, which the image does not have; it has {}", available.join(", "))]
    UnknownPackage {
        /// Such as `node n1`.
        target: String,
        /// What was named.
        package: String,
        /// The image's packages, as `name@version`.
        available: Vec<String>,
    },
    /// A name means several versions.
    #[error("{target} gets package {package} in the target list, and the image has {}; name one of them", versions.join(" and "))]
    Ambiguous {
        /// Such as `node n1`.
        target: String,
        /// What was named.
        package: String,
        /// The versions, as `name@version`.
        versions: Vec<String>,
    },
    /// A node or class gets two versions of one package.
    #[error("{target} gets package {package} twice in the target list; a node has one version of a package, so name it once")]
    Twice {
        /// Such as `node n1`.
        target: String,
        /// The package.
        package: PackageName,
    },
    /// The file cannot be read as a target list.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl Targets {
    /// Reads a target list: TOML with `[nodes]` and `[classes]`, each `NAME = ["package", "package@version", …]`.
    pub fn read(file: &Path) -> Result<Self, TargetsError> {
        let document = Document::read(file)?;
        let root = document.parse()?;
        let top = document.fields("the file", root.get_ref(), 0..0, &["nodes", "classes"])?;
        let targets = Self { nodes: named(&document, &top, "nodes")?, classes: named(&document, &top, "classes")? };
        if targets.nodes.is_empty() && targets.classes.is_empty() {
            return Err(document.error(0..0, TargetsError::Empty.to_string()).into());
        }
        Ok(targets)
    }

    /// Checks the list against the packages it is for.
    pub fn check(&self, packages: &[Manifest]) -> Result<(), TargetsError> {
        if self.nodes.is_empty() && self.classes.is_empty() {
            return Err(TargetsError::Empty);
        }
        for (node, named) in &self.nodes {
            check_one(&format!("node {node}"), named, packages)?;
        }
        for (class, named) in &self.classes {
            check_one(&format!("class {class}"), named, packages)?;
        }
        Ok(())
    }
}

fn check_one(target: &str, named: &BTreeSet<PackageRef>, packages: &[Manifest]) -> Result<(), TargetsError> {
    let target = || target.to_owned();
    if named.is_empty() {
        return Err(TargetsError::NoPackage { target: target() });
    }
    let mut seen = BTreeSet::new();
    for package in named {
        let meant: Vec<_> = packages.iter().filter(|p| package.means(p)).map(full_name).collect();
        match meant.len() {
            0 => {
                let available = packages.iter().map(full_name).collect();
                return Err(TargetsError::UnknownPackage { target: target(), package: package.to_string(), available });
            }
            1 => {}
            _ => return Err(TargetsError::Ambiguous { target: target(), package: package.to_string(), versions: meant }),
        }
        if !seen.insert(&package.name) {
            return Err(TargetsError::Twice { target: target(), package: package.name.clone() });
        }
    }
    Ok(())
}

/// A package as `name@version`.
pub(crate) fn full_name(package: &Manifest) -> String {
    format!("{}@{}", package.name, package.version)
}

/// One table of the file: from names to lists of packages.
fn named<N: FromStr<Err = IdError> + Ord>(
    document: &Document,
    top: &crate::source::Fields<'_>,
    key: &'static str,
) -> Result<BTreeMap<N, BTreeSet<PackageRef>>, SourceError> {
    let mut all = BTreeMap::new();
    let Some((table, _)) = top.table(key)? else { return Ok(all) };
    for (name, value) in table {
        let parsed = name.get_ref().parse().map_err(|error: IdError| document.error(name.span(), error.to_string()))?;
        let list = document.strings(&format!("{key}.{}", name.get_ref()), value)?;
        let mut packages = BTreeSet::new();
        for (text, span) in list {
            packages.insert(text.parse().map_err(|error: IdError| document.error(span, error.to_string()))?);
        }
        all.insert(parsed, packages);
    }
    Ok(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn packages(names: &[&str]) -> Vec<Manifest> {
        let manifest = |text: &&str| {
            let package: PackageRef = text.parse().unwrap();
            serde_json::from_value(
                serde_json::json!({ "format": 1, "name": package.name, "version": package.version, "module": [] }),
            )
        };
        names.iter().map(|text| manifest(text).unwrap()).collect()
    }

    fn read(text: &str) -> Result<Targets, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("targets.toml");
        std::fs::write(&file, text).unwrap();
        Targets::read(&file).map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn a_target_list_is_read() {
        let targets = read("[nodes]\nn1 = [\"billing\"]\n[classes]\nedge = [\"billing@1.0.0\", \"rates\"]\n").unwrap();
        let text = serde_json::to_string(&targets).unwrap();
        assert_eq!(text, r#"{"nodes":{"n1":["billing"]},"classes":{"edge":["billing@1.0.0","rates"]}}"#);
        targets.check(&packages(&["billing@1.0.0", "rates@2.0.0"])).unwrap();
    }

    #[test]
    fn a_bad_target_list_is_refused_with_its_line() {
        for (text, message) in [
            (
                "",
                "targets.toml:1: the target list names no node and no class; name one under [nodes] or [classes], or leave the list out",
            ),
            ("[node]\n", "targets.toml:1: the file has an unknown field \"node\"; the known fields are nodes, classes"),
            (
                "[nodes]\nn1 = \"billing\"\n",
                "targets.toml:2: nodes.n1 is a string; it must be a list of strings, such as [\"a\", \"b\"]",
            ),
            (
                "[nodes]\nn1 = [\n\"Billing\"]\n",
                "targets.toml:3: package \"Billing\" is not valid: use NAME or NAME@VERSION, such as billing or billing@2.3.1",
            ),
            (
                "[nodes]\nN1 = []\n",
                "targets.toml:2: node name \"N1\" is not valid: use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit",
            ),
        ] {
            assert_eq!(read(text), Err(message.to_owned()));
        }
    }

    #[test]
    fn a_target_list_that_does_not_fit_the_packages_is_refused() {
        let image = packages(&["billing@1.0.0", "billing@2.0.0", "rates@1.0.0"]);
        for (list, message) in [
            (
                "nodes.n1 = [\"ledger\"]",
                "node n1 gets package ledger in the target list, which the image does not have; it has billing@1.0.0, billing@2.0.0, rates@1.0.0",
            ),
            (
                "classes.edge = [\"rates@2.0.0\"]",
                "class edge gets package rates@2.0.0 in the target list, which the image does not have; it has billing@1.0.0, billing@2.0.0, rates@1.0.0",
            ),
            (
                "nodes.n1 = [\"billing\"]",
                "node n1 gets package billing in the target list, and the image has billing@1.0.0 and billing@2.0.0; name one of them",
            ),
            (
                "nodes.n1 = [\"billing@1.0.0\", \"billing@2.0.0\"]",
                "node n1 gets package billing twice in the target list; a node has one version of a package, so name it once",
            ),
            ("nodes.n1 = []", "node n1 gets no package in the target list; name one, or leave it out"),
        ] {
            assert_eq!(read(list).unwrap().check(&image).unwrap_err().to_string(), message);
        }
        read("nodes.n1 = [\"billing@1.0.0\"]\nnodes.n2 = [\"billing@2.0.0\", \"rates\"]").unwrap().check(&image).unwrap();
    }
}
