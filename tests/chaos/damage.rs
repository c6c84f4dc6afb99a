//! A bit that is turned in a file of a node, and turned back if the node has not put it right meanwhile.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::random::Random;
use crate::schedule::Place;

/// A bit that was turned.
#[derive(Debug)]
pub struct Damage {
    /// The node whose disk it is on.
    pub node: usize,
    /// What it is in.
    pub place: Place,
    /// The file.
    pub file: PathBuf,
    at: u64,
    damaged: u8,
    mask: u8,
    /// Of Raft's store: which one it was.
    raft_id: Option<String>,
}

impl Damage {
    /// Turns a bit in a file of that place below a data folder. `None`: there is no such file.
    pub fn turn(random: &mut Random, node: usize, data: &Path, place: Place) -> Result<Option<Self>> {
        let files = files(data, place);
        if files.is_empty() {
            return Ok(None);
        }
        let file = random.pick(&files).clone();
        let length = fs::metadata(&file)?.len();
        ensure!(length > 0, "{} is empty", file.display());
        // In the first half: the length of the last record of a log says by itself where the log ends, which is known.
        let at = random.next() % length.div_ceil(2);
        let mask = 1 << random.below(8);
        let mut byte = [0];
        File::open(&file)?.read_exact_at(&mut byte, at)?;
        let damaged = byte[0] ^ mask;
        write_byte(&file, at, damaged)?;
        Ok(Some(Self { node, place, file, at, damaged, mask, raft_id: raft_id(data) }))
    }

    /// Whether the node has put it right.
    pub fn is_mended(&self, data: &Path) -> bool {
        match self.place {
            Place::Raft => raft_id(data) != self.raft_id,
            Place::Packages | Place::Local => is_sound(&self.file),
        }
    }

    /// Turns the bit back, if the file is still the one in which it was turned.
    pub fn turn_back(&self) -> Result<()> {
        let mut byte = [0];
        let read = File::open(&self.file).and_then(|file| file.read_exact_at(&mut byte, self.at));
        // A file that is gone, or shorter, is another.
        if read.is_ok() && byte[0] == self.damaged && (self.place == Place::Raft || !is_sound(&self.file)) {
            write_byte(&self.file, self.at, byte[0] ^ self.mask)?;
        }
        Ok(())
    }
}

/// The files of a place that have something in them, in order.
fn files(data: &Path, place: Place) -> Vec<PathBuf> {
    let (folder, wanted): (_, fn(&str) -> bool) = match place {
        Place::Packages => ("packages", |name| is_signature(name)),
        Place::Local => ("local/modules", |name| is_signature(name)),
        Place::Raft => ("raft/db", |name| name.ends_with(".log") || name.ends_with(".sst") || name.starts_with("MANIFEST")),
    };
    let mut found = Vec::new();
    below(&data.join(folder), &mut found);
    found.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(wanted));
    found.retain(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0));
    found.sort();
    found
}

fn below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => below(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

fn is_signature(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a blob's bytes are those of its name, or it is not there.
pub fn is_sound(blob: &Path) -> bool {
    let Ok(bytes) = fs::read(blob) else { return true };
    blob.file_name().is_some_and(|name| *name == *blake3::hash(&bytes).to_hex().as_str())
}

fn raft_id(data: &Path) -> Option<String> {
    fs::read_to_string(data.join("raft/raft-id")).ok()
}

fn write_byte(path: &Path, at: u64, byte: u8) -> Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    fs::set_permissions(path, Permissions::from_mode(mode | 0o200))?;
    let written = File::options().write(true).open(path).and_then(|file| file.write_all_at(&[byte], at));
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    written.with_context(|| format!("writing {}", path.display()))
}
