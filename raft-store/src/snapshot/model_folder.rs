//! The folder of a [`ModelDisk`]: files in memory that lose what was not synced.
//!
//! One idea: bytes and names are lost apart from each other, as on a real disk. A file that was renamed but not synced may
//! come back short under its new name, and one that was synced may come back under its old one.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use super::folder::{ByteSink, ByteStream, Folder};
use crate::engine::model::{Disk, ModelDisk};

#[derive(Debug, Clone, Default)]
struct Inode {
    bytes: Vec<u8>,
    synced: usize,
}

type Names = BTreeMap<String, u64>;

/// The files of a disk.
#[derive(Debug, Default)]
pub(crate) struct Files {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    names: Names,
    synced_names: Names,
    /// The names after each change since they were last synced.
    unsynced_names: Vec<Names>,
}

impl Files {
    fn inode(&mut self, name: &str) -> io::Result<&mut Inode> {
        let found = self.names.get(name).and_then(|id| self.inodes.get_mut(id));
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{name}: no such file")))
    }

    fn names_changed(&mut self) {
        self.unsynced_names.push(self.names.clone());
    }

    pub(crate) fn lose_unsynced(&mut self, disk: &mut Disk) {
        let kept = disk.draw(self.unsynced_names.len() + 1);
        if let Some(last) = kept.checked_sub(1) {
            self.synced_names = self.unsynced_names[last].clone();
        }
        self.unsynced_names.clear();
        self.names = self.synced_names.clone();
        let named: std::collections::BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|id, _| named.contains(id));
        for inode in self.inodes.values_mut() {
            let more = disk.draw(inode.bytes.len() - inode.synced + 1);
            inode.bytes.truncate(inode.synced + more);
            inode.synced = inode.bytes.len();
        }
    }
}

/// The folder of a model disk.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    disk: ModelDisk,
    boot: u64,
}

impl ModelFolder {
    pub(crate) fn new(disk: ModelDisk, boot: u64) -> Self {
        Self { disk, boot }
    }

    fn change<T>(&self, act: impl FnOnce(&mut Files) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.lock();
        disk.take_step(self.boot).map_err(io::Error::other)?;
        act(&mut disk.files)
    }

    fn read<T>(&self, act: impl FnOnce(&mut Files) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.lock();
        disk.check_power(self.boot).map_err(io::Error::other)?;
        act(&mut disk.files)
    }

    fn contents(&self, name: &str) -> io::Result<Cursor<Vec<u8>>> {
        self.read(|files| Ok(Cursor::new(files.inode(name)?.bytes.clone())))
    }

    fn writer(&self, name: &str) -> io::Result<ModelWriter> {
        let inode = self.change(|files| {
            let id = files.next;
            files.next += 1;
            files.inodes.insert(id, Inode::default());
            files.names.insert(name.into(), id);
            files.names_changed();
            Ok(id)
        })?;
        Ok(ModelWriter { folder: self.clone(), inode })
    }

    /// Changes one bit of a file, as a bad disk would.
    pub fn damage(&self, name: &str, byte: usize) -> io::Result<()> {
        self.read(|files| {
            let inode = files.inode(name)?;
            let byte = byte % inode.bytes.len().max(1);
            if let Some(byte) = inode.bytes.get_mut(byte) {
                *byte ^= 1;
            }
            Ok(())
        })
    }
}

struct ModelWriter {
    folder: ModelFolder,
    inode: u64,
}

impl Write for ModelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let inode = self.inode;
        self.folder.change(|files| {
            // A file that was removed while it is open takes bytes that nobody will see.
            if let Some(inode) = files.inodes.get_mut(&inode) {
                inode.bytes.extend_from_slice(bytes);
            }
            Ok(bytes.len())
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncWrite for ModelWriter {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Folder for ModelFolder {
    fn create(&self, name: &str) -> io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(self.writer(name)?))
    }

    fn create_sink(&self, name: &str) -> io::Result<ByteSink> {
        Ok(Box::new(self.writer(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.contents(name)?))
    }

    fn open_stream(&self, name: &str) -> io::Result<ByteStream> {
        Ok(Box::new(self.contents(name)?))
    }

    fn sync_file(&self, name: &str) -> io::Result<()> {
        self.change(|files| {
            let inode = files.inode(name)?;
            inode.synced = inode.bytes.len();
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|files| {
            files.inode(from)?;
            if let Some(id) = files.names.remove(from) {
                files.names.insert(to.into(), id);
            }
            files.names_changed();
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|files| {
            files.inode(name)?;
            files.names.remove(name);
            files.names_changed();
            Ok(())
        })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.read(|files| Ok(files.names.keys().cloned().collect()))
    }

    fn sync(&self) -> io::Result<()> {
        self.change(|files| {
            files.synced_names = files.names.clone();
            files.unsynced_names.clear();
            Ok(())
        })
    }

    fn describe(&self, name: &str) -> String {
        name.to_string()
    }
}
