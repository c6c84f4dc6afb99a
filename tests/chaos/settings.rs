//! How long, and with which seed.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

const SEED: &str = "TRIBUNE_CHAOS_SEED";
const MINUTES: &str = "TRIBUNE_CHAOS_MINUTES";
const DEFAULT_MINUTES: u64 = 2;

/// What a run is to be.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What everything that chance decides comes from.
    pub seed: u64,
    minutes: u64,
}

impl Settings {
    /// Of the environment; a seed that is not set is a new one each time.
    pub fn of_environment() -> Result<Self> {
        let number = |name: &str| -> Result<Option<u64>> {
            let Ok(text) = std::env::var(name) else { return Ok(None) };
            text.parse().map(Some).with_context(|| format!("{name} is {text:?}, and should be a number"))
        };
        let minutes = number(MINUTES)?.unwrap_or(DEFAULT_MINUTES);
        let seed = match number(SEED)? {
            Some(seed) => seed,
            None => u64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_millis())? % 1_000_000_007,
        };
        Ok(Self { seed, minutes })
    }

    /// How long it all may take, but for the last calm.
    pub fn length(self) -> Duration {
        Duration::from_secs(60 * self.minutes)
    }

    /// The command that does the same again.
    pub fn again(self) -> String {
        let Self { seed, minutes } = self;
        format!("{SEED}={seed} {MINUTES}={minutes} cargo test --locked --workspace --test chaos -- --nocapture")
    }
}
