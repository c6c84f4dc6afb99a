//! What a keeper leaves for the next one, should it die. Its one idea: the file's name holds the id of the machine's present
//! start, so that a file of before that is never mistaken for news, and no fsync is needed: a process that dies loses no write.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::child::{AfterStop, Child, Phase};
use crate::clock::Moment;
use crate::process::{ProcessId, boot_id};
use crate::protocol::Exit;
use crate::restart::Ending;
use crate::sockets::SavedSocket;
use crate::spec::ChildSpec;

/// The form of the file that this keeper writes and reads.
const VERSION: u32 = 1;

/// All that the next keeper needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) version: u32,
    /// Names the time from one node restart to the next.
    pub(crate) run: String,
    /// The agent, if it may live.
    pub(crate) agent: Option<ProcessId>,
    /// The highest order of a child.
    pub(crate) order: u64,
    pub(crate) children: Vec<SavedChild>,
    pub(crate) sockets: Vec<SavedSocket>,
}

impl Saved {
    /// A run in which nothing was started yet.
    pub(crate) fn new(run: String) -> Self {
        Self { version: VERSION, run, agent: None, order: 0, children: Vec::new(), sockets: Vec::new() }
    }

    /// Every process that was known.
    pub(crate) fn processes(&self) -> impl Iterator<Item = ProcessId> {
        self.agent.into_iter().chain(self.children.iter().filter_map(|child| child.phase.process()))
    }
}

/// One child on paper.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedChild {
    pub(crate) spec: ChildSpec,
    pub(crate) order: u64,
    pub(crate) endings: Vec<Ending>,
    pub(crate) count: u32,
    pub(crate) phase: SavedPhase,
}

/// As [`Phase`], with processes by their ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SavedPhase {
    Starting { process: ProcessId },
    Running { process: ProcessId, since: Moment },
    Stopping { process: ProcessId, kill_at: Option<Moment>, then: AfterStop },
    Waiting { at: Moment, last: Exit },
    Stopped { last: Option<Exit> },
    Broken { exits: u32, last: Exit },
}

impl SavedPhase {
    fn process(&self) -> Option<ProcessId> {
        match self {
            Self::Starting { process } | Self::Running { process, .. } | Self::Stopping { process, .. } => Some(*process),
            Self::Waiting { .. } | Self::Stopped { .. } | Self::Broken { .. } => None,
        }
    }
}

impl From<&Child> for SavedChild {
    fn from(child: &Child) -> Self {
        let phase = match &child.phase {
            Phase::Starting { process, .. } => SavedPhase::Starting { process: process.id() },
            Phase::Running { process, since } => SavedPhase::Running { process: process.id(), since: *since },
            Phase::Stopping { process, kill_at, then } => {
                SavedPhase::Stopping { process: process.id(), kill_at: *kill_at, then: *then }
            }
            Phase::Waiting { at, last } => SavedPhase::Waiting { at: *at, last: last.clone() },
            Phase::Stopped { last } => SavedPhase::Stopped { last: last.clone() },
            Phase::Broken { exits, last } => SavedPhase::Broken { exits: *exits, last: last.clone() },
        };
        Self { spec: child.spec.clone(), order: child.order, endings: child.endings.clone(), count: child.count, phase }
    }
}

/// Why the keeper's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A keeper lives there.
    #[error(
        "another keeper{} runs on {}: this node runs already; stop it first, or use another data folder",
        named(.pid.as_deref()), .folder.display()
    )]
    Taken {
        /// The folder.
        folder: PathBuf,
        /// The other keeper, if it can be read.
        pid: Option<String>,
    },
    /// What a keeper left cannot be understood, and services may run.
    #[error(
        "{} cannot be read: {reason}; services of this node may run: end them by hand, then remove that file", .path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system refused.
    #[error("{}: {source}", .path.display())]
    System {
        /// What it is about.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn named(pid: Option<&str>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// The keeper's folder, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    state: PathBuf,
    _lock: File,
}

/// Keeps a node from running for as long as this lives: for who works on what it has on disk.
#[derive(Debug)]
pub struct Hold {
    _lock: File,
}

impl Hold {
    /// Takes the place of the keeper in its folder, which is made where it is not there.
    ///
    /// # Errors
    /// The node runs, or the folder cannot be written.
    pub fn take(folder: &Path) -> Result<Self, FolderError> {
        take_lock(folder).map(|lock| Self { _lock: lock })
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::System { path, source }
}

fn take_lock(path: &Path) -> Result<File, FolderError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path.join("fifos")).map_err(at(path))?;
    let lock_path = path.join("lock");
    let mut lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(at(&lock_path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let pid = fs::read_to_string(&lock_path).ok().map(|pid| pid.trim().to_owned()).filter(|pid| !pid.is_empty());
            return Err(FolderError::Taken { folder: path.into(), pid });
        }
        Err(error) => return Err(at(&lock_path)(error.into())),
    }
    // Only for the message above: nothing depends on it.
    let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
    Ok(lock)
}

impl Folder {
    /// Makes the folder where it is not there, and locks it.
    pub(crate) fn lock(path: &Path) -> Result<Self, FolderError> {
        let lock = take_lock(path)?;
        let boot = boot_id().map_err(at(Path::new("/proc/sys/kernel/random/boot_id")))?;
        let folder = Self { path: path.into(), state: path.join(format!("state-{boot}.json")), _lock: lock };
        folder.forget_other_starts().map_err(at(path))?;
        Ok(folder)
    }

    /// Where children's FIFOs are.
    pub(crate) fn fifos(&self) -> PathBuf {
        self.path.join("fifos")
    }

    /// What a keeper left behind since the machine started, if one did.
    pub(crate) fn load(&self) -> Result<Option<Saved>, FolderError> {
        let unreadable = |reason: String| FolderError::Unreadable { path: self.state.clone(), reason };
        let text = match fs::read(&self.state) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FolderError::System { path: self.state.clone(), source }),
        };
        let saved: Saved = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        if saved.version != VERSION {
            return Err(unreadable(format!("it is of version {}, and this keeper reads {VERSION}", saved.version)));
        }
        Ok(Some(saved))
    }

    /// Writes it in the place of what was there, as a whole or not at all.
    pub(crate) fn save(&self, saved: &Saved) -> io::Result<()> {
        let text = serde_json::to_vec(saved)?;
        let new = self.path.join("state.new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&text)?;
        fs::rename(&new, &self.state)
    }

    /// Forgets everything: the next keeper begins a new run.
    pub(crate) fn clear(&self) -> io::Result<()> {
        match fs::remove_file(&self.state) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for entry in fs::read_dir(self.fifos())? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    fn forget_other_starts(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("state-") && name.ends_with(".json") && path != self.state {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::spec::ChildId;

    fn some() -> Saved {
        let process = ProcessId { pid: 77, start_time: 1 };
        let child = SavedChild {
            spec: ChildSpec::new(ChildId::new("a/b", 1), "/bin/true", "/", "/var/log/b"),
            order: 1,
            endings: vec![Ending { at: Moment::from_millis(5), lived_ms: 4 }],
            count: 1,
            phase: SavedPhase::Stopping { process, kill_at: None, then: AfterStop::Start },
        };
        Saved { children: vec![child], agent: Some(ProcessId { pid: 78, start_time: 2 }), ..Saved::new("run".into()) }
    }

    #[test]
    fn what_is_saved_is_loaded_until_it_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::lock(dir.path()).unwrap();
        assert_eq!(folder.load().unwrap(), None);
        folder.save(&some()).unwrap();
        assert_eq!(folder.load().unwrap(), Some(some()));
        assert_eq!(some().processes().map(|process| process.pid).collect::<Vec<_>>(), [78, 77]);
        fs::write(folder.fifos().join("a.1"), "").unwrap();
        folder.clear().unwrap();
        assert_eq!(folder.load().unwrap(), None);
        assert_eq!(fs::read_dir(folder.fifos()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_has_one_keeper_and_the_second_is_told_which() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::lock(dir.path()).unwrap();
        let refused = Folder::lock(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("(pid {})", std::process::id())), "{refused}");
        drop(first);
        Folder::lock(dir.path()).unwrap();
    }

    #[test]
    fn the_state_of_another_start_of_the_machine_is_forgotten_and_an_unreadable_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("state-00000000-0000-0000-0000-000000000000.json");
        fs::write(&other, "torn by a power failure").unwrap();
        let folder = Folder::lock(dir.path()).unwrap();
        assert!(!other.exists());
        fs::write(&folder.state, "{").unwrap();
        assert!(matches!(folder.load(), Err(FolderError::Unreadable { .. })));
        folder.save(&Saved { version: 9, ..some() }).unwrap();
        assert!(folder.load().unwrap_err().to_string().contains("version 9"));
    }
}
