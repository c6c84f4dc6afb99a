//! A node that joins in the middle of a storm, takes part in an update, and is removed for good; all under load.
//!
//! One idea: it is none of the nodes that are looked at in a calm, so by then it has to be gone, and leave nothing open.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tribune_tests::Node;

use crate::calm::within;
use crate::chronicle::Count;
use crate::random::Random;
use crate::software::{CHAIN, VERSIONS};
use crate::told::{PATIENCE, Told};
use crate::world::World;

/// How long one that was let in, or is to leave, waits for an answer. A voter is replaced first.
const LONG: Duration = Duration::from_secs(30);
/// How soon it is gone when the storm is over, and knows it.
const GONE_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// A node that is here for one storm.
#[derive(Debug)]
pub struct Guest {
    /// It runs on the host of one of the others.
    node: Node,
    random: Random,
    joined: bool,
}

impl Guest {
    /// One that did not join yet, beside a node of the cluster.
    pub fn beside(world: &World, node: &Node, storm: u64, random: Random) -> Self {
        let name = format!("guest{storm}");
        let mut node = node.beside(world.folder().join(&name));
        node.name = name;
        Self { node, random, joined: false }
    }

    /// Joins, takes part, and is removed, as far as the storm lets it.
    pub fn come_and_go(mut self, world: &World, told: &Told, host: usize, length: Duration) -> Self {
        let before = self.random.part(length, 5, 25);
        world.sleep(before);
        let stays = self.random.part(length, 5, 25);
        if let Err(error) = self.stay(world, told, host, stays) {
            world.chronicle.note(format!("{}: {error:#}", self.node.name));
        }
        self
    }

    fn stay(&mut self, world: &World, told: &Told, host: usize, stays: Duration) -> Result<()> {
        let name = self.node.name.clone();
        let file = world.folder().join(format!("{name}-token"));
        let token = file.display().to_string();
        self.insist(world, "is given a token", |world, at| {
            let made = world.admin(at, &["token", "create", "--node", &name, "--token-file", &token], PATIENCE)?;
            Ok(made.code == 0 && file.exists())
        })?;
        let (data, any, within) = (self.node.data.display().to_string(), world.any_port(host), format!("{}s", LONG.as_secs()));
        self.insist(world, "joins", |world, at| {
            let args = ["join", "--name", &name, "--data", &data, "--peer", &world.address(at), "--token-file", &token];
            let further = ["--control", &any, "--data-address", &any, "--timeout", &within];
            Ok(world.run_on(host, &[&args[..], &further].concat())?.code == 0)
        })?;
        self.joined = true;
        world.chronicle.count(Count::Orders, "join");
        self.node.begin()?;
        self.insist(world, "is given software", |world, at| {
            let mut args: Vec<String> = ["update", "submit", "--node", &name, "--strategy", "together"].map(Into::into).to_vec();
            args.extend(CHAIN.iter().flat_map(|(package, ..)| ["--package".into(), format!("{package}@{}", VERSIONS[0])]));
            Ok(told.submit(world, at, &args.iter().map(String::as_str).collect::<Vec<_>>())?.is_some())
        })?;
        world.sleep(stays);
        self.insist(world, "is removed", |world, at| Ok(world.admin(at, &["node", "remove", &name], LONG)?.code == 0))?;
        world.chronicle.count(Count::Orders, "node remove");
        Ok(())
    }

    /// Tries something at one node after the other, until it is done or the storm is over.
    fn insist(&mut self, world: &World, what: &str, attempt: impl Fn(&World, usize) -> Result<bool>) -> Result<()> {
        while !world.is_calm() {
            let at = self.random.below(world.nodes.len());
            if attempt(world, at)? {
                world.chronicle.note(format!("{} {what}, by n{}", self.node.name, at + 1));
                return Ok(());
            }
            world.sleep(PAUSE);
        }
        anyhow::bail!("the storm was over before it {what}")
    }

    /// Once the storm is over it is removed, if it was not yet; it knows that.
    pub fn see_off(mut self, world: &World) -> Result<()> {
        if world.violation().is_some() {
            return Ok(());
        }
        within(world, GONE_WITHIN, || remove_strangers(world))?;
        if self.joined {
            within(world, GONE_WITHIN, || {
                let status = self.node.json(&["status"])?;
                ensure!(status["problems"].to_string().contains("removed from the cluster"), "{status}");
                Ok(())
            })?;
            let asked = self.node.cli(&["node", "list"])?;
            ensure!(asked.code != 0 && asked.stderr.contains("removed from the cluster"), "{asked:?}");
        }
        self.node.kill_all()?;
        if self.node.data.exists() {
            fs::remove_dir_all(&self.node.data)?;
        }
        Ok(())
    }
}

/// Removes every node that is none of the cluster's own.
pub fn remove_strangers(world: &World) -> Result<()> {
    let list = world.ask_any(0, &["node", "list"], PATIENCE)?;
    let names = list["items"].as_array().context("no items")?.iter().filter_map(|node| node["name"].as_str());
    for name in names.filter(|name| world.number(name).is_none()) {
        world.admin(0, &["node", "remove", name], LONG)?.expect(0)?;
        world.chronicle.note(format!("{name} is removed"));
    }
    Ok(())
}
