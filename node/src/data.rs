//! The data folder of a node: where each thing lies, and how small files are replaced so that a crash leaves the old one or the
//! new one, never a part.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{NodeError, file_error};

/// The largest file of its own that a node reads whole.
const MAX_FILE: u64 = 64 << 20;

/// The data folder of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFolder {
    root: PathBuf,
}

impl DataFolder {
    /// The folder, made with mode 0700 where it is not there.
    ///
    /// # Errors
    /// It cannot be made, or is no folder.
    pub fn make(root: &Path) -> Result<Self, NodeError> {
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(file_error("make", root))?;
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).map_err(file_error("close to others", root))?;
        Self::at(root)
    }

    /// The folder of a node that is there.
    ///
    /// # Errors
    /// There is no node in it.
    pub fn open(root: &Path) -> Result<Self, NodeError> {
        if !root.join("cluster.json").is_file() {
            return Err(NodeError::NoNode(root.to_owned()));
        }
        Self::at(root)
    }

    /// Processes are told where their node is, so its place must not depend on where this one was started.
    fn at(root: &Path) -> Result<Self, NodeError> {
        let root = fs::canonicalize(root).map_err(file_error("find", root))?;
        Ok(Self { root })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The node's settings.
    pub fn settings(&self) -> PathBuf {
        self.root.join("node.toml")
    }

    /// The node's key.
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity.key")
    }

    /// Whom the node believes. A folder with this file is a node.
    pub fn cluster(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// What the cluster is made of, until it is in the record.
    pub fn birth(&self) -> PathBuf {
        self.root.join("birth.json")
    }

    /// Raft's log, vote and record.
    pub fn raft(&self) -> PathBuf {
        self.root.join("raft")
    }

    /// The package store.
    pub fn packages(&self) -> PathBuf {
        self.root.join("packages")
    }

    /// Local storage.
    pub fn local(&self) -> PathBuf {
        self.root.join("local")
    }

    /// The modules in local storage.
    pub fn modules(&self) -> PathBuf {
        self.local().join("modules")
    }

    /// The keeper's state.
    pub fn keeper(&self) -> PathBuf {
        self.root.join("keeper")
    }

    /// The logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The socket of the user's programs.
    pub fn user_socket(&self) -> PathBuf {
        self.root.join("tribune.sock")
    }

    /// The socket of the node's processes.
    pub fn process_socket(&self) -> PathBuf {
        self.root.join("process.sock")
    }
}

/// Writes a file in the place of the one before: a draft, fsynced, renamed, and the folder fsynced.
///
/// # Errors
/// It cannot be written; what was there before is still there.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), NodeError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = parent.join(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(parent)?.sync_all()
    };
    write().map_err(file_error("write", path))
}

/// Replaces a file with a value as JSON.
///
/// # Errors
/// As [`replace_file`].
pub fn replace_json<T: Serialize>(path: &Path, value: &T) -> Result<(), NodeError> {
    let mut text =
        serde_json::to_vec_pretty(value).map_err(|error| file_error("encode", path)(io::Error::other(error.to_string())))?;
    text.push(b'\n');
    replace_file(path, &text)
}

/// Reads a value from JSON; `None` when there is no such file.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, NodeError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error("read", path)(error)),
    };
    let wrong = |why: String| NodeError::Setting { file: path.to_owned(), why };
    if metadata.len() > MAX_FILE {
        return Err(wrong(format!("it has more than {MAX_FILE} bytes; it is no file of Tribune")));
    }
    let bytes = fs::read(path).map_err(file_error("read", path))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| wrong(format!("it cannot be read: {error}")))
}

/// Removes a file, durably; one that is not there is no error.
///
/// # Errors
/// It cannot be removed.
pub fn remove_file(path: &Path) -> Result<(), NodeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(file_error("remove", path)(error)),
        Ok(()) => {
            let parent = path.parent().unwrap_or(Path::new("."));
            File::open(parent).and_then(|folder| folder.sync_all()).map_err(file_error("fsync the folder of", path))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_is_its_owners_alone_and_is_a_node_only_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::make(&folder.path().join("n1")).unwrap();
        assert_eq!(fs::metadata(data.root()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(DataFolder::open(data.root()), Err(NodeError::NoNode(_))));
        replace_json(&data.cluster(), &1).unwrap();
        assert_eq!(DataFolder::open(data.root()).unwrap(), data);
    }

    #[test]
    fn a_file_is_replaced_whole_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value.json");
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), None);
        for value in [vec![1], vec![2, 3]] {
            replace_json(&path, &value).unwrap();
            assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), Some(value));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
        fs::write(&path, "[1,").unwrap();
        assert!(read_json::<Vec<u32>>(&path).unwrap_err().to_string().contains("value.json"));
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
    }
}
