//! Waiting for what a test expects: until it is so, with a generous limit.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// The longest a test waits for one thing. Long, since machines are slow at times; what is expected comes in seconds.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Looks until there is something, at most [`LIMIT`]; then fails with `what`, and what was last seen.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        let seen = look();
        if let Ok(Some(found)) = seen {
            return Ok(found);
        }
        if begun.elapsed() > LIMIT {
            let last = seen.err().map_or_else(String::new, |error| format!(": {error:#}"));
            return Err(anyhow!("{what}: not within {LIMIT:?}{last}"));
        }
        // Files and other processes' answers are looked at; there is no event to wait for.
        std::thread::sleep(Duration::from_millis(50));
    }
}
