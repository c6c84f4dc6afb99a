//! What a run is made of: drawn from its seed before it begins, or told by a story.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::faults::draw::{self, Scene};
use crate::faults::{Fault, Planned, When};
use crate::story::Story;
use crate::users::Likes;

/// How long a story may take.
const TOLD_WITHIN: Duration = Duration::from_secs(1_200);
/// How many nodes a cluster has at least.
const FEWEST: usize = 3;
/// Machines whose nodes may join later.
const SPARES: usize = 1;
/// How likely a node beyond these is one that never votes.
const NEVER_VOTES: f64 = 0.4;
/// In how many runs that lost nothing else a majority of the voters is lost in the end.
const DISASTERS: f64 = 0.7;
/// In how many of these the cluster goes on from a backup.
const FROM_BACKUP: f64 = 0.5;
/// How many seconds the users want things, and things go wrong.
const LOAD: std::ops::RangeInclusive<u64> = 20..=60;

/// How a cluster goes on when a majority of its voters is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disaster {
    /// One that is left goes on alone.
    Recovery,
    /// A backup is restored on an empty machine, beside those that are left.
    Backup,
}

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    /// Machines whose nodes may join later.
    pub spares: usize,
    /// Nodes that never vote, by number.
    pub members: BTreeSet<usize>,
    pub users: usize,
    /// Further users, who want little things of the master again and again.
    pub crowd: usize,
    /// How long they want things.
    pub load: Duration,
    pub faults: Vec<Planned>,
    /// What its users like to do: that to which faults are aimed.
    pub likes: Likes,
    /// Whether a majority of the voters is lost in the end, and how it goes on then.
    pub disaster: Option<Disaster>,
    /// What is told in place of what users want by chance.
    pub story: Option<Story>,
}

impl Plan {
    /// The run of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let scene = Scene::draw(&mut rng);
        let (loss, _) = draw::loss_of(seed);
        let mut aimed = draw::steps_of(seed);
        aimed.insert(loss);
        let sizes: &[usize] = match scene {
            Scene::TwoMasters => &[4, 4, 5, 5, 7, 8],
            // One more makes two more voters.
            _ if aimed.contains("voter") => &[4, 4, 4, 6],
            _ => &[3, 3, 3, 3, 3, 4, 5, 5, 5, 7, 8],
        };
        let nodes = *sizes.choose(&mut rng).unwrap_or(&FEWEST);
        let spares = SPARES;
        let all_vote = aimed.contains("standby") || aimed.contains("voter");
        let never_votes = if all_vote { 0.0 } else { NEVER_VOTES };
        let mut members: BTreeSet<usize> = (FEWEST..nodes + spares).filter(|_| rng.random_bool(never_votes)).collect();
        if scene == Scene::TwoMasters {
            members.insert(draw::last(nodes));
        }
        let users = rng.random_range(1..=3);
        let load = Duration::from_secs(rng.random_range(LOAD));
        let faults = draw::draw(&mut rng, seed, scene, nodes, load);
        let likes = likes(&faults, loss);
        let goes_on = if rng.random_bool(FROM_BACKUP) { Disaster::Backup } else { Disaster::Recovery };
        let disaster = rng.random_bool(DISASTERS).then_some(goes_on);
        Self { seed, nodes, spares, members, users, crowd: scene.crowd(), load, faults, likes, disaster, story: None }
    }

    /// The run that tells a story.
    pub fn telling(story: Story) -> Self {
        let (nodes, members, faults, likes) = (story.nodes, story.members.clone(), Vec::new(), Likes::default());
        Self {
            seed: 1,
            nodes,
            spares: 0,
            members,
            users: 0,
            crowd: 0,
            load: TOLD_WITHIN,
            faults,
            likes,
            disaster: None,
            story: Some(story),
        }
    }
}

/// Users like what brings an update to the steps that faults wait for, and most of all to that at which something is to be lost.
fn likes(faults: &[Planned], loss: &str) -> Likes {
    let mut likes = Likes::default();
    for planned in faults {
        match planned.when {
            When::Step { step: "unpersisted" | "persisting" | "persisted", .. } => {
                likes.ephemeral = 0.7;
                likes.persist = 0.9;
            }
            When::Step { step: "paused", .. } => {
                likes.pause = 0.6;
                likes.haste = true;
            }
            When::Step { step: "held", .. } => (likes.hold, likes.unwell) = (0.7, 0.3),
            When::Step { step: "regressing" | "regressed", .. } => {
                likes.regress = 0.3;
                likes.cancel = 0.4;
                likes.unwell = likes.unwell.max(0.3);
                likes.haste = true;
            }
            When::Step { step: "publishing", .. } => likes.publish = 0.4,
            When::Step { step: "standby" | "voter", .. } => likes.members = 0.2,
            _ => {}
        }
    }
    match loss {
        "unpersisted" | "persisting" | "persisted" => {
            (likes.ephemeral, likes.persist) = (0.95, 0.95);
            (likes.cancel, likes.regress, likes.unwell) = (0.05, 0.05, 0.0);
            likes.haste = true;
        }
        "regressing" | "regressed" => (likes.cancel, likes.unwell, likes.hold, likes.ephemeral) = (0.6, 0.4, 0.1, 0.2),
        "paused" => likes.pause = 0.9,
        _ => {}
    }
    // One loss in a run is enough.
    likes.removals = !faults.iter().any(|planned| matches!(planned.fault, Fault::DiskLost { .. }));
    likes
}
