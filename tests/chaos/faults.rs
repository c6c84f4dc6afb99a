//! The hand that breaks things, and mends them when their time is over.
//!
//! One idea: whatever is broken has an entry that says how it is mended, so that nothing stays broken however a storm ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tribune_tests::{Cluster, Host, Node, SmallDisk, processes};

use crate::chronicle::Count;
use crate::damage::Damage;
use crate::random::Random;
use crate::schedule::{Cut, Fault, Part, Place, Planned, Target};
use crate::world::World;

/// How large a disk is that is not full.
pub const ROOM: u64 = 4 << 30;
/// How often it is looked whether something has to be done.
const LOOK: Duration = Duration::from_millis(100);

/// One way between two nodes, by their numbers.
type Way = (usize, usize);

/// Something that is broken.
#[derive(Debug)]
struct Broken {
    what: String,
    until: Instant,
    mending: Mending,
}

/// How it is mended.
#[derive(Debug)]
enum Mending {
    Run(usize),
    Resume { node: usize, agent: u32 },
    Mend(BTreeSet<Way>),
    Still { ways: BTreeSet<Way>, turn: Instant, cut: bool },
    Empty(usize),
    TurnBack(Damage),
}

/// Who breaks things.
#[derive(Debug)]
pub struct Hand<'a> {
    world: &'a World,
    cluster: &'a mut Cluster,
    /// By the number of the node whose data is on it.
    disks: &'a BTreeMap<usize, SmallDisk>,
    hosts: Vec<Host>,
    random: Random,
    broken: Vec<Broken>,
    /// The ways that are cut now.
    cut: BTreeSet<Way>,
}

impl<'a> Hand<'a> {
    /// One that has broken nothing yet.
    pub fn new(world: &'a World, cluster: &'a mut Cluster, disks: &'a BTreeMap<usize, SmallDisk>, random: Random) -> Self {
        let hosts = cluster.nodes.iter().filter_map(|node| node.host().cloned()).collect();
        Self { world, cluster, disks, hosts, random, broken: Vec::new(), cut: BTreeSet::new() }
    }

    /// Carries a schedule out, until it or the storm is over. Nothing is broken any more when this returns.
    pub fn carry_out(&mut self, planned: Vec<Planned>) -> Result<()> {
        let begun = Instant::now();
        let mut planned = VecDeque::from(planned);
        while !(self.world.is_calm() || planned.is_empty() && self.broken.is_empty()) {
            while let Some(next) = planned.pop_front_if(|next| next.at <= begun.elapsed()) {
                self.begin(&next);
            }
            self.keep_up();
            std::thread::sleep(LOOK);
        }
        for broken in std::mem::take(&mut self.broken) {
            self.mend(broken);
        }
        self.wire()
    }

    fn begin(&mut self, planned: &Planned) {
        let text = planned.fault.to_string();
        match self.break_it(&planned.fault) {
            Ok((what, mending)) => {
                self.world.chronicle.count(Count::Faults, planned.fault.kind());
                self.world.chronicle.note(format!("FAULT {text}{what}, for {:?}", planned.lasting));
                let until = Instant::now() + planned.lasting;
                self.broken.extend(mending.map(|mending| Broken { what: text, until, mending }));
            }
            Err(why) => self.world.chronicle.note(format!("left out: {text}: {why:#}")),
        }
    }

    /// Does it; gives what is to be said of it, and how it is mended.
    fn break_it(&mut self, fault: &Fault) -> Result<(String, Option<Mending>)> {
        match fault {
            Fault::Kill(part, target) => self.kill(*part, *target),
            Fault::Pause(target) => {
                let node = self.one_more(*target)?;
                let agent = self.node(node).agent()?.context("it has no agent")?;
                processes::signal(agent, Signal::STOP);
                Ok((self.named(*target, node), Some(Mending::Resume { node, agent })))
            }
            Fault::Cut(cut) => {
                let (what, ways) = self.ways(cut)?;
                let mending = match cut {
                    Cut::Flapping(_) => Mending::Still { ways, turn: Instant::now(), cut: false },
                    Cut::Halves(_) | Cut::Alone(_) | Cut::OneWay(..) => Mending::Mend(ways),
                };
                Ok((what, Some(mending)))
            }
            Fault::FullDisk(node) => {
                let node = self.one_more(Target::Node(*node))?;
                self.disks.get(&node).context("its disk is not ours")?.fill()?;
                Ok((String::new(), Some(Mending::Empty(node))))
            }
            Fault::TurnedBit(place, node) => self.turn_a_bit(*place, *node),
        }
    }

    fn kill(&mut self, part: Part, target: Target) -> Result<(String, Option<Mending>)> {
        if part == Part::Agent {
            let node = self.resolve(target)?;
            self.node(node).kill_agent()?;
            return Ok((self.named(target, node), None));
        }
        let node = self.one_more(target)?;
        match part {
            Part::Agent => {}
            Part::Keeper => self.node(node).kill_keeper()?,
            Part::Both => self.node(node).kill_node_processes()?,
            Part::Everything => {
                let world = self.world;
                world.cut_power(node, self.node(node))?;
            }
        }
        Ok((self.named(target, node), Some(Mending::Run(node))))
    }

    fn turn_a_bit(&mut self, place: Place, node: usize) -> Result<(String, Option<Mending>)> {
        let damaged: BTreeSet<usize> = self.broken.iter().filter_map(|broken| broken.mending.damaged()).collect();
        let minority = self.world.voters().saturating_sub(1) / 2;
        ensure!(damaged.contains(&node) || damaged.len() < minority, "as many nodes are damaged as may be");
        ensure!(!self.broken.iter().any(|broken| broken.mending.impaired() == Some(node)), "it has another fault");
        let data = self.world.nodes[node].data.clone();
        let turned = if place == Place::Raft {
            ensure!(!damaged.contains(&node), "it is damaged");
            ensure!(self.world.nodes[node].data.join("raft/db").exists(), "it is not in Raft");
            self.one_more(Target::Node(node))?;
            self.node(node).kill_node_processes()?;
            let turned = Damage::turn(&mut self.random, node, &data, place);
            self.node(node).begin()?;
            turned?
        } else {
            Damage::turn(&mut self.random, node, &data, place)?
        };
        let damage = turned.context("there is no such file")?;
        Ok((format!(" in {}", damage.file.display()), Some(Mending::TurnBack(damage))))
    }

    /// Mends what is over, and does again what has to be done again.
    fn keep_up(&mut self) {
        let now = Instant::now();
        let (over, mut broken): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.broken).into_iter().partition(|broken| broken.until <= now);
        for one in &mut broken {
            match &mut one.mending {
                Mending::Still { turn, cut, .. } if *turn <= now => {
                    *cut = !*cut;
                    *turn = now + self.random.millis(200, 1_500);
                }
                // What uses it gives room back at times.
                Mending::Empty(node) => drop(self.disks.get(node).map(SmallDisk::fill)),
                _ => {}
            }
        }
        self.broken = broken;
        over.into_iter().for_each(|broken| self.mend(broken));
        if let Err(error) = self.wire() {
            self.world.violated("the test can cut and mend", format!("{error:#}"));
        }
        self.run_what_has_ended();
    }

    fn mend(&mut self, broken: Broken) {
        let what = broken.what;
        let mended = match broken.mending {
            Mending::Run(node) => self.node(node).begin(),
            Mending::Resume { agent, .. } => {
                processes::signal(agent, Signal::CONT);
                Ok(())
            }
            Mending::Empty(node) => self.disks.get(&node).map_or(Ok(()), |disk| disk.resize(ROOM)),
            // The wires are set by what is still broken.
            Mending::Mend(_) | Mending::Still { .. } => Ok(()),
            Mending::TurnBack(damage) => self.turn_back(&damage),
        };
        match mended {
            Ok(()) => self.world.chronicle.note(format!("mended: {what}")),
            Err(error) => self.world.violated("the test can mend what it broke", format!("{what}: {error:#}")),
        }
    }

    fn turn_back(&mut self, damage: &Damage) -> Result<()> {
        if damage.is_mended(&self.world.nodes[damage.node].data) {
            self.world.chronicle.note(format!("the node has put it right itself: {}", damage.file.display()));
            return Ok(());
        }
        if damage.place != Place::Raft {
            return damage.turn_back();
        }
        let was_run = self.node(damage.node).is_run();
        if was_run {
            self.node(damage.node).kill_node_processes()?;
        }
        damage.turn_back()?;
        if was_run { self.node(damage.node).begin() } else { Ok(()) }
    }

    /// A keeper that ended by itself is run again, as the machine's init does.
    fn run_what_has_ended(&mut self) {
        for number in 0..self.cluster.nodes.len() {
            if let Ok(Some(status)) = self.node(number).has_ended() {
                self.world.chronicle.note(format!("n{} ended by itself with {status}, and is run again", number + 1));
                if let Err(error) = self.node(number).begin() {
                    self.world.violated("the test can run a node", format!("{error:#}"));
                }
            }
        }
    }

    /// Brings the wires to what is broken now.
    fn wire(&mut self) -> Result<()> {
        let wanted: BTreeSet<Way> = self.broken.iter().filter_map(|broken| broken.mending.cut()).flatten().copied().collect();
        for (from, to) in wanted.difference(&self.cut) {
            self.hosts[*from].cut_to(&self.hosts[*to])?;
        }
        for (from, to) in self.cut.difference(&wanted) {
            self.hosts[*from].mend_to(&self.hosts[*to])?;
        }
        self.cut = wanted;
        Ok(())
    }

    fn ways(&self, cut: &Cut) -> Result<(String, BTreeSet<Way>)> {
        ensure!(!self.hosts.is_empty(), "the nodes are on one machine");
        let apart = |side: &BTreeSet<usize>| -> BTreeSet<Way> {
            let others = (0..self.hosts.len()).filter(|node| !side.contains(node));
            others.flat_map(|other| side.iter().flat_map(move |one| [(*one, other), (other, *one)])).collect()
        };
        Ok(match cut {
            Cut::Halves(side) => (String::new(), apart(side)),
            Cut::Alone(target) | Cut::Flapping(target) => {
                let node = self.resolve(*target)?;
                (self.named(*target, node), apart(&BTreeSet::from([node])))
            }
            Cut::OneWay(from, to) => (String::new(), BTreeSet::from([(*from, *to)])),
        })
    }

    fn node(&mut self, number: usize) -> &mut Node {
        &mut self.cluster.nodes[number]
    }

    fn resolve(&self, target: Target) -> Result<usize> {
        match target {
            Target::Node(node) => Ok(node),
            Target::Master => self.world.master().context("there is no master"),
        }
    }

    /// Who is meant, if one more node may be impaired.
    fn one_more(&self, target: Target) -> Result<usize> {
        let node = self.resolve(target)?;
        let impaired: BTreeSet<usize> = self.broken.iter().filter_map(|broken| broken.mending.impaired()).collect();
        ensure!(!impaired.contains(&node), "it has another fault");
        let minority = self.cluster.nodes.len().saturating_sub(1) / 2;
        ensure!(impaired.len() < minority, "as many nodes are impaired as may be");
        Ok(node)
    }

    fn named(&self, target: Target, node: usize) -> String {
        if target == Target::Master { format!(", which is {}", self.world.nodes[node].name) } else { String::new() }
    }
}

impl Mending {
    /// The node that does not work because of it.
    fn impaired(&self) -> Option<usize> {
        match self {
            Mending::Run(node) | Mending::Resume { node, .. } | Mending::Empty(node) => Some(*node),
            Mending::TurnBack(damage) => (damage.place == Place::Raft).then_some(damage.node),
            Mending::Mend(_) | Mending::Still { .. } => None,
        }
    }

    /// The node that may have lost what it had.
    fn damaged(&self) -> Option<usize> {
        if let Mending::TurnBack(damage) = self { Some(damage.node) } else { None }
    }

    fn cut(&self) -> Option<&BTreeSet<Way>> {
        match self {
            Mending::Mend(ways) | Mending::Still { ways, cut: true, .. } => Some(ways),
            _ => None,
        }
    }
}
