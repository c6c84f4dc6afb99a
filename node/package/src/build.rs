//! Makes package and image files, and says what is in them.
//!
//! One idea: a file has its name only when it is whole. It is written beside its place under another name, verified
//! while it is written, flushed to disk and then renamed; what fails leaves nothing behind.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tribune_raft_store::model::{Manifest, ManifestError, ModuleKind, PackageId, Signature};

use crate::archive::ArchiveError;
use crate::container::{CONTAINER_FORMAT, ContainerError, ContainerReader, Header, write};
use crate::source::{self, Source, SourceError};
use crate::targets::{Targets, TargetsError, full_name};

mod merge;

pub use merge::merge_packages;

/// Why a file was not built or cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The description of the package is wrong.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A module's bytes cannot be had any more as they were a moment ago.
    #[error(transparent)]
    Module(#[from] ArchiveError),
    /// The new file cannot be written.
    #[error("the file cannot be built: {0}")]
    Write(#[from] ContainerError),
    /// A package or image file cannot be read, or is damaged.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: ContainerError,
    },
    /// A file cannot be opened or made.
    #[error("{} cannot be {doing}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried, such as `opened`.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// An image was given where a package is wanted.
    #[error("{} is an image; an image is built from package files (.tpkg)", .0.display())]
    NotAPackage(PathBuf),
    /// No package was given.
    #[error("an image has at least one package; give package files (.tpkg)")]
    NoPackages,
    /// Two files are one version of one package.
    #[error("{} and {} are both {package}; give one of them", first.display(), second.display())]
    Twice {
        /// The package, as `name@version`.
        package: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Two files cannot be joined into one package.
    #[error("{} and {} cannot be joined: {what}", first.display(), second.display())]
    Apart {
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// What differs.
        what: String,
    },
    /// The package that files would make together is not one.
    #[error("the files together are no package: {0}")]
    Together(#[from] ManifestError),
    /// The target list does not fit.
    #[error(transparent)]
    Targets(#[from] TargetsError),
    /// The output would become part of its own input.
    #[error("{} lies in the folder of a module, {}, and would be part of it next time; write it elsewhere", output.display(), module.display())]
    OutputInModule {
        /// The output.
        output: PathBuf,
        /// The module's folder.
        module: PathBuf,
    },
}

/// A package file that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The package's id.
    pub id: PackageId,
    /// Its manifest.
    pub manifest: Manifest,
    /// Where the file is.
    pub path: PathBuf,
    /// How many bytes the file has.
    pub size: u64,
}

/// An image file that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltImage {
    /// What the image says of itself.
    pub header: Header,
    /// Where the file is.
    pub path: PathBuf,
    /// How many bytes the file has.
    pub size: u64,
}

/// Builds the package that a `tribune.toml` describes, into a `.tpkg` file. The same input makes the same bytes.
pub fn build_package(description: &Path, output: &Path) -> Result<Built, BuildError> {
    let Source { manifest, origins } = source::read(description)?;
    let folder = real_parent(output)?;
    if let Some(origin) = origins.values().find(|origin| origin.kind == ModuleKind::Folder && folder.starts_with(&origin.path)) {
        return Err(BuildError::OutputInModule { output: output.into(), module: origin.path.clone() });
    }
    let header = Header::new(vec![manifest.clone()], None)?;
    let size = save(output, |file| {
        write(&header, file, |signature, mut out| {
            // The header's blobs are the manifest's modules, each of which has its origin.
            origins[signature].write(&mut out).map_err(BuildError::from)
        })
    })?;
    Ok(Built { id: manifest.id(), manifest, path: output.into(), size })
}

/// Builds an image from package files, into a `.timg` file. The packages are verified while they are read; their order
/// does not matter.
pub fn build_image(packages: &[impl AsRef<Path>], targets: Option<Targets>, output: &Path) -> Result<BuiltImage, BuildError> {
    let mut inputs: Vec<Input<'_>> = Vec::new();
    for path in packages.iter().map(AsRef::as_ref) {
        let (package, reader) = open_package(path)?;
        let package = &package;
        let same = |other: &Manifest| (&other.name, &other.version) == (&package.name, &package.version);
        if let Some((first, _)) = inputs.iter().find(|(_, known)| known.header().packages().iter().any(same)) {
            let package = full_name(package);
            return Err(BuildError::Twice { package, first: first.to_path_buf(), second: path.into() });
        }
        inputs.push((path, reader));
    }
    if inputs.is_empty() {
        return Err(BuildError::NoPackages);
    }
    let manifests = inputs.iter().flat_map(|(_, reader)| reader.header().packages().to_vec()).collect();
    let header = Header::new(manifests, targets).map_err(|error| match error {
        ContainerError::Targets(error) => BuildError::Targets(error),
        other => BuildError::Write(other),
    })?;
    let size = save(output, |file| write_from(&header, &mut inputs, file))?;
    Ok(BuiltImage { header, path: output.into(), size })
}

/// A package file that goes into another file.
type Input<'a> = (&'a Path, ContainerReader<BufReader<File>>);

/// Opens a package file, and gives its package; an image is none.
fn open_package(path: &Path) -> Result<(Manifest, ContainerReader<BufReader<File>>), BuildError> {
    let reader = open(path)?;
    match (reader.header().packages(), reader.header().targets()) {
        ([package], None) => Ok((package.clone(), reader)),
        _ => Err(BuildError::NotAPackage(path.into())),
    }
}

/// Writes a file with the modules of others, which are verified to their ends.
fn write_from(header: &Header, inputs: &mut [Input<'_>], file: &mut BufWriter<&File>) -> Result<(), BuildError> {
    write(header, file, |signature, out| copy_blob(inputs, signature, out))?;
    inputs.iter_mut().try_for_each(|(path, reader)| reader.verify_rest().map_err(in_file(path)))
}

/// Writes one blob from the first input that has it. All inputs hold their blobs in order, so each is read once.
fn copy_blob(inputs: &mut [Input<'_>], signature: &Signature, mut output: &mut dyn Write) -> Result<(), BuildError> {
    let mut copied = false;
    for (path, reader) in inputs.iter_mut().filter(|(_, reader)| reader.next_signature() == Some(*signature)) {
        let Some(blob) = reader.next_blob().map_err(in_file(path))? else { continue };
        if copied {
            // The same bytes once more: left unread, and verified when the reader goes on.
            continue;
        }
        copied = true;
        blob.copy_to(&mut output).map_err(|error| match error {
            ContainerError::Output(_) => BuildError::Write(error),
            other => in_file(path)(other),
        })?;
    }
    Ok(())
}

/// Opens a package or image file and reads its header.
pub fn open(path: &Path) -> Result<ContainerReader<BufReader<File>>, BuildError> {
    let failed = |source| BuildError::File { path: path.into(), doing: "opened", source };
    let file = File::open(path).map_err(failed)?;
    ContainerReader::open(BufReader::new(file)).map_err(in_file(path))
}

fn in_file(path: &Path) -> impl Fn(ContainerError) -> BuildError {
    |source| BuildError::Read { path: path.into(), source }
}

/// What is in a package or image file, every byte of it verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspection {
    /// The container's format.
    pub format: u32,
    /// The packages.
    pub packages: Vec<InspectedPackage>,
    /// Which nodes and classes get which packages, if the file says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
    /// The modules' bytes, in order of signature.
    pub blobs: Vec<InspectedBlob>,
    /// How many bytes the file has.
    pub size: u64,
}

/// A package in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectedPackage {
    /// Its id.
    pub id: PackageId,
    /// Its manifest.
    pub manifest: Manifest,
}

/// Bytes of modules in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectedBlob {
    /// Their signature.
    pub signature: Signature,
    /// How many bytes there are.
    pub size: u64,
    /// The modules that have these bytes, as `package/module` and, unless it is any, the platform.
    pub modules: Vec<String>,
}

/// Reads and verifies a whole package or image file, and says what is in it.
pub fn inspect(path: &Path) -> Result<Inspection, BuildError> {
    let mut reader = open(path)?;
    reader.verify_rest().map_err(in_file(path))?;
    let header = reader.header();
    let package = |manifest: &Manifest| InspectedPackage { id: manifest.id(), manifest: manifest.clone() };
    let blobs = header.blobs().iter().map(|(signature, blob)| InspectedBlob {
        signature: *signature,
        size: blob.size,
        modules: blob.modules.clone(),
    });
    Ok(Inspection {
        format: CONTAINER_FORMAT,
        packages: header.packages().iter().map(package).collect(),
        targets: header.targets().cloned(),
        blobs: blobs.collect(),
        size: reader.position(),
    })
}

/// The folder that a new file will lie in, with links resolved.
fn real_parent(output: &Path) -> Result<PathBuf, BuildError> {
    let parent = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::canonicalize(parent).map_err(|source| BuildError::File { path: parent.into(), doing: "opened", source })
}

/// Writes a file that appears whole or not at all; returns how many bytes it has.
fn save(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> Result<(), BuildError>) -> Result<u64, BuildError> {
    let failed = |doing| move |source| BuildError::File { path: path.into(), doing, source };
    let folder = real_parent(path)?;
    let mut builder = tempfile::Builder::new();
    // The user's umask takes from this what it takes from other new files.
    let builder = builder.prefix(".tribune-").permissions(fs::Permissions::from_mode(0o666));
    let temporary = builder.tempfile_in(&folder).map_err(failed("made"))?;
    let mut buffered = BufWriter::with_capacity(128 << 10, temporary.as_file());
    fill(&mut buffered)?;
    buffered.flush().map_err(failed("written"))?;
    drop(buffered);
    temporary.as_file().sync_all().map_err(failed("written to disk"))?;
    let file = temporary.persist(path).map_err(|error| failed("made")(error.error))?;
    File::open(&folder).and_then(|folder| folder.sync_all()).map_err(failed("written to disk"))?;
    Ok(file.metadata().map_err(failed("read"))?.len())
}

#[cfg(test)]
mod tests;
