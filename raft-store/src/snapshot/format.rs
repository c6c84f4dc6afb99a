//! The bytes of a snapshot.
//!
//! One idea: a snapshot is rows in order between a header and a BLAKE3 of all that came before, each with its length in
//! front and none trusted before it is bounded; so it is written and read in one pass, and a cut or a flipped bit shows.
//!
//! ```text
//! "TRIBSNAP"  format: u16  header: u32 length, bytes  ( key: u32 length, value: u32 length, key, value )*  0: u32  rows: u64  BLAKE3
//! ```
//! Numbers are big-endian.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::engine::Row;
use crate::stored::{DecodeError, StoredPosition, decode, encode};

const MAGIC: &[u8; 8] = b"TRIBSNAP";
const FORMAT: u16 = 1;
/// The longest header: who is in Raft, at most a few nodes.
const MAX_HEADER: usize = 1 << 20;
/// The longest key of a row.
pub const MAX_KEY: usize = 4096;
/// The longest value of a row.
pub const MAX_VALUE: usize = 32 << 20;
/// The longest snapshot. The record of 10,000 nodes has at most 64 MiB.
pub const MAX_SNAPSHOT: u64 = 512 << 20;

/// Why bytes are not a snapshot that can be used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It does not begin like one.
    #[error("it is not a snapshot of Tribune")]
    Magic,
    /// Its format is unknown.
    #[error("it has format {0}, and this build of Tribune reads format {FORMAT}; it was written by a newer one, use that")]
    Format(u16),
    /// Its header cannot be read.
    #[error("its header cannot be read: {0}")]
    Header(DecodeError),
    /// It is of something else.
    #[error("it is a snapshot of {found:?} and not of {expected:?}")]
    Schema {
        /// What it is of.
        found: String,
        /// What it should be of.
        expected: &'static str,
    },
    /// A part is longer than it can be.
    #[error("its {what} has {found} bytes; at most {most} are possible")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// How long it says it is.
        found: u64,
        /// How long it can be.
        most: u64,
    },
    /// Rows are not in order.
    #[error("its rows are not in order")]
    Disorder,
    /// The number of rows is wrong.
    #[error("it says it has {said} rows and has {found}")]
    Rows {
        /// What it says.
        said: u64,
        /// How many there are.
        found: u64,
    },
    /// The hash is wrong.
    #[error("its bytes do not have the BLAKE3 that it ends with: it was damaged")]
    Damaged,
    /// Something follows the end.
    #[error("something follows its end")]
    Trailing,
    /// It ends too early.
    #[error("it is cut short")]
    Short,
    /// The file itself failed.
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for FormatError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Short } else { Self::Io(error) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    schema: String,
    position: StoredPosition,
}

/// Writes a snapshot.
pub(crate) struct FrameWriter<W> {
    to: W,
    hash: blake3::Hasher,
    rows: u64,
    bytes: u64,
}

fn bounded(what: &'static str, found: usize, most: usize) -> Result<u32, FormatError> {
    let too_long = || FormatError::TooLong { what, found: found as u64, most: most as u64 };
    if found > most { Err(too_long()) } else { u32::try_from(found).map_err(|_| too_long()) }
}

impl<W: Write> FrameWriter<W> {
    /// Writes the header.
    pub fn begin(to: W, schema: &str, position: &StoredPosition) -> Result<Self, FormatError> {
        let header = Header { schema: schema.into(), position: position.clone() };
        let header = encode(&header).map_err(|e| FormatError::Header(DecodeError::Content(e.to_string())))?;
        let mut writer = Self { to, hash: blake3::Hasher::new(), rows: 0, bytes: 0 };
        writer.put(MAGIC)?;
        writer.put(&FORMAT.to_be_bytes())?;
        writer.put(&bounded("header", header.len(), MAX_HEADER)?.to_be_bytes())?;
        writer.put(&header)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        if self.bytes > MAX_SNAPSHOT {
            return Err(FormatError::TooLong { what: "content", found: self.bytes, most: MAX_SNAPSHOT });
        }
        Ok(self.to.write_all(bytes)?)
    }

    /// Writes a row. Rows come in order of their keys.
    pub fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), FormatError> {
        self.put(&bounded("key", key.len(), MAX_KEY)?.to_be_bytes())?;
        self.put(&bounded("value", value.len(), MAX_VALUE)?.to_be_bytes())?;
        self.put(key)?;
        self.put(value)?;
        self.rows += 1;
        Ok(())
    }

    /// Writes the end. Gives how many bytes the snapshot has.
    pub fn finish(mut self) -> Result<u64, FormatError> {
        let rows = self.rows;
        self.put(&0_u32.to_be_bytes())?;
        self.put(&rows.to_be_bytes())?;
        let hash = self.hash.finalize();
        self.put(hash.as_bytes())?;
        self.to.flush()?;
        Ok(self.bytes)
    }
}

/// Reads a snapshot.
pub(crate) struct FrameReader<R> {
    from: R,
    hash: blake3::Hasher,
    position: StoredPosition,
    last_key: Vec<u8>,
    rows: u64,
    bytes: u64,
}

impl<R: Read> FrameReader<R> {
    /// Reads the header.
    pub fn begin(from: R, schema: &'static str) -> Result<Self, FormatError> {
        let position = StoredPosition::default();
        let mut reader = Self { from, hash: blake3::Hasher::new(), position, last_key: Vec::new(), rows: 0, bytes: 0 };
        if reader.array::<8>()? != *MAGIC {
            return Err(FormatError::Magic);
        }
        match u16::from_be_bytes(reader.array()?) {
            FORMAT => {}
            other => return Err(FormatError::Format(other)),
        }
        let length = reader.length("header", MAX_HEADER)?;
        let header: Header = decode(&reader.take(length)?).map_err(FormatError::Header)?;
        if header.schema != schema {
            return Err(FormatError::Schema { found: header.schema, expected: schema });
        }
        reader.position = header.position;
        Ok(reader)
    }

    /// What it is the snapshot of.
    pub fn position(&self) -> &StoredPosition {
        &self.position
    }

    fn count(&mut self, bytes: u64) -> Result<(), FormatError> {
        self.bytes += bytes;
        if self.bytes > MAX_SNAPSHOT {
            return Err(FormatError::TooLong { what: "content", found: self.bytes, most: MAX_SNAPSHOT });
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        self.hash.update(&bytes);
        self.count(N as u64)?;
        Ok(bytes)
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, FormatError> {
        self.count(length as u64)?;
        // Grows with what is really there, not with what the length says.
        let mut bytes = Vec::new();
        (&mut self.from).take(length as u64).read_to_end(&mut bytes)?;
        if bytes.len() < length {
            return Err(FormatError::Short);
        }
        self.hash.update(&bytes);
        Ok(bytes)
    }

    fn length(&mut self, what: &'static str, most: usize) -> Result<usize, FormatError> {
        let found = u32::from_be_bytes(self.array()?) as usize;
        bounded(what, found, most)?;
        Ok(found)
    }

    /// The next row; `None` once the end was read and found right.
    pub fn row(&mut self) -> Result<Option<Row>, FormatError> {
        let key_length = self.length("key", MAX_KEY)?;
        if key_length == 0 {
            self.end()?;
            return Ok(None);
        }
        let value_length = self.length("value", MAX_VALUE)?;
        let key = self.take(key_length)?;
        let value = self.take(value_length)?;
        if key <= self.last_key {
            return Err(FormatError::Disorder);
        }
        self.last_key.clone_from(&key);
        self.rows += 1;
        Ok(Some((key, value)))
    }

    fn end(&mut self) -> Result<(), FormatError> {
        let said = u64::from_be_bytes(self.array()?);
        let expected = self.hash.finalize();
        if self.array::<32>()? != *expected.as_bytes() {
            return Err(FormatError::Damaged);
        }
        if said != self.rows {
            return Err(FormatError::Rows { said, found: self.rows });
        }
        if self.from.read(&mut [0])? != 0 {
            return Err(FormatError::Trailing);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = FrameWriter::begin(&mut bytes, "test", &StoredPosition::default()).unwrap();
        for n in 0..20_u8 {
            writer.row(&[1, n], &vec![n; usize::from(n)]).unwrap();
        }
        let length = writer.finish().unwrap();
        assert_eq!(length, bytes.len() as u64);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<usize, FormatError> {
        let mut reader = FrameReader::begin(bytes, "test")?;
        let mut rows = 0;
        while reader.row()?.is_some() {
            rows += 1;
        }
        Ok(rows)
    }

    #[test]
    fn a_snapshot_is_read_as_it_was_written() {
        assert_eq!(read(&sample()).unwrap(), 20);
    }

    #[test]
    fn a_snapshot_cut_at_any_byte_is_refused() {
        let bytes = sample();
        for length in 0..bytes.len() {
            let error = read(&bytes[..length]).unwrap_err();
            assert!(matches!(error, FormatError::Short), "{length}: {error}");
        }
    }

    #[test]
    fn a_snapshot_with_any_bit_flipped_is_refused() {
        let bytes = sample();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_follows_the_end_is_refused() {
        let mut bytes = sample();
        bytes.push(0);
        assert!(matches!(read(&bytes).unwrap_err(), FormatError::Trailing));
    }

    #[test]
    fn rows_out_of_order_and_another_schema_are_refused() {
        let mut bytes = Vec::new();
        let mut writer = FrameWriter::begin(&mut bytes, "test", &StoredPosition::default()).unwrap();
        writer.row(&[2], &[]).unwrap();
        writer.row(&[1], &[]).unwrap();
        writer.finish().unwrap();
        assert!(matches!(read(&bytes).unwrap_err(), FormatError::Disorder));
        assert!(matches!(FrameReader::begin(bytes.as_slice(), "other"), Err(FormatError::Schema { .. })));
    }
}
