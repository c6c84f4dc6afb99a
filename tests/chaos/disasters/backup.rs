//! A backup that is taken under load, and restored on another machine beside who is left.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{PATIENCE, Worst};
use crate::checks::Evidence;
use crate::guest::remove_strangers;
use crate::random::Random;
use crate::told::Told;
use crate::world::World;

/// How long somebody waits before trying again to make one.
const PAUSE: Duration = Duration::from_millis(500);
/// What is written of a node that no backup has.
const LATER: &str = "later";

/// A backup.
#[derive(Debug, Clone)]
pub struct Backup {
    file: PathBuf,
    /// The last entry in its record was made at this time, by the master's clock.
    pub last_written: u64,
    /// The updates whose submission was acknowledged before it was asked for.
    pub acknowledged: BTreeSet<String>,
    /// The packages whose publication was, as `name@version`.
    pub published: BTreeSet<String>,
}

impl Backup {
    /// Takes one in the middle of a storm, if the storm lets it.
    pub fn under_load(world: &World, told: &Told, mut random: Random, length: Duration) -> Option<Self> {
        world.sleep(random.part(length, 20, 80));
        while !world.is_calm() {
            match Self::take(world, told, random.below(world.nodes.len())) {
                Ok(backup) => return Some(backup),
                Err(error) => world.chronicle.note(format!("no backup: {error:#}")),
            }
            world.sleep(PAUSE);
        }
        None
    }

    /// Takes one at this node.
    pub fn take(world: &World, told: &Told, at: usize) -> Result<Self> {
        let (acknowledged, published) = (told.acknowledged(), told.published());
        let file = tempfile::Builder::new().prefix("backup-").tempdir_in(world.folder())?.keep().join("cluster.backup");
        let made = world.admin(at, &["backup", &file.display().to_string()], PATIENCE)?.expect(0)?.json()?;
        world.chronicle.note(format!("n{}: a backup: {made}", at + 1));
        let last_written = made["last_written_at"].as_u64().context("no time")?;
        Ok(Self { file, last_written, acknowledged, published })
    }
}

impl Worst<'_> {
    /// Some machines are lost. One in the place of the first is made from a backup; who is left follows it, and nothing counts that came
    /// after the backup.
    pub(super) fn restore(&mut self, evidence: &mut Evidence<'_>, backup: &Backup) -> Result<()> {
        let world = self.world;
        let count = 1 + self.random.below(2);
        let lost = self.random.some(count, world.nodes.len());
        let (restored, left) = (*self.random.pick(&lost), self.others(&lost));
        let witness = &world.nodes[*self.random.pick(&left)].name;
        world.admin(left[0], &["node", "label", witness, &format!("{LATER}=yes")], PATIENCE)?.expect(0)?;
        lost.iter().try_for_each(|node| self.lose(*node))?;

        let (file, any) = (backup.file.display().to_string(), world.any_port(restored));
        let args = ["restore", &file, "--name", &world.nodes[restored].name, "--key", &world.key];
        let args = [&args[..], &["--control", &any, "--data-address", &any]].concat();
        let made = world.try_ask(restored, &args, PATIENCE)?.expect(0)?.json()?;
        world.chronicle.note(format!("restored: {made}"));
        ensure!(made["took_the_place_of_another"] == true, "{made}");
        evidence.go_back(backup);
        self.is_here(restored)?;
        let all: Vec<usize> = left.iter().copied().chain([restored]).collect();
        self.all_follow(restored, &all)?;
        for node in all {
            let shown = world.ask(node, &["node", "show", witness], PATIENCE)?;
            ensure!(shown["desired"][LATER].is_null(), "{} has what came after the backup: {shown}", world.nodes[node].name);
        }
        // Whoever was here for that storm only is in the backup.
        remove_strangers(world)?;
        lost.iter().filter(|node| **node != restored).try_for_each(|node| self.join_again(*node, restored))
    }
}
