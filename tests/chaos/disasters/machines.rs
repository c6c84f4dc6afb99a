//! How a machine is lost for good, and how another one comes in its place.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{FOLLOWED_WITHIN, PATIENCE, Worst};
use crate::calm::within;

impl Worst<'_> {
    /// Loses a machine with everything on its disk. A copy of that is put aside.
    pub(super) fn lose(&mut self, number: usize) -> Result<()> {
        let node = &mut self.cluster.nodes[number];
        self.world.cut_power(number, node)?;
        let aside = node.data.with_file_name(format!("{}-lost-{}", node.name, self.lost.len()));
        let copied = Command::new("cp").arg("-a").args([&node.data, &aside]).status().context("running cp")?;
        ensure!(copied.success(), "{} cannot be copied", node.data.display());
        // The folder may be where a disk is mounted: it stays.
        empty(&node.data)?;
        self.world.chronicle.note(format!("{} is lost for good", node.name));
        self.lost.push(node.beside(aside));
        Ok(())
    }

    /// Another machine takes the place of one that is lost; it is let in by this node.
    pub(super) fn join_again(&mut self, number: usize, by: usize) -> Result<()> {
        let world = self.world;
        let (name, any) = (&world.nodes[number].name, world.any_port(number));
        let file = world.folder().join("token");
        let token = file.display().to_string();
        world.admin(by, &["token", "create", "--node", name, "--token-file", &token], PATIENCE)?.expect(0)?;
        let args = ["join", "--replace", name, "--peer", &world.address(by), "--token-file", &token];
        let args = [&args[..], &["--control", &any, "--data-address", &any]].concat();
        world.try_ask(number, &args, PATIENCE)?.expect(0)?;
        fs::remove_file(file)?;
        self.is_here(number)?;
        world.chronicle.note(format!("another machine is {name}"));
        Ok(())
    }

    /// Runs what was put in the place of a machine that is lost.
    pub(super) fn is_here(&mut self, number: usize) -> Result<()> {
        self.cluster.nodes[number].run()?;
        self.world.has_moved(number, &self.cluster.nodes[number])
    }

    /// Waits until these nodes have one for their master.
    pub(super) fn all_follow(&self, master: usize, nodes: &[usize]) -> Result<()> {
        let name = &self.world.nodes[master].name;
        within(self.world, FOLLOWED_WITHIN, || {
            for node in nodes {
                let status = self.world.ask(*node, &["status"], PATIENCE)?;
                ensure!(status["master"] == name.as_str(), "{} does not follow {name}: {status}", self.world.nodes[*node].name);
            }
            Ok(())
        })
    }

    /// The numbers of all nodes but these.
    pub(super) fn others(&self, than: &[usize]) -> Vec<usize> {
        (0..self.world.nodes.len()).filter(|node| !than.contains(node)).collect()
    }

    /// Some nodes by name, for the chronicle.
    pub(super) fn names(&self, nodes: &[usize]) -> String {
        nodes.iter().map(|node| self.world.nodes[*node].name.as_str()).collect::<Vec<_>>().join(" ")
    }
}

fn empty(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}
