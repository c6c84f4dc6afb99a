//! What happened, in order: what a person reads of a run, and by whose hash two runs are compared.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::machine::now;

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct Event {
    pub at: Duration,
    pub place: String,
    pub text: String,
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>9.3} {:<6} {}", self.at.as_secs_f64(), self.place, self.text)
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// The time outside of any machine.
    outside: Duration,
    events: Vec<Event>,
    hasher: blake3::Hasher,
}

/// See the module. Clones are the same trace.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
}

impl Trace {
    /// Notes something.
    pub fn note(&self, place: &str, text: impl Into<String>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let at = if turmoil::in_simulation() { now() } else { inner.outside };
        let event = Event { at, place: place.to_owned(), text: text.into() };
        let mut line = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(line, "{event}");
        inner.hasher.update(line.as_bytes());
        inner.events.push(event);
    }

    /// What is noted outside of machines from now on is noted at this time.
    pub fn at(&self, time: Duration) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).outside = time;
    }

    /// The time outside of machines.
    pub fn time(&self) -> Duration {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).outside
    }

    /// The hash of all that was noted.
    pub fn hash(&self) -> blake3::Hash {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).hasher.finalize()
    }

    /// All that was noted.
    pub fn events(&self) -> Vec<Event> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).events.clone()
    }
}
