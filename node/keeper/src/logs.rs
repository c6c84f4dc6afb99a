//! Where children's output goes. Its one idea: a child writes into a FIFO that it holds open for reading too, so that no
//! death of a keeper or agent is a SIGPIPE to it; whichever keeper lives reads the FIFO by its path and writes the log.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkfifoat};
use rustix::io::Errno;

use crate::spec::{LogSpec, rotated};

/// What is read from one FIFO before the others have their turn, in bytes.
const TURN: usize = 64 * 1024;
/// What the system is asked to hold for a child whose keeper is away, in bytes.
const PIPE_BYTES: usize = 256 * 1024;
/// Most turns that the output of a child that ended gets at once: what a pipe can hold (1 MiB).
const LAST_TURNS: usize = 16;

/// The reading end of a child's output.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    reader: OwnedFd,
}

impl Output {
    /// Opens the FIFO at this path, and makes it if it is not there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        if !fs::symlink_metadata(path)?.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is not a FIFO; move it away", path.display())));
        }
        let reader = rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        // Some systems allow an unprivileged user no more pages: then the usual 64 KiB it is.
        let _ = rustix::pipe::fcntl_setpipe_size(&reader, PIPE_BYTES);
        Ok(Self { path: path.into(), reader })
    }

    /// A descriptor for the child: of an open file of its own, since non-blocking is a property of that.
    pub(crate) fn for_child(&self) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(&self.path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Readable when there is output.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Moves one turn of what is there to the log. Answers whether there was any.
    pub(crate) fn drain(&self, log: &mut LogFile) -> io::Result<Drained> {
        let mut buffer = [0; TURN];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.reader, &mut buffer)) {
            Ok(0) | Err(Errno::AGAIN) => Ok(Drained::Nothing),
            Ok(count) => {
                log.write(&buffer[..count]);
                Ok(Drained::Some)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Moves what a child left behind when it ended.
    pub(crate) fn drain_rest(&self, log: &mut LogFile) -> io::Result<()> {
        for _ in 0..LAST_TURNS {
            if self.drain(log)? == Drained::Nothing {
                break;
            }
        }
        Ok(())
    }

    /// Removes the FIFO.
    pub(crate) fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether there was any output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    Some,
    Nothing,
}

/// One log file, with its limit. What cannot be written is lost and counted: a full disk stops no service.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    most: u64,
    file: Option<File>,
    size: u64,
    /// The last byte written ended a line.
    whole_lines: LineEnd,
    lost: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    Yes,
    No,
}

impl LogFile {
    fn new(spec: &LogSpec) -> Self {
        Self { path: spec.path.clone(), most: spec.most_bytes, file: None, size: 0, whole_lines: LineEnd::Yes, lost: 0 }
    }

    /// Writes, beginning a new file where this one would grow too large; at the end of a line if there is one.
    fn write(&mut self, bytes: &[u8]) {
        if self.lost > 0 {
            let note = format!("[tribune: {} bytes of output are lost here: they could not be written]\n", self.lost);
            if self.try_write(note.as_bytes()).is_err() {
                self.lost += bytes.len() as u64;
                return;
            }
            tracing::info!(log = %self.path.display(), lost = self.lost, "the log can be written again");
            self.lost = 0;
        }
        if let Err((error, lost)) = self.try_write(bytes) {
            tracing::warn!(log = %self.path.display(), %error, "output is lost: the log cannot be written");
            self.lost = lost;
        }
    }

    /// Answers how many bytes were not written, and why.
    fn try_write(&mut self, mut bytes: &[u8]) -> Result<(), (io::Error, u64)> {
        while !bytes.is_empty() {
            let step = self.ready(bytes).and_then(|fits| {
                let Some(file) = self.file.as_mut() else { return Ok(0) };
                file.write(&bytes[..fits])
            });
            match step {
                Ok(0) => return Err((io::ErrorKind::WriteZero.into(), bytes.len() as u64)),
                Ok(count) => {
                    self.whole_lines = if bytes[count - 1] == b'\n' { LineEnd::Yes } else { LineEnd::No };
                    self.size += count as u64;
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Opened anew the next time: the folder may have been moved or mounted over.
                    self.file = None;
                    return Err((error, bytes.len() as u64));
                }
            }
        }
        Ok(())
    }

    /// Opens the file, rotates it if it is full, and answers how many of the bytes fit into it: at least one.
    fn ready(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() {
            self.open()?;
        }
        loop {
            let room = usize::try_from(self.most.saturating_sub(self.size)).unwrap_or(usize::MAX);
            if bytes.len() <= room {
                return Ok(bytes.len());
            }
            let whole = bytes[..room].iter().rposition(|byte| *byte == b'\n').map(|end| end + 1);
            match (whole, self.whole_lines) {
                (Some(whole), _) => return Ok(whole),
                // A line that does not fit into what is left, but may into the next file.
                (None, LineEnd::Yes) if self.size > 0 => self.rotate()?,
                (None, _) if room > 0 => return Ok(room),
                (None, _) => self.rotate()?,
            }
        }
    }

    fn open(&mut self) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        // Not blocking, so that a FIFO at that path does not hold the keeper; it is refused below.
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(nonblock).open(&self.path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
        }
        self.size = metadata.len();
        self.file = Some(file);
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        match fs::rename(&self.path, rotated(&self.path)) {
            Ok(()) => {}
            // Someone removed it: then there is nothing to keep.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.file = None;
        self.open()
    }
}

/// The log files of all children, by path: two instances of one key write to one file.
#[derive(Debug, Default)]
pub(crate) struct Logs(HashMap<PathBuf, LogFile>);

impl Logs {
    /// The log file of this spec; its limit is the one last asked for.
    pub(crate) fn get(&mut self, spec: &LogSpec) -> &mut LogFile {
        let log = self.0.entry(spec.path.clone()).or_insert_with(|| LogFile::new(spec));
        log.most = spec.most_bytes;
        log
    }

    /// Closes those that are not among the paths.
    pub(crate) fn keep_only(&mut self, paths: &HashSet<&Path>) {
        self.0.retain(|path, _| paths.contains(path.as_path()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn log(folder: &Path, most_bytes: u64) -> LogFile {
        LogFile::new(&LogSpec { path: folder.join("deep/er/log"), most_bytes })
    }

    fn text(log: &LogFile) -> String {
        fs::read_to_string(&log.path).unwrap()
    }

    fn old_text(log: &LogFile) -> String {
        fs::read_to_string(rotated(&log.path)).unwrap()
    }

    #[test]
    fn a_log_rotates_between_lines_and_keeps_one_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path(), 20);
        log.write(b"one one one\ntwo two two\n");
        assert_eq!((old_text(&log).as_str(), text(&log).as_str()), ("one one one\n", "two two two\n"));
        log.write(b"three three\nfour");
        assert_eq!((old_text(&log).as_str(), text(&log).as_str()), ("two two two\n", "three three\nfour"));
    }

    #[test]
    fn a_line_longer_than_a_file_is_cut_and_no_file_exceeds_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path(), 20);
        log.write(&[b'x'; 50]);
        assert_eq!((old_text(&log).len(), text(&log).len()), (20, 10));
        log.write(b"yyyyyyyyyy");
        assert_eq!(text(&log).len(), 20);
    }

    #[test]
    fn a_log_of_before_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        log(folder.path(), 20).write(b"before\n");
        let mut log = log(folder.path(), 20);
        log.write(b"after\n");
        assert_eq!(text(&log), "before\nafter\n");
    }

    #[test]
    fn output_that_cannot_be_written_is_counted_and_the_log_says_so_later() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path(), 4096);
        let in_the_way = folder.path().join("deep");
        fs::write(&in_the_way, "").unwrap();
        log.write(b"lost\n");
        log.write(b"lost too\n");
        fs::remove_file(&in_the_way).unwrap();
        log.write(b"kept\n");
        assert_eq!(text(&log), "[tribune: 14 bytes of output are lost here: they could not be written]\nkept\n");
    }

    #[test]
    fn what_a_child_writes_reaches_the_log_and_closing_the_reader_breaks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = log(folder.path(), 4096);
        let output = Output::open(&folder.path().join("fifo")).unwrap();
        let mut child = File::from(output.for_child().unwrap());
        child.write_all(b"hello\n").unwrap();
        drop(output);
        child.write_all(b"nobody reads\n").unwrap();
        let output = Output::open(&folder.path().join("fifo")).unwrap();
        output.drain_rest(&mut log).unwrap();
        assert_eq!(text(&log), "hello\nnobody reads\n");
        output.remove();
        assert!(!folder.path().join("fifo").exists());
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(Output::open(&folder.path().join("file")).is_err());
    }
}
