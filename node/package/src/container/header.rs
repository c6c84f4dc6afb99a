//! What a container says of itself before its blobs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};
use tribune_raft_store::model::{Manifest, Module, ModuleKind, Platform, Signature};

use super::{ContainerError, MAX_HEADER_BYTES, MAX_PACKAGES};
use crate::targets::{Targets, full_name};

/// The checked header of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    packages: Vec<Manifest>,
    targets: Option<Targets>,
    blobs: BTreeMap<Signature, Blob>,
}

/// Some modules' bytes, as a header announces them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// How many bytes there are.
    pub size: u64,
    /// Whether they are a file or the archive of a folder.
    pub kind: ModuleKind,
    /// The modules that have these bytes, as `package/module` and, unless it is any, the platform.
    pub modules: Vec<String>,
}

/// The header as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    packages: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets: Option<Targets>,
}

impl Header {
    /// A header for these packages, in any order, and who gets which of them.
    pub fn new(mut packages: Vec<Manifest>, targets: Option<Targets>) -> Result<Self, ContainerError> {
        packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        Self::checked(packages, targets)
    }

    /// The packages, sorted by name and version.
    pub fn packages(&self) -> &[Manifest] {
        &self.packages
    }

    /// Which nodes and classes get which packages, if the container says so.
    pub fn targets(&self) -> Option<&Targets> {
        self.targets.as_ref()
    }

    /// The blobs, in the order in which they follow.
    pub fn blobs(&self) -> &BTreeMap<Signature, Blob> {
        &self.blobs
    }

    /// How many bytes all blobs have together.
    pub fn blob_bytes(&self) -> u64 {
        // `checked` made sure that the sum fits.
        self.blobs.values().map(|blob| blob.size).sum()
    }

    /// The header as canonical JSON.
    pub(super) fn to_text(&self) -> Result<String, ContainerError> {
        let packages = self.packages.iter().map(Manifest::canonical).collect();
        let text = Text { packages, targets: self.targets.clone() };
        let text = serde_json_canonicalizer::to_string(&text).map_err(|error| ContainerError::Header(error.to_string()))?;
        if text.len() > MAX_HEADER_BYTES { Err(ContainerError::HeaderTooLong(text.len() as u64)) } else { Ok(text) }
    }

    /// Reads a header from its canonical JSON.
    pub(super) fn from_text(text: &[u8]) -> Result<Self, ContainerError> {
        let read: Text = serde_json::from_slice(text).map_err(|error| ContainerError::Header(error.to_string()))?;
        if read.packages.len() > MAX_PACKAGES {
            return Err(too_many(read.packages.len()));
        }
        let manifest = |(number, text): (usize, &String)| {
            Manifest::parse(text).map_err(|problem| ContainerError::Manifest { number, problem })
        };
        let packages = (1..).zip(&read.packages).map(manifest).collect::<Result<Vec<_>, _>>()?;
        let header = Self::checked(packages, read.targets)?;
        if header.to_text()?.as_bytes() == text {
            Ok(header)
        } else {
            Err(ContainerError::Header("it is not in canonical form (RFC 8785)".into()))
        }
    }

    /// The one place where headers are made, read or new.
    fn checked(packages: Vec<Manifest>, targets: Option<Targets>) -> Result<Self, ContainerError> {
        if packages.is_empty() {
            return Err(ContainerError::Header("it has no package".into()));
        }
        if packages.len() > MAX_PACKAGES {
            return Err(too_many(packages.len()));
        }
        if let Some(pair) =
            packages.windows(2).find(|pair| (&pair[0].name, &pair[0].version) == (&pair[1].name, &pair[1].version))
        {
            return Err(ContainerError::Header(format!("it has package {} twice", full_name(&pair[0]))));
        }
        if !packages.is_sorted_by_key(|package| (&package.name, &package.version)) {
            return Err(ContainerError::Header("its packages are not sorted by name and version".into()));
        }
        if let Some(targets) = &targets {
            targets.check(&packages)?;
        }
        let blobs = blobs(&packages)?;
        Ok(Self { packages, targets, blobs })
    }
}

fn too_many(count: usize) -> ContainerError {
    ContainerError::Header(format!("it has {count} packages; at most {MAX_PACKAGES} are allowed"))
}

fn blobs(packages: &[Manifest]) -> Result<BTreeMap<Signature, Blob>, ContainerError> {
    let mut blobs: BTreeMap<Signature, Blob> = BTreeMap::new();
    let mut total: u64 = 0;
    for (package, module) in packages.iter().flat_map(|package| package.modules.iter().map(move |module| (package, module))) {
        let label = label(package, module);
        match blobs.entry(module.signature) {
            Entry::Vacant(vacant) => {
                total = total
                    .checked_add(module.size)
                    .ok_or_else(|| ContainerError::Header("its modules' sizes are absurd".into()))?;
                vacant.insert(Blob { size: module.size, kind: module.kind, modules: vec![label] });
            }
            Entry::Occupied(mut known) if (known.get().size, known.get().kind) == (module.size, module.kind) => {
                if !known.get().modules.contains(&label) {
                    known.get_mut().modules.push(label);
                }
            }
            Entry::Occupied(known) => {
                let other = &known.get().modules[0];
                return Err(ContainerError::Header(format!(
                    "modules {other} and {label} have one signature, and differ in size or kind"
                )));
            }
        }
    }
    Ok(blobs)
}

/// A module for messages: `package/module`, and its platform unless that is any.
fn label(package: &Manifest, module: &Module) -> String {
    match &module.platform {
        Platform::Any => format!("{}/{}", package.name, module.name),
        platform => format!("{}/{} ({platform})", package.name, module.name),
    }
}
