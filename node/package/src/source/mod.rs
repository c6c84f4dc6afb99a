//! Reads the `tribune.toml` that describes a package.
//!
//! One idea: everything that can be wrong with the description is found before any module's bytes are read, and said
//! in one sentence with file, line, what is wrong and what would be right.

mod document;
mod module;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use tribune_raft_store::model::{
    MANIFEST_FORMAT, MAX_MANIFEST_BYTES, MAX_MODULES, Manifest, ManifestError, ModuleKind, Regress, Signature,
};

use crate::archive::{self, Measure};
use crate::digest::DigestWriter;
use crate::select::describe;

pub use document::MAX_SOURCE_BYTES;
pub(crate) use document::{Document, Fields, Place};
use module::Draft;

/// What is wrong with a description.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is too long.
    #[error("{} has more than {MAX_SOURCE_BYTES} bytes; that is no hand-written description", .0.display())]
    TooLong(PathBuf),
    /// Something in the file is wrong.
    #[error("{}:{line}: {problem}", file.display())]
    At {
        /// Which file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// Where a module's bytes come from on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file or folder, with links in its path resolved.
    pub path: PathBuf,
    /// Which of the two it is.
    pub kind: ModuleKind,
}

impl Origin {
    /// Reads the bytes once, to know their signature and size.
    fn measure(&self) -> Result<Measure, archive::ArchiveError> {
        match self.kind {
            ModuleKind::Folder => archive::measure(&self.path),
            ModuleKind::File => {
                let mut sink = DigestWriter::new(io::sink());
                self.write(&mut sink)?;
                Ok(Measure { signature: sink.digest.signature(), size: sink.digest.length() })
            }
        }
    }

    /// Writes the module's bytes.
    pub(crate) fn write(&self, output: &mut impl io::Write) -> Result<(), archive::ArchiveError> {
        match self.kind {
            ModuleKind::Folder => archive::pack(&self.path, output),
            ModuleKind::File => archive::copy_file(&self.path, output),
        }
    }
}

/// A package as it was described: its manifest, and where the bytes of each signature are to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The complete manifest.
    pub manifest: Manifest,
    /// Where the bytes are.
    pub origins: BTreeMap<Signature, Origin>,
}

/// Reads a `tribune.toml`, and every file and folder it names.
pub fn read(file: &Path) -> Result<Source, SourceError> {
    let document = Document::read(file)?;
    let root = document.parse()?;
    let top = document.fields("the file", root.get_ref(), 0..0, &["package", "module"])?;
    let (table, place) = top.table("package")?.ok_or_else(|| document.error(0..0, NO_PACKAGE))?;
    let mut manifest = read_package(&document, table, place.clone())?;
    let mut drafts = read_modules(&document, &top)?;
    if drafts.is_empty() {
        return Err(document.error(place, ManifestError::NoModules(manifest.name).to_string()));
    }
    refuse_twins(&document, &drafts)?;

    // Everything the manifest can say by itself is checked before any bytes are read.
    manifest.modules = drafts.iter().map(|draft| draft.module.clone()).collect();
    check(&document, &manifest, &drafts, &place)?;

    let mut origins = BTreeMap::new();
    for draft in &mut drafts {
        let measure = draft.origin.measure().map_err(|error| document.error(draft.path_place.clone(), error.to_string()))?;
        draft.module.signature = measure.signature;
        draft.module.size = measure.size;
        origins.insert(measure.signature, draft.origin.clone());
    }
    drafts.sort_by(|a, b| {
        let key = |d: &Draft| (d.module.name.clone(), d.module.platform.clone(), d.module.characteristics.clone());
        key(a).cmp(&key(b))
    });
    manifest.modules = drafts.iter().map(|draft| draft.module.clone()).collect();
    check(&document, &manifest, &drafts, &place)?;
    Ok(Source { manifest, origins })
}

const NO_PACKAGE: &str = "there is no [package]; begin with [package], name = \"…\" and version = \"1.0.0\"";
const PACKAGE_FIELDS: [&str; 5] = ["name", "version", "summary", "upgrade-from", "regress"];

fn read_package(document: &Document, table: &DeTable<'_>, place: Place) -> Result<Manifest, SourceError> {
    let fields = document.fields("[package]", table, place, &PACKAGE_FIELDS)?;
    let semver = |text: &str| {
        text.parse()
            .map_err(|error| format!("{text:?} is not a semantic version ({error}); use three numbers, such as \"1.0.0\""))
    };
    let range = |text: &str| {
        text.parse()
            .map_err(|error| format!("{text:?} is not a range of versions ({error}); use one such as \">=2.1\" or \"^1.4\""))
    };
    let summary = match fields.string("summary")? {
        Some((text, place)) => module::plain_text("summary in [package]", text).map_err(|p| document.error(place, p))?,
        None => String::new(),
    };
    Ok(Manifest {
        format: MANIFEST_FORMAT,
        name: fields.required("name", "\"billing\"", fields.parsed("name")?)?,
        version: fields.required("version", "\"1.0.0\"", fields.parsed_as("version", semver)?)?,
        summary,
        upgrade_from: fields.parsed_as("upgrade-from", range)?,
        regress: fields.choice("regress", &[("yes", Regress::Yes), ("no", Regress::No)])?,
        modules: Vec::new(),
    })
}

fn read_modules(document: &Document, top: &Fields<'_>) -> Result<Vec<Draft>, SourceError> {
    let Some(value) = top.value("module") else { return Ok(Vec::new()) };
    let right = "a list of tables, each begun with [[module]]";
    let DeValue::Array(array) = value.get_ref() else { return Err(top.wrong_type("module", value, right)) };
    if array.len() > MAX_MODULES {
        return Err(document.error(value.span(), format!("there are {} modules; at most {MAX_MODULES} are allowed", array.len())));
    }
    let root = module::Root::of(document)?;
    let one = |item: &toml::Spanned<DeValue<'_>>| match item.get_ref() {
        DeValue::Table(table) => module::read(document, &root, table, item.span()),
        _ => Err(top.wrong_type("module", value, right)),
    };
    array.iter().map(one).collect()
}

/// Two modules that no node could tell apart, with the line of each.
fn refuse_twins(document: &Document, drafts: &[Draft]) -> Result<(), SourceError> {
    let mut seen = BTreeMap::new();
    for draft in drafts {
        let module = &draft.module;
        if let Some(first) = seen.insert((&module.name, &module.platform, &module.characteristics), draft) {
            let problem = format!(
                "module {} for {} is there already on line {}; modules of one name differ by platform or characteristics",
                module.name,
                describe(module),
                document.line(&first.place)
            );
            return Err(document.error(draft.place.clone(), problem));
        }
    }
    Ok(())
}

/// What only the whole manifest can tell, each error with the line that is to blame.
fn check(document: &Document, manifest: &Manifest, drafts: &[Draft], package: &Place) -> Result<(), SourceError> {
    for draft in drafts {
        for dependency in &draft.module.depends_on {
            if dependency.package.as_ref() == Some(&manifest.name) && !dependency.version.matches(&manifest.version) {
                let problem = format!(
                    "module {} depends on {dependency}, and this package is version {}; leave the version out",
                    draft.module.name, manifest.version
                );
                return Err(document.error(draft.needs_place.clone(), problem));
            }
        }
    }
    let needing = |name: &str| drafts.iter().find(|d| d.module.name.as_str() == name && !d.module.depends_on.is_empty());
    manifest.check().map_err(|error| {
        let place = match &error {
            ManifestError::Cycle(names) => names.first().and_then(|name| needing(name)).map(|d| &d.needs_place),
            ManifestError::MissingModule { module, missing, .. } => drafts
                .iter()
                .find(|d| d.module.name == *module && d.module.depends_on.iter().any(|n| n.module == *missing))
                .map(|d| &d.needs_place),
            _ => None,
        };
        let advice = match &error {
            ManifestError::Cycle(_) => "; take one of these out",
            ManifestError::MissingModule { .. } => "; add it, or write \"package/module\" for one of another package",
            _ => "",
        };
        document.error(place.unwrap_or(package).clone(), format!("{error}{advice}"))
    })?;
    let length = manifest.canonical().len();
    if length > MAX_MANIFEST_BYTES {
        return Err(document.error(package.clone(), ManifestError::TooLong(length).to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
