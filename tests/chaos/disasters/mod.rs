//! The worst, after a calm: machines that are lost for good, with a majority of the voters among them, and a cluster that is made again
//! from a backup.
//!
//! One idea: what the manual says is done, and the cluster is whole again: then what must hold in any calm is looked at.
//!
//! - [`backup`]: a backup that is taken under load, and restored beside who is left;
//! - [`majority`]: one who is left goes on alone, and the others follow it;
//! - [`machines`]: how a machine is lost, and how another comes in its place;
//! - [`found`]: the disks of those that were lost are found, and started again.

mod backup;
mod found;
mod machines;
mod majority;

use std::time::{Duration, Instant};

use anyhow::Result;
use tribune_tests::{Cluster, Node};

use crate::calm;
use crate::checks::Evidence;
use crate::chronicle::say;
use crate::random::Random;
use crate::world::World;

pub use backup::Backup;

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How soon who is left follows the only voter there is.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(30);

const RESTORED: &str = "a cluster goes on from a backup, and what is left of it follows";
const RECOVERED: &str = "a cluster whose majority is lost for good goes on from one survivor, and who is left follows";
const FENCED: &str = "a machine that was lost for good and is found again changes nothing";

/// Who loses machines, and does what the manual says then.
struct Worst<'a> {
    cluster: &'a mut Cluster,
    world: &'a World,
    random: Random,
    /// What was on the disks of those that are lost.
    lost: Vec<Node>,
}

/// One disaster after the other. The cluster is whole again when this returns, or something does not hold.
pub fn strike(cluster: &mut Cluster, evidence: &mut Evidence<'_>, voters: usize, backup: Option<Backup>, random: Random) {
    let world = evidence.world;
    let mut worst = Worst { cluster, world, random, lost: Vec::new() };
    let mut step = |sentence, step: &mut dyn FnMut(&mut Worst<'_>, &mut Evidence<'_>) -> Result<()>| {
        if world.violation().is_some() {
            return;
        }
        let begun = Instant::now();
        match step(&mut worst, evidence) {
            Ok(()) if world.violation().is_some() => {}
            Ok(()) => {
                let said = format!("{sentence}: after {:.1} s", begun.elapsed().as_secs_f64());
                world.chronicle.note(&said);
                say(&said);
            }
            Err(error) => world.violated(sentence, format!("{error:#}")),
        }
    };
    step(RESTORED, &mut |worst, evidence| {
        let backup = backup.clone().map_or_else(|| Backup::take(world, evidence.told, 0), Ok)?;
        worst.restore(evidence, &backup)?;
        calm::after_a_disaster(evidence, voters);
        Ok(())
    });
    step(RECOVERED, &mut |worst, evidence| {
        worst.lose_a_majority()?;
        calm::after_a_disaster(evidence, voters);
        Ok(())
    });
    step(FENCED, &mut |worst, _| worst.find_what_was_lost());
}
