//! What runs, against what the node says of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Evidence;
use crate::damage::is_sound;
use crate::world::World;

/// One process for each module of what `local show` says runs, started from those bytes; and the bytes are what their names say.
pub fn as_shown(evidence: &mut Evidence<'_>) -> Result<()> {
    (0..evidence.world.nodes.len()).try_for_each(|node| on(evidence.world, node))
}

fn on(world: &World, node: usize) -> Result<()> {
    let place = &world.nodes[node];
    let local = world.ask(node, &["local", "show"], Duration::from_secs(10))?;
    let shown: BTreeMap<String, Value> =
        local["current"]["modules"].as_object().cloned().unwrap_or_default().into_iter().collect();
    ensure!(local["ephemeral"].is_null(), "{} runs something ephemeral: {}", place.name, local["ephemeral"]);
    let running = world.services(node)?;
    let mut found: BTreeMap<String, Value> = BTreeMap::new();
    for service in &running {
        let signature = world.software.signature(&service.mark).with_context(|| format!("{} is none of ours", service.mark))?;
        let before = found.insert(service.module.clone(), signature.into());
        ensure!(before.is_none(), "{} runs twice on {}: {running:?}", service.module, place.name);
    }
    ensure!(found == shown, "{} runs {running:?} ({found:?}), and shows {shown:?}", place.name);
    for (module, signature) in &shown {
        let signature = signature.as_str().context("no signature")?;
        let blob = place.data.join("local/modules").join(&signature[..2]).join(signature);
        ensure!(blob.exists(), "{module} has no bytes on {}: {}", place.name, blob.display());
        ensure!(is_sound(&blob), "{module} is damaged on {}: {}", place.name, blob.display());
    }
    Ok(())
}
