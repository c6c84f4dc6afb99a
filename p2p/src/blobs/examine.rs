//! Looking at a folder of blobs without changing anything, whether or not a process has it open.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use blake3::{Hash, Hasher};

use super::{BlobError, io_at};

/// What a folder of blobs has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examined {
    /// How many blobs there are.
    pub blobs: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// Those whose bytes are not what their names say.
    pub unsound: Vec<Unsound>,
}

/// A blob whose bytes are not what its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsound {
    /// Where it lies.
    pub path: PathBuf,
    /// Its name.
    pub signature: Hash,
    /// What is wrong with it.
    pub why: String,
}

/// Where a blob lies in a folder of blobs, or would lie.
pub fn path_in(folder: &Path, signature: &Hash) -> PathBuf {
    let hex = signature.to_hex();
    folder.join(&hex[..2]).join(hex.as_str())
}

/// Reads every blob in a folder, and compares. A folder that is not there has none. Blocks.
///
/// # Errors
/// The folder cannot be listed.
pub fn examine(folder: &Path) -> Result<Examined, BlobError> {
    let mut examined = Examined::default();
    let prefixes = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(examined),
        prefixes => prefixes.map_err(io_at("list", folder))?,
    };
    for prefix in prefixes {
        let prefix = prefix.map_err(io_at("list", folder))?;
        if prefix.file_name().len() != 2 {
            continue;
        }
        let within = prefix.path();
        for blob in fs::read_dir(&within).map_err(io_at("list", &within))? {
            let path = blob.map_err(io_at("list", &within))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(signature) = name.and_then(|name| Hash::from_hex(name).ok()) else { continue };
            match compare(&path, &signature) {
                Ok((bytes, why)) => {
                    examined.blobs += 1;
                    examined.bytes += bytes;
                    examined.unsound.extend(why.map(|why| Unsound { path, signature, why }));
                }
                // Removed since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => examined.unsound.push(Unsound { path, signature, why: format!("cannot be read: {error}") }),
            }
        }
    }
    examined.unsound.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(examined)
}

/// How many bytes a blob has, and what is wrong with them.
fn compare(path: &Path, signature: &Hash) -> io::Result<(u64, Option<String>)> {
    let mut hasher = Hasher::new();
    let bytes = io::copy(&mut File::open(path)?, &mut hasher)?;
    let actual = hasher.finalize();
    let why = (actual != *signature).then(|| format!("its bytes have the BLAKE3 {actual}, and not that of its name"));
    Ok((bytes, why))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_bit_is_found_and_nothing_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(examine(&folder.path().join("none")).unwrap(), Examined::default());
        for content in ["one", "two"] {
            let path = path_in(folder.path(), &blake3::hash(content.as_bytes()));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let signature = blake3::hash(b"two");
        let path = path_in(folder.path(), &signature);
        fs::write(&path, "twp").unwrap();
        let examined = examine(folder.path()).unwrap();
        assert_eq!((examined.blobs, examined.bytes), (2, 6));
        assert_eq!(examined.unsound.iter().map(|unsound| &unsound.path).collect::<Vec<_>>(), [&path]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "twp");
    }
}
