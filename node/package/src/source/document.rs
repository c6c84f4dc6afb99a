//! A TOML file whose every value knows its line.
//!
//! One idea: the file is walked by hand rather than deserialised, so that each error can say where it is, what is wrong and what
//! would be right, in our words.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::SourceError;

/// The longest TOML file that is read, in bytes.
pub const MAX_SOURCE_BYTES: u64 = 1 << 20;

/// Where something stands in the file: its bytes.
pub(crate) type Place = Range<usize>;

/// A TOML file, read but not yet understood.
pub(crate) struct Document {
    file: PathBuf,
    text: String,
}

impl Document {
    pub(crate) fn read(file: &Path) -> Result<Self, SourceError> {
        let unreadable = |source| SourceError::Unreadable { file: file.into(), source };
        let mut bytes = Vec::new();
        File::open(file).map_err(unreadable)?.take(MAX_SOURCE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_SOURCE_BYTES {
            return Err(SourceError::TooLong(file.into()));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { file: file.into(), text }),
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let line = 1 + error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count();
                Err(SourceError::At { file: file.into(), line, problem: "the file is not UTF-8 here; save it as UTF-8".into() })
            }
        }
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    pub(crate) fn parse(&self) -> Result<Spanned<DeTable<'_>>, SourceError> {
        DeTable::parse(&self.text).map_err(|error| {
            let place = error.span().unwrap_or(0..0);
            self.error(place, format!("this is not TOML: {}", error.message().replace('\n', ", ")))
        })
    }

    /// The line a place begins on, counted from 1.
    pub(crate) fn line(&self, place: &Place) -> usize {
        let end = place.start.min(self.text.len());
        1 + self.text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count()
    }

    pub(crate) fn error(&self, place: Place, problem: impl Into<String>) -> SourceError {
        SourceError::At { file: self.file.clone(), line: self.line(&place), problem: problem.into() }
    }

    /// The fields of a table, none but `known` ones. `what` is its name in messages.
    pub(crate) fn fields<'d>(
        &'d self,
        what: impl Into<String>,
        table: &'d DeTable<'d>,
        place: Place,
        known: &[&str],
    ) -> Result<Fields<'d>, SourceError> {
        let what = what.into();
        let unknown = table.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
        if let Some(key) = unknown.min_by_key(|key| key.span().start) {
            let problem = format!("{what} has an unknown field {:?}; the known fields are {}", key.get_ref(), known.join(", "));
            return Err(self.error(key.span(), problem));
        }
        Ok(Fields { document: self, what, table, place })
    }

    /// A list of texts, each with its place.
    pub(crate) fn strings<'d>(&self, what: &str, value: &'d Spanned<DeValue<'d>>) -> Result<Vec<(&'d str, Place)>, SourceError> {
        let DeValue::Array(array) = value.get_ref() else {
            return Err(self.wrong_type(what, value, "a list of strings, such as [\"a\", \"b\"]"));
        };
        let item = |item: &'d Spanned<DeValue<'d>>| match item.get_ref() {
            DeValue::String(text) => Ok((text.as_ref(), item.span())),
            _ => Err(self.wrong_type(&format!("an item of {what}"), item, "a string")),
        };
        array.iter().map(item).collect()
    }

    fn wrong_type(&self, what: &str, value: &Spanned<DeValue<'_>>, right: &str) -> SourceError {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.error(value.span(), format!("{what} is {found}; it must be {right}"))
    }
}

/// The fields of one table.
pub(crate) struct Fields<'d> {
    pub(crate) document: &'d Document,
    what: String,
    table: &'d DeTable<'d>,
    /// Where the table begins.
    pub(crate) place: Place,
}

impl<'d> Fields<'d> {
    /// A field's value, whatever its type.
    pub(crate) fn value(&self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// A field's value, which must be there; `example` shows how it could be.
    pub(crate) fn required<T>(&self, key: &str, example: &str, value: Option<T>) -> Result<T, SourceError> {
        value.ok_or_else(|| {
            self.document.error(self.place.clone(), format!("{} has no {key}; add one, such as {key} = {example}", self.what))
        })
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<(&'d str, Place)>, SourceError> {
        self.value(key)
            .map(|value| match value.get_ref() {
                DeValue::String(text) => Ok((text.as_ref(), value.span())),
                _ => Err(self.wrong_type(key, value, "a string")),
            })
            .transpose()
    }

    /// A text that is read as a `T`.
    pub(crate) fn parsed<T: FromStr<Err: std::fmt::Display>>(&self, key: &str) -> Result<Option<T>, SourceError> {
        self.parsed_as(key, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    /// A text that `read` understands, or says why not.
    pub(crate) fn parsed_as<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, SourceError> {
        let Some((text, place)) = self.string(key)? else { return Ok(None) };
        read(text).map(Some).map_err(|problem| self.document.error(place, format!("{key} in {}: {problem}", self.what)))
    }

    /// A text that is one of a few words; the first is the default.
    pub(crate) fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<T, SourceError> {
        let read = |text: &str| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
                let all: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                format!("{text:?} is not known; use {}", all.join(" or "))
            })
        };
        Ok(self.parsed_as(key, read)?.unwrap_or(words[0].1))
    }

    /// A list of texts; empty if the field is not there.
    pub(crate) fn strings(&self, key: &str) -> Result<Vec<(&'d str, Place)>, SourceError> {
        self.value(key).map_or(Ok(Vec::new()), |value| self.document.strings(&format!("{key} in {}", self.what), value))
    }

    /// A list of texts, each read as a `T`.
    pub(crate) fn parsed_list<T: FromStr<Err: std::fmt::Display>>(&self, key: &str) -> Result<Vec<T>, SourceError> {
        let read = |(text, place): (&str, Place)| {
            text.parse().map_err(|error: T::Err| self.document.error(place, format!("{key} in {}: {error}", self.what)))
        };
        self.strings(key)?.into_iter().map(read).collect()
    }

    pub(crate) fn table(&self, key: &str) -> Result<Option<(&'d DeTable<'d>, Place)>, SourceError> {
        self.value(key)
            .map(|value| match value.get_ref() {
                DeValue::Table(table) => Ok((table, value.span())),
                _ => Err(self.wrong_type(key, value, "a table")),
            })
            .transpose()
    }

    pub(crate) fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, right: &str) -> SourceError {
        self.document.wrong_type(&format!("{key} in {}", self.what), value, right)
    }
}
