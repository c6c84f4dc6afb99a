//! What users were told: that is what the cluster has to keep to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde_json::Value;

use crate::chronicle::Count;
use crate::world::World;

/// How long a user waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What users were told.
#[derive(Debug, Default)]
pub struct Told {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    acknowledged: BTreeSet<String>,
    published: BTreeSet<String>,
    submissions: u32,
    fresh: u32,
    apart: BTreeMap<String, Apart>,
    taken_back: Vec<TakenBack>,
}

/// What is known of a node that a user took back by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Apart {
    /// A user is with it, or was not told what became of it.
    Unclear,
    /// It went back, and has these packages until it is released.
    Has(Value),
}

/// A time in which a node may have gone back by itself, by the clock on the wall, in milliseconds.
#[derive(Debug, Clone)]
struct TakenBack {
    node: String,
    from: u64,
    to: u64,
}

impl Told {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The updates whose submission was acknowledged.
    pub fn acknowledged(&self) -> BTreeSet<String> {
        self.inner().acknowledged.clone()
    }

    /// The packages whose publication was acknowledged, as `name@version`.
    pub fn published(&self) -> BTreeSet<String> {
        self.inner().published.clone()
    }

    /// A publication was acknowledged.
    pub fn has_published(&self, package: &str, version: &str) {
        self.inner().published.insert(format!("{package}@{version}"));
    }

    /// How often a submission was tried, acknowledged or not.
    pub fn submissions(&self) -> u32 {
        self.inner().submissions
    }

    /// Nothing counts any more that was acknowledged after this.
    pub fn go_back(&self, acknowledged: &BTreeSet<String>, published: &BTreeSet<String>) {
        let mut inner = self.inner();
        (inner.acknowledged, inner.published) = (acknowledged.clone(), published.clone());
    }

    /// A user is about to take a node back by itself. `false`: somebody has, and it was not released since.
    pub fn takes_back(&self, node: &str) -> bool {
        let mut inner = self.inner();
        if inner.apart.contains_key(node) {
            return false;
        }
        inner.apart.insert(node.into(), Apart::Unclear);
        // Until it is known to be over.
        inner.taken_back.push(TakenBack { node: node.into(), from: now(), to: u64::MAX });
        true
    }

    /// What became of it.
    pub fn was_taken_back(&self, node: &str, apart: Option<Apart>) {
        let mut inner = self.inner();
        if apart != Some(Apart::Unclear) {
            let last = inner.taken_back.iter_mut().rev().find(|taken| taken.node == node);
            last.into_iter().for_each(|taken| taken.to = now());
        }
        match apart {
            Some(apart) => drop(inner.apart.insert(node.into(), apart)),
            None => drop(inner.apart.remove(node)),
        }
    }

    /// It takes part in updates again.
    pub fn is_released(&self, node: &str) {
        self.inner().apart.remove(node);
    }

    /// The nodes that were taken back, and not released as far as users know.
    pub fn apart(&self) -> BTreeMap<String, Apart> {
        self.inner().apart.clone()
    }

    /// Whether a node may have been going back by itself at a time.
    pub fn may_have_gone_back(&self, node: &str, at: u64) -> bool {
        self.inner().taken_back.iter().any(|taken| taken.node == node && (taken.from..=taken.to).contains(&at))
    }

    /// A version that was never there.
    pub fn fresh_version(&self) -> String {
        let mut inner = self.inner();
        inner.fresh += 1;
        format!("1.3.{}", inner.fresh)
    }

    /// Submits what these words say at a node; gives the update, if that was acknowledged.
    pub fn submit(&self, world: &World, at: usize, args: &[&str]) -> Result<Option<String>> {
        self.inner().submissions += 1;
        let output = world.admin(at, &[args, &["--detach"]].concat(), PATIENCE)?;
        let update = output.json().ok().and_then(|submitted| submitted["update"].as_str().map(str::to_owned));
        world.chronicle.count(Count::Answers, format!("exit {}", output.code));
        let said = update.clone().unwrap_or_else(|| output.stderr.trim().to_owned());
        world.chronicle.note(format!("n{}: tribune {} -> {} {said}", at + 1, args.join(" "), output.code));
        self.inner().acknowledged.extend(update.clone());
        Ok(update)
    }
}

/// The clock on the wall, in milliseconds.
fn now() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
