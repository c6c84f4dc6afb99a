//! What the cluster says of its updates, asked again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::world::World;

/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(4);

/// That an update entered a phase.
#[derive(Debug, Clone)]
pub struct Entered {
    /// Which, as `u7`.
    pub update: String,
    /// The phase or the outcome, in words.
    pub phase: String,
    /// By the master's clock, in milliseconds.
    pub at: u64,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Record {
    seen: u64,
    /// Every phase that an update entered, in order.
    pub entered: Vec<Entered>,
    /// The nodes that went back by themselves, and when the cluster heard of the last time, in milliseconds.
    pub apart: BTreeMap<String, u64>,
    /// The updates, as `update show` has them.
    pub updates: BTreeMap<String, Value>,
    /// The updates that were there in the last look.
    pub listed: BTreeSet<String>,
    /// The submissions that had been acknowledged before it.
    pub known_before: BTreeSet<String>,
    /// What was once seen as the outcome, and is another now: update and both.
    pub changed: Vec<(String, String, String)>,
}

impl Record {
    /// Asks what is new, any node, this one first.
    pub fn look(&mut self, world: &World, first: usize) -> Result<()> {
        self.look_at_events(world, first)?;
        let list = world.ask_any(first, &["update", "list", "-n", "2000"], PATIENCE)?;
        let items = list["items"].as_array().context("no items")?;
        let name = |item: &Value| item["update"].as_str().map(str::to_owned);
        self.listed = items.iter().filter_map(name).collect();
        for item in items {
            let Some(update) = name(item) else { continue };
            let known = self.updates.get(&update).filter(|known| known["phase"] == "ended");
            let Some(known) = known else {
                let shown = world.ask_any(first, &["update", "show", &update], PATIENCE)?;
                self.updates.insert(update, shown);
                continue;
            };
            if known["outcome"] != item["outcome"] {
                self.changed.push((update, known["outcome"].to_string(), item["outcome"].to_string()));
            }
        }
        Ok(())
    }

    fn look_at_events(&mut self, world: &World, first: usize) -> Result<()> {
        let node = (0..world.nodes.len()).map(|offset| (first + offset) % world.nodes.len());
        let after = self.seen.to_string();
        let answer = node.map(|node| world.try_ask(node, &["events", "--after", &after, "-n", "10000"], PATIENCE));
        let output = answer.flatten().find(|output| output.code == 0).context("no node says what happened")?;
        for line in output.stdout.lines() {
            let event: Value = serde_json::from_str(line)?;
            let seq = event["seq"].as_u64().context("no number")?;
            // A recovery begins at a number that no lost part can have given.
            let follows = self.seen == 0 || seq == self.seen + 1 || event["kind"] == "cluster_recovered" && seq > self.seen;
            ensure!(follows, "after event {} comes {seq}", self.seen);
            self.seen = seq;
            if let (Some(node), Some(at), true) = (event["node"].as_str(), event["at"].as_u64(), event["kind"] == "node_apart") {
                let last = self.apart.entry(node.into()).or_default();
                *last = at.max(*last);
            }
            let (Some(update), Some(at)) = (event["update"].as_str(), event["at"].as_u64()) else { continue };
            let text = event["text"].as_str().unwrap_or_default();
            if event["kind"] == "update_phase"
                && let Some(phase) = text.strip_prefix(update).and_then(|rest| rest.strip_prefix(" is "))
            {
                self.entered.push(Entered { update: update.into(), phase: phase.into(), at });
            }
        }
        Ok(())
    }

    /// From now on the cluster knows what it knew at that time, by the master's clock. Gives the updates that had not ended then: what
    /// came of them is unknown again.
    pub fn go_back(&mut self, to: u64) -> BTreeSet<String> {
        let had_ended = |shown: &Value| shown["phase"] == "ended" && shown["since_at"].as_u64().is_some_and(|at| at < to);
        let open: BTreeMap<String, Value> = self.updates.extract_if(.., |_, shown| !had_ended(shown)).collect();
        (self.seen, self.entered) = (0, Vec::new());
        open.into_keys().collect()
    }

    /// The updates that have ended.
    pub fn ended(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.updates.iter().filter(|(_, update)| update["phase"] == "ended")
    }
}
