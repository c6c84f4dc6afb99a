//! The software that simulated clusters run: a chain of three packages, `base` ← `middle` ← `app`, in some versions, and one that stands alone.
//!
//! One idea: what a process does when it is asked, and how it fares, is in its module's bytes, and so changes with the version that runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tribune_package::build_package;
use tribune_raft_store::model::PackageId;

/// A version of a package: what its module's bytes say, and what its description has beside that.
#[derive(Debug, Clone, Copy)]
pub struct Version<'a> {
    pub package: &'a str,
    pub version: &'a str,
    pub script: &'a str,
    pub fields: &'a str,
}

const VERSIONS: &[Version<'static>] = &[
    Version { package: "base", version: "1.0.0", script: "", fields: "provides = [\"base.api@1.0.0\"]" },
    Version { package: "base", version: "1.1.0", script: "vote moody", fields: "provides = [\"base.api@1.1.0\"]" },
    Version { package: "base", version: "1.2.0", script: "ready late", fields: "provides = [\"base.api@1.2.0\"]" },
    Version { package: "base", version: "2.0.0", script: "", fields: "provides = [\"base.api@2.0.0\"]" },
    Version { package: "middle", version: "1.0.0", script: "vote moody", fields: MIDDLE },
    Version { package: "middle", version: "1.1.0", script: "", fields: MIDDLE },
    Version { package: "middle", version: "1.2.0", script: "health unhealthy", fields: MIDDLE },
    Version { package: "middle", version: "1.3.0", script: "health frail", fields: MIDDLE },
    Version { package: "app", version: "1.0.0", script: "vote wary", fields: APP },
    Version { package: "app", version: "1.1.0", script: "vote late-veto", fields: APP },
    Version { package: "app", version: "1.2.0", script: "vote moody\nready late", fields: APP },
    Version { package: "app", version: "1.3.0", script: "health crash-loop", fields: APP },
    Version { package: "alone", version: "1.0.0", script: "vote moody", fields: "" },
    Version { package: "alone", version: "1.1.0", script: "speaks no", fields: "" },
    Version { package: "alone", version: "1.2.0", script: "vote veto", fields: "" },
    Version { package: "alone", version: "1.3.0", script: "vote veto\nhello late\nhealth frail", fields: "" },
];

const MIDDLE: &str = "depends-on = [\"base/base\"]\nconsumes = [\"base.api@^1 on node\"]";
const APP: &str = "depends-on = [\"middle/middle\"]\nwhen-affected = \"restart\"\nchangeover = { strategy = \"stop-first\", ready-within = \"3s\", drain-within = \"1s\" }";

/// Bytes of a package that is published under load.
const BALLAST: u64 = 256 * 1024;

/// A package that was built.
#[derive(Debug, Clone)]
pub struct Item {
    pub id: PackageId,
    pub name: String,
    pub version: String,
    pub file: PathBuf,
}

/// Whether a package's processes are not well once they run.
pub fn is_unwell(item: &Item) -> bool {
    let of_item = |version: &&Version<'_>| version.package == item.name && version.version == item.version;
    let script = VERSIONS.iter().find(of_item).map_or("", |version| version.script);
    script.contains("health unhealthy") || script.contains("health crash-loop")
}

/// Builds all of it in a folder.
///
/// # Errors
/// A file cannot be written.
pub fn build(folder: &Path) -> Result<Vec<Item>> {
    VERSIONS.iter().map(|version| one(folder, version)).collect()
}

/// One more version of the package that stands alone, with bytes that nothing has yet.
///
/// # Errors
/// A file cannot be written.
pub fn another(folder: &Path, number: u64) -> Result<Item> {
    let version = format!("2.{number}.0");
    // Large enough that it is not everywhere in a moment.
    let ballast: String =
        (0..BALLAST / 16).map(|at| format!("{:015x}\n", (at ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 4)).collect();
    one(folder, &Version { package: "alone", version: &version, script: &ballast, fields: "" })
}

/// Builds a package of one module, of the same name.
///
/// # Errors
/// A file cannot be written, or the package is not one.
pub fn one(folder: &Path, version: &Version<'_>) -> Result<Item> {
    let Version { package, version, script, fields } = version;
    let source = folder.join(format!("{package}-{version}"));
    fs::create_dir_all(&source)?;
    fs::write(source.join("m"), format!("{script}\nof {package} {version}\n"))?;
    let changeover =
        if fields.contains("changeover") { "" } else { "changeover = { ready-within = \"3s\", drain-within = \"1s\" }" };
    let text = format!(
        "[package]\nname = \"{package}\"\nversion = \"{version}\"\n\n[[module]]\nname = \"{package}\"\npath = \"m\"\nrun = [\"{package}\"]\n\
         health = {{ settle = \"600ms\", every = \"100ms\" }}\nask = {{ within = \"3s\" }}\n{changeover}\n{fields}\n"
    );
    let description = source.join("tribune.toml");
    fs::write(&description, text)?;
    let file = folder.join(format!("{package}-{version}.tpkg"));
    let built = build_package(&description, &file).with_context(|| format!("building {package} {version}"))?;
    Ok(Item { id: built.id, name: (*package).to_owned(), version: (*version).to_owned(), file })
}

/// By package, which it depends on.
pub fn needs() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([("middle", "base"), ("app", "middle")])
}
