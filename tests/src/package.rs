//! Packages made on the spot: a description, and modules that are probes.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cli::{program, tribune};

/// A package that is being described.
#[derive(Debug, Clone)]
pub struct PackageSource {
    name: String,
    version: String,
    text: String,
    modules: Vec<(String, String)>,
}

impl PackageSource {
    /// A package without modules.
    pub fn new(name: &str, version: &str) -> Self {
        let text = format!("[package]\nname = \"{name}\"\nversion = \"{version}\"\n");
        Self { name: name.into(), version: version.into(), text, modules: Vec::new() }
    }

    /// Adds lines to the package's own table; before any module.
    pub fn with(mut self, lines: &str) -> Self {
        let _ = writeln!(self.text, "{lines}");
        self
    }

    /// Adds a probe that runs, whose bytes differ with `content`. `fields` are further lines of its table.
    pub fn probe(self, module: &str, content: &str, fields: &str) -> Self {
        let script = format!("#!/bin/sh\n# {content}\nexec '{}' \"$@\"\n", program("tribune-probe").display());
        let run = format!("run = [\"{module}\"]\nhealth = {{ settle = \"300ms\", every = \"100ms\" }}\n{fields}");
        self.file(module, &script, &run)
    }

    /// Adds a module that is a file with this text.
    pub fn file(mut self, module: &str, content: &str, fields: &str) -> Self {
        let file = format!("{module}-{}", self.modules.len());
        let _ = writeln!(self.text, "\n[[module]]\nname = \"{module}\"\npath = \"{file}\"\n{fields}");
        self.modules.push((file, content.into()));
        self
    }

    /// Writes the description and the modules into a folder, and gives the description's path.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder)?;
        for (file, content) in &self.modules {
            let path = folder.join(file);
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        let description = folder.join("tribune.toml");
        fs::write(&description, &self.text)?;
        Ok(description)
    }

    /// Builds it in a folder, and gives the package file's path.
    pub fn build(&self, folder: &Path) -> Result<PathBuf> {
        let source = folder.join(format!("{}-{}", self.name, self.version));
        let description = self.write(&source)?;
        let file = folder.join(format!("{}-{}.tpkg", self.name, self.version));
        let args = ["package", "build", "--manifest", &description.display().to_string(), "-o", &file.display().to_string()];
        tribune(&args, "")?.expect(0)?;
        Ok(file)
    }

    /// `name@version`.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}
