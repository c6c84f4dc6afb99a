//! Reads an archive, streamed, and hands out only entries that are right and in order.
//!
//! One idea: everything an archive can get wrong is refused here, for whoever makes something of the entries and for
//! who only wants to know that they are right.

use std::io::{self, BufReader, Read, Write};

use super::{
    ArchiveError, END, EXECUTABLE, FILE, FOLDER, LINK, MAGIC, MAX_ENTRIES, MAX_PATH_BYTES, Measure, check_link, check_path, order,
};
use crate::digest::{CopyError, DigestReader, copy_up_to, fill};

/// Where an entry is: checked, and in a folder that was handed out before.
pub(super) struct Place<'a> {
    /// The last component of its path.
    pub(super) name: &'a str,
    /// How many folders it lies in, not counting the root.
    pub(super) depth: usize,
}

/// Whether a file can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Plain,
    Executable,
}

/// Who is handed the entries.
pub(super) trait Entries {
    /// Takes a file's contents.
    type File: Write;
    fn folder(&mut self, place: &Place<'_>) -> io::Result<()>;
    fn file(&mut self, place: &Place<'_>, kind: FileKind) -> io::Result<Self::File>;
    fn link(&mut self, place: &Place<'_>, target: &str) -> io::Result<()>;
}

/// Makes nothing of them.
struct Nothing;

impl Entries for Nothing {
    type File = io::Sink;
    fn folder(&mut self, _: &Place<'_>) -> io::Result<()> {
        Ok(())
    }
    fn file(&mut self, _: &Place<'_>, _: FileKind) -> io::Result<io::Sink> {
        Ok(io::sink())
    }
    fn link(&mut self, _: &Place<'_>, _: &str) -> io::Result<()> {
        Ok(())
    }
}

/// Reads an archive of so many bytes only to see that it could be unpacked; returns what it is.
pub fn check(input: impl Read, size: u64) -> Result<Measure, ArchiveError> {
    read(input, size, &mut Nothing)
}

/// Reads an archive of so many bytes, and hands its entries to `entries`; returns what it is.
pub(super) fn read(input: impl Read, size: u64, entries: &mut impl Entries) -> Result<Measure, ArchiveError> {
    let input = DigestReader::new(BufReader::with_capacity(64 << 10, input.take(size)));
    let mut reader = Reader { input, open: Vec::new(), last: None };
    let mut magic = [0; MAGIC.len()];
    reader.exact(&mut magic)?;
    if &magic != MAGIC {
        return Err(ArchiveError::Malformed { at: 0, problem: "it does not begin like a folder's archive".into() });
    }
    for count in 0.. {
        let at = reader.input.digest.length();
        let mut kind = [0];
        reader.exact(&mut kind)?;
        if kind[0] == END {
            break;
        }
        if count == MAX_ENTRIES {
            return Err(ArchiveError::Malformed { at, problem: format!("it has more than {MAX_ENTRIES} entries") });
        }
        reader.entry(kind[0], entries).map_err(|error| error.at(at))?;
    }
    let at = reader.input.digest.length();
    let measure = Measure { signature: reader.input.digest.signature(), size: at };
    match fill(&mut reader.input, &mut [0]).map_err(ArchiveError::Input)? {
        0 => Ok(measure),
        _ => Err(ArchiveError::Malformed { at, problem: "there are bytes after its end".into() }),
    }
}

struct Reader<R> {
    input: DigestReader<R>,
    /// The paths of the folder that the last entry lies in or is, and of its parents but the root.
    open: Vec<String>,
    /// The path of the last entry.
    last: Option<String>,
}

impl<R: Read> Reader<R> {
    fn entry(&mut self, kind: u8, entries: &mut impl Entries) -> Result<(), Problem> {
        let path = self.text()?;
        check_path(&path).map_err(|problem| Problem::Entry(format!("{path:?} {problem}")))?;
        if self.last.as_deref().is_some_and(|last| order(last, &path).is_ge()) {
            return Err(Problem::Entry(format!("{path:?} is not in order; entries are sorted and there once")));
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        while self.open.last().is_some_and(|open| open != parent) {
            self.open.pop();
        }
        if self.open.last().map_or("", String::as_str) != parent {
            return Err(Problem::Entry(format!("{path:?} lies in a folder that is not there")));
        }
        let place = Place { name, depth: self.open.len() };
        let made = |source| ArchiveError::File { path: (&path).into(), doing: "made", source };
        match kind {
            FOLDER => {
                entries.folder(&place).map_err(made)?;
                self.open.push(path.clone());
            }
            FILE | EXECUTABLE => {
                let kind = if kind == FILE { FileKind::Plain } else { FileKind::Executable };
                let file = entries.file(&place, kind).map_err(made)?;
                self.contents(file, &path)?;
            }
            LINK => {
                let target = self.text()?;
                check_link(&path, &target).map_err(|problem| Problem::Entry(format!("{path:?} {problem}")))?;
                entries.link(&place, &target).map_err(made)?;
            }
            other => return Err(Problem::Entry(format!("{path:?} is of the unknown kind {other}"))),
        }
        self.last = Some(path);
        Ok(())
    }

    fn contents(&mut self, mut file: impl Write, path: &str) -> Result<(), Problem> {
        let mut size = [0; 8];
        self.exact(&mut size)?;
        let size = u64::from_le_bytes(size);
        let copied = copy_up_to(&mut self.input, &mut file, size).map_err(|error| match error {
            CopyError::Input(source) => ArchiveError::Input(source),
            CopyError::Output(source) => ArchiveError::File { path: path.into(), doing: "written", source },
        })?;
        if copied == size { Ok(()) } else { Err(self.cut().into()) }
    }

    fn text(&mut self) -> Result<String, Problem> {
        let mut length = [0; 2];
        self.exact(&mut length)?;
        let length = usize::from(u16::from_le_bytes(length));
        if length > MAX_PATH_BYTES {
            return Err(Problem::Entry(format!("a path has {length} bytes; at most {MAX_PATH_BYTES} are allowed")));
        }
        let mut bytes = vec![0; length];
        self.exact(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| Problem::Entry("a path is not UTF-8".into()))
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        let filled = fill(&mut self.input, buffer).map_err(ArchiveError::Input)?;
        if filled == buffer.len() { Ok(()) } else { Err(self.cut()) }
    }

    fn cut(&self) -> ArchiveError {
        ArchiveError::Malformed {
            at: self.input.digest.length(),
            problem: "it ends here, within an entry; it is cut short".into(),
        }
    }
}

/// What is wrong with an entry, before it is known where the entry began.
enum Problem {
    Entry(String),
    Other(ArchiveError),
}

impl From<ArchiveError> for Problem {
    fn from(error: ArchiveError) -> Self {
        Problem::Other(error)
    }
}

impl Problem {
    fn at(self, at: u64) -> ArchiveError {
        match self {
            Problem::Entry(problem) => ArchiveError::Malformed { at, problem },
            Problem::Other(error) => error,
        }
    }
}
