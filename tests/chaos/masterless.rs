//! For how long at a time the cluster had no master.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::World;

/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(250);
/// A node that has not heard from its master for longer does not follow it.
const FRESH_MS: u64 = 2_500;

/// Looks until the storm is over; gives the longest time in which not most nodes followed one master.
pub fn longest(world: &World) -> Duration {
    let mut longest = Duration::ZERO;
    let mut since = Instant::now();
    while !world.is_calm() {
        let statuses = world.statuses();
        let names = |status: &Option<Value>| {
            let status = status.as_ref()?;
            status["age_ms"].as_u64().filter(|age| *age < FRESH_MS)?;
            status["master"].as_str().map(str::to_owned)
        };
        let named: Vec<String> = statuses.iter().filter_map(names).collect();
        let most = named.iter().map(|name| named.iter().filter(|other| *other == name).count()).max().unwrap_or(0);
        longest = longest.max(since.elapsed());
        if most > world.nodes.len() / 2 {
            since = Instant::now();
        }
        world.sleep(PAUSE);
    }
    longest
}
