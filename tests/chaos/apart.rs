//! A node that a user takes back by itself, without the cluster (`local regress`): it stays apart until a user releases it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::calm::within;
use crate::checks::Evidence;
use crate::chronicle::Count;
use crate::software::BYSTANDER;
use crate::told::{Apart, PATIENCE};
use crate::users::User;
use crate::world::World;

/// How long a node may take to go back. Its processes are asked first.
const GOES_BACK_WITHIN: Duration = Duration::from_secs(20);
/// How long a user tries to release it, in a storm.
const RELEASED_WITHIN: Duration = Duration::from_secs(8);
/// How soon the cluster knows that it went back, in a calm.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(500);

impl User<'_> {
    /// Takes a node back by itself, and mostly releases it some time later.
    pub(crate) fn take_a_node_back(&mut self) -> Result<()> {
        let number = self.random.below(self.world.nodes.len());
        let (force, kept) = (self.random.percent(50), self.random.next());
        let stays = self.random.percent(70).then(|| self.random.millis(500, 6_000));
        let name = &self.world.nodes[number].name;
        let Some(generation) = to_go_back_to(self.world, number, kept)? else { return Ok(()) };
        if !self.told.takes_back(name) {
            return Ok(());
        }
        let apart = go_back(self.world, number, &generation, force).unwrap_or(Some(Apart::Unclear));
        self.told.was_taken_back(name, apart.clone());
        if let (Some(Apart::Has(_)), Some(after)) = (apart, stays) {
            self.world.sleep(after);
            self.release(name)?;
        }
        Ok(())
    }

    fn release(&mut self, name: &str) -> Result<()> {
        let begun = Instant::now();
        while !self.world.is_calm() && begun.elapsed() < RELEASED_WITHIN {
            match self.order(&["node", "release", name])? {
                0 => {
                    self.told.is_released(name);
                    break;
                }
                // It is said clearly: the cluster has not heard yet that it went back.
                1 => self.world.sleep(PAUSE),
                _ => {
                    self.told.was_taken_back(name, Some(Apart::Unclear));
                    break;
                }
            }
        }
        Ok(())
    }
}

/// A generation that a node can go back to by itself. Each has the package that no update touches.
fn to_go_back_to(world: &World, node: usize, chance: u64) -> Result<Option<String>> {
    let local = world.ask(node, &["local", "show"], PATIENCE)?;
    let kept = local["kept"].as_array().context("no generations")?;
    let able: Vec<&Value> = kept.iter().filter(|kept| kept["packages"][BYSTANDER.0].is_string()).collect();
    let chosen = able.len().checked_sub(1).map(|last| able[usize::try_from(chance).unwrap_or(0) % (last + 1)]);
    Ok(chosen.map(|chosen| chosen["generation"].to_string()))
}

/// Takes it back; gives what is known of it then. `None`: it did not go back.
fn go_back(world: &World, node: usize, generation: &str, force: bool) -> Result<Option<Apart>> {
    let force: &[&str] = if force { &["--force", "--why", "it has to be"] } else { &[] };
    let args = [&["local", "regress", "--generation", generation], force].concat();
    let output = world.try_ask(node, &args, GOES_BACK_WITHIN)?;
    let said = if output.code == 0 { output.stdout.trim() } else { output.stderr.trim() };
    world.chronicle.note(format!("n{}: tribune {} -> {} {said}", node + 1, args.join(" "), output.code));
    world.chronicle.count(Count::Orders, if output.code == 0 { "local regress" } else { "local regress (not done)" });
    Ok(match output.code {
        0 => Some(Apart::Has(output.json()?["packages"].clone())),
        // It is vetoed, or an update is open there.
        3 => None,
        1 if output.stderr.contains("cancel it first") => None,
        _ => Some(Apart::Unclear),
    })
}

/// Who went back, and was not released, is as it was then; and is released now.
pub fn stays_until_it_is_released(evidence: &mut Evidence<'_>) -> Result<()> {
    let (world, told) = (evidence.world, evidence.told);
    for (name, apart) in told.apart() {
        if let Apart::Has(packages) = apart {
            within(world, KNOWN_WITHIN, || {
                let node = world.ask_any(0, &["node", "show", &name], PATIENCE)?;
                ensure!(node["apart"] == true, "{name} is not apart: {node}");
                ensure!(node["packages"] == packages, "{name} went back to {packages}: {node}");
                Ok(())
            })?;
        }
    }
    release_all(evidence)
}

/// Every node that is apart takes part again.
pub fn release_all(evidence: &mut Evidence<'_>) -> Result<()> {
    let (world, told) = (evidence.world, evidence.told);
    let list = world.ask_any(0, &["node", "list"], PATIENCE)?;
    for node in list["items"].as_array().context("no items")?.iter().filter(|node| node["apart"] == true) {
        let name = node["name"].as_str().context("no name")?;
        world.admin(0, &["node", "release", name], PATIENCE)?.expect(0)?;
        world.chronicle.note(format!("{name} is released"));
    }
    told.apart().keys().for_each(|name| told.was_taken_back(name, None));
    Ok(())
}
