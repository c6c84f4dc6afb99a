//! Machines that were lost for good are found again, and started: with what they had.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tribune_tests::Node;

use super::{PATIENCE, Worst};
use crate::calm::within;
use crate::chronicle::Count;
use crate::world::{Service, World};

/// How soon one that is found knows that it is out.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);
/// It has had no master for so long: several elections of those that are found together.
const ALONE_FOR_MS: u64 = 3_000;

impl Worst<'_> {
    /// Some of them at once. Nobody goes by what they say.
    pub(super) fn find_what_was_lost(&mut self) -> Result<()> {
        let world = self.world;
        let count = 1 + self.random.below(self.lost.len());
        let found = self.random.some(count, self.lost.len());
        let before = seen(world)?;
        for number in &found {
            let node = &mut self.lost[*number];
            world.chronicle.note(format!("found and started: {}", node.data.display()));
            node.begin()?;
        }
        for number in &found {
            let node = &self.lost[*number];
            within(world, KNOWN_WITHIN, || {
                let status = node.json(&["status"])?;
                // It hears that it is out, if enough of those that voted with it are there to say so. If they are not, it has no master;
                // or one that was found as well, whom nobody else hears.
                let is_out = status["problems"].to_string().contains("removed from the cluster") && status["master"].is_null();
                let is_alone = status["no_master_for_ms"].as_u64() >= Some(ALONE_FOR_MS);
                ensure!(is_out || is_alone || count > 1 && status["master"].is_string(), "{status}");
                Ok(())
            })?;
        }
        let of = &world.nodes[self.random.below(world.nodes.len())].name;
        for node in found.iter().map(|number| &self.lost[*number]) {
            if node.json(&["status"])?["master"].is_string() {
                give_an_order(world, node, of)?;
            }
        }
        let after = seen(world)?;
        ensure!(after == before, "it was {before:?}, and is {after:?}");
        for mut node in std::mem::take(&mut self.lost) {
            node.kill_all()?;
            fs::remove_dir_all(&node.data)?;
        }
        Ok(())
    }
}

/// Wants something of a node at one that was found, if that has a master.
fn give_an_order(world: &World, found: &Node, of: &str) -> Result<()> {
    let Ok(address) = found.address() else { return Ok(()) };
    let host = world.number(&found.name).context("a node of ours")?;
    let args = ["node", "label", of, "found=yes", "--peer", &address, "--key", &world.key, "--timeout", "2s"];
    let output = world.run_on(host, &args)?;
    world.chronicle.note(format!("{}: {} -> {}", found.data.display(), args[..4].join(" "), output.code));
    world.chronicle.count(Count::Orders, "at a machine that was found");
    Ok(())
}

/// What the cluster knows, and what runs.
fn seen(world: &World) -> Result<(Vec<Value>, Value, Vec<Vec<Service>>)> {
    let nodes = world.ask_any(0, &["node", "list"], PATIENCE)?;
    let node = |node: &Value| {
        let fields = ["name", "peer", "connected", "role", "generation", "packages", "should", "desired", "control_addresses"];
        fields.map(|field| node[field].clone()).into_iter().collect()
    };
    let nodes = nodes["items"].as_array().context("no items")?.iter().map(node).collect();
    let updates = world.ask_any(0, &["update", "list", "-n", "2000"], PATIENCE)?;
    let updates = updates["items"].as_array().context("no items")?.iter();
    let updates: Vec<Value> = updates.map(|update| json!([update["update"], update["phase"], update["outcome"]])).collect();
    Ok((nodes, updates.into(), world.services_everywhere()?))
}
