//! A table of the record: a persistent sorted map that remembers which of its rows changed.
//!
//! One idea: cloning a table costs nothing, so every committed state can be handed to readers whole, while what is
//! written to disk is only what changed.

use std::sync::Arc;

use rpds::RedBlackTreeMapSync;
use serde::{Serialize, de::DeserializeOwned};

use super::RecordError;
use crate::model::{ClassName, NeedKey, NodeName, PackageId, PeerId, PublicKey, RequestId, Signature, TombstoneKey, UpdateId};

/// One changed row: its key, and its new value or `None` if it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The row's key, beginning with its table's tag.
    pub key: Vec<u8>,
    /// The row's bytes.
    pub value: Option<Vec<u8>>,
}

/// A key of a table. Its bytes sort as it does.
pub trait Key: Ord + Clone {
    /// The bytes.
    fn encode(&self) -> Vec<u8>;
    /// The key with these bytes.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

macro_rules! text_key {
    ($($type:ty),*) => {$(
        impl Key for $type {
            fn encode(&self) -> Vec<u8> {
                self.to_string().into_bytes()
            }
            fn decode(bytes: &[u8]) -> Option<Self> {
                std::str::from_utf8(bytes).ok()?.parse().ok()
            }
        }
    )*};
}

text_key!(NodeName, ClassName);

impl Key for PeerId {
    fn encode(&self) -> Vec<u8> {
        self.as_str().as_bytes().to_vec()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        Self::new(std::str::from_utf8(bytes).ok()?).ok()
    }
}

macro_rules! byte_key {
    ($($type:ty),*) => {$(
        impl Key for $type {
            fn encode(&self) -> Vec<u8> {
                self.as_bytes().to_vec()
            }
            fn decode(bytes: &[u8]) -> Option<Self> {
                Some(Self::new(bytes.try_into().ok()?))
            }
        }
    )*};
}

byte_key!(PackageId, PublicKey, RequestId, Signature);

impl Key for u64 {
    fn encode(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    }
}

impl Key for UpdateId {
    fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        u64::decode(bytes).map(UpdateId)
    }
}

impl Key for TombstoneKey {
    fn encode(&self) -> Vec<u8> {
        [self.package.as_bytes().as_slice(), self.node.as_str().as_bytes()].concat()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (package, node) = bytes.split_at_checked(32)?;
        Some(Self { package: Key::decode(package)?, node: Key::decode(node)? })
    }
}

/// No part of it has a zero byte, so the parts sort as the whole.
impl Key for NeedKey {
    fn encode(&self) -> Vec<u8> {
        [self.node.as_str().as_bytes(), self.module.as_bytes(), self.needs.as_bytes()].join(&0)
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut parts = bytes.split(|byte| *byte == 0).map(std::str::from_utf8);
        let key = Self {
            node: parts.next()?.ok()?.parse().ok()?,
            module: parts.next()?.ok()?.to_owned(),
            needs: parts.next()?.ok()?.to_owned(),
        };
        parts.next().is_none().then_some(key)
    }
}

/// A table.
#[derive(Debug, Clone)]
pub struct Table<K: Key, V> {
    tag: u8,
    rows: RedBlackTreeMapSync<K, Arc<V>>,
    changed: Vec<K>,
}

/// Two tables are the same when their rows are; which of these are still to be written is no part of it.
impl<K: Key, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = self.rows.iter().zip(other.rows.iter());
        self.rows.size() == other.rows.size()
            && pairs.all(|((key, row), (other, theirs))| key == other && (Arc::ptr_eq(row, theirs) || row == theirs))
    }
}

impl<K: Key, V: Clone + PartialEq + Serialize + DeserializeOwned> Table<K, V> {
    /// An empty table whose rows' keys begin with this byte.
    pub fn new(tag: u8) -> Self {
        Self { tag, rows: RedBlackTreeMapSync::new_sync(), changed: Vec::new() }
    }

    /// The row with this key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key).map(Arc::as_ref)
    }

    /// Whether there is a row with this key.
    pub fn contains(&self, key: &K) -> bool {
        self.rows.contains_key(key)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All rows in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// All rows' values in order.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.rows.values().map(Arc::as_ref)
    }

    /// The first row.
    pub fn first(&self) -> Option<(&K, &V)> {
        self.rows.first().map(|(key, value)| (key, value.as_ref()))
    }

    /// Puts a row in, or another in its place.
    pub fn put(&mut self, key: K, value: V) {
        if self.get(&key) != Some(&value) {
            self.changed.push(key.clone());
            self.rows.insert_mut(key, Arc::new(value));
        }
    }

    /// Takes a row out.
    pub fn remove(&mut self, key: &K) {
        if self.rows.remove_mut(key) {
            self.changed.push(key.clone());
        }
    }

    /// Moves what changed since the last call into `changes`.
    pub(super) fn take_changes(&mut self, changes: &mut Vec<Change>) {
        let mut keys = std::mem::take(&mut self.changed);
        keys.sort();
        keys.dedup();
        changes.extend(keys.into_iter().map(|key| Change { value: self.get(&key).map(encode), key: self.row_key(&key) }));
    }

    /// All rows as bytes, in order of their keys' bytes.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        self.iter().map(|(key, value)| (self.row_key(key), encode(value)))
    }

    /// Puts in a row that was read from disk or a snapshot.
    pub(super) fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordError> {
        let parsed = K::decode(key).ok_or(RecordError::Key { table: self.tag })?;
        let row = rmp_serde::from_slice(value).map_err(|e| RecordError::Row { table: self.tag, why: e.to_string() })?;
        self.rows.insert_mut(parsed, Arc::new(row));
        Ok(())
    }

    fn row_key(&self, key: &K) -> Vec<u8> {
        let mut bytes = vec![self.tag];
        bytes.extend(key.encode());
        bytes
    }
}

/// A row's bytes. Field names are written out, so that a later build can add fields.
fn encode<V: Serialize>(value: &V) -> Vec<u8> {
    // Plain data into memory: the encoder has no error that could occur here.
    rmp_serde::to_vec_named(value).unwrap_or_default()
}
