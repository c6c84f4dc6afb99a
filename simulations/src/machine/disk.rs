//! The disks of simulated machines: real files, of which a power cut leaves what was fsynced.
//!
//! One idea: this program's `fsync` is ours. It notes what a file or folder holds at that moment; a cut puts the machine's folder back to
//! what was noted. Bytes and names are lost apart from each other, as on a real disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

static DISKS: Mutex<BTreeMap<PathBuf, Disk>> = Mutex::new(BTreeMap::new());

/// The folders of machines whose disk is full, and whether there is any: most writes need not look.
static FULL: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
static ANY_IS_FULL: AtomicBool = AtomicBool::new(false);

/// What a name in a folder stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    File { inode: u64, mode: u32 },
    Folder { inode: u64, mode: u32 },
    Link(PathBuf),
}

type Names = BTreeMap<std::ffi::OsString, Entry>;

/// What is durable of one machine's folder.
#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<u64, Vec<u8>>,
    folders: BTreeMap<u64, Names>,
}

fn disks() -> MutexGuard<'static, BTreeMap<PathBuf, Disk>> {
    DISKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on, `folder` is the disk of a machine. All that is in it is durable.
///
/// # Errors
/// It cannot be read.
pub fn adopt(folder: &Path) -> io::Result<()> {
    let mut disk = Disk::default();
    disk.take(folder)?;
    disks().insert(folder.to_owned(), disk);
    Ok(())
}

/// The power of the machine is cut: what was not fsynced is gone.
///
/// # Errors
/// The folder cannot be put back.
pub fn cut(folder: &Path) -> io::Result<()> {
    let mut disks = disks();
    let Some(disk) = disks.get_mut(folder) else { return Ok(()) };
    // What is put back was there before the disk was full.
    let is_full = FULL.lock().unwrap_or_else(PoisonError::into_inner).contains(folder);
    make_room(folder);
    let root = fs::metadata(folder)?.ino();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
    }
    let mut made = BTreeMap::new();
    disk.put_back(root, folder, &mut made)?;
    let mut again = Disk::default();
    again.take(folder)?;
    *disk = again;
    if is_full {
        fill(folder);
    }
    Ok(())
}

/// The disk of a machine is lost: its folder is empty, and nobody's disk until it is adopted again.
///
/// # Errors
/// The folder cannot be emptied.
pub fn lose(folder: &Path) -> io::Result<()> {
    disks().remove(folder);
    make_room(folder);
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Nothing more can be written to the disk of a machine.
pub fn fill(folder: &Path) {
    FULL.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
    ANY_IS_FULL.store(true, Ordering::Relaxed);
}

/// There is room on the disk of a machine again.
pub fn make_room(folder: &Path) {
    let mut full = FULL.lock().unwrap_or_else(PoisonError::into_inner);
    full.remove(folder);
    ANY_IS_FULL.store(!full.is_empty(), Ordering::Relaxed);
}

/// Whether a descriptor's file is on a disk that is full.
fn is_full(fd: libc::c_int) -> bool {
    if !ANY_IS_FULL.load(Ordering::Relaxed) {
        return false;
    }
    let Ok(path) = fs::read_link(format!("/proc/self/fd/{fd}")) else { return false };
    FULL.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|folder| path.starts_with(folder))
}

impl Disk {
    /// Notes all that is in a folder.
    fn take(&mut self, folder: &Path) -> io::Result<()> {
        self.note_folder(folder)?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            if metadata.is_dir() {
                self.take(&path)?;
            } else if metadata.is_file() {
                self.files.insert(metadata.ino(), fs::read(&path)?);
            }
        }
        Ok(())
    }

    fn note_folder(&mut self, folder: &Path) -> io::Result<()> {
        let mut names = Names::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = match fs::symlink_metadata(entry.path()) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let (inode, mode) = (metadata.ino(), metadata.permissions().mode() & 0o7777);
            let what = if metadata.is_dir() {
                Entry::Folder { inode, mode }
            } else if metadata.is_symlink() {
                Entry::Link(fs::read_link(entry.path())?)
            } else {
                Entry::File { inode, mode }
            };
            names.insert(entry.file_name(), what);
        }
        self.folders.insert(fs::metadata(folder)?.ino(), names);
        Ok(())
    }

    fn put_back(&self, inode: u64, at: &Path, made: &mut BTreeMap<u64, PathBuf>) -> io::Result<()> {
        let Some(names) = self.folders.get(&inode) else { return Ok(()) };
        for (name, entry) in names {
            let path = at.join(name);
            match entry {
                Entry::Link(to) => symlink(to, &path)?,
                Entry::Folder { inode, mode } => {
                    fs::create_dir(&path)?;
                    self.put_back(*inode, &path, made)?;
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
                }
                Entry::File { inode, mode } => {
                    if let Some(first) = made.get(inode) {
                        fs::hard_link(first, &path)?;
                        continue;
                    }
                    // A name without its bytes: the file is there, and empty.
                    fs::write(&path, self.files.get(inode).map(Vec::as_slice).unwrap_or_default())?;
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
                    made.insert(*inode, path);
                }
            }
        }
        Ok(())
    }
}

/// Notes what a descriptor's file or folder holds, if it is on a machine's disk.
fn note(fd: libc::c_int) -> io::Result<()> {
    let mut disks = disks();
    if disks.is_empty() {
        return Ok(());
    }
    let path = fs::read_link(format!("/proc/self/fd/{fd}"))?;
    let Some((_, disk)) = disks.iter_mut().find(|(root, _)| path.starts_with(root)) else { return Ok(()) };
    let metadata = fs::metadata(format!("/proc/self/fd/{fd}"))?;
    if metadata.is_dir() {
        return disk.note_folder(&path);
    }
    disk.files.insert(metadata.ino(), fs::read(format!("/proc/self/fd/{fd}"))?);
    Ok(())
}

fn answer(noted: io::Result<()>) -> libc::c_int {
    match noted {
        Ok(()) => 0,
        Err(error) => fail(error.raw_os_error().unwrap_or(libc::EIO)) as libc::c_int,
    }
}

fn fail(errno: libc::c_int) -> libc::ssize_t {
    // SAFETY: errno is this thread's own.
    #[allow(unsafe_code)]
    unsafe {
        *libc::__errno_location() = errno;
    }
    -1
}

/// Takes the place of the system's.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: libc::c_int) -> libc::c_int {
    answer(note(fd))
}

/// Takes the place of the system's.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: libc::c_int) -> libc::c_int {
    answer(note(fd))
}

/// Takes the place of the system's.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn write(fd: libc::c_int, from: *const libc::c_void, bytes: libc::size_t) -> libc::ssize_t {
    if is_full(fd) {
        return fail(libc::ENOSPC);
    }
    // SAFETY: what was to be written is, by the system.
    unsafe { libc::syscall(libc::SYS_write, fd, from, bytes) as libc::ssize_t }
}

/// Takes the place of the system's: what is to be copied is copied by reading and writing.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn copy_file_range(
    _: libc::c_int,
    _: *mut libc::off64_t,
    _: libc::c_int,
    _: *mut libc::off64_t,
    _: libc::size_t,
    _: libc::c_uint,
) -> libc::ssize_t {
    fail(libc::ENOSYS)
}
