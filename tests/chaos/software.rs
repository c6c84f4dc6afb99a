//! What is rolled out: a chain of three packages in many versions, and a fourth that no update touches.
//!
//! One idea: each module's process has its module's bytes' name among its words, so what runs can be told from outside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use tribune_tests::PackageSource;
use tribune_tests::cli::program;

/// The chain: package, module, and the module that it depends on.
pub const CHAIN: [(&str, &str, &str); 3] =
    [("rates", "rates/table", ""), ("billing", "billing/billingd", "rates/table"), ("shop", "shop/web", "billing/billingd")];
/// The package that no update touches, and its module.
pub const BYSTANDER: (&str, &str) = ("watch", "watch/dog");
/// The versions that are there from the beginning.
pub const VERSIONS: [&str; 3] = ["1.0.0", "1.1.0", "1.2.0"];
/// One whose process ends as soon as it was started.
pub const BROKEN: &str = "1.9.9";
/// The word before the name of a module's bytes.
pub const MARK: &str = "--mark";

/// The packages that were made.
#[derive(Debug)]
pub struct Software {
    folder: PathBuf,
    logs: PathBuf,
    /// Signature of a module's bytes by mark.
    marks: Mutex<BTreeMap<String, String>>,
}

impl Software {
    /// None yet. Packages are built in a folder, and processes write what they hear below it.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.join("packages"), logs: folder.join("heard"), marks: Mutex::default() }
    }

    /// The folder of what processes heard.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Builds a version of a package, and gives its file.
    pub fn build(&self, package: &str, version: &str) -> Result<PathBuf> {
        let parts = CHAIN.into_iter().chain([(BYSTANDER.0, BYSTANDER.1, "")]);
        let (_, module, needs) = parts.into_iter().find(|(name, ..)| *name == package).expect("a package of ours");
        let name = module.rsplit('/').next().unwrap_or(module);
        let mark = format!("{module}@{version}");
        let fails = if version == BROKEN { " --fail" } else { "" };
        let script = format!(
            "#!/bin/sh\nexec '{}' --also '{}' {MARK} '{mark}'{fails} \"$@\"\n",
            program("tribune-probe").display(),
            self.logs.display()
        );
        let depends = if needs.is_empty() { String::new() } else { format!("depends-on = [\"{needs}@^1\"]\n") };
        let run = format!(
            "run = [\"{name}\"]\nhealth = {{ settle = \"500ms\", every = \"100ms\" }}\n{depends}provides = [\"{package}.api@{version}\"]\n\
             ask = {{ how = \"socket\", within = \"3s\", silent = \"veto\" }}\nchangeover = {{ ready-within = \"5s\", drain-within = \"3s\" }}"
        );
        let signature = blake3::hash(script.as_bytes()).to_hex().to_string();
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).insert(mark, signature);
        std::fs::create_dir_all(&self.folder)?;
        PackageSource::new(package, version).file(name, &script, &run).build(&self.folder)
    }

    /// The signature of the bytes with this mark.
    pub fn signature(&self, mark: &str) -> Option<String> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).get(mark).cloned()
    }
}

/// The module of a package of the chain.
pub fn module_of(package: &str) -> Option<&'static str> {
    CHAIN.iter().find(|(name, ..)| *name == package).map(|(_, module, _)| *module)
}
