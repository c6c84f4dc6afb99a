//! The data folder of a node: where each thing lies, and how small files are replaced so that a crash leaves the old one or the
//! new one, never a part.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tribune_planted::{Bug, planted};

use crate::error::{NodeError, file_error};

/// The largest file of its own that a node reads whole.
const MAX_FILE: u64 = 64 << 20;

/// The permissions of a folder that is its owner's alone.
const PRIVATE: u32 = 0o700;
/// Those of one that its group can pass, and not list.
const PASSABLE: u32 = 0o710;

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
        make_private(root)?;
        set_mode(root, PRIVATE)?;
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

    /// Lets a group pass through the folder to the sockets in it that it may open, and to nothing else; none: nobody.
    ///
    /// # Errors
    /// The folder, or something in it, cannot be given other permissions.
    pub fn let_through(&self, group: Option<u32>) -> Result<(), NodeError> {
        let Some(group) = group else {
            // What a group was given is taken back. What somebody else has set is theirs.
            return if mode(&self.root)? == PASSABLE { set_mode(&self.root, PRIVATE) } else { Ok(()) };
        };
        // What was made while nobody could pass may be readable by all. It is closed before anybody can.
        for entry in fs::read_dir(&self.root).map_err(file_error("list", &self.root))? {
            let path = entry.map_err(file_error("list", &self.root))?.path();
            self.close(&path)?;
        }
        // These are made later, by parts that do not know who may pass.
        for folder in [self.packages(), self.local(), self.root.join("ephemeral")] {
            make_private(&folder)?;
        }
        std::os::unix::fs::chown(&self.root, None, Some(group))
            .map_err(file_error("give to the group of the processes", &self.root))?;
        set_mode(&self.root, PASSABLE)
    }

    /// Takes from all others what they may do with something in the folder. A socket says by itself who may open it.
    fn close(&self, path: &Path) -> Result<(), NodeError> {
        let metadata = match fs::symlink_metadata(path) {
            // A draft that was put in its place meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            metadata => metadata.map_err(file_error("look at", path))?,
        };
        let mode = metadata.permissions().mode() & 0o7777;
        let open = mode & 0o077 != 0 && (metadata.is_dir() || metadata.is_file());
        if open { set_mode(path, mode & !0o077) } else { Ok(()) }
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

/// Makes a folder that is its owner's alone, where it is not there.
///
/// # Errors
/// It cannot be made.
pub fn make_private(folder: &Path) -> Result<(), NodeError> {
    let new = folder.ancestors().skip(1).take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
    let named: Vec<&Path> = [folder].into_iter().chain(new).collect();
    DirBuilder::new().recursive(true).mode(PRIVATE).create(folder).map_err(file_error("make", folder))?;
    // What is fsynced in a folder whose name is not durable may be gone after a power cut.
    for folder in named.into_iter().filter(|_| !planted(Bug::FolderNameNotSynced)) {
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match File::open(parent).and_then(|parent| parent.sync_all()) {
            // One that nobody but its owner may list: it was there before us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced.map_err(file_error("fsync the folder of", folder))?,
        }
    }
    Ok(())
}

fn mode(path: &Path) -> Result<u32, NodeError> {
    Ok(fs::metadata(path).map_err(file_error("look at", path))?.permissions().mode() & 0o7777)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), NodeError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(file_error("change the permissions of", path))
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
    use std::os::unix::fs::MetadataExt;

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
    fn a_group_is_let_through_to_nothing_that_was_open_before_and_is_shut_out_again() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::make(&folder.path().join("n1")).unwrap();
        let group = fs::metadata(data.root()).unwrap().gid();
        fs::create_dir(data.raft()).unwrap();
        set_mode(&data.raft(), 0o755).unwrap();
        fs::write(data.settings(), "").unwrap();
        set_mode(&data.settings(), 0o644).unwrap();
        data.let_through(Some(group)).unwrap();
        let modes = [data.root().to_owned(), data.raft(), data.packages(), data.local(), data.settings()];
        assert_eq!(modes.map(|path| mode(&path).unwrap()), [0o710, 0o700, 0o700, 0o700, 0o600]);
        data.let_through(None).unwrap();
        assert_eq!(mode(data.root()).unwrap(), 0o700);
        set_mode(data.root(), 0o750).unwrap();
        data.let_through(None).unwrap();
        assert_eq!(mode(data.root()).unwrap(), 0o750, "that was somebody else's wish");
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
