//! What was done to the cluster and what it was asked for, with times: printed when something does not hold.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;

/// Lines with times, also in a file, and how often things were done.
#[derive(Debug)]
pub struct Chronicle {
    begun: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    lines: Vec<String>,
    counts: BTreeMap<(Count, String), u32>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    /// Faults, by kind.
    Faults,
    /// Updates, by outcome.
    Updates,
    /// What users were answered.
    Answers,
    /// What else users asked for, by command.
    Orders,
}

impl Chronicle {
    /// An empty one that also writes to this file.
    pub fn begin(file: &Path) -> Result<Self> {
        let inner = Inner { file: File::create(file)?, lines: Vec::new(), counts: BTreeMap::new() };
        Ok(Self { begun: Instant::now(), inner: Mutex::new(inner) })
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what happened now.
    pub fn note(&self, what: impl AsRef<str>) {
        let line = format!("{:9.3} s  {}", self.begun.elapsed().as_secs_f64(), what.as_ref());
        let mut inner = self.inner();
        // The lines are there all the same.
        let _ = writeln!(inner.file, "{line}");
        inner.lines.push(line);
    }

    /// Counts one more.
    pub fn count(&self, what: Count, kind: impl Into<String>) {
        *self.inner().counts.entry((what, kind.into())).or_default() += 1;
    }

    /// Sets a count.
    pub fn set(&self, what: Count, kind: impl Into<String>, to: u32) {
        self.inner().counts.insert((what, kind.into()), to);
    }

    /// All lines.
    pub fn lines(&self) -> Vec<String> {
        self.inner().lines.clone()
    }

    /// What was counted, as one line: all, and by kind.
    pub fn counted(&self, what: Count) -> String {
        let inner = self.inner();
        let of: Vec<_> = inner.counts.iter().filter(|((of, _), _)| *of == what).collect();
        let all: u32 = of.iter().map(|(_, count)| **count).sum();
        let each: Vec<String> = of.iter().map(|((_, kind), count)| format!("{kind}: {count}")).collect();
        format!("{all} ({})", each.join(", "))
    }
}

/// Says something to who runs the test, at once.
pub fn say(text: &str) {
    // Past the capture of the test's output, for a seed has to be seen also when the test is killed.
    let _ = writeln!(std::io::stderr(), "{text}");
}
