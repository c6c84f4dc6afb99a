//! The bytes of a backup.
//!
//! One idea: parts, each with its kind and length before it and its BLAKE3 behind it, and at the end the BLAKE3 of all that came before;
//! so it is written and read in one pass, and a cut or a turned bit shows.
//!
//! ```text
//! "TRIBBACK"  format: u16  ( kind: u8  length: u64  bytes  BLAKE3 )*  0: u8  parts: u64  BLAKE3
//! ```
//! Numbers are big-endian. The first part says what the backup is of, the second is the record, in the form of a snapshot; each one after
//! them is a module, whose BLAKE3 is its signature.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use tribune_p2p::{Hash, Hasher};
use tribune_raft_store::model::{ClusterId, NodeName, Timestamp};

pub(super) const MAGIC: &[u8; 8] = b"TRIBBACK";
pub(super) const FORMAT: u16 = 1;
/// The longest first part: it has the names of packages in it.
const MAX_ABOUT: u64 = 16 << 20;
/// The most parts: more modules than any record has.
const MAX_PARTS: u64 = 10_000_000;
/// How much is read at a time.
const STEP: usize = 256 << 10;
/// What a part has beside its bytes, in bytes.
pub(super) const AROUND: u64 = 1 + 8 + 32;
/// The bytes before the first part, and those after the last.
pub(super) const EDGES: u64 = 8 + 2 + 1 + 8 + 32;

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What the backup is of: an [`About`] as JSON.
    About,
    /// The record.
    Record,
    /// The bytes of a module.
    Module,
}

impl Kind {
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::About => 1,
            Self::Record => 2,
            Self::Module => 3,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::About, Self::Record, Self::Module].into_iter().find(|kind| kind.byte() == byte)
    }
}

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its recovery epoch.
    pub epoch: u64,
    /// The node that wrote it.
    pub node: NodeName,
    /// The version of Tribune that wrote it.
    pub version: String,
    /// When.
    pub made_at: Timestamp,
    /// The last log entry that is in the record.
    pub index: u64,
    /// When the record was last written to.
    pub last_written: Timestamp,
    /// How many modules are in it.
    pub modules: u64,
    /// Packages, as `name version`, of which no sound copy of every module could be found: what lacks is not in it.
    pub incomplete: Vec<String>,
}

/// Why a file is not a backup that can be used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It does not begin like one.
    #[error("it is no backup of Tribune")]
    Magic,
    /// Its format is unknown.
    #[error("it has format {0}, and this build of Tribune reads format {FORMAT}; it was written by a newer one, use that")]
    Format(u16),
    /// A part is none that can be there.
    #[error("part {part} of it {why}")]
    Part {
        /// Which, from 1.
        part: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A hash is wrong.
    #[error("part {part} of it does not have the BLAKE3 that follows it: it was damaged")]
    Damaged {
        /// Which, from 1.
        part: u64,
    },
    /// The hash at the end is wrong, or the number of parts.
    #[error("its end does not fit what comes before: it was damaged")]
    End,
    /// Something follows the end.
    #[error("something follows its end")]
    Trailing,
    /// It ends too early.
    #[error("it is cut short")]
    Short,
    /// It cannot be read or written.
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for FormatError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Short } else { Self::Io(error) }
    }
}

/// Reads a backup, part by part.
pub struct Reader<R> {
    from: R,
    all: Hasher,
    part: u64,
    position: u64,
}

impl<R: Read> Reader<R> {
    /// Reads how it begins.
    ///
    /// # Errors
    /// It is no backup, or of a newer format.
    pub fn begin(from: R) -> Result<Self, FormatError> {
        let mut reader = Self { from, all: Hasher::new(), part: 0, position: 0 };
        if reader.array::<8>()? != *MAGIC {
            return Err(FormatError::Magic);
        }
        match u16::from_be_bytes(reader.array()?) {
            FORMAT => Ok(reader),
            other => Err(FormatError::Format(other)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        self.took(&bytes);
        Ok(bytes)
    }

    fn took(&mut self, bytes: &[u8]) {
        self.all.update(bytes);
        self.position += bytes.len() as u64;
    }

    /// How many bytes were read.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn wrong(&self, why: impl Into<String>) -> FormatError {
        FormatError::Part { part: self.part, why: why.into() }
    }

    /// The kind and length of the next part, whose bytes are to be read next; `None` once the end was read and found right.
    ///
    /// # Errors
    /// It is damaged, or cut short.
    pub fn next_part(&mut self) -> Result<Option<(Kind, u64)>, FormatError> {
        let [byte] = self.array::<1>()?;
        if byte == 0 {
            self.end()?;
            return Ok(None);
        }
        self.part += 1;
        let kind = Kind::of(byte).ok_or_else(|| self.wrong(format!("is of kind {byte}, which there is not")))?;
        let expected = match self.part {
            1 => Kind::About,
            2 => Kind::Record,
            _ => Kind::Module,
        };
        if kind != expected || self.part > MAX_PARTS {
            return Err(self.wrong(format!("is of another kind than {expected:?}")));
        }
        let length = u64::from_be_bytes(self.array()?);
        if kind == Kind::About && length > MAX_ABOUT {
            return Err(self.wrong(format!("has {length} bytes; at most {MAX_ABOUT} are possible")));
        }
        Ok(Some((kind, length)))
    }

    /// Copies the bytes of the part that is next, and gives their BLAKE3, which was found right.
    ///
    /// # Errors
    /// They are damaged or cut short, or cannot be written: what was written is not to be used then.
    pub fn copy(&mut self, length: u64, mut to: impl Write) -> Result<Hash, FormatError> {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; STEP];
        let mut left = length;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(STEP).min(STEP);
            let read = self.from.read(&mut buffer[..want])?;
            if read == 0 {
                return Err(FormatError::Short);
            }
            self.took(&buffer[..read]);
            hasher.update(&buffer[..read]);
            to.write_all(&buffer[..read])?;
            left -= read as u64;
        }
        let hash = hasher.finalize();
        if self.array::<32>()? != *hash.as_bytes() {
            return Err(FormatError::Damaged { part: self.part });
        }
        Ok(hash)
    }

    /// What the backup is of: its first part.
    ///
    /// # Errors
    /// It is damaged, or does not say so.
    pub fn about(&mut self) -> Result<About, FormatError> {
        let Some((Kind::About, length)) = self.next_part()? else { return Err(self.wrong("does not say what it is of")) };
        let mut bytes = Vec::new();
        self.copy(length, &mut bytes)?;
        serde_json::from_slice(&bytes).map_err(|error| self.wrong(format!("cannot be read: {error}")))
    }

    fn end(&mut self) -> Result<(), FormatError> {
        let said = u64::from_be_bytes(self.array()?);
        let expected = self.all.finalize();
        let mut hash = [0; 32];
        self.from.read_exact(&mut hash)?;
        if hash != *expected.as_bytes() || said != self.part {
            return Err(FormatError::End);
        }
        if self.from.read(&mut [0])? != 0 {
            return Err(FormatError::Trailing);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            cluster: ClusterId::new([7; 16]),
            epoch: 0,
            node: "n1".parse().unwrap(),
            version: "0.1.0".into(),
            made_at: Timestamp(5),
            index: 9,
            last_written: Timestamp(4),
            modules: 2,
            incomplete: Vec::new(),
        }
    }

    async fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = super::super::make::Writer::begin(&mut bytes).await.unwrap();
        let about = serde_json::to_vec(&about()).unwrap();
        for (kind, content) in
            [(Kind::About, &about[..]), (Kind::Record, &b"record"[..]), (Kind::Module, &b"one"[..]), (Kind::Module, &b""[..])]
        {
            writer.begin_part(kind, content.len() as u64).await.unwrap();
            writer.put(content).await.unwrap();
            writer.end_part().await.unwrap();
        }
        writer.finish().await.unwrap();
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, FormatError> {
        let mut reader = Reader::begin(bytes)?;
        assert_eq!(reader.about()?, about());
        let mut parts = Vec::new();
        while let Some((_, length)) = reader.next_part()? {
            let mut part = Vec::new();
            assert_eq!(reader.copy(length, &mut part)?, Hasher::new().update(&part).finalize());
            parts.push(part);
        }
        Ok(parts)
    }

    #[tokio::test]
    async fn a_backup_is_read_as_it_was_written_and_its_size_is_known_before() {
        let bytes = sample().await;
        assert_eq!(read(&bytes).unwrap(), [b"record".to_vec(), b"one".to_vec(), Vec::new()]);
        let content = serde_json::to_vec(&about()).unwrap().len() as u64 + 6 + 3;
        assert_eq!(bytes.len() as u64, EDGES + 4 * AROUND + content);
    }

    #[tokio::test]
    async fn a_backup_that_is_cut_at_any_byte_or_has_any_bit_turned_is_refused() {
        let bytes = sample().await;
        for length in 0..bytes.len() {
            assert!(matches!(read(&bytes[..length]), Err(FormatError::Short)), "{length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "bit {bit}");
        }
        assert!(matches!(read(&[&bytes[..], b"x"].concat()), Err(FormatError::Trailing)));
    }
}
