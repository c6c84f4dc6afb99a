//! Small files of the agent: the journal of each open update, and notes. Each holds one JSON value with its format.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tribune_raft_store::model::UpdateId;

use super::generations::Disk;
use super::{LocalError, files, twin};

/// The folder of the journals.
pub(super) const UPDATES: &str = "updates";
/// The folder of the notes.
pub(super) const NOTES: &str = "notes";
/// The format that this build writes and reads.
const FORMAT: u32 = 1;

#[derive(Serialize)]
struct Written {
    format: u32,
    check: String,
    value: Value,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Deserialize)]
struct Read {
    /// Of the value. Files of before have none.
    check: Option<String>,
    value: Value,
}

/// What tells that a value is the one that was written: the BLAKE3 of its text in one form.
fn check_of(value: &Value) -> String {
    blake3::hash(value.to_string().as_bytes()).to_hex().to_string()
}

/// Whether a note's name is safe as a file name.
pub(super) fn check_name(name: &str) -> Result<(), LocalError> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=64).contains(&name.len()) && name.bytes().all(legal) { Ok(()) } else { Err(LocalError::Name(name.to_owned())) }
}

/// Reads the value in a file; `None` if there is no such file.
pub(super) fn read_entry<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LocalError> {
    let Some(text) = files::read(path)? else { return Ok(None) };
    let unreadable = |error: serde_json::Error| files::damaged(path, error);
    // The format comes first: a later one may hold anything.
    let Format { format } = serde_json::from_str(&text).map_err(unreadable)?;
    if format != FORMAT {
        return Err(files::damaged(path, format!("it has format {format}, and this build reads format {FORMAT}")));
    }
    let Read { check, value } = serde_json::from_str(&text).map_err(unreadable)?;
    if check.is_some_and(|check| check != check_of(&value)) {
        return Err(files::damaged(path, "what it says is not what was written"));
    }
    serde_json::from_value(value).map(Some).map_err(unreadable)
}

/// A value as the text that [`read_entry`] reads.
pub(super) fn entry_text<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<String, LocalError> {
    let unfit = |source| LocalError::Json { path: path.to_owned(), source };
    let value = serde_json::to_value(value).map_err(unfit)?;
    let written = Written { format: FORMAT, check: check_of(&value), value };
    serde_json::to_string_pretty(&written).map_err(unfit)
}

impl Disk {
    /// Where an entry of this name lies.
    pub(super) fn entry(&self, folder: &str, name: &str) -> PathBuf {
        self.folder().join(folder).join(format!("{name}.json"))
    }

    /// Where an entry is to be written, and what.
    pub(super) fn entry_text<T>(&self, folder: &str, name: &str, value: &T) -> Result<(PathBuf, String), LocalError>
    where
        T: Serialize + ?Sized,
    {
        let path = self.entry(folder, name);
        let text = entry_text(&path, value)?;
        Ok((path, text))
    }

    /// Reads the journals of all open updates.
    pub(super) fn load_updates<T: DeserializeOwned>(&self) -> Result<BTreeMap<UpdateId, T>, LocalError> {
        let mut updates = BTreeMap::new();
        for name in files::names(&self.folder().join(UPDATES))? {
            let Some(update) = name.strip_suffix(".json").and_then(|name| name.parse::<UpdateId>().ok()) else { continue };
            if let Some(entry) = twin::read(&self.entry(UPDATES, &update.to_string()), read_entry)? {
                updates.insert(update, entry);
            }
        }
        Ok(updates)
    }
}
