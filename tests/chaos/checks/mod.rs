//! What must hold, each with its sentence: some of it always, some once everything is mended.

mod acceptance;
mod bystander;
mod lost;
mod outcomes;
mod running;
mod whole;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;

use crate::disasters::Backup;
use crate::heard::{Heard, to_wall_clock};
use crate::record::Record;
use crate::told::Told;
use crate::world::World;

pub use bystander::Bystanders;

/// How often what always holds is looked at.
const PAUSE: Duration = Duration::from_millis(1500);

/// Everything that is looked at.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The cluster.
    pub world: &'a World,
    /// What users were told.
    pub told: &'a Told,
    /// What the cluster says.
    pub record: Record,
    /// What processes say.
    pub heard: Heard,
    /// The processes that no update touches.
    pub bystanders: Bystanders,
    /// The updates that had not ended when a backup was made that was restored: they ended twice.
    pub twice: BTreeSet<String>,
    /// What has to be added to a process's time for the master's, in milliseconds.
    pub clock: i64,
}

/// Something that must hold.
struct Invariant {
    sentence: &'static str,
    look: fn(&mut Evidence<'_>) -> Result<()>,
}

/// What is looked at each time that the cluster has answered: then the record is newer than what was heard.
const ALWAYS: [Invariant; 5] = [
    Invariant { sentence: "no process is told two outcomes of one update", look: outcomes::one },
    Invariant { sentence: "no process of an update starts before the update was accepted", look: acceptance::before_anything },
    Invariant { sentence: "an acknowledged submission is never lost, and none is carried out twice", look: lost::submissions },
    Invariant { sentence: "an outcome never changes", look: lost::outcomes },
    Invariant { sentence: "a service that no update touches keeps its process", look: bystander::keeps_its_process },
];

const IN_A_CALM: [Invariant; 5] = [
    Invariant { sentence: "every process that was asked hears the outcome", look: outcomes::all_hear },
    Invariant {
        sentence: "an update is on all of its nodes or on none, unless a user chose otherwise",
        look: whole::each_update,
    },
    Invariant { sentence: "each node has what the updates that ended left there", look: whole::each_node },
    Invariant {
        sentence: "what runs on a node is what `local show` says, and its bytes match their signature",
        look: running::as_shown,
    },
    Invariant { sentence: "an acknowledged package is on most of the voters", look: lost::packages },
];

impl<'a> Evidence<'a> {
    /// Nothing was seen yet.
    pub fn new(world: &'a World, told: &'a Told) -> Self {
        let (record, heard, bystanders) = (Record::default(), Heard::default(), Bystanders::default());
        Self { world, told, record, heard, bystanders, twice: BTreeSet::new(), clock: to_wall_clock() }
    }

    /// The cluster was made again from a backup: what was acknowledged before that counts, and nothing later.
    pub fn go_back(&mut self, to: &Backup) {
        self.bystanders.forget_the_touched(&self.record);
        self.told.go_back(&to.acknowledged, &to.published);
        self.twice.extend(self.record.go_back(to.last_written));
    }

    /// Looks at what always holds, until the storm is over.
    pub fn watch(&mut self) {
        let mut first = 0;
        while !self.world.is_calm() {
            first = (first + 1) % self.world.nodes.len();
            // Without a master there is nothing new.
            let _ = self.look_always(first);
            self.world.sleep(PAUSE);
        }
    }

    /// Looks once at what always holds, asking this node first; fails if the cluster does not answer.
    pub fn look_always(&mut self, first: usize) -> Result<()> {
        // What was told before the look has to be in it.
        if let Err(error) = self.hear() {
            self.world.violated("the test can read what processes write", format!("{error:#}"));
        }
        let acknowledged = self.told.acknowledged();
        self.record.look(self.world, first)?;
        self.record.known_before = acknowledged;
        for invariant in &ALWAYS {
            if let Err(error) = (invariant.look)(self) {
                self.world.violated(invariant.sentence, format!("{error:#}"));
            }
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<()> {
        for node in &self.world.nodes {
            self.heard.look_at_agent(&node.name, &node.data.with_extension("log"))?;
        }
        self.heard.look(self.world.software.logs())
    }

    /// Looks once at what holds when everything is mended and no update is open; gives the first sentence that does not, and what was seen.
    pub fn look_in_a_calm(&mut self) -> Result<(), (&'static str, anyhow::Error)> {
        IN_A_CALM.iter().try_for_each(|invariant| (invariant.look)(self).map_err(|error| (invariant.sentence, error)))
    }
}
