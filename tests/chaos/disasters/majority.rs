//! A majority of the voters is lost for good.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{PATIENCE, Worst};
use crate::calm::within;
use crate::world::Service;

impl Worst<'_> {
    /// One who is left is made the only voter; the others follow it, and machines take the places of those that are lost.
    pub(super) fn lose_a_majority(&mut self) -> Result<()> {
        let world = self.world;
        let (voters, standbys) = (self.with_role("voter")?, self.with_role("standby")?);
        let lost: Vec<usize> = self.random.some(voters.len() / 2 + 1, voters.len()).into_iter().map(|at| voters[at]).collect();
        let left = self.others(&lost);
        let able: Vec<usize> = left.iter().filter(|node| voters.contains(node) || standbys.contains(node)).copied().collect();
        let survivor = *self.random.pick(&able);
        world.chronicle.note(format!("of the voters {} those are lost: {}", self.names(&voters), self.names(&lost)));
        let before = self.services(&left)?;
        for node in &lost {
            self.lose(*node)?;
        }
        self.cluster.nodes[survivor].kill_node_processes()?;
        let recover = ["recover", "--force-new-cluster", "--key", &world.key];
        let mut recovered = Value::Null;
        // What was killed lets its files go a moment later.
        within(world, PATIENCE, || {
            recovered = world.try_ask(survivor, &recover, PATIENCE)?.expect(0)?.json()?;
            Ok(())
        })?;
        ensure!(recovered["incomplete"] == json!([]), "{recovered}");
        world.chronicle.note(format!("recovered: {recovered}"));
        self.cluster.nodes[survivor].begin()?;
        self.all_follow(survivor, &left)?;
        let now = self.services(&left)?;
        ensure!(now == before, "services were touched: {before:?}, now {now:?}");
        lost.iter().try_for_each(|node| self.join_again(*node, survivor))
    }

    fn with_role(&self, role: &str) -> Result<Vec<usize>> {
        let list = self.world.ask_any(0, &["node", "list"], PATIENCE)?;
        let items = list["items"].as_array().context("no items")?.iter().filter(|node| node["role"] == role);
        Ok(items.filter_map(|node| self.world.number(node["name"].as_str()?)).collect())
    }

    fn services(&self, nodes: &[usize]) -> Result<Vec<Vec<Service>>> {
        let mut all = self.world.services_everywhere()?;
        Ok(nodes.iter().map(|node| std::mem::take(&mut all[*node])).collect())
    }
}
